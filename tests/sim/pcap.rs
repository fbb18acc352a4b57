//! What went over the link, as a pcap file (libpcap's classic format) for whoever looks into a
//! failure.

use std::io::Write;
use std::path::PathBuf;

use sluicegate_core::Instant;

/// Frames that are kept: the last ones explain a failure.
const FRAMES_MAX: usize = 20_000;

/// The frames of a run, in order. When the run panics, they are written to a file whose name is
/// printed.
#[derive(Debug)]
pub struct Pcap {
    name: String,
    frames: std::collections::VecDeque<(Instant, Vec<u8>)>,
}

impl Pcap {
    /// A record of the run called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), frames: std::collections::VecDeque::new() }
    }

    /// Renames the run.
    pub fn rename(&mut self, name: &str) {
        self.name = name.into();
    }

    /// Keeps `frame`, which passed at `now`.
    pub fn push(&mut self, now: Instant, frame: &[u8]) {
        if self.frames.len() == FRAMES_MAX {
            self.frames.pop_front();
        }
        self.frames.push_back((now, frame.to_vec()));
    }

    /// The file's bytes: a header, then each frame with its time in microseconds.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0x0004_0000, 1] {
            out.extend(word.to_le_bytes());
        }
        for (at, frame) in &self.frames {
            let (seconds, micros) = (at.as_micros() / 1_000_000, at.as_micros() % 1_000_000);
            let len = frame.len() as u32;
            for word in [seconds as u32, micros as u32, len, len] {
                out.extend(word.to_le_bytes());
            }
            out.extend(frame);
        }
        out
    }

    fn write(&self) -> std::io::Result<PathBuf> {
        let path = std::env::temp_dir().join(format!(
            "sluicegate-{}-{}.pcap",
            self.name,
            std::process::id()
        ));
        std::fs::File::create(&path)?.write_all(&self.bytes())?;
        Ok(path)
    }
}

impl Drop for Pcap {
    fn drop(&mut self) {
        if !std::thread::panicking() || self.frames.is_empty() {
            return;
        }
        match self.write() {
            Ok(path) => eprintln!("the link's frames are in {}", path.display()),
            Err(error) => eprintln!("the link's frames could not be written: {error}"),
        }
    }
}
