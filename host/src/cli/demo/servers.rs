//! The servers of the demonstration, on this host's loopback. Owns what they answer; must not know
//! that a guest asks. One thread a listener, one a connection: few, and all end with the process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::secret::Vendor;
use super::{THROUGHPUT_MS, now};
use crate::cli::failure::Failure;

/// What an HTTP request gets.
const BODY: &str = "Hello from the host's loopback.\n";
/// Bytes given to a socket, or taken from one, at a time.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;
/// No server waits longer than this for its client.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Where the servers are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ports {
    /// HTTP over IPv4.
    pub(super) http_ipv4: u16,
    /// HTTP over IPv6, or over IPv4 too where the host has no IPv6.
    pub(super) http_ipv6: u16,
    /// UDP, every datagram sent back.
    pub(super) echo: u16,
    /// TCP: reads all that comes, then tells how many bytes it was (8 bytes, big-endian).
    pub(super) sink: u16,
    /// TCP: sends for two seconds.
    pub(super) source: u16,
    /// HTTPS.
    pub(super) https: u16,
    /// Nobody listens here.
    pub(super) closed: u16,
}

/// The running servers.
pub(super) struct Servers {
    /// Their ports.
    pub(super) ports: Ports,
    /// The one that asks for a secret.
    pub(super) vendor: Vendor,
    /// Bound but not listening: keeps the closed port closed.
    _closed: Socket,
}

impl Servers {
    /// Starts them, each on a port of the kernel's choice.
    pub(super) fn start() -> Result<Self, Failure> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let http_ipv4 = listen(loopback, http)?;
        // Without IPv6 on this host the gateway leads to its IPv4 loopback.
        let http_ipv6 = listen((Ipv6Addr::LOCALHOST, 0).into(), http).unwrap_or(http_ipv4);
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        closed.bind(&loopback.into())?;
        let vendor = Vendor::start()?;
        let ports = Ports {
            https: vendor.port,
            http_ipv4,
            http_ipv6,
            echo: echo(loopback)?,
            sink: listen(loopback, sink)?,
            source: listen(loopback, source)?,
            closed: closed.local_addr()?.as_socket().map_or(0, |address| address.port()),
        };
        Ok(Self { ports, vendor, _closed: closed })
    }
}

/// Serves every connection to `address` with `serve`; gives the port.
fn listen(address: SocketAddr, serve: fn(&mut TcpStream) -> io::Result<()>) -> io::Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(WAIT_MAX))?;
                stream.set_write_timeout(Some(WAIT_MAX))?;
                // A client that goes away is its own loss: the guest reports what it missed.
                serve(&mut stream)
            });
        }
    });
    Ok(port)
}

fn http(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?).take(8192).lines();
    while request.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{BODY}",
        BODY.len()
    )
}

fn sink(stream: &mut TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut chunk)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            bytes => total += bytes as u64,
        }
    }
}

fn source(stream: &mut TcpStream) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    let end = now() + Duration::from_millis(THROUGHPUT_MS);
    while now() < end {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

fn echo(address: SocketAddr) -> io::Result<u16> {
    let socket = UdpSocket::bind(address)?;
    let port = socket.local_addr()?.port();
    std::thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        // An error of one datagram (a port unreachable that came back) is not the next one's.
        loop {
            if let Ok((bytes, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..bytes], from);
            }
        }
    });
    Ok(port)
}
