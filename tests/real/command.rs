//! The command line, apart from `run`.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guest::{ConfigFile, Guest, free_slot, gateway, open_config, sluicegate};
use crate::namespace::Namespace;
use crate::needs;
use crate::process::{self, Finished, Process};
use crate::servers::{self, Family};
use crate::waiting::timed;

/// `sluicegate` with `arguments`, which are split at blanks.
fn say(arguments: &str) -> Finished {
    process::run(sluicegate().args(arguments.split_whitespace()))
}

/// The names of a namespace's interfaces.
fn interfaces(namespace: &Namespace) -> Vec<String> {
    let mut ip = Command::new("ip");
    let json = process::succeed(ip.args(["-j", "-n", namespace.name(), "link"]));
    let links: Value = serde_json::from_str(&json).unwrap();
    let name = |link: &Value| link["ifname"].as_str().unwrap().to_owned();
    links.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn env_prints_what_the_agent_of_a_guest_reads() {
    assert_eq!(
        say("env --slot 0").output,
        "MSB_NET=iface=eth0,mac=02:6d:73:00:00:02,mtu=1500\n\
         MSB_NET_IPV4=addr=100.96.0.2/30,gw=100.96.0.1,dns=100.96.0.1\n\
         MSB_NET_IPV6=addr=fd42:6d73:62::2/64,gw=fd42:6d73:62::1,dns=fd42:6d73:62::1\n"
    );
    assert_eq!(
        say("env --slot 65535 --mtu 9000").output,
        "MSB_NET=iface=eth0,mac=02:6d:73:ff:ff:02,mtu=9000\n\
         MSB_NET_IPV4=addr=100.99.255.254/30,gw=100.99.255.253,dns=100.99.255.253\n\
         MSB_NET_IPV6=addr=fd42:6d73:62:ffff::2/64,gw=fd42:6d73:62:ffff::1,\
         dns=fd42:6d73:62:ffff::1\n"
    );
    let beyond = say("env --slot 65536");
    assert_ne!(beyond.code, 0);
    assert!(beyond.errors.contains("65536") && beyond.errors.contains("65535"), "{beyond:?}");
}

fn check(config: &Value) -> Finished {
    process::run(sluicegate().arg("check").arg(ConfigFile::new(config).path()))
}

#[test]
fn check_accepts_what_can_be_served() {
    let checked =
        check(&open_config(json!({ "max_connections": 100, "interface": { "mtu": 9000 } })));
    assert_eq!((checked.code, checked.errors.as_str()), (0, ""));
    for part in ["ok", "9000", "100", "guest to outside: allowed by default"] {
        assert!(checked.output.contains(part), "{checked:?}");
    }
    assert!(!checked.output.contains("rule 0"), "{checked:?}");
    let ports = json!([{ "host_port": 8080, "guest_port": 80 }]);
    let checked = check(&open_config(json!({ "ports": ports })));
    let published = "127.0.0.1:8080 is published: port 80/tcp of the guest\n";
    assert!(checked.output.contains(published), "{checked:?}");
    // The policy where none is said.
    let checked = check(&json!({}));
    for part in [
        "rule 0: allow udp, tcp to host, port 53\n",
        "rule 1: allow everything to public\n",
        "guest to outside: denied by default\n",
    ] {
        assert!(checked.output.contains(part), "{checked:?}");
    }
}

#[test]
fn check_names_the_field_the_value_and_the_limit() {
    let rules = |second: Value| {
        let first = json!({ "direction": "any", "destination": "any", "action": "deny" });
        let mut wrong = first.clone();
        wrong["destination"] = second;
        json!({ "policy": { "rules": [first, wrong] } })
    };
    for (config, parts) in [
        (json!({ "interface": { "mtu": 100 } }), &["interface.mtu", "100", "1280"][..]),
        (json!({ "max_connections": 70_000 }), &["max_connections", "70000", "65536"]),
        (json!({ "polcy": {} }), &["polcy"]),
        (json!({ "policy": { "default_egress": "perhaps" } }), &["default_egress", "perhaps"]),
        (
            rules(json!({ "cidr": "10.0.0.0/64" })),
            &["policy.rules[1].destination.cidr", "10.0.0.0/64", "10.0.0.0/8"],
        ),
        (
            rules(json!({ "domain": "a..test" })),
            &["policy.rules", "a..test", "is not a name: labels of a-z"],
        ),
        (json!({ "outbound_proxy": {} }), &["outbound_proxy", "missing field `protocol`"]),
        (
            json!({ "tls": { "enabled": true }, "secrets": { "secrets": [{ "env_var": "A" }] } }),
            &["secrets.secrets[].allowed_hosts", "A"],
        ),
    ] {
        let checked = check(&config);
        assert_eq!((checked.code, checked.output.as_str()), (1, ""), "{config}");
        for part in parts {
            assert!(checked.errors.contains(part), "{config}: {checked:?}");
        }
    }
    let wrong = ConfigFile::new(&json!({ "polcy": {} }));
    let path = wrong.path().display().to_string();
    assert!(say(&format!("check {path}")).errors.contains(&format!("{path}: polcy: ")));
    let beyond = ConfigFile::new(&json!({ "interface": { "mtu": 100 } }));
    let path = beyond.path().display().to_string();
    assert!(say(&format!("check {path}")).errors.contains(&format!("{path}: interface.mtu: 100")));
    let typed = say("check -");
    assert!(typed.errors.contains("standard input: this is not JSON"), "{typed:?}");
    let missing = say("check /there/is/no/such.json");
    assert_eq!(missing.code, 1);
    assert!(missing.errors.contains("/there/is/no/such.json"), "{missing:?}");
}

#[test]
fn every_command_has_help_with_examples_that_fits_the_terminal() {
    for command in
        ["", "run", "attach", "serve", "ctl", "top", "env", "check", "replay", "demo", "vm"]
    {
        let help = say(&format!("{command} --help"));
        assert_eq!(help.code, 0);
        let example = format!("\n  {}", format!("sluicegate {command}").trim_end());
        assert!(help.output.contains(&example), "{command}: {}", help.output);
        let long = help.output.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None, "{command}");
        let codes = ["", "vm", "run"].contains(&command) || help.output.contains("Exit status: 0");
        assert!(codes, "{command}: what its exit code means");
        // A value is explained by the words of its own option.
        assert_eq!(help.output.matches("Every frame is one").count(), 0, "{command}");
    }
    // What is not for people is not what they may have meant.
    for typo in ["bogus", "insides", "demo-guests"] {
        let said = say(typo);
        assert!(said.code == 2 && !said.errors.contains("'_"), "{said:?}");
    }
    assert!(say("chekc").errors.contains("'check'"));
}

