//! What the sources promise about themselves: their order, their size, their words. Reads them.
//!
//! Clippy and rustfmt know functions and expressions; this knows files and floors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines of a file, its tests left out.
const LINES_MAX: usize = 500;
/// Characters of a line, its newline left out.
const COLUMNS_MAX: usize = 100;

/// The floors of the core, lowest first. A file uses lower floors, or its own folder. (`addr`
/// stands on the contract, whose errors its parsers return.)
const CORE: &[&[&str]] = &[
    &["limits"],
    &["contract"],
    &["addr"],
    &["wire"],
    &["store"],
    &["rule"],
    &["stack"],
    &["engine"],
];

/// The floors of the host. `lib` and `main` stand above all.
const HOST: &[&[&str]] = &[
    &["error", "clock", "wake", "rings", "netns", "events", "termination", "histogram"],
    &["metrics", "memory", "capture"],
    &["config", "open_metrics"],
    &["outbound"],
    &["service", "snapshot"],
    &["intercept"],
    &["flow"],
    &["adapter"],
    &["control"],
    &["driver", "replay"],
    &["network"],
    &["fuzz"],
    &["cli"],
];

/// Where `unsafe` may stand: the ring, and the edges to the system.
const UNSAFE: &[&str] = &[
    "core/src/store/ring",
    "core/examples/firmware/",
    "host/src/adapter/",
    "host/src/cli/sandbox.rs",
    "host/src/cli/serve.rs",
    "host/src/cli/signals.rs",
    "host/src/cli/vm/probe.rs",
    "host/src/memory.rs",
    "tests/allocation.rs",
    "tests/real/krun/tests/allocation.rs",
];

/// The classes of faults that others had: none of them goes without somebody who looks here.
const CLASSES: &[&str] = &[
    "reassembly writes or reads out of bounds",
    "helpers for single protocols rewrite payloads",
    "a header is read before its length is checked",
    "urgent pointers",
    "a control interface that anybody reaches",
    "a frame of any length is believed",
    "numbers that can be guessed",
    "blind resets",
    "a panic ends the VMM",
    "sockets leak by many short flows",
    "a lost wake, a flow that is stuck",
    "one network starves or ends its neighbours",
    "a network that is off lets out",
    "metadata and loopback are reached",
    "policy fails open",
    "names are a way out",
    "a server name late in a long hello is not seen",
    "a secret gets out, or its placeholder silently through",
    "a request passes as something else",
    "streams that nobody reads fill memory",
    "authorities: stale, not yet valid, replaced",
    "a tenant passes for another, or its configuration counts there",
];

/// Workspaces beside the one at the root, each with a lock file of its own.
const WORKSPACES: &[&str] = &[
    "fuzz",
    "core/examples/firmware",
    "tests/real/grpc",
    "tests/real/http2",
    "tests/real/quic",
    "tests/real/krun/upstream",
];

/// Where a test may sleep, since it waits for what has no event.
const SLEEPS: &[&str] = &["tests/real/"];

/// Where a line of log would be one for a packet: there is none but at TRACE.
const PER_PACKET: &[&str] = &[
    "core/src/",
    "host/src/adapter/krun.rs",
    "host/src/adapter/tap.rs",
    "host/src/adapter/vnet.rs",
    "host/src/capture.rs",
    "host/src/driver.rs",
    "host/src/flow/datagram.rs",
    "host/src/flow/relay.rs",
    "host/src/flow/row.rs",
    "host/src/flow/tcp.rs",
    "host/src/memory.rs",
    "host/src/metrics.rs",
    "host/src/rings.rs",
];

/// What a line of log may have above DEBUG beside its words: no name of anybody's, and no address.
/// Those are for who asked for events.
const LOGGED: &[&str] = &["count", "error", "fields", "guest_port", "length", "path", "reach"];

/// Where a socket that leads outside is opened, so that it leaves from where it was said; and where
/// others are: those that listen, and the kernel's own.
const OPENERS: &[&str] = &[
    "host/src/adapter/",
    "host/src/outbound.rs",
    "host/src/flow/ports.rs",
    "host/src/service/addresses.rs",
];

