//! What is full refuses newcomers, keeps what it has, and recovers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;

use crate::guest::{Guest, Setup, open_config, sluicegate};
use crate::needs;
use crate::process;
use crate::servers::{self, Family};
use crate::tls::Scratch;
use crate::waiting::{AT_ONCE, timed, until, until_still};

/// No progress for this long: a stream is full, on a machine that is busy with other tests.
const STALL: Duration = Duration::from_millis(300);

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
fn all_connections_together_buffer_no_more_than_they_may_and_lose_nothing() {
    if !needs::are_met(&[]) {
        return;
    }
    const FLOWS: usize = 8;
    const BYTES: u64 = 1024 * 1024;
    let scratch = Scratch::new("buffered");
    let socket = scratch.0.join("control");
    let config = json!({ "max_connections": FLOWS, "max_buffered_bytes": BYTES });
    let control = Some(socket.clone());
    let config = Some(open_config(config));
    let guest = Guest::with(&Setup { config, control, ..Setup::default() });
    let buffered = || -> u64 {
        let mut ctl = sluicegate();
        ctl.arg("ctl").arg("--control").arg(&socket).arg("metrics");
        let text = process::succeed(&mut ctl);
        let gauge = "sluicegate_tcp_buffered_bytes{way=\"from_guest\"} ";
        let found = text.lines().find_map(|line| line.strip_prefix(gauge));
        found.unwrap().parse().unwrap()
    };
    let listener = servers::listener(Family::V4);
    let port = listener.local_addr().unwrap().port();
    let mut ends: Vec<_> =
        (0..FLOWS).map(|_| (guest.connect(Family::V4, port), servers::accept(&listener))).collect();
    ends.iter().for_each(|(inside, _)| inside.set_nonblocking(true).unwrap());
    // Nobody reads; the kernels of both sides are full, and what lies between.
    let (chunk, mut written) = (vec![7; 64 * 1024], [0; FLOWS]);
    until_still("the guest is stalled", STALL, || {
        for ((inside, _), written) in ends.iter_mut().zip(&mut written) {
            while let Ok(len) = inside.write(&chunk) {
                *written += len;
            }
        }
        written
    });
    let (held, share) = (buffered(), BYTES / 2);
    assert!(held <= share && held > share / 2, "{held} of {share} bytes that the guest said");
    for ((inside, outside), written) in ends.iter_mut().zip(written) {
        inside.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(std::io::copy(outside, &mut std::io::sink()).unwrap(), written as u64);
    }
    until("all is taken", || buffered() == 0);
}

#[test]
fn the_least_buffers_carry_everything_also_where_a_packet_is_longer() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    const BYTES: u64 = 5_000_000;
    let scratch = Scratch::new("least");
    let file = scratch.0.join("file");
    crate::pattern::send(std::fs::File::create(&file).unwrap(), BYTES, BYTES).unwrap();
    let port = servers::http(servers::listener(Family::V4));
    for mtu in [1500, 65520] {
        let config = json!({ "max_connections": 8, "max_buffered_bytes": 8 * 32 * 1024 });
        let guest =
            Guest::with(&Setup { mtu, config: Some(open_config(config)), ..Setup::default() });
        let url = format!("http://{}:{port}/{BYTES}", guest.gateway(Family::V4));
        let mut down = guest.command("curl");
        down.args(["-sSf", "-m", "30", "-o", "/dev/null", "-w", "%{size_download}", &url]);
        assert_eq!(process::succeed(&mut down), BYTES.to_string());
        let mut up = guest.command("curl");
        up.args(["-sSf", "-m", "30", "-T"]).arg(&file).arg(&url);
        let up = process::run(&mut up);
        assert_eq!((up.code, up.output), (0, format!("{BYTES} bytes")), "{}", up.errors);
    }
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
