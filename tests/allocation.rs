//! The engine allocates nothing once it is there: a million frames of all kinds, new flows
//! included, under an allocator that counts while the engine runs.

#![allow(unsafe_code, reason = "an allocator is unsafe to write")]
#![allow(clippy::cast_possible_truncation, reason = "tests cut small numbers of their own")]

use core::cell::Cell;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;

use sim::core::{
    Action, Consumer, Engine, Event, FlowId, FrameRing, Instant, Memory, MemoryLen, Offload,
    Outside, Producer, Refusal, SocketCell, TcpSlot,
};
use sim::core::{DatagramSlot, FlowSlot, FragmentSet, Timer};
use sim::frame::{self, OUTSIDES, Segment, flag};

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

type Ring = Arc<FrameRing<Vec<u8>>>;

/// An engine, its rings, and a host that takes and gives at once.
struct Bench<'a> {
    engine: Engine<'a, Ring>,
    from_guest: Producer<Ring>,
    to_guest: Consumer<Ring>,
    now: Instant,
    frames: u64,
    /// The sequence number after the last segment for the guest.
    expected: u32,
    taken: u64,
}

impl Bench<'_> {
    /// One frame of the guest, and all that follows.
    fn send(&mut self, frame: &[u8]) {
        // Its bytes are vouched for: checksums are none of this test.
        let offload = Offload { checksum: sim::core::TransportChecksum::Vouched, ..Offload::NONE };
        assert!(counted(|| self.from_guest.push(frame, offload)));
        self.frames += 1;
        self.now = Instant::from_micros(self.now.as_micros() + 50);
        self.run();
    }

    fn run(&mut self) {
        while let Some(fact) = counted(|| self.step()) {
            counted(|| self.answer(fact));
        }
        while let Some(record) = self.to_guest.read() {
            let frame = self.to_guest.bytes(&record);
            let tcp = if frame[12] == 0x08 { (23, 34) } else { (20, 54) };
            if frame[12..14] != [0x08, 0x06] && frame[tcp.0] == frame::protocol::TCP {
                let seq = frame[tcp.1 + 4..tcp.1 + 8].try_into().expect("because it is four bytes");
                let flags = frame[tcp.1 + 13];
                let header = usize::from(frame[tcp.1 + 12] >> 4) * 4;
                let payload = (frame.len() - tcp.1 - header) as u32;
                let marks = u32::from(flags & flag::SYN > 0) + u32::from(flags & flag::FIN > 0);
                self.expected = u32::from_be_bytes(seq).wrapping_add(payload + marks);
            }
            self.frames += 1;
        }
        self.to_guest.release();
    }

    fn step(&mut self) -> Option<Fact> {
        Some(match self.engine.poll(self.now) {
            Action::Connect { flow, to } => Fact::Connect(flow, to),
            Action::Send { flow } => Fact::Send(flow),
            Action::Receive { flow } => Fact::Receive(flow),
            Action::Finish { flow } => Fact::Finish(flow),
            Action::SendDatagram { flow, payload, .. } => Fact::Datagram(flow, payload.len()),
            Action::Reset { .. } | Action::Close { .. } => Fact::Nothing,
            Action::Wait { .. } => return None,
        })
    }

    /// What the host does about it.
    fn answer(&mut self, fact: Fact) {
        let now = self.now;
        match fact {
            Fact::Connect(flow, Outside::Remote(to)) if to.port() == 81 => {
                self.engine.handle(now, Event::ConnectFailed { flow, refusal: Refusal::Refused });
            }
            Fact::Connect(flow, _) => self.engine.handle(now, Event::Connected { flow }),
            Fact::Send(flow) => {
                while let Some(len) = self.engine.take_from_guest(now, flow, <[u8]>::len) {
                    self.taken += len as u64;
                }
                self.give(flow);
            }
            Fact::Receive(flow) => self.give(flow),
            Fact::Finish(flow) => self.engine.handle(now, Event::OutsideFinished { flow }),
            Fact::Datagram(flow, len) => {
                let answer = [7; 4000];
                // Every other answer is in fragments.
                let len = if len.is_multiple_of(2) { len } else { 4000 };
                self.engine.deliver(now, flow, answer.get(..len).unwrap_or(&answer));
                let refusal = Refusal::Refused;
                self.engine.handle(now, Event::DatagramFailed { flow, refusal });
            }
            Fact::Nothing => {}
        }
    }

    fn give(&mut self, flow: FlowId) {
        self.engine.give_to_guest(flow, |space| {
            let len = space.len().min(3000);
            space[..len].fill(9);
            len
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

/// What an action says, without what it lends.
#[derive(Clone, Copy)]
enum Fact {
    Connect(FlowId, Outside),
    Send(FlowId),
    Receive(FlowId),
    Finish(FlowId),
    Datagram(FlowId, usize),
    Nothing,
}

#[test]
fn the_allocator_counts() {
    drop(counted(|| Box::new(1)));
    assert_eq!(COUNT.get(), 1);
}

#[test]
fn a_million_frames_with_new_flows_allocate_nothing() {
    let mut config = sim::default_config();
    (config.tcp_flows_max, config.udp_flows_max) = (64, 32);
    let len = MemoryLen::of(&config);
    let mut flows = vec![FlowSlot::FREE; len.flows];
    let mut index = vec![0; len.index];
    let mut timers = vec![Timer::OFF; len.flows];
    let mut tcp: Vec<TcpSlot<'_>> = (0..len.tcp).map(|_| TcpSlot::FREE).collect();
    let mut sockets: Vec<SocketCell<'_>> = (0..len.tcp).map(|_| SocketCell::EMPTY).collect();
    let mut datagrams = vec![DatagramSlot::FREE; len.datagrams];
    let mut buffers = vec![0; len.buffers];
    let mut fragments = vec![FragmentSet::FREE; len.fragments];
    let mut fragment_bytes = vec![0; len.fragment_bytes];
    let mut scratch = vec![0; len.scratch];
    let memory = Memory {
        flows: &mut flows,
        index: &mut index,
        timers: &mut timers,
        tcp: &mut tcp,
        sockets: &mut sockets,
        datagrams: &mut datagrams,
        buffers: &mut buffers,
        fragments: &mut fragments,
        fragment_bytes: &mut fragment_bytes,
        scratch: &mut scratch,
    };
    let ring = || FrameRing::split(Arc::new(FrameRing::new(vec![0; 1 << 19])));
    let ((from_guest, engine_in), (engine_out, to_guest)) = (ring(), ring());
    let now = Instant::from_millis(1);
    let engine = Engine::new(&config, memory, engine_in, engine_out, now);
    let engine = engine.expect("because the configuration is valid");
    let mut bench = Bench { engine, from_guest, to_guest, now, frames: 0, expected: 0, taken: 0 };

    let link = config.link;
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
    let counters = *bench.engine.counters();
    assert!(counters.tcp_opened > 30_000 && counters.udp_opened > 30_000, "{counters:?}");
    assert!(counters.tcp_refused > 3000 && counters.udp_evicted > 30_000, "{counters:?}");
    assert!(bench.taken > 10_000_000, "{} bytes", bench.taken);
    assert_eq!(COUNT.get(), 0, "allocations in the engine over {} frames", bench.frames);
}