#[test]
fn what_is_logged_is_in_no_colour_where_nobody_looks_and_a_wrong_filter_is_told() {
    if !needs::are_met(&["true"]) {
        return;
    }
    let slot = free_slot().to_string();
    let run = |filter: &str| {
        let mut command = sluicegate();
        command.env("SLUICEGATE_LOG", filter).args(["run", "--egress", "allow", "--slot", &slot]);
        let finished = process::run(command.args(["--", "true"]));
        assert_eq!(finished.code, 0, "{finished:?}");
        finished.errors
    };
    let logged = run("debug");
    assert!(logged.contains("DEBUG") && !logged.contains('\x1b'), "{logged}");
    let wrong = run("sluicegate=loud");
    assert!(wrong.contains("SLUICEGATE_LOG=sluicegate=loud: "), "{wrong}");
}

#[test]
fn serve_wants_one_place_where_its_machine_is() {
    for arguments in ["serve", "serve --socket /tmp/net.sock --fd 3", "serve --fd 3 --datagram"] {
        let said = say(arguments);
        assert_eq!(said.code, 2, "{arguments}: {said:?}");
        assert!(said.errors.contains("--socket") || said.errors.contains("--datagram"), "{said:?}");
        assert!(said.errors.contains("--fd"), "{arguments}: {said:?}");
    }
}

