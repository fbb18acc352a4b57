//! Rows over real sockets, both ways, in every shape, and where the kernel takes none.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::{libc, setsockopt_impl, sockopt_impl};

use super::*;
use crate::outbound::Outbound;

sockopt_impl!(
    /// Leaves the checksum out.
    NoChecksum,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_NO_CHECK,
    bool
);

/// Everything here is on loopback: what takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// A flow, and the socket that it is connected to. A second flow from the same address would not
/// tell them apart, so each test has its own.
struct Pair {
    flow: DatagramFlow,
    outside: UdpSocket,
    inbox: Inbox,
    _poll: mio::Poll,
}

impl Pair {
    fn new(loopback: SocketAddr) -> Self {
        let outside = UdpSocket::bind(loopback).unwrap();
        outside.set_read_timeout(Some(PATIENCE)).unwrap();
        let flow = open(outside.local_addr().unwrap());
        outside.connect(flow.0.socket.local_addr().unwrap().as_socket().unwrap()).unwrap();
        Self { flow: flow.0, outside, inbox: Inbox::new(), _poll: flow.1 }
    }

    fn both() -> [Self; 2] {
        loopbacks().map(Self::new)
    }

    /// The next datagram that arrives outside.
    fn hear(&self) -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        let len = self.outside.recv(&mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// Sends a row and expects each of its datagrams, and nothing else.
    fn send(&mut self, payload: &[u8], segment_bytes: u16) {
        assert_eq!(self.flow.send(payload, segment_bytes), Ok(()));
        for expected in datagrams(payload, segment_bytes) {
            assert!(self.hear() == expected, "{} {segment_bytes}", payload.len());
        }
        self.assert_quiet();
    }

    /// Nothing more has arrived: on loopback it has by the time that it is sent.
    fn assert_quiet(&self) {
        self.outside.set_nonblocking(true).unwrap();
        assert!(self.outside.recv(&mut [0; 4]).is_err(), "more than was sent");
        self.outside.set_nonblocking(false).unwrap();
    }

    /// Receives all there is: the datagrams, and how many calls brought them.
    fn receive(&mut self) -> (Vec<Vec<u8>>, usize) {
        let (mut found, mut calls) = (vec![], 0);
        while self.flow.receive(&mut self.inbox).is_ok() {
            calls += 1;
            if self.inbox.is_complete() {
                self.take(&mut found);
            }
        }
        self.take(&mut found);
        (found, calls)
    }

    fn take(&mut self, found: &mut Vec<Vec<u8>>) {
        for (payload, segment_bytes) in self.inbox.take_rows() {
            found.extend(datagrams(&payload, segment_bytes).iter().map(|one| one.to_vec()));
        }
    }
}

fn loopbacks() -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]
}

fn open(to: SocketAddr) -> (DatagramFlow, mio::Poll) {
    let poll = mio::Poll::new().unwrap();
    let id = FlowId { index: 0, generation: 0 };
    let opener = Opener { registry: poll.registry(), outbound: &Outbound::default() };
    (DatagramFlow::open(id, DatagramKind::Udp, to, opener).unwrap(), poll)
}

