//! The bodies of requests and responses.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder, ZlibDecoder, ZlibEncoder};
use hyper::HeaderMap;

use super::codec::Codec;
use super::coding::{Coding, codec, coding};
use super::digest;
use super::head::InPlace;
use super::mask::Masker;
use super::messages::{self, Compressed, Messages, Part};
use super::redact::Redactor;
use super::stream::{Rewriter, StreamScan, TooLong};
use super::{Scope, Secret, Snapshot, Stand, Violation};

/// An encoded body may be this many times longer than it is on the way, beside the first MiB: more
/// than texts are, and less than what is made to keep somebody busy.
const RATIO_MAX: u64 = 64;
const FREE_BYTES: u64 = 1024 * 1024;
/// Bytes of a body that are looked at in one turn, as they come and once they are decoded: whoever
/// looks lets others go on behind it.
const TURN_BYTES_MAX: usize = 16 * 1024;
const TURN_DECODED_BYTES: u64 = 64 * 1024;
/// Bytes that are decoded at once, so that it is seen early what they grow to.
const PIECE_BYTES: usize = 256;

/// Looks at a body, and changes it, as it comes.
pub(crate) struct BodyFilter(Kind);

enum Kind {
    /// Nothing is looked for.
    Pass,
    Plain(Stage),
    /// Through a decoder, and an encoder if it may change.
    Encoded(Box<Encoded>),
}

/// What is changed in a body.
enum Change {
    Nothing,
    /// Placeholders become values.
    ToValues(Rewriter),
    /// Values become placeholders, as these secrets say.
    ToPlaceholders(Redactor, Arc<Snapshot>),
    /// The same in messages, which keep their lengths.
    Masked(Box<Masker>, Arc<Snapshot>),
}

/// What becomes of a body's own bytes.
pub(super) struct Stage {
    scope: Arc<Scope>,
    scan: Option<StreamScan>,
    change: Change,
    /// Where in its messages a request is; `None`: it is all one.
    messages: Option<Messages>,
}

impl Stage {
    fn changes(&self) -> bool {
        !matches!(self.change, Change::Nothing)
    }

    fn has_changed(&self) -> bool {
        match &self.change {
            Change::Nothing => false,
            Change::ToValues(rewriter) => rewriter.has_changed(),
            Change::ToPlaceholders(redactor, _) => redactor.has_changed(),
            Change::Masked(masker, _) => masker.has_changed(),
        }
    }

    fn push(&mut self, mut bytes: Bytes) -> Result<Bytes, Violation> {
        self.grow_old();
        if let Some(scan) = &mut self.scan {
            scan.push(&bytes)?;
        }
        let Some(mut messages) = self.messages.take() else { return self.rewrite(Some(bytes)) };
        let mut out = BytesMut::with_capacity(bytes.len());
        let mut has_ended = false;
        while let Some(part) =
            messages.next(&mut bytes).map_err(|Compressed| Violation::unreadable())?
        {
            has_ended = matches!(part, Part::Message(_, true));
            match part {
                Part::Header(bytes) => out.extend_from_slice(&bytes),
                Part::Message(bytes, _) => out.extend_from_slice(&self.rewrite(Some(bytes))?),
            }
            if has_ended {
                out.extend_from_slice(&self.rewrite(None)?);
            }
        }
        self.messages = Some(messages);
        // What the header of the next would show, which no placeholder goes on with.
        if has_ended && let Some(scan) = &mut self.scan {
            scan.finish()?;
        }
        Ok(out.freeze())
    }

    /// Puts no more values into a request that has outlived them, and takes those out of a response
    /// that are there by now.
    fn grow_old(&mut self) {
        match &mut self.change {
            Change::Nothing => {}
            Change::ToValues(_) => {
                if let Some(scope) = self.scope.of_old() {
                    if let Some(scan) = &mut self.scan {
                        scan.judge_by(Arc::clone(&scope));
                    }
                    self.scope = scope;
                }
            }
            Change::ToPlaceholders(_, snapshot) | Change::Masked(_, snapshot) => {
                if let Some(newer) = snapshot.newer() {
                    *snapshot = newer;
                }
            }
        }
    }

