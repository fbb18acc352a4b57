//! UDP.

use std::net::{SocketAddr, UdpSocket};

use serde_json::json;

use crate::guest::{Guest, Setup, open_config};
use crate::needs;
use crate::pattern::Pattern;
use crate::process::Process;
use crate::servers::{self, Family};

/// Sends `len` bytes over `socket` and expects them back.
fn exchange(socket: &UdpSocket, len: usize) {
    let sent = Pattern::new(len as u64).next(len);
    socket.send(&sent).unwrap();
    let mut bytes = vec![0; 65_536];
    let received = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
    assert!(bytes[..received] == sent, "{received} bytes came back of {len}");
}

fn echo_of_every_size(mtu: u16) {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::with(&Setup { mtu, ..Setup::default() });
    for family in Family::BOTH {
        let port = servers::echo_datagrams(servers::datagrams(family));
        let socket = guest.datagrams((guest.gateway(family), port));
        // Empty; small; the largest whole ones, and one byte more; fragments; the most there can
        // be.
        for len in [0, 1, 100, 1452, 1453, 1472, 1473, 9000, 60_000, 65_507] {
            exchange(&socket, len);
        }
    }
}

#[test]
fn datagrams_of_every_size_come_back_at_mtu_1500() {
    echo_of_every_size(1500);
}

#[test]
fn datagrams_of_every_size_come_back_at_mtu_1280() {
    echo_of_every_size(1280);
}

#[test]
fn datagrams_of_every_size_come_back_at_mtu_65520() {
    echo_of_every_size(65_520);
}

#[test]
fn one_socket_of_the_guest_talks_to_many_servers_and_knows_who_answers() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let servers: Vec<SocketAddr> = (0..10)
            .map(|_| {
                let port = servers::echo_datagrams(servers::datagrams(family));
                (guest.gateway(family), port).into()
            })
            .collect();
        let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let socket = guest.namespace().inside(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(crate::waiting::PATIENCE)).unwrap();
        for server in &servers {
            socket.send_to(server.to_string().as_bytes(), server).unwrap();
        }
        for _ in &servers {
            let mut bytes = [0; 100];
            let (len, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes[..len]), from.to_string());
        }
    }
}

#[test]
fn a_server_may_answer_often_and_late() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let server = servers::datagrams(Family::V4);
    let port = server.local_addr().unwrap().port();
    let socket = guest.datagrams((guest.gateway(Family::V4), port));
    socket.send(b"begin").unwrap();
    let (_, client) = server.recv_from(&mut [0; 8]).unwrap();
    for number in 0..1000_u16 {
        server.send_to(&number.to_le_bytes(), client).unwrap();
        let mut bytes = [0; 2];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 2);
        assert_eq!(u16::from_le_bytes(bytes), number);
    }
}

#[test]
fn at_the_cap_the_flow_that_was_used_least_recently_makes_room() {
    if !needs::are_met(&[]) {
        return;
    }
    let config = Some(open_config(json!({ "max_udp_connections": 3 })));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    let server = servers::datagrams(Family::V4);
    let port = server.local_addr().unwrap().port();
    // Whose datagram it is, and where it comes from outside.
    let hear = || {
        let mut bytes = [0; 8];
        let (len, from) = server.recv_from(&mut bytes).unwrap();
        (String::from_utf8_lossy(&bytes[..len]).into_owned(), from)
    };
    let sockets: Vec<_> =
        (0..4).map(|_| guest.datagrams((guest.gateway(Family::V4), port))).collect();
    let mut clients = Vec::new();
    for number in [0, 1, 2] {
        sockets[number].send(number.to_string().as_bytes()).unwrap();
        let (text, from) = hear();
        assert_eq!(text, number.to_string());
        clients.push(from);
    }
    // The first is used again, so the second is the one to go.
    sockets[0].send(b"0").unwrap();
    assert_eq!(hear(), ("0".to_owned(), clients[0]));
    sockets[3].send(b"3").unwrap();
    clients.push(hear().1);
    for number in [0, 2, 3] {
        server.send_to(b"answer", clients[number]).unwrap();
        assert_eq!(sockets[number].recv(&mut [0; 8]).unwrap(), 6, "flow {number}");
    }
    // The flow that went has no socket any more, so this reaches nobody. Its guest may begin
    // another.
    server.send_to(b"too late", clients[1]).unwrap();
    sockets[1].send(b"1").unwrap();
    let (text, from) = hear();
    assert_eq!(text, "1");
    server.send_to(b"answer", from).unwrap();
    let mut bytes = [0; 16];
    let len = sockets[1].recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"answer");
}

#[test]
fn nc_exchanges_datagrams() {
    if !needs::are_met(&["nc"]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let port = servers::echo_datagrams(servers::datagrams(family)).to_string();
        let mut nc = guest.command("nc");
        nc.args(["-u", &guest.gateway(family).to_string(), &port]);
        let mut nc = Process::start(nc.stdin(std::process::Stdio::piped()));
        let mut input = nc.take_input();
        std::io::Write::write_all(&mut input, b"over udp\n").unwrap();
        nc.wait_for("over udp\n");
    }
}