/// `payload` as it is cut.
fn datagrams(payload: &[u8], segment_bytes: u16) -> Vec<&[u8]> {
    match segment_bytes {
        0 => vec![payload],
        bytes => payload.chunks(bytes.into()).collect(),
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Lengths and sizes of rows: one, two, with a short end, the most there can be, and more than one
/// call takes.
const SHAPES: [(usize, u16); 12] = [
    (1200, 1200),
    (2400, 1200),
    (2401, 1200),
    (3599, 1200),
    (1, 1),
    (64, 1),
    (65, 1),
    (127, 1),
    (20 * 128, 20),
    (44 * 1472 + 5, 1472),
    (65_507, 1024),
    (60_000, 30_000),
];

#[test]
fn a_row_is_sent_as_its_datagrams() {
    for mut pair in Pair::both() {
        for (len, segment_bytes) in SHAPES {
            pair.send(&bytes(len), segment_bytes);
        }
        assert_eq!(pair.flow.segment_bytes_max, u16::MAX, "nothing was refused");
    }
}

#[test]
fn where_rows_are_not_taken_they_are_sent_one_by_one() {
    for mut pair in Pair::both() {
        pair.flow.segment_bytes_max = 0;
        for (len, segment_bytes) in SHAPES {
            pair.send(&bytes(len), segment_bytes);
        }
        assert_eq!(pair.flow.segment_bytes, 0);
    }
}

#[test]
fn a_kernel_that_refuses_a_row_is_asked_once() {
    let mut pair = Pair::new(loopbacks()[0]);
    // IPv4 cuts nothing that has no checksum.
    setsockopt(&pair.flow.socket, NoChecksum, &true).unwrap();
    pair.send(&bytes(5000), 1200);
    assert_eq!((pair.flow.segment_bytes_max, pair.flow.segment_bytes), (0, 0));
    pair.send(&bytes(5000), 1200);
    pair.send(&bytes(1200), 0);
}

#[test]
fn single_datagrams_are_never_cut_whatever_the_row_before_was() {
    for mut pair in Pair::both() {
        pair.send(&bytes(3000), 1000);
        for len in [0, 1, 999, 1000, 1001, 9000, 65_507] {
            pair.send(&bytes(len), 0);
            pair.send(&bytes(300), 100);
        }
    }
}

#[test]
fn the_fate_of_an_earlier_datagram_is_reported_and_costs_no_other() {
    for loopback in loopbacks() {
        for max in [u16::MAX, 0] {
            let address = UdpSocket::bind(loopback).unwrap().local_addr().unwrap();
            let (mut flow, _poll) = open(address);
            flow.segment_bytes_max = max;
            // Nobody is there; on loopback the answer has come by the time that it is sent.
            assert_eq!(flow.send(b"early", 0), Ok(()));
            let outside = UdpSocket::bind(address).unwrap();
            outside.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(flow.send(&bytes(2500), 1000), Err(Refusal::Refused));
            let lens = [1000, 1000, 500].map(|_| outside.recv(&mut [0; 2000]).unwrap());
            assert_eq!(lens, [1000, 1000, 500]);
            assert_eq!(flow.send(&bytes(2500), 1000), Ok(()));
        }
    }
}

#[test]
fn a_datagram_that_no_packet_holds_is_too_big_in_a_row_as_well() {
    for mut pair in Pair::both() {
        let sent = pair.flow.send(&bytes(65_530), 0);
        assert!(matches!(sent, Err(Refusal::TooBig { .. })), "{sent:?}");
        pair.send(&bytes(3000), 1000);
    }
}

/// A Unix socket tells of lack of room at once, where loopback drops at the receiver.
#[test]
fn what_the_socket_has_no_room_for_is_dropped_and_counted_datagram_by_datagram() {
    let mut pair = Pair::new(loopbacks()[0]);
    let (full, other) =
        Socket::pair(socket2::Domain::UNIX, Type::DGRAM.nonblocking(), None).unwrap();
    pair.flow.socket = full;
    let mut sent = 0;
    while pair.flow.lost == 0 {
        assert_eq!(pair.flow.send(&bytes(1000), 0), Ok(()));
        sent += 1;
    }
    assert_eq!(pair.flow.take_lost(), 1);
    assert_eq!(pair.flow.send(&bytes(2500), 1000), Ok(()));
    assert_eq!(pair.flow.take_lost(), 3, "this kind takes no rows, so one by one");
    (pair.flow.segment_bytes, pair.flow.segment_bytes_max) = (1000, u16::MAX);
    assert_eq!(pair.flow.send(&bytes(2500), 1000), Ok(()));
    assert_eq!(pair.flow.take_lost(), 3, "as a row");
    assert_eq!(pair.flow.send(&[], 0), Ok(()));
    assert_eq!(pair.flow.take_lost(), 1, "an empty one is one");
    // What was not lost is there.
    let other = std::os::unix::net::UnixDatagram::from(other);
    let heard = std::iter::from_fn(|| other.recv(&mut [0; 2000]).ok()).count();
    assert_eq!(heard, sent - 1);
}

#[test]
fn a_row_is_received_in_one_call() {
    for mut pair in Pair::both() {
        for (len, segment_bytes) in SHAPES {
            setsockopt(&pair.outside, sockopt::UdpGsoSegment, &segment_bytes.into()).unwrap();
            let sent = bytes(len);
            pair.outside.send(&sent).unwrap();
            let (found, calls) = pair.receive();
            assert!(found == datagrams(&sent, segment_bytes), "{len} {segment_bytes}");
            // What is longer than an IPv6 packet the kernel cuts itself.
            assert!(calls == 1 || len > 65_487, "{len} {segment_bytes}: {calls} calls");
        }
    }
}

#[test]
fn single_datagrams_are_received_as_they_are() {
    for mut pair in Pair::both() {
        let lens = [0, 1, 1, 1, 1200, 1200, 1200, 700, 700, 0, 1200, 65_507, 1200, 32_000, 1];
        for len in lens {
            pair.outside.send(&bytes(len)).unwrap();
        }
        let (found, _) = pair.receive();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), lens);
        assert!(found.iter().all(|one| *one == bytes(one.len())));
    }
}
