//! What an engine is told once, checked once.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rate::RateFields;
use super::{Autoconf, ConfigError, DenyPage, Policy, Rate};
use crate::limits;

const EGRESS: RateFields = [
    "rate_limiter.egress.bandwidth.size",
    "rate_limiter.egress.ops.size",
    "rate_limiter.egress.*.refill_time_ms",
];
const INGRESS: RateFields = [
    "rate_limiter.ingress.bandwidth.size",
    "rate_limiter.ingress.ops.size",
    "rate_limiter.ingress.*.refill_time_ms",
];

/// The two ends of the guest's link: MAC and IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The guest's MAC address; frames from any other are dropped.
    pub guest_mac: [u8; 6],
    /// Our MAC address.
    pub gateway_mac: [u8; 6],
    /// The guest's IPv4 address.
    pub guest_ipv4: Ipv4Addr,
    /// Our IPv4 address on the link: the guest's way to this host's loopback.
    pub gateway_ipv4: Ipv4Addr,
    /// The guest's IPv6 address.
    pub guest_ipv6: Ipv6Addr,
    /// Our IPv6 address on the link.
    pub gateway_ipv6: Ipv6Addr,
    /// The largest IP packet that the guest sends, in bytes.
    pub mtu: u16,
    /// The largest Ethernet frame that the guest's receive buffers take, in bytes without a virtio
    /// header.
    pub receive_frame_bytes: u32,
}

impl Link {
    /// The gateway's link-local address, which routers need: it follows from its MAC address (RFC
    /// 4291 2.5.6 and appendix A).
    #[must_use]
    pub fn gateway_link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.gateway_mac;
        let pair = |high, low| u16::from_be_bytes([high, low]);
        let tail = [pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)];
        Ipv6Addr::new(0xfe80, 0, 0, 0, tail[0], tail[1], tail[2], tail[3])
    }
}

/// An engine's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The link.
    pub link: Link,
    /// TCP flows at a time. While the engine runs this, and the next three, and `fragment_sets` may
    /// be changed up to what they were at the start.
    pub tcp_flows_max: u32,
    /// UDP flows at a time that the guest opened.
    pub udp_flows_max: u32,
    /// Echo flows at a time.
    pub icmp_flows_max: u32,
    /// UDP flows at a time that somebody outside opened, beside the guest's.
    pub inbound_udp_flows_max: u32,
    /// TCP flows at a time that somebody outside opened, of all.
    pub inbound_tcp_flows_max: u32,
    /// Bytes of each TCP flow's receive buffer, a power of two.
    pub tcp_receive_bytes: usize,
    /// Bytes of each TCP flow's send buffer, a power of two.
    pub tcp_send_bytes: usize,
    /// Datagrams that may be under reassembly at a time.
    pub fragment_sets: u32,
    /// Where the guest may go, and who may come to it.
    pub policy: Policy,
    /// A flow that is allowed by a name alone must say that name (SNI, Host), and say it in the
    /// clear. Without it, what says no name is judged by the names that its address is known by.
    pub strict: bool,
    /// What an HTTP request at port 80 is answered where policy denies it by default; `None`: a
    /// reset, as elsewhere.
    pub deny_page: Option<DenyPage>,
    /// TCP ports at which a TLS handshake is for the host to answer
    /// ([`Action::Intercept`](super::Action::Intercept)). What is said there and is no TLS is as
    /// anywhere else, but the guest must speak first. Where there is one, names over TLS (RFC 7858)
    /// are the host's to answer as well, at port 853 of whatever address.
    pub intercepted_ports: heapless::Vec<u16, { limits::INTERCEPTED_PORTS_MAX }>,
    /// What is said in the clear at these ports and at port 80 is for the host to relay
    /// ([`Action::Intercept`](super::Action::Intercept) without a handshake); the guest must speak
    /// first at port 80, too.
    pub relays_http: bool,
    /// QUIC (UDP) at the intercepted ports, which can't be intercepted, is refused as by a closed
    /// port, so that a client takes TCP at once.
    pub refuses_quic: bool,
    /// Names of addresses are kept though no rule is by name: rules may come that are
    /// ([`Engine::replace_config`](crate::Engine::replace_config)), and flows are listed with their
    /// names.
    pub keeps_names: bool,
    /// Answers of name servers may lead to public addresses only, but for those of which `policy`
    /// itself says that they may be reached.
    pub rebind_protection: bool,
    /// This host's own addresses as far as they would count as the public Internet's otherwise;
    /// more do no harm. An empty list is believed: a rule for [`Group::Public`](super::Group)
    /// reaches public addresses of this host that are not in it. Who does not know them yet says so
    /// by [`Engine::replace_own_addresses`](crate::Engine::replace_own_addresses) with `None`, by
    /// which nothing is public.
    pub own_addresses: heapless::Vec<IpAddr, { limits::OWN_ADDRESSES_MAX }>,
    /// Networks of 96 bits behind which is IPv4 (RFC 6052 2.2), beside 64:ff9b::/96.
    pub nat64_prefixes: heapless::Vec<Ipv6Addr, { limits::NAT64_PREFIXES_MAX }>,
    /// How much the guest may send.
    pub from_guest_rate: Option<Rate>,
    /// How much it may be sent.
    pub to_guest_rate: Option<Rate>,
    /// How a guest is answered that asks the link for its addresses (DHCP, DHCPv6, router
    /// solicitations); `None`: it is not, as it knows them.
    pub autoconf: Option<Autoconf>,
    /// Secret randomness: keys the flow hash and the initial sequence numbers.
    pub seed: [u8; 16],
}

