//! UDP: one host socket a flow, answers from whom the guest asked, nothing kept that is not used.

use core::net::IpAddr;

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, gateway};
use sim::{Message, Pattern, Piece, Room, World, reassemble};
use sluicegate_core::{DatagramKind, Outside, Refusal};

use crate::{Error, answer, assert_error_about, at, everybody, only};

/// Checks a datagram for the guest.
fn assert_udp(message: &Message, outside: IpAddr, ports: (u16, u16), data: &[u8]) {
    let expected = Message::Udp { ends: answer(outside), ports, payload: data.to_vec() };
    assert_eq!(*message, expected);
}

fn pieces(world: &mut World<'_>) -> Vec<Piece> {
    let piece = |seen: &sim::Seen| seen.piece().expect("because it is a fragment").clone();
    world.inbox().iter().map(piece).collect()
}

#[test]
fn a_datagram_goes_out_and_its_answer_comes_from_where_it_went() {
    for outside in everybody() {
        let mut room = Room::plain();
        let mut world = room.world();
        for len in [0, 1, 3, 500, 1452] {
            let data = Pattern::new(len as u64).take(len);
            world.send(&frame::udp(5353, at(outside, 7), &data));
            let index = world.datagram();
            let flow = &world.peers.datagrams[&index];
            let to = if outside == gateway(outside) {
                Outside::HostLoopback(at(outside, 7))
            } else {
                Outside::Remote(at(outside, 7))
            };
            assert_eq!((flow.kind, flow.to), (DatagramKind::Udp, to));
            assert_eq!(flow.sent.last(), Some(&data));
            world.deliver(index, &data);
            assert_udp(&only(&mut world).message, outside, (7, 5353), &data);
        }
        assert_eq!(world.counters().udp_opened, 1);
    }
}

#[test]
fn each_pair_of_ends_is_a_flow_of_its_own() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut sends = vec![];
    for outside in OUTSIDES {
        for (from, to) in [(1, 1), (1, 2), (2, 1)] {
            sends.push((outside, from, to));
        }
    }
    for &(outside, from, to) in &sends {
        world.send(&frame::udp(from, at(outside, to), &[from as u8, to as u8]));
    }
    assert_eq!(world.peers.datagrams.len(), sends.len());
    let flows: Vec<u32> = world.peers.datagrams.keys().copied().collect();
    for (index, (outside, from, to)) in flows.into_iter().zip(sends) {
        world.deliver(index, b"answer");
        assert_udp(&only(&mut world).message, outside, (to, from), b"answer");
    }
}

#[test]
fn a_flow_ends_after_a_minute_without_a_datagram_either_way() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        let index = world.datagram();
        world.advance(59_900);
        world.deliver(index, b"answer");
        world.advance(59_900);
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        world.advance(59_900);
        assert_eq!(world.peers.datagrams.len(), 1, "either side keeps it alive");
        world.advance(200);
        assert_eq!((world.peers.datagrams.len(), world.peers.closed.len()), (0, 1));
        assert_eq!(world.wait().0, None);
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        assert_ne!(world.peers.datagrams[&world.datagram()].id, world.peers.closed[0].id);
    }
}

#[test]
fn a_late_answer_to_an_ended_flow_is_ignored_and_counted() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 7), b"ask"));
    let flow = world.peers.datagrams[&world.datagram()].id;
    world.advance(61_000);
    let now = world.now();
    world.engine.deliver(now, flow, b"late");
    world.run();
    assert_eq!(world.inbox(), vec![]);
    assert_eq!(world.counters().answers_stray, 1);
}

#[test]
fn a_datagram_that_fits_no_frame_comes_in_fragments_that_fit() {
    for (mtu, receive) in [(1500, 1514), (65_520, 1514), (1280, 1514), (9000, 4000)] {
        for outside in OUTSIDES {
            let mut room = Room::with(|c| {
                c.link.mtu = mtu;
                c.link.receive_frame_bytes = receive;
            });
            let mut world = room.world();
            world.send(&frame::udp(1000, at(outside, 7), b"ask"));
            let index = world.datagram();
            for len in [1473, 2000, 2952, 2953, 2960, 8192, 65_507] {
                let frame_len = len + 8 + if outside.is_ipv4() { 20 } else { 40 };
                let fits = frame_len <= usize::from(mtu).min(receive as usize - 14);
                let data = Pattern::new(len as u64).take(len);
                world.deliver(index, &data);
                if fits {
                    assert_udp(&only(&mut world).message, outside, (7, 1000), &data);
                } else {
                    let whole = reassemble(&pieces(&mut world)).unwrap();
                    assert_udp(&whole, outside, (7, 1000), &data);
                }
            }
        }
    }
}

#[test]
fn fragments_of_different_datagrams_have_different_names() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        let index = world.datagram();
        let mut names: Vec<u32> = (0..20)
            .map(|_| {
                world.deliver(index, &[5; 3000]);
                pieces(&mut world)[0].ident
            })
            .collect();
        names.dedup();
        assert_eq!(names.len(), 20);
    }
}

#[test]
fn an_answer_longer_than_ip_can_carry_never_reaches_the_guest() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        let index = world.datagram();
        // A socket of the other family may have such a one: IPv6 takes 20 bytes more than IPv4.
        let longest = if outside.is_ipv4() { 65_507 } else { 65_527 };
        for len in [longest + 1, 65_528, 70_000, 131_072] {
            world.deliver(index, &vec![1; len]);
            assert_eq!(world.inbox(), vec![], "{len} bytes");
        }
        world.deliver(index, &vec![1; longest]);
        assert!(reassemble(&pieces(&mut world)).is_ok());
    }
}

