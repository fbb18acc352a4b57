//! A thousand networks in one process, on two threads that they share.
//!
//! A process of its own, so that nothing else is measured.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod crowd;

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;

use crowd::real::{held, waiting};
use sluicegate_host::adapter::stream::StreamLink;
use sluicegate_host::{DriverPool, SmoltcpNetwork};

/// Of a network that has just been started, in memory.
const RESIDENT_BYTES_MAX: usize = 1 << 20;
const THREADS: NonZeroUsize = NonZeroUsize::new(2).unwrap();
/// One of so many networks has a guest that speaks.
const SPEAKS_EVERY: u64 = 20;

/// A guest that asks for the MAC address of its gateway.
struct Guest {
    machine: UnixStream,
    /// The question, behind its length.
    ask: Vec<u8>,
    gateway_mac: [u8; 6],
}

impl Guest {
    fn of(network: &mut SmoltcpNetwork) -> Self {
        let (machine, link) = UnixStream::pair().unwrap();
        machine.set_read_timeout(Some(waiting::PATIENCE)).unwrap();
        network.attach_link(Box::new(StreamLink::connected(link).unwrap())).unwrap();
        let addresses = network.addresses();
        let gateway_mac = addresses.gateway_mac;
        let (own, theirs) = (addresses.guest_ipv4.octets(), addresses.gateway_ipv4.octets());
        let mac = network.guest_mac();
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        let ask = [
            &42_u32.to_be_bytes()[..],
            &[255; 6],
            &mac,
            &[8, 6],
            &request,
            &mac,
            &own,
            &[0; 6],
            &theirs,
        ];
        Self { machine, ask: ask.concat(), gateway_mac }
    }

    /// Asks, and is told.
    fn exchange(&self) {
        (&self.machine).write_all(&self.ask).unwrap();
        let mut answer = [0; 46];
        (&self.machine).read_exact(&mut answer).unwrap();
        assert_eq!(answer[10..16], self.gateway_mac, "who the answer is from");
        assert_eq!(answer[24..26], [0, 2], "an answer");
    }
}

#[test]
fn a_thousand_networks_share_two_threads_cost_no_wakeup_and_leave_nothing() {
    crowd::raise_descriptors();
    let own = std::process::id();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (threads, descriptors) = (held::threads(own), held::descriptors(own));
    let pool = DriverPool::new(THREADS).unwrap();
    let mut guests = vec![];
    let (mut networks, each_bytes) = crowd::gather(" on two threads", |slot, network| {
        if slot % SPEAKS_EVERY == 0 {
            guests.push(Guest::of(network));
        }
        network.try_start_on(&pool, runtime.handle().clone()).unwrap();
    });
    assert!(each_bytes <= RESIDENT_BYTES_MAX, "{each_bytes} bytes each");
    assert_eq!(held::threads(own), threads + THREADS.get());
    crowd::until_idle(&networks);
    guests.iter().for_each(Guest::exchange);
    // The pool is there as long as a network is.
    drop(pool);
    guests.iter().for_each(Guest::exchange);
    networks.iter_mut().skip(1).for_each(|network| network.shutdown().unwrap());
    guests[0].exchange();
    assert!(networks[0].is_running() && !networks[1].is_running());
    networks[0].shutdown().unwrap();
    drop((networks, guests));
    waiting::until("the pool's threads end", || held::threads(own) == threads);
    assert_eq!(held::descriptors(own), descriptors, "whatever was opened is closed");
}
