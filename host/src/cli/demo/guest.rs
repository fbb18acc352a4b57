//! The guest of the demonstration: an ordinary program with ordinary sockets, inside the namespace.
//! Owns the steps and what counts as success in each; must not know the engine, nor how its reports
//! are shown.

use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs,
    UdpSocket,
};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sluicegate_host::netns::Interface;
use socket2::{Domain, Protocol, Socket, Type};

use super::servers::{CHUNK_BYTES, Ports, Servers};
use super::{Report, THROUGHPUT_MS, gigabits, now, secret};
use crate::cli::failure::{Failure, in_full, warn};

/// No answer takes longer than this on a link that works.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(2);
/// A refusal that takes longer than this is a time-out in disguise.
const REFUSAL_WAIT_MAX: Duration = Duration::from_millis(500);
/// How often a running step tells how far it is.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Pings sent each time.
const PINGS: u8 = 3;
/// Payloads of the UDP exchange, in bytes: the last two come in fragments at an MTU of 1500.
const DATAGRAM_BYTES: [usize; 5] = [1, 512, 1472, 4000, 9000];

/// Where the guest is to go.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Itinerary {
    gateway_ipv4: Ipv4Addr,
    gateway_ipv6: Ipv6Addr,
    ports: Ports,
    /// Where a rule of the policy denies to go.
    denied: SocketAddr,
    /// Where no rule of the policy lets it go, at the port of HTTP.
    unmatched: SocketAddr,
    /// A name of the gateway's.
    name: String,
    /// A name that policy denies.
    denied_name: String,
    /// Where it is reached from outside.
    published: SocketAddr,
    /// Whom it trusts, as PEM.
    authority: String,
    /// What it has in place of a secret.
    placeholder: String,
}

impl Itinerary {
    pub(super) fn new(
        interface: &Interface,
        servers: &Servers,
        (authority, placeholder): (String, String),
    ) -> Self {
        Self {
            gateway_ipv4: interface.gateway_ipv4,
            gateway_ipv6: interface.gateway_ipv6,
            ports: servers.ports.clone(),
            denied: METADATA,
            unmatched: UNMATCHED,
            name: "host.sluicegate.internal".to_owned(),
            denied_name: DENIED_NAME.to_owned(),
            published: (interface.ipv4, GUEST_PORT).into(),
            authority,
            placeholder,
        }
    }

    fn at_ipv4(&self, port: u16) -> SocketAddr {
        (self.gateway_ipv4, port).into()
    }
}

/// Arguments of the hidden sub-command: not for people.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoGuestArgs {
    /// The itinerary, as JSON.
    itinerary: String,
}

type Step = fn(&Itinerary) -> Result<String, Failure>;

const STEPS: [(&str, Step); 16] = [
    ("ping IPv4", |to| ping(to.gateway_ipv4.into())),
    ("ping IPv6", |to| ping(to.gateway_ipv6.into())),
    ("HTTP fetch IPv4", |to| fetch(to.at_ipv4(to.ports.http_ipv4))),
    ("HTTP fetch IPv6", |to| fetch((to.gateway_ipv6, to.ports.http_ipv6).into())),
    ("UDP exchange", |to| exchange(to.at_ipv4(to.ports.echo))),
    ("refused connect", |to| be_refused(to.at_ipv4(to.ports.closed))),
    ("a name", |to| resolve(&to.name)),
    ("denied name", |to| be_unknown(&to.denied_name)),
    ("denied address", |to| be_refused(to.denied)),
    ("denied HTTP", |to| be_told(to.unmatched)),
    ("published port", |to| be_called(to.published)),
    ("a secret", use_secret),
    ("misused secret", misuse_secret),
    (UP, |to| send(to.at_ipv4(to.ports.sink))),
    (DOWN, |to| receive(to.at_ipv4(to.ports.source))),
    ("policy change", be_cut_off),
];
/// Where clouds tell a machine its secrets.
const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// An address of nobody's (RFC 5737).
const UNMATCHED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 80);
/// The name that the demonstration's policy denies.
pub(super) const DENIED_NAME: &str = "secrets.demo.example";
/// The port that the demonstration publishes.
pub(super) const GUEST_PORT: u16 = 8080;
/// What somebody outside says to it, and hears.
pub(super) const CALL: &[u8] = b"from outside";
const UP: &str = "throughput up";
const DOWN: &str = "throughput down";

/// Goes through the steps up to the first that fails.
pub(crate) fn run(args: &DemoGuestArgs) -> ExitCode {
    let Ok(itinerary) = serde_json::from_str(&args.itinerary) else {
        warn("this sub-command is not for people: see `sluicegate demo --help`");
        return ExitCode::FAILURE;
    };
    for (name, step) in STEPS {
        let began = now();
        let step_name = name.to_owned();
        match step(&itinerary) {
            Ok(detail) => {
                let micros = micros_since(began);
                report(&Report::Done { step: step_name, micros, detail });
            }
            Err(failure) => {
                let why = in_full(failure.as_ref());
                report(&Report::Failed { step: step_name, why });
                break;
            }
        }
    }
    ExitCode::SUCCESS
}

fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        // If nobody listens any more, this process is about to be ended.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Pings through an unprivileged ICMP socket, whose identifier and checksum are the kernel's part.
fn ping(gateway: IpAddr) -> Result<String, Failure> {
    let (domain, protocol, echo_request) = match gateway {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_read_timeout(Some(WAIT_MAX))?;
    socket.connect(&SocketAddr::from((gateway, 0)).into())?;
    let mut fastest = Duration::MAX;
    for sequence in 1..=PINGS {
        let mut message = vec![echo_request, 0, 0, 0, 0, 0, 0, sequence];
        message.extend_from_slice(&[0x77; 48]);
        let began = now();
        socket.write_all(&message)?;
        let mut answer = [0; 128];
        let bytes = socket.read(&mut answer).map_err(no_answer)?;
        fastest = fastest.min(began.elapsed());
        if bytes != message.len() || answer[6..bytes] != message[6..] {
            return Err("the answer is not what was sent".into());
        }
    }
    Ok(format!("{PINGS} of {PINGS} from {gateway}, fastest in {} us", fastest.as_micros()))
}

fn fetch(server: SocketAddr) -> Result<String, Failure> {
    let mut stream = connect(server)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.take(64 * 1024).read_to_string(&mut response).map_err(no_answer)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("the response has no end of head")?;
    let status = head.lines().next().unwrap_or_default();
    if status != "HTTP/1.1 200 OK" || !body.ends_with('\n') {
        return Err(format!("unexpected response {status:?}").into());
    }
    Ok(format!("{:?} from {server}", body.trim_end()))
}

fn exchange(server: SocketAddr) -> Result<String, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(WAIT_MAX))?;
    let mut answer = vec![0; 65_536];
    for bytes in DATAGRAM_BYTES {
        let datagram: Vec<u8> = (0..=250).cycle().take(bytes).collect();
        socket.send(&datagram)?;
        let received = socket.recv(&mut answer).map_err(no_answer)?;
        if answer[..received] != datagram {
            return Err(format!("a datagram of {bytes} bytes came back changed").into());
        }
    }
    let [least, .., most] = DATAGRAM_BYTES;
    Ok(format!("datagrams of {least} to {most} bytes came back whole from {server}"))
}

fn be_refused(server: SocketAddr) -> Result<String, Failure> {
    let began = now();
    match TcpStream::connect_timeout(&server, WAIT_MAX) {
        Ok(_) => Err(format!("{server} accepted, but should not").into()),
        Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(error.into()),
        Err(_) if began.elapsed() > REFUSAL_WAIT_MAX => Err("refused, but late".into()),
        Err(_) => Ok(format!("{server} refuses at once, as it should")),
    }
}

fn resolve(name: &str) -> Result<String, Failure> {
    let mut addresses: Vec<IpAddr> =
        (name, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
    addresses.dedup();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Ok(format!("{name} is {}", addresses.join(" and ")))
}

fn be_unknown(name: &str) -> Result<String, Failure> {
    match (name, 0).to_socket_addrs() {
        Ok(_) => Err(format!("{name} was resolved, but should not").into()),
        Err(_) => Ok(format!("{name} does not exist here, as it should not")),
    }
}

/// A connection that policy denies, to a program that can read why.
fn be_told(server: SocketAddr) -> Result<String, Failure> {
    let mut stream = connect(server)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.take(64 * 1024).read_to_string(&mut response).map_err(no_answer)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("the response has no end of head")?;
    if !head.starts_with("HTTP/1.1 403 ") || !body.contains("network_policy_denied") {
        return Err(format!("unexpected response {response:?}").into());
    }
    Ok(format!("403 {body}"))
}

/// Asks a server with the placeholder of a secret that it may have.
fn use_secret(to: &Itinerary) -> Result<String, Failure> {
    let server = (secret::FRIEND, to.at_ipv4(to.ports.https));
    let (status, body) = secret::ask(server, &to.placeholder, &to.authority)?;
    if status != "HTTP/1.1 200 OK" {
        return Err(format!("unexpected response {status:?}").into());
    }
    Ok(format!("{:?} from {} over TLS, asked with {}", body, server.0, to.placeholder))
}

/// Asks another server with it.
fn misuse_secret(to: &Itinerary) -> Result<String, Failure> {
    let server = (secret::STRANGER, to.at_ipv4(to.ports.https));
    let (status, body) = secret::ask(server, &to.placeholder, &to.authority)?;
    if !status.starts_with("HTTP/1.1 403 ") || !body.contains("secret_policy_denied") {
        return Err(format!("unexpected response {status:?}").into());
    }
    Ok(format!("403 {body}"))
}

/// A connection that a new policy denies ends, and one that it allows does not notice.
fn be_cut_off(to: &Itinerary) -> Result<String, Failure> {
    let (gone, stays) = (to.at_ipv4(to.ports.http_ipv4), to.at_ipv4(to.ports.sink));
    let (mut denied, mut allowed) = (connect(gone)?, connect(stays)?);
    allowed.write_all(b"before")?;
    report(&Report::IsConnected);
    match denied.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(no_answer(error)),
        Ok(_) => return Err(format!("the connection to {gone} was not reset").into()),
    }
    allowed.write_all(b" and after")?;
    allowed.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    allowed.read_exact(&mut total).map_err(no_answer)?;
    if u64::from_be_bytes(total) != 16 {
        return Err("the host did not receive what the guest sent".into());
    }
    Ok(format!("the connection to {gone} was reset, that to {stays} stayed"))
}

