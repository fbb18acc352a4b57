//! `sluicegate top`: the flows of a network that runs elsewhere, as they are now, with their rates.
//! Owns the screen and what is on it; what is asked is `ctl.rs`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use console::{Key, Term, truncate_str};

use super::ctl;
use super::failure::{Failure, complain};

/// Show the flows of a network as they are, the busiest first
///
/// The network is one that was started with `--control PATH`. `q` ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate top --control /tmp/net.ctl
  sluicegate top --control /tmp/net.ctl --every 5
  watch -n 1 sluicegate ctl --control /tmp/net.ctl flows        # the same without rates")]
pub(crate) struct TopArgs {
    /// The control socket of the network
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_CONTROL")]
    control: PathBuf,
    /// Seconds between two looks
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Shows it until somebody wants no more.
pub(crate) fn run(args: &TopArgs) -> ExitCode {
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(failure.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn show(args: &TopArgs) -> Result<(), Failure> {
    let term = Term::stdout();
    if !term.is_term() {
        return Err("top needs a terminal; `sluicegate ctl flows` is for pipes".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut before = Before::default();
    // What can't be asked at all is said on the screen that the user has.
    let mut flows = runtime.block_on(ctl::flows(&args.control))?;
    let screen = Screen::enter(&term)?;
    let keys = keys(&term);
    loop {
        let lines = before.lines(&flows, now());
        screen.draw(&lines)?;
        match keys.recv_timeout(Duration::from_secs(args.every)) {
            Ok(Key::Char('q' | 'Q') | Key::Escape | Key::CtrlC)
            | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
        }
        flows = runtime.block_on(ctl::flows(&args.control))?;
    }
}

/// What is typed, as it is typed.
fn keys(term: &Term) -> Receiver<Key> {
    let (tell, keys) = channel();
    let term = term.clone();
    // It waits for a key when nobody wants one any more, and ends with the process.
    std::thread::spawn(move || {
        while let Ok(key) = term.read_key_raw() {
            if tell.send(key).is_err() {
                return;
            }
        }
    });
    keys
}

/// A screen of its own, which goes with the value.
struct Screen<'t>(&'t Term);

impl<'t> Screen<'t> {
    fn enter(term: &'t Term) -> io::Result<Self> {
        (&mut &*term).write_all(b"\x1b[?1049h")?;
        term.hide_cursor()?;
        Ok(Self(term))
    }

    fn draw(&self, lines: &[String]) -> io::Result<()> {
        let (rows, columns) = self.0.size();
        self.0.move_cursor_to(0, 0)?;
        for line in lines.iter().take(usize::from(rows).saturating_sub(1)) {
            self.0.clear_line()?;
            self.0.write_line(&truncate_str(line, columns.into(), "…"))?;
        }
        self.0.clear_to_end_of_screen()
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no tidying.
        let _ = self.0.show_cursor();
        let _ = (&mut &*self.0).write_all(b"\x1b[?1049l");
    }
}

/// What the flows had moved at the last look, and when that was.
#[derive(Default)]
struct Before {
    moved: HashMap<u64, [u64; 2]>,
    at: Option<Instant>,
}

impl Before {
    /// The screen of `flows`: a line about all of them, and a table, the busiest first.
    fn lines(&mut self, flows: &ctl::Flows, now: Instant) -> Vec<String> {
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        let rate = |id: u64, moved: [u64; 2]| {
            let before = self.moved.get(&id).copied().unwrap_or(moved);
            let over = passed.filter(|passed| !passed.is_zero());
            [0, 1].map(|way| {
                let bytes = moved[way].saturating_sub(before[way]);
                over.map_or(0, |over| {
                    let per_s = u128::from(bytes) * 1_000_000 / over.as_micros().max(1);
                    u64::try_from(per_s).unwrap_or(u64::MAX)
                })
            })
        };
        let mut rated: Vec<_> = flows.iter().map(|(id, moved)| (id, rate(id, moved))).collect();
        rated.sort_by_key(|(_, [up, down])| core::cmp::Reverse(up.saturating_add(*down)));
        let lines = ctl::rated(flows, &rated);
        self.moved = flows.iter().collect();
        self.at = Some(now);
        lines
    }
}

#[expect(clippy::disallowed_methods, reason = "rates are by the clock on the wall")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(up: u64) -> ctl::Flows {
        let flow = |id: u64, up: u64| {
            format!(
                r#"{{"id": {id}, "protocol": "tcp", "direction": "egress", "name": null,
                "guest": "100.96.0.2:1", "peer": "1.1.1.{id}:443", "state": "open",
                "by": "default", "rule": null, "age_ms": 1, "from_guest_bytes": {up},
                "to_guest_bytes": 0}}"#
            )
        };
        let json = format!(r#"{{"flows": [{}, {}]}}"#, flow(1, 5), flow(2, up));
        ctl::Flows::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_busiest_is_first_and_rates_are_by_the_time_between_two_looks() {
        let mut before = Before::default();
        let began = now();
        let first = before.lines(&flows(0), began);
        assert!(first[0].contains("2 flows") && first[0].contains("0 B/s up"), "{first:?}");
        let second = before.lines(&flows(4096), began + Duration::from_secs(2));
        assert!(second[0].contains("2.00 KiB/s up, 0 B/s down"), "{second:?}");
        let places: Vec<_> = ["1.1.1.2:443", "1.1.1.1:443"]
            .map(|peer| second.iter().position(|l| l.contains(peer)))
            .into();
        assert!(places[0] < places[1] && places[0].is_some(), "{second:?}");
    }
}
