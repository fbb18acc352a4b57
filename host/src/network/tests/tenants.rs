//! Guests of one process: none passes for another, and none has a network that has gone.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;

use sim::frame::{self, ETHERNET};
use sluicegate_core::addr::Addresses;

use super::*;
use crate::driver::pool::DriverPool;
use crate::metrics::MetricsHandle;

/// Two guests of two tenants, on one thread: who asks, and who is not to notice.
struct Two {
    spoofer: SmoltcpNetwork,
    victim: SmoltcpNetwork,
    machines: [UnixStream; 2],
    _runtime: Runtime,
}

impl Two {
    fn new() -> Self {
        let runtime = runtime();
        let pool = DriverPool::new(NonZeroUsize::MIN).unwrap();
        let tenant = || NetworkConfig::default().for_tenant();
        // The frames of `sim` are of the guest in slot 0.
        let [(mut spoofer, one), (mut victim, other)] =
            [0, 1].map(|slot| machine_of(tenant(), slot));
        spoofer.try_start_on(&pool, runtime.handle().clone()).unwrap();
        victim.try_start_on(&pool, runtime.handle().clone()).unwrap();
        Self { spoofer, victim, machines: [one, other], _runtime: runtime }
    }

    /// The guest at `machine` asks for its gateway, and hears first of that.
    fn ask(mut machine: &UnixStream, of: &Addresses) {
        let mut frame = frame::arp_request(of.guest_ipv4, of.gateway_ipv4);
        frame[6..12].copy_from_slice(&of.guest_mac);
        frame[ETHERNET + 8..ETHERNET + 14].copy_from_slice(&of.guest_mac);
        send(machine, &frame);
        let mut answer = [0; 46];
        machine.read_exact(&mut answer).unwrap();
        let told = [
            &[0, 0, 0, 42],
            &of.guest_mac[..],
            &of.gateway_mac,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &of.gateway_mac,
            &of.gateway_ipv4.octets(),
            &of.guest_mac,
            &of.guest_ipv4.octets(),
        ];
        assert_eq!(answer[..], told.concat());
    }

    /// Both ask for their gateways; returns what the victim's network has seen until then.
    fn both_ask(&self) -> (u64, u64) {
        Self::ask(&self.machines[0], self.spoofer.addresses());
        Self::ask(&self.machines[1], self.victim.addresses());
        let seen = self.victim.metrics_handle();
        (seen.tx_bytes(), seen.rx_bytes())
    }
}

fn send(mut machine: &UnixStream, frame: &[u8]) {
    let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
    machine.write_all(&[&length[..], frame].concat()).unwrap();
}

/// A question of each kind from `from` to `to`: for a connection, for a name, for an echo.
fn questions(from: IpAddr, to: IpAddr) -> [Vec<u8>; 3] {
    let (number, echo) = if to.is_ipv4() { (1, 8) } else { (58, 128) };
    let syn =
        [&[0x10, 0, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff][..], &[0; 4]].concat();
    let datagram = frame::udp_header(4000, 53, &sim::dns::query("good.test", 1));
    [(6, syn), (17, datagram), (number, vec![echo, 0, 0, 0, 0, 7, 0, 1])]
        .map(|(protocol, transport)| frame::packet((from, to), protocol, &transport))
}

/// The addresses of a guest, each with its gateway's.
fn ends(of: &Addresses) -> [(IpAddr, IpAddr); 2] {
    [(of.guest_ipv4.into(), of.gateway_ipv4.into()), (of.guest_ipv6.into(), of.gateway_ipv6.into())]
}

