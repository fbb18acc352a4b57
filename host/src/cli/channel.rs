//! Messages, and descriptors beside them, between `sluicegate` and the process it starts inside a
//! guest's namespaces. Owns how they travel (a `SOCK_SEQPACKET` pair, so a message is whole or not
//! there); must not know what they mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// A message's bytes are cut to this many.
const MESSAGE_BYTES_MAX: usize = 4096;

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Two ends of a new channel.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// The end that somebody else made, `descriptor`.
    pub(super) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// The descriptor, to pass on to a new process.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends `message` and perhaps a descriptor; does not wait.
    pub(super) fn send(&self, message: &[u8], beside: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let message = &message[..message.len().min(MESSAGE_BYTES_MAX)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptor) = &beside {
            control.push(SendAncillaryMessage::ScmRights(core::slice::from_ref(descriptor)));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let bytes = [IoSlice::new(message)];
        retry_on_intr(|| rustix::net::sendmsg(self.0.as_fd(), &bytes, &mut control, flags))?;
        Ok(())
    }

    /// Receives the next message and the descriptor beside it. An empty message: the other end is
    /// closed. Waits for `wait` at most.
    pub(super) fn receive(&self, wait: Duration) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(wait))?;
        let mut message = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            let bytes = &mut [IoSliceMut::new(&mut message)];
            rustix::net::recvmsg(&self.0, bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        message.truncate(received.bytes);
        let beside = control.drain().find_map(|part| {
            let RecvAncillaryMessage::ScmRights(mut descriptors) = part else {
                return None;
            };
            descriptors.next()
        });
        Ok((message, beside))
    }
}
