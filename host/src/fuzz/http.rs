//! A guest and a server that say anything, and HTTP between them.
//!
//! Time is virtual: it passes when nobody has anything left to do, so that what would hang for ever
//! is seen at once.

mod websocket;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{pieces, secrets};
use crate::intercept::Interceptor;
use crate::intercept::fuzz::{Agreed, call, interceptor, serve};

/// Bytes of each pipe.
const PIPE_BYTES: usize = 64 * 1024;
/// What is said at once is followed by so much time.
const PAUSE: Duration = Duration::from_secs(10);
/// Both sides have gone by then, and so has what is between them a while later.
const GONE: Duration = Duration::from_secs(60);
const ENDED: Duration = Duration::from_secs(120);
/// Bytes that anybody may have heard: more than the longest story, with values in it, makes.
const HEARD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who serves with the secrets as they are; and with other values of all, or of `KEYS`, for whom
/// those are not for. `KEY` is good.test's, and `KEYS` *.other.test's.
static AS_THEY_ARE: LazyLock<Arc<Interceptor>> = LazyLock::new(|| with(secrets::ALL));
static OTHERWISE: LazyLock<[Arc<Interceptor>; 2]> =
    LazyLock::new(|| [with([false; 2]), with([true, false])]);

fn with(kept: [bool; 2]) -> Arc<Interceptor> {
    interceptor(Arc::new(secrets::vault(kept)))
}

/// Who says something.
struct Speaker {
    words: Vec<u8>,
    cuts: u8,
    /// It says nothing before it was spoken to, unless that does not happen.
    waits: bool,
    /// What it says once it was spoken to behind that.
    then: Vec<u8>,
}

/// Lets `speaker` say its words at `end`; returns what it heard.
async fn converse(end: DuplexStream, speaker: Speaker) -> Vec<u8> {
    let (mut from, mut to) = split(end);
    let mut heard = vec![];
    let spoken_to = Notify::new();
    let Speaker { words, cuts, waits, then } = speaker;
    let saying = async {
        for (words, waits) in [(words, waits), (then, true)] {
            if waits && !words.is_empty() {
                let _ = timeout(PAUSE, spoken_to.notified()).await;
            }
            for piece in pieces(cuts, &words) {
                if to.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        sleep(2 * PAUSE).await;
        // Who has gone already needs no end.
        let _ = to.shutdown().await;
    };
    let hearing = async {
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut piece).await {
            heard.extend_from_slice(piece.get(..len).unwrap_or(&[]));
            spoken_to.notify_one();
        }
    };
    let _ = timeout(GONE, async { tokio::join!(saying, hearing) }).await;
    heard
}

/// Lets `guest` and `server` speak to each other through what is between them, where the handshakes
/// `agreed` on that; returns what each of them heard.
///
/// # Panics
/// If it has no end.
fn relay(
    interceptor: &Arc<Interceptor>,
    call: (crate::intercept::Call, bool),
    agreed: Agreed,
    (guest, server): (Speaker, Speaker),
) -> (Vec<u8>, Vec<u8>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    let runtime = runtime.expect("because it takes no more than memory");
    runtime.block_on(async {
        let ((near, guest_end), (far, server_end)) = (duplex(PIPE_BYTES), duplex(PIPE_BYTES));
        let between = serve(Arc::clone(interceptor), call, agreed, (near, far));
        let (guest, server) = (converse(guest_end, guest), converse(server_end, server));
        let all = timeout(ENDED, async { tokio::join!(between, guest, server) });
        let Ok((_, guest_heard, server_heard)) = all.await else { panic!("it has no end") };
        (guest_heard, server_heard)
    })
}

/// The first byte says to whom and how, the second how it is cut; then the length of what the guest
/// says, that, and what the server says. It may be a message that each says in a WebSocket.
///
/// # Panics
/// If it has no end, or a server hears what it may not.
pub fn http(data: &[u8]) {
    let Some((&[mode, cuts, high, low], words)) = data.split_first_chunk::<4>() else { return };
    let len = usize::from(u16::from_be_bytes([high, low])).min(words.len());
    let (guest_says, server_says) = words.split_at(len);
    if mode & 32 != 0 {
        return websocket::story((mode, cuts), (guest_says, server_says));
    }
    let is_good = mode & 1 == 0;
    let is_verified = mode & 8 == 0;
    let agreed = match mode >> 1 & 3 {
        1 => Agreed::Http1,
        2 => Agreed::Http2,
        _ => Agreed::Nothing,
    };
    let may = is_good && is_verified;
    let server_heard = |interceptor| {
        let call = (call(if is_good { "good.test" } else { "evil.test" }), is_verified);
        let guest = Speaker { words: guest_says.to_vec(), cuts, waits: false, then: vec![] };
        let server =
            Speaker { words: server_says.to_vec(), cuts, waits: mode & 16 == 0, then: vec![] };
        let (guest_heard, server_heard) = relay(interceptor, call, agreed, (guest, server));
        assert!(guest_heard.len() + server_heard.len() < HEARD_BYTES_MAX, "it grows");
        server_heard
    };
    let heard = server_heard(&AS_THEY_ARE);
    secrets::check_heard([may, false], &heard, &server_heard(&OTHERWISE[usize::from(may)]));
}

#[cfg(test)]
mod tests;
