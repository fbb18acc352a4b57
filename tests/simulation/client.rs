//! The guest's end of a connection: an application over smoltcp, or over the plain TCP, or nobody.

use sim::Dice;
use sim::core::Instant;
use sim::guest::{Guest, Plain};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};

use super::app::{App, Ending};
use super::callers::{PUBLISHED, is_published};
use super::names::Names;

/// Where the ports of the plain stack begin; smoltcp's are higher.
const PLAIN_PORT: u16 = 20_000;
/// The guest's end of one connection.
pub(crate) enum Client {
    Smol(SocketHandle),
    Plain(Box<Plain>),
    /// Nobody listens, which the guest's stack says by itself.
    Nobody,
    /// What comes is lost.
    Silence,
    /// It has yet to begin.
    Due,
}

impl Client {
    /// The guest's end of the connection of number `index`.
    pub(crate) fn new(index: u16, app: &App, guest: &mut Guest, dice: &mut Dice) -> Self {
        let called = app.call.as_ref().map(|_| PUBLISHED + index);
        match app.ending {
            Ending::NotListening => return Self::Nobody,
            Ending::Deaf => return Self::Silence,
            Ending::Close
            | Ending::OutsideReset
            | Ending::FinishThenReset
            | Ending::GuestReset
            | Ending::Refused(_)
            | Ending::ResetEarly
            | Ending::Unanswered
            | Ending::Stuck => {}
        }
        if dice.one_of(500) {
            let bytes = 1024 << dice.below(7);
            return Self::Smol(match called {
                Some(port) => guest.listen(port, bytes),
                None => guest.connect(app.to, bytes),
            });
        }
        let mss = [64, 100, 536, 1000, 1460, 8000][dice.below(6) as usize];
        let shape = (mss, dice.between(500, 65_535) as usize);
        let seq = dice.draw() as u32;
        Self::Plain(Box::new(match called {
            Some(port) => Plain::listen(port, seq, shape),
            None => Plain::new(app.to, PLAIN_PORT + index, seq, shape),
        }))
    }
}

/// Which connection has the guest's `port`, unless smoltcp chose it.
pub(crate) fn index(port: u16) -> Option<usize> {
    let first = if is_published(port) { PUBLISHED } else { PLAIN_PORT };
    port.checked_sub(first).map(usize::from)
}

/// The application over smoltcp.
pub(crate) fn smol(
    app: &mut App,
    socket: &mut smoltcp::socket::tcp::Socket<'static>,
    (now, dice, names): (Instant, &mut Dice, &Names),
) {
    if matches!(socket.state(), State::Listen | State::SynSent | State::SynReceived) {
        return;
    }
    if app.ending == Ending::GuestReset && app.is_at_reset() && !app.was_reset {
        socket.abort();
        app.was_reset = true;
    }
    // smoltcp forgets at the end of TIME-WAIT what was not read.
    let is_last = socket.state() == State::TimeWait;
    if socket.can_recv() && (dice.one_of(app.down.appetite) || is_last) {
        let gulp = if is_last { usize::MAX } else { app.down.gulp as usize };
        let read = socket.recv(|bytes| {
            let len = bytes.len().min(gulp);
            app.hear(&bytes[..len], names);
            (len, ())
        });
        assert_eq!(read, Ok(()));
    }
    if socket.can_send() {
        let room = socket.send_capacity() - socket.send_queue();
        let bytes = app.say(now, room);
        assert_eq!(socket.send_slice(&bytes), Ok(bytes.len()));
    }
    let finished = socket.recv(|_| (0, ())) == Err(RecvError::Finished);
    if app.up.is_written() && app.guest_finishes(finished) {
        socket.close();
    }
    app.was_reset |= socket.state() == State::Closed && !finished;
}

/// The application over the plain stack. Returns its reset, when that is due.
pub(crate) fn by_plain(
    app: &mut App,
    plain: &mut Plain,
    (now, dice, names): (Instant, &mut Dice, &Names),
) -> Option<Vec<u8>> {
    if app.ending == Ending::GuestReset && plain.connected && app.is_at_reset() && !app.was_reset {
        app.was_reset = true;
        return Some(plain.abort());
    }
    if dice.one_of(app.down.appetite) {
        app.hear(&plain.read(app.down.gulp as usize), names);
    }
    if plain.connected && plain.unacknowledged() < 10_000 {
        plain.write(&app.say(now, 20_000));
    }
    if app.up.is_written() && app.guest_finishes(plain.finished) {
        plain.finish();
    }
    app.was_reset |= plain.reset;
    None
}
