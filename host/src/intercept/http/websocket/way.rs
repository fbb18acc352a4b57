//! One way of a WebSocket: frames become messages, and what passes of those frames again.
//!
//! Owns which filter a message goes through, and when what has passed leaves; and what an operator
//! and the guest are told where something must not. Must not know where bytes come from.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::Exchange;
use super::frame::{self, Frames, Malformed, Opcode, Part, Speaker};
use crate::events::Incident;
use crate::service::secrets::{BodyFilter, Scope, Violation, ViolationAction};

/// Bytes that are made at a time, but for the message that exceeds them: short ones may grow much.
pub(super) const MADE_BYTES_MAX: usize = 64 * 1024;
/// Why it ends (RFC 6455 7.4.1).
pub(super) const PROTOCOL_ERROR: u16 = 1002;
pub(super) const POLICY_VIOLATION: u16 = 1008;

/// Why nothing more of one side passes.
#[derive(Debug)]
pub(super) enum Stop {
    Violation(Violation),
    Malformed(Malformed),
    /// There is no key to mask with.
    NoKey(io::Error),
}

impl Stop {
    /// What the guest is told.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Violation(_) | Self::NoKey(_) => POLICY_VIOLATION,
            Self::Malformed(_) => PROTOCOL_ERROR,
        }
    }
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What one side says, on its way to the other.
pub(super) struct Way {
    exchange: Arc<Exchange>,
    /// What messages that begin now may carry.
    scope: Arc<Scope>,
    pub(super) speaker: Speaker,
    frames: Frames,
    /// The one that has begun and not ended.
    message: Option<Message>,
    /// Frames that may leave.
    made: BytesMut,
}

/// A message on its way.
struct Message {
    /// Of its next frame.
    opcode: Opcode,
    /// `None`: nothing of it has come.
    filter: Option<BodyFilter>,
    /// What of it may leave, and is in no frame yet.
    passed: BytesMut,
}

impl Way {
    pub(super) fn new(exchange: &Arc<Exchange>, speaker: Speaker) -> Self {
        Self {
            exchange: Arc::clone(exchange),
            scope: exchange.scope(),
            speaker,
            frames: Frames::of(speaker),
            message: None,
            made: BytesMut::new(),
        }
    }

    /// Takes off `bytes`, which came next, what is looked at in one turn. Returns the frames that
    /// may leave, and what nothing may leave behind.
    pub(super) fn push(&mut self, bytes: &mut Bytes) -> (Bytes, Result<(), Stop>) {
        let taken = self.take(bytes).and_then(|()| self.leave(false));
        (self.made.split().freeze(), taken)
    }

    /// The same of what is left, where nothing more comes.
    pub(super) fn finish(&mut self) -> (Bytes, Result<(), Stop>) {
        let finished = self.finish_message().and_then(|()| self.leave(false));
        (self.made.split().freeze(), finished)
    }

    fn take(&mut self, bytes: &mut Bytes) -> Result<(), Stop> {
        loop {
            let passed = self.message.as_ref().map_or(0, |message| message.passed.len());
            // What needs no more bytes does not wait for them.
            if !bytes.is_empty() && self.made.len() + passed >= MADE_BYTES_MAX {
                return Ok(());
            }
            match self.frames.next(bytes)? {
                None => return Ok(()),
                Some(Part::Begin(opcode)) => {
                    let passed = BytesMut::new();
                    self.message = Some(Message { opcode, filter: None, passed });
                }
                Some(Part::Data(bytes)) => self.filter(bytes)?,
                Some(Part::End) => {
                    self.finish_message()?;
                    self.leave(true)?;
                    self.message = None;
                }
                Some(Part::Control(opcode, payload)) => {
                    // In its place among the frames of a message.
                    self.leave(false)?;
                    let payload = self.control(payload)?;
                    self.write((opcode, true), &payload)?;
                }
            }
        }
    }

    /// Takes in what the secrets are by now.
    fn renew(&mut self) {
        if self.scope.is_old() {
            self.scope = self.exchange.scope();
        }
    }

    /// Lets bytes of the message through its filter.
    fn filter(&mut self, mut bytes: Bytes) -> Result<(), Stop> {
        if self.message.as_ref().is_some_and(|message| message.filter.is_none()) {
            self.renew();
        }
        let Some(Message { opcode, filter, passed }) = &mut self.message else { return Ok(()) };
        let filter = filter.get_or_insert_with(|| match self.speaker {
            // Nobody says how texts are written in it.
            Speaker::Guest => self
                .scope
                .message(*opcode == Opcode::Text && matches!(bytes.first(), Some(b'{' | b'['))),
            Speaker::Server => self.scope.message_back(),
        });
        while !bytes.is_empty() {
            passed.extend_from_slice(&filter.push(&mut bytes)?);
        }
        Ok(())
    }

    /// Nothing more comes of the message.
    fn finish_message(&mut self) -> Result<(), Stop> {
        if let Some(Message { filter: Some(filter), passed, .. }) = &mut self.message {
            passed.extend_from_slice(&filter.finish()?);
        }
        Ok(())
    }

    /// Lets what has passed of the message leave.
    fn leave(&mut self, is_final: bool) -> Result<(), Stop> {
        let Some(message) = &mut self.message else { return Ok(()) };
        if message.passed.is_empty() && !is_final {
            return Ok(());
        }
        let opcode = std::mem::replace(&mut message.opcode, Opcode::Continuation);
        let payload = message.passed.split();
        self.write((opcode, is_final), &payload)
    }

    /// The payload of a control frame as it may pass.
    fn control(&mut self, payload: Bytes) -> Result<Bytes, Violation> {
        self.renew();
        match self.speaker {
            Speaker::Guest => self.scope.control(&payload).map(|()| payload),
            Speaker::Server => self.scope.control_back(payload),
        }
    }

    fn write(&mut self, kind: (Opcode, bool), payload: &[u8]) -> Result<(), Stop> {
        let key = match self.speaker {
            // No server is to see one that somebody else chose (RFC 6455 5.3).
            Speaker::Guest => Some((self.exchange.fresh_key)().map_err(Stop::NoKey)?),
            Speaker::Server => None,
        };
        frame::write(&mut self.made, kind, payload, key);
        Ok(())
    }

    /// Tells an operator why it ends.
    pub(super) fn report(&self, stop: Stop) {
        let problem = match (stop, self.speaker) {
            (Stop::Violation(violation), Speaker::Guest) => {
                return self.exchange.report(&violation);
            }
            (Stop::Malformed(error), Speaker::Guest) => {
                tracing::debug!(%error, "a guest's WebSocket can't be read");
                return self.exchange.report(&Violation {
                    env_var: None,
                    place: "unreadable WebSocket",
                    action: ViolationAction::BlockAndLog,
                });
            }
            (Stop::Violation(_), Speaker::Server) => "a WebSocket that grows too much".to_owned(),
            (Stop::Malformed(error), Speaker::Server) => format!("in a WebSocket, {error}"),
            (Stop::NoKey(error), _) => {
                return tracing::warn!(%error, "there is no randomness for a WebSocket");
            }
        };
        self.exchange.tell(Incident::Server { problem });
    }
}

/// What a guest is told behind the last frame.
pub(super) fn close(code: u16) -> Bytes {
    let mut all = BytesMut::new();
    frame::write(&mut all, (Opcode::Close, true), &code.to_be_bytes(), None);
    all.freeze()
}
