//! A guest behind the real device, and the whole product: what it fetches, gives and gets back.

use std::net::UdpSocket;
use std::thread;

use online::{GATEWAYS, Guest, LOOPBACKS, STEP_MAX, bytes};
use sluicegate_tests_krun::{alone, now};
use smoltcp::socket::udp;
use smoltcp::wire::{IpAddress, IpEndpoint};

mod online;

#[test]
fn a_guest_fetches_and_gives_over_tcp() {
    let _turn = alone();
    let mut guest = Guest::online(1500);
    let environment = guest.network.guest_env_vars();
    assert_eq!(environment[1].1, "addr=100.96.0.2/30,gw=100.96.0.1,dns=100.96.0.1");
    for (gateway, loopback) in GATEWAYS.into_iter().zip(LOOPBACKS) {
        guest.fetch_and_give(gateway, loopback);
    }
    guest.end();
}

#[test]
fn a_guest_gets_its_datagrams_back_from_an_echo() {
    let _turn = alone();
    let mut guest = Guest::online(1500);
    for (gateway, loopback) in GATEWAYS.into_iter().zip(LOOPBACKS) {
        let echo = UdpSocket::bind((loopback, 0)).expect("loopback");
        echo.set_read_timeout(Some(STEP_MAX)).expect("a timeout");
        let port = echo.local_addr().expect("bound").port();
        let server = thread::spawn(move || {
            let mut datagram = [0; 2048];
            loop {
                let (len, from) = echo.recv_from(&mut datagram).expect("the guest sends");
                echo.send_to(&datagram[..len], from).expect("loopback");
                if len == 1 {
                    return;
                }
            }
        });
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 1 << 14]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(5000).expect("a fresh socket");
        let handle = guest.stack.sockets.add(socket);
        // The last is the longest of either family that needs no fragments; 1 ends the server.
        let lens = (2..1452).step_by(29).chain([1452, 1]);
        let start = now();
        for len in lens.clone() {
            let to = IpEndpoint::new(IpAddress::from(gateway), port);
            let datagram = bytes(len, len);
            let socket = guest.stack.sockets.get_mut::<udp::Socket>(handle);
            socket.send_slice(&datagram, to).expect("room for it");
            guest.run("an echo", |sockets| {
                let socket = sockets.get_mut::<udp::Socket>(handle);
                let (echo, from) = socket.recv().ok()?;
                assert_eq!(from.endpoint, to);
                assert!(echo == datagram, "a datagram of {len} bytes came back as another");
                Some(())
            });
        }
        println!("{gateway}: {} echoes in {:?}", lens.count(), start.elapsed());
        server.join().expect("the server is content");
        guest.stack.sockets.remove(handle);
    }
    guest.end();
}