#[test]
fn a_reader_that_goes_is_no_failure_and_a_full_disk_is_one() {
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tcp/syn-with-data.pcap");
    for (arguments, full) in
        [(&["env"][..], 1), (&["check", "/dev/stdin"], 1), (&["replay", capture], 2)]
    {
        let config = ConfigFile::new(&json!({}));
        let run = |output: std::process::Stdio| {
            let config = std::fs::File::open(config.path()).unwrap();
            let mut command = sluicegate();
            command.args(arguments).stdin(config).stdout(output).output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unread = run(writer.into());
        assert_eq!((unread.status.code(), unread.stderr), (Some(0), vec![]), "{arguments:?}");
        let disk = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let failed = run(disk.into());
        assert_eq!(failed.status.code(), Some(full), "{arguments:?}");
        let said = String::from_utf8(failed.stderr).unwrap();
        assert!(said.contains("No space left"), "{arguments:?}: {said}");
    }
}

#[test]
fn the_demo_names_every_way_that_a_guest_comes_by() {
    let help = say("demo --help").output;
    for way in ["run", "attach", "serve", "vm"] {
        assert!(help.contains(&format!("\n  sluicegate {way} ")), "{way}: {help}");
        assert_eq!(say(&format!("{way} --help")).code, 0, "{way}");
    }
    assert!(help.contains("SmoltcpNetwork, GuestLink") && help.contains("sluicegate-core"));
}

#[test]
fn a_signal_ends_attach_with_success_and_the_interface_is_gone() {
    if !needs::are_met(&[]) {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let guest = Guest::online();
        // A connection is no reason to stay.
        let port = servers::echo(servers::listener(Family::V4));
        let _stream = guest.connect(Family::V4, port);
        assert_eq!(interfaces(guest.namespace()), ["lo", "eth0"]);
        let (engine, namespace) = guest.into_parts();
        engine.signal(signal);
        let finished = engine.finish();
        assert_eq!((finished.code, finished.output.as_str()), (0, "ready\n"), "{finished:?}");
        assert_eq!(interfaces(&namespace), ["lo"]);
    }
}

#[test]
fn the_interface_has_the_addresses_routes_and_mtu_of_its_slot() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let show = |what: &str| {
        let mut ip = Command::new("ip");
        process::succeed(ip.args(["-n", guest.namespace().name()]).args(what.split_whitespace()))
    };
    let [high, low] = guest.slot().to_be_bytes();
    let link = show("-o link show eth0");
    assert!(link.contains(&format!("link/ether 02:6d:73:{high:02x}:{low:02x}:02")), "{link}");
    assert!(link.contains("mtu 1500") && link.contains("LOWER_UP"), "{link}");
    for (family, bits, version) in [(Family::V4, 30, "-4"), (Family::V6, 64, "-6")] {
        let addresses = show(&format!("{version} -o address show eth0"));
        assert!(addresses.contains(&format!("{}/{bits}", guest.address(family))), "{addresses}");
        let routes = show(&format!("{version} route show default"));
        let expected = format!("default via {} dev eth0", guest.gateway(family));
        assert!(routes.contains(&expected), "{routes}");
    }
}

#[test]
fn a_namespace_is_served_once_and_the_first_goes_on() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let netns = guest.namespace().name();
    // Of the same name, and beside it.
    for more in ["", "--ifname eth1 --slot 1"] {
        let second = say(&format!("attach --netns {netns} --egress allow {more}"));
        assert_eq!((second.code, second.output.as_str()), (1, ""), "{second:?}");
        assert!(second.errors.contains("already"), "{second:?}");
    }
    assert_eq!(interfaces(guest.namespace()), ["lo", "eth0"]);
    let port = servers::echo(servers::listener(Family::V4));
    guest.connect(Family::V4, port);
}

