//! Guests that mean harm: floods, lies and rubbish.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::frames::{Envelope, inject};
use crate::guest::{Guest, Setup, open_config};
use crate::namespace::Namespace;
use crate::needs;
use crate::servers::{self, Family};
use crate::waiting::{AT_ONCE, timed, until};

/// Frames of a flood.
const FLOOD: u32 = 30_000;
/// A datagram that has not come back after this long was lost.
const LOST_AFTER: Duration = Duration::from_millis(100);

/// SYNs from `count` ports of the guest to `destination`, none of which its own kernel would use.
fn syns(guest: &Guest, destination: SocketAddr, count: u32) -> impl Iterator<Item = Vec<u8>> {
    let mut envelope = Envelope::to_gateway(guest, Family::V4, 1, 1);
    envelope.destination = destination;
    (0..count).map(move |number| {
        envelope.source.set_port(1024 + u16::try_from(number % 30_000).unwrap());
        envelope.syn(number.wrapping_mul(0x9e37_79b9))
    })
}

/// While `flood` lasts, a connection and a UDP flow go on. How fast is the guest's own affair: its
/// kernel has one queue for the flood and for them. Returns how many round trips each of them made.
fn others_go_on(guest: &Guest, flood: impl FnOnce() + Send) -> [usize; 2] {
    let port = servers::echo(servers::listener(Family::V6));
    let mut stream = guest.connect(Family::V6, port);
    let echo = servers::echo_datagrams(servers::datagrams(Family::V4));
    let socket = guest.datagrams((guest.gateway(Family::V4), echo));
    socket.set_read_timeout(Some(LOST_AFTER)).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        scope.spawn(move || {
            flood();
            is_over.store(true, Ordering::Relaxed);
        });
        let mut trips = [0, 0];
        while !is_over.load(Ordering::Relaxed) {
            stream.write_all(b"there").unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            trips[0] += 1;
            socket.send(b"there").unwrap();
            trips[1] += usize::from(socket.recv(&mut [0; 8]).is_ok());
        }
        trips
    })
}

#[test]
fn a_syn_flood_to_an_open_port_stops_nobody_else_and_passes() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let guest = Guest::online();
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", guest.engine().id())).unwrap().count();
    let port = servers::serve(servers::listener(Family::V4), drop);
    let target = (guest.gateway(Family::V4), port).into();
    let before = descriptors();
    let trips = others_go_on(&guest, || inject(&guest, syns(&guest, target, FLOOD)));
    assert!(trips.iter().all(|&trips| trips > 5), "only {trips:?} round trips");
    until("the flood has passed", || descriptors() <= before + 2);
    guest.try_connect(target).unwrap();
}

#[test]
fn a_syn_flood_to_where_nobody_answers_fills_the_table_and_passes() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let host = Namespace::new();
    // Nobody answers ARP there, so that each connect hangs for three seconds.
    host.ip("link add link0 type veth peer name link1");
    host.ip("link set link0 up");
    host.ip("link set link1 up");
    host.ip("address add 192.0.2.1/24 dev link0");
    let config = Some(open_config(json!({ "max_connections": 300 })));
    let guest = Guest::with(&Setup { config, host: Some(&host), ..Setup::default() });
    let listener = host.inside(|| servers::listener(Family::V4));
    let port = servers::echo(listener);
    let mut stream = guest.connect(Family::V4, port);
    inject(&guest, syns(&guest, "192.0.2.9:80".parse().unwrap(), 3000));
    let to = (guest.gateway(Family::V4), port);
    let (result, took) = timed(|| guest.try_connect(to));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "the table is not full");
    assert!(took < AT_ONCE, "{took:?}");
    stream.write_all(b"there").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    until("a connection after the flood", || guest.try_connect(to).is_ok());
}

/// What a frame of the guest may get wrong, and what that is counted as.
fn wrong_frames(guest: &Guest, family: Family, port: u16) -> Vec<(&'static str, Vec<u8>)> {
    let honest = Envelope::to_gateway(guest, family, 5000, port);
    let loopback = (family.loopback(), port).into();
    let stranger = match family {
        Family::V4 => "192.0.2.77:5000",
        Family::V6 => "[2001:db8::77]:5000",
    };
    let stranger = stranger.parse().unwrap();
    let with = |edit: fn(&mut Vec<u8>)| {
        let mut frame = honest.udp(b"a payload");
        edit(&mut frame);
        frame
    };
    let other_mac = [2, 0, 0, 0, 0, 9];
    vec![
        ("drop_source_mac", Envelope { source_mac: other_mac, ..honest }.udp(b"x")),
        ("drop_destination_mac", Envelope { destination_mac: other_mac, ..honest }.udp(b"x")),
        ("drop_source_address", Envelope { source: stranger, ..honest }.udp(b"x")),
        ("drop_source_address", Envelope { source: stranger, ..honest }.syn(1)),
        ("drop_destination_address", Envelope { destination: loopback, ..honest }.udp(b"x")),
        (
            "drop_port",
            Envelope { destination: (honest.destination.ip(), 0).into(), ..honest }.udp(b"x"),
        ),
        // The last byte is payload; the header's length goes on beyond what is cut off.
        ("drop_checksum", with(|frame| *frame.last_mut().unwrap() ^= 1)),
        ("drop_truncated", with(|frame| frame.truncate(frame.len() - 4))),
        ("drop_truncated", with(|frame| frame.truncate(14))),
        ("drop_truncated", with(|frame| frame.truncate(30))),
        // A type that is none of ARP, IPv4 and IPv6.
        ("drop_unsupported", with(|frame| frame[12..14].copy_from_slice(&[0x88, 0xcc]))),
    ]
}

#[test]
fn frames_that_lie_are_dropped_and_counted_by_reason() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let guest = Guest::embedded();
    for family in Family::BOTH {
        let server = servers::datagrams(family);
        let port = server.local_addr().unwrap().port();
        for (counter, frame) in wrong_frames(&guest, family, port) {
            let before = guest.counter(counter);
            inject(&guest, [frame.clone(), frame.clone(), frame]);
            until(counter, || guest.counter(counter) >= before + 3);
        }
        // What is honest still passes, and is all that has.
        inject(&guest, [Envelope::to_gateway(&guest, family, 5000, port).udp(b"honest")]);
        let mut bytes = [0; 16];
        let (len, _) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"honest");
    }
}

#[test]
fn rubbish_of_every_length_harms_nobody() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let guest = Guest::embedded();
    let [high, low] = guest.slot().to_be_bytes();
    let mut pattern = crate::pattern::Pattern::new(4);
    let rubbish = (0..20_000).map(|number| {
        let mut frame = pattern.next(14 + number % 1500);
        frame[..12].copy_from_slice(&[2, 0x6d, 0x73, high, low, 1, 2, 0x6d, 0x73, high, low, 2]);
        let kind = [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06], [0x81, 0x00]][number % 4];
        frame[12..14].copy_from_slice(&kind);
        if let Some(first) = frame.get_mut(14) {
            // Let some look like the protocol that they claim to be.
            *first = if number % 4 == 0 { 0x45 } else { 0x60 };
        }
        frame
    });
    let trips = others_go_on(&guest, || inject(&guest, rubbish));
    assert!(trips.iter().all(|&trips| trips > 5), "only {trips:?} round trips");
}
