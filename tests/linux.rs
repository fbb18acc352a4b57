//! Plays every script of `tests/conformance/` against the Linux kernel, over a TAP, on real time.
//! `tests/conformance/linux.txt` has what differs, script by script, between Linux and us: a
//! script that newly agrees, or differs elsewhere, fails. `tests/conformance/README.md` says why.
//!
//! It needs root, as `tests/real/` does. `SLUICEGATE_SCRIPT=NAME` plays the scripts of that name
//! alone, and says what was seen.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(clippy::cast_possible_truncation, reason = "tests cut small numbers of their own")]

#[path = "conformance"]
mod conformance {
    pub(crate) mod kernel;
    pub(crate) mod play;
    pub(crate) mod read;
    pub(crate) mod told;
}
#[path = "real"]
#[allow(dead_code, reason = "of tests/real/, what a namespace takes")]
mod real {
    pub(crate) mod namespace;
    pub(crate) mod needs;
    pub(crate) mod process;
    pub(crate) mod waiting;
}
pub(crate) use real::{process, waiting};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sim::frame::{OUTSIDES, flag};

use conformance::kernel::{self, KEEPALIVE_S, Kernel};
use conformance::play::{self, Fault};
use conformance::read::{self, Host, Step, What};
use conformance::told::PORTS;
use real::namespace::Namespace;
use real::needs;

/// Scripts that are played at once.
const AT_ONCE: usize = 16;
/// Who waits for more than this waits for a clock of hours: it is made a clock of seconds.
const LONG_MS: u64 = 20_000;
/// Who waits for more than this is about keepalives of ours.
const HOUR_MS: u64 = 3_600_000;
/// How often a script is played alone before what is seen is believed: a busy machine makes late.
const TRIES: usize = 3;

/// All scripts, by name.
fn scripts() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<PathBuf>>()
    };
    let rfcs = entries(&folder).into_iter().filter(|path| path.is_dir());
    let scripts = rfcs.flat_map(|rfc| entries(&rfc));
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&folder).unwrap().with_extension("");
        (name.display().to_string(), std::fs::read_to_string(&path).unwrap())
    };
    scripts.map(read).collect()
}

/// `steps` as Linux can play them: a listener answers at once, so that a SYN comes when the host
/// has decided; and an hour is a second.
fn for_linux(mut steps: Vec<Step>) -> Vec<Step> {
    for at in 0..steps.len() {
        let is_syn =
            |step: &Step| matches!(&step.what, What::Inject(told) if told.flags == flag::SYN);
        if !is_syn(&steps[at]) {
            continue;
        }
        let is_silence = |step: &&Step| matches!(step.what, What::Silence);
        let decided = at + 1 + steps[at + 1..].iter().take_while(is_silence).count();
        let decision = steps.get(decided).map(|step| &step.what);
        if matches!(decision, Some(What::Host(Host::Connects | Host::Refuses))) {
            steps[at..=decided].rotate_left(1);
        }
    }
    for step in &mut steps {
        if step.after_ms > LONG_MS {
            step.after_ms = (KEEPALIVE_S - 1) * 1000;
        }
    }
    steps
}

/// What Linux does otherwise than `text` says, in either family.
fn difference(text: &str) -> Option<Fault> {
    let steps = read::script(text).unwrap();
    let keeps_alive = steps.iter().any(|step| step.after_ms > HOUR_MS);
    let steps = for_linux(steps);
    let namespace = Namespace::new();
    namespace.inside(|| {
        let tap = kernel::link();
        let play = |outside| {
            let to = SocketAddr::new(outside, PORTS.1);
            play::script(&steps, to, Kernel::new(&tap, to, keeps_alive)).err()
        };
        let [v4, v6] = OUTSIDES.map(play);
        match (v4, v6) {
            (Some(v4), Some(v6)) if v4.what != v6.what => Some(Fault {
                what: format!("IPv4 {}, IPv6 {}", v4.what, v6.what),
                seen: format!("{}, {}", v4.seen, v6.seen),
            }),
            (Some(v4), Some(_)) => Some(v4),
            (Some(one), None) => Some(Fault { what: format!("IPv4 {}", one.what), ..one }),
            (None, Some(one)) => Some(Fault { what: format!("IPv6 {}", one.what), ..one }),
            (None, None) => None,
        }
    })
}

/// The differences that are known, by script.
fn known() -> BTreeMap<String, String> {
    let text = include_str!("conformance/linux.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").unwrap()).map(|(a, b)| (a.into(), b.into())).collect()
}

/// `act` of each of `names`, side by side.
fn side_by_side(names: Vec<&String>, act: impl Fn(&str) + Sync) {
    let names = Mutex::new(names);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(name) = { names.lock().unwrap().pop() } {
                    act(name);
                }
            });
        }
    });
}

/// What is not as the table has it, if `name` is played.
fn surprise(name: &str, text: &str, known: Option<&String>) -> Option<String> {
    let fault = difference(text);
    let found = fault.as_ref().map(|fault| &fault.what);
    if std::env::var_os("SLUICEGATE_SCRIPT").is_some() {
        eprintln!("{name}: {}", fault.as_ref().map_or("agrees".into(), Fault::to_string));
    }
    (found != known).then(|| {
        let known = known.map_or("agree", |known| known);
        let found = fault.map_or("they agree".into(), |fault| fault.to_string());
        format!("{name}: should {known}; now {found}")
    })
}

#[test]
fn linux_differs_from_us_where_the_table_says_and_nowhere_else() {
    if !needs::are_met(&[]) {
        return;
    }
    let (scripts, known) = (scripts(), known());
    let wanted = std::env::var("SLUICEGATE_SCRIPT").unwrap_or_default();
    let played = scripts.keys().filter(|name| name.contains(&wanted)).collect();
    let again = Mutex::new(vec![]);
    side_by_side(played, |name| {
        if surprise(name, &scripts[name], known.get(name)).is_some() {
            again.lock().unwrap().push(name.to_owned());
        }
    });
    let surprises = again.into_inner().unwrap().into_iter().filter_map(|name| {
        let play = || surprise(&name, &scripts[&name], known.get(&name));
        (1..TRIES).try_fold(play()?, |_, _| play())
    });
    let mut surprises: Vec<_> = surprises.collect();
    surprises.extend(known.keys().filter(|name| !scripts.contains_key(*name)).cloned());
    assert!(surprises.is_empty(), "\n{}\n", surprises.join("\n"));
}
