//! `sluicegate run`: a command whose only way out is the engine.

use std::io::Write;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::guest::{ConfigFile, free_slot, gateway, sluicegate};
use crate::needs;
use crate::pattern;
use crate::process::{self, Finished, Process};
use crate::servers::{self, Family};
use crate::tls::Scratch;
use crate::waiting::until;

/// `sluicegate run --egress allow` of `words`.
fn command(words: &[&str]) -> Command {
    let mut command = sluicegate();
    command
        .args(["run", "--egress", "allow", "--slot", &free_slot().to_string(), "--"])
        .args(words);
    command
}

fn run(words: &[&str]) -> Finished {
    process::run(&mut command(words))
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    if !needs::are_met(&["sh"]) {
        return;
    }
    for (words, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["/dev/null"], 126),
        (&["no-such-program"], 127),
    ] {
        assert_eq!(run(words).code, code, "{words:?}");
    }
    // What is no command's own; an unknown option is no command.
    for (arguments, part) in [
        (&["--config", "/no/such.json", "--", "true"][..], "/no/such.json"),
        (&["--egres", "allow", "--", "true"], "'--egress'"),
        (&["--egress", "perhaps", "--", "true"], "perhaps"),
        (&[], "<CMD>"),
    ] {
        let mut command = sluicegate();
        let finished = process::run(command.arg("run").args(arguments));
        assert_eq!(finished.code, 125, "{finished:?}");
        assert!(finished.errors.contains(part), "{finished:?}");
    }
}

#[test]
fn a_config_may_come_by_a_pipe_and_is_what_the_control_socket_shows() {
    if !needs::are_met(&["sh"]) {
        return;
    }
    let scratch = Scratch::new("run");
    let socket = scratch.0.join("control");
    let config = json!({ "max_connections": 77, "policy": { "default_egress": "deny" } });
    let mut command = sluicegate();
    command.args(["run", "--slot", &free_slot().to_string(), "--config", "-", "--control"]);
    // It does not find the socket itself.
    command.arg(&socket).args(["--", "sh", "-c", "echo begun; exec tail -f /dev/null"]);
    let mut process = Process::start(command.stdin(Stdio::piped()));
    process.take_input().write_all(config.to_string().as_bytes()).unwrap();
    process.wait_for("begun");
    let shown =
        process::succeed(sluicegate().args(["ctl", "--control"]).arg(&socket).arg("config"));
    process.signal(Signal::TERM);
    let finished = process.finish();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["max_connections"], config["max_connections"], "{finished:?}");
}

#[test]
fn the_command_has_the_standard_streams_arguments_and_environment_of_its_caller() {
    if !needs::are_met(&["sh"]) {
        return;
    }
    let mut command = command(&["sh", "-c", "cat; echo $GREETING $1 >&2", "sh", "--flag"]);
    let mut process = Process::start(command.env("GREETING", "welcome").stdin(Stdio::piped()));
    process.take_input().write_all(b"through and through").unwrap();
    let finished = process.finish();
    assert_eq!(finished.output, "through and through");
    assert_eq!(finished.errors, "welcome --flag\n");
}

#[test]
fn signals_go_on_to_the_command() {
    if !needs::are_met(&["sh"]) {
        return;
    }
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::USR1, "USR1")] {
        // A shell's `wait` ends with the signal; a program in the foreground would be waited for.
        let script = format!("sleep 60 & trap 'kill $!; exit 9' {name}; echo up; wait; exit 1");
        // Whoever runs the tests may have it ignored, and then no shell can trap it.
        let run = command(&["sh", "-c", &script]);
        let mut process = Process::start(&mut with_signals("--default-signal=INT,QUIT", &run));
        process.wait_for("up\n");
        process.signal(signal);
        assert_eq!(process.finish().code, 9, "{name}");
    }
}

/// `command`, with signals as `option` of env(1) has them.
fn with_signals(option: &str, command: &Command) -> Command {
    let mut env = Command::new("env");
    env.arg(option).arg(command.get_program()).args(command.get_args());
    env
}

#[test]
fn a_signal_that_is_ignored_stays_so_but_that_of_a_child_s_end() {
    if !needs::are_met(&["cat"]) {
        return;
    }
    let run = command(&["cat", "/proc/self/status", "/dev/stdin"]);
    let mut env = with_signals("--ignore-signal=HUP,INT,CHLD", &run);
    let mut process = Process::start(env.stdin(Stdio::piped()));
    process.wait_for("SigIgn:");
    let own = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let mask = |of: &str, name: &str| {
        let line = of.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        u64::from_str_radix(line, 16).unwrap()
    };
    let bits = |signals: &[Signal]| {
        signals.iter().fold(0, |all, signal| all | 1_u64 << (signal.as_raw() - 1))
    };
    let ignored = bits(&[Signal::HUP, Signal::INT]);
    let child = bits(&[Signal::CHILD]);
    assert_eq!(mask(&own, "SigIgn:") & (ignored | child), ignored, "{own}");
    assert_eq!(mask(&own, "SigBlk:") & (ignored | child), child, "{own}");
    process.signal(Signal::HUP);
    process.signal(Signal::INT);
    // Its end comes with that of its input, and is heard of.
    drop(process.take_input());
    let finished = process.finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    let ignored_inside = mask(&finished.output, "SigIgn:") & (ignored | child);
    assert_eq!(ignored_inside, ignored, "{finished:?}");
}

