//! DNS messages: read where they lie.
//!
//! Owns what the bytes of a message mean; must not know who asks, nor what may be asked. Nothing is
//! unpacked: what passes through stays the bytes that it was. A name is read through a bounded
//! number of pointers, each of which leads back, so no message makes a reader loop.
//!
//! RFC 1035 4 (messages), RFC 2181 11 (names), RFC 6891 6.1 (EDNS), RFC 9460 (SVCB and HTTPS),
//! RFC 2308 5 (how long nothing lasts).

mod compose;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use crate::limits::{DNS_CNAMES_MAX, DNS_POINTERS_MAX, DOMAIN_BYTES_MAX};

pub(crate) use compose::{Extended, addresses, error, header_alone, truncated, upstream};

/// Bytes of the header of a message (RFC 1035 4.1.1).
pub(crate) const HEADER_BYTES: usize = 12;

/// Types (RFC 1035 3.2.2, RFC 3596 2.1, RFC 6891 6.1.1, RFC 9460 14.1).
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
}

/// Bits of the header's second word (RFC 1035 4.1.1, RFC 6840 5.7 to 5.9).
pub(crate) mod flag {
    pub(crate) const QR: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    pub(crate) const AD: u16 = 0x0020;
    pub(crate) const CD: u16 = 0x0010;
    pub(crate) const RCODE: u16 = 0x000f;
}

/// Response codes (RFC 1035 4.1.1).
pub(crate) mod rcode {
    pub(crate) const FORMAT_ERROR: u16 = 1;
    pub(crate) const SERVER_FAILURE: u16 = 2;
    pub(crate) const NAME_ERROR: u16 = 3;
    pub(crate) const NOT_IMPLEMENTED: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    /// Of 12 bits, whose upper 8 are in the OPT record (RFC 6891 6.1.3).
    pub(crate) const BAD_VERSION: u16 = 16;
}

/// The class of the Internet.
const CLASS_IN: u16 = 1;

/// A name in the form that is compared: lower case, dots between labels, none at either end. What a
/// label may hold but no name of a rule does (dots, blanks, anything beyond ASCII) is one character
/// that no rule has either.
pub(crate) type Name = heapless::String<DOMAIN_BYTES_MAX>;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn letter(byte: u8) -> char {
    let is_plain = byte.is_ascii_graphic() && byte != b'.';
    if is_plain { byte.to_ascii_lowercase().into() } else { '\x7f' }
}

/// The name at `at` of `message`, and where what follows it begins (RFC 1035 3.1, 4.1.4).
///
/// # Cost
/// A pass over its labels.
pub(crate) fn name(message: &[u8], mut at: usize) -> Option<(Name, usize)> {
    let mut name = Name::new();
    let (mut end, mut pointers) = (None, 0);
    loop {
        let first = *message.get(at)?;
        let len = usize::from(first & 0x3f);
        match first >> 6 {
            0 if len == 0 => return Some((name, end.unwrap_or(at + 1))),
            0 => {
                let label = message.get(at + 1..at + 1 + len)?;
                if !name.is_empty() {
                    name.push('.').ok()?;
                }
                label.iter().try_for_each(|byte| name.push(letter(*byte))).ok()?;
                at += 1 + len;
            }
            3 => {
                end.get_or_insert(at + 2);
                let to = usize::from(u16_at(message, at)? & 0x3fff);
                pointers += 1;
                if to >= at || pointers > DNS_POINTERS_MAX {
                    return None;
                }
                at = to;
            }
            _ => return None,
        }
    }
}

/// What EDNS says beside a question (RFC 6891 6.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    /// Bytes of the longest datagram that who asks takes.
    pub(crate) bytes_max: u16,
    /// It wants DNSSEC's records (RFC 3225 3).
    pub(crate) wants_dnssec: bool,
    pub(crate) version: u8,
}

/// One question, as a guest asks it.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) name: Name,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// Where the question ends; it begins behind the header.
    pub(crate) end: usize,
    pub(crate) edns: Option<Edns>,
}