    fn finish(&mut self) -> Result<Bytes, Violation> {
        self.grow_old();
        if let Some(scan) = &mut self.scan {
            scan.finish()?;
        }
        self.rewrite(None)
    }

    /// What passes of `bytes`; `None`: of what is left.
    fn rewrite(&mut self, bytes: Option<Bytes>) -> Result<Bytes, Violation> {
        let scope = &self.scope;
        let passed = match &mut self.change {
            Change::Nothing => return Ok(bytes.unwrap_or_default()),
            Change::Masked(masker, snapshot) => return masker.go_on(bytes, snapshot),
            Change::ToPlaceholders(redactor, snapshot) => redactor.go_on(bytes, snapshot),
            Change::ToValues(rewriter) => {
                let replace = InPlace { scope, is_enabled: |secret: &Secret| secret.in_body };
                rewriter.go_on(bytes, &scope.snapshot.placeholders, &replace)
            }
        };
        passed.map_err(|TooLong| Violation::unreadable())
    }
}

impl Scope {
    /// What looks at the body of a request with `headers`, and puts values into it.
    ///
    /// # Errors
    /// Its encoding can't be looked into.
    pub(crate) fn body(self: &Arc<Self>, headers: &HeaderMap) -> Result<BodyFilter, Violation> {
        match self.upload(codec(headers), messages::kind(headers), "body") {
            None => Ok(BodyFilter(Kind::Pass)),
            Some(stage) => BodyFilter::new(headers, stage),
        }
    }

    /// What becomes of the bytes of a request, where texts are written so; `None`: they pass.
    pub(super) fn upload(
        self: &Arc<Self>,
        codec: Codec,
        kind: Option<messages::Kind>,
        place: &'static str,
    ) -> Option<Stage> {
        let scope = self.of_body(kind.is_some());
        let rewrites = scope.rewrites_body();
        if !rewrites && !scope.forbids() {
            return None;
        }
        let change =
            if rewrites { Change::ToValues(Rewriter::new(codec)) } else { Change::Nothing };
        let scan = Some(StreamScan::new(Arc::clone(&scope), place));
        Some(Stage { scan, change, messages: kind.map(Messages::new), scope })
    }

    /// Whether the body of a request with `headers` is looked at, and can be.
    pub(crate) fn looks_at_body(self: &Arc<Self>, headers: &HeaderMap) -> bool {
        let scope = self.of_body(messages::kind(headers).is_some());
        (scope.rewrites_body() || scope.forbids()) && coding(headers).is_ok()
    }

    /// The same for a body, which may be one of messages.
    fn of_body(self: &Arc<Self>, are_messages: bool) -> Arc<Self> {
        if are_messages { self.of_fixed_lengths() } else { Arc::clone(self) }
    }

    /// Whether a body gets values.
    fn rewrites_body(&self) -> bool {
        let mut pairs = self.snapshot.secrets.iter().zip(&self.stands);
        pairs.any(|(secret, stand)| secret.in_body && *stand == Stand::Allowed) || self.holds()
    }

    /// What looks at what a guest says inside a tunnel, which is nobody's to change.
    pub(crate) fn tunnel(self: &Arc<Self>) -> BodyFilter {
        BodyFilter(Kind::Plain(Stage {
            scope: Arc::clone(self),
            scan: Some(self.stream()),
            change: Change::Nothing,
            messages: None,
        }))
    }

    /// What puts placeholders into the body of a response with `headers`, which may be one of
    /// messages if the request [asked for such](messages::are_asked_for).
    ///
    /// # Errors
    /// Its encoding can't be looked into.
    pub(crate) fn response(
        self: &Arc<Self>,
        headers: &HeaderMap,
        may_be_messages: bool,
    ) -> Result<BodyFilter, Violation> {
        let kind = messages::kind(headers).filter(|_| may_be_messages);
        BodyFilter::new(headers, self.download(kind))
    }

    /// What becomes of the bytes that come back.
    pub(super) fn download(self: &Arc<Self>, kind: Option<messages::Kind>) -> Stage {
        let snapshot = Arc::clone(&self.snapshot);
        let change = match kind {
            Some(kind) => Change::Masked(Box::new(Masker::new(kind)), snapshot),
            None => Change::ToPlaceholders(Redactor::new(), snapshot),
        };
        Stage { scope: Arc::clone(self), scan: None, change, messages: None }
    }
}

