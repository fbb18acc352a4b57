//! When the datagrams that are gathered leave, over real sockets.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::OnceLock;
use std::time::Duration;

use sluicegate_core::{DatagramKind, FrameRing, Outside};

use super::*;
use crate::memory::{Storage, map};
use crate::rings::{RingConsumer, Rings};
use crate::service::dns::ResolverParts;
use crate::service::proxy::Target;
use crate::wake::DriverWake;

/// Everything here is on loopback: what takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The sockets of a network, and its poll.
pub(super) fn flows() -> (Flows, mio::Poll) {
    let poll = mio::Poll::new().unwrap();
    // No flow of these has bytes in the engine's buffers.
    let pages = crate::memory::Pages::of(&mut crate::memory::map(1).unwrap());
    let ports = Ports::new(vec![], poll.registry(), 0).unwrap();
    let (registry, speaker) = (poll.registry().try_clone().unwrap(), Speaker(Arc::default()));
    let wake = DriverWake::new(mio::Waker::new(&registry, mio::Token(usize::MAX)).unwrap());
    let ready = tls::ReadyList::new(Arc::clone(&wake));
    let tls = Tls { interceptor: None, runtime: runtime(), ready };
    (
        Flows::new(
            registry,
            Arc::default(),
            pages,
            (speaker, resolver(wake), ports),
            (tls, None, Default::default()),
        ),
        poll,
    )
}

/// An engine that lets everything out, and what takes frames for its guest.
pub(super) fn with_engine(act: impl FnOnce(&mut HostEngine<'_>, &mut RingConsumer)) {
    let mut config = crate::config::NetworkConfig::default();
    config.policy.default_egress = sluicegate_core::Permission::Allow;
    let config = config.to_core(0, [7; 16]).unwrap();
    let len = sluicegate_core::MemoryLen::of(&config);
    let (mut buffers, mut fragments) =
        (map(len.buffers).unwrap(), map(len.fragment_bytes).unwrap());
    let mut storage = Storage::new(&len);
    let memory = storage.lend(&mut buffers, &mut fragments);
    let rings = Rings::new();
    let (_, engine_in) = FrameRing::split(rings.from_guest);
    let (engine_out, mut to_guest) = FrameRing::split(rings.to_guest);
    let engine = Engine::new(&config, memory, engine_in, engine_out, Instant::ZERO);
    act(&mut engine.unwrap(), &mut to_guest);
}

fn runtime() -> tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let start = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    RUNTIME.get_or_init(start).handle().clone()
}

/// What would answer questions; nobody here asks any.
fn resolver(wake: Arc<DriverWake>) -> Resolver {
    Resolver::new(ResolverParts {
        published: Arc::default(),
        runtime: runtime(),
        wake,
        clock: Clock::new(),
        servers: vec![],
        outbound: Default::default(),
        timeout: PATIENCE,
    })
}

/// Lets datagrams go by a proxy at `address`, which takes them.
fn go_by_proxy(flows: &mut Flows, address: std::net::SocketAddr) {
    let config = crate::config::ProxyConfig::new(crate::config::ProxyProtocol::Socks5, address);
    // Nobody sleeps here.
    let poll = mio::Poll::new().unwrap();
    let wake = DriverWake::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    flows.dialler = Some(Dialler {
        proxy: Arc::new(crate::service::proxy::Proxy::new(config).unwrap()),
        runtime: runtime(),
        wake: Arc::clone(&wake),
        done: Arc::default(),
        mailbox: relay::Mailbox::new(wake, Arc::clone(&flows.published)),
    });
}

/// A socket outside, and the flow in slot `index` that goes there.
fn outside(index: u32) -> (UdpSocket, Association) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = Outside::Remote(socket.local_addr().unwrap());
    let flow = FlowId { index, generation: 1 };
    (socket, Association { flow, kind: DatagramKind::Udp, to, is_relayed: false })
}

/// All that has arrived, without waiting: on loopback it has by the time that it is sent.
fn heard(socket: &UdpSocket) -> Vec<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2000];
    core::iter::from_fn(|| socket.recv(&mut bytes).ok().map(|len| bytes[..len].to_vec())).collect()
}

