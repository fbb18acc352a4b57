//! Small servers: threads of this process, which end with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use socket2::{Domain, SockRef, Socket, Type};

use crate::pattern;
use crate::waiting::PATIENCE;

/// The two internet protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The loopback address.
    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// A listener on a free port of the loopback address.
pub(crate) fn listener(family: Family) -> TcpListener {
    let listener = TcpListener::bind((family.loopback(), 0)).unwrap();
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    listener
}

/// Hands every connection that `listener` accepts to `serve`, each on a thread; returns the port.
pub(crate) fn serve(
    listener: TcpListener,
    serve: impl Fn(TcpStream) + Copy + Send + 'static,
) -> u16 {
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.set_write_timeout(Some(PATIENCE));
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Says back what it hears; returns the port.
pub(crate) fn echo(on: TcpListener) -> u16 {
    serve(on, |mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    })
}

/// An HTTP server: `GET /N` answers with the pattern of N, N bytes of it; `PUT /N` takes the same
/// and says whether it was. Returns the port.
pub(crate) fn http(on: TcpListener) -> u16 {
    serve(on, |stream| {
        // A client that goes away has ended the exchange.
        let _ = answer(&stream);
    })
}

fn answer(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut request, mut expects) = (String::new(), false);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        expects |= line.eq_ignore_ascii_case("expect: 100-continue\r\n");
        if line.trim().is_empty() {
            break;
        }
    }
    let number = request.split(['/', ' ']).nth(2).and_then(|number| number.parse().ok());
    let number: u64 = number.unwrap_or(0);
    if request.starts_with("GET ") {
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {number}\r\n\r\n")?;
        return pattern::send(stream, number, number);
    }
    if expects {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let seen = pattern::check(reader.take(number), number)?;
    let text = format!("{seen} bytes");
    let len = text.len();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{text}")
}

/// A UDP server that says back every datagram to its sender; returns the port.
pub(crate) fn echo_datagrams(on: UdpSocket) -> u16 {
    let port = on.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        // An error is an ICMP message about an earlier answer.
        loop {
            if let Ok((len, from)) = on.recv_from(&mut bytes) {
                let _ = on.send_to(&bytes[..len], from);
            }
        }
    });
    port
}

/// A UDP socket on a free port of the loopback address.
pub(crate) fn datagrams(family: Family) -> UdpSocket {
    let socket = UdpSocket::bind((family.loopback(), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A TCP port that refuses connections over both families as long as the value lives.
pub(crate) struct RefusingPort(Socket);

impl RefusingPort {
    /// One that nobody has.
    pub(crate) fn new() -> Self {
        // Bound, and not listening: nobody else can listen there.
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        Self(socket)
    }

    /// Its number.
    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// Waits for one connection.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}
