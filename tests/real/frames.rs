//! Frames that no kernel would send, and how a guest sends them all the same.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use crate::guest::Guest;
use crate::process::Process;
use crate::servers::Family;

/// Sends every line of hex digits that it reads as a frame. A full queue drops frames, as it may.
const INJECT: &str = "
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(('eth0', 0))
for line in sys.stdin:
    try:
        link.send(bytes.fromhex(line))
    except OSError:
        pass
";

const UDP: u8 = 17;
const TCP: u8 = 6;

/// Who a frame says it is from, and who it is to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

impl Envelope {
    /// An honest one, from `source_port` of `guest` to `port` of its gateway.
    pub(crate) fn to_gateway(guest: &Guest, family: Family, source_port: u16, port: u16) -> Self {
        let [high, low] = guest.slot().to_be_bytes();
        Self {
            source_mac: [0x02, 0x6d, 0x73, high, low, 2],
            destination_mac: [0x02, 0x6d, 0x73, high, low, 1],
            source: (guest.address(family), source_port).into(),
            destination: (guest.gateway(family), port).into(),
        }
    }

    /// A UDP datagram.
    pub(crate) fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut datagram = self.ports();
        datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        self.frame(UDP, datagram, 6)
    }

    /// A segment that asks for a connection.
    pub(crate) fn syn(&self, sequence: u32) -> Vec<u8> {
        let mut segment = self.ports();
        segment.extend(sequence.to_be_bytes());
        // No acknowledgement; 20 bytes of header; SYN; a window of 64 KiB; checksum, no urgent
        // data.
        segment.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        self.frame(TCP, segment, 16)
    }

    fn ports(&self) -> Vec<u8> {
        [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat()
    }

    /// `body` with its checksum at `at`, behind its headers.
    fn frame(&self, protocol: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap();
        let (source, destination) = (self.source.ip(), self.destination.ip());
        let mut pseudo = [octets(source), octets(destination)].concat();
        pseudo.extend([0, protocol]);
        pseudo.extend(len.to_be_bytes());
        let sum = checksum(&[&pseudo[..], &body].concat());
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut frame = [self.destination_mac, self.source_mac].concat();
        if source.is_ipv4() {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0];
            header.extend((20 + len).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            header.extend([octets(source), octets(destination)].concat());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend([octets(source), octets(destination)].concat());
        }
        frame.extend(body);
        frame
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Lets `guest` send `frames`, one after the other.
pub(crate) fn inject(guest: &Guest, frames: impl IntoIterator<Item = Vec<u8>>) {
    let mut command = guest.command("python3");
    let mut python = Process::start(command.args(["-c", INJECT]).stdin(Stdio::piped()));
    let mut input = std::io::BufWriter::new(python.take_input());
    for frame in frames {
        for byte in frame {
            write!(input, "{byte:02x}").unwrap();
        }
        input.write_all(b"\n").unwrap();
    }
    drop(input);
    let finished = python.finish();
    assert_eq!(finished.code, 0, "{finished:?}");
}
