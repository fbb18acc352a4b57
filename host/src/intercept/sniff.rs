//! What a connection carries on which no protocol was agreed on that is known here: HTTP if the
//! guest begins so, or the server as servers of HTTP/2 do, and bytes otherwise. A server that
//! speaks first is heard at once, unless it may yet be one of HTTP/2 (gRPC's own protocol
//! `grpc-exp` is that): then as soon as that is known.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluicegate_core::{FirstLine, first_line};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, copy_bidirectional};

use super::http::{self, Exchange};
use super::pipe::Broken;
use super::relay;
use super::welcome::Acknowledged;

/// How every connection of HTTP/2 begins (RFC 9113 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of the longest word that is believed to be a method before its line has come to its end.
const METHOD_BYTES_MAX: usize = 20;

/// The type of the frame that a server of HTTP/2 begins with (RFC 9113 3.4, 6.5).
const SETTINGS: u8 = 4;
/// A server that begins like one of HTTP/2 is held back for so long.
const HELD_MAX: Duration = Duration::from_secs(1);

/// What first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http1,
    Http2,
    Other,
    /// Too few to tell.
    Unknown,
}

/// What `bytes` begin, of which `seen` were too few to tell. A first line counts as lenient servers
/// read it: what passes here as bytes they could go on with as requests.
fn kind(bytes: &[u8], seen: usize) -> Kind {
    if PREFACE.starts_with(bytes) {
        return if bytes.len() == PREFACE.len() { Kind::Http2 } else { Kind::Unknown };
    }
    if bytes.starts_with(PREFACE) {
        return Kind::Http2;
    }
    // Empty lines before a request are passed over by servers (RFC 9112 2.2).
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let mut rest = bytes.get(blank..).unwrap_or(&[]).iter().take(METHOD_BYTES_MAX + 1);
    let is_of_method = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-';
    let method = rest.clone().take_while(|byte| is_of_method(byte)).count();
    if method > 0 && rest.nth(method) == Some(&b' ') {
        return Kind::Http1;
    }
    match first_line(bytes, seen) {
        FirstLine::Request | FirstLine::Doubtful => Kind::Http1,
        FirstLine::Partial => Kind::Unknown,
        FirstLine::Other => Kind::Other,
    }
}

/// The same of what is said in the clear, at any port: many protocols of text begin as lenient
/// servers of HTTP would still take for a request, so only a line that is one counts.
fn kind_in_clear(bytes: &[u8], seen: usize) -> Kind {
    if PREFACE.starts_with(bytes) || bytes.starts_with(PREFACE) {
        return if bytes.len() < PREFACE.len() { Kind::Unknown } else { Kind::Http2 };
    }
    match first_line(bytes, seen) {
        FirstLine::Request => Kind::Http1,
        FirstLine::Partial => Kind::Unknown,
        FirstLine::Doubtful | FirstLine::Other => Kind::Other,
    }
}

/// What a guest may say first in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// A handshake of TLS (RFC 8446 5.1).
    Tls,
    /// Neither that nor HTTP.
    Bytes,
    /// HTTP, or what may yet become that.
    Http,
}

/// What `bytes` are, the first that a guest says in the clear.
pub(crate) fn first_of_guest(bytes: &[u8]) -> First {
    match (bytes, kind_in_clear(bytes, 0)) {
        ([22, 3, ..] | [22], _) => First::Tls,
        (_, Kind::Http1 | Kind::Http2 | Kind::Unknown) => First::Http,
        (_, Kind::Other) => First::Bytes,
    }
}

/// Whether `bytes`, the first that a server says, before its client, may be those of one of HTTP/2.
pub(crate) fn is_of_server_of_http(bytes: &[u8]) -> bool {
    !bytes.is_empty() && kind_of_reply(bytes) != Kind::Other
}

/// What the server's first bytes are: HTTP/2 if they are the header of a frame of settings, which
/// are six bytes each, without flags and of no stream (RFC 9113 4.1).
fn kind_of_reply(bytes: &[u8]) -> Kind {
    let begins = |(at, byte): (usize, &u8)| match at {
        0 | 4.. => *byte == 0,
        3 => *byte == SETTINGS,
        1 | 2 => true,
    };
    let header = bytes.get(..9).unwrap_or(bytes);
    if !header.iter().enumerate().all(begins) {
        return Kind::Other;
    }
    match header {
        [_, high, low, ..] if header.len() == 9 => {
            let len = u16::from_be_bytes([*high, *low]);
            if len % 6 == 0 { Kind::Http2 } else { Kind::Other }
        }
        _ => Kind::Unknown,
    }
}

