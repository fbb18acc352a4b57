//! The authority of an HTTP/1 request.
//!
//! A request is known by its first line, which must be one: another protocol's first bytes are told
//! from it as soon as they differ. httparse reads the head; what two servers could read differently
//! (bare line feeds, folded lines, two Hosts, a Host beside another authority) is malformed.

use super::{Heard, Method, Opening};

/// Bytes of the longest head that is read.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// Of the empty lines before a request: of four.
const BLANK_BYTES_MAX: usize = 8;
/// Of the longest method that is believed to be one.
const METHOD_BYTES_MAX: usize = 20;

pub(super) fn read(bytes: &[u8], seen: usize) -> Opening {
    // Empty lines before a request are ignored (RFC 9112 2.2), by some servers any number of them.
    let is_blank = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
    let blank = bytes.iter().take(BLANK_BYTES_MAX + 1).take_while(is_blank).count();
    if blank > BLANK_BYTES_MAX {
        return Opening::of(Heard::Malformed);
    }
    let head = bytes.get(blank..).unwrap_or(&[]);
    // What ends no line tells no more than the line's begin did.
    let ends_line = bytes.get(seen.max(blank)..).is_some_and(|new| new.contains(&b'\n'));
    match line(head, ends_line) {
        Line::Other => return Opening::of(Heard::Unknown),
        Line::Request => {}
        Line::Partial => return Opening::of(more(bytes.len())),
    }
    // The end may lie across what was seen and what is new.
    let from = seen.saturating_sub(blank + 3);
    match find(head, from, b"\r\n\r\n") {
        Some(end) => whole(head.get(..end + 4).unwrap_or(&[])),
        None => Opening::of(more(bytes.len())),
    }
}

fn more(len: usize) -> Heard {
    if len < HEAD_BYTES_MAX { Heard::More(len + 1) } else { Heard::Malformed }
}

fn find(bytes: &[u8], from: usize, pattern: &[u8]) -> Option<usize> {
    let found = bytes.get(from..)?.windows(pattern.len()).position(|window| window == pattern);
    found.map(|at| from + at)
}

/// What the first line is.
enum Line {
    Request,
    Partial,
    Other,
}

fn line(head: &[u8], ends_line: bool) -> Line {
    let begin = head.iter().take(METHOD_BYTES_MAX + 1);
    let method = begin.take_while(|byte| byte.is_ascii_uppercase()).count();
    match head.get(method) {
        None if method <= METHOD_BYTES_MAX => return Line::Partial,
        Some(b' ') if (1..=METHOD_BYTES_MAX).contains(&method) => {}
        None | Some(_) => return Line::Other,
    }
    if !ends_line {
        return Line::Partial;
    }
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else { return Line::Partial };
    let line = head.get(..end).unwrap_or(&[]);
    let is_version = |version: &[u8]| matches!(version, b" HTTP/1.1\r" | b" HTTP/1.0\r");
    let version = line.len().checked_sub(10).and_then(|at| line.get(at..));
    if version.is_some_and(is_version) { Line::Request } else { Line::Other }
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
