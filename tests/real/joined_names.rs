//! Who asks what is being asked already waits for that answer.

use std::net::{Ipv4Addr, UdpSocket};

use serde_json::json;

use crate::guest::{Guest, Setup, open_config};
use crate::names::{A, query};
use crate::needs;
use crate::servers::Family;
use crate::waiting::PATIENCE;

#[test]
fn the_same_is_asked_once_at_a_time_and_answered_to_all() {
    if !needs::are_met(&[]) {
        return;
    }
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let dns = json!({"nameservers": [server.local_addr().unwrap().to_string()]});
    let config = Some(open_config(json!({"dns": dns})));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    let socket = guest.datagrams((guest.gateway(Family::V4), 53));
    for number in 1..=20 {
        socket.send(&query(number, "good.test", A)).unwrap();
    }
    // Another question is another query: it comes behind all of those.
    socket.send(&query(21, "other.test", A)).unwrap();
    let mut bytes = [0; 512];
    let mut asked = vec![];
    while asked.len() < 2 {
        let (len, from) = server.recv_from(&mut bytes).unwrap();
        let is_new = asked.iter().all(|(known, _): &(Vec<u8>, _)| known[2..] != bytes[2..len]);
        // Said again after a second, as a datagram may get lost, is no other query.
        assert!(is_new || asked.len() == 1, "asked twice");
        if is_new {
            asked.push((bytes[..len].to_vec(), from));
        }
    }
    for (question, from) in &asked {
        let mut answer = question.clone();
        (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 114, 7]);
        server.send_to(&answer, from).unwrap();
    }
    let mut answered = [0; 22];
    for _ in 1..=21 {
        let len = socket.recv(&mut bytes).unwrap();
        assert!(bytes[..len].ends_with(&[203, 0, 114, 7]), "each has the answer");
        answered[usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))] += 1;
    }
    assert_eq!(answered[1..], [1; 21], "and once");
}