/// Serves a connection as what it begins as.
pub(super) async fn serve<G, S>(
    exchange: Arc<Exchange>,
    mut guest: G,
    mut server: S,
) -> Result<(), Broken>
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if exchange.is_bypassed() {
        // It has not gone past this task only because the guest was welcomed.
        let mut guest = Heard::from_guest(&exchange, vec![], guest);
        copy_bidirectional(&mut guest, &mut server).await?;
        return Ok(());
    }
    let (mut heard, mut replied) = (Vec::new(), Vec::new());
    let (mut piece, mut reply) = ([0; 4096], [0; 4096]);
    let mut held = tokio::time::interval(HELD_MAX);
    let is_open = exchange.is_open();
    // Where anybody may be spoken to, who has said a part of a line may have said all.
    let has_begun = |heard: &[u8]| is_open && !heard.is_empty();
    let kind_of_guest = if is_open { kind_in_clear } else { kind };
    let kind = loop {
        let now = tokio::select! {
            // What the guest said first says more of what it is.
            biased;
            len = guest.read(&mut piece) => {
                let len = len?;
                if is_open {
                    held.reset();
                }
                let seen = heard.len();
                heard.extend_from_slice(piece.get(..len).unwrap_or(&[]));
                // With nothing heard, its end is what there is to be relayed.
                if len == 0 { Kind::Other } else { kind_of_guest(&heard, seen) }
            }
            len = server.read(&mut reply) => {
                let len = len?;
                held.reset();
                replied.extend_from_slice(reply.get(..len).unwrap_or(&[]));
                if len == 0 { Kind::Other } else { kind_of_reply(&replied) }
            }
            _ = held.tick(), if !replied.is_empty() || has_begun(&heard) => Kind::Other,
        };
        if now != Kind::Unknown {
            break now;
        }
    };
    let guest = Heard::from_guest(&exchange, heard, guest);
    let server = Heard::behind(replied, server);
    match kind {
        Kind::Http1 => http::h1(exchange, guest, server).await,
        Kind::Http2 => http::h2(exchange, guest, server).await,
        Kind::Other | Kind::Unknown => relay::run(&exchange, guest, server).await,
    }
}

/// A stream of which something was read already.
pub(super) struct Heard<S> {
    heard: Vec<u8>,
    at: usize,
    stream: S,
    /// What is left out of what is still to be read.
    frames: Option<Acknowledged>,
}

impl<S> Heard<S> {
    /// `stream`, of which `heard` was read.
    pub(super) fn behind(heard: Vec<u8>, stream: S) -> Self {
        Self { heard, at: 0, stream, frames: None }
    }

    /// The guest's stream, of which `heard` was read.
    fn from_guest(exchange: &Exchange, heard: Vec<u8>, stream: S) -> Self {
        let frames = exchange.is_welcomed().then(Acknowledged::new);
        let mut it = Self { frames, ..Self::behind(vec![], stream) };
        it.hear(heard);
        it
    }

