//! Malformed questions: whatever the guest says, there is one answer at most, and it is whole.

use sim::{Dice, World, default_config};
use sluicegate_core::Drop;

use super::{LINK_LOCAL, adverts, dhcp, dhcpv6, room};

/// Messages from which shapes are made: good ones, with every kind of option.
fn seeds() -> [Vec<u8>; 2] {
    let ask = dhcp::Ask::discover()
        .with(61, &[1, 2, 0x6d, 0x73, 0, 0, 2])
        .with(50, &[100, 96, 0, 2])
        .with(55, &[1, 3, 6, 15, 26, 119])
        .with(80, &[]);
    let association = [&[0, 0, 0, 7][..], &[0; 8], &dhcpv6::option(5, &[0; 24])].concat();
    let mut solicit = dhcpv6::Ask::solicit().text();
    solicit.extend(dhcpv6::option(3, &association));
    solicit.extend(dhcpv6::option(25, &association[..12]));
    solicit.extend(dhcpv6::option(4, &association[..4]));
    solicit.extend(dhcpv6::option(6, &[0, 23, 0, 24]));
    solicit.extend(dhcpv6::option(14, &[]));
    [ask.text(), solicit]
}

fn frames(texts: &[Vec<u8>; 2]) -> [Vec<u8>; 2] {
    [dhcp::frame_of(&texts[0], [0; 4], [255; 4]), dhcpv6::frame_of(&texts[1])]
}

/// Sends `frame`; the rules of the wire are the oracle's. True: it was answered.
fn survives(world: &mut World<'_>, frame: &[u8]) -> bool {
    let dropped = world.dropped(frame);
    let answers = world.inbox().len();
    assert!(answers <= 1, "{answers} answers to {frame:02x?}");
    assert!(answers == 0 || dropped.is_none(), "dropped and answered: {frame:02x?}");
    answers == 1
}

#[test]
fn a_message_cut_short_anywhere_has_one_answer_at_most() {
    let mut room = room();
    let mut world = room.world();
    let whole = seeds();
    for len in 0..whole[0].len() {
        let frame = dhcp::frame_of(&whole[0][..len], [0; 4], [255; 4]);
        let answered = survives(&mut world, &frame);
        // What came whole before the cut counts.
        assert!(!answered || len >= 243, "{len} bytes are answered");
    }
    for len in 0..whole[1].len() {
        survives(&mut world, &dhcpv6::frame_of(&whole[1][..len]));
    }
    assert!(survives(&mut world, &frames(&whole)[0]));
}

