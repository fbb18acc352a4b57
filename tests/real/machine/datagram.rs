//! Says a datagram of so many bytes to ADDRESS:PORT, and whether it came back as it was.

use std::net::UdpSocket;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, to, len] = &arguments[..] else { panic!("datagram ADDRESS:PORT LENGTH") };
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let sent: Vec<u8> = (0..len.parse::<usize>().unwrap()).map(|at| (at % 251) as u8).collect();
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect(to).unwrap();
    socket.send(&sent).unwrap();
    let mut heard = vec![0; 65_535];
    let len = socket.recv(&mut heard).unwrap();
    assert!(heard[..len] == sent, "{len} other bytes came back");
}