    /// Takes in what was read, all of what was heard before having been handed on.
    fn hear(&mut self, bytes: Vec<u8>) {
        self.at = 0;
        self.heard = match &mut self.frames {
            Some(frames) => frames.without(&bytes),
            None => bytes,
        };
        self.frames = self.frames.take().filter(|frames| !frames.is_found());
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.at == self.heard.len() {
            if self.frames.is_none() {
                return Pin::new(&mut self.stream).poll_read(context, space);
            }
            let mut piece = [0; 4096];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.hear(piece.filled().to_vec());
        }
        let rest = self.heard.get(self.at..).unwrap_or(&[]);
        let len = rest.len().min(space.remaining());
        space.put_slice(rest.get(..len).unwrap_or(&[]));
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_a_connection_carries_as_soon_as_they_can() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Kind::Http1),
            (b"GET ", Kind::Http1),
            (b"PRI ", Kind::Unknown),
            (b"PRI x", Kind::Http1),
            (b"M-SEARCH * HTTP/1.1", Kind::Http1),
            (PREFACE, Kind::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Kind::Http2),
            (b"EHL", Kind::Unknown),
            (b"EHLO x", Kind::Http1),
            (b"\x01 / HTTP/1.1\r\n", Kind::Other),
            (b"\r\n\r\n", Kind::Unknown),
            (b"\r\nGET ", Kind::Http1),
            (&[b'\n'; 65], Kind::Http1),
            // Methods that are no words, or long ones, are known by their line.
            (b"A_B / HTTP/1.1", Kind::Unknown),
            (b"A_B / HTTP/1.1\r\n", Kind::Http1),
            (b"A_B / HTTP/1.1\n", Kind::Http1),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n", Kind::Http1),
            (&[b'A'; 21], Kind::Unknown),
            (&[b'A'; 16 * 1024], Kind::Http1),
            // What is between words is a blank to some servers.
            (b"GET\t/\tHTTP/1.1\r\n", Kind::Http1),
            (b"GET\x0b/\x0cHTTP/1.10 \r\n", Kind::Http1),
            (b"GET\x1c/\xa0http/1.1\r\n", Kind::Http1),
            (b" GET / HTTP/1.1\r\n", Kind::Http1),
            (b"\r\n\tA_B / HTTP/1.1\r\n", Kind::Http1),
            // Other protocols.
            (b"SSH-2.0-", Kind::Unknown),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Kind::Other),
            (b"a1 LOGIN x y\r\n", Kind::Other),
            (b"AMQP\0\0\x09\x01", Kind::Other),
            (b"003egit-upload-pack /x\0host=y\0", Kind::Other),
            (b"*1\r\n", Kind::Other),
            (b"{\"a\": 1}", Kind::Other),
            (b"\x16\x03", Kind::Other),
        ] {
            assert_eq!(kind(bytes, 0), expected, "{}", String::from_utf8_lossy(bytes));
            // In pieces it is the same, as soon as it is known.
            let cut = |len| kind(&bytes[..len], len - 1);
            let told = (1..=bytes.len()).map(cut).find(|kind| *kind != Kind::Unknown);
            assert_eq!(told.unwrap_or(Kind::Unknown), expected, "{bytes:?} in pieces");
        }
    }

    #[test]
    fn a_server_of_http2_is_known_by_its_settings_and_any_other_at_once() {
        for (bytes, expected) in [
            (&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], Kind::Http2),
            (&[0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3], Kind::Http2),
            (&[0, 0, 18, 4, 0, 0, 0, 0], Kind::Unknown),
            (&[0], Kind::Unknown),
            (&[0, 0, 17, 4, 0, 0, 0, 0, 0], Kind::Other),
            (&[0, 0, 18, 4, 1, 0, 0, 0, 0], Kind::Other),
            (&[0, 0, 18, 4, 0, 0, 0, 0, 1], Kind::Other),
            (&[0, 0, 18, 0], Kind::Other),
            (b"220 mail", Kind::Other),
            (b"SSH-2.0-", Kind::Other),
        ] {
            assert_eq!(kind_of_reply(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn in_the_clear_only_what_is_a_request_to_everybody_is_http_and_what_may_become_one_waits() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], First::Http),
            (b"PO", First::Http),
            (PREFACE, First::Http),
            (b"PRI * HTTP/2.0", First::Http),
            (b"\x16\x03\x01", First::Tls),
            (b"\x16", First::Tls),
            (b"\x16\x04", First::Bytes),
            (b"NICK me\r\n", First::Bytes),
            (b"EHLO me\r\n", First::Bytes),
            (b"GET / HTTP/1.1\n", First::Bytes),
            (b"*1\r\n$4\r\nPING\r\n", First::Bytes),
            (b"OPTIONS rtsp://a RTSP/1.0\r\n", First::Bytes),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", First::Bytes),
        ] {
            assert_eq!(first_of_guest(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        for (bytes, expected) in [
            (&b""[..], false),
            (b"220 smtp.test\r\n", false),
            (b"SSH-2.0-x\r\n", false),
            (b"J\0\0\0\x0a8.0.36", false),
            (b"\0\0\x12\x04\0\0\0\0\0", true),
            (b"\0\0", true),
        ] {
            assert_eq!(is_of_server_of_http(bytes), expected, "{bytes:?}");
        }
    }
}