#[test]
fn an_option_that_overruns_is_no_option_and_a_dhcpv6_message_with_one_is_none() {
    let mut room = room();
    let mut world = room.world();
    for (text, reason) in [
        (dhcpv6::option(1, &[1]), Drop::Malformed),
        ([dhcpv6::option(1, &[1]), vec![0, 3, 0]].concat(), Drop::Malformed),
        ([dhcpv6::option(1, &[1]), vec![0, 3, 0, 13, 1, 2]].concat(), Drop::Malformed),
        ([dhcpv6::option(1, &[1]), vec![0, 3, 0xff, 0xff]].concat(), Drop::Malformed),
        // An association shorter than its own head, and one whose address is not whole.
        ([dhcpv6::option(1, &[1]), dhcpv6::option(3, &[0; 11])].concat(), Drop::Malformed),
        ([dhcpv6::option(1, &[1]), dhcpv6::option(4, &[0; 3])].concat(), Drop::Malformed),
        (
            [dhcpv6::option(1, &[1]), {
                let address = dhcpv6::option(5, &[0; 23]);
                dhcpv6::option(3, &[&[0; 12][..], &address].concat())
            }]
            .concat(),
            Drop::Malformed,
        ),
        (
            [dhcpv6::option(1, &[1]), {
                let lie = [0, 5, 0, 24, 0, 0];
                dhcpv6::option(3, &[&[0; 12][..], &lie].concat())
            }]
            .concat(),
            Drop::Malformed,
        ),
        ([dhcpv6::option(1, &[])].concat(), Drop::Malformed),
        ([dhcpv6::option(1, &[1]), dhcpv6::option(6, &[1])].concat(), Drop::Malformed),
        ([dhcpv6::option(1, &[1]), dhcpv6::option(14, &[1])].concat(), Drop::Malformed),
    ]
    .into_iter()
    .skip(1)
    {
        let message = [&[1, 0, 0, 1][..], &text].concat();
        assert_eq!(world.dropped(&dhcpv6::frame_of(&message)), Some(reason), "{text:?}");
    }
    // Of DHCP, what comes before the lie counts; a type that is part of it does not.
    let mut text = dhcp::Ask::discover().text();
    text.truncate(243);
    text.extend([61, 200, 1, 2, 3]);
    assert!(survives(&mut world, &dhcp::frame_of(&text, [0; 4], [255; 4])));
    text.splice(240..243, []);
    text.extend([53, 1, 1]);
    let frame = dhcp::frame_of(&text, [0; 4], [255; 4]);
    assert_eq!(world.dropped(&frame), Some(Drop::Unsupported));
    for option in [[50, 3], [50, 5], [54, 0], [54, 16], [53, 2], [80, 1], [61, 0], [55, 0]] {
        let data = vec![0; usize::from(option[1])];
        let ask = dhcp::Ask::discover().with(option[0], &data);
        assert_eq!(world.dropped(&ask.frame()), Some(Drop::Malformed), "{option:?}");
    }
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn every_byte_of_a_message_may_be_anything() {
    let mut room = room();
    let mut world = room.world();
    for which in 0..2 {
        let whole = seeds();
        for at in 0..whole[which].len() {
            for value in [0, 1, 2, 3, 5, 0x7f, 0x80, 0xfe, 0xff] {
                let mut texts = whole.clone();
                texts[which][at] = value;
                survives(&mut world, &frames(&texts)[which]);
            }
        }
    }
}

#[test]
fn random_bytes_and_random_changes_harm_nobody() {
    let mut room = room();
    let mut world = room.world();
    let mut dice = Dice::new(8415);
    let mut answers = 0;
    for _ in 0..20_000 {
        let mut texts = seeds();
        for text in &mut texts {
            for _ in 0..dice.below(6) {
                if text.len() < 9 {
                    break;
                }
                let at = dice.below(text.len() as u64) as usize;
                match dice.below(4) {
                    0 => text[at] = dice.below(256) as u8,
                    1 => text.insert(at, dice.below(256) as u8),
                    2 => drop(text.remove(at)),
                    _ => text.truncate(at.max(1)),
                }
            }
        }
        let solicit: Vec<u8> = (0..dice.below(40)).map(|_| dice.below(256) as u8).collect();
        let solicit = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &solicit].concat();
        let all_routers = "ff02::2".parse().unwrap();
        for frame in frames(&texts) {
            answers += usize::from(survives(&mut world, &frame));
        }
        survives(&mut world, &adverts::frame_of((LINK_LOCAL, all_routers), &solicit));
    }
    assert!(answers > 5000, "{answers} were good enough for an answer");
    // Nothing of it is remembered.
    assert!(survives(&mut world, &dhcp::Ask::discover().frame()));
    assert!(survives(&mut world, &dhcpv6::Ask::solicit().frame()));
    assert_eq!(world.peers.log, vec![]);
}

#[test]
fn a_flood_has_one_answer_a_question_and_leaves_flows_alone() {
    let mut room = room();
    let mut world = room.world();
    let to = crate::at(sim::frame::OUTSIDE_V4, 4000);
    world.send(&sim::frame::udp(4001, to, b"hello"));
    let index = world.datagram();
    let questions = frames(&seeds());
    let mut sent = 0;
    for _ in 0..200 {
        for frame in &questions {
            sent += usize::from(world.push(frame));
        }
    }
    world.run();
    assert_eq!(world.inbox().len(), sent);
    world.deliver(index, b"still here");
    let guest = default_config().link.guest_ipv4;
    let seen = crate::only(&mut world);
    assert_eq!(super::datagram(&seen).1.1, core::net::IpAddr::from(guest));
}