/// Somebody outside comes to a port of the guest.
fn be_called(at: SocketAddr) -> Result<String, Failure> {
    let listener = TcpListener::bind(at)?;
    socket2::SockRef::from(&listener).set_read_timeout(Some(WAIT_MAX))?;
    report(&Report::Listens);
    let (mut stream, from) = listener.accept().map_err(no_answer)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    let mut heard = vec![0; CALL.len()];
    stream.read_exact(&mut heard).map_err(no_answer)?;
    stream.write_all(&heard)?;
    if heard != CALL {
        return Err("something else was said than what was".into());
    }
    Ok(format!("{at} answered a call, which came by way of {}", from.ip()))
}

fn send(server: SocketAddr) -> Result<String, Failure> {
    let mut stream = connect(server)?;
    let chunk = vec![0xa5; CHUNK_BYTES];
    let mut progress = Progress::new(UP);
    while progress.began.elapsed() < Duration::from_millis(THROUGHPUT_MS) {
        progress.moved(stream.write(&chunk)?);
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).map_err(no_answer)?;
    if u64::from_be_bytes(total) != progress.bytes {
        return Err("the host did not receive what the guest sent".into());
    }
    Ok(progress.summary())
}

fn receive(server: SocketAddr) -> Result<String, Failure> {
    let mut stream = connect(server)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut progress = Progress::new(DOWN);
    loop {
        match stream.read(&mut chunk).map_err(no_answer)? {
            0 if progress.bytes == 0 => return Err("the host sent nothing".into()),
            0 => return Ok(progress.summary()),
            bytes => progress.moved(bytes),
        }
    }
}

pub(super) fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, WAIT_MAX)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    Ok(stream)
}

/// A time-out on a socket shows as "resource temporarily unavailable", which helps nobody.
fn no_answer(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::WouldBlock {
        return format!("no answer in {WAIT_MAX:?}").into();
    }
    error.into()
}

/// How far a throughput step is.
struct Progress {
    step: &'static str,
    began: Instant,
    reported: Instant,
    bytes: u64,
}

impl Progress {
    fn new(step: &'static str) -> Self {
        let began = now();
        Self { step, began, reported: began, bytes: 0 }
    }

    fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = now();
            let (bytes, micros) = (self.bytes, micros_since(self.began));
            report(&Report::Moved { step: self.step.to_owned(), bytes, micros });
        }
    }

    fn summary(&self) -> String {
        let rate = gigabits(self.bytes, micros_since(self.began));
        format!("{rate}, {} MB over one connection", self.bytes / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The servers as a guest would find them whose link leads straight to this host's loopback.
    fn itinerary(servers: &Servers) -> Itinerary {
        Itinerary {
            gateway_ipv4: Ipv4Addr::LOCALHOST,
            gateway_ipv6: Ipv6Addr::LOCALHOST,
            denied: (Ipv4Addr::LOCALHOST, servers.ports.closed).into(),
            unmatched: UNMATCHED,
            name: "localhost".to_owned(),
            denied_name: "name.invalid".to_owned(),
            published: (Ipv4Addr::LOCALHOST, 0).into(),
            authority: String::new(),
            placeholder: String::new(),
            ports: servers.ports.clone(),
        }
    }

    #[test]
    fn every_step_without_a_link_in_between_works_on_loopback() {
        let servers = Servers::start().unwrap();
        let itinerary = itinerary(&servers);
        // What takes a link, or the engine's answer in place of a server.
        let elsewhere = [
            "ping IPv4",
            "ping IPv6",
            "denied HTTP",
            "published port",
            "denied name",
            "a secret",
            "misused secret",
            "policy change",
        ];
        for (name, step) in STEPS.into_iter().filter(|(name, _)| !elsewhere.contains(name)) {
            step(&itinerary).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
    }

    #[test]
    fn a_step_that_gets_the_wrong_answer_fails() {
        let servers = Servers::start().unwrap();
        let to = itinerary(&servers);
        assert!(fetch(to.at_ipv4(to.ports.closed)).is_err(), "nobody serves HTTP there");
        assert!(fetch(to.at_ipv4(to.ports.source)).is_err(), "that is no HTTP");
        assert!(be_refused(to.at_ipv4(to.ports.http_ipv4)).is_err(), "somebody accepts there");
        assert!(exchange(to.at_ipv4(to.ports.closed)).is_err(), "nobody sends back there");
    }
}
