//! A WebSocket (RFC 6455) in which each side says one message, in frames that are cut anywhere:
//! the same comes as of a body that is one piece.

use std::sync::Arc;

use super::super::{pieces, secrets};
use super::{AS_THEY_ARE, Agreed, Interceptor, OTHERWISE, Speaker, call, relay};

const IS_FINAL: u8 = 0x80;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
/// What says that policy is violated (RFC 6455 7.4.1).
const VIOLATION: [u8; 2] = 1008u16.to_be_bytes();

/// Adds a frame to `out`; masked, if there is a key.
fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], key: Option<[u8; 4]>) {
    out.push(first);
    let is_masked = if key.is_some() { 0x80 } else { 0 };
    match u8::try_from(payload.len()) {
        Ok(len) if len < 126 => out.push(is_masked | len),
        // Longer than it must be, for some of them.
        Ok(_) | Err(_) => {
            out.push(is_masked | 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// `text` as a message in frames that are cut as `cuts` says; and how many pings are among them.
fn framed(cuts: u8, text: &[u8], key: Option<[u8; 4]>) -> (Vec<u8>, usize) {
    let (mut out, mut opcode, mut pings) = (vec![], TEXT, 0);
    for (index, piece) in pieces(cuts, text).enumerate() {
        frame(&mut out, opcode, piece, key);
        opcode = 0;
        if index % 8 == usize::from(cuts % 8) {
            frame(&mut out, IS_FINAL | PING, b"between", key);
            pings += 1;
        }
    }
    frame(&mut out, IS_FINAL | opcode, b"", key);
    (out, pings)
}

/// What somebody heard behind a head.
#[derive(Default)]
struct Heard {
    messages: Vec<Vec<u8>>,
    pings: usize,
    /// The payload of the last frame, if that is a close.
    close: Option<Vec<u8>>,
}

/// Reads `heard`.
///
/// # Panics
/// If it is no frames; those of the guest have keys that hide nothing.
fn heard(heard: &[u8], is_masked: bool) -> Heard {
    let begins = memchr::memmem::find(heard, b"\r\n\r\n").expect("because there is a head");
    let mut rest = heard.get(begins + 4..).unwrap_or(&[]);
    let (mut all, mut open) = (Heard::default(), None);
    while let [first, second, behind @ ..] = rest {
        assert!(all.close.is_none(), "a close is the last frame");
        assert_eq!(second & 0x80 != 0, is_masked, "a guest masks, and a server does not");
        let of_length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let (length, behind) = behind.split_at(of_length);
        let length = length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
        let length = if of_length == 0 { usize::from(second & 0x7f) } else { length };
        let (key, behind) = behind.split_at(if is_masked { 4 } else { 0 });
        assert!(key.iter().all(|byte| *byte == 0), "a key of the model's");
        let payload;
        (payload, rest) = behind.split_at(length);
        match first & 0x0f {
            CLOSE => all.close = Some(payload.to_vec()),
            PING => all.pings += 1,
            opcode => {
                assert_eq!(opcode == 0, open.is_some(), "pieces stand behind a begin");
                let message = open.get_or_insert_with(Vec::new);
                message.extend_from_slice(payload);
                if first & IS_FINAL != 0 {
                    all.messages.extend(open.take());
                }
            }
        }
    }
    assert!(rest.is_empty(), "a frame is whole");
    all
}

/// What a whole `text` becomes.
fn passed(filter: crate::service::secrets::BodyFilter, text: &[u8]) -> Option<Vec<u8>> {
    secrets::through(Ok(filter), 0, text).ok()
}

/// The guest of `who` says one message, the server the other.
///
/// # Panics
/// If something else is heard than a filter lets pass of a body.
pub(super) fn story((mode, cuts): (u8, u8), (from_guest, from_server): (&[u8], &[u8])) {
    let (is_good, is_verified) = (mode & 1 == 0, mode & 8 == 0);
    let name = if is_good { "good.test" } else { "evil.test" };
    let (sent, pings) = framed(cuts.rotate_left(4), from_guest, Some(*b"\x37\xfa\x21\x3d"));
    let (answered, pings_back) = framed(cuts.rotate_left(4), from_server, None);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n{upgrade}");
    let response = format!("HTTP/1.1 101 Switching\r\n{upgrade}");
    let talk = |interceptor: &Arc<Interceptor>| {
        let speaker = |head: &str, waits, frames: &[u8]| {
            // With the head, where a client does not wait for the answer.
            let at_once = if mode & 16 == 0 { &[] } else { frames };
            let then = if mode & 16 == 0 { frames.to_vec() } else { vec![] };
            Speaker { words: [head.as_bytes(), at_once].concat(), cuts, waits, then }
        };
        let guest = speaker(&request, false, &sent);
        let server = speaker(&response, true, &answered);
        relay(interceptor, (call(name), is_verified), Agreed::Http1, (guest, server))
    };
    let (guest_heard, server_heard) = talk(&AS_THEY_ARE);
    let may = is_good && is_verified;
    let (_, otherwise) = talk(&OTHERWISE[usize::from(may)]);
    secrets::check_heard([may, false], &server_heard, &otherwise);
    let who = match (is_good, is_verified) {
        (true, true) => 0,
        (true, false) => 3,
        (false, _) => 2,
    };
    let scope = secrets::scope(who, secrets::ALL);
    let is_json = matches!(from_guest.first(), Some(b'{' | b'['));
    let expected = passed(scope.message(is_json), from_guest);
    let (at_guest, at_server) = (heard(&guest_heard, false), heard(&server_heard, true));
    let Some(expected) = expected else {
        assert!(at_server.messages.is_empty(), "what may not pass has no end");
        assert_eq!(at_guest.close.as_deref(), Some(&VIOLATION[..]), "the guest is told");
        return;
    };
    assert_eq!((at_server.messages, at_server.pings), (vec![expected], pings));
    let back = passed(scope.message_back(), from_server).expect("because it is readable");
    assert_eq!((at_guest.messages, at_guest.pings), (vec![back], pings_back));
    assert_eq!((at_guest.close, at_server.close), (None, None), "nobody ends it");
}
