//! The DNS messages that we compose: errors, the gateway's own addresses, what goes upstream.

use core::net::IpAddr;

use super::{CLASS_IN, Query, flag, flags, kind};
use crate::limits::{DNS_DATAGRAM_BYTES_MAX, DNS_OWN_TTL_SECONDS};
use crate::wire::write::Writer;

/// An extended error (RFC 8914): its number, and words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extended {
    code: u16,
    text: &'static str,
}

impl Extended {
    /// Policy denies the name (RFC 8914 4.16).
    pub(crate) const DENIED: Self = Self { code: 15, text: "denied by policy" };
    /// The answer leads where no answer from outside may (RFC 8914 4.16).
    pub(crate) const REBOUND: Self = Self { code: 15, text: "the answer is not a public address" };
    /// No upstream gave an answer (RFC 8914 4.23).
    pub(crate) const UNREACHABLE: Self = Self { code: 22, text: "no name server answered" };
    /// What an upstream gave is not one (RFC 8914 4.1).
    pub(crate) const MALFORMED: Self = Self { code: 0, text: "a name server's answer is no good" };
}

/// Writes an OPT record of version 0 (RFC 6891 6.1.2), with the upper bits of `code`.
fn opt(out: &mut Writer<'_>, wants_dnssec: bool, code: u16, extended: Option<Extended>) {
    out.put(&[0]);
    let dnssec = if wants_dnssec { 0x8000 } else { 0 };
    out.words(&[kind::OPT, DNS_DATAGRAM_BYTES_MAX, code >> 4 << 8, dnssec]);
    match extended {
        None => out.words(&[0]),
        Some(Extended { code, text }) => {
            const EXTENDED_ERROR: u16 = 15; // RFC 8914 2
            #[allow(clippy::cast_possible_truncation, reason = "texts of a line")]
            let len = text.len() as u16 + 2;
            out.words(&[len + 4, EXTENDED_ERROR, len, code]);
            out.put(text.as_bytes());
        }
    }
}

fn begin(query: &Query, message: &[u8], flags: u16, answers: u16, out: &mut Writer<'_>) {
    out.words(&[query.id, flags, 1, answers, 0, u16::from(query.edns.is_some())]);
    out.put(message.get(query.question()).unwrap_or(&[]));
}

/// The flags of an answer of ours.
fn own_flags(query: &Query, code: u16) -> u16 {
    flag::QR | flag::RA | query.flags & (flag::RD | flag::CD) | code & flag::RCODE
}

/// Answers the query in `message` with `code`; returns the length, 0: it has no room in `out`.
pub(crate) fn error(
    (query, message): (&Query, &[u8]),
    code: u16,
    extended: Option<Extended>,
    out: &mut [u8],
) -> usize {
    let mut out = Writer::new(out);
    begin(query, message, own_flags(query, code), 0, &mut out);
    if let Some(edns) = query.edns {
        opt(&mut out, edns.wants_dnssec, code, extended);
    }
    out.finish()
}

/// Answers `message`, whose header is all that can be read of it, with `code`.
pub(crate) fn header_alone(message: &[u8], code: u16, out: &mut [u8]) -> usize {
    let mut out = Writer::new(out);
    out.put(message.get(..2).unwrap_or(&[]));
    let kept = flags(message) & (flag::OPCODE | flag::RD | flag::CD);
    out.words(&[flag::QR | flag::RA | kept | code, 0, 0, 0, 0]);
    out.finish()
}

/// Answers the query in `message` with `addresses`, which are ours.
pub(crate) fn addresses(
    (query, message): (&Query, &[u8]),
    addresses: &[IpAddr],
    out: &mut [u8],
) -> usize {
    const AUTHORITATIVE: u16 = 0x0400;
    // The name is that of the question, behind the header (RFC 1035 4.1.4).
    const QUESTION: u16 = 0xc00c;
    let mut out = Writer::new(out);
    #[allow(clippy::cast_possible_truncation, reason = "the gateway has two addresses")]
    let count = addresses.len() as u16;
    begin(query, message, own_flags(query, 0) | AUTHORITATIVE, count, &mut out);
    for address in addresses {
        let kind = if address.is_ipv4() { kind::A } else { kind::AAAA };
        out.words(&[QUESTION, kind, CLASS_IN]);
        out.put(&DNS_OWN_TTL_SECONDS.to_be_bytes());
        match address {
            IpAddr::V4(v4) => {
                out.words(&[4]);
                out.put(&v4.octets());
            }
            IpAddr::V6(v6) => {
                out.words(&[16]);
                out.put(&v6.octets());
            }
        }
    }
    if let Some(edns) = query.edns {
        opt(&mut out, edns.wants_dnssec, 0, None);
    }
    out.finish()
}

/// What of `answer` says that there is more: header, question, and that it is cut (RFC 2181 9).
pub(crate) fn truncated((query, message): (&Query, &[u8]), answer: &[u8], out: &mut [u8]) -> usize {
    let mut out = Writer::new(out);
    begin(query, message, flags(answer) | flag::TC, 0, &mut out);
    if let Some(edns) = query.edns {
        opt(&mut out, edns.wants_dnssec, 0, None);
    }
    out.finish()
}

/// The query in `message` as it goes upstream: with number 0, and of EDNS only what concerns more
/// than one hop. Cookies (RFC 7873 5.1), keepalives (RFC 7828 3.1) and padding are between
/// neighbours.
pub(crate) fn upstream((query, message): (&Query, &[u8]), out: &mut [u8]) -> usize {
    let mut out = Writer::new(out);
    let kept = query.flags & (flag::RD | flag::AD | flag::CD);
    out.words(&[0, kept, 1, 0, 0, u16::from(query.edns.is_some())]);
    out.put(message.get(query.question()).unwrap_or(&[]));
    if let Some(edns) = query.edns {
        opt(&mut out, edns.wants_dnssec, 0, None);
    }
    out.finish()
}
