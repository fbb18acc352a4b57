//! UDP in rows: every datagram arrives once, with its bytes, however many crossed in one piece.

use std::net::{SocketAddr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};

use crate::guest::{Guest, Setup};
use crate::namespace::Namespace;
use crate::needs;
use crate::pattern::Pattern;
use crate::servers::{self, Family};
use crate::waiting::PATIENCE;

/// Bytes of the datagrams of a row: tiny; what protocols send; the largest whole ones at MTU 1500
/// over either family, and one byte more; long.
const SIZES: [usize; 12] = [1, 2, 33, 536, 1200, 1452, 1453, 1472, 1473, 4000, 9000, 30_000];
/// How many there are in a row: the most that older and newer kernels put into one frame, too.
const COUNTS: [usize; 8] = [1, 2, 3, 44, 63, 64, 65, 128];
/// What a socket's buffer takes at a time, where nothing is configured.
const ROUND_BYTES_MAX: usize = 64_000;

/// The shapes of rows: bytes of each datagram, and of all.
fn shapes() -> Vec<(usize, usize)> {
    let mut shapes = vec![];
    for size in SIZES {
        for count in COUNTS {
            for len in [size * count, size * count - size / 2] {
                if len <= ROUND_BYTES_MAX && !shapes.contains(&(size, len)) {
                    shapes.push((size, len));
                }
            }
        }
    }
    shapes
}

/// The two ends of a conversation: sockets that are connected to each other, as far as they know.
struct Ends {
    guest: UdpSocket,
    outside: UdpSocket,
}

impl Ends {
    fn new(guest: &Guest, outside: UdpSocket, family: Family) -> Self {
        let port = outside.local_addr().unwrap().port();
        let inside = guest.datagrams((guest.gateway(family), port));
        inside.send(b"begin").unwrap();
        let (_, client) = outside.recv_from(&mut [0; 8]).unwrap();
        outside.connect(client).unwrap();
        Self { guest: inside, outside }
    }

    /// From and to, one way and the other.
    fn both_ways(&self) -> [(&UdpSocket, &UdpSocket); 2] {
        [(&self.guest, &self.outside), (&self.outside, &self.guest)]
    }
}

/// Sends `data` in datagrams of `size` with one call. False: the kernel takes no such row.
fn send_row(from: &UdpSocket, data: &[u8], size: usize) -> bool {
    setsockopt(from, sockopt::UdpGsoSegment, &i32::try_from(size).unwrap()).unwrap();
    let sent = from.send(data);
    setsockopt(from, sockopt::UdpGsoSegment, &0).unwrap();
    sent.is_ok()
}

fn send_singly(from: &UdpSocket, data: &[u8], size: usize) {
    for one in data.chunks(size) {
        assert_eq!(from.send(one).unwrap(), one.len());
    }
}

/// Expects what `data` is cut into at `to`, in any order, and nothing else.
fn expect(to: &UdpSocket, data: &[u8], size: usize, what: &str) {
    let mut expected: Vec<&[u8]> = data.chunks(size).collect();
    let mut bytes = vec![0; 65_536];
    let mut found: Vec<Vec<u8>> = vec![];
    for number in 0..expected.len() {
        let len = to.recv(&mut bytes).unwrap_or_else(|error| {
            panic!("{what}: {number} of {} {size}: {error}", expected.len())
        });
        found.push(bytes[..len].to_vec());
    }
    // A sender that moves between processors may overtake itself.
    expected.sort_unstable();
    found.sort_unstable();
    assert!(found == expected, "{what}: {} of {size} bytes: other bytes came", expected.len());
}

fn every_shape(mtu: u16, offload: bool) {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::with(&Setup { mtu, offload, ..Setup::default() });
    let mut rows = 0;
    for family in Family::BOTH {
        let ends = Ends::new(&guest, servers::datagrams(family), family);
        for (number, (size, len)) in (0..).zip(shapes()) {
            let data = Pattern::new(number).next(len);
            for (direction, (from, to)) in ["out", "in"].into_iter().zip(ends.both_ways()) {
                if len > size && send_row(from, &data, size) {
                    expect(to, &data, size, &format!("a row {direction}, {family:?}"));
                    rows += 1;
                }
                send_singly(from, &data, size);
                expect(to, &data, size, &format!("singly {direction}, {family:?}"));
            }
        }
        for (_, to) in ends.both_ways() {
            to.set_nonblocking(true).unwrap();
            assert!(to.recv(&mut [0; 8]).is_err(), "a datagram came twice");
        }
    }
    assert!(rows > 200, "{rows} rows: the kernel has no UDP_SEGMENT");
}

#[test]
fn rows_of_every_shape_cross_both_ways_with_offload() {
    every_shape(1500, true);
}

#[test]
fn rows_of_every_shape_cross_both_ways_without_offload() {
    every_shape(1500, false);
}

#[test]
fn rows_of_every_shape_cross_both_ways_at_mtu_9000() {
    every_shape(9000, true);
}

#[test]
fn many_flows_that_send_by_turns_keep_their_own() {
    if !needs::are_met(&[]) {
        return;
    }
    for offload in [true, false] {
        let guest = Guest::with(&Setup { offload, ..Setup::default() });
        let flows: Vec<Ends> = (0..8)
            .map(|number| {
                let family = Family::BOTH[number % 2];
                Ends::new(&guest, servers::datagrams(family), family)
            })
            .collect();
        for round in 0..200 {
            let size = 100 + 7 * round;
            let data: Vec<_> = (0..8)
                .map(|flow| Pattern::new((round * 8 + flow) as u64).next(4 * size + flow))
                .collect();
            // One datagram of each in turn, so that no two of one flow follow each other; then by
            // twos.
            let by = 1 + round % 2;
            let turns = data[7].len().div_ceil(size * by);
            for (way, name) in [(0, "out"), (1, "in")] {
                for turn in 0..turns {
                    for (ends, data) in flows.iter().zip(&data) {
                        let piece = data.chunks(size * by).nth(turn).unwrap_or(&[]);
                        send_singly(ends.both_ways()[way].0, piece, size);
                    }
                }
                for (ends, data) in flows.iter().zip(&data) {
                    expect(ends.both_ways()[way].1, data, size, name);
                }
            }
        }
    }
}

#[test]
fn rows_that_the_path_outside_takes_only_in_fragments_arrive_all_the_same() {
    if !needs::are_met(&[]) {
        return;
    }
    let outside = Namespace::new();
    outside.ip("link set lo mtu 1280");
    let guest = Guest::with(&Setup { host: Some(&outside), ..Setup::default() });
    for family in Family::BOTH {
        let socket = outside.inside(|| {
            let socket = UdpSocket::bind(SocketAddr::from((family.loopback(), 0))).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        let ends = Ends::new(&guest, socket, family);
        // Too long for it; then what it takes; then too long again.
        for (number, size) in (0..).zip([1400, 1000, 1400, 1201, 1232, 1253]) {
            let data = Pattern::new(number).next(20 * size + 7);
            assert!(send_row(&ends.guest, &data, size), "{size}");
            expect(&ends.outside, &data, size, "a row");
            send_singly(&ends.guest, &data, size);
            expect(&ends.outside, &data, size, "singly");
        }
    }
}
