//! `sluicegate replay`: what the engine does with the frames of a capture.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sluicegate_host::config::PolicyConfig;
use sluicegate_host::replay::{Manner, Replay, Told, read};
use sluicegate_host::{NetworkConfig, Permission};

use super::config_file;
use super::failure::{self, Failure, warn};
use super::sandbox;

/// Lines of what is right that are shown before the first that is not.
const CONTEXT_LINES: usize = 3;

/// Show what the engine does with the frames of a capture
///
/// The frames are taken for those of the guest in slot 0 (02:6d:73:00:00:02, 100.96.0.2 and
/// fd42:6d73:62::2, unless --config says otherwise), at the times they have. A line each: a frame
/// of the guest (>), and indented below it what the host would be asked to do, frames for the guest
/// (<), and why the frame was dropped, if it was. Nothing leaves this process, and the same capture
/// always gives the same text.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0; with --expect 1 if the text is another; 2 if the capture can't be read.

Examples:
  sluicegate replay fixtures/tcp/syn-with-data.pcap
  sluicegate replay guest.pcapng --outside echo --write answers.pcap
  sluicegate replay crash.pcap --config network.json
  sluicegate replay fixtures/udp/short.pcap --expect fixtures/udp/short.expect")]
pub(crate) struct ReplayArgs {
    /// The capture: pcap or pcapng, of Ethernet, with whole frames
    file: PathBuf,
    /// How the outside behaves
    #[arg(long, value_name = "MANNER", default_value = "accept")]
    outside: OutsideName,
    /// The network's configuration [default: all is allowed]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare with this text instead of printing
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write the frames for the guest to this file (pcap)
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// How the outside behaves, on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum OutsideName {
    /// Accepts every connection, hears everything, says nothing
    Accept,
    /// Accepts, and says back what it hears
    Echo,
    /// Accepts, and ends at once
    End,
    /// Refuses connections and datagrams
    Refuse,
    /// Does not answer
    Silent,
}

impl From<OutsideName> for Manner {
    fn from(name: OutsideName) -> Self {
        match name {
            OutsideName::Accept => Self::Accept,
            OutsideName::Echo => Self::Echo,
            OutsideName::End => Self::End,
            OutsideName::Refuse => Self::Refuse,
            OutsideName::Silent => Self::Silent,
        }
    }
}

/// Replays the capture.
pub(crate) fn run(args: &ReplayArgs) -> ExitCode {
    match replay(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => failure::exit_code_of(failure.as_ref(), 2),
    }
}

fn replay(args: &ReplayArgs) -> Result<bool, Failure> {
    let named = |path: &Path, error: &dyn Display| format!("{}: {error}", path.display());
    let file = File::open(&args.file).map_err(|error| named(&args.file, &error))?;
    let to = args.write.as_deref().map(|path| {
        // What was there stays until there is something to take its place.
        let file = File::options().write(true).create(true).truncate(false).open(path);
        file.map_err(|error| named(path, &error))
    });
    let to = to.transpose()?;
    // A capture may be anybody's.
    if let Err(failure) = sandbox::enter(&[]) {
        warn(&format!("giving up privileges: {failure}; it goes on with them"));
    }
    let capture = read(file).map_err(|error| named(&args.file, &error))?;
    let config = match &args.config {
        Some(path) => config_file::read(Some(path))?.1,
        None => {
            let mut open = NetworkConfig::default();
            open.policy = PolicyConfig::without_rules(Permission::Allow, Permission::Allow);
            open
        }
    };
    let replay = Replay { config, manner: args.outside.into() };
    let mut text = String::new();
    let mut frames = vec![];
    replay.run(&capture, |told| match told {
        Told::Line(line) => {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{line}");
        }
        Told::Frame { micros, bytes } => frames.push((micros, bytes.to_vec())),
    })?;
    if let Some(file) = to {
        file.set_len(0)?;
        write_pcap(BufWriter::new(file), &frames)?;
    }
    match &args.expect {
        Some(path) => {
            let expected = std::fs::read_to_string(path).map_err(|error| named(path, &error))?;
            compare(&expected, &text)
        }
        None => {
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(true)
        }
    }
}

/// Whether `text` is what was `expected` (lines that begin with `#` are nobody's); shows where it
/// is not.
fn compare(expected: &str, text: &str) -> Result<bool, Failure> {
    let expected: Vec<&str> = expected.lines().filter(|line| !line.starts_with('#')).collect();
    let text: Vec<&str> = text.lines().collect();
    let Some(at) =
        (0..expected.len().max(text.len())).find(|at| expected.get(*at) != text.get(*at))
    else {
        return Ok(true);
    };
    let mut out = std::io::stdout().lock();
    for line in text.iter().take(at).skip(at.saturating_sub(CONTEXT_LINES)) {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "- {}", expected.get(at).copied().unwrap_or("(the end)"))?;
    writeln!(out, "+ {}", text.get(at).copied().unwrap_or("(the end)"))?;
    Ok(false)
}

/// Writes `frames` as a capture: libpcap's classic format, in microseconds, of Ethernet.
fn write_pcap(mut out: impl Write, frames: &[(u64, Vec<u8>)]) -> Result<(), Failure> {
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0x0004_0000, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    for (micros, frame) in frames {
        let len = u32::try_from(frame.len())?;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        for word in [u32::try_from(seconds)?, u32::try_from(micros)?, len, len] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(frame)?;
    }
    Ok(out.flush()?)
}
