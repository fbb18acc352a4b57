//! A guest's link over a Unix stream socket: each Ethernet frame behind its length, four bytes, the
//! highest first. QEMU's `-netdev stream`, libkrun's unixstream and passt's clients speak this.
//!
//! Owns the socket, and who may be connected: one peer at a time, whoever comes meanwhile is closed
//! at once, and when the peer has gone the next may come. Must not know what frames hold. A peer is
//! not trusted: a length that no frame has ends its connection.
//!
//! Served by the driver thread itself. Its descriptor is an epoll of its own, as there are two to
//! watch: the listener and the peer. Many frames cross at a call, in a buffer each way: one copy
//! more than a TAP's, for a call a frame less. Frames for nobody are dropped, as on a cable that is
//! pulled out.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::epoll::{self, EventData, EventFlags};
use sluicegate_core::limits::{ETHERNET_HEADER_BYTES, FRAME_BYTES_MAX};
use sluicegate_core::{Cut, FrameBudget, Offload};
use socket2::Type;

use super::socket::{SocketPath, bind};
use super::{GuestLink, LostFrames};
use crate::rings::{RingConsumer, RingProducer};

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 4;
/// Bytes of the buffer each way: more than two of the longest frames.
const BUFFER_BYTES: usize = 256 * 1024;
/// Peers that may wait to be let in, or turned away.
const QUEUE_MAX: i32 = 16;
/// Peers that one look at the listener takes or turns away.
const ACCEPTS_MAX: usize = 16;

const LISTENER: u64 = 0;
const PEER: u64 = 1;

/// A stream link: a socket that peers come to, or one that is connected.
#[derive(Debug)]
pub struct StreamLink {
    epoll: OwnedFd,
    listener: Option<UnixListener>,
    peer: Option<Peer>,
    /// A descriptor that is kept for the next peer, while there is none: flows may take all others.
    spare: Option<File>,
    /// The link ends with its peer.
    is_one_shot: bool,
    counts: Arc<StreamCounts>,
    /// Removes the socket's path at the end.
    _path: Option<SocketPath>,
}

/// What a link has counted; readable from any thread while the driver owns the link.
#[derive(Debug, Default)]
pub struct StreamCounts {
    /// Peers that were connected.
    pub peers: AtomicU64,
    /// Peers that came while another was there, and were closed.
    pub turned_away: AtomicU64,
    /// Peers whose connection ended because of what they sent.
    pub offenders: AtomicU64,
    /// Frames for the guest when no peer was there.
    pub dropped: AtomicU64,
}

impl StreamLink {
    /// Listens at `path`, which only this user may connect to. What is left there of a socket that
    /// nobody listens on gives way; the path is removed when the link goes.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the folder may not be written.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let (socket, path) = bind(path, Type::STREAM)?;
        socket.listen(QUEUE_MAX)?;
        let listener = UnixListener::from(socket);
        let mut link = Self::new(Some(path))?;
        epoll::add(&link.epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        link.listener = Some(listener);
        link.spare = File::open("/dev/null").ok();
        Ok(link)
    }

    /// Serves the peer behind `stream`; the link ends with it.
    ///
    /// # Errors
    /// It is no socket that can be watched.
    pub fn connected(stream: UnixStream) -> io::Result<Self> {
        let mut link = Self::new(None)?;
        link.is_one_shot = true;
        link.welcome(stream)?;
        Ok(link)
    }