impl Query {
    /// Whether it is about the Internet, and of type `kind`.
    pub(crate) fn is_of(&self, kind: u16) -> bool {
        self.class == CLASS_IN && self.kind == kind
    }

    /// Where the question lies.
    pub(crate) fn question(&self) -> Range<usize> {
        HEADER_BYTES..self.end
    }
}

/// Why a message is no question that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It gets no answer: it is one itself, or shorter than a header.
    Silence,
    /// It gets this response code.
    Code(u16),
}

/// The question of `message`.
///
/// # Errors
/// What it is answered with instead.
pub(crate) fn query(message: &[u8]) -> Result<Query, Unfit> {
    let header = message.first_chunk::<HEADER_BYTES>().ok_or(Unfit::Silence)?;
    let (id, flags) = (u16::from_be_bytes([header[0], header[1]]), header_flags(header));
    if flags & flag::QR != 0 {
        return Err(Unfit::Silence);
    }
    if flags & flag::OPCODE != 0 {
        return Err(Unfit::Code(rcode::NOT_IMPLEMENTED));
    }
    let malformed = Unfit::Code(rcode::FORMAT_ERROR);
    let counts = Counts::of(message).ok_or(malformed)?;
    if counts.questions != 1 {
        return Err(malformed);
    }
    let (name, at) = name(message, HEADER_BYTES).ok_or(malformed)?;
    // The name is taken as it lies, so no part of it may lie elsewhere.
    let is_whole = at - HEADER_BYTES == if name.is_empty() { 1 } else { name.len() + 2 };
    if !is_whole {
        return Err(malformed);
    }
    let kind = u16_at(message, at).ok_or(malformed)?;
    let class = u16_at(message, at + 2).ok_or(malformed)?;
    let mut query = Query { id, flags, name, kind, class, end: at + 4, edns: None };
    let mut edns = None;
    walk(message, |record| {
        if record.kind == kind::OPT {
            let wants_dnssec = record.ttl & 0x8000 != 0;
            let [_, version, ..] = record.ttl.to_be_bytes();
            edns = Some(Edns { bytes_max: record.class, wants_dnssec, version });
        }
    })
    .ok_or(malformed)?;
    query.edns = edns;
    Ok(query)
}

const fn header_flags(header: &[u8; HEADER_BYTES]) -> u16 {
    u16::from_be_bytes([header[2], header[3]])
}

/// The flags of `message`; 0: it has no header.
fn flags(message: &[u8]) -> u16 {
    message.first_chunk().map_or(0, header_flags)
}

/// How many there are of each.
struct Counts {
    questions: u16,
    records: [u16; 3],
}

