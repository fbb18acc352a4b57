//! One TCP connection to the outside.
//!
//! ```text
//! Connecting -> Open -> (closed by the engine's word, or by an error that the engine is told of)
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Registry};
use sluicegate_core::{Event, FlowId, Instant, Outside, Refusal};
use socket2::{SockRef, Type};

use super::clear::{Found, Look};
use super::socket::Opener;
use super::{Flow, Flows, HostEngine, Served, socket, token};

/// The socket failed; the engine is told when the flow is next served.
pub(super) struct Failed;

pub(super) struct TcpFlow {
    id: FlowId,
    stream: TcpStream,
    phase: Phase,
    /// When the host began to connect, until it is counted how long that took.
    dialled: Option<Instant>,
    /// What the outside has said before the socket was ours.
    early: Bytes,
    /// Bytes or an end may be there to read.
    is_readable: bool,
    /// The outside's end was announced: a short read is not the last.
    is_ending: bool,
    /// Bytes of the guest wait for the socket to take more.
    is_blocked: bool,
    /// Set once the socket failed under a write.
    has_failed: bool,
    /// What the guest said must not pass: both sides are to be reset.
    is_stopped: bool,
    look: Look,
}

enum Phase {
    Connecting {
        fallback: Option<SocketAddr>,
    },
    Open,
    /// The outside has finished; writing goes on.
    Ended,
}

impl TcpFlow {
    /// Begins to connect to the first address, and where that fails to the other.
    ///
    /// # Errors
    /// What the guest is told, where not even the beginning works.
    pub(super) fn connect(
        (id, now): (FlowId, Instant),
        (first, fallback): (SocketAddr, Option<SocketAddr>),
        opener: Opener<'_>,
    ) -> Result<Self, Refusal> {
        let dialled = Some(now);
        match start(id, first, opener) {
            Ok((stream, connected)) => {
                Ok(Self { dialled, ..Self::new(id, stream, connected, fallback) })
            }
            Err(refused) => {
                match fallback.filter(|_| is_worth_another(socket::refusal(&refused))) {
                    Some(other) => start(id, other, opener)
                        .map(|(stream, connected)| Self {
                            dialled,
                            ..Self::new(id, stream, connected, None)
                        })
                        .map_err(|error| socket::refusal(&error)),
                    None => Err(socket::refusal(&refused)),
                }
            }
        }
    }

    /// A connection that came from outside.
    ///
    /// # Errors
    /// It can't be watched.
    pub(super) fn accepted(
        id: FlowId,
        stream: std::net::TcpStream,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::from_std(stream);
        let watched = (|| {
            let socket = SockRef::from(&stream);
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_keepalive(true)?;
            registry.register(&mut stream, token(id), Interest::READABLE | Interest::WRITABLE)
        })();
        let mut accepted = Self::new(id, stream, true, None);
        match watched {
            Ok(()) => Ok(accepted),
            Err(error) => {
                accepted.reset_on_close();
                Err(error)
            }
        }
    }

    /// The same, whose outside has said `early` already.
    pub(super) fn with_early(mut self, early: Bytes) -> Self {
        self.is_readable |= !early.is_empty();
        self.early = early;
        self
    }

    fn new(id: FlowId, stream: TcpStream, connected: bool, fallback: Option<SocketAddr>) -> Self {
        let phase = if connected { Phase::Open } else { Phase::Connecting { fallback } };
        Self {
            id,
            stream,
            phase,
            dialled: None,
            early: Bytes::new(),
            is_readable: false,
            is_ending: false,
            is_blocked: false,
            has_failed: false,
            is_stopped: false,
            look: Look::No,
        }
    }

    /// The same, of which what the guest says is looked at, or will be.
    pub(super) fn with_look(self, look: Look) -> Self {
        Self { look, ..self }
    }

    pub(super) fn set_look(&mut self, look: Look) {
        self.look = look;
    }

    pub(super) fn look(&self) -> &Look {
        &self.look
    }

