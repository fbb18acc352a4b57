//! DNS messages as a guest's resolver and a name server write them: plainly, byte by byte.

use core::net::IpAddr;

/// Types of records.
pub mod kind {
    #![allow(missing_docs, reason = "they are called as in their RFCs")]
    pub const A: u16 = 1;
    pub const CNAME: u16 = 5;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const HTTPS: u16 = 65;
    pub const AXFR: u16 = 252;
}

/// A name as it is on the wire.
#[must_use]
pub fn name(text: &str) -> Vec<u8> {
    let mut bytes = vec![];
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// A query for `name` of type `kind`, number 0x1234, recursion desired, without EDNS.
#[must_use]
pub fn query(text: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(name(text));
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// `query` with EDNS: datagrams of `bytes_max`, and DNSSEC if wanted. It has a cookie too.
#[must_use]
pub fn edns(mut query: Vec<u8>, bytes_max: u16, dnssec: bool) -> Vec<u8> {
    query[11] += 1;
    query.extend([0, 0, 41]);
    query.extend(bytes_max.to_be_bytes());
    query.extend([0, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 12, 0, 10, 0, 8]);
    query.extend(b"a cookie");
    query
}

/// A record of `owner`, as on the wire.
#[must_use]
pub fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The A or AAAA record of `owner`.
#[must_use]
pub fn address(owner: &[u8], ttl: u32, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => record(owner, kind::A, ttl, &v4.octets()),
        IpAddr::V6(v6) => record(owner, kind::AAAA, ttl, &v6.octets()),
    }
}

/// The owner of most records: a pointer to the question's name.
pub const QUESTION: [u8; 2] = [0xc0, 12];

/// The answer to `query`, which has no EDNS, with `records` in its answer section.
#[must_use]
pub fn answer(query: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    (bytes[2], bytes[3]) = (0x81, 0x80);
    bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    bytes.extend(records.concat());
    bytes
}

/// The response code of `message`.
#[must_use]
pub fn code(message: &[u8]) -> u8 {
    message[3] & 15
}

/// The extended error of `message`, whose last record is an OPT record with one or none.
#[must_use]
pub fn extended(message: &[u8]) -> Option<u16> {
    let at = message.windows(3).rposition(|bytes| bytes == [0, 0, 41])?;
    let options = &message[at + 11..];
    let is_extended = options.get(..2)? == [0, 15];
    is_extended.then(|| u16::from_be_bytes([options[4], options[5]]))
}
