//! Captures as files have them: pcap and pcapng, of Ethernet.

use std::io::Read;

use pcap_parser::{Linktype, PcapBlockOwned, PcapError, create_reader};

/// Bytes of the longest block that is read at once.
const BLOCK_BYTES_MAX: usize = 512 * 1024;
/// Frames of the longest capture, and bytes of all of them.
const FRAMES_MAX: usize = 1_000_000;
const BYTES_MAX: usize = 1 << 30;

/// A captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Microseconds since the first frame.
    pub micros: u64,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Why a capture can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// It is neither pcap nor pcapng, or is broken, or cut.
    #[error("no whole capture (pcap or pcapng): {0}")]
    Broken(String),
    /// Its frames are not Ethernet.
    #[error("a capture of link type {0}; only Ethernet (1) is known here")]
    LinkType(i32),
    /// A frame in it was cut when it was captured.
    #[error("frame {0} was cut when it was captured; capture whole frames (tcpdump -s 0)")]
    Cut(usize),
    /// It has more than a million frames, or a GiB of them.
    #[error("a capture of more than a million frames, or a GiB of them")]
    TooLong,
}

/// Reads a capture.
///
/// # Errors
/// What is wrong with it.
pub fn read(file: impl Read + Send) -> Result<Vec<Captured>, CaptureError> {
    let mut reader = create_reader(BLOCK_BYTES_MAX, file).map_err(|error| broken(&error))?;
    let mut read = Frames::default();
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                let taken = read.take(&block);
                reader.consume(offset);
                taken?;
            }
            Err(PcapError::Eof) => return Ok(read.frames),
            Err(PcapError::Incomplete(_)) => {
                let had = reader.data().len();
                reader.refill().map_err(|error| broken(&error))?;
                // A block that is longer than the buffer never gets whole, either.
                if reader.data().len() == had {
                    let early = CaptureError::Broken("it ends early".to_owned());
                    return if had == 0 { Ok(read.frames) } else { Err(early) };
                }
            }
            Err(error) => return Err(broken(&error)),
        }
    }
}

/// What `error` says, without the bytes that it is about.
fn broken(error: &PcapError<&[u8]>) -> CaptureError {
    let why = match error {
        PcapError::Eof | PcapError::UnexpectedEof | PcapError::Incomplete(_) => "it ends early",
        PcapError::ReadError => "reading it failed",
        PcapError::HeaderNotRecognized => "it does not begin as one",
        PcapError::BufferTooSmall | PcapError::NomError(..) | PcapError::OwnedNomError(..) => {
            "it has a block that is none"
        }
    };
    CaptureError::Broken(why.to_owned())
}

#[derive(Default)]
struct Frames {
    frames: Vec<Captured>,
    bytes: usize,
    first: Option<u64>,
    /// Units of a second of each interface, as powers of ten; pcapng only.
    units: Vec<u64>,
    is_nanos: bool,
}

impl Frames {
    fn take(&mut self, block: &PcapBlockOwned<'_>) -> Result<(), CaptureError> {
        use pcap_parser::Block;
        let ethernet = |link: Linktype| match link {
            Linktype::ETHERNET => Ok(()),
            other => Err(CaptureError::LinkType(other.0)),
        };
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.is_nanos = header.is_nanosecond_precision();
                ethernet(header.network)
            }
            PcapBlockOwned::Legacy(frame) => {
                let part = u64::from(frame.ts_usec) / if self.is_nanos { 1000 } else { 1 };
                let micros = u64::from(frame.ts_sec) * 1_000_000 + part;
                let len = usize::try_from(frame.caplen).unwrap_or(0);
                self.push(micros, frame.data.get(..len).unwrap_or(frame.data), frame.origlen)
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.units.clear();
                Ok(())
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                self.units.push(interface.ts_resolution().unwrap_or(1_000_000));
                ethernet(interface.linktype)
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                let interface = usize::try_from(frame.if_id).unwrap_or(usize::MAX);
                let units = self.units.get(interface).copied().unwrap_or(1_000_000).max(1);
                let time = u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low);
                let micros = u128::from(time) * 1_000_000 / u128::from(units);
                let len = usize::try_from(frame.caplen).unwrap_or(0);
                let data = frame.data.get(..len).unwrap_or(frame.data);
                self.push(u64::try_from(micros).unwrap_or(u64::MAX), data, frame.origlen)
            }
            // Names, statistics and what is unknown.
            PcapBlockOwned::NG(_) => Ok(()),
        }
    }

    fn push(&mut self, micros: u64, data: &[u8], len: u32) -> Result<(), CaptureError> {
        if usize::try_from(len).is_ok_and(|len| len > data.len()) {
            return Err(CaptureError::Cut(self.frames.len() + 1));
        }
        self.bytes = self.bytes.saturating_add(data.len());
        if self.frames.len() >= FRAMES_MAX || self.bytes > BYTES_MAX {
            return Err(CaptureError::TooLong);
        }
        let first = *self.first.get_or_insert(micros);
        let micros = micros.saturating_sub(first);
        self.frames.push(Captured { micros, bytes: data.to_vec() });
        Ok(())
    }
}
