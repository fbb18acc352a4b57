//! The authority of an HTTP/1 request.
//!
//! A request is known by its first line, which must be one: another protocol's first bytes are told
//! from it as soon as they can be. httparse reads the head; what two servers could read differently
//! (a first line that only lenient ones take, bare line feeds, folded lines, two Hosts, a Host
//! beside another authority) is malformed.

use super::{Heard, Method, Opening};

/// Bytes of the longest head that is read.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// Of the empty lines before a request: of four.
const BLANK_BYTES_MAX: usize = 8;
/// Of a method as far as it is looked at each time.
const METHOD_BYTES_MAX: usize = 64;

/// What the first line of a connection is to servers of HTTP/1 (RFC 9112 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstLine {
    /// Too little of it is there to tell.
    Partial,
    /// That of a request, to all of them.
    Request,
    /// That of a request to those who are lenient (RFC 9112 3, 2.2), or too long to tell.
    Doubtful,
    /// No request.
    Other,
}

/// What the first line of a connection is, which begins with `bytes`; of them `seen` were
/// [`Partial`](FirstLine::Partial) before.
///
/// # Cost
/// A pass over what is new, and over the line where that has an end of one.
#[must_use]
pub fn first_line(bytes: &[u8], seen: usize) -> FirstLine {
    let blank = blank(bytes);
    if blank > BLANK_BYTES_MAX {
        return FirstLine::Doubtful;
    }
    let head = bytes.get(blank..).unwrap_or(&[]);
    let method = head.iter().take(METHOD_BYTES_MAX).take_while(|byte| is_token(**byte)).count();
    let behind = head.get(method).copied();
    if behind.is_some_and(|byte| method == 0 || !(is_token(byte) || is_blank_in_line(byte))) {
        return FirstLine::Other;
    }
    let decides = |byte: &u8| *byte == b'\n' || is_in_no_line(*byte);
    // What decides nothing tells no more than what came before it.
    let is_news = bytes.get(seen.max(blank)..).is_some_and(|new| new.iter().any(decides));
    let end = head.iter().take(HEAD_BYTES_MAX).position(decides).filter(|_| is_news);
    let Some((line, end)) = end.and_then(|end| Some((head.get(..end)?, head.get(end)?))) else {
        let is_long = bytes.len() >= HEAD_BYTES_MAX;
        return if is_long { FirstLine::Doubtful } else { FirstLine::Partial };
    };
    if *end != b'\n' || !line.windows(5).any(|word| word.eq_ignore_ascii_case(b"HTTP/")) {
        return FirstLine::Other;
    }
    let is_blank = bytes.iter().take(blank).all(|byte| matches!(byte, b'\r' | b'\n'));
    let is_version = line.ends_with(b" HTTP/1.1\r") || line.ends_with(b" HTTP/1.0\r");
    let is_strict = is_blank && behind == Some(b' ') && is_version;
    if is_strict { FirstLine::Request } else { FirstLine::Doubtful }
}

/// How many bytes before a request are empty lines, which are ignored (RFC 9112 2.2), by some
/// servers any number of them, or blanks, which some ignore likewise.
fn blank(bytes: &[u8]) -> usize {
    let is_blank = |byte: &&u8| matches!(**byte, b'\r' | b'\n') || is_blank_in_line(**byte);
    bytes.iter().take(BLANK_BYTES_MAX + 1).take_while(is_blank).count()
}

/// Whether a method may have `byte` (RFC 9110 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether words of a line may have `byte` between them: to lenient servers it is any that is a
/// blank to the language that they are written in.
fn is_blank_in_line(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// Whether no line of text has `byte`.
fn is_in_no_line(byte: u8) -> bool {
    byte.is_ascii_control() && !is_blank_in_line(byte) && !matches!(byte, b'\r' | b'\n')
}

pub(super) fn read(bytes: &[u8], seen: usize) -> Opening {
    match first_line(bytes, seen) {
        FirstLine::Other => return Opening::of(Heard::Unknown),
        FirstLine::Doubtful => return Opening::of(Heard::Malformed),
        FirstLine::Request => {}
        FirstLine::Partial => return Opening::of(Heard::More(bytes.len() + 1)),
    }
    let blank = blank(bytes);
    let head = bytes.get(blank..).unwrap_or(&[]);
    // The end may lie across what was seen and what is new.
    let from = seen.saturating_sub(blank + 3);
    match find(head, from, b"\r\n\r\n") {
        Some(end) => whole(head.get(..end + 4).unwrap_or(&[])),
        None if bytes.len() < HEAD_BYTES_MAX => Opening::of(Heard::More(bytes.len() + 1)),
        None => Opening::of(Heard::Malformed),
    }
}

fn find(bytes: &[u8], from: usize, pattern: &[u8]) -> Option<usize> {
    let found = bytes.get(from..)?.windows(pattern.len()).position(|window| window == pattern);
    found.map(|at| from + at)
}

/// Reads a head that ends with an empty line.
fn whole(head: &[u8]) -> Opening {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let is_whole =
        matches!(request.parse(head), Ok(httparse::Status::Complete(len)) if len == head.len());
    let lines = head.iter().filter(|byte| **byte == b'\n').count();
    let ends = head.windows(2).filter(|pair| pair == b"\r\n").count();
    let returns = head.iter().filter(|byte| **byte == b'\r').count();
    if !is_whole || lines != ends || returns != ends {
        return Opening::of(Heard::Malformed);
    }
    let method = if request.method == Some("HEAD") { Method::Head } else { Method::Other };
    let connects = request.method == Some("CONNECT");
    Opening { http: Some(method), ..Opening::of(authority(&request, connects)) }
}

/// Whom the request is for (RFC 9112 3.2).
fn authority(request: &httparse::Request<'_, '_>, connects: bool) -> Heard {
    let mut hosts =
        request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (host, second) = (hosts.next(), hosts.next());
    let target = request.path.unwrap_or("");
    let of_target = if connects { Some(target) } else { absolute(target) };
    let (Some(host), None) = (host, second) else {
        return match (of_target, second) {
            (Some(target), None) => of_text(target.bytes()),
            (None, None) => Heard::Nothing,
            (_, Some(_)) => Heard::Malformed,
        };
    };
    let host = of_text(host.value.iter().copied());
    match of_target.map(|target| of_text(target.bytes())) {
        Some(target) if target != host => Heard::Malformed,
        Some(_) | None => host,
    }
}

/// The authority of an absolute target.
fn absolute(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_scheme.then(|| rest.split(['/', '?', '#']).next().unwrap_or(""))
}

/// The name of an authority, without its port.
pub(super) fn of_text(text: impl Iterator<Item = u8> + Clone) -> Heard {
    let port = text.clone().skip_while(|byte| *byte != b':').skip(1);
    if !port.clone().all(|byte| byte.is_ascii_digit()) || port.count() > 5 {
        // Somebody's name before an "@", or an IPv6 address.
        let is_address = text.clone().next() == Some(b'[');
        return if is_address { Heard::Nothing } else { Heard::Malformed };
    }
    let host = || text.clone().take_while(|byte| *byte != b':');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match super::name(host()) {
        Some(name) => Heard::Name(name),
        None if host().all(is_plain) => Heard::Nothing, // an address, or nothing at all
        None => Heard::Malformed,
    }
}
