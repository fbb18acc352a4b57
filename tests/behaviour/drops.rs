//! Hostile frames: each is dropped, counted once, by its reason, and harms nothing.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sim::frame::{self, ETHERNET, OUTSIDE_V4, OUTSIDE_V6, OUTSIDES, Segment, flag, protocol};
use sim::guest::Script;
use sim::{Dice, Did, Room, World};
use sluicegate_core::Drop;

use crate::{at, everybody};

/// One good frame of each kind, in each family.
fn good_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut frames = vec![];
    for outside in OUTSIDES {
        let script = Script::new(at(outside, 80), 40_000);
        frames.push(("a SYN", frame::tcp(script.to, &script.syn())));
        frames.push(("UDP", frame::udp(1000, at(outside, 53), b"data")));
        frames.push(("a ping", frame::echo(outside, 7, 1, b"data")));
    }
    frames
}

/// Frames that a world has answered with nothing but a count.
fn assert_silent(world: &World<'_>) {
    assert_eq!(world.inbox, vec![], "no answer");
    assert_eq!(world.peers.log, vec![], "nothing for the host");
    assert_eq!(world.wait().0, None, "nothing to wait for");
}

#[test]
fn frames_of_every_length_up_to_60_bytes_are_dropped() {
    for fill in [0, 0xff, 0x45, 0x60] {
        let mut room = Room::plain();
        let mut world = room.world();
        for len in 0..=60 {
            assert!(world.dropped(&vec![fill; len]).is_some(), "{len} bytes of {fill:#x}");
        }
        assert_silent(&world);
    }
}

#[test]
fn headers_cut_short_at_every_length_are_truncated() {
    for (what, frame) in good_frames() {
        let mut room = Room::plain();
        let mut world = room.world();
        for len in 0..frame.len() {
            let reason = world.dropped(&frame[..len]);
            assert_eq!(reason, Some(Drop::Truncated), "{what} cut to {len}");
        }
        assert_silent(&world);
        assert_eq!(world.dropped(&frame), None, "{what} in full");
    }
}

