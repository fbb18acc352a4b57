//! A TAP with offload: long segments cross a link of 1500 bytes in one piece, whatever the guest's
//! kernel does with them, and few system calls carry many frames.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::guest::{Guest, Setup};
use crate::needs;
use crate::pattern;
use crate::process::{Process, succeed};
use crate::servers::{self, Family};
use crate::waiting::until;

/// What one transfer moves. `SLUICEGATE_TRANSFER_MB` has a long run take longer.
fn transfer_bytes() -> u64 {
    let megabytes = std::env::var("SLUICEGATE_TRANSFER_MB").ok();
    megabytes.and_then(|text| text.parse().ok()).unwrap_or(64) * 1_000_000
}

/// Moves the pattern over a new connection, from the guest or to it.
fn transfer(guest: &Guest, family: Family, from_guest: bool) {
    let listener = servers::listener(family);
    let inside = guest.connect(family, listener.local_addr().unwrap().port());
    let outside = servers::accept(&listener);
    let (from, to) = if from_guest { (inside, outside) } else { (outside, inside) };
    let bytes = transfer_bytes();
    std::thread::scope(|scope| {
        scope.spawn(move || pattern::send(from, bytes, bytes).unwrap());
        assert_eq!(pattern::check(to, bytes).unwrap(), bytes);
    });
}

/// Bytes and packets of the guest's interface, both ways together.
fn carried(guest: &Guest) -> (u64, u64) {
    let count = |what: &str| {
        let file = format!("/sys/class/net/eth0/statistics/{what}");
        let text = succeed(guest.command("cat").arg(file));
        text.trim().parse::<u64>().unwrap()
    };
    (count("rx_bytes") + count("tx_bytes"), count("rx_packets") + count("tx_packets"))
}

#[test]
fn long_segments_cross_a_link_of_1500_bytes_only_with_offload() {
    if !needs::are_met(&[]) {
        return;
    }
    for (offload, bytes_a_packet) in [(true, 5000..65_550), (false, 500..1515)] {
        let guest = Guest::with(&Setup { offload, ..Setup::default() });
        for family in Family::BOTH {
            transfer(&guest, family, false);
        }
        let (bytes, packets) = carried(&guest);
        // Acknowledgements are among them.
        assert!(bytes_a_packet.contains(&(bytes / packets)), "{bytes} bytes, {packets} packets");
        for family in Family::BOTH {
            transfer(&guest, family, true);
        }
    }
}

#[test]
fn whatever_the_guest_s_kernel_offloads_from_moment_to_moment_the_bytes_arrive() {
    if !needs::are_met(&["ethtool"]) {
        return;
    }
    let guest = Guest::online();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let toggles = scope.spawn(|| toggle(&guest, &ends));
        let directions =
            [(Family::V4, true), (Family::V6, false), (Family::V6, true), (Family::V4, false)];
        let guest = &guest;
        let transfers: Vec<_> = directions
            .map(|(family, from_guest)| scope.spawn(move || transfer(guest, family, from_guest)))
            .into_iter()
            .collect();
        let done = transfers.into_iter().map(|thread| thread.join()).collect::<Vec<_>>();
        ends.store(true, Ordering::Relaxed);
        done.into_iter().for_each(|outcome| outcome.unwrap());
        assert!(toggles.join().unwrap() > 5, "offloads changed while bytes were under way");
    });
}

/// Changes what the guest's kernel offloads until `ends`; returns how often.
fn toggle(guest: &Guest, ends: &AtomicBool) -> u32 {
    let mut dice = pattern::Pattern::new(4);
    let mut changes = 0;
    while !ends.load(Ordering::Relaxed) {
        let mut arguments = vec!["-K".to_owned(), "eth0".to_owned()];
        for (feature, byte) in ["tx", "sg", "tso", "gso", "gro"].iter().zip(dice.next(5)) {
            arguments
                .extend([(*feature).to_owned(), if byte & 1 == 0 { "off" } else { "on" }.into()]);
        }
        // Not every mix goes: the kernel turns off what needs what is off.
        let _ = guest.command("ethtool").args(&arguments).output().unwrap();
        changes += 1;
    }
    changes
}

/// Nanoseconds that each thread of `process` has run, and whether it is the driver's.
fn thread_times(process: u32) -> Vec<(bool, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let time = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap();
        let first = path.file_name().unwrap() == process.to_string().as_str();
        let times = std::fs::read_to_string(path.join("schedstat")).unwrap();
        let nanos = times.split_whitespace().next().unwrap().parse().unwrap();
        (!first && name.trim() == "sluicegate", nanos)
    };
    tasks.map(time).collect()
}

#[test]
fn one_thread_carries_every_byte() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    for from_guest in [true, false] {
        transfer(&guest, Family::V4, from_guest);
    }
    let (driver, others): (Vec<_>, Vec<_>) =
        thread_times(guest.engine().id()).into_iter().partition(|(is_driver, _)| *is_driver);
    let sum = |times: &[(bool, u64)]| times.iter().map(|(_, nanos)| nanos).sum::<u64>();
    assert_eq!(driver.len(), 1, "there is one driver");
    // Theirs is what starting the program takes.
    assert!(sum(&others) * 4 < sum(&driver), "{others:?} beside {driver:?}");
}

#[test]
fn a_fraction_of_a_system_call_carries_a_frame_in_bulk() {
    if !needs::are_met(&["strace"]) {
        return;
    }
    let guest = Guest::online();
    let report = std::env::temp_dir().join(format!("sluicegate-calls-{}", std::process::id()));
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-c", "-o"]).arg(&report);
    let tracer = Process::start(tracer.args(["-p", &guest.engine().id().to_string()]));
    until("the calls are counted", || tracer.errors().contains("attached"));
    let before = carried(&guest).0;
    for from_guest in [true, false] {
        transfer(&guest, Family::V4, from_guest);
    }
    let frames = (carried(&guest).0 - before) / 1514;
    tracer.signal(Signal::INT);
    tracer.finish();
    let text = std::fs::read_to_string(&report).unwrap();
    std::fs::remove_file(&report).unwrap();
    let total = text.lines().find(|line| line.trim_end().ends_with("total")).unwrap();
    // Percent, seconds, microseconds a call, calls, maybe errors, "total".
    let calls: u64 = total.split_whitespace().nth(3).unwrap().parse().unwrap();
    // How much a turn gathers depends on how busy the machine is: 0.04 to 0.11 calls a frame were
    // seen. Without long segments and batches it is more than one.
    assert!(calls > 100 && calls * 3 < frames, "{calls} calls for {frames} frames\n{text}");
}
