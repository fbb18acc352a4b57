//! DHCP for IPv4 (RFC 2131, 2132): what a client says, and the messages that we compose.
//!
//! The fields and the walk of the options are smoltcp's (`DhcpPacket`); its `DhcpRepr` is not used,
//! as it refuses or forgets client identifiers that are no MAC address, which must come back as
//! they were (RFC 6842). An option that lies about its length ends the options: what came before
//! it counts, as with other servers.
//!
//! Not done: relay agents (there is none on a link of two), options in `sname` and `file` (RFC 2132
//! 9.3: nobody needs them for so few), options in pieces (RFC 3396).

use core::net::Ipv4Addr;

use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpOptionWriter, DhcpPacket,
    EthernetAddress,
};

use crate::contract::{Drop, Link};
use crate::limits::{DHCP_BYTES_MAX, DHCP_BYTES_MIN, DOMAIN_BYTES_MAX};
use crate::wire::write::Writer;

/// The number that says that options follow (RFC 2131 3).
const MAGIC: u32 = 0x6382_5363;
/// Bytes before the options.
const FIXED_BYTES: usize = 240;

/// Numbers of options (RFC 2132; 80: RFC 4039, 119: RFC 3397).
mod option {
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const NAME_SERVER: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WANTED: u8 = 55;
    pub(super) const RENEW_AFTER: u8 = 58;
    pub(super) const REBIND_AFTER: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    pub(super) const RAPID: u8 = 80;
    pub(super) const SEARCH: u8 = 119;
}

/// What a client says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'m> {
    pub(crate) kind: DhcpMessageType,
    transaction: u32,
    /// It cannot receive what is sent to an address that it does not have yet.
    pub(crate) wants_broadcast: bool,
    /// The address that it uses; unspecified: none.
    pub(crate) client: Ipv4Addr,
    /// The address that it asks for.
    pub(crate) requested: Option<Ipv4Addr>,
    /// The server that it speaks to; `None`: all.
    pub(crate) server: Option<Ipv4Addr>,
    /// It takes a lease without being offered it first.
    pub(crate) is_rapid: bool,
    /// How it calls itself.
    identifier: Option<&'m [u8]>,
    /// The options that it asks for; `None`: it leaves that to us.
    wanted: Option<&'m [u8]>,
}

impl<'m> Message<'m> {
    /// Reads `packet`, which comes from the guest whose MAC address is `guest_mac`.
    ///
    /// # Errors
    /// Why it is no message of that guest's to a server.
    ///
    /// # Cost
    /// Linear in its length.
    pub(crate) fn read(packet: &'m DhcpPacket<&'m [u8]>, guest_mac: [u8; 6]) -> Result<Self, Drop> {
        let is_ethernet =
            packet.hardware_type() == ArpHardware::Ethernet && packet.hardware_len() == 6;
        let is_request = packet.opcode() == DhcpOpCode::Request;
        if !is_ethernet || !is_request || packet.magic_number() != MAGIC {
            return Err(Drop::Malformed);
        }
        if packet.client_hardware_address() != EthernetAddress(guest_mac) {
            return Err(Drop::SourceMac);
        }
        if !packet.relay_agent_ip().is_unspecified() {
            return Err(Drop::Unsupported);
        }
        let mut message = Self {
            kind: DhcpMessageType::Unknown(0),
            transaction: packet.transaction_id(),
            wants_broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            client: packet.client_ip(),
            requested: None,
            server: None,
            is_rapid: false,
            identifier: None,
            wanted: None,
        };
        for option in packet.options() {
            message.take(option)?;
        }
        match message.kind {
            // Without a type it is BOOTP (RFC 951), which leases nothing.
            DhcpMessageType::Unknown(_)
            | DhcpMessageType::Offer
            | DhcpMessageType::Ack
            | DhcpMessageType::Nak => Err(Drop::Unsupported),
            DhcpMessageType::Discover
            | DhcpMessageType::Request
            | DhcpMessageType::Decline
            | DhcpMessageType::Release
            | DhcpMessageType::Inform => Ok(message),
        }
    }

