//! The way of a guest's question for its own addresses, to who answers it.

use core::net::IpAddr;
use core::ops::Range;

use super::ingress::{Packet, Source};
use super::{Engine, Step};
use crate::contract::{Drop, Instant};
use crate::limits::{DHCP_PORT, DHCPV6_PORT};
use crate::store::ring::RingHandle;
use crate::wire::classify::Ip;

impl<R: RingHandle> Engine<'_, R> {
    /// Whether a datagram of `ip` to `port` is a question of a client's to its server.
    pub(super) fn is_for_autoconf(&self, ip: &Ip, port: u16) -> bool {
        let is_server = match ip.destination {
            IpAddr::V4(to) => {
                port == DHCP_PORT && (to.is_broadcast() || to == self.config.link.gateway_ipv4)
            }
            IpAddr::V6(to) => port == DHCPV6_PORT && to.is_multicast(),
        };
        is_server && self.autoconf.is_some()
    }

    /// Answers a datagram of DHCP or DHCPv6; `payload` is a range of the packet's payload.
    pub(super) fn answer_dhcp(
        &mut self,
        packet: &Packet,
        payload: Range<usize>,
    ) -> Result<Option<Step>, Drop> {
        let Some(autoconf) = &self.autoconf else { return Err(Drop::DestinationAddress) };
        let range = packet.at.start + payload.start..packet.at.start + payload.end;
        let Source::Ring(record) = packet.source else { return Err(Drop::Fragment) };
        let bytes = self.from_guest.bytes(&record).get(range).ok_or(Drop::Truncated)?;
        match packet.ip.source {
            IpAddr::V4(_) => autoconf.dhcp(bytes, &mut self.out)?,
            IpAddr::V6(source) => autoconf.dhcpv6(source, bytes, &mut self.out)?,
        }
        Ok(None)
    }

    /// Answers a router solicitation (RFC 4861 6.2.6).
    pub(super) fn answer_router_solicit(
        &mut self,
        now: Instant,
        ip: &Ip,
    ) -> Result<Option<Step>, Drop> {
        let Some(autoconf) = &mut self.autoconf else { return Err(Drop::Unsupported) };
        let (IpAddr::V6(source), IpAddr::V6(to)) = (ip.source, ip.destination) else {
            return Err(Drop::Malformed);
        };
        let link = &self.config.link;
        if !to.is_multicast() && to != link.gateway_ipv6 && to != link.gateway_link_local() {
            return Err(Drop::DestinationAddress);
        }
        autoconf.solicited(now, source, &mut self.out);
        Ok(None)
    }
}
