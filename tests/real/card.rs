//! A guest's card that is a Unix socket: a TAP interface in its namespace, and a program between
//! the two. So a guest with the kernel's own stack is behind `sluicegate serve`, and stays as it is
//! while one engine goes and another comes.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{ChildStdin, Stdio};

use sluicegate_host::netns::Interface;

use crate::guest::{Guest, gateway};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::servers::Family;

/// Makes the interface `eth0`, and carries its frames between it and the path of each line that it
/// reads, until the peer there goes. A segment that the guest says again to the same peer goes no
/// further: what is answered is what was said first.
const CARD: &str = "
import fcntl, os, select, socket, struct, sys
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'eth0', 0x1002))
print('made', flush=True)

def exactly(peer, count):
    taken = b''
    while len(taken) < count:
        more = peer.recv(count - len(taken))
        if not more:
            return None
        taken += more
    return taken

for number, path in enumerate(sys.stdin):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path.strip())
    print('in', number, flush=True)
    said = set()
    while True:
        ready, _, _ = select.select([tap, peer], [], [])
        if peer in ready:
            length = exactly(peer, 4)
            frame = length and exactly(peer, struct.unpack('>I', length)[0])
            if not frame:
                break
            os.write(tap, frame)
        if tap in ready:
            frame = os.read(tap, 65549)
            if frame[12:14] == b'\\x08\\x00' and frame[23] == 6:
                segment = frame[34:48] + frame[34 + (frame[46] >> 4) * 4:]
                if segment in said:
                    continue
                said.add(segment)
            peer.sendall(struct.pack('>I', len(frame)) + frame)
    print('out', number, flush=True)
";

/// A guest's card, whose socket it connects itself.
pub(crate) struct Card {
    program: Process,
    peers: ChildStdin,
    count: u32,
}

impl Card {
    /// The card of the guest of `slot` in `namespace`, which knows what it would be told.
    pub(crate) fn new(namespace: &Namespace, slot: u16) -> Self {
        let mut command = namespace.command("python3");
        let mut program = Process::start(command.args(["-c", CARD]).stdin(Stdio::piped()));
        program.wait_for("made\n");
        let peers = program.take_input();
        let [high, low] = slot.to_be_bytes();
        let of = |family| (gateway(slot, family), Guest::address_in(slot, family));
        let (IpAddr::V4(gateway_ipv4), IpAddr::V4(ipv4)) = of(Family::V4) else {
            panic!("of IPv4")
        };
        let (IpAddr::V6(gateway_ipv6), IpAddr::V6(ipv6)) = of(Family::V6) else {
            panic!("of IPv6")
        };
        let interface = Interface {
            name: "eth0".to_owned(),
            mac: [0x02, 0x6d, 0x73, high, low, 2],
            mtu: 1500,
            ipv4,
            ipv6,
            gateway_ipv4,
            gateway_ipv6,
        };
        namespace.inside(|| sluicegate_host::netns::configure(&interface)).unwrap();
        Self { program, peers, count: 0 }
    }

    /// Connects to whoever serves `path`, as the first or after the last has gone.
    pub(crate) fn connect(&mut self, path: &Path) {
        writeln!(self.peers, "{}", path.display()).unwrap();
        self.program.wait_for(&format!("in {}\n", self.count));
        self.count += 1;
    }

    /// Waits until its peer has gone.
    pub(crate) fn is_alone(&mut self) {
        self.program.wait_for(&format!("out {}\n", self.count - 1));
    }
}
