//! One UDP or echo association with the outside: a socket of its own, connected to the destination,
//! so that the kernel delivers nothing that did not come from there.
//!
//! Rows of UDP datagrams of one size cross the socket in one call each, as far as the kernel has it
//! (`UDP_SEGMENT` since Linux 4.18, `UDP_GRO` since 5.0). The size is a property of the socket,
//! set when it changes: a control message would be made anew for every call.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mio::Interest;
use mio::unix::SourceFd;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::SendFlags;
use sluicegate_core::limits::UDP_ROW_DATAGRAMS_MAX;
use sluicegate_core::{DatagramKind, Event, FlowId, Instant, Refusal};
use socket2::{Protocol, Socket, Type};

use super::row::{Inbox, datagrams};
use super::socket::Opener;
use super::{HostEngine, Served, socket, token};

/// Times that one flow may ask its socket for datagrams in one turn.
const TURN_RECEIVES_MAX: usize = 128;

pub(super) struct DatagramFlow {
    id: FlowId,
    socket: Socket,
    kind: DatagramKind,
    /// The longest datagrams that the kernel was not seen to refuse in a row.
    segment_bytes_max: u16,
    /// What the socket cuts longer payloads into; 0: nothing.
    segment_bytes: u16,
    /// Datagrams that the socket had no room for, and that are yet to be counted.
    lost: u64,
}

impl DatagramFlow {
    /// Opens a socket to `address`.
    ///
    /// # Errors
    /// What the guest is told.
    pub(super) fn open(
        id: FlowId,
        kind: DatagramKind,
        address: SocketAddr,
        opener: Opener<'_>,
    ) -> Result<Self, Refusal> {
        let protocol = match kind {
            DatagramKind::Udp => None,
            DatagramKind::Echo if address.is_ipv4() => Some(Protocol::ICMPV4),
            DatagramKind::Echo => Some(Protocol::ICMPV6),
        };
        let opened = || {
            let socket = opener.outbound.socket(address, Type::DGRAM, protocol)?;
            socket.connect(&address.into())?;
            let fd = socket.as_raw_fd();
            opener.registry.register(&mut SourceFd(&fd), token(id), Interest::READABLE)?;
            Ok(socket)
        };
        let socket = opened().map_err(|error: io::Error| socket::refusal(&error))?;
        if kind == DatagramKind::Udp {
            // A kernel that has it not gives datagrams one by one.
            let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        }
        Ok(Self { id, socket, kind, segment_bytes_max: u16::MAX, segment_bytes: 0, lost: 0 })
    }

    /// Sends one datagram, or a row of datagrams of `segment_bytes` each, of which the last may be
    /// shorter. A full socket drops them, as the network may; see [`take_lost`](Self::take_lost).
    ///
    /// # Errors
    /// What the guest is told of these datagrams, or of an earlier one.
    pub(super) fn send(&mut self, payload: &[u8], segment_bytes: u16) -> Result<(), Refusal> {
        let bytes = usize::from(segment_bytes);
        if bytes == 0 || payload.len() <= bytes {
            return self.send_one(payload);
        }
        let mut first = Ok(());
        for row in payload.chunks(bytes * UDP_ROW_DATAGRAMS_MAX) {
            // Whatever becomes of one, the next has its own fate.
            first = first.and(self.send_row(row, segment_bytes));
        }
        first
    }

    fn send_row(&mut self, row: &[u8], segment_bytes: u16) -> Result<(), Refusal> {
        let mut earlier = Ok(());
        if segment_bytes <= self.segment_bytes_max && self.cut_into(segment_bytes) {
            let sent;
            (earlier, sent) = self.offer(row);
            match sent {
                Ok(()) => return earlier,
                // Longer than the path takes uncut; shorter ones may do.
                Err(Errno::MSGSIZE) => self.segment_bytes_max = segment_bytes - 1,
                // A device that can't finish checksums, or a transform on the way.
                Err(Errno::INVAL | Errno::IO) => self.segment_bytes_max = 0,
                Err(errno) => return earlier.and(Err(self.refusal(errno))),
            }
        }
        self.cut_nothing();
        for one in row.chunks(segment_bytes.into()) {
            earlier = earlier.and(self.send_one(one));
        }
        earlier
    }