#[test]
fn datagrams_of_a_turn_leave_at_its_end_in_order() {
    let (mut flows, _poll) = flows();
    let (socket, from) = outside(0);
    for number in 0..5 {
        assert_eq!(flows.gather(from, &[number; 100], 0), [None, None]);
    }
    assert_eq!(flows.gather(from, &[5; 40], 0), [None, None]);
    assert_eq!(heard(&socket), Vec::<Vec<u8>>::new());
    assert_eq!(flows.send_gathered(), Ok(()));
    let found = heard(&socket);
    assert_eq!(
        found.iter().map(|one| (one[0], one.len())).collect::<Vec<_>>(),
        [(0, 100), (1, 100), (2, 100), (3, 100), (4, 100), (5, 40)]
    );
    assert_eq!(flows.send_gathered(), Ok(()));
    assert_eq!(heard(&socket), Vec::<Vec<u8>>::new(), "once");
}

#[test]
fn another_size_or_another_flow_lets_those_before_go_first() {
    let (mut flows, _poll) = flows();
    let ((socket, from), (other, elsewhere)) = (outside(0), outside(1));
    let sent: [(Association, &[u8]); 5] =
        [(from, &[1; 10]), (from, &[2; 11]), (from, &[]), (elsewhere, &[3; 10]), (from, &[4; 10])];
    let mut seen = vec![];
    for (to, payload) in sent {
        assert_eq!(flows.gather(to, payload, 0), [None, None]);
        seen.push((heard(&socket).len(), heard(&other).len()));
    }
    // The first with the second; the second, and the empty one at once; nothing; the third's.
    assert_eq!(seen, [(0, 0), (1, 0), (2, 0), (0, 0), (0, 1)]);
    assert_eq!(flows.send_gathered(), Ok(()));
    assert_eq!(heard(&socket), [[4; 10]]);
}

#[test]
fn a_row_of_the_guest_and_single_datagrams_go_on_as_one() {
    let (mut flows, _poll) = flows();
    let (socket, from) = outside(0);
    assert_eq!(flows.gather(from, &[1; 300], 100), [None, None]);
    assert_eq!(flows.gather(from, &[2; 100], 0), [None, None]);
    assert_eq!(flows.gather(from, &[3; 150], 100), [None, None]);
    assert_eq!(heard(&socket).len(), 0);
    assert_eq!(flows.gather(from, &[4; 100], 0), [None, None]);
    let lens: Vec<usize> = heard(&socket).iter().map(Vec::len).collect();
    assert_eq!(lens, [100, 100, 100, 100, 100, 50]);
}

#[test]
fn long_rows_and_long_datagrams_do_not_wait() {
    let (mut flows, _poll) = flows();
    let (socket, from) = outside(0);
    assert_eq!(flows.gather(from, &[1; 100], 0), [None, None]);
    assert_eq!(flows.gather(from, &[2; 64 * 1000], 1000), [None, None]);
    let found = heard(&socket);
    assert_eq!((found.len(), &found[0], &found[64]), (65, &vec![1; 100], &vec![2; 1000]));
}

#[test]
fn what_fails_is_said_of_the_flow_that_it_befell() {
    let (mut flows, _poll) = flows();
    let ((socket, from), (other, elsewhere)) = (outside(0), outside(1));
    drop(socket);
    assert_eq!(flows.gather(from, b"nobody is there", 0), [None, None]);
    assert_eq!(flows.send_gathered(), Ok(()));
    assert_eq!(flows.gather(from, b"again", 0), [None, None]);
    let [earlier, own] = flows.gather(elsewhere, b"", 0);
    let failed = Event::DatagramFailed { flow: from.flow, refusal: Refusal::Refused };
    assert_eq!((earlier, own), (Some(failed), None));
    assert_eq!(heard(&other), [b""]);
}

#[test]
fn a_flow_whose_slot_another_has_taken_still_sends_what_it_had() {
    let (mut flows, _poll) = flows();
    let ((socket, from), (other, mut next)) = (outside(0), outside(0));
    next.flow.generation += 1;
    assert_eq!(flows.gather(from, b"early", 0), [None, None]);
    assert_eq!(flows.gather(next, b"late", 0), [None, None]);
    assert_eq!(flows.send_gathered(), Ok(()));
    assert_eq!(heard(&socket), [b"early"]);
    assert_eq!(heard(&other), [b"late"]);
}