    fn take(&mut self, option: DhcpOption<'m>) -> Result<(), Drop> {
        let data = option.data;
        match (option.kind, data) {
            (option::MESSAGE_TYPE, [kind]) => self.kind = DhcpMessageType::from(*kind),
            (option::REQUESTED, _) => self.requested = Some(address(data)?),
            (option::SERVER, _) => self.server = Some(address(data)?),
            (option::RAPID, []) => self.is_rapid = true,
            (option::CLIENT, [_, ..]) => self.identifier = Some(data),
            (option::WANTED, [_, ..]) => self.wanted = Some(data),
            (option::MESSAGE_TYPE | option::RAPID | option::CLIENT | option::WANTED, _) => {
                return Err(Drop::Malformed);
            }
            (_, _) => {}
        }
        Ok(())
    }

    fn wants(&self, option: u8) -> bool {
        self.wanted.is_none_or(|wanted| wanted.contains(&option))
    }
}

fn address(data: &[u8]) -> Result<Ipv4Addr, Drop> {
    let octets: [u8; 4] = data.try_into().map_err(|_| Drop::Malformed)?;
    Ok(octets.into())
}

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The address is offered.
    Offer,
    /// The address is leased; at once, if the client asked for that (RFC 4039).
    Lease { is_rapid: bool },
    /// No lease, but what belongs to the address that the client has.
    Parameters,
    /// The client cannot have what it asks for.
    Refusal,
}

impl Answer {
    fn kind(self) -> DhcpMessageType {
        match self {
            Self::Offer => DhcpMessageType::Offer,
            Self::Lease { .. } | Self::Parameters => DhcpMessageType::Ack,
            Self::Refusal => DhcpMessageType::Nak,
        }
    }

    fn leases(self) -> bool {
        matches!(self, Self::Offer | Self::Lease { .. })
    }
}

/// What a lease says beside addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'t> {
    pub(crate) lease_s: u32,
    pub(crate) search: Option<&'t str>,
}

/// Writes the `answer` to `message`; returns its length.
///
/// Of the options, those that the client asked for are sent, and all if it did not say (RFC 2131
/// 4.3.1); what identifies the lease comes first, and has room whatever the client calls itself.
pub(crate) fn compose(
    message: &Message<'_>,
    answer: Answer,
    link: &Link,
    terms: Terms<'_>,
    out: &mut [u8; DHCP_BYTES_MAX],
) -> usize {
    out.fill(0);
    let mut packet = DhcpPacket::new_unchecked(&mut out[..]);
    packet.set_opcode(DhcpOpCode::Reply);
    packet.set_hardware_type(ArpHardware::Ethernet);
    packet.set_hardware_len(6);
    packet.set_transaction_id(message.transaction);
    let flags = if message.wants_broadcast { DhcpFlags::BROADCAST } else { DhcpFlags::empty() };
    packet.set_flags(flags);
    packet.set_client_hardware_address(EthernetAddress(link.guest_mac));
    packet.set_magic_number(MAGIC);
    if answer.leases() {
        packet.set_your_ip(link.guest_ipv4);
    }
    if !matches!(answer, Answer::Offer | Answer::Refusal) {
        packet.set_client_ip(message.client);
    }
    let mut options = Options { writer: packet.options_mut(), len: FIXED_BYTES };
    options.put(option::MESSAGE_TYPE, &[answer.kind().into()]);
    options.put(option::SERVER, &link.gateway_ipv4.octets());
    if let Some(identifier) = message.identifier {
        options.put(option::CLIENT, identifier);
    }
    if answer.leases() {
        let lease = terms.lease_s;
        options.put(option::LEASE, &lease.to_be_bytes());
        options.put(option::RENEW_AFTER, &(lease / 2).to_be_bytes());
        // 7/8 of the lease (RFC 2131 4.4.5).
        options.put(option::REBIND_AFTER, &(lease - lease / 8).to_be_bytes());
    }
    if answer == (Answer::Lease { is_rapid: true }) {
        options.put(option::RAPID, &[]);
    }
    if answer != Answer::Refusal {
        options.put_parameters(message, link, terms.search);
    }
    options.end().max(DHCP_BYTES_MIN)
}

