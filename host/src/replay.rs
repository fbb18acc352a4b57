//! A capture through the engine: what it does with each frame, on the capture's own time.
//!
//! Owns how frames, actions and drops are told, and a host of whom every connect goes the same way;
//! must not know files or the command. There is no randomness in it and no clock but the capture's,
//! so the same capture is always told in the same words: those of `fixtures/*.expect`.
//!
//! Bounded: a gap between two frames counts as an hour at most, and so many turns of the engine are
//! made a frame.
//!
//! Frames of the capture that its own gateway sent are not replayed; those whose checksum was left
//! to a card are taken for what they are (`partial`). Of the guest's, the
//! acknowledgements are moved to the sequence numbers that are counted here (`numbers`).

mod capture;
mod ends;
mod numbers;
mod outside;
mod partial;
mod summary;

use std::fmt::Write;

use sluicegate_core::{
    Action, Cut, Drop, Engine, FrameRing, Instant, MemoryLen, Offload, TransportChecksum, limits,
};

pub use capture::{CaptureError, Captured, read};
use numbers::Numbers;
pub use outside::Manner;
use outside::Outside;

use crate::config::NetworkConfig;
use crate::error::Error;
use crate::memory::{Storage, map};
use crate::rings::{RingConsumer, RingProducer, Rings};
use summary::summary;

/// The slot whose guest sends the frames.
pub const SLOT: u64 = 0;
/// The seed of what an engine has random: always the same.
const SEED: [u8; 16] = *b"replayed captur\n";
/// A longer gap is as this one.
const GAP_MS_MAX: u64 = 3_600_000;
/// Turns of the engine until the next frame; a keepalive has a minute.
const TURNS_MAX: u32 = 10_000;
/// The engine is left alone for so long after the last frame.
const LINGER_MS: u64 = 1000;

/// How a capture is replayed.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// The network.
    pub config: NetworkConfig,
    /// How the outside behaves.
    pub manner: Manner,
}

/// What a replay tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'t> {
    /// A line of text, without its end.
    Line(&'t str),
    /// A frame that the guest got.
    Frame {
        /// Microseconds since the first frame of the capture.
        micros: u64,
        /// From the Ethernet header on, its checksums filled.
        bytes: &'t [u8],
    },
}

impl Replay {
    /// Replays the frames of `capture`, as those of a guest.
    ///
    /// # Errors
    /// A configuration that the engine refuses, or no memory.
    pub fn run<'c>(
        &self,
        capture: impl IntoIterator<Item = &'c Captured>,
        tell: impl FnMut(Told<'_>),
    ) -> Result<(), Error> {
        let mut config = self.config.to_core(SLOT, SEED)?;
        // As an interface has it whose frames are captured.
        if self.config.interface.receive_frame_bytes.is_none() {
            let header = u32::try_from(limits::ETHERNET_HEADER_BYTES).unwrap_or(0);
            config.link.receive_frame_bytes = u32::from(config.link.mtu) + header;
        }
        let len = MemoryLen::of(&config);
        let (mut buffers, mut fragments) = (map(len.buffers)?, map(len.fragment_bytes)?);
        let mut storage = Storage::new(&len);
        let memory = storage.lend(&mut buffers, &mut fragments);
        let rings = Rings::new();
        let (from_guest, engine_in) = FrameRing::split(rings.from_guest);
        let (engine_out, to_guest) = FrameRing::split(rings.to_guest);
        let now = Instant::ZERO;
        let engine = Engine::new(&config, memory, engine_in, engine_out, now)?;
        let outside = Outside::new(self.manner);
        let mut scene = Scene {
            engine,
            outside,
            numbers: Numbers::default(),
            from_guest,
            to_guest,
            now,
            until: None,
            tell,
        };
        for captured in capture {
            // What the guest was sent is not for the engine to hear.
            if captured.bytes.get(6..12) == Some(&config.link.gateway_mac) {
                scene.numbers.captured(&captured.bytes);
                continue;
            }
            scene.advance(captured.micros);
            let moved = scene.numbers.moved(&captured.bytes);
            let checksum = if partial::is_partial(&captured.bytes) {
                TransportChecksum::Partial
            } else {
                TransportChecksum::Complete
            };
            scene.frame(&moved, Offload { checksum, ..Offload::NONE });
        }
        scene.advance(scene.now.as_micros() + LINGER_MS * 1000);
        Ok(())
    }
}