#[test]
fn transports_cut_short_in_packets_that_are_right_are_truncated() {
    for (what, frame) in good_frames() {
        let v4 = frame[ETHERNET] >> 4 == 4;
        let header = ETHERNET + if v4 { 20 } else { 40 };
        let minimum = if what == "a SYN" { 32 } else { 8 };
        let mut room = Room::plain();
        let mut world = room.world();
        for len in 0..minimum {
            let mut cut = frame[..header + len].to_vec();
            if v4 {
                let total = (20 + len) as u16;
                cut[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
            } else {
                cut[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(len as u16).to_be_bytes());
            }
            frame::mend(&mut cut);
            let reason = world.dropped(&cut);
            let shown = matches!(reason, Some(Drop::Truncated | Drop::Checksum | Drop::Malformed));
            assert!(shown, "{what} cut to {len}: {reason:?}");
        }
        assert_silent(&world);
    }
}

#[test]
fn a_single_flipped_bit_never_passes_a_checksum() {
    for (what, frame) in good_frames() {
        let mut room = Room::plain();
        let mut world = room.world();
        // The IPv6 header has no checksum of its own: traffic class, flow label and hop limit are
        // nobody's business.
        let free = |byte: usize| frame[ETHERNET] >> 4 == 6 && (byte < 4 || byte == 7);
        for byte in (0..frame.len() - ETHERNET).filter(|&byte| !free(byte)) {
            for bit in 0..8 {
                let mut bad = frame.clone();
                bad[ETHERNET + byte] ^= 1 << bit;
                assert!(world.dropped(&bad).is_some(), "{what}: bit {bit} of byte {byte}");
                // Nor does its next header have one: the guest hears that this one is not known.
                let told = world.inbox();
                let may_be_told = frame[ETHERNET] >> 4 == 6 && byte == 6;
                assert!(told.is_empty() || may_be_told, "{what}: bit {bit} of byte {byte}");
            }
        }
        assert_silent(&world);
    }
}

#[test]
fn wrong_checksums_are_counted_as_such() {
    let sums = [
        (OUTSIDE_V4, vec![10, 20 + 16], vec![10, 20 + 6], vec![10, 20 + 2]),
        (OUTSIDE_V6, vec![40 + 16], vec![40 + 6], vec![40 + 2]),
    ];
    for (outside, tcp, udp, echo) in sums {
        let script = Script::new(at(outside, 80), 40_000);
        let frames = [
            (frame::tcp(script.to, &script.syn()), tcp),
            (frame::udp(1000, at(outside, 53), b"data"), udp),
            (frame::echo(outside, 7, 1, b"data"), echo),
        ];
        let mut room = Room::plain();
        let mut world = room.world();
        for (frame, fields) in frames {
            for field in fields {
                let mut bad = frame.clone();
                bad[ETHERNET + field] ^= 0x55;
                assert_eq!(world.dropped(&bad), Some(Drop::Checksum));
            }
        }
        assert_silent(&world);
    }
}

#[test]
fn lengths_that_contradict_each_other_are_dropped() {
    for (what, frame) in good_frames() {
        let v4 = frame[ETHERNET] >> 4 == 4;
        let mut room = Room::plain();
        let mut world = room.world();
        let field = ETHERNET + if v4 { 2 } else { 4 };
        for length in [0u16, 1, 19, 20, 27, 1500, 9000, u16::MAX] {
            let mut bad = frame.clone();
            bad[field..field + 2].copy_from_slice(&length.to_be_bytes());
            frame::mend_ip(&mut bad);
            assert!(world.dropped(&bad).is_some(), "{what} of {length}");
        }
        assert_silent(&world);
    }
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let udp = frame::udp(1000, at(outside, 53), b"data");
        let field = udp.len() - 12 + 4;
        for length in [0u16, 1, 7, 13, 1000, u16::MAX] {
            let mut bad = udp.clone();
            bad[field..field + 2].copy_from_slice(&length.to_be_bytes());
            frame::mend(&mut bad);
            assert!(world.dropped(&bad).is_some(), "UDP of {length}");
        }
        let script = Script::new(at(outside, 80), 40_000);
        let syn = frame::tcp(script.to, &script.syn());
        let field = syn.len() - 32 + 12;
        for offset in [0u8, 1, 4, 9, 15] {
            let mut bad = syn.clone();
            bad[field] = offset << 4;
            frame::mend(&mut bad);
            assert_eq!(world.dropped(&bad), Some(Drop::Truncated), "TCP at {offset}");
        }
        assert_silent(&world);
    }
}

#[test]
fn header_fields_that_contradict_their_version_are_malformed() {
    let mut room = Room::plain();
    let mut world = room.world();
    for outside in OUTSIDES {
        let frame = frame::udp(1000, at(outside, 53), b"data");
        for first in [0x05, 0x15, 0x55, 0xf5] {
            let mut bad = frame.clone();
            bad[ETHERNET] = first;
            assert!(world.dropped(&bad).is_some(), "version {:x}", first >> 4);
        }
    }
    for words in 0..5 {
        let mut bad = frame::udp(1000, at(OUTSIDE_V4, 53), b"data");
        bad[ETHERNET] = 0x40 | words;
        let reason = world.dropped(&bad);
        let known = matches!(reason, Some(Drop::Malformed | Drop::Truncated));
        assert!(known, "a header of {words} words: {reason:?}");
    }
    assert_silent(&world);
}

#[test]
fn frames_of_other_macs_and_to_other_macs_are_dropped() {
    let mut room = Room::plain();
    let mut world = room.world();
    for (what, frame) in good_frames() {
        for byte in 0..6 {
            let mut spoofed = frame.clone();
            spoofed[6 + byte] ^= 0x10;
            assert_eq!(world.dropped(&spoofed), Some(Drop::SourceMac), "{what}");
            let mut stray = frame.clone();
            stray[byte] ^= 0x10;
            assert_eq!(world.dropped(&stray), Some(Drop::DestinationMac), "{what}");
        }
    }
    assert_silent(&world);
}

