//! What a guest is told that knows nothing: DHCP, DHCPv6 and router advertisements, for the one
//! address of each family that it can have.
//!
//! There is no table of leases, and nothing to be filled up: the guest's MAC address leads to its
//! address whatever was said before, so every answer follows from the message alone. The only state
//! is when the last router advertisement went, and when the next will. A message has one answer at
//! most, which goes to the guest; nothing here depends on policy, as ARP does not.
//!
//! RFC 2131 and 2132; RFC 8415; RFC 4861 6.2 and RFC 8106. What is not done is said where the
//! messages are read (`wire/dhcp`, `wire/dhcpv6`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{DhcpMessageType, DhcpPacket, EthernetProtocol};

use super::device::Emitter;
use crate::contract::{self, Drop, Instant, Link};
use crate::limits::{
    ADVERT_ANSWER_MS_MIN, ADVERT_MS, ADVERT_MS_MIN, DHCP_BYTES_MAX, DHCP_PORT, DHCPV6_BYTES_MAX,
    DHCPV6_PORT,
};
use crate::store::ring::RingHandle;
use crate::wire::advert::{self, ALL_NODES};
use crate::wire::reply::{self, UDP_HEADERS_BYTES_MAX};
use crate::wire::{dhcp, dhcpv6};

/// From the server's port to the client's (RFC 2131 4.1).
const DHCP_PORTS: (u16, u16) = (DHCP_PORT, 68);
/// The same (RFC 8415 7.2).
const DHCPV6_PORTS: (u16, u16) = (DHCPV6_PORT, 546);
/// Bytes of the longest packet made here.
const PACKET_BYTES_MAX: usize = UDP_HEADERS_BYTES_MAX + DHCPV6_BYTES_MAX;

/// Who tells a guest its addresses.
pub(crate) struct Autoconf {
    terms: contract::Autoconf,
    link: Link,
    adverts: Adverts,
}

impl Autoconf {
    pub(crate) fn new(terms: contract::Autoconf, link: Link, now: Instant) -> Self {
        Self { terms, link, adverts: Adverts::new(now) }
    }

