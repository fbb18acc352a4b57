//! Rate limits: as much passes as was said, either way, in bytes and in frames; what waits is not
//! lost, nothing spins meanwhile, and who is not limited notices nothing.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, Segment, flag};
use sim::guest::Script;
use sim::{Pattern, Room, World};
use sluicegate_core::{Bucket, Drop, Offload, Rate, TransportChecksum, WaitReason};

use crate::at;

/// Bytes of payload of a datagram whose frame has 1000.
const PAYLOAD: usize = 1000 - 14 - 20 - 8;

/// `bytes_per_s` in a bucket of 10 ms.
fn bandwidth(bytes_per_s: u64) -> Rate {
    let bucket = Bucket { size: bytes_per_s / 100, refill_ms: 10, one_time_burst: 0 };
    Rate { bandwidth: Some(bucket), ops: None }
}

/// Lets the engine wake as it likes until `us` have passed, calling `act` each time.
fn pass(world: &mut World<'_>, us: u64, mut act: impl FnMut(&mut World<'_>)) {
    let end = world.now().plus_micros(us);
    loop {
        act(world);
        world.run();
        let Some(until) = world.wait().0.filter(|until| *until < end) else { break };
        assert!(until > world.now(), "it spins");
        world.clock.move_to(until);
    }
}

/// `per_s` frames, in a bucket of 100 ms.
fn ops(per_s: u64) -> Rate {
    let bucket = Bucket { size: per_s / 10, refill_ms: 100, one_time_burst: 0 };
    Rate { bandwidth: None, ops: Some(bucket) }
}

/// Those for the guest that `rate` lets pass within `us`, where there always is one more: frames
/// of 1000 bytes.
fn frames_to_guest(rate: Rate, us: u64) -> u64 {
    let mut room = Room::with(|c| c.to_guest_rate = Some(rate)).with_rings(1 << 20);
    let mut world = room.world();
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 9), b"begin"));
    let index = world.datagram();
    let mut frames = 0;
    pass(&mut world, us, |world| {
        let (now, flow) = (world.now(), world.peers.datagrams[&index].id);
        while world.engine.can_deliver(now) {
            world.engine.deliver(now, flow, &[7; PAYLOAD]);
            while world.collect_one() {}
        }
        frames += world.inbox().len() as u64;
    });
    assert_eq!(world.counters().dropped(Drop::AnswerLost), 0);
    frames
}

/// The guest sends all it can for `us`; returns the bytes that were taken.
fn flood(world: &mut World<'_>, us: u64) -> u64 {
    let frame = frame::udp(1000, at(OUTSIDE_V4, 9), &[7; PAYLOAD]);
    flood_with(world, us, (&frame, Offload::NONE)) * 1000
}

/// The guest sends `frame` as often as it can for `us`; returns how often it was taken.
fn flood_with(world: &mut World<'_>, us: u64, (frame, offload): (&[u8], Offload)) -> u64 {
    let before = world.counters().frames_from_guest;
    pass(world, us, |world| {
        let now = world.now();
        while !world.engine.is_paced(now) {
            while world.push_offloaded(frame, offload) {}
            world.run();
        }
    });
    world.counters().frames_from_guest - before
}

fn is_near(actual: u64, expected: u64) -> bool {
    actual.abs_diff(expected) * 50 <= expected
}

#[test]
fn the_guest_sends_as_fast_as_it_may_within_two_percent() {
    for (mbit_per_s, us) in [(1, 60_000_000), (10, 10_000_000), (1000, 200_000), (5000, 50_000)] {
        let rate = bandwidth(mbit_per_s * 125_000);
        let mut room = Room::with(|c| c.from_guest_rate = Some(rate)).with_rings(1 << 20);
        let mut world = room.world();
        let expected = mbit_per_s * us / 8 + rate.bandwidth.unwrap().size;
        let taken = flood(&mut world, us);
        assert!(is_near(taken, expected), "{mbit_per_s} Mbit/s: {taken} bytes, not {expected}");
        assert_eq!(world.wait().1, WaitReason::Paced);
    }
}

#[test]
fn frames_are_limited_as_bytes_are() {
    let ops = Some(Bucket { size: 10, refill_ms: 100, one_time_burst: 500 });
    let mut room =
        Room::with(|c| c.from_guest_rate = Some(Rate { bandwidth: None, ops })).with_rings(1 << 20);
    let mut world = room.world();
    let taken = flood(&mut world, 10_000_000) / 1000;
    assert!(taken.abs_diff(500 + 10 + 1000) <= 2, "{taken} frames");
}

