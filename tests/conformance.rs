//! Runs every script of `tests/conformance/` over IPv4 and over IPv6, on virtual time, and prints
//! the score. `tests/conformance/README.md` says what a script looks like and which clause each is
//! about.
//!
//! `cargo test -p sluicegate-tests --test conformance [PART OF A NAME]`.

#![allow(clippy::cast_possible_truncation, reason = "tests cut small numbers of their own")]

mod conformance {
    pub(crate) mod play;
    pub(crate) mod read;
    pub(crate) mod simulated;
    pub(crate) mod told;
}

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sim::Room;
use sim::frame::OUTSIDES;

use conformance::simulated::Simulated;
use conformance::{play, read, told};

/// All scripts under `folder`, in order.
fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("because the folder is there");
        for path in entries.map(|entry| entry.expect("because it was just listed").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "script") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Plays `steps` with the engine, in the family of `outside`.
fn play(steps: &[read::Step], outside: IpAddr) -> Result<(), play::Fault> {
    let to = SocketAddr::new(outside, told::PORTS.1);
    let mut room = Room::plain();
    play::script(steps, to, Simulated::new(room.world()))
}

/// What is wrong when `text` is played, in either family.
fn fault(text: &str) -> Option<String> {
    let steps = match read::script(text) {
        Ok(steps) => steps,
        Err(wrong) => return Some(wrong),
    };
    OUTSIDES.iter().find_map(|&outside| {
        let family = if outside.is_ipv4() { "IPv4" } else { "IPv6" };
        match std::panic::catch_unwind(AssertUnwindSafe(|| play(&steps, outside))) {
            Ok(Ok(())) => None,
            Ok(Err(wrong)) => Some(format!("{family}, {wrong}")),
            Err(_) => Some(format!("{family}, a rule of the simulation is broken")),
        }
    })
}

/// Scripts that must not pass: the runner sees what is wrong.
const FALSE: [&str; 8] = [
    "+0 < S 0:0(0) win 9\n+0 host connects\n",
    "+0 < S 0:0(0) win 9\n+0 > S. 0:0(0) ack 1\n",
    "+0 < S 0:0(0) win 9\n+0 host connects\n+0 > S. 0:0(0) ack 2\n",
    "+0 < S 0:0(0) win 9\n+0 host connects\n+0 > R. 0:0(0) ack 1\n",
    "+0 < S 0:0(0) win 9\n+0 host connects\n+0 > S. 0:0(0) ack 1 <sackOK>\n",
    "+0 < S 0:0(0) win 9\n+0 host connects\n+0.1 > S. 0:0(0) ack 1\n",
    "+0 < S 0:0(0) win 9\n+0 host was reset\n",
    "+0 < S 0:0(1) win 9\n",
];

fn main() -> ExitCode {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let (mut passed, mut played) = (0, 0);
    for path in scripts(&folder) {
        let name = path.strip_prefix(&folder).unwrap_or(&path).with_extension("");
        let name = name.display().to_string();
        if !name.contains(&wanted) {
            continue;
        }
        played += 1;
        let text = std::fs::read_to_string(&path).expect("because a script is text");
        match fault(&text) {
            None => passed += 1,
            Some(wrong) => println!("{name}: {wrong}"),
        }
    }
    let unseen = FALSE.iter().filter(|text| fault(text).is_none());
    let unseen: Vec<_> = unseen.inspect(|text| println!("passes, and must not:\n{text}")).collect();
    println!("conformance: {passed} of {played} scripts pass, each over IPv4 and IPv6");
    if passed == played && unseen.is_empty() && (played > 0 || !wanted.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
