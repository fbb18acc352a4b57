//! Much data, and many connections.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::guest::{Guest, Setup};
use crate::needs;
use crate::pattern;
use crate::process::{self, Process};
use crate::servers::{self, Family};

const SMALL_BYTES: u64 = 1_000_000;
const LARGE_BYTES: u64 = 200_000_000;

fn url(guest: &Guest, family: Family, port: u16, bytes: u64) -> String {
    match guest.gateway(family) {
        IpAddr::V4(gateway) => format!("http://{gateway}:{port}/{bytes}"),
        IpAddr::V6(gateway) => format!("http://[{gateway}]:{port}/{bytes}"),
    }
}

fn curl(guest: &Guest) -> Command {
    let mut curl = guest.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "60"]);
    curl
}

fn fetch(family: Family, bytes: u64) {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let guest = Guest::online();
    let port = servers::http(servers::listener(family));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = curl(&guest);
    // Not through `Process`, which would keep all of it.
    let mut child = command.arg(url(&guest, family, port, bytes)).stdout(writer).spawn().unwrap();
    drop(command);
    let seen = pattern::check(reader, bytes);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(seen.unwrap(), bytes);
}

fn put(family: Family, bytes: u64) {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let guest = Guest::online();
    let port = servers::http(servers::listener(family));
    let mut command = curl(&guest);
    let length = format!("Content-Length: {bytes}");
    command.args(["--upload-file", "-", "--header", &length, "--header", "Transfer-Encoding:"]);
    command.arg(url(&guest, family, port, bytes)).stdin(Stdio::piped());
    let mut curl = Process::start(&mut command);
    pattern::send(curl.take_input(), bytes, bytes).unwrap();
    let finished = curl.finish();
    assert_eq!((finished.code, finished.output), (0, format!("{bytes} bytes")));
}

#[test]
fn curl_fetches_a_megabyte_over_ipv4() {
    fetch(Family::V4, SMALL_BYTES);
}

#[test]
fn curl_fetches_a_megabyte_over_ipv6() {
    fetch(Family::V6, SMALL_BYTES);
}

#[test]
fn curl_fetches_200_megabytes_over_ipv4() {
    fetch(Family::V4, LARGE_BYTES);
}

#[test]
fn curl_fetches_200_megabytes_over_ipv6() {
    fetch(Family::V6, LARGE_BYTES);
}

#[test]
fn curl_puts_a_megabyte_over_ipv4() {
    put(Family::V4, SMALL_BYTES);
}

#[test]
fn curl_puts_a_megabyte_over_ipv6() {
    put(Family::V6, SMALL_BYTES);
}

#[test]
fn curl_puts_200_megabytes_over_ipv4() {
    put(Family::V4, LARGE_BYTES);
}

#[test]
fn curl_puts_200_megabytes_over_ipv6() {
    put(Family::V6, LARGE_BYTES);
}

/// Runs iperf3 both ways over `family`, with the arguments of `kind`.
fn iperf3(mtu: u16, family: Family, kind: &[&str]) {
    iperf3_with(&Setup { mtu, ..Setup::default() }, family, kind);
}

fn iperf3_with(setup: &Setup<'_>, family: Family, kind: &[&str]) {
    if !needs::are_met(&["iperf3"]) {
        return;
    }
    let mtu = setup.mtu;
    let guest = Guest::with(setup);
    // It can't be asked for a free port; one that was free a moment ago is.
    let port = servers::listener(family).local_addr().unwrap().port().to_string();
    let address = family.loopback().to_string();
    let mut server = Command::new("iperf3");
    server.args(["--server", "--forceflush", "--bind", &address, "--port", &port]);
    let mut server = Process::start(&mut server);
    server.wait_for("listening");
    for direction in [&[][..], &["--reverse"][..]] {
        let mut command = guest.command("iperf3");
        command.args(["--json", "--time", "1", "--port", &port]).args(kind).args(direction);
        command.args(["--client", &guest.gateway(family).to_string()]);
        let report: Value = serde_json::from_str(&process::succeed(&mut command)).unwrap();
        // Over TCP, what was received; over UDP, the only sum there is.
        let sum = report["end"].get("sum_received").unwrap_or(&report["end"]["sum"]);
        let rate = sum["bits_per_second"].as_f64().unwrap();
        let lost = report["end"]["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
        println!("MTU {mtu} {family:?} {direction:?}: {:.2} Gbit/s, {lost} % lost", rate / 1e9);
        // How fast it is, benchmarks say. This is a connection that works.
        assert!(rate > 5e7, "{direction:?}: {rate} bit/s");
        assert!(lost < 20.0, "{direction:?}: {lost} % lost");
    }
}

const TCP: &[&str] = &["--parallel", "2"];
const UDP: &[&str] = &["--udp", "--bitrate", "100M"];

#[test]
fn iperf3_sends_datagrams_both_ways_over_ipv4() {
    iperf3(1500, Family::V4, UDP);
}

#[test]
fn iperf3_sends_datagrams_both_ways_over_ipv6() {
    iperf3(1500, Family::V6, UDP);
}

#[test]
fn iperf3_sends_datagrams_both_ways_without_offload() {
    for family in Family::BOTH {
        iperf3_with(&Setup { offload: false, ..Setup::default() }, family, UDP);
    }
}

#[test]
fn iperf3_runs_both_ways_at_mtu_1500_over_ipv4() {
    iperf3(1500, Family::V4, TCP);
}

#[test]
fn iperf3_runs_both_ways_at_mtu_1500_over_ipv6() {
    iperf3(1500, Family::V6, TCP);
}

#[test]
fn iperf3_runs_both_ways_at_mtu_65520_over_ipv4() {
    iperf3(65_520, Family::V4, TCP);
}

#[test]
fn iperf3_runs_both_ways_at_mtu_65520_over_ipv6() {
    iperf3(65_520, Family::V6, TCP);
}

#[test]
fn two_thousand_connections_at_a_time_each_carry_their_own_bytes() {
    if !needs::are_met(&[]) {
        return;
    }
    const COUNT: usize = 2000;
    let guest = Guest::online();
    let listeners = Family::BOTH.map(servers::listener);
    let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    // Takes all connections before it answers the first, so all are open at a time.
    let server = std::thread::spawn(move || {
        let mut streams: Vec<_> =
            (0..COUNT).map(|number| servers::accept(&listeners[number % 2])).collect();
        for stream in &mut streams {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
        // The guest closes first.
        for stream in &mut streams {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    });
    let mut streams: Vec<_> = guest.namespace().inside(|| {
        (0..COUNT)
            .map(|number| {
                let to = (guest.gateway(Family::BOTH[number % 2]), ports[number % 2]);
                let mut stream = std::net::TcpStream::connect(to).unwrap();
                stream.set_read_timeout(Some(crate::waiting::PATIENCE)).unwrap();
                stream.write_all(&(number as u64).to_le_bytes()).unwrap();
                stream
            })
            .collect()
    });
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), number as u64);
    }
    drop(streams);
    server.join().unwrap();
}
