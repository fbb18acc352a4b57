//! `ctl capture`: the capture of a network into a file, or into two by turns.

use core::ops::Range;
use std::fs::File;

use std::io::{self, Write};
use std::path::Path;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;

use crate::cli::failure::Failure;

/// Writes `frames` to `file` as they come; with `size_max` to two files of half as many bytes.
pub(super) async fn write(
    frames: Response<Incoming>,
    file: &Path,
    size_max: Option<u64>,
) -> Result<(), Failure> {
    let mut record = Record::open(file, size_max)?;
    let mut body = frames.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        record.add(&piece).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
    }
    Ok(())
}

struct Record<'p> {
    path: &'p Path,
    out: Box<dyn Write>,
    /// Bytes of one file; `None`: as many as there are.
    file_bytes_max: Option<u64>,
    written: u64,
    splitter: Splitter,
}

impl<'p> Record<'p> {
    fn open(path: &'p Path, size_max: Option<u64>) -> Result<Self, Failure> {
        let is_output = path.as_os_str() == "-";
        if is_output && size_max.is_some() {
            return Err("--size-max: the standard output can't begin anew".into());
        }
        let out: Box<dyn Write> =
            if is_output { Box::new(io::stdout()) } else { Box::new(create(path)?) };
        let file_bytes_max = size_max.map(|size| size / 2);
        Ok(Self { path, out, file_bytes_max, written: 0, splitter: Splitter::default() })
    }

    /// Adds `piece`, of whole blocks or not; what is not whole waits.
    fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(max) = self.file_bytes_max else {
            self.out.write_all(piece)?;
            return self.out.flush();
        };
        self.splitter.bytes.extend_from_slice(piece);
        while let Some(block) = self.splitter.next() {
            let len = block.len() as u64;
            if self.written > 0 && self.written + len > max {
                self.begin_anew()?;
            }
            self.out.write_all(self.splitter.bytes.get(block).unwrap_or(&[]))?;
            self.written += len;
        }
        self.splitter.forget();
        self.out.flush()
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        let mut before = self.path.as_os_str().to_owned();
        before.push(".1");
        std::fs::rename(self.path, before)?;
        self.out = Box::new(File::create(self.path)?);
        self.out.write_all(&self.splitter.head)?;
        self.written = self.splitter.head.len() as u64;
        Ok(())
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    Ok(File::create(path).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Finds blocks in bytes: a type and a length, in the order of this program's own captures.
#[derive(Default)]
struct Splitter {
    bytes: Vec<u8>,
    /// Bytes of it that were handed out.
    at: usize,
    /// The blocks that any capture begins with: all before the first packet.
    head: Vec<u8>,
    has_packets: bool,
}

/// Bytes of the shortest block: its type, and its length twice.
const BLOCK_BYTES_MIN: usize = 12;
/// The type of a block with a packet (Enhanced Packet Block).
const PACKET: u32 = 6;

impl Splitter {
    /// Where the next whole block is.
    fn next(&mut self) -> Option<Range<usize>> {
        let rest = self.bytes.get(self.at..)?;
        let (kind, after) = rest.split_first_chunk::<4>()?;
        let (len, _) = after.split_first_chunk::<4>()?;
        let (kind, len) = (u32::from_le_bytes(*kind), u32::from_le_bytes(*len) as usize);
        let block = rest.get(..len).filter(|block| block.len() >= BLOCK_BYTES_MIN)?;
        self.has_packets |= kind == PACKET;
        if !self.has_packets {
            self.head.extend_from_slice(block);
        }
        self.at += len;
        Some(self.at - len..self.at)
    }

    /// Forgets what was handed out.
    fn forget(&mut self) {
        self.bytes.drain(..core::mem::take(&mut self.at));
    }
}