    /// What the outside has said and nobody has read, as far as `space` goes; nothing: it has ended
    /// or failed. `None`: it has yet to speak.
    pub(super) fn peek<'s>(&mut self, space: &'s mut [u8]) -> Option<&'s [u8]> {
        let peeked = if self.early.is_empty() {
            self.stream.peek(space)
        } else {
            let len = self.early.len().min(space.len());
            space.iter_mut().zip(&self.early).for_each(|(to, from)| *to = *from);
            Ok(len)
        };
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                None
            }
            Err(_) => Some(&[]),
            Ok(len) => Some(space.get(..len).unwrap_or(&[])),
        }
    }

    /// The socket for somebody else, and what its outside has said before it was ours.
    pub(super) fn into_stream(mut self, registry: &Registry) -> (std::net::TcpStream, Bytes) {
        // It fails for one that is not there.
        let _ = registry.deregister(&mut self.stream);
        (self.stream.into(), self.early)
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// When the host began to connect, once: when it has succeeded.
    pub(super) fn take_dialled(&mut self) -> Option<Instant> {
        if matches!(self.phase, Phase::Connecting { .. }) { None } else { self.dialled.take() }
    }

    /// Notes an edge.
    pub(super) fn note(&mut self, event: &mio::event::Event) {
        self.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.is_ending |= event.is_read_closed() || event.is_error();
        // An open connection's failure is read, after the bytes that came before it.
        if event.is_error() && matches!(self.phase, Phase::Ended) {
            self.has_failed |= matches!(self.stream.take_error(), Ok(Some(_)) | Err(_));
        }
    }

    /// Writes what the guest has sent, as far as the socket takes it.
    ///
    /// # Cost
    /// One system call for each piece of the engine's buffer, which has at most two.
    pub(super) fn send(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> Result<(), Failed> {
        self.is_blocked = false;
        loop {
            let (stream, look) = (&mut self.stream, &mut self.look);
            let (mut blocked, mut failed, mut stopped) = (false, false, false);
            let taken = engine.take_from_guest(now, self.id, |bytes| {
                match look.pass(bytes, |bytes| write(stream, bytes)) {
                    Ok(Ok(written)) => {
                        blocked = written < bytes.len();
                        return written;
                    }
                    Ok(Err(error)) => {
                        blocked = error.kind() == ErrorKind::WouldBlock;
                        failed = !blocked;
                    }
                    Err(Found) => (failed, stopped) = (true, true),
                }
                0
            });
            self.is_stopped |= stopped;
            if failed {
                self.has_failed = true;
                return Err(Failed);
            }
            if blocked {
                self.is_blocked = true;
                return Ok(());
            }
            if taken.is_none() {
                return Ok(());
            }
        }
    }

    /// The guest has finished, and all of it is written.
    pub(super) fn finish(&mut self) {
        if matches!(self.look, Look::First(_)) {
            self.look = Look::No; // it has said nothing, and will not
        }
        // Fails where the connection is gone already, which reading will tell.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the socket's end a reset (RFC 9293 3.10.5).
    pub(super) fn reset_on_close(&mut self) {
        // Fails on a socket that is gone, which needs no reset.
        let _ = SockRef::from(&self.stream).set_linger(Some(core::time::Duration::ZERO));
    }

    /// Acts on what was noted: the connect's result, room to write, bytes to read, failure.
    pub(super) fn serve(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        opener: Opener<'_>,
    ) -> Served {
        if let Phase::Connecting { fallback } = self.phase
            && let Some(served) = self.conclude(engine, now, (fallback, opener))
        {
            return served;
        }
        if matches!(self.look, Look::First(_)) && self.is_connected() && self.is_readable {
            return Served::Spoken;
        }
        if !self.has_failed && self.is_blocked && self.send(engine, now).is_err() {
            self.has_failed = true;
        }
        if self.is_stopped {
            self.reset_on_close();
            engine.handle(now, Event::OutsideReset { flow: self.id });
            return Served::Ended;
        }
        if self.has_failed && matches!(self.phase, Phase::Ended) {
            engine.handle(now, Event::OutsideReset { flow: self.id });
            return Served::Ended;
        }
        if self.has_failed {
            // What came before the failure is still there to be read.
            (self.is_readable, self.is_ending) = (true, true);
        }
        if matches!(self.phase, Phase::Open) { self.receive(engine, now) } else { Served::Waits }
    }

    /// Looks at how the connect went; `None`: it is open.
    fn conclude(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        (fallback, opener): (Option<SocketAddr>, Opener<'_>),
    ) -> Option<Served> {
        let flow = self.id;
        let error = match self.stream.take_error() {
            Ok(None) => match self.stream.peer_addr() {
                Ok(_) => {
                    self.phase = Phase::Open;
                    engine.handle(now, Event::Connected { flow });
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => {
                    return Some(Served::Waits); // an edge that was not the connect's
                }
                Err(error) => error,
            },
            Ok(Some(error)) | Err(error) => error,
        };
        let refusal = socket::refusal(&error);
        if let Some(other) = fallback.filter(|_| is_worth_another(refusal))
            && let Ok((stream, connected)) = start(flow, other, opener)
        {
            let (dialled, look) = (self.dialled, core::mem::replace(&mut self.look, Look::No));
            *self = Self { dialled, look, ..Self::new(flow, stream, connected, None) };
            if connected {
                engine.handle(now, Event::Connected { flow });
                return None;
            }
            return Some(Served::Waits);
        }
        engine.handle(now, Event::ConnectFailed { flow, refusal });
        Some(Served::Ended)
    }

    /// Reads straight into the engine's buffer, within the flow's budget.
    fn receive(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> Served {
        let mut budget = engine.turn_max().flow_bytes;
        while !self.early.is_empty() {
            let early = &mut self.early;
            let given = engine.give_to_guest(self.id, |space| {
                let len = early.len().min(space.len());
                if let Some(space) = space.get_mut(..len) {
                    space.copy_from_slice(&early.split_to(len));
                }
                len
            });
            if given.is_none() {
                return Served::Waits; // the engine says when there is room
            }
        }
        while self.is_readable {
            let stream = &mut self.stream;
            let mut result = Ok(0);
            let mut asked = 0;
            let given = engine.give_to_guest(self.id, |space| {
                asked = space.len();
                result = read(stream, space);
                result.as_ref().copied().unwrap_or(0)
            });
            if given.is_none() {
                return Served::Waits; // the engine says when there is room
            }
            match result {
                Ok(0) if self.has_failed => {
                    engine.handle(now, Event::OutsideReset { flow: self.id });
                    return Served::Ended;
                }
                Ok(0) => {
                    self.is_readable = false;
                    self.phase = Phase::Ended;
                    engine.handle(now, Event::OutsideFinished { flow: self.id });
                    return Served::Waits;
                }
                Ok(read) => {
                    // A short read has emptied the socket; whatever comes later makes an edge.
                    self.is_readable = read == asked || self.is_ending;
                    budget = budget.saturating_sub(read);
                    if budget == 0 && self.is_readable {
                        return Served::Again;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
                Err(_) => {
                    engine.handle(now, Event::OutsideReset { flow: self.id });
                    return Served::Ended;
                }
            }
        }
        Served::Waits
    }
}

impl Flows {
    /// Connects `flow` to where it goes, through the proxy if there is one for it.
    pub(super) fn connect(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        flow: FlowId,
        to: Outside,
    ) {
        if self.dial(engine, now, flow, to) {
            return;
        }
        match TcpFlow::connect((flow, now), socket::addresses(to), self.opener()) {
            Ok(tcp) => {
                let is_connected = tcp.is_connected();
                self.insert(flow, Flow::Tcp(tcp.with_look(self.look())));
                if is_connected {
                    engine.handle(now, Event::Connected { flow });
                }
            }
            Err(refusal) => {
                self.count(refusal);
                engine.handle(now, Event::ConnectFailed { flow, refusal });
            }
        }
    }
}

/// Whether the other loopback may have what this one had not.
fn is_worth_another(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Refused | Refusal::NetUnreachable | Refusal::HostUnreachable => true,
        Refusal::TimedOut
        | Refusal::Forbidden
        | Refusal::Expired
        | Refusal::TooBig { .. }
        | Refusal::Exhausted => false,
    }
}

/// Opens a socket and begins to connect it; true: it is connected already.
fn start(id: FlowId, to: SocketAddr, opener: Opener<'_>) -> io::Result<(TcpStream, bool)> {
    let socket = opener.outbound.socket(to, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    let connected = match socket.connect(&to.into()) {
        Ok(()) => true,
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            false
        }
        Err(error) => return Err(error),
    };
    let mut stream = TcpStream::from_std(socket.into());
    let interest = Interest::READABLE | Interest::WRITABLE;
    opener.registry.register(&mut stream, token(id), interest)?;
    Ok((stream, connected))
}

fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn read(stream: &mut TcpStream, space: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(space) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