/// The options of a message under way. What has no room is left out; the end always has.
struct Options<'o> {
    writer: DhcpOptionWriter<'o>,
    len: usize,
}

impl Options<'_> {
    fn put(&mut self, kind: u8, data: &[u8]) {
        let after = self.len + 2 + data.len();
        if after < DHCP_BYTES_MAX && self.writer.emit(DhcpOption { kind, data }).is_ok() {
            self.len = after;
        }
    }

    fn put_parameters(&mut self, message: &Message<'_>, link: &Link, search: Option<&str>) {
        let gateway = link.gateway_ipv4.octets();
        // A /30. The mask must come before the router (RFC 2132 3.3).
        for (kind, data) in [
            (option::SUBNET_MASK, &[255, 255, 255, 252][..]),
            (option::ROUTER, &gateway),
            (option::NAME_SERVER, &gateway),
            (option::MTU, &link.mtu.to_be_bytes()),
        ] {
            if message.wants(kind) {
                self.put(kind, data);
            }
        }
        let Some(search) = search else { return };
        if message.wants(option::DOMAIN) {
            self.put(option::DOMAIN, search.as_bytes());
        }
        if message.wants(option::SEARCH) {
            let mut name = [0; DOMAIN_BYTES_MAX + 2];
            let mut writer = Writer::new(&mut name);
            writer.name(search);
            let len = writer.finish();
            self.put(option::SEARCH, name.get(..len).unwrap_or(&[]));
        }
    }

    fn end(mut self) -> usize {
        // `put` leaves a byte.
        let _ = self.writer.end();
        self.len + 1
    }
}

const _: () = assert!(
    // Type, server, lease and its two times, rapid; the longest identifier; mask, router and name
    // server; the end.
    FIXED_BYTES + 3 + 4 * 6 + 2 + 257 + 3 * 6 < DHCP_BYTES_MAX,
    "a guest gets online whatever it calls itself"
);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const LINK: Link = Link {
        guest_mac: [2, 0, 0, 0, 0, 2],
        gateway_mac: [2, 0, 0, 0, 0, 1],
        guest_ipv4: Ipv4Addr::new(100, 96, 0, 2),
        gateway_ipv4: Ipv4Addr::new(100, 96, 0, 1),
        guest_ipv6: core::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        gateway_ipv6: core::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        mtu: 1500,
        receive_frame_bytes: 1514,
    };

    proptest! {
        #[test]
        fn whatever_a_client_says_the_answer_is_whole(
            fixed in any::<[u8; 24]>(),
            options in prop::collection::vec((any::<u8>(), 0usize..256, any::<u8>()), 0..8),
            tail in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut text = Vec::from([1, 1, 6]);
            text.extend(fixed);
            text.resize(28, 0);
            text.get_mut(24..28).unwrap().fill(0);
            text.extend(LINK.guest_mac);
            text.resize(236, 0);
            text.extend(MAGIC.to_be_bytes());
            text.extend([53, 1, 1]);
            for (kind, len, byte) in options {
                text.extend([kind, u8::try_from(len).unwrap()]);
                text.resize(text.len() + len, byte);
            }
            text.extend(tail);
            let packet = DhcpPacket::new_checked(&text[..]).unwrap();
            let Ok(message) = Message::read(&packet, LINK.guest_mac) else { return Ok(()) };
            let search = "a.".repeat(126) + "a";
            let terms = Terms { lease_s: 60, search: Some(&search) };
            for answer in [
                Answer::Offer,
                Answer::Lease { is_rapid: true },
                Answer::Parameters,
                Answer::Refusal,
            ] {
                let mut out = [0; DHCP_BYTES_MAX];
                let len = compose(&message, answer, &LINK, terms, &mut out);
                let options = out.get(FIXED_BYTES..len).unwrap();
                prop_assert!(options.contains(&255), "it has an end");
                let packet = DhcpPacket::new_checked(out.get(..len).unwrap()).unwrap();
                let server = packet.options().find(|found| found.kind == option::SERVER);
                prop_assert_eq!(server.unwrap().data, LINK.gateway_ipv4.octets());
            }
        }
    }
}
