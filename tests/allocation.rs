//! The engine allocates nothing once it is there: a million frames of all kinds, new flows
//! included, under an allocator that counts while the engine runs.

#![allow(unsafe_code, reason = "an allocator is unsafe to write")]
#![allow(clippy::cast_possible_truncation, reason = "tests cut small numbers of their own")]

use core::cell::Cell;
use std::alloc::{GlobalAlloc, Layout, System};

use sim::core::{Engine, Event, FlowId, Instant, Outside, Refusal};
use sim::frame::{self, OUTSIDES, Segment, flag};
use sim::load::{Fact, Heading, Host, Rig, Ring};
use sim::{Room, default_config};

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and a count of what is asked of it.
struct Counting;

fn note() {
    if COUNTS.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`, counting.
fn counted<R>(work: impl FnOnce() -> R) -> R {
    COUNTS.set(true);
    let result = work();
    COUNTS.set(false);
    result
}

/// A host that answers at once, and refuses port 81.
#[derive(Default)]
struct Answers {
    taken: u64,
}

impl Answers {
    fn give(engine: &mut Engine<'_, Ring>, flow: FlowId) {
        engine.give_to_guest(flow, |space| {
            let len = space.len().min(3000);
            space[..len].fill(9);
            len
        });
    }
}

impl Host for Answers {
    fn answer(&mut self, engine: &mut Engine<'_, Ring>, now: Instant, fact: Fact) {
        match fact {
            Fact::Connect(flow, Outside::Remote(to)) if to.port() == 81 => {
                engine.handle(now, Event::ConnectFailed { flow, refusal: Refusal::Refused });
            }
            Fact::Connect(flow, _) => engine.handle(now, Event::Connected { flow }),
            Fact::Send(flow) => {
                while let Some(len) = engine.take_from_guest(now, flow, <[u8]>::len) {
                    self.taken += len as u64;
                }
                Self::give(engine, flow);
            }
            Fact::Receive(flow) => Self::give(engine, flow),
            Fact::Finish(flow) => engine.handle(now, Event::OutsideFinished { flow }),
            Fact::Datagram(flow, len) => {
                let answer = [7; 4000];
                // Every other answer is in fragments.
                let len = if len.is_multiple_of(2) { len } else { 4000 };
                engine.deliver(now, flow, answer.get(..len).unwrap_or(&answer));
                engine.handle(now, Event::DatagramFailed { flow, refusal: Refusal::Refused });
            }
            Fact::Ended(_) => {}
        }
    }
}

/// A guest that sends one frame after another, and counts what it gets.
struct Bench<'a> {
    rig: Rig<'a>,
    host: Answers,
    frames: u64,
    /// The sequence number after the last segment for the guest.
    expected: u32,
}

impl Bench<'_> {
    /// One frame of the guest, and all that follows.
    fn send(&mut self, frame: &[u8]) {
        self.frames += 1;
        self.rig.pass(50);
        counted(|| {
            self.rig.push(frame);
            self.rig.turn(&mut self.host);
        });
        self.rig.collect(|frame| {
            self.frames += 1;
            self.expected = Heading::of(frame).map_or(self.expected, |heading| heading.end());
        });
    }

    /// A connection from its SYN to its end.
    fn connect(&mut self, outside: core::net::IpAddr, round: u32) {
        let to = core::net::SocketAddr::new(outside, 80 + (round % 10 == 9) as u16);
        let mut segment = Segment {
            port: 10_000 + (round % 5000) as u16,
            seq: round.wrapping_mul(0x9e37_79b9),
            flags: flag::SYN,
            window: 60_000,
            options: vec![2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 0, 0, 0],
            ..Segment::default()
        };
        self.send(&frame::tcp(to, &segment));
        segment.seq = segment.seq.wrapping_add(1);
        (segment.flags, segment.options) = (flag::ACK, vec![]);
        segment.ack = self.expected;
        self.send(&frame::tcp(to, &segment));
        segment.payload = vec![5; 100];
        for _ in 0..4 {
            segment.ack = self.expected;
            self.send(&frame::tcp(to, &segment));
            segment.seq = segment.seq.wrapping_add(100);
        }
        segment.payload.clear();
        // Each third ends with a reset, the others in order.
        segment.flags = if round.is_multiple_of(3) { flag::RST } else { flag::FIN | flag::ACK };
        segment.ack = self.expected;
        self.send(&frame::tcp(to, &segment));
        segment.seq = segment.seq.wrapping_add(1);
        segment.flags = flag::ACK;
        segment.ack = self.expected;
        self.send(&frame::tcp(to, &segment));
    }
}

#[test]
fn the_allocator_counts() {
    drop(counted(|| Box::new(1)));
    assert_eq!(COUNT.get(), 1);
}

#[test]
fn a_million_frames_with_new_flows_allocate_nothing() {
    let mut config = default_config();
    (config.tcp_flows_max, config.udp_flows_max) = (64, 32);
    let link = config.link;
    let mut room = Room::new(config);
    let rig = Rig::new(&mut room);
    let mut bench = Bench { rig, host: Answers::default(), frames: 0, expected: 0 };

    let arp = frame::arp_request(link.guest_ipv4, link.gateway_ipv4);
    let solicit = frame::solicit(link.guest_ipv6, link.gateway_ipv6);
    let mut round = 0;
    while bench.frames < 1_000_000 {
        let outside = OUTSIDES[round as usize % 2];
        bench.connect(outside, round);
        let port = 1 + (round % 60_000) as u16;
        let to = core::net::SocketAddr::new(outside, 53);
        bench.send(&frame::udp(port, to, &[1; 10][..5 + round as usize % 3]));
        bench.send(&frame::echo(outside, port, 1, b"ping"));
        if round % 10 == 0 {
            bench.send(&frame::echo(frame::gateway(outside), port, 1, b"ping"));
            let long = frame::udp(port, to, &[1; 2000]);
            frame::fragments(&long, round, 1000).iter().for_each(|piece| bench.send(piece));
            bench.send(&arp);
            bench.send(&solicit);
            bench.send(&arp[..20]);
        }
        round += 1;
    }
    let counters = *bench.rig.engine.counters();
    assert!(counters.tcp_opened > 30_000 && counters.udp_opened > 30_000, "{counters:?}");
    assert!(counters.tcp_refused > 3000 && counters.udp_evicted > 30_000, "{counters:?}");
    assert!(bench.host.taken > 10_000_000, "{} bytes", bench.host.taken);
    assert_eq!(COUNT.get(), 0, "allocations in the engine over {} frames", bench.frames);
}