    fn new(path: Option<SocketPath>) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener: None,
            peer: None,
            spare: None,
            is_one_shot: false,
            counts: Arc::default(),
            _path: path,
        })
    }

    /// The link ends when its first peer has gone, and its network with an error that says so
    /// ([`is_guest_gone`](crate::Error::is_guest_gone)).
    #[must_use]
    pub fn one_shot(mut self) -> Self {
        self.is_one_shot = true;
        self
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> Arc<StreamCounts> {
        Arc::clone(&self.counts)
    }

    /// Takes note of what the epoll has seen. True: there may be more.
    fn look(&mut self) -> io::Result<bool> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 4];
        let (seen, _) =
            epoll::wait(&self.epoll, &mut events, Some(&rustix::time::Timespec::default()))?;
        let (mut knocks, mut news) = (false, false);
        for event in seen {
            if event.data.u64() == LISTENER {
                knocks = true;
            } else {
                news = true;
            }
        }
        if news && let Some(peer) = &mut self.peer {
            (peer.is_readable, peer.is_writable) = (true, true);
        }
        if knocks { self.accept() } else { Ok(false) }
    }

    /// Lets the next peer in, and turns others away. True: more may wait.
    fn accept(&mut self) -> io::Result<bool> {
        let has_more = self.accept_some();
        if self.peer.is_none() && self.listener.is_some() && self.spare.is_none() {
            self.spare = File::open("/dev/null").ok();
        }
        has_more
    }

    fn accept_some(&mut self) -> io::Result<bool> {
        for _ in 0..ACCEPTS_MAX {
            if self.peer.is_none() {
                // What was kept for it is its own.
                self.spare = None;
            }
            let accepted = self.listener.as_ref().map(UnixListener::accept);
            match accepted {
                None => return Ok(false),
                Some(Ok((stream, _))) if self.peer.is_none() => self.welcome(stream)?,
                Some(Ok(_)) => {
                    self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("a second peer was turned away: the link has one already");
                }
                // Descriptors may be short for now; the listener stays.
                Some(Err(error)) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        tracing::warn!(%error, "a peer could not be let in");
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn welcome(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &stream, EventData::new_u64(PEER), flags)?;
        self.counts.peers.fetch_add(1, Ordering::Relaxed);
        self.peer = Some(Peer::new(stream));
        Ok(())
    }

    /// The peer is gone, or is to go.
    fn part(&mut self, why: Parted) -> io::Result<bool> {
        // Closing takes it off the epoll as well.
        self.peer = None;
        if let Parted::Offence(length) = why {
            self.counts.offenders.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(length, "a peer was closed that announced a frame of no such length");
        }
        if self.is_one_shot {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the peer has gone"));
        }
        // Whoever waited may come now: the listener is level-triggered.
        self.accept()
    }
}

/// Why a peer is no longer there.
#[derive(Debug, Clone, Copy)]
enum Parted {
    Gone,
    /// It announced a frame of so many bytes.
    Offence(u32),
}

/// The other end while it is there.
#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    is_readable: bool,
    is_writable: bool,
    incoming: Buffer,
    outgoing: Buffer,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            is_readable: true,
            is_writable: true,
            incoming: Buffer::new(),
            outgoing: Buffer::new(),
        }
    }

    /// Moves frames into the ring, as many as `left` has; true: more may wait.
    fn receive(&mut self, ring: &mut RingProducer, mut left: FrameBudget) -> Result<bool, Parted> {
        loop {
            while let Some(frame) = self.incoming.frame()? {
                let len = frame.len();
                if left.is_spent() || !ring.push(frame, Offload::NONE) {
                    return Ok(true);
                }
                left.take(len);
                self.incoming.skip(LENGTH_BYTES + len);
            }
            if !self.is_readable {
                return Ok(false);
            }
            match self.stream.read(self.incoming.space()) {
                Ok(0) => return Err(Parted::Gone),
                Ok(len) => self.incoming.end += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
                Err(_) => return Err(Parted::Gone),
            }
        }
    }

    /// Moves the ring's frames to the peer; true: it takes no more now.
    fn send(&mut self, ring: &mut RingConsumer) -> Result<bool, Parted> {
        loop {
            while self.outgoing.has_room()
                && let Some(record) = ring.read()
            {
                self.outgoing.put(ring.bytes(&record), record.offload);
                ring.release();
            }
            if self.outgoing.is_empty() {
                return Ok(false);
            }
            if !self.is_writable {
                return Ok(true);
            }
            match self.stream.write(self.outgoing.filled()) {
                Ok(len) => self.outgoing.skip(len),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_writable = false,
                Err(_) => return Err(Parted::Gone),
            }
        }
    }
}

/// Bytes on their way: `start..end` of them are there.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.end - self.start)
    }
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or(&[])
    }

    fn skip(&mut self, len: usize) {
        self.start += len;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Space behind what is there: enough for the rest of any frame.
    fn space(&mut self) -> &mut [u8] {
        if self.bytes.len() - self.end < LENGTH_BYTES + FRAME_BYTES_MAX {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or(&mut [])
    }

    /// The first frame, if all of it is there.
    fn frame(&self) -> Result<Option<&[u8]>, Parted> {
        let Some((length, rest)) = self.filled().split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        if !(ETHERNET_HEADER_BYTES..=FRAME_BYTES_MAX).contains(&len) {
            return Err(Parted::Offence(length));
        }
        Ok(rest.get(..len))
    }

    /// Whether the longest frame fits, however it is cut.
    fn has_room(&mut self) -> bool {
        // A cut repeats its headers, up to 74 bytes, and a length for every 48 bytes at least.
        self.space().len() >= 3 * FRAME_BYTES_MAX
    }

    /// Puts `frame` in, finished and in as many pieces as its guest takes. There is room.
    fn put(&mut self, frame: &[u8], offload: Offload) {
        let mut cut = Cut::new(frame.len(), offload);
        while let Some(len) = cut.next_len() {
            let at = self.end;
            let Some(space) = self.bytes.get_mut(at..at + LENGTH_BYTES + len) else { return };
            let (head, body) = space.split_at_mut(LENGTH_BYTES);
            head.copy_from_slice(&u32::try_from(len).unwrap_or(0).to_be_bytes());
            cut.next_into(frame, body);
            self.end += LENGTH_BYTES + len;
        }
    }
}

impl GuestLink for StreamLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// # Cost
    /// One `read(2)` for as many frames as are there, one that finds nothing, and a look at the
    /// epoll; a copy of each frame.
    fn receive(&mut self, from_guest: &mut RingProducer, budget: FrameBudget) -> io::Result<bool> {
        let knocks = self.look()?;
        let Some(peer) = &mut self.peer else { return Ok(knocks) };
        let received = peer.receive(from_guest, budget);
        from_guest.flush();
        match received {
            Ok(more) => Ok(more || knocks),
            Err(why) => Ok(self.part(why)? || self.peer.is_some()),
        }
    }

    /// # Cost
    /// One `write(2)` for 64 KiB of frames or more; a copy of each.
    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        if self.peer.as_ref().is_some_and(|peer| !peer.is_writable) {
            // Whether it takes more is not to wait until frames of its own are looked for.
            self.look()?;
        }
        let Some(peer) = &mut self.peer else {
            while let Some(record) = to_guest.read() {
                let frames = record.offload.frames(record.len());
                self.counts.dropped.fetch_add(frames as u64, Ordering::Relaxed);
                to_guest.release();
            }
            return Ok(false);
        };
        match peer.send(to_guest) {
            Ok(is_blocked) => Ok(is_blocked),
            Err(why) => {
                self.part(why)?;
                Ok(false)
            }
        }
    }

    fn lost_frames(&self) -> LostFrames {
        let link_full = self.counts.dropped.load(Ordering::Relaxed);
        let offenders = &self.counts.offenders;
        LostFrames { link_full, too_long: offenders.load(Ordering::Relaxed), short: 0 }
    }
}

#[cfg(test)]
mod tests;
