//! What a process that serves a guest has given up: it tries, and the system says no.

use std::io::Write;

use serde_json::json;

use crate::guest::{Guest, Setup, open_config, sluicegate};
use crate::needs;
use crate::process::{self, Process};
use crate::tls::Scratch;
use crate::waiting::until;

/// What is kept: the tenth capability alone.
const NET_BIND_SERVICE: &str = "0000000000000400";

#[test]
fn what_is_given_up_is_refused_and_what_is_needed_is_not() {
    if !needs::are_met(&["true"]) {
        return;
    }
    let scratch = Scratch::new("sandbox");
    let own = scratch.0.join("removable");
    std::fs::create_dir(&own).unwrap();
    for folder in [&scratch.0, &own] {
        std::fs::write(folder.join("file"), "text").unwrap();
    }
    let mut command = sluicegate();
    let tried = process::succeed(command.arg("_sandbox-probe").arg(&scratch.0));
    // A thread is one of clone(2)'s, too.
    let expected = "\
read a file: done
write a file: refused
change a file: refused
remove a file: refused
remove its own: done
remove its folder: done
run a program: refused
change its namespace: refused
have a child in another one: refused
open a socket of files: refused
open a raw socket: refused
listen: done
run one from a thread: refused
";
    assert_eq!(tried, expected);
}

#[test]
fn each_system_call_that_is_given_up_is_refused_by_that_alone() {
    if !needs::are_met(&[]) {
        return;
    }
    let mut command = sluicegate();
    let tried = process::succeed(command.args(["_sandbox-probe", "--calls", "/"]));
    assert_eq!(tried.lines().count(), 43, "README.md says how many: {tried}");
    let told = |what: &str| tried.lines().filter(|line| line.ends_with(what)).count();
    assert_eq!(told(": made"), 0, "{tried}");
    // Where this machine lets a root do less, some of them would be refused without us.
    assert!(told(": refused") > 20, "{tried}");
}

#[test]
fn whoever_serves_a_guest_has_given_it_up_in_every_thread() {
    if !needs::are_met(&[]) {
        return;
    }
    let config = Some(open_config(json!({})));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    let tasks = format!("/proc/{}/task", guest.engine().id());
    let mut threads = 0;
    for task in std::fs::read_dir(tasks).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
        };
        assert_eq!(field("CapEff:"), NET_BIND_SERVICE, "{}", field("Name:"));
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
        threads += 1;
    }
    assert!(threads >= 3, "main, driver, runtime: {threads}");
}

#[test]
fn a_control_socket_in_another_user_s_folder_keeps_no_right_and_gives_way_to_the_next() {
    if !needs::are_met(&[]) {
        return;
    }
    let scratch = Scratch::new("sandbox");
    std::os::unix::fs::chown(&scratch.0, Some(65534), None).unwrap();
    let socket = scratch.0.join("control");
    for turn in ["the first", "the next"] {
        let setup = Setup { control: Some(socket.clone()), ..Setup::default() };
        let (engine, _namespace) = Guest::with(&setup).into_parts();
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.id())).unwrap();
        assert!(status.contains(&format!("CapPrm:\t{NET_BIND_SERVICE}\n")), "{turn}: {status}");
        engine.signal(rustix::process::Signal::TERM);
        let finished = engine.finish();
        assert_eq!(finished.code, 0, "{turn}: {finished:?}");
        assert!(finished.errors.contains("another user's folder"), "{turn}: {finished:?}");
        assert!(socket.exists(), "{turn}");
    }
}

#[test]
fn whoever_reads_a_capture_has_given_it_up_before() {
    if !needs::are_met(&["mkfifo"]) {
        return;
    }
    let scratch = Scratch::new("sandbox");
    let capture = scratch.0.join("capture");
    process::succeed(std::process::Command::new("mkfifo").arg(&capture));
    let reader = Process::start(sluicegate().arg("replay").arg(&capture));
    // It waits for what is said here.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&capture).unwrap();
    let status = format!("/proc/{}/status", reader.id());
    until("it has given up what it needs no more", || {
        let status = std::fs::read_to_string(&status).unwrap();
        let has = |line: &str| status.lines().any(|known| known == line);
        has("Seccomp:\t2") && has("NoNewPrivs:\t1") && has(&format!("CapEff:\t{NET_BIND_SERVICE}"))
    });
    writer.write_all(b"no capture").unwrap();
    drop(writer);
    assert_eq!(reader.finish().code, 2);
}
