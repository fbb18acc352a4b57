//! What `--log` writes of flows that policy denied, and what a tenant may reach.

use std::process::Command;
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guest::{ConfigFile, free_slot, gateway, sluicegate};
use crate::namespace::Namespace;
use crate::needs;
use crate::process::{self, Finished, Process};
use crate::servers::{self, Family};

const METADATA: &str = "http://169.254.169.254/latest";

/// `sluicegate run` with `options`, of curl for `urls`, which itself says nothing.
fn run(slot: u16, options: &[&str], urls: &[&str]) -> Finished {
    let mut command = sluicegate();
    command.args(["run", "--slot", &slot.to_string()]).args(options);
    process::run(command.args(["--", "curl", "-s", "-o", "/dev/null", "-m", "20"]).args(urls))
}

/// The address of the guest in `slot`.
fn guest(slot: u16) -> std::net::Ipv4Addr {
    let std::net::IpAddr::V4(gateway) = gateway(slot, Family::V4) else { unreachable!() };
    std::net::Ipv4Addr::from_bits(gateway.to_bits() + 1)
}

#[test]
fn run_writes_a_line_for_each_flow_that_is_denied() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let rule = |group: &str, action: &str| {
        let destination = json!({ "group": group });
        json!({ "direction": "egress", "action": action, "destination": destination })
    };
    let config =
        json!({ "policy": { "rules": [rule("host", "allow"), rule("metadata", "deny")] } });
    let file = ConfigFile::new(&config);
    let slot = free_slot();
    let options = ["--log", "--config", file.path().to_str().unwrap()];
    let finished =
        run(slot, &options, &[METADATA, "http://10.0.0.1:8080/", "http://[fd00::1]:8080/"]);
    assert_eq!(finished.code, 7, "curl's own exit code, for a refused connection");
    let lines: Vec<&str> =
        finished.errors.lines().filter(|line| line.starts_with("sluicegate: ")).collect();
    let v4 = format!("sluicegate: denied tcp {}:", guest(slot));
    let v6 = format!("sluicegate: denied tcp [fd42:6d73:62:{slot:x}::2]:");
    for (line, (start, end)) in lines.iter().zip([
        (&v4, " -> 169.254.169.254:80 (metadata) by rule 1"),
        (&v4, " -> 10.0.0.1:8080 (private) by default"),
        (&v6, " -> [fd00::1]:8080 (private) by default"),
    ]) {
        assert!(line.starts_with(start) && line.ends_with(end), "{finished:?}");
    }
    assert_eq!(lines.len(), 3, "{finished:?}");
    // Without being asked, nothing is said.
    let finished = run(free_slot(), &options[1..], &[METADATA]);
    assert!(!finished.errors.contains("denied"), "{finished:?}");
}

#[test]
fn a_line_of_json_has_every_fact_of_a_denial() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let slot = free_slot();
    let before = SystemTime::now();
    let finished = run(slot, &["--log=json", "--egress", "deny"], &[METADATA]);
    let mut lines = finished.errors.lines().filter_map(|line| line.strip_prefix('{'));
    let line = lines.next().unwrap_or_else(|| panic!("{finished:?}"));
    let mut object: Value = serde_json::from_str(&format!("{{{line}")).unwrap();
    let time = object["time"].take();
    let seconds = before.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut date = Command::new("date");
    let said = process::succeed(date.args(["-d", time.as_str().unwrap(), "+%s"]));
    let said: u64 = said.trim().parse().unwrap();
    assert!((seconds..seconds + 60).contains(&said), "{time} is not about {seconds}");
    assert!(object["guest_port"].take().as_u64().is_some_and(|port| port > 0), "{object}");
    let expected = json!({
        "event": "denied", "time": null, "protocol": "tcp",
        "guest": guest(slot).to_string(), "guest_port": null,
        "direction": "egress",
        "destination": "169.254.169.254", "destination_port": 80,
        "group": "metadata", "name": null, "by": "default", "rule": null, "reason": "policy",
        "left_out": 0
    });
    assert_eq!(object, expected);
    assert_eq!(lines.next(), None, "{finished:?}");
}

#[test]
fn attach_writes_them_while_it_runs() {
    if !needs::are_met(&["ping"]) {
        return;
    }
    let (namespace, slot) = (Namespace::new(), free_slot());
    let mut command = sluicegate();
    command.args(["attach", "--netns", namespace.name(), "--slot", &slot.to_string()]);
    let mut engine = Process::start(command.args(["--egress", "deny", "--log"]));
    engine.wait_for("ready\n");
    let mut ping = namespace.command("ping");
    assert_ne!(process::run(ping.args(["-c", "1", "-W", "5", "10.0.0.1"])).code, 0);
    let expected = format!("denied icmpv4 {} -> 10.0.0.1 (private) by default\n", guest(slot));
    crate::waiting::until("the denial is written", || engine.errors().contains(&expected));
    engine.signal(Signal::TERM);
    assert_eq!(engine.finish().code, 0);
}

#[test]
fn a_tenant_who_allows_everything_reaches_nothing_of_the_host() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let port = servers::http(servers::listener(Family::V4));
    let config = ConfigFile::new(&json!({
        "interface": { "mtu": 9000 }, "max_connections": 0,
        "policy": { "default_egress": "allow" }
    }));
    let path = config.path().to_str().unwrap();
    let slot = free_slot();
    let urls = [METADATA.to_owned(), format!("http://{}:{port}/10", gateway(slot, Family::V4))];
    let urls = urls.each_ref().map(String::as_str);
    let options = ["--config", path, "--log", "--profile", "multi-tenant"];
    let finished = run(slot, &options, &urls);
    assert_eq!(finished.code, 7, "{finished:?}");
    for part in ["(metadata) by the platform", "(host) by the platform"] {
        assert!(finished.errors.contains(part), "{part}: {finished:?}");
    }
    let finished = run(slot, &options[..3], &urls[1..]);
    assert_eq!(finished.code, 0, "what it allows is reached elsewhere: {finished:?}");
    let mut check = sluicegate();
    let finished = process::run(check.args(["check", "--profile", "multi-tenant", path]));
    for part in ["MTU 1500", "at most 1024 TCP, 1024 UDP", "multi-tenant: of that"] {
        assert!(finished.output.contains(part), "{part}: {finished:?}");
    }
}