#[test]
fn a_row_of_the_guests_is_paid_as_all_that_its_card_would_send() {
    let segment = |seq: u8, payload: &[u8]| Segment {
        port: 1000,
        flags: flag::ACK,
        options: vec![seq; 12],
        payload: payload.to_vec(),
        ..Segment::default()
    };
    for outside in OUTSIDES {
        let to = at(outside, 9);
        let ip_len = if outside.is_ipv4() { 20 } else { 40 };
        let mut rows = vec![
            // A frame, the bytes of each of its headers, and of the payload of each piece.
            (frame::udp(1000, to, &[7; 128]), 14 + ip_len + 8, 1),
            (frame::udp(1000, to, &[7; 1234]), 14 + ip_len + 8, 100),
            (frame::tcp(to, &segment(1, &[7; 60_000])), 14 + ip_len + 32, 1448),
            (frame::udp(1000, to, &[7; 10]), 14 + ip_len + 8, 0),
        ];
        if outside.is_ipv6() {
            // Behind options, which the engine does not count exactly.
            let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &frame::udp_header(1, 9, &[7; 1280])];
            rows.push((frame::ip(outside, 60, &options.concat()), 14 + 20 + 8, 10));
        }
        for (row, header, segment_bytes) in rows {
            let pieces = match segment_bytes {
                0 => 1,
                bytes => (row.len() - header).div_ceil(bytes),
            };
            let wire = row.len() + (pieces - 1) * header;
            let offload = Offload {
                segment_bytes: segment_bytes as u16,
                header_bytes: 0,
                checksum: TransportChecksum::Vouched,
            };
            for (rate, each) in [(bandwidth(1_000_000), wire), (ops(5000), pieces)] {
                let mut room = Room::with(|c| c.from_guest_rate = Some(rate)).with_rings(1 << 20);
                let mut world = room.world();
                let us = 10_000_000;
                let rows = flood_with(&mut world, us, (&row, offload));
                let bucket = rate.bandwidth.or(rate.ops).unwrap();
                let per_ms = bucket.size / bucket.refill_ms;
                let expected = per_ms * us / 1000 + bucket.size;
                let taken = rows * each as u64;
                assert!(is_near(taken, expected), "{outside} {segment_bytes}: {taken}, {expected}");
            }
        }
    }
}

#[test]
fn the_guest_is_sent_datagrams_as_fast_as_it_may_within_two_percent() {
    for (mbit_per_s, us) in [(1, 60_000_000), (1000, 200_000), (5000, 50_000)] {
        let rate = bandwidth(mbit_per_s * 125_000);
        let frames = frames_to_guest(rate, us);
        let expected = mbit_per_s * us / 8 + rate.bandwidth.unwrap().size;
        assert!(is_near(frames * 1000, expected), "{mbit_per_s} Mbit/s: {frames} frames");
    }
}

#[test]
fn frames_to_the_guest_are_limited_as_bytes_are() {
    for (per_s, us) in [(100, 10_000_000), (10_000, 1_000_000), (200_000, 200_000)] {
        let rate = ops(per_s);
        let frames = frames_to_guest(rate, us);
        let expected = per_s * us / 1_000_000 + rate.ops.unwrap().size;
        assert!(is_near(frames, expected), "{per_s} a second: {frames} frames, not {expected}");
    }
    let ops = Some(Bucket { size: 10, refill_ms: 100, one_time_burst: 500 });
    let frames = frames_to_guest(Rate { bandwidth: None, ops }, 10_000_000);
    assert!(frames.abs_diff(500 + 10 + 1000) <= 2, "{frames} frames");
}

#[test]
fn a_download_takes_the_time_that_its_rate_says_and_is_whole() {
    for outside in OUTSIDES {
        // A byte a microsecond.
        let rate = bandwidth(1_000_000);
        let mut room = Room::with(|c| c.to_guest_rate = Some(rate));
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.window = 60_000;
        script.say(&mut world, 0, &[]);
        let begun = world.now();
        world.give(&Pattern::new(1).take(1_000_000));
        while script.received.len() < 1_000_000 {
            script.read(&mut world);
            world.run();
            if let Some(until) = world.wait().0 {
                world.clock.move_to(until);
            }
            assert!(world.now() < begun.plus_millis(2000), "{} bytes", script.received.len());
        }
        Pattern::new(1).check(&script.received);
        let took = world.now().as_micros() - begun.as_micros();
        // Headers are paid too, and the bucket was full.
        let wire = 1_000_000 + 1_000_000 / 1440 * 60 - 10_000;
        assert!(is_near(took, wire), "{took} us");
        assert_eq!(world.counters().dropped(Drop::AnswerLost), 0);
    }
}

#[test]
fn an_upload_is_whole_and_so_is_what_comes_down_beside_it() {
    let mut room = Room::with(|c| c.from_guest_rate = Some(bandwidth(50_000)));
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let mut sent = Pattern::new(1);
    let mut seen = Pattern::new(1);
    for _ in 0..30 {
        script.send(&mut world, &sent.take(1400));
        world.give(&[1; 10_000]);
        world.advance(20);
        script.read(&mut world);
        seen.check(&core::mem::take(&mut world.stream().received));
    }
    assert!(seen.len() < sent.len(), "some of it waits");
    for _ in 0..100 {
        world.advance(20);
        script.read(&mut world);
    }
    assert_eq!(
        script.received.len(),
        300_000,
        "what comes down is as free as its acknowledgements"
    );
    seen.check(&core::mem::take(&mut world.stream().received));
    assert_eq!(seen.len(), sent.len());
}

#[test]
fn answers_to_arp_pass_whatever_was_sent_before_and_are_paid() {
    let mut room = Room::with(|c| c.to_guest_rate = Some(bandwidth(100_000)));
    let mut world = room.world();
    let link = sim::default_config().link;
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 9), b"begin"));
    let index = world.datagram();
    let now = world.now();
    while world.engine.can_deliver(now) {
        world.deliver(index, &[7; PAYLOAD]);
    }
    world.inbox();
    let opens = world.wait().0;
    world.send(&frame::arp_request(link.guest_ipv4, link.gateway_ipv4));
    assert_eq!(world.inbox().len(), 1, "the answer");
    assert!(world.wait().0 > opens, "it was paid");
}

#[test]
fn a_limited_guest_that_is_silent_wakes_nobody() {
    let mut room = Room::with(|c| {
        c.from_guest_rate = Some(bandwidth(1_000_000));
        c.to_guest_rate = Some(bandwidth(1_000_000));
    });
    let mut world = room.world();
    world.run();
    assert_eq!(world.wait(), (None, WaitReason::Idle));
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 9), &[7; PAYLOAD]));
    assert_eq!(world.wait().1, WaitReason::Timer, "that of the flow");
}
