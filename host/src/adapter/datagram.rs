//! A guest's link over a Unix datagram socket: a frame a datagram, as QEMU's `-netdev dgram` and
//! vfkit speak it.
//!
//! Owns the socket and who its peer is: whoever sent last. A peer must be bound to a path, or it
//! can't be answered. Served by the driver thread itself; a frame crosses at one call.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketAddrUnix, recvfrom};
use sluicegate_core::limits::{ETHERNET_HEADER_BYTES, FRAME_BYTES_MAX};
use sluicegate_core::{Cut, FrameBudget, Offload, Piece, Record};
use socket2::{SockAddr, SockRef, Type};

use super::socket::{SocketPath, bind};
use super::{GuestLink, LostFrames};
use crate::rings::{RingConsumer, RingProducer};

/// Bytes that the kernel holds of frames for a slow reader.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// A datagram link.
#[derive(Debug)]
pub struct DatagramLink {
    socket: UnixDatagram,
    peer: Option<SockAddr>,
    /// A frame that was read from the ring, and what of it the peer has yet to take.
    unsent: Option<(Record, Cut)>,
    lost: LostFrames,
    _path: SocketPath,
}

/// What became of a frame that was sent.
enum Sent {
    Whole,
    Dropped,
    NotNow,
}

impl DatagramLink {
    /// A socket at `path`, which only this user may send to. What is left there of a socket that
    /// nobody has gives way; the path is removed when the link goes.
    ///
    /// # Errors
    /// The path is taken, or its folder may not be written.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let (socket, path) = bind(path, Type::DGRAM)?;
        let socket = UnixDatagram::from(socket);
        // What the system gives is enough.
        let _ = SockRef::from(&socket).set_send_buffer_size(QUEUE_BYTES);
        let _ = SockRef::from(&socket).set_recv_buffer_size(QUEUE_BYTES);
        Ok(Self { socket, peer: None, unsent: None, lost: LostFrames::default(), _path: path })
    }

    fn send_piece(&mut self, piece: &Piece<'_>) -> io::Result<Sent> {
        let Some(peer) = &self.peer else { return Ok(Sent::Dropped) };
        let parts = [IoSlice::new(piece.headers()), IoSlice::new(piece.payload)];
        loop {
            match SockRef::from(&self.socket).send_to_vectored(&parts, peer) {
                Ok(_) => return Ok(Sent::Whole),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::NotNow),
                Err(error) => {
                    // It has gone; the next is whoever sends.
                    tracing::debug!(%error, "the peer takes no frames");
                    self.peer = None;
                    return Ok(Sent::Dropped);
                }
            }
        }
    }

    /// Sends what is left of a frame; `NotNow` leaves what the peer did not take.
    fn send_rest(&mut self, frame: &[u8], cut: &mut Cut) -> io::Result<Sent> {
        let mut whole = Sent::Whole;
        let mut ahead = *cut;
        while let Some(piece) = ahead.next(frame) {
            match self.send_piece(&piece)? {
                Sent::Whole => {}
                Sent::Dropped => whole = Sent::Dropped,
                Sent::NotNow => return Ok(Sent::NotNow),
            }
            *cut = ahead;
        }
        Ok(whole)
    }
}

impl GuestLink for DatagramLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// # Cost
    /// One call a frame, straight into the ring, and one that finds nothing.
    fn receive(
        &mut self,
        from_guest: &mut RingProducer,
        mut budget: FrameBudget,
    ) -> io::Result<bool> {
        while !budget.is_spent() {
            let Some(space) = from_guest.reserve(FRAME_BYTES_MAX) else { return Ok(true) };
            match recvfrom(&self.socket, space, RecvFlags::TRUNC) {
                Ok((_, len, from)) => {
                    budget.take(len);
                    let from = from.and_then(|from| SocketAddrUnix::try_from(from).ok());
                    let path = from.as_ref().and_then(|from| from.path());
                    if let Some(path) = path {
                        let path = OsStr::from_bytes(path.to_bytes());
                        self.peer = SockAddr::unix(path).ok().or_else(|| self.peer.take());
                    }
                    if len > FRAME_BYTES_MAX {
                        self.lost.too_long += 1;
                    } else if len < ETHERNET_HEADER_BYTES {
                        self.lost.short += 1;
                    } else {
                        from_guest.commit(len, Offload::NONE);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// # Cost
    /// One call a frame.
    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        let next = |to_guest: &mut RingConsumer| {
            to_guest.read().map(|record| (record, Cut::new(record.len(), record.offload)))
        };
        while let Some((record, mut cut)) = self.unsent.take().or_else(|| next(to_guest)) {
            match self.send_rest(to_guest.bytes(&record), &mut cut)? {
                Sent::Whole => {}
                Sent::Dropped => {
                    self.lost.link_full += 1;
                }
                Sent::NotNow => {
                    self.unsent = Some((record, cut));
                    return Ok(true);
                }
            }
            to_guest.release();
        }
        Ok(false)
    }

    fn lost_frames(&self) -> LostFrames {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rings::HeapRing;
    use sluicegate_core::{FrameRing, limits};

    #[test]
    fn a_datagram_that_is_longer_than_any_frame_is_dropped_whole_and_counted() {
        let folder = std::env::temp_dir();
        let path = |name: &str| folder.join(format!("sluicegate-{}-{name}", std::process::id()));
        let (ours, theirs) = (path("long-ours"), path("long-theirs"));
        let _ = std::fs::remove_file(&theirs);
        let mut link = DatagramLink::bind(&ours).unwrap();
        let machine = UnixDatagram::bind(&theirs).unwrap();
        SockRef::from(&machine).set_send_buffer_size(QUEUE_BYTES).unwrap();
        let bytes = vec![0; limits::RING_BYTES_DEFAULT];
        let (mut from_guest, mut frames) = FrameRing::split(Arc::new(HeapRing::new(bytes.into())));
        for len in [FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX, ETHERNET_HEADER_BYTES - 1] {
            assert_eq!(machine.send_to(&vec![7; len], &ours).unwrap(), len);
        }
        link.socket.set_nonblocking(true).unwrap();
        assert!(!link.receive(&mut from_guest, FrameBudget::new(10, usize::MAX)).unwrap());
        let lens: Vec<usize> =
            std::iter::from_fn(|| frames.read()).map(|record| record.len()).collect();
        assert_eq!(lens, [FRAME_BYTES_MAX]);
        assert_eq!(link.lost_frames(), LostFrames { link_full: 0, short: 1, too_long: 1 });
        assert_eq!(link.peer.as_ref().and_then(SockAddr::as_pathname), Some(theirs.as_path()));
        std::fs::remove_file(&theirs).unwrap();
    }
}
