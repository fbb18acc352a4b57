//! A guest that does nothing costs nothing.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::guest::Guest;
use crate::needs;
use crate::servers::{self, Family};
use crate::waiting::until_still;

/// How often the threads of `process` went to sleep, or were made to wait.
fn switches(process: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads
        .map(|thread| {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            status
                .lines()
                .filter(|line| line.contains("voluntary_ctxt_switches:"))
                .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
                .sum::<u64>()
        })
        .sum()
}

#[test]
fn an_idle_guest_causes_no_wakeup() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    // The guest's kernel has things to announce for some seconds; then two seconds are still.
    until_still("no wakeup", Duration::from_secs(2), || switches(guest.engine().id()));
}

#[test]
fn a_guest_with_idle_flows_causes_no_wakeup() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let port = servers::echo(servers::listener(Family::V4));
    let _streams: Vec<_> = (0..100).map(|_| guest.connect(Family::V4, port)).collect();
    let port = servers::echo_datagrams(servers::datagrams(Family::V6));
    let socket = guest.datagrams((guest.gateway(Family::V6), port));
    socket.send(b"hello").unwrap();
    socket.recv(&mut [0; 8]).unwrap();
    until_still("no wakeup", Duration::from_secs(2), || switches(guest.engine().id()));
}

#[test]
fn a_guest_with_idle_flows_of_which_one_side_has_finished_causes_no_wakeup() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let mut streams = vec![];
    for family in Family::BOTH {
        for number in 0..20 {
            let listener = servers::listener(family);
            let mut inside = guest.connect(family, listener.local_addr().unwrap().port());
            let mut outside = servers::accept(&listener);
            // Who has finished, and whether something was said before.
            if number % 4 < 2 {
                outside.write_all(b"hello").unwrap();
                inside.read_exact(&mut [0; 5]).unwrap();
            }
            let (first, other) =
                if number % 2 == 0 { (&outside, &mut inside) } else { (&inside, &mut outside) };
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(other.read(&mut [0; 1]).unwrap(), 0);
            streams.push((inside, outside));
        }
    }
    until_still("no wakeup", Duration::from_secs(2), || switches(guest.engine().id()));
    // The other directions are open all the while.
    for (number, (inside, outside)) in streams.iter_mut().enumerate() {
        let (from, to) = if number % 2 == 0 { (inside, outside) } else { (outside, inside) };
        from.write_all(b"still here").unwrap();
        to.read_exact(&mut [0; 10]).unwrap();
    }
}