#[test]
fn attach_says_what_is_wrong_and_what_to_do() {
    if !needs::are_met(&[]) {
        return;
    }
    let namespace = Namespace::new();
    let name = namespace.name();
    for (arguments, part) in [
        ("attach --netns no-such-namespace".to_owned(), "ip netns add"),
        ("attach --netns 999999999".to_owned(), "process 999999999"),
        ("attach --netns /dev/null".to_owned(), "--netns /dev/null"),
        (format!("attach --netns {name} --mtu 100"), "1280"),
        (format!("attach --netns {name} --slot 65536"), "65535"),
        (format!("attach --netns {name} --ifname a/b"), "a/b"),
        (format!("attach --netns {name} --config /no/such.json"), "/no/such.json"),
        (format!("attach --netns {name} --ready-fd 77"), "--ready-fd 77"),
    ] {
        let finished = say(&arguments);
        assert_ne!(finished.code, 0, "{arguments}");
        assert!(finished.errors.contains(part), "{arguments}: {finished:?}");
        assert_eq!(interfaces(&namespace), ["lo"], "{arguments}");
    }
}

#[test]
fn ready_fd_hears_of_it_in_place_of_the_standard_output() {
    if !needs::are_met(&["sh"]) {
        return;
    }
    let namespace = Namespace::new();
    let slot = free_slot().to_string();
    // Descriptor 3 is our pipe, and the standard output is a file that must stay empty.
    let script = "exec 3>&1 >/dev/full; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(sluicegate().get_program());
    command.args(["attach", "--netns", namespace.name(), "--slot", &slot, "--ready-fd", "3"]);
    let mut engine = Process::start(command.args(["--egress", "allow"]));
    engine.wait_for("ready\n");
    assert_eq!(interfaces(&namespace), ["lo", "eth0"]);
    engine.signal(Signal::TERM);
    let finished = engine.finish();
    assert_eq!((finished.code, finished.output.as_str()), (0, "ready\n"), "{finished:?}");
}

#[test]
fn a_process_id_names_its_namespace_and_another_interface_name_is_used() {
    if !needs::are_met(&["sleep", "ping"]) {
        return;
    }
    let namespace = Namespace::new();
    let sleeper = Process::start(namespace.command("sleep").arg("60"));
    crate::waiting::until("the process is in its namespace", || {
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        std::fs::read_link(format!("/proc/{}/ns/net", sleeper.id())).unwrap() != ours
    });
    let (slot, path) = (free_slot(), format!("/proc/{}/ns/net", sleeper.id()));
    let mut command = sluicegate();
    command.args(["attach", "--netns", &path, "--ifname", "net7", "--slot", &slot.to_string()]);
    let mut engine = Process::start(&mut command);
    engine.wait_for("ready\n");
    assert_eq!(interfaces(&namespace), ["lo", "net7"]);
    let mut ping = namespace.command("ping");
    process::succeed(ping.args(["-c", "1", &gateway(slot, Family::V4).to_string()]));
}

#[test]
fn a_namespace_that_goes_away_ends_its_attach() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let (engine, namespace) = guest.into_parts();
    namespace.ip("link delete eth0");
    let finished = engine.finish();
    assert_ne!(finished.code, 0, "{finished:?}");
    assert!(finished.errors.contains("interface"), "{finished:?}");
}

#[test]
fn demo_shows_every_step_in_under_15_seconds() {
    if !needs::are_met(&[]) {
        return;
    }
    let (finished, took) = timed(|| say("demo"));
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    for step in [
        "address",
        "ping",
        "HTTP",
        "UDP",
        "refused",
        "host.sluicegate.internal is ",
        "denied name",
        "denied address",
        "network_policy_denied",
        "published port",
        "\"welcome\" from host.sluicegate.internal over TLS, asked with $MSB_DEMO_TOKEN",
        "secret_policy_denied",
        "throughput",
        "policy change",
        " -> 100.96.0.1:53 open by the gateway, ",
        "The guest's first frames are in /tmp/sluicegate-demo.pcapng\n",
        "tcp_opened",
    ] {
        assert!(finished.output.contains(step), "{step}: {}", finished.output);
    }
    assert!(!finished.output.contains('✗'), "{}", finished.output);
    for event in [
        " secrets.demo.example (host) by rule 0\n",
        " -> 169.254.169.254:80 (metadata) by rule 1\n",
        " -> 198.51.100.7:80 shop.example by default\n",
        " host.microsandbox.internal: the placeholder of DEMO_TOKEN in its header\n",
        "was asked with \"Bearer the-real-token-of-this-demo\".\n",
    ] {
        assert!(finished.output.contains(event), "{event}: {}", finished.output);
    }
}
