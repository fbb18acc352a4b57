//! Every fixture through `sluicegate replay`: it does what is written beside it, and what it sends
//! is well formed. `SLUICEGATE_BLESS=1` writes anew what is beside it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// All captures, in order.
fn captures() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let files = folders
        .filter(|path| path.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut captures: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "pcap")).collect();
    captures.sort();
    captures
}

fn replay(capture: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.arg("replay").arg(capture).args(arguments).output().unwrap()
}

/// The lines of comments of what is expected, which say how to replay.
fn comments(expect: &Path) -> String {
    let text = std::fs::read_to_string(expect).unwrap();
    text.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

fn arguments(comments: &str) -> Vec<String> {
    let line = comments.lines().find(|line| line.starts_with("# --")).unwrap_or("");
    // A configuration lies among the fixtures.
    let word = |word: &str| match word.ends_with(".json") {
        true => root().join(word).display().to_string(),
        false => word.to_owned(),
    };
    line.split(' ').skip(1).map(word).collect()
}

#[test]
fn every_fixture_does_what_is_written_beside_it() {
    let captures = captures();
    assert!(captures.len() >= 120, "{} fixtures", captures.len());
    let mut wrong = String::new();
    for capture in &captures {
        let expect = capture.with_extension("expect");
        let comments = comments(&expect);
        let mut arguments = arguments(&comments);
        if std::env::var_os("SLUICEGATE_BLESS").is_some() {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let done = replay(capture, &words);
            assert!(done.status.success(), "{done:?}");
            let text = String::from_utf8(done.stdout).unwrap();
            std::fs::write(&expect, comments + &text).unwrap();
            continue;
        }
        arguments.extend(["--expect".to_owned(), expect.display().to_string()]);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let done = replay(capture, &words);
        if !done.status.success() {
            let (out, errors) = (&done.stdout, &done.stderr);
            let text = [out.as_slice(), errors.as_slice()].concat();
            wrong += &format!("{}\n{}\n", capture.display(), String::from_utf8_lossy(&text));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// One capture of all that was answered to all fixtures.
fn answers(to: &Path) {
    let mut all = vec![];
    for capture in captures() {
        let answered = to.with_extension("one");
        let written = answered.display().to_string();
        let comments = comments(&capture.with_extension("expect"));
        let arguments = arguments(&comments);
        let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        words.extend(["--write", &written]);
        assert!(replay(&capture, &words).status.success());
        let bytes = std::fs::read(&answered).unwrap();
        let head = if all.is_empty() { 0 } else { 24 };
        all.extend_from_slice(&bytes[head..]);
        std::fs::remove_file(&answered).unwrap();
    }
    std::fs::write(to, all).unwrap();
}

#[test]
fn what_it_sends_is_well_formed_to_others() {
    let has_tshark = Command::new("tshark").arg("--version").output().is_ok();
    if !has_tshark {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "this test needs tshark");
        eprintln!("SKIPPED: this machine has no tshark");
        return;
    }
    let path = std::env::temp_dir().join(format!("sluicegate-answers-{}.pcap", std::process::id()));
    answers(&path);
    let checks = ["ip", "tcp", "udp"].map(|name| format!("{name}.check_checksum:TRUE"));
    let shown = |filter: &str| {
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&path).args(["-Y", filter]);
        for check in &checks {
            tshark.args(["-o", check]);
        }
        let output = tshark.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown("frame").lines().count() > 100, "there are answers");
    let bad = [
        "_ws.malformed",
        "ip.checksum.status == \"Bad\"",
        "tcp.checksum.status == \"Bad\"",
        "udp.checksum.status == \"Bad\"",
        "icmp.checksum.status == \"Bad\"",
        "icmpv6.checksum.status == \"Bad\"",
    ];
    let found = shown(&bad.join(" || "));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(found, "");
}

#[test]
fn what_is_no_capture_is_said_to_be_none() {
    let path = std::env::temp_dir().join(format!("sluicegate-broken-{}", std::process::id()));
    let good = std::fs::read(&captures()[0]).unwrap();
    let mut cooked = good.clone();
    cooked[20] = 113;
    let mut cut = good.clone();
    cut.truncate(good.len() - 1);
    let mut snapped = good.clone();
    snapped[36] = 0xff;
    for (what, bytes, expected) in [
        ("nothing", vec![], "no whole capture"),
        ("text", b"no capture at all, but longer than a header".to_vec(), "no whole capture"),
        ("the head alone, cut", good[..10].to_vec(), "no whole capture"),
        ("cut", cut, "no whole capture"),
        ("another link", cooked, "link type 113"),
        ("frames that were cut", snapped, "frame 1 was cut"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let done = replay(&path, &[]);
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_difference_is_shown_where_it_is() {
    let capture = root().join("link/arp-gateway.pcap");
    let expect = std::env::temp_dir().join(format!("sluicegate-expect-{}", std::process::id()));
    std::fs::write(&expect, "# a comment\nsomething else\n").unwrap();
    let done = replay(&capture, &["--expect", expect.to_str().unwrap()]);
    std::fs::remove_file(&expect).unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(text.starts_with("- something else\n+ 0.000 > arp who has "), "{text}");
}