/// Parts of names that say nothing.
const EMPTY_WORDS: &[&str] = &["Manager", "Handler", "Util", "Shared", "Context"];

/// A source file: its path from the root of the workspace, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines outside the file's own tests.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("\n#[cfg(test)]\nmod tests").unwrap_or(self.text.len());
        let end = self.text.find("\n#[cfg(all(test").map_or(end, |at| at.min(end));
        (1..).zip(self.text.get(..end).unwrap_or("").lines())
    }

    /// The same, without comments and without what is in quotes.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, strip(line)))
    }
}

/// `line` without its comment and its strings.
fn strip(line: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => drop(characters.next()),
            '"' => quoted = !quoted,
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => out.push(character),
        }
    }
    out
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("because the package is in the workspace").to_path_buf()
}

/// All sources under `folder`, in order.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("because the folder is there").path()) {
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("because a source is UTF-8");
                let path = path.strip_prefix(root()).expect("because it is under the root");
                found.push(Source { path: path.display().to_string(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty() || folder != "core/src", "the core has sources");
    found
}

fn all() -> Vec<Source> {
    ["core", "host", "tests", "fuzz"].iter().flat_map(|folder| sources(folder)).collect()
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The names that follow `crate::` in `text`, also those of a group in braces.
fn crate_names(text: &str) -> BTreeSet<String> {
    let name = |from: &str| -> String {
        from.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut starts = true;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => starts = true,
                _ if character.is_whitespace() => {}
                _ if starts => {
                    names.insert(name(&group[at..]));
                    starts = false;
                }
                _ => {}
            }
        }
    }
    names.remove("");
    names
}

/// What is wrong with the floors of the crate in `folder`.
fn misplaced(folder: &str, floors: &[&[&str]]) -> Vec<String> {
    let floor = |name: &str| floors.iter().position(|floor| floor.contains(&name));
    let mut wrong = vec![];
    for source in sources(folder) {
        let inside = source.path.strip_prefix(folder).unwrap_or("").trim_start_matches('/');
        let own = inside.split(['/', '.']).next().unwrap_or("");
        if ["lib", "main"].contains(&own) {
            continue;
        }
        let Some(height) = floor(own) else {
            wrong.push(format!("{}: on no floor", source.path));
            continue;
        };
        let code: Vec<String> = source.code().map(|(_, line)| line).collect();
        for name in crate_names(&code.join("\n")) {
            let is_lower = floor(&name).is_some_and(|lower| lower < height);
            if name != own && !is_lower {
                wrong.push(format!("{}: uses `{name}`, which is not below it", source.path));
            }
        }
    }
    wrong
}

#[test]
fn every_import_of_the_core_points_down() {
    assert_none(&misplaced("core/src", CORE));
}

#[test]
fn every_import_of_the_host_points_down() {
    assert_none(&misplaced("host/src", HOST));
}