impl Config {
    /// Flows at a time of those that share their slots: TCP, UDP, echo, UDP from outside.
    pub(crate) const fn flows_max(&self) -> [u32; 4] {
        [self.tcp_flows_max, self.udp_flows_max, self.icmp_flows_max, self.inbound_udp_flows_max]
    }

    /// Checks that `new` differs in no field that an engine can't change while it runs.
    ///
    /// # Errors
    /// The first field that differs.
    pub(crate) fn check_fixed(&self, new: &Self) -> Result<(), ConfigError> {
        let fixed = |field, is_same, value: &dyn core::fmt::Display| {
            let expected = "as it was at the start: it can't change while the network runs";
            if is_same { Ok(()) } else { Err(ConfigError::new(field, value, expected)) }
        };
        fixed("interface", self.link == new.link, &"another link")?;
        for (field, old, new) in [
            ("tcp_receive_bytes", self.tcp_receive_bytes, new.tcp_receive_bytes),
            ("tcp_send_bytes", self.tcp_send_bytes, new.tcp_send_bytes),
        ] {
            fixed(field, old == new, &new)?;
        }
        fixed("interface.autoconf", self.autoconf == new.autoconf, &"other terms")
    }

    /// Checks every field against its limits.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let l = &self.link;
        if !(limits::MTU_BYTES_MIN..=limits::MTU_BYTES_MAX).contains(&l.mtu) {
            return Err(ConfigError::new("interface.mtu", l.mtu, "between 1280 and 65520"));
        }
        let receive_range = limits::RECEIVE_FRAME_BYTES_MIN..=limits::RECEIVE_FRAME_BYTES_MAX;
        if !receive_range.contains(&l.receive_frame_bytes) {
            return Err(ConfigError::new(
                "interface.receive_frame_bytes",
                l.receive_frame_bytes,
                "between 1294 and 65549",
            ));
        }
        for (field, value, max) in [
            ("max_connections", self.tcp_flows_max, limits::TCP_FLOWS_MAX),
            ("max_udp_connections", self.udp_flows_max, limits::UDP_FLOWS_MAX),
            ("max_icmp_connections", self.icmp_flows_max, limits::ICMP_FLOWS_MAX),
            ("max_inbound_udp_connections", self.inbound_udp_flows_max, limits::UDP_FLOWS_MAX),
        ] {
            if value == 0 || value > max {
                return Err(ConfigError::new(field, value, "between 1 and 65536"));
            }
        }
        for (field, value) in
            [("tcp_receive_bytes", self.tcp_receive_bytes), ("tcp_send_bytes", self.tcp_send_bytes)]
        {
            if !value.is_power_of_two() || !(4096..=1 << 30).contains(&value) {
                return Err(ConfigError::new(field, value, "a power of two from 4096 to 2^30"));
            }
        }
        if self.fragment_sets == 0 || self.fragment_sets > 1024 {
            return Err(ConfigError::new(
                "fragment_sets",
                self.fragment_sets,
                "between 1 and 1024",
            ));
        }
        for (rate, fields) in [(&self.from_guest_rate, EGRESS), (&self.to_guest_rate, INGRESS)] {
            rate.as_ref().map_or(Ok(()), |rate| rate.check(&fields))?;
        }
        self.autoconf.as_ref().map_or(Ok(()), Autoconf::check)?;
        match self.nat64_prefixes.iter().find(|prefix| prefix.to_bits() & 0xffff_ffff != 0) {
            Some(prefix) => {
                Err(ConfigError::new("nat64_prefixes", prefix, "a network of 96 bits (RFC 6052)"))
            }
            None => Ok(()),
        }
    }
}