#[test]
fn packets_of_other_addresses_are_dropped() {
    let mut room = Room::plain();
    let mut world = room.world();
    let syn = |ends: (IpAddr, IpAddr)| {
        let script = Script::new(at(ends.1, 80), 40_000);
        let tcp = frame::tcp(script.to, &script.syn());
        let header = ETHERNET + if ends.0.is_ipv4() { 20 } else { 40 };
        frame::packet(ends, protocol::TCP, &tcp[header..])
    };
    for from in ["0.0.0.0", "100.96.0.1", "100.96.0.3", "127.0.0.1", "8.8.8.8", "224.0.0.1"] {
        let ends = (from.parse().unwrap(), OUTSIDE_V4);
        assert_eq!(world.dropped(&syn(ends)), Some(Drop::SourceAddress), "a SYN from {from}");
        let datagram = frame::packet(ends, protocol::UDP, &frame::udp_header(1, 53, b"data"));
        assert_eq!(world.dropped(&datagram), Some(Drop::SourceAddress), "UDP from {from}");
    }
    for from in ["::", "::1", "fd42:6d73:62::1", "fd42:6d73:62::3", "fe80::2", "2001:db8::1"] {
        let ends = (from.parse().unwrap(), OUTSIDE_V6);
        assert_eq!(world.dropped(&syn(ends)), Some(Drop::SourceAddress), "a SYN from {from}");
        let datagram = frame::packet(ends, protocol::UDP, &frame::udp_header(1, 53, b"data"));
        assert_eq!(world.dropped(&datagram), Some(Drop::SourceAddress), "UDP from {from}");
    }
    assert_silent(&world);
}

#[test]
fn packets_to_addresses_that_no_guest_may_name_are_dropped() {
    let mut room = Room::plain();
    let mut world = room.world();
    let v4 = [
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "100.96.0.0",
        "100.96.0.2",
        "100.96.0.3",
    ];
    let v6 = [
        "::",
        "::1",
        "ff02::1",
        "ff05::2",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:0",
        "fd42:6d73:62::2",
        "fd42:6d73:62::3",
    ];
    for to in v4.iter().chain(&v6) {
        let to: IpAddr = to.parse().unwrap();
        let script = Script::new(at(to, 80), 40_000);
        for frame in [
            frame::tcp(script.to, &script.syn()),
            frame::udp(1000, at(to, 53), b"data"),
            frame::echo(to, 7, 1, b"data"),
        ] {
            assert_eq!(world.dropped(&frame), Some(Drop::DestinationAddress), "{to}");
        }
    }
    assert_silent(&world);
}

#[test]
fn ports_that_must_not_be_zero_are_not() {
    let mut room = Room::plain();
    let mut world = room.world();
    for outside in OUTSIDES {
        let syn = Script::new(at(outside, 80), 0).syn();
        assert_eq!(world.dropped(&frame::tcp(at(outside, 80), &syn)), Some(Drop::Port));
        let syn = Script::new(at(outside, 80), 40_000).syn();
        assert_eq!(world.dropped(&frame::tcp(at(outside, 0), &syn)), Some(Drop::Port));
        let udp = frame::udp(1000, at(outside, 0), b"data");
        assert_eq!(world.dropped(&udp), Some(Drop::Port));
    }
    assert_silent(&world);
}

#[test]
fn protocols_that_are_not_served_are_unsupported() {
    let mut room = Room::plain();
    let mut world = room.world();
    for kind in [0x0000, 0x05dc, 0x0801, 0x8100, 0x88a8, 0x8863, 0xffff] {
        let frame = frame::ethernet(kind, &[0; 60]);
        assert_eq!(world.dropped(&frame), Some(Drop::Unsupported), "{kind:#x}");
    }
    for outside in OUTSIDES {
        for number in [2, 41, 47, 50, 51, 59, 89, 103, 132, 136, 255] {
            let frame = frame::ip(outside, number, &[0; 40]);
            assert_eq!(world.dropped(&frame), Some(Drop::Unsupported), "protocol {number}");
        }
    }
    let told = 11 + 10; // Nothing is missed where no header is next, in IPv6.
    assert_eq!(world.inbox().len(), told, "what is said of them: `header_problems`");
    // Each family has its own ICMP.
    let frame = frame::ip(OUTSIDE_V4, protocol::ICMPV6, &[128, 0, 0, 0, 0, 7, 0, 1]);
    assert_eq!(world.dropped(&frame), Some(Drop::Unsupported));
    let frame = frame::ip(OUTSIDE_V6, protocol::ICMP, &[8, 0, 0, 0, 0, 7, 0, 1]);
    assert_eq!(world.dropped(&frame), Some(Drop::Unsupported));
    assert_eq!(world.inbox().len(), 2);
    assert_silent(&world);
}

