//! What is measured, by name: the same work for the clock, for the count of instructions, and for
//! the table of many flows.
//!
//! A scenario is a step that can be repeated for ever: [`Scenario::prepare`] is the guest's part
//! and is not measured, [`Scenario::run`] is the engine's and is. What the host would do with bytes
//! is left out, so that what remains is the engine alone.

use core::net::SocketAddr;

use sluicegate_core::Config;

use super::parts::{Cutting, RingLoop};
use super::{Heading, Lean, Prompt, Rig};
use crate::frame::{self, OUTSIDE_V4, flag};
use crate::{Room, default_config};

/// Bytes of one bulk step, about.
pub(super) const BULK_BYTES: usize = 64 * 1024;
/// Frames or datagrams of one step that are alike.
pub(super) const BATCH: usize = 32;
/// Payload bytes of a datagram.
const DATAGRAM_BYTES: usize = 512;
/// Bytes of each buffer of an idle flow: it touches a page of either, whatever their length is.
const IDLE_BUFFER_BYTES: usize = 16 * 1024;
/// The MTU of a large link.
const MTU_LARGE: u16 = 65_520;

/// What was done in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// How many of the scenario's [`unit`](Scenario::unit).
    pub units: u64,
    /// Bytes of payload, or of frames where there is none.
    pub bytes: u64,
}

impl Work {
    pub(super) fn of(units: usize, bytes_each: usize) -> Self {
        Self { units: units as u64, bytes: (units * bytes_each) as u64 }
    }
}

/// Something to measure.
pub trait Scenario {
    /// What is counted.
    fn unit(&self) -> &'static str {
        "frame"
    }

    /// Whether the work grows with bytes, so that a figure for each is of interest.
    fn is_bulk(&self) -> bool {
        false
    }

    /// The guest's part of the next step.
    fn prepare(&mut self) {}

    /// The engine's part of it.
    fn run(&mut self) -> Work;
}

/// The names of all scenarios but those of many idle flows (`round_trip_idle_N`).
pub const NAMES: [&str; 16] = [
    "ring_60",
    "ring_1514",
    "ring_65535",
    "drop_source_mac",
    "drop_checksum_1514",
    "ack",
    "up_1500",
    "up_65520",
    "down_1500",
    "down_65520",
    "cut_1460",
    "round_trip",
    "open_close",
    "udp_up",
    "udp_down",
    "round_trip_idle_1000",
];

/// Makes the scenario `name` and lends it to `body`.
///
/// # Panics
/// If there is none of that name.
pub fn with<T>(name: &str, body: impl FnOnce(&mut dyn Scenario) -> T) -> T {
    if let Some(len) = name.strip_prefix("ring_") {
        return body(&mut RingLoop::new(number(len)));
    }
    if let Some(len) = name.strip_prefix("cut_") {
        return body(&mut Cutting::new(number(len)));
    }
    let idle = name.strip_prefix("round_trip_idle_").map(number);
    let mut room = Room::new(config(name, idle.unwrap_or(0)));
    let rig = Rig::new(&mut room);
    match name {
        "drop_source_mac" => body(&mut Drops { rig, frame: foreign(), sent: 0 }),
        "drop_checksum_1514" => body(&mut Drops { rig, frame: damaged(), sent: 0 }),
        "ack" => body(&mut Acks(Live::open(rig, 0))),
        "up_1500" => body(&mut Up { live: Live::open(rig, 0), segment: 1460 }),
        "up_65520" => body(&mut Up { live: Live::open(rig, 0), segment: 65_480 }),
        "down_1500" => body(&mut Down { live: Live::open(rig, 0), segment: 1460, given: 0 }),
        "down_65520" => body(&mut Down { live: Live::open(rig, 0), segment: 65_480, given: 0 }),
        "open_close" => body(&mut OpenClose { rig, host: Prompt::default(), port: 0 }),
        "udp_up" => body(&mut UdpUp { rig, host: Prompt::default(), frame: datagram(), sent: 0 }),
        "udp_down" => body(&mut UdpDown::new(rig)),
        _ => {
            assert!(idle.is_some() || name == "round_trip", "no scenario is called {name}");
            let idle = idle.unwrap_or(0);
            body(&mut RoundTrip { live: Live::beside(rig, idle), idle: idle as u64 })
        }
    }
}

fn number(digits: &str) -> usize {
    digits.parse().expect("because the name of the scenario ends with a number")
}

fn config(name: &str, idle: usize) -> Config {
    let mut config = default_config();
    let buffer = if idle > 0 { IDLE_BUFFER_BYTES } else { 256 * 1024 };
    (config.tcp_receive_bytes, config.tcp_send_bytes) = (buffer, buffer);
    config.tcp_flows_max = idle as u32 + 16;
    if name == "open_close" {
        // Small buffers, as many flows as by default.
        (config.tcp_receive_bytes, config.tcp_send_bytes) = (IDLE_BUFFER_BYTES, IDLE_BUFFER_BYTES);
        config.tcp_flows_max = 4096;
    }
    if name.ends_with("_65520") {
        config.link.mtu = MTU_LARGE;
        config.link.receive_frame_bytes = u32::from(MTU_LARGE) + 14;
    }
    config
}