    /// Takes `bytes`, the payload of a DHCP datagram of the guest.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) fn dhcp<R: RingHandle>(
        &self,
        bytes: &[u8],
        out: &mut Emitter<'_, R>,
    ) -> Result<(), Drop> {
        let packet = DhcpPacket::new_checked(bytes).map_err(|_| Drop::Truncated)?;
        let message = dhcp::Message::read(&packet, self.link.guest_mac)?;
        let Some(answer) = self.judge_dhcp(&message)? else {
            out.counters.leases_given_up += 1;
            return Ok(());
        };
        let terms = dhcp::Terms { lease_s: self.terms.lease_s, search: self.search() };
        let mut text = [0; DHCP_BYTES_MAX];
        let len = dhcp::compose(&message, answer, &self.link, terms, &mut text);
        let to = self.dhcp_destination(&message, answer);
        let ends = (self.link.gateway_ipv4.into(), to.into());
        if send(ends, DHCP_PORTS, text.get(..len).unwrap_or(&[]), out) {
            out.counters.dhcp_answered += 1;
        }
        Ok(())
    }

    /// What a client is answered (RFC 2131 4.3); `None`: nothing.
    fn judge_dhcp(&self, message: &dhcp::Message<'_>) -> Result<Option<dhcp::Answer>, Drop> {
        use dhcp::Answer;
        let is_other = message.server.is_some_and(|server| server != self.link.gateway_ipv4);
        let own = self.link.guest_ipv4;
        Ok(match message.kind {
            DhcpMessageType::Discover if message.is_rapid => Some(Answer::Lease { is_rapid: true }),
            DhcpMessageType::Discover => Some(Answer::Offer),
            // It took another's offer, or gave up another's lease.
            DhcpMessageType::Request | DhcpMessageType::Decline | DhcpMessageType::Release
                if is_other =>
            {
                return Err(Drop::OtherServer);
            }
            DhcpMessageType::Request => {
                // SELECTING and INIT-REBOOT ask for an address; RENEWING and REBINDING have it.
                let asks = message.requested.or(known(message.client)).ok_or(Drop::Malformed)?;
                let agrees = message.client.is_unspecified() || message.client == asks;
                let lease = Answer::Lease { is_rapid: false };
                Some(if asks == own && agrees { lease } else { Answer::Refusal })
            }
            // Who has the address already is right, and has what belongs to it (RFC 2131 4.3.5).
            DhcpMessageType::Inform if message.client == own => Some(Answer::Parameters),
            DhcpMessageType::Inform => return Err(Drop::SourceAddress),
            // There is no other address: the next DISCOVER is offered the same.
            DhcpMessageType::Decline | DhcpMessageType::Release => None,
            DhcpMessageType::Offer
            | DhcpMessageType::Ack
            | DhcpMessageType::Nak
            | DhcpMessageType::Unknown(_) => return Err(Drop::Unsupported),
        })
    }

    /// Where the answer goes (RFC 2131 4.1); the frame goes to the guest's MAC address anyway.
    fn dhcp_destination(&self, message: &dhcp::Message<'_>, answer: dhcp::Answer) -> Ipv4Addr {
        if answer == dhcp::Answer::Refusal {
            return Ipv4Addr::BROADCAST;
        }
        // What is not refused has no other address than the guest's.
        let has_address = message.client == self.link.guest_ipv4;
        if !has_address && message.wants_broadcast {
            Ipv4Addr::BROADCAST
        } else {
            self.link.guest_ipv4
        }
    }

    /// Takes `bytes`, the payload of a DHCPv6 datagram of the guest from `source`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) fn dhcpv6<R: RingHandle>(
        &self,
        source: Ipv6Addr,
        bytes: &[u8],
        out: &mut Emitter<'_, R>,
    ) -> Result<(), Drop> {
        let message = dhcpv6::Message::read(bytes)?;
        let answer = self.judge_dhcpv6(&message)?;
        if matches!(message.kind, dhcpv6::Kind::Release | dhcpv6::Kind::Decline) {
            out.counters.leases_given_up += 1;
        }
        let terms = dhcpv6::Terms { lease_s: self.terms.lease_s, search: self.search() };
        let mut text = [0; DHCPV6_BYTES_MAX];
        let len = dhcpv6::compose(&message, answer, &self.link, terms, &mut text);
        let ends = (self.link.gateway_link_local().into(), source.into());
        if send(ends, DHCPV6_PORTS, text.get(..len).unwrap_or(&[]), out) {
            out.counters.dhcpv6_answered += 1;
        }
        Ok(())
    }

    /// What a client is answered (RFC 8415 16 and 18.3).
    fn judge_dhcpv6(&self, message: &dhcpv6::Message<'_>) -> Result<dhcpv6::Answer, Drop> {
        use dhcpv6::{Answer, Kind, Status};
        let own = dhcpv6::server_identifier(&self.link);
        let is_other = message.server.is_some_and(|server| server != own);
        let says_who = message.client.is_some();
        let (is_valid, answer) = match message.kind {
            Kind::Solicit => {
                let lease = Answer::Lease { is_rapid: true };
                let answer = if message.is_rapid { lease } else { Answer::Offer };
                (says_who && message.server.is_none(), answer)
            }
            Kind::Request => {
                (says_who && message.server.is_some(), Answer::Lease { is_rapid: false })
            }
            Kind::Renew => (says_who && message.server.is_some(), Answer::Renewal),
            Kind::Rebind => (says_who && message.server.is_none(), Answer::Renewal),
            Kind::Confirm => {
                let mut addresses = message.addresses().peekable();
                let has_some = addresses.peek().is_some();
                let is_right = addresses.all(|address| address == self.link.guest_ipv6);
                let status = if is_right { Status::Success } else { Status::NotOnLink };
                (says_who && message.server.is_none() && has_some, Answer::Status(status))
            }
            Kind::Release | Kind::Decline => {
                (says_who && message.server.is_some(), Answer::Status(Status::Success))
            }
            Kind::InformationRequest => (!message.has_associations(), Answer::Parameters),
        };
        match (is_valid, is_other) {
            (true, false) => Ok(answer),
            (true, true) => Err(Drop::OtherServer),
            (false, _) => Err(Drop::Malformed),
        }
    }

    /// Takes a router solicitation of the guest from `source`, which was checked.
    pub(crate) fn solicited<R: RingHandle>(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        out: &mut Emitter<'_, R>,
    ) {
        let to = if source.is_unspecified() { ALL_NODES } else { source };
        if self.adverts.solicited(now, to) {
            self.advertise(now, to, out);
        }
    }

    /// When there will be something to send.
    pub(crate) fn deadline(&self) -> Instant {
        self.adverts.next
    }

    /// Sends what is due.
    pub(crate) fn expire<R: RingHandle>(&mut self, now: Instant, out: &mut Emitter<'_, R>) {
        if self.adverts.next <= now {
            self.advertise(now, ALL_NODES, out);
        }
    }

    fn advertise<R: RingHandle>(&mut self, now: Instant, to: Ipv6Addr, out: &mut Emitter<'_, R>) {
        self.adverts.sent(now);
        let mut packet = [0; PACKET_BYTES_MAX];
        let len = advert::advert(&self.link, self.search(), to, &mut packet);
        if out.packet(EthernetProtocol::Ipv6, packet.get(..len).unwrap_or(&[])) {
            out.counters.router_advertisements += 1;
        }
    }

    fn search(&self) -> Option<&str> {
        self.terms.search.as_deref()
    }
}

/// An address that is one.
fn known(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_unspecified()).then_some(address)
}

/// Sends `text` in a datagram whose checksum is in place: clients that read packets below UDP take
/// a partial one for wrong. False: there was no room, in the ring or for the text.
fn send<R: RingHandle>(
    ends: (IpAddr, IpAddr),
    ports: (u16, u16),
    text: &[u8],
    out: &mut Emitter<'_, R>,
) -> bool {
    let mut packet = [0; PACKET_BYTES_MAX];
    let len = reply::udp(ends, ports, text, &mut packet);
    let kind = if ends.0.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    out.packet(kind, packet.get(..len).unwrap_or(&[]))
}

/// When router advertisements go (RFC 4861 6.2.4 and 6.2.6).
///
/// A guest that comes up asks, so there are none in a row at the start. Who asks is answered, a few
/// times a second at most; all are told once in three seconds at most, and so is who asked too
/// often.
struct Adverts {
    last: Option<Instant>,
    next: Instant,
}

impl Adverts {
    fn new(now: Instant) -> Self {
        Self { last: None, next: now.plus_millis(ADVERT_MS) }
    }

    /// Whether a solicitation is to be answered at once, by an advertisement for `to`. If not,
    /// there will be one for all.
    fn solicited(&mut self, now: Instant, to: Ipv6Addr) -> bool {
        let Some(last) = self.last else { return true };
        let gap_ms = if to == ALL_NODES { ADVERT_MS_MIN } else { ADVERT_ANSWER_MS_MIN };
        let is_time = last.plus_millis(gap_ms) <= now;
        if !is_time {
            self.next = self.next.min(last.plus_millis(ADVERT_MS_MIN));
        }
        is_time
    }

    fn sent(&mut self, now: Instant) {
        self.last = Some(now);
        self.next = now.plus_millis(ADVERT_MS);
    }
}