#[test]
fn a_packet_longer_than_the_mtu_is_dropped_and_one_as_long_is_not() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let header = 8 + if outside.is_ipv4() { 20 } else { 40 };
        let exact = frame::udp(1000, at(outside, 53), &vec![1; 1500 - header]);
        assert_eq!(world.dropped(&exact), None);
        let longer = frame::udp(1000, at(outside, 53), &vec![1; 1501 - header]);
        assert_eq!(world.dropped(&longer), Some(Drop::TooLong));
        let longest = frame::udp(1000, at(outside, 53), &vec![1; 65_000]);
        assert_eq!(world.dropped(&longest), Some(Drop::TooLong));
    }
}

#[test]
fn options_of_length_0_and_hop_by_hop_headers_that_come_late_are_malformed() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link = sim::default_config().link;
    let mut solicit = frame::solicit(link.guest_ipv6, link.gateway_ipv6);
    // RFC 4861 7.1.1: all options have a length greater than zero.
    solicit[ETHERNET + 40 + 25] = 0;
    frame::mend(&mut solicit);
    assert_eq!(world.dropped(&solicit), Some(Drop::Malformed));
    let mut late = frame::udp(1000, at(OUTSIDE_V6, 53), b"data");
    frame::extend(&mut late, protocol::HOP_BY_HOP);
    assert_eq!(world.dropped(&late), None, "where it belongs (RFC 8200 4.1)");
    frame::extend(&mut late, protocol::DESTINATION_OPTIONS);
    assert_eq!(world.dropped(&late), Some(Drop::Malformed));
}

/// Whether `frame` has a piece of a datagram, which waits for others.
fn is_piece(frame: &[u8]) -> bool {
    match frame.get(ETHERNET..) {
        Some([0x45..=0x4f, _, _, _, _, _, flags, offset, ..]) => flags & 0x3f != 0 || *offset != 0,
        Some(packet) => packet.get(6) == Some(&protocol::FRAGMENT),
        None => false,
    }
}

/// Whether `frame` asks whose the guest's own address is, or nobody's: silence is the answer.
fn asks_for_the_guest(frame: &[u8]) -> bool {
    let link = sim::default_config().link;
    let whom = match frame.get(12..14) {
        Some([8, 6]) => frame.get(ETHERNET + 24..ETHERNET + 28),
        _ => None,
    };
    whom.is_some_and(|whom| whom == link.guest_ipv4.octets() || whom == [0; 4])
}

#[test]
fn random_frames_harm_nothing_and_each_is_accounted_for() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut dice = Dice::new(1);
    let mut bases: Vec<Vec<u8>> = good_frames().into_iter().map(|(_, frame)| frame).collect();
    let link = sim::default_config().link;
    bases.push(frame::arp_request(link.guest_ipv4, link.gateway_ipv4));
    bases.push(frame::solicit(link.guest_ipv6, link.gateway_ipv6));
    let long = frame::udp(1000, at(OUTSIDE_V4, 53), &[1; 1400]);
    bases.extend(frame::fragments(&long, 5, 400));
    let long = frame::udp(1000, at(OUTSIDE_V6, 53), &[1; 1400]);
    bases.extend(frame::fragments(&long, 5, 400));
    for _ in 0..60_000 {
        let mut frame = bases[dice.below(bases.len() as u64) as usize].clone();
        for _ in 0..dice.below(4) {
            let at = dice.between(12, frame.len() as u64 - 1) as usize;
            frame[at] = dice.draw() as u8;
        }
        if dice.one_of(100) {
            frame.truncate(dice.between(0, frame.len() as u64) as usize);
        }
        // Most would die of their checksums: half of them get good ones.
        if dice.one_of(500) && frame.len() > ETHERNET + 60 && dice.one_of(900) {
            let plausible = matches!(frame[ETHERNET], 0x45..=0x4f | 0x60..=0x6f);
            let header = usize::from(frame[ETHERNET] & 15) * 4;
            if plausible && (frame[ETHERNET] >= 0x60 || frame.len() > ETHERNET + header) {
                frame::mend(&mut frame);
            }
        }
        let dropped = world.dropped(&frame);
        let is_seen = !(world.inbox.is_empty() && world.peers.log.is_empty());
        let is_kept = is_piece(&frame) || asks_for_the_guest(&frame);
        assert!(dropped.is_some() || is_seen || is_kept, "not accounted for: {frame:02x?}");
        world.inbox.clear();
        world.raw.clear();
        world.peers.log.clear();
        world.peers.ended.clear();
        if dice.one_of(10) {
            world.advance(dice.below(5000));
        }
    }
    world.advance(24 * 3600 * 1000);
    assert_eq!(world.wait().0, None, "all of it passes");
}

