//! Memory that flows have used and use no more goes back to the system.

use std::net::TcpStream;

use crate::guest::Guest;
use crate::held::resident_bytes;
use crate::needs;
use crate::pattern;
use crate::servers::{self, Family};
use crate::waiting::until;

const CONNECTIONS: usize = 40;
/// Enough to have touched every page of a flow's buffers.
const MOVED_BYTES: u64 = 4 * 1024 * 1024;
/// What the engine may keep of each connection: some pages.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A connection that has moved much, both ways, and stays open.
fn moved(guest: &Guest, number: u64) -> [TcpStream; 2] {
    let listener = servers::listener(Family::V4);
    let inside = guest.connect(Family::V4, listener.local_addr().unwrap().port());
    let outside = servers::accept(&listener);
    for (from, to) in [(&inside, &outside), (&outside, &inside)] {
        std::thread::scope(|scope| {
            scope.spawn(|| pattern::send(from, number, MOVED_BYTES).unwrap());
            let to = std::io::Read::take(to, MOVED_BYTES);
            assert_eq!(pattern::check(to, number).unwrap(), MOVED_BYTES);
        });
    }
    [inside, outside]
}

#[test]
fn connections_that_moved_much_and_fall_silent_keep_a_few_pages_each_and_go_on() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let before = resident_bytes(guest.engine().id());
    let pairs: Vec<_> = (0..CONNECTIONS as u64).map(|number| moved(&guest, number)).collect();
    until("their memory is given back", || {
        let kept = resident_bytes(guest.engine().id()).saturating_sub(before);
        kept < CONNECTIONS * KEPT_BYTES_MAX
    });
    for (number, [inside, outside]) in (100..).zip(pairs) {
        std::thread::scope(|scope| {
            scope.spawn(move || pattern::send(inside, number, MOVED_BYTES).unwrap());
            assert_eq!(pattern::check(outside, number).unwrap(), MOVED_BYTES);
        });
    }
}

#[test]
fn connections_that_have_ended_leave_memory_that_the_system_may_take() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    drop((0..CONNECTIONS as u64).map(|number| moved(&guest, number)).collect::<Vec<_>>());
    until("what was used is marked as free", || lazily_free_bytes(guest.engine().id()) > 1 << 20);
}

/// Bytes that the kernel takes from `process` before it takes any others.
fn lazily_free_bytes(process: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = maps.lines().find(|line| line.starts_with("LazyFree:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
