//! What a fuzzer drives of the host. Each function panics where a rule is broken, and does nothing
//! else; targets of `fuzz/` are a line each onto these, and `fuzz/tests.rs` runs them as tests.
//!
//! Most of it is about what the crate keeps to itself (secrets, HTTP between a guest and its
//! server), so it can't stand outside; and no program needs it, so it is there for tests and under
//! cargo-fuzz (which sets `cfg(fuzzing)`) only.

mod http;
mod secrets;
mod stream;

#[cfg(test)]
mod tests;

use crate::config::NetworkConfig;
use crate::replay::{Manner, Replay, read};

pub use http::http;
pub use secrets::secrets;
pub use stream::stream;

/// A capture's frames of one story.
const FRAMES_MAX: usize = 200;

/// Cuts `bytes` as a first byte says: at once, all alike, or all different.
struct Cuts(u64);

impl Cuts {
    fn new(kind: u8) -> Self {
        Self(kind.into())
    }

    /// How long the next piece is, of `len` bytes that are left.
    fn next(&mut self, len: usize) -> usize {
        let at_most = match self.0 {
            0 => len,
            kind @ 1..128 => usize::try_from(kind).unwrap_or(1),
            _ => {
                // Knuth's generator; its low bits are poor, so a number above 128 is kept of it.
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) | 1 << 63;
                usize::try_from(self.0 >> 40 & 0x3f).unwrap_or(1)
            }
        };
        at_most.clamp(1, len.max(1)).min(len)
    }
}

/// The pieces of `bytes`.
fn pieces(kind: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut cuts, mut rest) = (Cuts::new(kind), bytes);
    core::iter::from_fn(move || {
        let (piece, behind) = rest.split_at(cuts.next(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A configuration of any text is refused or makes a network.
pub fn config(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(config) = NetworkConfig::from_json(text) {
        let _ = config.to_core(0, [7; 16]);
        let _ = config.for_tenant().to_core(0, [7; 16]);
    }
}

/// A policy of any text is refused, or is the same when it is written and read again.
///
/// # Panics
/// If it is another, or can't be read.
pub fn policy(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let Ok(config) = NetworkConfig::from_json(&format!("{{\"policy\": {text}}}")) else { return };
    let written = serde_json::json!({ "policy": config.policy }).to_string();
    match NetworkConfig::from_json(&written) {
        Ok(again) => assert_eq!(again.policy, config.policy, "{written}"),
        Err(error) => panic!("{written}: {error}"),
    }
    let _ = config.to_core(0, [7; 16]);
}

/// A capture of any bytes is refused or replayed.
pub fn replay(data: &[u8]) {
    let Ok(frames) = read(data) else { return };
    let replay = Replay { manner: Manner::Echo, ..Replay::default() };
    let _ = replay.run(frames.iter().take(FRAMES_MAX), |_| ());
}
