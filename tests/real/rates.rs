//! Rate limits with real traffic: it takes the time that the rate says, it arrives, and the engine
//! sleeps meanwhile. How exact they are is told on virtual time (`tests/behaviour/rates.rs`).

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use serde_json::json;

use crate::guest::{Guest, Setup, open_config};
use crate::needs;
use crate::pattern;
use crate::servers::{self, Family};
use crate::waiting::timed;

const BYTES: u64 = 1_000_000;
/// What a megabyte takes at 4 Mbit/s beyond a full bucket of 50,000 bytes, without its headers.
pub(crate) const AT_LEAST: Duration = Duration::from_millis(1900);
/// Four times as long, for a machine that is busy; a limiter that is ten times too slow takes more.
pub(crate) const AT_MOST: Duration = Duration::from_millis(7600);

/// A guest whose traffic in `direction` is at 4 Mbit/s.
fn guest(direction: &str) -> Guest {
    let bucket = json!({ "bandwidth": { "size": 50_000, "refill_time_ms": 100 } });
    let config = open_config(json!({ "rate_limiter": { direction: bucket } }));
    Guest::with(&Setup { config: Some(config), ..Setup::default() })
}

/// Processor time of the engine so far.
fn engine_time(guest: &Guest) -> Duration {
    let path = format!("/proc/{}/schedstat", guest.engine().id());
    let text = std::fs::read_to_string(path).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn a_limited_download_takes_its_time_and_arrives() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = guest("ingress");
    let port = servers::http(servers::listener(Family::V4));
    let before = engine_time(&guest);
    let (seen, took) = timed(|| {
        let mut stream = guest.try_connect((guest.gateway(Family::V4), port)).unwrap();
        write!(stream, "GET /{BYTES} HTTP/1.0\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        pattern::check(stream, BYTES).unwrap()
    });
    assert_eq!(seen, BYTES);
    assert!((AT_LEAST..AT_MOST).contains(&took), "{took:?}");
    let busy = engine_time(&guest) - before;
    assert!(busy < took / 4, "the engine works {busy:?} of {took:?} while it waits");
}

#[test]
fn a_limited_upload_takes_its_time_and_arrives() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = guest("egress");
    let port = servers::echo(servers::listener(Family::V4));
    let ((), took) = timed(|| {
        let mut stream = guest.try_connect((guest.gateway(Family::V4), port)).unwrap();
        let mut back = stream.try_clone().unwrap();
        let reader = std::thread::spawn(move || pattern::check(&mut back, BYTES));
        pattern::send(&mut stream, BYTES, BYTES).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), BYTES);
    });
    assert!((AT_LEAST..AT_MOST).contains(&took), "{took:?}");
}