/// The counter `name`, once the network has counted `frames` of its guest's.
fn counter(metrics: &MetricsHandle, frames: u64, name: &str) -> u64 {
    let clock = crate::clock::Clock::new();
    loop {
        let counters: std::collections::HashMap<_, _> = metrics.counters().into_iter().collect();
        if counters["frames_from_guest"] >= frames {
            return counters[name];
        }
        assert!(u128::from(clock.now().as_micros()) < PATIENCE.as_micros(), "{counters:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_guest_with_anothers_mac_or_address_hears_nothing_and_reaches_nothing_of_the_other() {
    let two = Two::new();
    let (own, other) = (two.spoofer.addresses(), two.victim.addresses());
    let machine = &two.machines[0];
    let before = two.both_ask();
    let honest = ends(own).into_iter().flat_map(|(guest, gateway)| questions(guest, gateway));
    let mut frames = 1;
    for frame in honest.chain([frame::arp_request(own.guest_ipv4, other.guest_ipv4)]) {
        for (at, mac) in [(6, other.guest_mac), (0, other.guest_mac), (0, other.gateway_mac)] {
            let mut spoofed = frame.clone();
            spoofed[at..at + 6].copy_from_slice(&mac);
            send(machine, &spoofed);
            frames += 1;
        }
    }
    let mut as_other = vec![frame::arp_request(other.guest_ipv4, own.gateway_ipv4)];
    for ((theirs, their_gateway), (_, gateway)) in ends(other).into_iter().zip(ends(own)) {
        for to in [gateway, their_gateway, theirs] {
            as_other.extend(questions(theirs, to));
        }
    }
    frames += as_other.len() as u64;
    as_other.iter().for_each(|frame| send(machine, frame));
    // With its MAC address within the message alone.
    let mut arp = frame::arp_request(own.guest_ipv4, own.gateway_ipv4);
    arp[ETHERNET + 8..ETHERNET + 14].copy_from_slice(&other.guest_mac);
    send(machine, &arp);
    frames += 1;
    // The next that each hears is the answer to what it asks itself.
    let after = two.both_ask();
    assert_eq!((after.0 - before.0, after.1 - before.1), (42, 42), "of its own question");
    let metrics = two.spoofer.metrics_handle();
    let counts = |name| counter(&metrics, frames + 1, name);
    assert_eq!(counts("drop_source_mac"), 7 + 1);
    assert_eq!(counts("drop_destination_mac"), 14);
    assert_eq!(counts("drop_source_address"), as_other.len() as u64);
}

#[test]
fn what_a_guest_says_to_another_is_refused_by_its_own_network() {
    let two = Two::new();
    let before = two.both_ask();
    let machine = &two.machines[0];
    let mut answers = 0;
    for ((own, _), (other, _)) in
        ends(two.spoofer.addresses()).into_iter().zip(ends(two.victim.addresses()))
    {
        for question in questions(own, other) {
            // A name is the gateway's to answer, whomever it is asked of.
            if question[ETHERNET + if own.is_ipv4() { 9 } else { 6 }] == 17 {
                continue;
            }
            send(machine, &question);
            let mut length = [0; 4];
            (&*machine).read_exact(&mut length).unwrap();
            let mut answer = vec![0; u32::from_be_bytes(length) as usize];
            (&*machine).read_exact(&mut answer).unwrap();
            assert_eq!(answer[6..12], two.spoofer.addresses().gateway_mac);
            answers += 1;
        }
    }
    assert_eq!(answers, 4);
    let after = two.both_ask();
    assert_eq!((after.0 - before.0, after.1 - before.1), (42, 42), "of its own question");
    let metrics = two.spoofer.metrics_handle();
    for kind in ["tcp_opened", "udp_opened", "icmp_opened"] {
        assert_eq!(counter(&metrics, 1 + 4 + 1, kind), 0, "{kind}");
    }
}

/// A network whose guest reaches `outside` at its gateway, and the machine that is its guest.
fn reaching(outside: &UdpSocket, runtime: &Runtime) -> (SmoltcpNetwork, UnixStream, Vec<u8>) {
    let (mut network, machine) = with_machine();
    network.try_start(runtime.handle().clone()).unwrap();
    let to = SocketAddr::new(
        network.addresses().gateway_ipv4.into(),
        outside.local_addr().unwrap().port(),
    );
    let datagram = frame::udp(4000, to, b"are you there?");
    send(&machine, &datagram);
    let mut heard = [0; 64];
    let (len, _) = outside.recv_from(&mut heard).unwrap();
    assert_eq!(&heard[..len], b"are you there?");
    (network, machine, datagram)
}

/// The guest speaks on, and nobody hears it.
fn is_cut_off(mut machine: &UnixStream, datagram: &[u8], outside: &UdpSocket) {
    assert_eq!(machine.read(&mut [0; 1]).unwrap(), 0, "its card is unplugged");
    let length = u32::try_from(datagram.len()).unwrap().to_be_bytes();
    let said = machine.write_all(&[&length[..], datagram].concat());
    assert_eq!(said.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    outside.set_nonblocking(true).unwrap();
    let heard = outside.recv_from(&mut [0; 64]);
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_network_that_was_shut_down_passes_nothing_and_does_not_begin_again() {
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    outside.set_read_timeout(Some(PATIENCE)).unwrap();
    let runtime = runtime();
    let (mut network, machine, datagram) = reaching(&outside, &runtime);
    // What is under way when it ends goes no further either.
    network.shutdown().unwrap();
    is_cut_off(&machine, &datagram, &outside);
    let again = network.try_start(runtime.handle().clone());
    assert!(again.is_err(), "a network is started once");
    is_cut_off(&machine, &datagram, &outside);
}
