//! How connections end: what one side does is what the other side sees.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::guest::Guest;
use crate::needs;
use crate::pattern;
use crate::process;
use crate::servers::{self, Family};

const MANY_BYTES: u64 = 3_000_000;

/// A connection through the engine: the guest's end, and the outside's.
fn pair(guest: &Guest, family: Family) -> (TcpStream, TcpStream) {
    let listener = servers::listener(family);
    let inside = guest.connect(family, listener.local_addr().unwrap().port());
    (inside, servers::accept(&listener))
}

/// Both families, and both directions: `play(one, other)` for each of the two ends as the first.
fn both_ways(play: impl Fn(TcpStream, TcpStream)) {
    let guest = Guest::online();
    for family in Family::BOTH {
        let (inside, outside) = pair(&guest, family);
        play(inside, outside);
        let (inside, outside) = pair(&guest, family);
        play(outside, inside);
    }
}

/// Ends `stream` with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[test]
fn the_side_that_has_finished_still_hears_all_that_the_other_has_to_say() {
    if !needs::are_met(&[]) {
        return;
    }
    both_ways(|mut one, mut other| {
        one.write_all(b"that was all").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        other.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "that was all");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pattern::send(&other, 1, MANY_BYTES).unwrap();
                other.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(pattern::check(&one, 1).unwrap(), MANY_BYTES);
        });
    });
}

#[test]
fn all_that_precedes_an_end_arrives_however_much_it_is() {
    if !needs::are_met(&[]) {
        return;
    }
    both_ways(|one, other| {
        std::thread::scope(|scope| {
            scope.spawn(move || pattern::send(one, 2, MANY_BYTES).unwrap());
            assert_eq!(pattern::check(&other, 2).unwrap(), MANY_BYTES);
        });
    });
}

#[test]
fn nc_finishes_first_and_prints_the_answer() {
    if !needs::are_met(&["nc"]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let listener = servers::listener(family);
        let port = listener.local_addr().unwrap().port().to_string();
        let server = std::thread::spawn(move || {
            let mut stream = servers::accept(&listener);
            let mut question = String::new();
            stream.read_to_string(&mut question).unwrap();
            write!(stream, "you said {question}").unwrap();
        });
        let gateway = guest.gateway(family).to_string();
        let mut nc = guest.command("nc");
        nc.args(["-N", &gateway, &port]).stdin(std::process::Stdio::piped());
        let mut nc = process::Process::start(&mut nc);
        nc.take_input().write_all(b"hello\n").unwrap();
        let finished = nc.finish();
        assert_eq!((finished.code, finished.output.as_str()), (0, "you said hello\n"));
        server.join().unwrap();
    }
}

#[test]
fn a_reset_is_a_reset_on_the_other_side_and_never_an_end() {
    if !needs::are_met(&[]) {
        return;
    }
    both_ways(|one, mut other| {
        reset(one);
        assert_eq!(other.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_after_data_that_was_read_is_a_reset() {
    if !needs::are_met(&[]) {
        return;
    }
    both_ways(|mut one, mut other| {
        one.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        other.read_exact(&mut bytes).unwrap();
        other.write_all(b"thanks").unwrap();
        one.read_exact(&mut [0; 6]).unwrap();
        reset(one);
        assert_eq!(other.read(&mut bytes).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_reaches_a_side_that_has_finished() {
    if !needs::are_met(&[]) {
        return;
    }
    both_ways(|mut one, mut other| {
        other.shutdown(Shutdown::Write).unwrap();
        assert_eq!(one.read(&mut [0; 8]).unwrap(), 0);
        reset(one);
        assert_eq!(other.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

fn write_until_it_fails(stream: &mut impl Write) -> std::io::Error {
    loop {
        if let Err(error) = stream.write_all(&[0; 10_000]) {
            return error;
        }
    }
}

#[test]
fn a_reset_reaches_a_side_that_only_writes() {
    if !needs::are_met(&[]) {
        return;
    }
    both_ways(|one, mut other| {
        reset(one);
        let error = write_until_it_fails(&mut other);
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    });
}

#[test]
fn a_reset_after_the_own_end_is_still_a_reset() {
    if !needs::are_met(&[]) {
        return;
    }
    // As a native connection has it: whoever has seen the end already, and writes on, gets EPIPE.
    both_ways(|one, mut other| {
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(other.read(&mut [0; 8]).unwrap(), 0);
        reset(one);
        let error = write_until_it_fails(&mut other);
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    });
}

#[test]
fn an_answer_before_a_close_with_unread_data_arrives() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let (mut inside, mut outside) = pair(&guest, family);
        // More than the server will read: its kernel resets the connection at the close.
        inside.write_all(&[7; 100_000]).unwrap();
        outside.read_exact(&mut [0; 10]).unwrap();
        let answer = [b'4'; 2000];
        outside.write_all(&answer).unwrap();
        drop(outside);
        let mut heard = [0; 2000];
        inside.read_exact(&mut heard).unwrap();
        assert_eq!(heard, answer);
        // Then the reset, not an end.
        assert_eq!(inside.read(&mut heard).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_long_answer_before_a_close_with_unread_data_arrives() {
    if !needs::are_met(&[]) {
        return;
    }
    const ANSWER_BYTES: u64 = 50_000;
    let guest = Guest::online();
    for family in Family::BOTH {
        let (mut inside, mut outside) = pair(&guest, family);
        inside.write_all(&[7; 100_000]).unwrap();
        outside.read_exact(&mut [0; 10]).unwrap();
        pattern::send(&outside, 3, ANSWER_BYTES).unwrap();
        drop(outside);
        let mut heard = vec![0; usize::try_from(ANSWER_BYTES).unwrap()];
        inside.read_exact(&mut heard).unwrap();
        assert!(heard == pattern::Pattern::new(3).next(heard.len()));
    }
}
