//! A guest that takes no frames: its flows wait, nothing spins, nothing is lost that must not be.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES};
use sim::guest::Script;
use sim::{Message, Pattern, Piece, Room, World, reassemble};
use sluicegate_core::{Drop, WaitReason};

use crate::at;

#[test]
fn egress_waits_for_room_and_goes_on_where_it_stopped() {
    for outside in OUTSIDES {
        let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 20).with_rings(1 << 18);
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.window = 60_000; // times 128: more than the ring takes
        script.say(&mut world, 0, &[]);
        world.stalled = true;
        let mut sent = Pattern::new(1);
        world.give(&sent.take(600_000));
        assert_eq!(world.wait().1, WaitReason::GuestRingFull);
        // The guest takes frames one by one, and says nothing.
        while world.collect_one() {
            world.run();
        }
        assert!(world.inbox.len() * 1460 > 600_000);
        script.acknowledges = false;
        script.read(&mut world);
        Pattern::new(1).check(&script.received);
        assert_eq!(script.received.len(), 600_000, "without a retransmission, since none is lost");
        assert_eq!(world.counters().dropped(Drop::AnswerLost), 0);
    }
}

#[test]
fn a_stalled_guest_is_still_heard() {
    let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 20).with_rings(1 << 18);
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.window = 60_000;
    script.say(&mut world, 0, &[]);
    world.stalled = true;
    world.give(&[1; 600_000]);
    let mut sent = Pattern::new(2);
    for _ in 0..20 {
        script.send(&mut world, &sent.take(1000));
    }
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 53), b"ask"));
    assert_eq!(world.peers.datagrams[&world.datagram()].sent, [b"ask"]);
    Pattern::new(2).check(&world.stream().received);
    assert_eq!(world.stream().received.len(), 20_000);
}

#[test]
fn a_guest_that_sleeps_for_a_minute_finds_its_connections_alive() {
    let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 20).with_rings(1 << 18);
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.window = 60_000;
    script.say(&mut world, 0, &[]);
    world.stalled = true;
    world.give(&Pattern::new(1).take(600_000));
    for _ in 0..60 {
        world.advance(1000);
    }
    world.stalled = false;
    world.run();
    for _ in 0..20 {
        script.read(&mut world);
        world.advance(100);
    }
    Pattern::new(1).check(&script.received);
    assert_eq!((script.received.len(), script.reset), (600_000, false));
}

#[test]
fn a_guest_that_never_wakes_loses_its_connections_to_their_timers() {
    let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 20).with_rings(1 << 18);
    let mut world = room.world();
    for port in 0..3 {
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000 + port);
        script.window = 60_000;
        script.say(&mut world, 0, &[]);
    }
    world.stalled = true;
    for stream in world.peers.streams.values_mut() {
        stream.to_give.extend(vec![1; 600_000]);
    }
    world.run();
    world.advance(3 * 3600 * 1000);
    assert_eq!(world.peers.streams.len(), 0, "the host's sockets are free");
    // What is left is three resets, for which there is no room.
    assert_eq!(world.wait(), (None, WaitReason::GuestRingFull));
    world.stalled = false;
    world.run();
    world.advance(1000);
    assert_eq!(world.wait(), (None, WaitReason::Idle));
}

#[test]
fn answers_without_room_are_lost_and_counted_and_the_rest_goes_on() {
    let mut room = Room::plain().with_rings(1 << 18);
    let mut world = room.world();
    world.stalled = true;
    let ping = frame::echo(frame::gateway(OUTSIDE_V4), 1, 1, &[1; 1400]);
    let mut sent = 0;
    while world.counters().dropped(Drop::AnswerLost) == 0 {
        world.send(&ping);
        sent += 1;
        assert!(sent < 1000, "a ring has an end");
    }
    world.stalled = false;
    world.run();
    assert_eq!(world.inbox().len(), sent - 1);
    world.send(&ping);
    assert_eq!(world.inbox().len(), 1);
}

#[test]
fn a_datagram_for_which_there_is_room_arrives_whole() {
    for outside in OUTSIDES {
        for receive in [1514, 1600, 5000] {
            let mut room = Room::with(|c| {
                c.link.receive_frame_bytes = receive;
                c.link.mtu = 5000;
            })
            .with_rings(1 << 18);
            let mut world = room.world();
            world.send(&frame::udp(1000, at(outside, 53), b"ask"));
            let index = world.datagram();
            let flow = world.peers.datagrams[&index].id;
            world.stalled = true;
            let (mut sent, now) = (0, world.now());
            // Small ones to move the ring's end, and then the longest.
            for small in 0..200 {
                if !can_deliver(&mut world) {
                    break;
                }
                world.engine.deliver(now, flow, &vec![1; 700 + small]);
                if small % 3 == 0 && can_deliver(&mut world) {
                    world.engine.deliver(now, flow, &Pattern::new(sent).take(65_507));
                    sent += 1;
                }
            }
            world.stalled = false;
            world.run();
            assert_eq!(world.counters().dropped(Drop::AnswerLost), 0, "room is room");
            let mut pieces: Vec<Piece> = vec![];
            let mut whole = 0;
            for seen in world.inbox() {
                let Message::Piece(piece) = seen.message else { continue };
                let last = !piece.more;
                pieces.push(piece);
                if last {
                    let Ok(Message::Udp { payload, .. }) = reassemble(&pieces) else {
                        panic!("a datagram that is not whole");
                    };
                    assert!(payload == Pattern::new(whole).take(65_507));
                    whole += 1;
                    pieces.clear();
                }
            }
            assert_eq!((whole, sent > 0), (sent, true));
        }
    }
}

fn can_deliver(world: &mut World<'_>) -> bool {
    let now = world.now();
    world.engine.can_deliver(now)
}