    fn send_one(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        if payload.len() > usize::from(self.segment_bytes) {
            self.cut_nothing();
        }
        let (earlier, sent) = self.offer(payload);
        match sent {
            Ok(()) => earlier,
            // A socket that cuts holds even one datagram to what goes for a row.
            Err(Errno::MSGSIZE | Errno::INVAL | Errno::IO) if self.segment_bytes > 0 => {
                self.cut_nothing();
                earlier.and(self.send_one(payload))
            }
            Err(errno) => earlier.and(Err(self.refusal(errno))),
        }
    }

    /// Lets the socket cut longer payloads into datagrams of `segment_bytes`; false: it can't.
    fn cut_into(&mut self, segment_bytes: u16) -> bool {
        if self.segment_bytes != segment_bytes {
            let set = setsockopt(&self.socket, sockopt::UdpGsoSegment, &segment_bytes.into());
            if set.is_err() {
                self.segment_bytes_max = 0;
                return false;
            }
            self.segment_bytes = segment_bytes;
        }
        true
    }

    fn cut_nothing(&mut self) {
        if self.segment_bytes > 0 {
            // What was set can be unset.
            let _ = setsockopt(&self.socket, sockopt::UdpGsoSegment, &0);
            self.segment_bytes = 0;
        }
    }

    /// Gives the kernel `payload`; returns the fate of an earlier one that it reported, and that of
    /// this one.
    fn offer(&mut self, payload: &[u8]) -> (Result<(), Refusal>, rustix::io::Result<()>) {
        match self.offer_once(payload) {
            // The kernel reports an earlier datagram's fate in place of sending this one.
            Err(Errno::CONNREFUSED) => (Err(Refusal::Refused), self.offer_once(payload)),
            sent => (Ok(()), sent),
        }
    }

    fn offer_once(&mut self, payload: &[u8]) -> rustix::io::Result<()> {
        let send = || rustix::net::send(&self.socket, payload, SendFlags::empty());
        match retry_on_intr(send) {
            Ok(_) => Ok(()),
            Err(errno) if socket::is_full(&errno.into()) => {
                self.lost += datagrams(payload, self.segment_bytes).count() as u64;
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// How many datagrams the socket had no room for since this was last asked.
    pub(super) fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    /// What the guest is told of `errno`.
    fn refusal(&self, errno: Errno) -> Refusal {
        match errno {
            Errno::MSGSIZE => Refusal::TooBig { mtu: self.path_mtu() },
            errno => socket::refusal(&errno.into()),
        }
    }

    /// What the kernel knows of the path, in bytes of IP packet.
    fn path_mtu(&self) -> u32 {
        let known = rustix::net::sockopt::ipv6_mtu(&self.socket)
            .or_else(|_| rustix::net::sockopt::ip_mtu(&self.socket));
        // The least that any path takes (RFC 8200 5), where the kernel does not say.
        known.unwrap_or(1280)
    }

    /// Delivers what has come back, within the flow's budget; `inbox` is empty.
    pub(super) fn serve(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        inbox: &mut Inbox,
    ) -> Served {
        let mut left = engine.turn_max().flow_bytes;
        for _ in 0..TURN_RECEIVES_MAX {
            if inbox.is_empty() && !engine.can_deliver(now) {
                return Served::NoRoom;
            }
            match self.receive(inbox) {
                Ok(len) => {
                    left = left.saturating_sub(len);
                    if inbox.is_complete() && !inbox.deliver(engine, now) {
                        return Served::NoRoom;
                    }
                    if left == 0 {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if inbox.deliver(engine, now) => return Served::Waits,
                Err(Errno::AGAIN) => return Served::NoRoom,
                Err(errno) => {
                    let refusal = socket::refusal(&errno.into());
                    engine.handle(now, Event::DatagramFailed { flow: self.id, refusal });
                }
            }
        }
        if inbox.deliver(engine, now) { Served::Again } else { Served::NoRoom }
    }

    /// Receives a datagram or a row; returns its length.
    fn receive(&self, inbox: &mut Inbox) -> rustix::io::Result<usize> {
        let (space, control) = inbox.space();
        let mut space = [IoSliceMut::new(space)];
        let received =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut space, Some(control), MsgFlags::empty());
        let received = received.map_err(|e| Errno::from_raw_os_error(e as i32))?;
        let mut segment_bytes = 0;
        for message in received.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::UdpGroSegments(bytes) = message {
                segment_bytes = u16::try_from(bytes).unwrap_or(0);
            }
        }
        let len = received.bytes;
        inbox.add(self.id, self.kind, len, segment_bytes);
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
