//! What a configuration that takes another's place finds, and leaves, of what was under way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};
use sluicegate_host::{Error, NetworkConfig};

use crate::guest::{Guest, open_config};
use crate::names::{A, query};
use crate::needs;
use crate::servers::{self, Family};
use crate::waiting::PATIENCE;

fn config(more: Value) -> NetworkConfig {
    let mut config = open_config(more);
    config["policy"]["default_ingress"] = json!("allow");
    NetworkConfig::from_json(&config.to_string()).unwrap()
}

/// A server in `guest` at `port` that says `word` to everybody.
fn sayer(guest: &Guest, port: u16, word: &'static str) {
    let address = guest.address(Family::V4);
    let listener = guest.namespace().inside(|| TcpListener::bind((address, port)).unwrap());
    servers::serve(listener, move |mut stream| {
        let _ = stream.write_all(word.as_bytes());
    });
}

/// What is said at `to`.
fn said(to: SocketAddr) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = vec![];
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_published_port_leads_elsewhere_without_a_moment_in_which_nobody_is_there() {
    if !needs::are_met(&[]) {
        return;
    }
    // Which is free, and taken by nobody meanwhile: nobody else asks for it by its number.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let ports = |guest_port: u16, says_who: bool| {
        config(json!({"ports": [
            {"host_port": port, "guest_port": guest_port, "proxy_protocol": says_who},
            {"host_port": udp, "guest_port": guest_port, "protocol": "udp"},
        ]}))
    };
    let guest = Guest::embedded_with(ports(7001, false));
    let control = guest.network(|network| network.control_handle());
    for (inside, word) in [(7001, "one"), (7002, "two")] {
        sayer(&guest, inside, word);
        let address = guest.address(Family::V4);
        let socket = guest.namespace().inside(|| UdpSocket::bind((address, inside)).unwrap());
        std::thread::spawn(move || {
            let mut space = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut space) {
                let _ = socket.send_to(word.as_bytes(), from);
            }
        });
    }
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let peer = servers::datagrams(Family::V4);
    peer.connect((Ipv4Addr::LOCALHOST, udp)).unwrap();
    let ask = || {
        peer.send(b"who").unwrap();
        let mut space = [0; 64];
        let len = peer.recv(&mut space).unwrap();
        String::from_utf8_lossy(&space[..len]).into_owned()
    };
    assert_eq!((said(to).as_str(), ask().as_str()), ("one", "one"));
    let before = control.published_ports();
    control.replace(ports(7002, false), None).unwrap();
    assert_eq!((said(to).as_str(), ask().as_str()), ("two", "two"), "also to a peer that is known");
    control.replace(ports(7002, true), None).unwrap();
    let hosts = |ports: &[sluicegate_host::PublishedPort]| -> Vec<_> {
        ports.iter().map(|port| (port.host, port.protocol)).collect()
    };
    assert_eq!(hosts(&control.published_ports()), hosts(&before), "the sockets are the same");
    assert!(control.published_ports().iter().all(|port| port.guest_port == 7002));
    control.replace(ports(7002, false), None).unwrap();
    // What has its place in a way that can't be both is named.
    let wide = config(json!({"ports": [
        {"host_port": port, "guest_port": 7001, "host_bind": "0.0.0.0"},
    ]}));
    let refused = control.replace(wide, None).unwrap_err();
    assert!(matches!(refused, Error::Publish { .. }), "{refused}");
    let text = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(text, format!("this network has {to} there, which is to go first"));
    assert_eq!(said(to), "two");
}

#[test]
fn an_answer_of_name_servers_that_were_replaced_is_for_who_had_asked_and_nobody_else() {
    if !needs::are_met(&[]) {
        return;
    }
    let server = || {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server
    };
    let (old, new) = (server(), server());
    let asking = |server: &UdpSocket| {
        let server = server.local_addr().unwrap().to_string();
        config(json!({"dns": {"nameservers": [server], "query_timeout_ms": 20_000}}))
    };
    let guest = Guest::embedded_with(asking(&old));
    let control = guest.network(|network| network.control_handle());
    let client = guest.datagrams((guest.gateway(Family::V4), 53));
    let hear = |server: &UdpSocket| {
        let mut space = [0; 512];
        let (len, from) = server.recv_from(&mut space).unwrap();
        (space[..len].to_vec(), from)
    };
    let answer = |server: &UdpSocket, (mut question, to): (Vec<u8>, SocketAddr), last: u8| {
        (question[2], question[3], question[7]) = (0x81, 0x80, 1);
        question.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 203, 0, 114, last]);
        server.send_to(&question, to).unwrap();
    };
    let told = || {
        let mut space = [0; 512];
        let len = client.recv(&mut space).unwrap();
        (u16::from_be_bytes([space[0], space[1]]), space[len - 1])
    };
    client.send(&query(1, "good.test", A)).unwrap();
    let asked_first = hear(&old);
    control.replace(asking(&new), None).unwrap();
    // Who asks now asks the new ones, though the same is under way.
    client.send(&query(2, "good.test", A)).unwrap();
    answer(&new, hear(&new), 2);
    assert_eq!(told(), (2, 2));
    answer(&old, asked_first, 1);
    assert_eq!(told(), (1, 1), "who has asked before hears what was answered");
    client.send(&query(3, "good.test", A)).unwrap();
    assert_eq!(told(), (3, 2), "what is kept is the new ones' answer");
}