impl BodyFilter {
    /// `stage` as it is; `None`: everything passes.
    pub(super) fn plain(stage: Option<Stage>) -> Self {
        Self(stage.map_or(Kind::Pass, Kind::Plain))
    }

    /// `stage` behind the decoder that a body with `headers` needs.
    fn new(headers: &HeaderMap, stage: Stage) -> Result<Self, Violation> {
        match coding(headers) {
            Ok(None) => Ok(Self(Kind::Plain(stage))),
            Ok(Some(coding)) => Ok(Self(Kind::Encoded(Encoded::new(coding, stage)))),
            Err(()) => Err(Violation::unreadable()),
        }
    }

    fn stage(&self) -> Option<&Stage> {
        match &self.0 {
            Kind::Pass => None,
            Kind::Plain(stage) => Some(stage),
            Kind::Encoded(encoded) => Some(encoded.stage()),
        }
    }

    /// Whether it lets everything pass as it is.
    pub(crate) fn is_pass(&self) -> bool {
        matches!(self.0, Kind::Pass)
    }

    /// Whether what passes may be longer or shorter than what came.
    pub(crate) fn may_change_length(&self) -> bool {
        self.stage().is_some_and(Stage::changes)
    }

    /// Whether anything was replaced so far. Where nothing is by the end, what passed may differ
    /// from what came in how it is encoded only.
    pub(crate) fn has_changed(&self) -> bool {
        self.stage().is_some_and(Stage::has_changed)
    }

    /// Whether what passes is encoded anew.
    pub(crate) fn encodes(&self) -> bool {
        matches!(&self.0, Kind::Encoded(encoded) if encoded.stage().changes())
    }

    /// Takes as many bytes off `bytes`, which came next, as are looked at in one turn. Returns what
    /// may pass now of the body.
    ///
    /// # Errors
    /// A placeholder, or what might hide one, that must not pass.
    pub(crate) fn push(&mut self, bytes: &mut Bytes) -> Result<Bytes, Violation> {
        match &mut self.0 {
            Kind::Pass => Ok(core::mem::take(bytes)),
            Kind::Plain(stage) => stage.push(bytes.split_to(bytes.len().min(TURN_BYTES_MAX))),
            Kind::Encoded(encoded) => encoded.push(bytes),
        }
    }

    /// What is left of the body, which has ended.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn finish(&mut self) -> Result<Bytes, Violation> {
        match &mut self.0 {
            Kind::Pass => Ok(Bytes::new()),
            Kind::Plain(stage) => stage.finish(),
            Kind::Encoded(encoded) => encoded.finish(),
        }
    }

    /// Looks at the trailers of a request, or changes those of a response.
    ///
    /// # Errors
    /// A placeholder that must not pass.
    pub(crate) fn trailers(
        &self,
        scope: &Arc<Scope>,
        trailers: &mut HeaderMap,
    ) -> Result<(), Violation> {
        match self.stage().map(|stage| &stage.change) {
            Some(Change::ToPlaceholders(..) | Change::Masked(..)) => {
                if self.encodes() {
                    digest::forget(trailers);
                }
                scope.redact(trailers)
            }
            Some(Change::Nothing | Change::ToValues(_)) | None => scope.trailers(trailers),
        }
    }
}

/// A body in a content encoding.
struct Encoded {
    /// Looks at what is encoded as it is: a file's name stands before it in the clear.
    outside: Option<StreamScan>,
    decoder: Decoder,
    encoded: u64,
}

enum Decoder {
    Gzip(MultiGzDecoder<Sink>),
    Deflate(ZlibDecoder<Sink>),
}

/// Where decoded bytes go.
struct Sink {
    stage: Stage,
    encoder: Option<Encoder>,
    decoded: u64,
    violation: Option<Violation>,
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.write_all(bytes),
            Self::Deflate(deflate) => deflate.write_all(bytes),
        }
    }

    /// What is there, up to the last byte that was written.
    fn take(&mut self) -> io::Result<Vec<u8>> {
        Ok(core::mem::take(match self {
            Self::Gzip(gzip) => {
                gzip.flush()?;
                gzip.get_mut()
            }
            Self::Deflate(deflate) => {
                deflate.flush()?;
                deflate.get_mut()
            }
        }))
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(gzip) => gzip.finish(),
            Self::Deflate(deflate) => deflate.finish(),
        }
    }
}