/// Where every flow goes.
fn outside() -> SocketAddr {
    SocketAddr::new(OUTSIDE_V4, 80)
}

/// A short frame from somebody else.
fn foreign() -> Vec<u8> {
    let mut frame = frame::udp(9, outside(), &[0; 18]);
    frame[6] ^= 4;
    frame
}

/// A long frame whose last byte was changed on the way.
fn damaged() -> Vec<u8> {
    let mut frame = frame::udp(9, outside(), &[7; 1472]);
    frame[1513] ^= 1;
    frame
}

fn datagram() -> Vec<u8> {
    frame::udp(9, outside(), &[7; DATAGRAM_BYTES])
}

/// Frames that go no further than the classifier.
struct Drops<'a> {
    rig: Rig<'a>,
    frame: Vec<u8>,
    sent: u64,
}

impl Scenario for Drops<'_> {
    fn prepare(&mut self) {
        let dropped = self.rig.engine.counters().drops.iter().sum::<u64>();
        assert_eq!(dropped, self.sent, "every frame is dropped");
        self.sent += BATCH as u64;
        (0..BATCH).for_each(|_| self.rig.push(&self.frame));
    }

    fn run(&mut self) -> Work {
        self.rig.turn(&mut Prompt::default());
        Work::of(BATCH, self.frame.len())
    }
}

/// An engine with one open connection, on which the guest may send at once.
struct Live<'a> {
    rig: Rig<'a>,
    host: Prompt,
    guest: Lean,
}

impl<'a> Live<'a> {
    /// The connection alone; the host answers with `answer_bytes` bytes whatever the guest sends.
    fn open(mut rig: Rig<'a>, answer_bytes: usize) -> Self {
        let mut host = Prompt { answer_bytes, ..Prompt::default() };
        let guest = open(&mut rig, &mut host, 1024);
        Self { rig, host, guest }
    }

    /// The connection beside `idle` others, which have carried a byte each way.
    fn beside(mut rig: Rig<'a>, idle: usize) -> Self {
        let mut host = Prompt { answer_bytes: 1, ..Prompt::default() };
        for number in 0..idle {
            let mut guest = open(&mut rig, &mut host, 2048 + number as u16);
            exchange(&mut rig, &mut host, &mut guest);
        }
        let guest = open(&mut rig, &mut host, 1024);
        Self { rig, host, guest }
    }

    /// Hands the guest what has come for it.
    fn collect(&mut self) {
        let guest = &mut self.guest;
        self.rig.collect(|frame| {
            guest.read(&Heading::of(frame).expect("because only TCP is spoken"));
        });
    }

    fn say(&mut self, payload: usize) {
        let guest = &mut self.guest;
        self.rig.compose(guest.frame_bytes(payload), |out| guest.write(0, payload, out));
    }

    fn turn(&mut self) {
        self.rig.pass(50);
        self.rig.turn(&mut self.host);
    }
}

/// Opens a connection from `port`, in the usual three steps.
fn open(rig: &mut Rig<'_>, host: &mut Prompt, port: u16) -> Lean {
    let mut guest = Lean::new(outside(), port);
    rig.push(&guest.syn(rig.link.mtu - 40));
    settle(rig, host, &mut guest);
    assert!(guest.connected, "the SYN is answered");
    rig.compose(guest.frame_bytes(0), |out| guest.write(0, 0, out));
    settle(rig, host, &mut guest);
    guest
}

/// One byte each way, acknowledged.
fn exchange(rig: &mut Rig<'_>, host: &mut Prompt, guest: &mut Lean) {
    let received = guest.received;
    rig.compose(guest.frame_bytes(1), |out| guest.write(flag::PSH, 1, out));
    settle(rig, host, guest);
    assert_eq!(guest.received, received + 1, "the host's byte has come");
    rig.compose(guest.frame_bytes(0), |out| guest.write(0, 0, out));
    settle(rig, host, guest);
}

fn settle(rig: &mut Rig<'_>, host: &mut Prompt, guest: &mut Lean) {
    rig.pass(50);
    rig.turn(host);
    rig.collect(|frame| guest.read(&Heading::of(frame).expect("because only TCP is spoken")));
}

/// Segments that bring nothing new.
struct Acks<'a>(Live<'a>);

impl Scenario for Acks<'_> {
    fn prepare(&mut self) {
        self.0.collect();
        (0..BATCH).for_each(|_| self.0.say(0));
    }

    fn run(&mut self) -> Work {
        self.0.turn();
        Work::of(BATCH, self.0.guest.frame_bytes(0))
    }
}

/// Bytes of the guest, in order, in full segments; the host takes them at once.
struct Up<'a> {
    live: Live<'a>,
    segment: usize,
}

impl Up<'_> {
    fn segments(&self) -> usize {
        BULK_BYTES.div_ceil(self.segment)
    }
}