impl Counts {
    fn of(message: &[u8]) -> Option<Self> {
        let at = |at| u16_at(message, at);
        Some(Self { questions: at(4)?, records: [at(6)?, at(8)?, at(10)?] })
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// One record; its data is at `data` of its message.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) section: Section,
    /// Where its name begins.
    pub(crate) owner_at: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Range<usize>,
}

impl Record {
    /// For how many seconds it is good: a TTL with its first bit set is 0 (RFC 2181 8).
    fn seconds(&self) -> u32 {
        if self.ttl >> 31 == 1 { 0 } else { self.ttl }
    }
}

/// Where what follows the name at `at` begins, whatever its pointers lead to.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let first = *message.get(at)?;
        match first >> 6 {
            0 if first == 0 => return Some(at + 1),
            0 => at += 1 + usize::from(first),
            3 => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Shows `see` every record of `message`, in order; `None`: it is malformed, where that was seen.
pub(crate) fn walk(message: &[u8], see: impl FnMut(&Record)) -> Option<()> {
    walk_by(message, |message, at| Some(name(message, at)?.1), see)
}

/// The same, for which `after_name` says where a name ends.
fn walk_by(
    message: &[u8],
    after_name: impl Fn(&[u8], usize) -> Option<usize>,
    mut see: impl FnMut(&Record),
) -> Option<()> {
    let counts = Counts::of(message)?;
    let mut at = HEADER_BYTES;
    for _ in 0..counts.questions {
        at = after_name(message, at)? + 4;
    }
    let sections = [Section::Answer, Section::Authority, Section::Additional];
    for (section, count) in sections.into_iter().zip(counts.records) {
        for _ in 0..count {
            let head = after_name(message, at)?;
            let len = usize::from(u16_at(message, head + 8)?);
            let record = Record {
                section,
                owner_at: at,
                kind: u16_at(message, head)?,
                class: u16_at(message, head + 2)?,
                ttl: u32_at(message, head + 4)?,
                data: head + 10..head + 10 + len,
            };
            message.get(record.data.clone())?;
            at = record.data.end;
            see(&record);
        }
    }
    Some(())
}

/// Shows `see` each address that `record` of `message` leads to: that of A and AAAA, and the hints
/// of SVCB and HTTPS (RFC 9460 7.3). `None`: it is malformed.
pub(crate) fn addresses_of(
    message: &[u8],
    record: &Record,
    mut see: impl FnMut(IpAddr),
) -> Option<()> {
    let data = message.get(record.data.clone())?;
    match record.kind {
        kind::A if record.class == CLASS_IN => {
            see(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into());
        }
        kind::AAAA if record.class == CLASS_IN => {
            see(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into());
        }
        kind::SVCB | kind::HTTPS => {
            let (_, mut at) = name(message, record.data.start + 2)?;
            while at < record.data.end {
                let (key, len) = (u16_at(message, at)?, usize::from(u16_at(message, at + 2)?));
                let value = message.get(at + 4..at + 4 + len)?;
                at += 4 + len;
                hints(key, value, &mut see);
            }
        }
        _ => {}
    }
    Some(())
}

fn hints(key: u16, value: &[u8], see: &mut impl FnMut(IpAddr)) {
    const IPV4_HINT: u16 = 4;
    const IPV6_HINT: u16 = 6;
    if key == IPV4_HINT {
        value.as_chunks::<4>().0.iter().for_each(|octets| see(Ipv4Addr::from(*octets).into()));
    } else if key == IPV6_HINT {
        value.as_chunks::<16>().0.iter().for_each(|octets| see(Ipv6Addr::from(*octets).into()));
    }
}

/// How many records `message` says that it has.
pub(crate) fn record_count(message: &[u8]) -> u32 {
    Counts::of(message).map_or(0, |counts| counts.records.map(u32::from).iter().sum())
}

/// An alias of an answer: where its two names lie, and for how many seconds it is good.
struct Alias {
    owner_at: usize,
    target_at: usize,
    seconds: u32,
}

/// Names that lead to the addresses of an answer, the first being what was asked, and for how many
/// seconds each does.
type Way = heapless::Vec<(Name, u32), { DNS_CNAMES_MAX as usize + 1 }>;

/// Shows `see` each address to which `question` leads by the answers of `message`, through at most
/// [`DNS_CNAMES_MAX`] other names, and for how many seconds it does. One that says that it failed,
/// or that there is no such name, leads nowhere. `None`: it is malformed.
///
/// # Cost
/// Two passes over the records, however their names lead to one another.
pub(crate) fn resolved(
    message: &[u8],
    question: &Name,
    mut see: impl FnMut(IpAddr, u32),
) -> Option<()> {
    if flags(message) & flag::RCODE != 0 {
        return Some(());
    }
    let way = way(message, question)?;
    walk_by(message, after_name, |record| {
        let is_address = matches!(record.kind, kind::A | kind::AAAA);
        if record.section != Section::Answer || !is_address {
            return;
        }
        let Some((owner, _)) = name(message, record.owner_at) else { return };
        if let Some((_, ttl)) = way.iter().find(|(name, _)| *name == owner) {
            let ttl = record.seconds().min(*ttl);
            // What is malformed was refused before.
            let _ = addresses_of(message, record, |address| see(address, ttl));
        }
    })
}

/// The names to which `question` leads by the aliases of `message`, in whatever order those are.
/// Of more than twice as many as it may lead through, the rest is not looked at.
fn way(message: &[u8], question: &Name) -> Option<Way> {
    let mut aliases = heapless::Vec::<Alias, { 2 * DNS_CNAMES_MAX as usize }>::new();
    walk_by(message, after_name, |record| {
        if record.section == Section::Answer && record.kind == kind::CNAME {
            let (owner_at, target_at) = (record.owner_at, record.data.start);
            // What there is no room for is behind those.
            let _ = aliases.push(Alias { owner_at, target_at, seconds: record.seconds() });
        }
    })?;
    let mut way = Way::new();
    let _ = way.push((question.clone(), u32::MAX));
    // Each is followed once, so that no way is endless.
    while let Some((current, ttl)) = way.last() {
        let ttl = *ttl;
        let is_its =
            |alias: &Alias| name(message, alias.owner_at).is_some_and(|(name, _)| name == *current);
        let Some(at) = aliases.iter().position(is_its) else { break };
        let alias = aliases.swap_remove(at);
        let Some((target, _)) = name(message, alias.target_at) else { break };
        if way.push((target, ttl.min(alias.seconds))).is_err() {
            break;
        }
    }
    Some(way)
}

/// Whether `answer` answers `query`: it has its number and its question, in whatever case.
#[must_use]
pub fn is_answer_to(query: &[u8], answer: &[u8]) -> bool {
    let question_of = |message: &[u8]| {
        let (_, end) = name(message, HEADER_BYTES)?;
        Some(HEADER_BYTES..end + 4)
    };
    let (Some(asked), Some(said)) = (question_of(query), question_of(answer)) else { return false };
    let (asked, said) = (query.get(asked), answer.get(said));
    flags(answer) & flag::QR != 0
        && answer.get(..2) == query.get(..2)
        && u16_at(answer, 4) == Some(1)
        && asked.zip(said).is_some_and(|(asked, said)| asked.eq_ignore_ascii_case(said))
}

/// Whether more was to be said than `answer` holds (RFC 2181 9).
#[must_use]
pub fn is_truncated(answer: &[u8]) -> bool {
    flags(answer) & flag::TC != 0
}

/// For how many seconds `answer` may be given again; 0: not at all. The least TTL of its records
/// (RFC 2181 8), and of a negative one what its SOA says (RFC 2308 5).
#[must_use]
pub fn lifetime_seconds(answer: &[u8]) -> u32 {
    let is_negative = match flags(answer) & flag::RCODE {
        0 => u16_at(answer, 6) == Some(0),
        rcode::NAME_ERROR => true,
        _ => return 0,
    };
    if is_truncated(answer) {
        return 0;
    }
    let (mut least, mut negative) = (u32::MAX, None);
    let walked = walk_by(answer, after_name, |record| {
        if record.kind == kind::OPT {
            return;
        }
        least = least.min(record.seconds());
        if record.kind == kind::SOA && record.section == Section::Authority {
            // Its last word is the TTL of what does not exist (RFC 2308 4).
            negative = record.data.end.checked_sub(4).and_then(|at| u32_at(answer, at));
        }
    });
    match (walked, is_negative, negative) {
        (None, _, _) | (Some(()), true, None) => 0,
        // Also where an alias leads to nothing.
        (Some(()), _, Some(seconds)) => least.min(seconds),
        (Some(()), false, None) => least,
    }
}

/// Counts `seconds` off every TTL of `answer`, which was kept so long.
pub fn age(answer: &mut [u8], seconds: u32) {
    let mut at = HEADER_BYTES;
    let Some(counts) = Counts::of(answer) else { return };
    for _ in 0..counts.questions {
        let Some(end) = after_name(answer, at) else { return };
        at = end + 4;
    }
    for _ in 0..counts.records.iter().map(|count| u32::from(*count)).sum() {
        let Some(head) = after_name(answer, at) else { return };
        let (Some(kind), Some(ttl), Some(len)) =
            (u16_at(answer, head), u32_at(answer, head + 4), u16_at(answer, head + 8))
        else {
            return;
        };
        if kind != kind::OPT
            && let Some(field) = answer.get_mut(head + 4..head + 8)
        {
            field.copy_from_slice(&ttl.saturating_sub(seconds).to_be_bytes());
        }
        at = head + 10 + usize::from(len);
    }
}

#[cfg(test)]
mod tests;