#[test]
fn a_closed_port_is_said_in_icmp_by_its_owner() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let request = frame::udp(1000, at(outside, 7), b"ask");
        world.send(&request);
        let index = world.datagram();
        world.fail_datagram(index, Refusal::Refused);
        let error = Error::PORT_UNREACHABLE.of(outside);
        let icmp = assert_error_about(&only(&mut world), error, &request);
        assert_eq!(icmp.ends, answer(outside), "from the destination");
        assert_eq!(world.peers.datagrams.len(), 1, "the flow lives on");
        world.deliver(index, b"after all");
        assert_udp(&only(&mut world).message, outside, (7, 1000), b"after all");
    }
}

#[test]
fn a_datagram_too_big_for_the_path_is_said_in_icmp_with_the_paths_mtu() {
    for outside in OUTSIDES {
        for mtu in [1280, 1400, 576] {
            let mut room = Room::plain();
            let mut world = room.world();
            let request = frame::udp(1000, at(outside, 7), &[1; 1400]);
            world.send(&request);
            let index = world.datagram();
            world.fail_datagram(index, Refusal::TooBig { mtu });
            let error = Error::TOO_BIG.of(outside);
            let icmp = assert_error_about(&only(&mut world), error, &request);
            assert_eq!(icmp.ends, answer(gateway(outside)));
            assert_eq!(u32::from_be_bytes(icmp.rest), mtu);
        }
    }
}

#[test]
fn other_failures_are_said_in_icmp_as_what_they_are() {
    for (refusal, error) in [
        (Refusal::HostUnreachable, Error::HOST_UNREACHABLE),
        (Refusal::NetUnreachable, Error::NET_UNREACHABLE),
        (Refusal::TimedOut, Error::HOST_UNREACHABLE),
        (Refusal::Exhausted, Error::HOST_UNREACHABLE),
        (Refusal::Forbidden, Error::PROHIBITED),
    ] {
        for outside in OUTSIDES {
            let mut room = Room::plain();
            let mut world = room.world();
            let request = frame::udp(1000, at(outside, 7), b"ask");
            world.send(&request);
            let index = world.datagram();
            world.fail_datagram(index, refusal);
            let icmp = assert_error_about(&only(&mut world), error.of(outside), &request);
            assert_eq!(icmp.ends, answer(gateway(outside)));
        }
    }
}

#[test]
fn icmp_errors_are_limited_to_a_thousand_a_second() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 7), b"ask"));
    let index = world.datagram();
    for _ in 0..3000 {
        world.fail_datagram(index, Refusal::Refused);
    }
    let limit = sluicegate_core::limits::ICMP_ERRORS_PER_SECOND_MAX as usize;
    assert_eq!(world.inbox().len(), limit);
    assert_eq!(world.counters().icmp_errors_left_out, 3000 - limit as u64);
    world.advance(1001);
    world.fail_datagram(index, Refusal::Refused);
    assert_eq!(world.inbox().len(), 1, "and go on in the next second");
}

#[test]
fn a_datagram_without_a_checksum_is_taken_in_ipv4_and_not_in_ipv6() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut request = frame::udp(1000, at(outside, 7), b"ask");
        let at = request.len() - 3 - 2;
        request[at..at + 2].fill(0);
        let expected = outside.is_ipv6().then_some(sluicegate_core::Drop::Checksum);
        assert_eq!(world.dropped(&request), expected);
        assert_eq!(world.peers.datagrams.len(), usize::from(outside.is_ipv4()));
    }
}

#[test]
fn bytes_after_a_short_datagram_are_padding() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut short = frame::udp_header(1000, 7, b"ask and then some");
        short[4..6].copy_from_slice(&11u16.to_be_bytes());
        let mut request = frame::ip(outside, frame::protocol::UDP, &short);
        let start = request.len() - short.len();
        let mut covered = request[start..start + 11].to_vec();
        let addresses = if outside.is_ipv4() { &request[26..34] } else { &request[22..54] };
        frame::mend_transport(addresses, frame::protocol::UDP, &mut covered);
        request[start..start + 11].copy_from_slice(&covered);
        assert_eq!(world.dropped(&request), None);
        assert_eq!(world.peers.datagrams[&world.datagram()].sent, [b"ask"]);
        // Ethernet's own padding behind the packet, too.
        let mut request = frame::udp(1000, at(outside, 7), b"x");
        request.resize(request.len().max(60) + 4, 0xaa);
        assert_eq!(world.dropped(&request), None);
        assert_eq!(world.peers.datagrams[&world.datagram()].sent[1], b"x");
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_not_sent_as_none() {
    // RFC 768.
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        let index = world.datagram();
        world.deliver(index, &[0, 0]);
        let frame = world.raw.last().unwrap();
        let sum = [frame[frame.len() - 4], frame[frame.len() - 3]];
        world.inbox();
        // What completes the sum to zero.
        world.deliver(index, &sum);
        assert_udp(&only(&mut world).message, outside, (7, 1000), &sum);
        world.deliver(index, &sum);
        let frame = world.raw.last().unwrap();
        assert_eq!(frame[frame.len() - 4..frame.len() - 2], [0xff, 0xff]);
    }
}
