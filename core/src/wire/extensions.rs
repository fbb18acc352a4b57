//! IPv6 extension headers: the walk over them, to what the packet carries.
//!
//! RFC 8200 4. What is not understood ends the walk, and says where that is: the sender is told by
//! a parameter problem (RFC 4443 3.4), which [`problem`](super::problem) decides.

use smoltcp::wire::{Ipv6ExtHeader, Ipv6FragmentHeader};

use super::classify::{Fragment, protocol};
use crate::contract::Drop;

/// Extension headers that are walked before a packet is given up (the nearest peer walks 4).
const EXTENSION_HEADERS_MAX: usize = 4;

/// Where the IPv6 header says what follows it.
const NEXT_HEADER_AT: usize = 6;

/// What follows the extension headers, and where.
pub(crate) struct Chain {
    pub(crate) protocol: u8,
    pub(crate) at: usize,
    /// Where it is said what follows.
    pub(crate) named_at: usize,
    pub(crate) fragment: Option<Fragment>,
}

/// Why a walk ended early.
pub(crate) struct Halt {
    pub(crate) reason: Drop,
    /// Code of a parameter problem, and the byte that it is about; silence otherwise.
    pub(crate) problem: Option<(u8, usize)>,
}

/// Codes of a parameter problem (RFC 4443 3.4).
pub(crate) mod code {
    pub(crate) const ERRONEOUS_FIELD: u8 = 0;
    pub(crate) const UNRECOGNIZED_NEXT_HEADER: u8 = 1;
    pub(crate) const UNRECOGNIZED_OPTION: u8 = 2;
}

impl From<Drop> for Halt {
    fn from(reason: Drop) -> Self {
        Self { reason, problem: None }
    }
}

impl From<Halt> for Drop {
    fn from(halt: Halt) -> Self {
        halt.reason
    }
}

/// Walks the extension headers of `packet` from one of kind `protocol` at `at` on: what follows
/// them, and where. A fragment header ends the walk: what follows is a part of what was cut, of
/// which other headers may be the first (RFC 8200 4.5).
///
/// # Errors
/// A header that is cut short, or not understood.
pub(crate) fn walk(packet: &[u8], (protocol, at): (u8, usize)) -> Result<Chain, Halt> {
    let mut chain = Chain { protocol, at, named_at: NEXT_HEADER_AT, fragment: None };
    for place in 0..EXTENSION_HEADERS_MAX {
        // Whoever is on the way looks for it behind the IPv6 header, and only there (RFC 8200 4.1).
        if chain.protocol == protocol::HOP_BY_HOP && place > 0 {
            let problem = Some((code::UNRECOGNIZED_NEXT_HEADER, chain.named_at));
            return Err(Halt { reason: Drop::Malformed, problem });
        }
        let rest = packet.get(chain.at..).ok_or(Drop::Truncated)?;
        match chain.protocol {
            kind @ (protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS) => {
                let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| Drop::Truncated)?;
                let len = usize::from(header.header_len()) * 8 + 8;
                let body = rest.get(2..len).ok_or(Drop::Truncated)?;
                if kind == protocol::ROUTING {
                    route(body, chain.at + 2)?;
                } else {
                    options(body, chain.at + 2)?;
                }
                chain.protocol = u8::from(header.next_header());
                chain.named_at = chain.at;
                chain.at += len;
            }
            protocol::FRAGMENT => {
                let body = rest.get(2..8).ok_or(Drop::Truncated)?;
                let piece = Ipv6FragmentHeader::new_checked(body).map_err(|_| Drop::Truncated)?;
                chain.protocol = *rest.first().ok_or(Drop::Truncated)?;
                chain.named_at = chain.at;
                chain.at += 8;
                let (offset, more) = (usize::from(piece.frag_offset()) * 8, piece.more_frags());
                // An atomic fragment is a whole datagram (RFC 6946).
                if more || offset > 0 {
                    chain.fragment = Some(Fragment { ident: piece.ident(), offset, more });
                    return Ok(chain);
                }
            }
            _ => break,
        }
    }
    Ok(chain)
}

/// What a reassembled datagram carries, and where, whose first header is of kind `protocol` at `at`
/// of `datagram`.
///
/// # Errors
/// A header that is cut short, or not understood, or a fragment within a fragment.
pub(crate) fn within(protocol: u8, datagram: &[u8], at: usize) -> Result<(u8, usize), Drop> {
    let chain = walk(datagram, (protocol, at))?;
    if chain.fragment.is_some() { Err(Drop::Fragment) } else { Ok((chain.protocol, chain.at)) }
}

/// A routing header whose body is at `at`: of no kind that is known here, which does not matter
/// where no segment is left (RFC 8200 4.4).
fn route(body: &[u8], at: usize) -> Result<(), Halt> {
    match body {
        [_, 0, ..] => Ok(()),
        _ => {
            let problem = Some((code::ERRONEOUS_FIELD, at));
            Err(Halt { reason: Drop::Unsupported, problem })
        }
    }
}

/// Options at `at`, each of which says what becomes of the packet if it is not known, and none but
/// padding is (RFC 8200 4.2).
fn options(body: &[u8], at: usize) -> Result<(), Halt> {
    const PAD1: u8 = 0;
    let mut rest = body;
    while let [kind, behind @ ..] = rest {
        let at = at + body.len() - rest.len();
        if *kind == PAD1 {
            rest = behind;
            continue;
        }
        match kind >> 6 {
            0 => {}
            1 => return Err(Drop::Unsupported.into()),
            // Of the two, one is silent towards a group, which no packet here is for.
            _ => {
                let problem = Some((code::UNRECOGNIZED_OPTION, at));
                return Err(Halt { reason: Drop::Unsupported, problem });
            }
        }
        let skipped = behind.split_first().and_then(|(len, data)| data.get(usize::from(*len)..));
        rest = skipped.ok_or(Halt {
            reason: Drop::Malformed,
            problem: Some((code::ERRONEOUS_FIELD, at + 1)),
        })?;
    }
    Ok(())
}
