//! Sides that do not read: they wait, nobody else does, and memory stays what it was.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::guest::Guest;
use crate::held::resident_bytes;
use crate::needs;
use crate::pattern::{self, Pattern};
use crate::servers::{self, Family};
use crate::waiting::until_still;

/// No progress for this long: the stream is full, on a machine that is busy with other tests.
const STALL: Duration = Duration::from_millis(300);
/// What an endless writer has to say.
const ENDLESS_BYTES: usize = 64 * 1024 * 1024;
/// More than all buffers of one connection hold: the kernel's of two sockets, and the engine's.
const BUFFERED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Writes the pattern of `seed` into streams that nobody reads.
struct Filler {
    stream: TcpStream,
    pattern: Pattern,
    chunk: Vec<u8>,
    written: usize,
}

impl Filler {
    fn new(stream: TcpStream, seed: u64) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream, pattern: Pattern::new(seed), chunk: Vec::new(), written: 0 }
    }

    /// Writes what fits.
    fn fill(&mut self) -> usize {
        while self.written < ENDLESS_BYTES {
            if self.chunk.is_empty() {
                self.chunk = self.pattern.next(16 * 1024);
            }
            match self.stream.write(&self.chunk) {
                Ok(written) => {
                    self.chunk.drain(..written);
                    self.written += written;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.written
    }

    /// Ends; returns how much was written.
    fn finish(self) -> u64 {
        self.stream.set_nonblocking(false).unwrap();
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        self.written as u64
    }
}

#[test]
fn both_sides_may_write_until_nothing_fits_and_then_read_all_of_it() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let listener = servers::listener(family);
        let inside = guest.connect(family, listener.local_addr().unwrap().port());
        let outside = servers::accept(&listener);
        let (inside_reader, outside_reader) =
            (inside.try_clone().unwrap(), outside.try_clone().unwrap());
        let mut fillers = [Filler::new(inside, 1), Filler::new(outside, 2)];
        until_still("both sides write", STALL, || fillers.each_mut().map(Filler::fill));
        let [from_inside, from_outside] = fillers.map(Filler::finish);
        assert!(from_inside < ENDLESS_BYTES as u64 && from_outside < ENDLESS_BYTES as u64);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || pattern::check(outside_reader, 1).unwrap());
            assert_eq!(pattern::check(inside_reader, 2).unwrap(), from_outside);
            assert_eq!(reader.join().unwrap(), from_inside);
        });
    }
}

/// Connections whose one side writes and whose other side does not read: the writers, the readers.
fn stalled(guest: &Guest, count: usize, from_guest: bool) -> (Vec<Filler>, Vec<TcpStream>) {
    let listener = servers::listener(Family::V4);
    let port = listener.local_addr().unwrap().port();
    let pairs = (0..count).map(|number| {
        let inside = guest.connect(Family::V4, port);
        let outside = servers::accept(&listener);
        let (writer, reader) = if from_guest { (inside, outside) } else { (outside, inside) };
        (Filler::new(writer, number as u64), reader)
    });
    let (mut fillers, readers): (Vec<_>, Vec<_>) = pairs.unzip();
    until_still("readers are slow", STALL, || fillers.iter_mut().map(Filler::fill).sum::<usize>());
    (fillers, readers)
}

fn slow_readers(from_guest: bool) {
    const COUNT: usize = 16;
    /// What a fast connection moves beside the slow ones.
    const MOVED_BYTES: u64 = 20_000_000;
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let before = resident_bytes(guest.engine().id());
    let (fillers, readers) = stalled(&guest, COUNT, from_guest);
    for filler in &fillers {
        assert!(filler.written < BUFFERED_BYTES_MAX, "{} were taken", filler.written);
    }
    let (mut fast, port) = {
        let port = servers::http(servers::listener(Family::V6));
        (guest.connect(Family::V6, port), port)
    };
    write!(fast, "GET /{MOVED_BYTES} HTTP/1.0\r\n\r\n").unwrap();
    let mut reader = std::io::BufReader::new(fast);
    loop {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        if line == "\r\n" {
            break;
        }
        assert!(!line.is_empty(), "the server on {port} said too little");
    }
    assert_eq!(pattern::check(reader, MOVED_BYTES).unwrap(), MOVED_BYTES);
    // The buffer of one direction, 512 KiB a flow, and what the engine needs at all.
    let grown = resident_bytes(guest.engine().id()).saturating_sub(before);
    assert!(grown < COUNT * 512 * 1024 + 8 * 1024 * 1024, "{grown} bytes more");
    for (number, (filler, reader)) in fillers.into_iter().zip(readers).enumerate() {
        let written = filler.finish();
        assert_eq!(pattern::check(reader, number as u64).unwrap(), written);
    }
}

#[test]
fn guests_that_do_not_read_stall_only_their_own_connections() {
    slow_readers(false);
}

#[test]
fn servers_that_do_not_read_stall_only_their_own_connections() {
    slow_readers(true);
}