/// What the outside has of one connection's guest.
struct End {
    flow: u32,
    received: usize,
    is_finished: bool,
}

impl End {
    /// Sends `segment`, and checks that it was either of use or counted as a drop, as RFC 9293
    /// 3.10.7.4 has it. False: the connection has ended, or another begun.
    fn accounts_for(&mut self, world: &mut World<'_>, script: &Script, segment: &Segment) -> bool {
        let finish = usize::from(self.is_finished);
        let expected = script.next.wrapping_add((self.received + finish) as u32);
        world.peers.log.clear();
        let dropped = world.dropped(&frame::tcp(script.to, segment));
        let ends = |did: &Did| matches!(did, Did::Reset { .. } | Did::Connect { .. });
        if world.peers.log.iter().any(ends) {
            assert_eq!(dropped, None, "an end, or a beginning: {segment:?}");
            return false;
        }
        let known = (self.received, self.is_finished);
        if let Some(stream) = world.peers.streams.get(&self.flow) {
            (self.received, self.is_finished) = (stream.received.len(), stream.guest_finished);
        }
        let is_news = (self.received, self.is_finished) != known;
        let ahead = i64::from(segment.seq.wrapping_sub(expected).cast_signed());
        let is_in_window = (0..8192).contains(&ahead);
        let is_acceptable = match (segment.payload.len(), segment.flags & flag::FIN != 0) {
            (0 | 1, false) if ahead == -1 => true,
            (0, false) => is_in_window,
            (0, true) => false,
            (_, _) => is_in_window && ahead > 0 && !known.1,
        };
        let is_plain = segment.flags & (flag::SYN | flag::RST | flag::ACK) == flag::ACK;
        let is_of_use = is_news || is_acceptable && is_plain;
        assert!(dropped.is_some() || is_of_use, "not accounted for, {ahead} ahead: {segment:?}");
        assert!(dropped.is_none() || !is_news, "counted as {dropped:?}, and used: {segment:?}");
        true
    }
}

#[test]
fn random_segments_of_a_live_connection_harm_nothing() {
    let mut dice = Dice::new(2);
    for round in 0..40 {
        let mut room = Room::with(|c| {
            c.tcp_receive_bytes = 8192;
            c.tcp_send_bytes = 8192;
        });
        let mut world = room.world();
        let outside = OUTSIDES[round % 2];
        let script = Script::connect(&mut world, at(outside, 80), 40_000);
        let mut end = End { flow: world.stream().id.index, received: 0, is_finished: false };
        for _ in 0..500 {
            let near = |dice: &mut Dice, base: u32| match dice.below(8) {
                0 => dice.draw() as u32,
                1 => base.wrapping_add(1 << 31).wrapping_sub(dice.below(3) as u32),
                2 => base.wrapping_add(dice.below(200_000) as u32),
                3 => base.wrapping_sub(dice.below(200_000) as u32),
                _ => base.wrapping_add(dice.below(20) as u32).wrapping_sub(10),
            };
            let flags = match dice.below(12) {
                0 => dice.draw() as u8,
                1 => flag::FIN | flag::ACK,
                2 => flag::SYN,
                3 => flag::SYN | flag::ACK,
                _ => flag::ACK,
            };
            let flags = if dice.one_of(990) { flags & !flag::RST } else { flags };
            let mut options = vec![0; dice.below(11) as usize * 4];
            options.iter_mut().for_each(|byte| *byte = (dice.draw() % 10) as u8);
            let segment = Segment {
                port: 40_000,
                seq: near(&mut dice, script.next),
                ack: near(&mut dice, script.expected),
                flags,
                window: dice.draw() as u16,
                urgent: dice.draw() as u16,
                options,
                payload: vec![7; dice.below(1400) as usize],
            };
            if !end.accounts_for(&mut world, &script, &segment) {
                break;
            }
            if dice.one_of(50) {
                world.advance(dice.below(3000));
            }
            for stream in world.peers.streams.values_mut() {
                if dice.one_of(100) {
                    stream.to_give.extend([1; 3000]);
                }
                stream.finishes |= dice.one_of(5);
            }
            world.inbox.clear();
            world.raw.clear();
        }
        world.advance(24 * 3600 * 1000);
        assert_eq!(world.wait().0, None, "all of it passes");
    }
}

