//! A capture of the link: every frame of either direction in its order, why one of the guest's went
//! no further, and how many there was no room for. Nobody waits for who reads.

use sim::frame;
use sim::guest::Script;
use sim::{Room, World};
use sluicegate_core::{Captured, CapturedKind, Consumer, Drop, FrameRing};

use crate::at;
use crate::policy_rules::{config_of, ip};

type Ring = std::sync::Arc<FrameRing<Vec<u8>>>;

/// Lets `world` be captured in a ring of `bytes`.
fn begin(world: &mut World<'_>, bytes: usize) -> Consumer<Ring> {
    let ring = Ring::new(FrameRing::new(vec![0; bytes]));
    let (producer, consumer) = FrameRing::split(ring);
    let now = world.now();
    world.engine.capture(now, Some(producer));
    consumer
}

/// What was captured: kinds and frames, with what was lost before each.
fn take(records: &mut Consumer<Ring>) -> Vec<(CapturedKind, Vec<u8>, u32)> {
    let mut all = vec![];
    while let Some(record) = records.read() {
        let captured = Captured::read(records.bytes(&record)).expect("a record");
        assert_eq!(captured.frame.len(), captured.len, "whole");
        all.push((captured.kind, captured.frame.to_vec(), captured.lost));
    }
    records.release();
    all
}

#[test]
fn every_frame_is_captured_as_it_was_and_in_its_order() {
    let mut room = Room::new(config_of("allow", &[]));
    let mut world = room.world();
    let mut records = begin(&mut world, 512 * 1024);
    let script = Script::new(at(ip("1.1.1.1"), 80), 40_000);
    let syn = frame::tcp(script.to, &script.syn());
    world.send(&syn);
    let captured = take(&mut records);
    let kinds: Vec<_> = captured.iter().map(|(kind, _, _)| *kind).collect();
    use CapturedKind::{FromGuest, ToGuest, TurnEnd};
    assert_eq!(kinds, [FromGuest, ToGuest, TurnEnd], "the SYN, then its answer");
    assert_eq!(captured[0].1, syn, "before anything was done with it");
    let answers = world.inbox();
    assert_eq!(answers.len(), 1);
    assert_eq!(captured[1].1[47], 0x12, "what the guest gets: {captured:?}");
    let now = world.now();
    world.engine.capture(now, None);
    world.send(&frame::udp(1, at(ip("1.1.1.1"), 99), b"ask"));
    assert_eq!(take(&mut records), [], "and no more");
}

#[test]
fn a_frame_that_goes_no_further_is_followed_by_its_answers_and_then_by_why() {
    let mut room = Room::new(config_of("deny", &[]));
    let mut world = room.world();
    let mut records = begin(&mut world, 512 * 1024);
    let script = Script::new(at(ip("1.1.1.1"), 80), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    let kinds: Vec<_> = take(&mut records).iter().map(|(kind, _, _)| *kind).collect();
    use CapturedKind::{Dropped, FromGuest, ToGuest, TurnEnd};
    assert_eq!(kinds, [FromGuest, ToGuest, Dropped(Drop::Denied), TurnEnd]);
    world.send(&[0; 10]);
    let kinds: Vec<_> = take(&mut records).iter().map(|(kind, _, _)| *kind).collect();
    assert_eq!(kinds, [FromGuest, Dropped(Drop::Truncated), TurnEnd]);
}

/// How many records an upload of 300 segments and one more is, with a ring of `bytes`: those that
/// were kept, and how many were lost before any.
fn upload(bytes: usize) -> (usize, u32) {
    let mut room = Room::new(config_of("allow", &[]));
    let mut world = room.world();
    let mut records = begin(&mut world, bytes);
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    for _ in 0..300 {
        script.send(&mut world, &[7; 1460]);
    }
    let mut kept = take(&mut records);
    script.send(&mut world, &[8; 100]);
    kept.extend(take(&mut records));
    assert_eq!(world.stream().received.len(), 300 * 1460 + 100, "it all went on");
    let lost: u32 = kept.iter().map(|(_, _, lost)| lost).sum();
    assert_eq!(world.counters().capture_lost, u64::from(lost));
    (kept.len(), lost)
}

#[test]
fn a_reader_that_does_not_read_loses_and_is_told_how_much_and_nobody_waits() {
    let (all, none) = upload(2 * 1024 * 1024);
    assert!(all > 600 && none == 0, "{all} {none}");
    let (kept, lost) = upload(256 * 1024);
    assert!(lost > 200, "{lost}");
    // What ends a turn of which nothing was kept is not lost: it is not written at all.
    assert!((all / 2..=all).contains(&(kept + lost as usize)), "{kept} + {lost} of {all}");
}