/// An engine, its rings, and the time.
struct Scene<'a, T> {
    engine: crate::flow::HostEngine<'a>,
    outside: Outside,
    numbers: Numbers,
    from_guest: RingProducer,
    to_guest: RingConsumer,
    now: Instant,
    /// When the engine wants to be woken.
    until: Option<Instant>,
    tell: T,
}

impl<T: FnMut(Told<'_>)> Scene<'_, T> {
    /// Lets time pass up to `micros`, or an hour.
    fn advance(&mut self, micros: u64) {
        let latest = self.now.plus_millis(GAP_MS_MAX);
        let end = Instant::from_micros(micros.max(self.now.as_micros())).min(latest);
        for _ in 0..TURNS_MAX {
            let Some(until) = self.until.filter(|until| *until <= end) else { break };
            self.now = until.max(self.now);
            let before = self.drops();
            let told = self.turn(false);
            self.tell_drops(&before, told);
        }
        self.now = end;
    }

    fn line(&mut self, text: &str) {
        (self.tell)(Told::Line(text));
    }

    /// `text`, under the frame that it follows from, or else under the time.
    fn detail(&mut self, text: &str, is_headed: &mut bool) {
        if !core::mem::replace(is_headed, true) {
            let time = self.time();
            self.line(&format!("{time} timer"));
        }
        self.line(&format!("    {text}"));
    }

    /// The time as it is told: milliseconds, and three digits of microseconds.
    fn time(&self) -> String {
        let micros = self.now.as_micros();
        format!("{}.{:03}", micros / 1000, micros % 1000)
    }

    /// One frame of the guest, and what follows from it at once.
    fn frame(&mut self, bytes: &[u8], offload: Offload) {
        let line = format!("{} > {}", self.time(), summary(bytes));
        self.line(&line);
        if bytes.len() > limits::FRAME_BYTES_MAX {
            self.line("    longer than any frame");
            return;
        }
        let before = self.drops();
        if self.from_guest.push(bytes, offload) {
            self.from_guest.flush();
        } else {
            self.line("    the ring is full");
        }
        let told = self.turn(true);
        self.tell_drops(&before, told);
    }

    fn drops(&self) -> [u64; Drop::ALL.len()] {
        Drop::ALL.map(|reason| self.engine.counters().dropped(reason))
    }

    fn tell_drops(&mut self, before: &[u64; Drop::ALL.len()], mut is_headed: bool) {
        for (reason, (before, after)) in Drop::ALL.iter().zip(before.iter().zip(self.drops())) {
            if after > *before {
                self.detail(&format!("drop {}", reason.name()), &mut is_headed);
            }
        }
    }

    /// Lets everything happen that can happen now; returns whether anything was told.
    fn turn(&mut self, mut is_headed: bool) -> bool {
        for _ in 0..TURNS_MAX {
            let mut has_acted = false;
            loop {
                let mut text = String::new();
                let action = self.engine.poll(self.now);
                if let Action::Wait { until, .. } = action {
                    self.until = until;
                    break;
                }
                has_acted = true;
                if let Some(task) = self.outside.note(&action, &mut text) {
                    self.outside.perform(task, &mut self.engine, self.now, &mut text);
                }
                for line in text.lines() {
                    self.detail(line, &mut is_headed);
                }
            }
            let has_emitted = self.emit(&mut is_headed);
            let is_due = self.until.is_some_and(|until| until <= self.now);
            if !has_acted && !has_emitted && !is_due {
                break;
            }
        }
        is_headed
    }

    /// Takes the frames for the guest.
    fn emit(&mut self, is_headed: &mut bool) -> bool {
        let mut has_emitted = false;
        while let Some(record) = self.to_guest.read() {
            let whole = self.to_guest.bytes(&record).to_vec();
            self.to_guest.release();
            has_emitted = true;
            let mut cut = Cut::new(whole.len(), record.offload);
            while let Some(len) = cut.next_len() {
                let mut frame = vec![0; len];
                if cut.next_into(&whole, &mut frame).is_none() {
                    break;
                }
                self.numbers.ours(&frame);
                let mut text = String::from("< ");
                // Writing to a text does not fail.
                let _ = write!(text, "{}", summary(&frame));
                self.detail(&text, is_headed);
                let micros = self.now.as_micros();
                (self.tell)(Told::Frame { micros, bytes: &frame });
            }
        }
        has_emitted
    }
}