#[test]
fn the_command_does_not_outlive_the_engine() {
    if !needs::are_met(&["sh", "sleep"]) {
        return;
    }
    let mut process = Process::start(&mut command(&["sh", "-c", "echo $$; exec sleep 60"]));
    process.wait_for("\n");
    let id: i32 = process.output().trim().parse().unwrap();
    process.signal(Signal::KILL);
    until("the end of the command", || {
        rustix::process::test_kill_process(Pid::from_raw(id).unwrap()).is_err()
    });
}

#[test]
fn there_is_a_new_network_with_one_way_out() {
    if !needs::are_met(&[]) {
        return;
    }
    let links: Value = serde_json::from_str(&run(&["ip", "-j", "link"]).output).unwrap();
    let names: Vec<_> = links.as_array().unwrap().iter().map(|link| &link["ifname"]).collect();
    assert_eq!(names, ["lo", "eth0"]);
    let routes: Value =
        serde_json::from_str(&run(&["ip", "-j", "route", "show", "default"]).output).unwrap();
    assert_eq!(routes.as_array().unwrap().len(), 1);
    assert_eq!(routes[0]["dev"], "eth0");
}

#[test]
fn resolv_conf_names_the_gateway_inside_and_stays_what_it_is_outside() {
    if !needs::are_met(&["cat"]) {
        return;
    }
    let before = std::fs::read_to_string("/etc/resolv.conf").ok();
    let slot = free_slot();
    let mut command = sluicegate();
    command.args(["run", "--slot", &slot.to_string(), "--", "cat", "/etc/resolv.conf"]);
    let inside = process::succeed(&mut command);
    for family in Family::BOTH {
        assert!(inside.contains(&format!("nameserver {}\n", gateway(slot, family))), "{inside}");
    }
    assert_eq!(inside.matches("nameserver").count(), 2, "{inside}");
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").ok(), before);
}

#[test]
fn curl_fetches_from_this_host_s_loopback() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    const BYTES: u64 = 1_000_000;
    for family in Family::BOTH {
        let port = servers::http(servers::listener(family));
        let slot = free_slot();
        let host = match family {
            Family::V4 => gateway(slot, family).to_string(),
            Family::V6 => format!("[{}]", gateway(slot, family)),
        };
        let file = std::env::temp_dir().join(format!("sluicegate-{}-{slot}", std::process::id()));
        let mut command = sluicegate();
        command.args(["run", "--egress", "allow", "--slot", &slot.to_string(), "--"]);
        command.args(["curl", "-sSf", "-m", "60", &format!("http://{host}:{port}/{BYTES}"), "-o"]);
        process::succeed(command.arg(&file));
        let seen = pattern::check(std::fs::File::open(&file).unwrap(), BYTES).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(seen, BYTES);
    }
}

#[test]
fn without_leave_a_command_does_not_reach_this_host_and_is_told_why() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let port = servers::http(servers::listener(Family::V4));
    let slot = free_slot();
    let url = format!("http://{}:{port}/1", gateway(slot, Family::V4));
    let denied = |more: &[&str]| {
        let mut command = sluicegate();
        command.args(["run", "--slot", &slot.to_string()]).args(more);
        process::run(command.args(["--", "curl", "-sS", "-m", "20", &url]))
    };
    let finished = denied(&[]);
    assert_eq!(finished.code, 7, "curl's code for a refused connection; {finished:?}");
    assert!(finished.errors.contains("--egress allow"), "{finished:?}");
    // Who decided needs no hint.
    let config = ConfigFile::new(&json!({ "policy": { "default_egress": "deny" } }));
    let finished = denied(&["--config", config.path().to_str().unwrap()]);
    assert_eq!(finished.code, 7);
    assert!(!finished.errors.contains("--egress"), "{finished:?}");
}

/// Runs "$@" as nobody: `/dev/net/tun` open to all, as most systems have it, and the program in a
/// place where everybody can read it. Both within a mount namespace that ends with it.
const UNPRIVILEGED: &str = "
set -e
mount -t tmpfs -o mode=755 none /mnt
cp \"$1\" /mnt/sluicegate
shift
mknod /mnt/tun c 10 200
chmod 666 /mnt/tun
mount --bind /mnt/tun /dev/net/tun
cd /
exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"
";

#[test]
fn a_user_without_privileges_runs_commands_too() {
    if !needs::are_met(&["sh", "setpriv", "unshare", "mknod", "ping"]) {
        return;
    }
    let unprivileged = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", UNPRIVILEGED, "sh"]);
        process::run(command.arg(sluicegate().get_program()).args(words))
    };
    let possible = unprivileged(&["unshare", "--user", "--net", "--mount", "true"]);
    if possible.code != 0 && !needs::without("user namespaces for everybody") {
        return;
    }
    let (slot, port) = (free_slot(), servers::http(servers::listener(Family::V4)));
    let gateway = gateway(slot, Family::V4).to_string();
    let run = ["/mnt/sluicegate", "run", "--egress", "allow", "--slot", &slot.to_string(), "--"];
    let curl = ["curl", "-sSf", "-m", "20", &format!("http://{gateway}:{port}/0")];
    for (words, code) in [
        (&curl[..], 0),
        (&["ping", "-c", "1", "-W", "5", &gateway], 0),
        (&["grep", "-q", &gateway, "/etc/resolv.conf"], 0),
        (&["sh", "-c", "exit 7"], 7),
        // Its rights over its own network ended before it began.
        (&["ip", "link", "set", "eth0", "down"], 2),
    ] {
        let finished = unprivileged(&[&run[..], words].concat());
        assert_eq!(finished.code, code, "{words:?}: {finished:?}");
    }
}