#[test]
fn multicast_and_broadcast_frames_reach_nobody_but_neighbour_discovery() {
    let mut room = Room::plain();
    let mut world = room.world();
    for outside in everybody() {
        let mut frame = frame::udp(1000, at(outside, 53), b"data");
        frame[..6].fill(0xff);
        // To a host's address in a broadcast frame (RFC 1122 3.3.6: such a packet may be dropped).
        let reason = world.dropped(&frame);
        assert!(matches!(reason, None | Some(Drop::DestinationMac)), "{reason:?}");
    }
    let group = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251));
    let group6 = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));
    for group in [group, group6] {
        let frame = frame::udp(5353, at(group, 5353), b"data");
        assert_eq!(world.dropped(&frame), Some(Drop::DestinationAddress));
    }
}

#[test]
fn who_joins_or_asks_for_groups_is_not_answered_and_harms_nothing() {
    // RFC 3376 4, RFC 2236 2, RFC 1112 appendix I: reports and queries of IGMP; RFC 3810 5,
    // RFC 2710 3: those of MLD, behind a router alert (RFC 2711, RFC 2113).
    let igmp = [0x11, 0x12, 0x16, 0x17, 0x22, 0x30, 0xff];
    let mld = [130, 131, 132, 143, 151, 152, 153];
    // A count of records, or of sources, that lies; and no room for any.
    let bodies: [&[u8]; 4] = [&[0, 0], &[0, 0, 0xff, 0xff], &[0; 20], &[0xff; 64]];
    let groups = ["224.0.0.1", "224.0.0.22", "239.1.2.3", "ff02::1", "ff02::16", "ff0e::1:2"];
    let mut room = Room::plain();
    let mut world = room.world();
    let mut frames = 0;
    for group in groups.map(|group| group.parse::<IpAddr>().unwrap()) {
        let (kinds, number) = if group.is_ipv4() { (igmp, 2) } else { (mld, protocol::ICMPV6) };
        for (kind, body) in kinds.iter().flat_map(|kind| bodies.map(|body| (*kind, body))) {
            let message = [&[kind, 0, 0, 0], body].concat();
            let ends = (frame::guest(group), group);
            for alert in [false, true] {
                let mut frame = match ends {
                    (IpAddr::V6(_), _) if alert => {
                        let header = [number, 0, 5, 2, 0, 0, 1, 0];
                        frame::packet(ends, 0, &[&header, &message[..]].concat())
                    }
                    _ => frame::packet(ends, number, &message),
                };
                if alert && group.is_ipv4() {
                    frame::add_ipv4_options(&mut frame, &[0x94, 4, 0, 0]);
                }
                let to = match group {
                    IpAddr::V4(group) => {
                        let [_, b, c, d] = group.octets();
                        [1, 0, 0x5e, b & 0x7f, c, d]
                    }
                    IpAddr::V6(group) => {
                        let [.., a, b, c, d] = group.octets();
                        [0x33, 0x33, a, b, c, d]
                    }
                };
                frame[..6].copy_from_slice(&to);
                frame[ETHERNET + if group.is_ipv4() { 8 } else { 7 }] = 1;
                frame::mend(&mut frame);
                for len in (ETHERNET..=frame.len()).rev() {
                    assert!(world.dropped(&frame[..len]).is_some(), "{group}: {kind}, {len}");
                    frames += 1;
                }
            }
        }
    }
    assert!(frames > 10_000, "{frames} frames");
    assert_silent(&world);
    assert_eq!(world.inbox(), vec![], "nobody is told of it");
    world.send(&frame::echo(frame::gateway(OUTSIDE_V4), 7, 1, b"still here"));
    assert_eq!(world.inbox().len(), 1);
}