#[test]
fn what_waits_for_a_proxy_that_says_nothing_is_bounded_of_a_flow_and_of_all() {
    let (mut flows, _poll) = flows();
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    go_by_proxy(&mut flows, silent.local_addr().unwrap());
    let dropped = |flows: &Flows| flows.published.relay_full.load(Ordering::Relaxed);
    let (_socket, from) = outside(0);
    let in_slot = |index| {
        let flow = FlowId { index, ..from.flow };
        Association { flow, is_relayed: true, ..from }
    };
    let target = Target::Address(dial::remote(from.to).unwrap());
    (0..100).for_each(|index| flows.begin_relay(in_slot(index).flow, target.clone()));
    // Four of them are 240 KiB.
    for number in 0..5 {
        assert_eq!(flows.send_datagrams(in_slot(0), &[7; 60_000], 0), Ok(()));
        assert_eq!(dropped(&flows), u64::from(number == 4), "of one flow: {number}");
    }
    for index in 1..100 {
        for _ in 0..5 {
            assert_eq!(flows.send_datagrams(in_slot(index), &[7; 60_000], 0), Ok(()));
        }
    }
    // 4 MiB of 60,000 bytes, and of a little more for each.
    assert_eq!(500 - dropped(&flows), 69);
    // A row is as many datagrams, and what is short waits beside what is long.
    let before = dropped(&flows);
    assert_eq!(flows.send_datagrams(in_slot(99), &[7; 640], 10), Ok(()));
    assert_eq!(dropped(&flows), before);
    // Whoever ends makes room, when its task has.
    (0..50).for_each(|index| flows.close(in_slot(index).flow));
    let clock = Clock::new();
    let end = clock.now().plus_millis(PATIENCE.as_secs() * 1000);
    loop {
        let before = dropped(&flows);
        assert_eq!(flows.send_datagrams(in_slot(99), &[7; 60_000], 0), Ok(()));
        if dropped(&flows) == before {
            break;
        }
        assert!(clock.now() < end, "no room");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_to_go_by_a_proxy_whose_association_is_gone_is_counted_and_does_not_leave() {
    let (mut flows, _poll) = flows();
    let (socket, from) = outside(0);
    let from = Association { is_relayed: true, ..from };
    let lost = |flows: &Flows| flows.published.relay_lost.load(Ordering::Relaxed);
    assert_eq!(flows.send_datagrams(from, &[7; 250], 100), Ok(()));
    assert_eq!(lost(&flows), 3, "each of the row");
    assert_eq!(flows.send_datagrams(from, &[], 0), Ok(()));
    assert_eq!(lost(&flows), 4);
    assert_eq!(heard(&socket), Vec::<Vec<u8>>::new());
}

#[test]
fn a_flow_for_names_leaves_no_socket_of_the_one_that_gave_way_to_it() {
    with_engine(|engine, _| {
        let (mut flows, _poll) = flows();
        let now = Instant::ZERO;
        let ((socket, from), (_, mut next)) = (outside(0), outside(0));
        next.flow.generation += 1;
        let header = [0; 12];
        // One that has its socket, and says more.
        assert_eq!(flows.send_datagrams(from, b"early", 0), Ok(()));
        assert_eq!(flows.gather(from, b"last", 0), [None, None]);
        flows.hear_names(engine, now, (next.flow, &header, 0));
        assert_eq!(heard(&socket), [&b"early"[..], b"last"]);
        assert!(flows.slots[0].is_none(), "its socket is closed");
        // One that is still to have it when the other has its slot.
        assert_eq!(flows.gather(from, b"first", 0), [None, None]);
        flows.hear_names(engine, now, (next.flow, &header, 0));
        assert_eq!(flows.send_gathered(), Ok(()));
        assert_eq!(heard(&socket), [b"first"]);
        flows.hear_names(engine, now, (next.flow, &header, 0));
        assert!(flows.slots[0].is_none(), "its socket is closed");
    });
}

#[test]
fn who_found_no_room_goes_on_though_another_has_found_some_and_called_the_wake_off() {
    with_engine(|engine, to_guest| {
        let (mut flows, _poll) = flows();
        let now = Instant::ZERO;
        let peer = std::net::SocketAddr::from((Ipv4Addr::new(1, 1, 1, 1), 9));
        let guest_port = 53;
        let (protocol, is_ipv6) = (sluicegate_core::Protocol::Udp, false);
        let inbound = sluicegate_core::Inbound { protocol, peer, guest_port, is_ipv6 };
        let flow = engine.open_inbound(now, &inbound).unwrap();
        while engine.can_deliver(now) {
            engine.deliver(now, flow, &[7; 1400]);
        }
        flows.is_stalled = true;
        flows.queue.push_back(0);
        assert!(!flows.is_busy(engine, now), "there is no room");
        // The guest's card takes some; another looks, and finds it.
        while to_guest.read().is_some() {}
        to_guest.release();
        assert!(engine.can_deliver(now));
        assert!(flows.is_busy(engine, now), "nobody will wake it");
    });
}
