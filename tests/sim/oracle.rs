//! What holds whatever happens: each frame for the guest is one that it can take and would accept,
//! each guest frame is accounted for, and the engine never sleeps on work.

use core::net::IpAddr;

use sluicegate_core::{Counters, Drop, Link};

use crate::seen::{Message, Seen};

/// Judges what the engine does.
#[derive(Debug)]
pub struct Oracle {
    link: Link,
    /// Frames that were put into the ring from the guest.
    pub frames_sent: u64,
    /// Frames that were taken from the ring to the guest.
    pub frames_taken: u64,
}

impl Oracle {
    /// For an engine on `link`.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self { link, frames_sent: 0, frames_taken: 0 }
    }

    /// Reads a frame for the guest.
    ///
    /// # Panics
    /// If it is not one that a strict guest takes.
    pub fn frame(&mut self, frame: &[u8]) -> Seen {
        self.frames_taken += 1;
        let bound = self.link.receive_frame_bytes as usize;
        let mtu = usize::from(self.link.mtu) + 14;
        assert!(frame.len() <= bound.min(mtu), "{} bytes for a guest of {bound}", frame.len());
        let seen = match Seen::read(frame) {
            Ok(seen) => seen,
            Err(wrong) => panic!("a frame for the guest: {wrong}: {frame:02x?}"),
        };
        assert_eq!(seen.from_mac, self.link.gateway_mac, "a frame of another than the gateway");
        assert_eq!(seen.to_mac, self.link.guest_mac, "a frame for another than the guest");
        let ends = match &seen.message {
            Message::Arp { mac, target, .. } => {
                assert_eq!(*mac, self.link.gateway_mac, "an ARP answer with another MAC");
                assert!(*target == self.link.guest_ipv4 || target.is_unspecified());
                return seen;
            }
            Message::Tcp(segment) => segment.ends,
            // Who asks for an address may have none yet, or a link-local one.
            Message::Udp { ends, ports: (67, 68), .. } if *ends == self.broadcast() => return seen,
            Message::Udp { ends, ports: (547, 546), .. } => {
                assert!(is_link_local(ends.0) && is_link_local(ends.1), "DHCPv6 within the link");
                return seen;
            }
            Message::Udp { ends, .. } => *ends,
            Message::Icmp(icmp) if icmp.kind == 134 && icmp.ends.0.is_ipv6() => {
                assert_eq!(icmp.hop_limit, 255, "a router advertisement from afar");
                assert!(is_link_local(icmp.ends.0), "a router has a link-local address");
                return seen;
            }
            Message::Icmp(icmp) if icmp.kind == 136 && icmp.ends.0.is_ipv6() => {
                assert_eq!(icmp.hop_limit, 255, "a neighbour advertisement from afar");
                return seen;
            }
            Message::Icmp(icmp) => icmp.ends,
            Message::Piece(piece) => piece.ends,
        };
        let ours = [IpAddr::V4(self.link.guest_ipv4), IpAddr::V6(self.link.guest_ipv6)];
        assert!(ours.contains(&ends.1), "a packet for {}, who is not the guest", ends.1);
        assert!(!ours.contains(&ends.0), "a packet that comes from the guest itself");
        seen
    }

    /// From the gateway to everybody.
    fn broadcast(&self) -> (IpAddr, IpAddr) {
        (self.link.gateway_ipv4.into(), core::net::Ipv4Addr::BROADCAST.into())
    }

    /// Checks that no guest frame was counted twice, or not at all, but where they wait for the
    /// time that they may be read.
    ///
    /// # Panics
    /// If one was.
    pub fn counts(&self, counters: &Counters, is_paced: bool) {
        let read = counters.frames_from_guest;
        let wait = is_paced && read < self.frames_sent;
        assert!(wait || read == self.frames_sent, "{read} of {} frames read", self.frames_sent);
        let drops = drops(counters);
        assert!(drops <= self.frames_sent, "{drops} drops of {} frames", self.frames_sent);
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Guest frames that the engine dropped, for whatever reason of the guest's.
#[must_use]
pub(crate) fn drops(counters: &Counters) -> u64 {
    let ours = |reason: &&Drop| !matches!(reason, Drop::AnswerLost | Drop::RingFull);
    Drop::ALL.iter().filter(ours).map(|&reason| counters.dropped(reason)).sum()
}