impl Scenario for Up<'_> {
    fn is_bulk(&self) -> bool {
        true
    }

    fn prepare(&mut self) {
        self.live.collect();
        assert_eq!(self.live.guest.acked, self.live.guest.next, "all was acknowledged");
        (0..self.segments()).for_each(|_| self.live.say(self.segment));
    }

    fn run(&mut self) -> Work {
        self.live.turn();
        Work::of(self.segments(), self.segment)
    }
}

/// Bytes for the guest, which acknowledges each step at once. A frame is a segment's worth of
/// payload, however many of them the ring carries in one record.
struct Down<'a> {
    live: Live<'a>,
    segment: usize,
    given: u64,
}

impl Scenario for Down<'_> {
    fn is_bulk(&self) -> bool {
        true
    }

    fn prepare(&mut self) {
        self.live.collect();
        assert_eq!(self.live.guest.received, self.given, "everything given has come");
        self.live.say(0);
    }

    fn run(&mut self) -> Work {
        // Whole segments, so that none is short.
        let segments = (BULK_BYTES / self.segment).max(1);
        let flow = self.live.host.newest();
        self.live.turn();
        let mut left = segments * self.segment;
        while left > 0 {
            let given = self.live.rig.engine.give_to_guest(flow, |space| space.len().min(left));
            left -= given.expect("because all before was acknowledged");
        }
        self.live.turn();
        let work = Work::of(segments, self.segment);
        self.given += work.bytes;
        work
    }
}

/// A byte there, a byte back, beside flows that had theirs.
struct RoundTrip<'a> {
    live: Live<'a>,
    idle: u64,
}

impl Scenario for RoundTrip<'_> {
    fn unit(&self) -> &'static str {
        "round trip"
    }

    fn prepare(&mut self) {
        self.live.collect();
        let answered = self.live.guest.received + self.idle;
        assert_eq!(answered, self.live.host.taken, "every byte is answered");
        self.live.say(1);
    }

    fn run(&mut self) -> Work {
        self.live.turn();
        Work::of(1, 2)
    }
}

/// Connections from their SYN to their end, the guest's share of the work included.
struct OpenClose<'a> {
    rig: Rig<'a>,
    host: Prompt,
    port: u16,
}

impl Scenario for OpenClose<'_> {
    fn unit(&self) -> &'static str {
        "flow"
    }

    fn prepare(&mut self) {
        self.port = self.port % 60_000 + 1;
    }

    fn run(&mut self) -> Work {
        let (rig, host) = (&mut self.rig, &mut self.host);
        let ended = host.ended;
        let mut guest = open(rig, host, self.port);
        // What lingers has its time.
        rig.pass(1000);
        rig.compose(guest.frame_bytes(0), |out| guest.write(flag::FIN, 0, out));
        settle(rig, host, &mut guest);
        assert!(guest.finished, "both ends have finished");
        rig.compose(guest.frame_bytes(0), |out| guest.write(0, 0, out));
        settle(rig, host, &mut guest);
        assert_eq!(host.ended, ended + 1, "the flow has ended");
        Work::of(1, 0)
    }
}

/// Datagrams of one flow of the guest.
struct UdpUp<'a> {
    rig: Rig<'a>,
    host: Prompt,
    frame: Vec<u8>,
    sent: u64,
}

impl Scenario for UdpUp<'_> {
    fn unit(&self) -> &'static str {
        "datagram"
    }

    fn prepare(&mut self) {
        assert_eq!(self.host.datagrams, self.sent, "every datagram goes out");
        self.sent += BATCH as u64;
        (0..BATCH).for_each(|_| self.rig.push(&self.frame));
    }

    fn run(&mut self) -> Work {
        self.rig.pass(50);
        self.rig.turn(&mut self.host);
        Work::of(BATCH, DATAGRAM_BYTES)
    }
}

/// Datagrams that come back on one flow.
struct UdpDown<'a> {
    rig: Rig<'a>,
    host: Prompt,
    sent: u64,
    seen: u64,
}

impl<'a> UdpDown<'a> {
    fn new(mut rig: Rig<'a>) -> Self {
        let mut host = Prompt::default();
        rig.push(&datagram());
        rig.turn(&mut host);
        Self { rig, host, sent: 0, seen: 0 }
    }
}

impl Scenario for UdpDown<'_> {
    fn unit(&self) -> &'static str {
        "datagram"
    }

    fn prepare(&mut self) {
        self.rig.collect(|_| self.seen += 1);
        assert_eq!(self.seen, self.sent, "every datagram comes");
        self.sent += BATCH as u64;
    }

    fn run(&mut self) -> Work {
        self.rig.pass(50);
        let flow = self.host.newest();
        for _ in 0..BATCH {
            assert!(self.rig.engine.can_deliver(self.rig.now), "the ring has room");
            self.rig.engine.deliver(self.rig.now, flow, &[7; DATAGRAM_BYTES]);
        }
        self.rig.turn(&mut self.host);
        Work::of(BATCH, DATAGRAM_BYTES)
    }
}
