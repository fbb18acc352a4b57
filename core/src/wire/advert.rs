//! Router solicitations and advertisements (RFC 4861 4.1, 4.2), with name servers and the search
//! domain (RFC 8106 5).
//!
//! smoltcp writes an advertisement but for the options of RFC 8106, which it does not know. What a
//! solicitation's options say does not matter here, as there is one guest and its MAC is known;
//! that they are whole does (RFC 4861 6.1.1), and that is a walk of lengths.

use core::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscPrefixInfoFlags, NdiscPrefixInformation,
    NdiscRepr, NdiscRouterFlags,
};

use super::classify::protocol;
use super::reply::{HOP_LIMIT, ip_header};
use super::write::Writer;
use crate::addr::IPV6_PREFIX_BITS;
use crate::contract::{Drop, Link};
use crate::limits::{ADVERT_LIFETIME_S, PREFIX_LIFETIME_S};

/// All nodes of the link (RFC 4291 2.7.1).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What neighbour discovery is sent with, so that nobody afar can take part in it.
const NEIGHBOR_HOP_LIMIT: u8 = 255;
/// The option with the sender's link-layer address (RFC 4861 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;

/// Checks the router solicitation `message`, which comes from `source` (RFC 4861 6.1.1).
///
/// # Errors
/// Why it is none.
///
/// # Cost
/// Linear in its options, of which each has eight bytes or more.
pub(crate) fn check_solicit(source: Ipv6Addr, message: &[u8]) -> Result<(), Drop> {
    let (head, options) = message.split_first_chunk::<8>().ok_or(Drop::Truncated)?;
    let [_, code, ..] = head;
    if *code != 0 {
        return Err(Drop::Malformed);
    }
    check_options(source, options)
}

/// Checks the options of a solicitation, of a router or a neighbour, from `source` (RFC 4861 6.1.1,
/// 7.1.1).
pub(crate) fn check_options(source: Ipv6Addr, mut options: &[u8]) -> Result<(), Drop> {
    while let [kind, units, ..] = options {
        let len = usize::from(*units) * 8;
        if len == 0 || (*kind == SOURCE_LINK_LAYER && source.is_unspecified()) {
            return Err(Drop::Malformed);
        }
        options = options.get(len..).ok_or(Drop::Malformed)?;
    }
    if options.is_empty() { Ok(()) } else { Err(Drop::Malformed) }
}

/// The packet of a router advertisement for `to`; returns its length.
///
/// The guest's one address comes from DHCPv6, so the flags say "managed", and the prefix is on the
/// link and makes no addresses: one that the guest made itself would not be its own here.
pub(crate) fn advert(link: &Link, search: Option<&str>, to: Ipv6Addr, out: &mut [u8]) -> usize {
    let from = link.gateway_link_local();
    let prefix_bits = u32::from(IPV6_PREFIX_BITS);
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: HOP_LIMIT,
        flags: NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER,
        router_lifetime: Duration::from_secs(ADVERT_LIFETIME_S.into()),
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(EthernetAddress(link.gateway_mac).into()),
        mtu: Some(link.mtu.into()),
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: IPV6_PREFIX_BITS,
            flags: NdiscPrefixInfoFlags::ON_LINK,
            valid_lifetime: Duration::from_secs(PREFIX_LIFETIME_S.into()),
            preferred_lifetime: Duration::from_secs(PREFIX_LIFETIME_S.into()),
            prefix: Ipv6Addr::from_bits(
                link.gateway_ipv6.to_bits() & (u128::MAX << (128 - prefix_bits)),
            ),
        }),
    });
    let at = super::reply::ip_header_len(from.into());
    let known = repr.buffer_len();
    let len = known + out.get_mut(at + known..).map_or(0, |rest| names(link, search, rest));
    ip_header((from.into(), to.into()), protocol::ICMPV6, len, NEIGHBOR_HOP_LIMIT, out);
    let Some(message) = out.get_mut(at..at + len) else { return 0 };
    // The checksum covers all of `message`, what smoltcp does not know of included.
    let mut packet = Icmpv6Packet::new_unchecked(message);
    repr.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
    at + len
}

/// Writes the options of RFC 8106: the name server, and the search domain.
fn names(link: &Link, search: Option<&str>, out: &mut [u8]) -> usize {
    const RDNSS: u8 = 25;
    const DNSSL: u8 = 31;
    let mut writer = Writer::new(out);
    let lifetime = ADVERT_LIFETIME_S.to_be_bytes();
    writer.put(&[RDNSS, 3, 0, 0]);
    writer.put(&lifetime);
    writer.put(&link.gateway_ipv6.octets());
    if let Some(search) = search {
        // A length before each label and at the end; zeros up to a multiple of eight.
        let name_len = search.len() + 2;
        let padded = name_len.next_multiple_of(8);
        #[allow(clippy::cast_possible_truncation, reason = "a name has 253 bytes at most")]
        writer.put(&[DNSSL, (1 + padded / 8) as u8, 0, 0]);
        writer.put(&lifetime);
        writer.name(search);
        writer.put([0; 8].get(..padded - name_len).unwrap_or(&[]));
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_is_whole_or_refused() {
        let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
        let head = [133, 0, 0, 0, 0, 0, 0, 0];
        let with = |options: &[u8]| {
            let mut message = heapless::Vec::<u8, 64>::from_slice(&head).unwrap();
            message.extend_from_slice(options).unwrap();
            check_solicit(from, &message)
        };
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&[1, 1, 2, 0, 0, 0, 0, 2]), Ok(()));
        assert_eq!(with(&[99, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 2]), Ok(()));
        for wrong in [&[1, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1], &[99, 255, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(with(wrong), Err(Drop::Malformed), "{wrong:?}");
        }
        for len in 0..head.len() {
            assert_eq!(check_solicit(from, head.split_at(len).0), Err(Drop::Truncated));
        }
        let named = [133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 2];
        assert_eq!(check_solicit(Ipv6Addr::UNSPECIFIED, &named), Err(Drop::Malformed));
    }
}