impl Sink {
    fn pass(&mut self, passed: Result<Bytes, Violation>) -> io::Result<()> {
        match passed {
            Ok(passed) => self.encoder.as_mut().map_or(Ok(()), |encoder| encoder.write(&passed)),
            Err(violation) => {
                self.violation = Some(violation);
                Err(io::Error::other("not to pass"))
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoded += bytes.len() as u64;
        let passed = self.stage.push(Bytes::copy_from_slice(bytes));
        self.pass(passed)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encoded {
    fn new(coding: Coding, stage: Stage) -> Box<Self> {
        let scope = Arc::clone(&stage.scope);
        let outside = stage.scan.is_some().then(|| StreamScan::new(scope, "body"));
        let level = Compression::fast();
        let encoder = stage.changes().then(|| match coding {
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(vec![], level)),
            Coding::Deflate => Encoder::Deflate(ZlibEncoder::new(vec![], level)),
        });
        let sink = Sink { stage, encoder, decoded: 0, violation: None };
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(MultiGzDecoder::new(sink)),
            Coding::Deflate => Decoder::Deflate(ZlibDecoder::new(sink)),
        };
        Box::new(Self { outside, decoder, encoded: 0 })
    }

    fn stage(&self) -> &Stage {
        let sink = match &self.decoder {
            Decoder::Gzip(gzip) => gzip.get_ref(),
            Decoder::Deflate(deflate) => deflate.get_ref(),
        };
        &sink.stage
    }

    fn sink(&mut self) -> &mut Sink {
        match &mut self.decoder {
            Decoder::Gzip(gzip) => gzip.get_mut(),
            Decoder::Deflate(deflate) => deflate.get_mut(),
        }
    }

    /// `done`, or what stands behind its failure.
    fn checked<T>(&mut self, done: io::Result<T>) -> Result<T, Violation> {
        done.map_err(|_| self.sink().violation.take().unwrap_or_else(Violation::unreadable))
    }

    fn push(&mut self, bytes: &mut Bytes) -> Result<Bytes, Violation> {
        let decoded_before = self.sink().decoded;
        let turn = bytes.get(..TURN_BYTES_MAX).unwrap_or(bytes);
        let mut len = 0;
        for piece in turn.chunks(PIECE_BYTES) {
            len += piece.len();
            self.decode(piece)?;
            if self.sink().decoded - decoded_before > TURN_DECODED_BYTES {
                break;
            }
        }
        let bytes = bytes.split_to(len);
        self.outside.as_mut().map_or(Ok(()), |scan| scan.push(&bytes))?;
        let taken = self.sink().encoder.as_mut().map(Encoder::take);
        match taken {
            None => Ok(bytes),
            Some(taken) => self.checked(taken).map(Bytes::from),
        }
    }

    fn decode(&mut self, piece: &[u8]) -> Result<(), Violation> {
        self.encoded += piece.len() as u64;
        let written = match &mut self.decoder {
            Decoder::Gzip(gzip) => gzip.write_all(piece).and_then(|()| gzip.flush()),
            Decoder::Deflate(deflate) => deflate.write_all(piece).and_then(|()| deflate.flush()),
        };
        self.checked(written)?;
        let limit = FREE_BYTES + self.encoded * RATIO_MAX;
        if self.sink().decoded > limit { Err(Violation::unreadable()) } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<Bytes, Violation> {
        if self.encoded == 0 {
            // No client takes nothing at all for something that is broken.
            return Ok(Bytes::new());
        }
        // What ends before its end was not looked at to its end.
        let ended = match &mut self.decoder {
            Decoder::Gzip(gzip) => gzip.try_finish(),
            Decoder::Deflate(deflate) => deflate.try_finish(),
        };
        self.checked(ended)?;
        let sink = self.sink();
        let rest = sink.stage.finish();
        let passed = sink.pass(rest);
        self.checked(passed)?;
        match self.sink().encoder.take().map(Encoder::finish) {
            None => Ok(Bytes::new()),
            Some(finished) => self.checked(finished).map(Bytes::from),
        }
    }
}
