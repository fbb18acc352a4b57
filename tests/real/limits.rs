//! What is full refuses newcomers, keeps what it has, and recovers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use rustix::io::Errno;
use serde_json::json;

use crate::guest::{Guest, Setup, open_config};
use crate::needs;
use crate::process;
use crate::servers::{self, Family};
use crate::waiting::{AT_ONCE, timed, until};

/// Says something over `stream` and hears it again.
fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"are you there?").unwrap();
    let mut heard = [0; 14];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"are you there?");
}

#[test]
fn out_of_descriptors_the_engine_refuses_flows_serves_the_others_and_recovers() {
    if !needs::are_met(&["prlimit", "ping"]) {
        return;
    }
    let setup = Setup { descriptors: Some(64), verbose: true, ..Setup::default() };
    let guest = Guest::with(&setup);
    let port = servers::echo(servers::listener(Family::V4));
    let to = (guest.gateway(Family::V4), port);
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..100 {
        match guest.try_connect(to) {
            Ok(stream) => open.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                refused += 1;
            }
        }
    }
    assert!(open.len() >= 30, "only {} connections", open.len());
    assert!(refused >= 30, "more than 64 descriptors");
    open.iter_mut().for_each(exchange);
    let datagrams = guest.datagrams((guest.gateway(Family::V4), port));
    datagrams.send(b"hello").unwrap();
    let error = datagrams.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::HOSTUNREACH), "{error}");
    let mut ping = guest.command("ping");
    let gateway = guest.gateway(Family::V6).to_string();
    process::succeed(ping.args(["-c", "1", "-W", "5", &gateway]));
    open.iter_mut().for_each(exchange);
    until("the refused flows were told of", || {
        guest.engine().errors().matches("out of descriptors").count() > refused
    });
    drop(open);
    until("a connection after all others were closed", || {
        guest.try_connect(to).map(|mut stream| exchange(&mut stream)).is_ok()
    });
}

#[test]
fn at_the_cap_a_connection_is_refused_at_once_and_the_others_go_on() {
    if !needs::are_met(&[]) {
        return;
    }
    const CAP: usize = 8;
    let config = Some(open_config(json!({ "max_connections": CAP })));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    let port = servers::echo(servers::listener(Family::V6));
    let mut open: Vec<_> = (0..CAP).map(|_| guest.connect(Family::V6, port)).collect();
    for _ in 0..3 {
        let (result, took) = timed(|| guest.try_connect((guest.gateway(Family::V6), port)));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(took < AT_ONCE, "{took:?}");
    }
    open.iter_mut().for_each(exchange);
    open.pop();
    until("a connection in place of the closed one", || {
        guest.try_connect((guest.gateway(Family::V6), port)).map(|s| open.push(s)).is_ok()
    });
    open.iter_mut().for_each(exchange);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    if !needs::are_met(&[]) {
        return;
    }
    let config = Some(open_config(json!({ "max_connections": 16 })));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", guest.engine().id())).unwrap().count();
    let port = servers::echo(servers::listener(Family::V4));
    let mut first = guest.connect(Family::V4, port);
    exchange(&mut first);
    let with_one = descriptors();
    for _ in 0..500 {
        // The guest closes first, so each leaves a slot in TIME-WAIT, which is taken over.
        exchange(&mut guest.connect(Family::V4, port));
    }
    until("the sockets are closed", || descriptors() <= with_one);
    exchange(&mut first);
}