#[test]
fn no_file_is_long_and_no_line_is_wide() {
    let mut wrong = vec![];
    for source in all() {
        let lines = source.lines().count();
        let is_test = source.path.split('/').any(|folder| folder == "tests");
        if lines > LINES_MAX && !is_test {
            wrong.push(format!("{}: {lines} lines", source.path));
        }
        for (number, line) in (1..).zip(source.text.lines()) {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                wrong.push(format!("{}:{number}: {columns} columns", source.path));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_file_says_first_what_it_is() {
    let silent = |source: &Source| {
        let mut lines = source.text.lines().filter(|line| !line.starts_with("#![no_std]"));
        let first = lines.next().unwrap_or("");
        !first.starts_with("//!") && !first.starts_with("#![doc") && !first.starts_with("#![no_")
    };
    let wrong: Vec<_> = all().into_iter().filter(silent).map(|source| source.path).collect();
    assert_none(&wrong);
}

#[test]
fn unsafe_stands_where_it_may_and_says_why_it_is_sound() {
    let mut wrong = vec![];
    let sources = all();
    for source in &sources {
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = strip(line);
            let is_unsafe =
                code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if !is_unsafe {
                continue;
            }
            let place = format!("{}:{}", source.path, index + 1);
            if !UNSAFE.iter().any(|allowed| source.path.starts_with(allowed)) {
                wrong.push(format!("{place}: unsafe has no place here"));
            }
            // A declaration says what its callers owe; whoever relies on that says why it holds.
            let before = lines.get(index.saturating_sub(8)..=index).unwrap_or(&[]);
            let reasons = ["SAFETY:", "# Safety"];
            let declares = code.contains("unsafe fn")
                && ["tests/allocation.rs", "core/examples/firmware/src/board.rs"]
                    .contains(&source.path.as_str());
            let says = |line: &&str| reasons.iter().any(|reason| line.contains(reason));
            if !declares && !before.iter().any(says) {
                wrong.push(format!("{place}: unsafe without a SAFETY comment"));
            }
        }
    }
    let has = |allowed: &&&str| {
        let is_unsafe = |line: &str| {
            let code = strip(line);
            code.contains("unsafe ") || code.contains("unsafe(")
        };
        let mut below = sources.iter().filter(|source| source.path.starts_with(**allowed));
        below.any(|source| source.text.lines().any(is_unsafe))
    };
    wrong.extend(
        UNSAFE
            .iter()
            .filter(|allowed| !has(allowed))
            .map(|allowed| format!("{allowed}: unsafe may stand here, and none does")),
    );
    assert_none(&wrong);
}

#[test]
fn names_say_something() {
    let mut wrong = vec![];
    // Tests may implement a foreign trait.
    for source in ["core/src", "host"].iter().flat_map(|folder| sources(folder)) {
        for (number, line) in source.code() {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            for pair in words.windows(2) {
                let &[keyword, name] = pair else { continue };
                let names = ["struct", "enum", "trait", "type", "union"].contains(&keyword);
                let is_empty = names && EMPTY_WORDS.iter().any(|word| name.contains(word));
                let gets = keyword == "fn" && name.starts_with("get_");
                if is_empty || gets {
                    wrong.push(format!("{}:{number}: `{name}`", source.path));
                }
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn nothing_is_left_for_later() {
    let mut wrong = vec![];
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    for source in all() {
        for (number, line) in (1..).zip(source.text.lines()) {
            if marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_test_that_is_named_for_a_fault_of_others_exists() {
    let root = root();
    let table = std::fs::read_to_string(root.join("tests/README.md")).expect("it is there");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let sources: String = all().iter().map(|source| source.text.as_str()).collect();
    let mut wrong = vec![];
    let mut named = 0;
    let mut classes = vec![];
    let end = table.find("\n# What is simulated").expect("because it is there");
    for row in table[..end].lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        classes.push(cells[1]);
        if !cells[3].contains('`') {
            wrong.push(format!("tests/README.md names no test for: {}", cells[1]));
        }
    }
    assert_eq!(classes, CLASSES);
    for cell in rows.filter_map(|row| row.split('|').nth(3)) {
        for name in cell.split('`').skip(1).step_by(2) {
            named += 1;
            let is_there = if name.contains('/') {
                root.join("fixtures").join(name).with_extension("expect").exists()
            } else {
                sources.contains(&format!("fn {name}()"))
            };
            if !is_there {
                wrong.push(format!("tests/README.md names {name}"));
            }
        }
    }
    assert!(named > 40, "{named} tests are named");
    assert_none(&wrong);
}

#[test]
fn the_table_of_clauses_names_what_exists_and_adds_up() {
    let root = root();
    let folder = root.join("tests/conformance");
    let table = std::fs::read_to_string(folder.join("README.md")).expect("it is there");
    let sources: String = all().iter().map(|source| source.text.as_str()).collect();
    let mut wrong = vec![];
    let mut named = BTreeSet::new();
    let states = ["pass", "not applicable", "not done"];
    let mut counts = [0; 3];
    let (mut section, mut sections) = ("", BTreeMap::<&str, [u32; 3]>::new());
    for row in table.lines().filter(|line| !line.starts_with("|--")) {
        section = row.strip_prefix("## ").unwrap_or(section);
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let &[_, clause, _, state, shown, _] = &cells[..] else { continue };
        // The other table's rows are of scripts.
        if state == "state" || clause.starts_with('`') || clause == "script" {
            continue;
        }
        let Some(index) = states.iter().position(|known| *known == state) else {
            wrong.push(format!("{clause} is {state}"));
            continue;
        };
        counts[index] += 1;
        sections.entry(section).or_default()[index] += 1;
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        let says = if state == "pass" { !names.is_empty() } else { !shown.is_empty() };
        if !says {
            wrong.push(format!("{clause} says nothing that shows it"));
        }
        for name in names {
            named.insert(name);
            let is_there = if name.contains('/') {
                let files = [folder.join(name), root.join("fixtures").join(name)];
                files[0].with_extension("script").exists()
                    || files[1].with_extension("expect").exists()
            } else {
                sources.contains(&format!("fn {name}()"))
            };
            if !is_there {
                wrong.push(format!("{clause} names {name}"));
            }
        }
    }
    let [passed, foreign, open] = counts;
    let sum = format!(
        "Of {} clauses {passed} pass, {foreign} are not applicable and {open} are not done.",
        passed + foreign + open
    );
    let readme = std::fs::read_to_string(root.join("README.md")).expect("it is there");
    if !(table.contains(&sum) && readme.contains(&sum)) {
        wrong.push(format!("its sum, which README.md has as well, should be: {sum}"));
    }
    for (section, [passed, foreign, open]) in sections {
        let row = format!("| {section} | {passed} | {foreign} | {open} |");
        if !readme.contains(&row) {
            wrong.push(format!("README.md has not: {row}"));
        }
    }
    for must in 1..=69 {
        let rows = table.matches(&format!("\n| MUST-{must} |")).count();
        if rows != 1 {
            wrong.push(format!("MUST-{must} has {rows} rows"));
        }
    }
    for script in scripts(&folder) {
        if !named.contains(&script[..]) {
            wrong.push(format!("no clause names {script}"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_difference_from_linux_is_explained() {
    let folder = root().join("tests/conformance");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).expect("it is there");
    let text = read("README.md");
    let section = text.split("## ").find(|part| part.starts_with("Against Linux"));
    let section = section.expect("because it is there");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let explained: BTreeSet<&str> = rows.map(|(name, _)| name).collect();
    let table = read("linux.txt");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let differ: BTreeSet<&str> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    assert_eq!(explained, differ);
    let (all, other) = (scripts(&folder).len(), differ.len());
    let sum = format!("{all} scripts Linux plays {} as they stand", all - other);
    assert!(section.contains(&sum), "its sum should be: {sum}");
    assert!(section.contains(&format!("in the other {other}")), "{other} differ");
}

/// The names of the scripts of conformance: folder and file.
fn scripts(folder: &Path) -> Vec<String> {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("because the folder is there");
        entries.map(|entry| entry.expect("because it was just listed").path()).collect::<Vec<_>>()
    };
    let rfcs = entries(folder).into_iter().filter(|path| path.is_dir());
    let scripts = rfcs.flat_map(|rfc| entries(&rfc));
    let name = |path: PathBuf| {
        let name = path.strip_prefix(folder).expect("because it is there").with_extension("");
        name.display().to_string()
    };
    scripts.map(name).collect()
}

#[test]
fn no_test_sleeps_in_place_of_an_event() {
    let mut wrong = vec![];
    let sleep = concat!("sle", "ep(");
    for source in all() {
        let may = SLEEPS.iter().any(|allowed| source.path.starts_with(allowed));
        let naps = |line: &str| {
            line.contains(&format!("thread::{sleep}")) || line.contains(&format!("time::{sleep}"))
        };
        for (number, line) in (1..).zip(source.text.lines()) {
            if !may && naps(&strip(line)) {
                wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(&wrong);
}

/// The calls of `tracing` in `text`: the line, what is called, and what it is given: the names of
/// its fields, and what its words have in braces.
fn logs(text: &str) -> Vec<(usize, String, Vec<String>)> {
    let mut found = vec![];
    for (at, start) in text.match_indices("tracing::") {
        let before = &text[..at];
        if before.rsplit('\n').next().is_some_and(|line| line.contains("//")) {
            continue;
        }
        let rest = &text[at + start.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let given = rest[end..].strip_prefix("!(").map_or_else(Vec::new, given);
        found.push((before.matches('\n').count() + 1, rest[..end].to_owned(), given));
    }
    found
}

/// The same of what is behind the parenthesis of one call.
fn given(arguments: &str) -> Vec<String> {
    #[derive(PartialEq)]
    enum In {
        Name,
        Value,
        Words,
        Braces,
    }
    let (mut names, mut name, mut depth, mut place) = (vec![], String::new(), 0, In::Name);
    let mut characters = arguments.chars();
    while let Some(character) = characters.next() {
        let is_end = depth == 0 && matches!(character, ',' | '=' | ')');
        match (&place, character) {
            (In::Words | In::Braces, '\\') => drop(characters.next()),
            (In::Words, '{') => place = In::Braces,
            (In::Braces, '}' | ':') => {
                names.push(core::mem::take(&mut name));
                place = In::Words;
            }
            (In::Words | In::Braces, '"') => place = In::Value,
            (In::Name | In::Value, '"') => place = In::Words,
            (In::Words, _) => {}
            (In::Name, _) if is_end => {
                names.push(core::mem::take(&mut name));
                place = if character == '=' { In::Value } else { In::Name };
            }
            (In::Value, ',') if is_end => place = In::Name,
            (In::Name | In::Value, '(') => depth += 1,
            (In::Name | In::Value, ')') if depth > 0 => depth -= 1,
            (In::Name | In::Braces, _) => name.push(character),
            (In::Value, _) => {}
        }
        if character == ')' && depth == 0 && is_end && matches!(place, In::Name | In::Value) {
            break;
        }
    }
    let bare = |name: String| name.trim().trim_start_matches(['%', '?', '&']).to_owned();
    names.into_iter().map(bare).filter(|name| !name.is_empty()).collect()
}

#[test]
fn no_line_of_log_is_for_a_packet_or_names_anybody() {
    let mut wrong = vec![];
    for source in ["core/src", "host/src"].iter().flat_map(|folder| sources(folder)) {
        let own: Vec<&str> = source.lines().map(|(_, line)| line).collect();
        let is_per_packet = PER_PACKET.iter().any(|path| source.path.starts_with(path));
        for (line, called, given) in logs(&own.join("\n")) {
            let place = format!("{}:{line}: tracing::{called}", source.path);
            match called.as_str() {
                "trace" => {}
                _ if is_per_packet => wrong.push(format!("{place} where packets pass")),
                "debug" => {}
                "info" | "warn" | "error" => {
                    let other = given.iter().filter(|word| !LOGGED.contains(&word.as_str()));
                    wrong.extend(other.map(|word| format!("{place} has `{word}`")));
                }
                _ => {
                    wrong.push(format!("{place}: a macro of a level, with its path, is read here"))
                }
            }
        }
    }
    for path in PER_PACKET {
        assert!(root().join(path).exists(), "{path} is elsewhere");
    }
    assert_none(&wrong);
}

#[test]
fn what_leads_outside_is_opened_in_one_place() {
    let mut wrong = vec![];
    for source in sources("host/src") {
        let is_library =
            !["host/src/cli/", "host/src/fuzz"].iter().any(|at| source.path.starts_with(at));
        let is_tests = source.path.ends_with("tests.rs") || source.path.contains("/tests/");
        if !is_library || is_tests || OPENERS.iter().any(|at| source.path.starts_with(at)) {
            continue;
        }
        for (line, code) in source.code() {
            let opens = ["TcpStream::connect(", "TcpSocket::new", "Socket::new(", "Socket::bind("];
            if opens.iter().any(|call| code.contains(call)) {
                wrong.push(format!("{}:{line}: not tied to `outbound`", source.path));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_reader_of_logs_reads_them() {
    let text = r#"
// tracing::warn!(%name, "a comment");
tracing::warn!(%error, host = %port.host, "words, {reach} and {peer:?}");
tracing::debug!(
    "a \"quoted\" name"
);
use tracing::info;
tracing::error!(count, peer = call(a, b), ?name, "no words: (but {at})");
"#;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let expected = [
        (3, "warn", words(&["error", "host", "reach", "peer"])),
        (4, "debug", vec![]),
        (7, "info", vec![]),
        (8, "error", words(&["count", "peer", "name", "at"])),
    ];
    let read = logs(text);
    let read: Vec<_> = read.iter().map(|(at, call, given)| (*at, &call[..], given)).collect();
    let expected: Vec<_> = expected.iter().map(|(at, call, given)| (*at, *call, given)).collect();
    assert_eq!(read, expected);
}

/// The crates that `Cargo.lock` has more than one version of: all versions but the newest, each as
/// `name@version`.
fn older_versions(lock: &str) -> BTreeSet<String> {
    let field = |line: &str, name: &str| {
        Some(line.strip_prefix(name)?.strip_prefix(" = \"")?.trim_end_matches('"').to_owned())
    };
    let mut versions: BTreeMap<String, Vec<String>> = Default::default();
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(found) = field(line, "name") {
            name = found;
        } else if let Some(version) = field(line, "version") {
            versions.entry(name.clone()).or_default().push(version);
        }
    }
    let numbers = |version: &str| -> Vec<u64> {
        version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
    };
    let mut older = BTreeSet::new();
    for (name, mut all) in versions {
        all.sort_by_key(|version| numbers(version));
        all.pop();
        older.extend(all.iter().map(|version| format!("{name}@{version}")));
    }
    older
}

#[test]
fn versions_beside_others_are_those_that_deny_toml_says_why() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let deny = read(".deny.toml");
    let skip = |line: &str| {
        let after = line.trim().strip_prefix("{ crate = \"")?;
        let (name, reason) = after.split_once("\", reason = \"")?;
        assert!(reason.len() > 5, "{line}: why?");
        Some(name.to_owned())
    };
    let known: BTreeSet<String> = deny.lines().filter_map(skip).collect();
    assert_eq!(known, older_versions(&read("Cargo.lock")));
}

/// Whether `expression`, of SPDX or as it was written before, is met by licences of `allowed`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let met = is_any_allowed(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression} is understood");
    met
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

/// One of several, each of which may be several that must all be met.
fn is_any_allowed(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut is_any = false;
    loop {
        let mut are_all = true;
        loop {
            are_all &= match words.next().expect("because a licence follows") {
                "(" => {
                    let met = is_any_allowed(words, allowed);
                    assert_eq!(words.next(), Some(")"));
                    met
                }
                name => {
                    let with = words.next_if_eq(&"WITH").and_then(|_| words.next());
                    let whole = with.map_or(name.to_owned(), |with| format!("{name} WITH {with}"));
                    allowed.contains(&whole)
                }
            };
            if words.next_if_eq(&"AND").is_none() {
                break;
            }
        }
        is_any |= are_all;
        if words.next_if_eq(&"OR").is_none() {
            return is_any;
        }
    }
}

/// The licences in the first list behind `start` in `text`.
fn licences(text: &str, start: &str) -> BTreeSet<String> {
    let list = text.split_once(start).expect("because it is there").1;
    let list = list.split_once(']').expect("because it ends").0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What cargo knows of the packages that the workspace in `folder` locks.
fn packages(folder: &str) -> Vec<serde_json::Value> {
    let run = |more: &[&str]| {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["metadata", "--locked", "--format-version=1", "--manifest-path"]);
        cargo.arg(root().join(folder).join("Cargo.toml")).args(more);
        cargo.output().expect("because cargo runs this")
    };
    // What was never built here has to be fetched first.
    let found = Some(run(&["--offline"])).filter(|found| found.status.success());
    let found = found.unwrap_or_else(|| run(&[]));
    let errors = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{folder}: {errors}");
    let all: serde_json::Value = serde_json::from_slice(&found.stdout).expect("cargo's own JSON");
    all["packages"].as_array().expect("because it lists them").clone()
}

#[test]
fn every_package_is_of_the_registry_and_under_a_licence_that_deny_toml_allows() {
    let deny = std::fs::read_to_string(root().join(".deny.toml")).unwrap();
    let allowed = licences(&deny, "\nallow = [");
    assert!(allowed.len() > 5, "{allowed:?}");
    let exceptions = deny.lines().filter_map(|line| {
        let crate_name = line.trim().strip_prefix("{ crate = \"")?.split('"').next()?;
        line.contains("allow = [").then(|| (crate_name.to_owned(), licences(line, "allow = [")))
    });
    let exceptions: BTreeMap<_, _> = exceptions.collect();
    let mut excepted = BTreeSet::new();
    let mut wrong = vec![];
    for folder in ["."].iter().chain(WORKSPACES) {
        let mut foreign = 0;
        for package in packages(folder) {
            let name = package["name"].as_str().expect("because it has one");
            let Some(source) = package["source"].as_str() else { continue };
            foreign += 1;
            if source != "registry+https://github.com/rust-lang/crates.io-index" {
                wrong.push(format!("{folder}: {name} is from {source}"));
            }
            let licence = package["license"].as_str().unwrap_or("NONE");
            let mut allowed = allowed.clone();
            if let Some(more) = exceptions.get(name).filter(|_| !is_allowed(licence, &allowed)) {
                allowed.extend(more.iter().cloned());
                excepted.insert(name.to_owned());
            }
            if !is_allowed(licence, &allowed) {
                wrong.push(format!("{folder}: {name} is under {licence}"));
            }
        }
        assert!(foreign > 20, "{folder} has {foreign}");
    }
    assert_none(&wrong);
    assert_eq!(excepted, exceptions.keys().cloned().collect(), "each exception is for somebody");
}

#[test]
fn every_workspace_is_known() {
    let mut known: BTreeSet<PathBuf> = WORKSPACES.iter().map(|one| root().join(one)).collect();
    known.insert(root());
    let mut found = BTreeSet::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        if folder.join("Cargo.lock").exists() {
            found.insert(folder.clone());
        }
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            }
        }
    }
    assert_eq!(found, known);
    let run = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let beside = format!("beside=\"{}\"", WORKSPACES.join(" "));
    assert!(run.contains(&beside), ".ci/run has not: {beside}");
}

#[test]
fn the_reader_of_licences_reads_them() {
    let allowed = BTreeSet::from(["A", "B", "C WITH d"].map(str::to_owned));
    for met in ["A", "X OR A", "X/A", "(X OR A) AND B", "C WITH d AND A", "A AND X OR B"] {
        assert!(is_allowed(met, &allowed), "{met}");
    }
    for foreign in ["X", "NONE", "A AND X", "C", "A WITH d", "(A OR X) AND X", "X AND (A OR B)"] {
        assert!(!is_allowed(foreign, &allowed), "{foreign}");
    }
}

#[test]
fn the_reader_of_imports_reads_them() {
    let names = |text: &str| crate_names(text).into_iter().collect::<Vec<_>>();
    assert_eq!(names("use crate::wire::reply::{self, Quote};"), ["wire"]);
    assert_eq!(names("use crate::{a::{b, c}, d,\n    e::f};\ncrate::g::h()"), ["a", "d", "e", "g"]);
    assert_eq!(strip(r#"let a = "crate::b \" // "; // crate::c"#), "let a = ; ");
}
