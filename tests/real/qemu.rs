//! A whole machine with a kernel of its own: Debian's, under QEMU's emulation, with busybox.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::process::Signal;
use serde_json::json;

use crate::machine::Gateway;
use crate::needs;
use crate::servers::{self, Family};
use crate::waiting::PATIENCE;

const NEEDS: &[&str] = &["qemu-system-x86_64", "busybox", "cpio", "dpkg-deb", "apt-cache", "rustc"];

/// A script whose every step says that it passed, or which did not.
fn steps(steps: &[(&str, String)]) -> String {
    let step = |(name, command): &(&str, String)| {
        format!("if {command}; then echo 'PASS {name}'; else echo 'FAIL {name}'; fi\n")
    };
    steps.iter().map(step).collect()
}

fn online() -> (&'static str, String) {
    (
        "lease",
        "ip link set eth0 up && udhcpc -i eth0 -n -q -t 20 -T 1 -O mtu -s /bin/lease".to_owned(),
    )
}

/// The guest has only what advertisements bring, but for the address, which its client asks for.
fn online_v6() -> (&'static str, String) {
    let address = "ip addr add fd42:6d73:62::2/64 dev eth0";
    // Its duplicate detection takes a second, as does the kernel's patience before it asks.
    let is_set = "ip -6 route | grep -q '^default via fe80' && ! ip addr | grep -q tentative";
    let wait =
        format!("n=0; until {is_set} || [ $n -ge 300 ]; do usleep 50000; n=$((n + 1)); done");
    ("route by advertisement", format!("{address} && {{ {wait}; {is_set}; }}"))
}

fn fetch(host: &str, port: u16, bytes: u64) -> String {
    format!("[ \"$(wget -q -O - http://{host}:{port}/{bytes} | wc -c)\" = {bytes} ]")
}

#[test]
fn a_machine_is_online_over_both_families_and_the_next_one_too_after_it_was_killed() {
    if !needs::are_met(NEEDS) {
        return;
    }
    let gateway = Gateway::new(json!({}), &["--publish", "0:7000"]);
    let [v4, v6] = [Family::V4, Family::V6].map(|family| servers::http(servers::listener(family)));
    let [udp4, udp6] =
        [Family::V4, Family::V6].map(|family| servers::echo_datagrams(servers::datagrams(family)));
    let host6 = "[fd42:6d73:62::1]";
    let all = [
        online(),
        online_v6(),
        ("ping over IPv4", "ping -c 1 -W 10 100.96.0.1".to_owned()),
        ("ping over IPv6", "ping -6 -c 1 -W 10 fd42:6d73:62::1".to_owned()),
        ("a name", "nslookup host.sluicegate.internal | grep -q 100.96.0.1".to_owned()),
        ("fetch by name", fetch("host.sluicegate.internal", v4, 1_000_000)),
        ("fetch over IPv6", fetch(host6, v6, 1_000_000)),
        ("9000 bytes over IPv4", format!("datagram 100.96.0.1:{udp4} 9000")),
        ("9000 bytes over IPv6", format!("datagram {host6}:{udp6} 9000")),
        (
            "refused",
            format!("! wget -q -O - http://100.96.0.1:{}/", servers::RefusingPort::new().port()),
        ),
    ];
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    // What comes from outside is said back, once.
    let listens = "n=0; until grep -q ':1B58 ' /proc/net/tcp* || [ $n -ge 300 ]; do \
                   usleep 50000; n=$((n + 1)); done";
    let script =
        format!("{}nc -l -p 7000 -e cat &\n{listens}\necho DONE\nsleep 1000\n", steps(&all));
    let mut machine = gateway.boot(&script);
    machine.wait_for("DONE");
    let mut stream = TcpStream::connect(gateway.published()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[7; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert!(heard == [7; 100_000], "{} bytes came back", heard.len());
    let said = machine.output();
    for name in names {
        assert!(said.contains(&format!("PASS {name}")), "{name}: {said}");
    }
    // Gone without a word, in the middle of whatever it did.
    machine.signal(Signal::KILL);
    machine.finish();
    let again = [online(), ("fetch again", fetch("100.96.0.1", v4, 100_000))];
    let machine = gateway.boot(&steps(&again));
    let finished = machine.finish();
    assert!(finished.output.contains("PASS fetch again"), "{finished:?}");
}

#[test]
fn frames_of_64_kib_cross_where_the_lease_says_so() {
    if !needs::are_met(NEEDS) {
        return;
    }
    let gateway = Gateway::new(json!({ "interface": { "mtu": 65520 } }), &[]);
    let port = servers::http(servers::listener(Family::V4));
    let udp = servers::echo_datagrams(servers::datagrams(Family::V4));
    let all = [
        online(),
        ("the MTU of the lease", "grep -q 65520 /sys/class/net/eth0/mtu".to_owned()),
        ("a ping of 60000 bytes", "ping -c 1 -W 10 -s 60000 100.96.0.1".to_owned()),
        ("a datagram of 60000 bytes", format!("datagram 100.96.0.1:{udp} 60000")),
        ("20 megabytes", fetch("100.96.0.1", port, 20_000_000)),
    ];
    let finished = gateway.boot(&steps(&all)).finish();
    for (name, _) in &all {
        assert!(finished.output.contains(&format!("PASS {name}")), "{name}: {finished:?}");
    }
}

#[test]
fn a_machine_that_reboots_is_online_again_by_the_same_engine() {
    if !needs::are_met(NEEDS) {
        return;
    }
    let gateway = Gateway::new(json!({}), &[]);
    let port = servers::http(servers::listener(Family::V4));
    // Each boot asks what it is to do.
    let teller = servers::listener(Family::V4);
    let asked = teller.local_addr().unwrap().port();
    let told = std::thread::spawn(move || {
        for word in ["reboot", "stop"] {
            let (mut stream, _) = teller.accept().unwrap();
            stream.write_all(word.as_bytes()).unwrap();
        }
    });
    // A connection that is open when it goes down, and that its next life knows nothing of.
    let open = format!("nc 100.96.0.1 {port} &");
    let script = format!(
        "{}{open}\nword=$(nc 100.96.0.1 {asked} </dev/null)\necho \"TOLD $word\"\n\
         [ \"$word\" != reboot ] || reboot -f\n",
        steps(&[online(), ("fetch", fetch("100.96.0.1", port, 100_000))]),
    );
    let finished = gateway.boot_that_reboots(&script).finish();
    told.join().unwrap();
    let said = |what: &str| finished.output.matches(what).count();
    assert_eq!(
        (said("PASS lease"), said("PASS fetch"), said("TOLD reboot"), said("TOLD stop")),
        (2, 2, 1, 1),
        "{finished:?}"
    );
}

#[test]
fn a_machine_whose_card_speaks_datagrams_is_online() {
    if !needs::are_met(NEEDS) {
        return;
    }
    let gateway = Gateway::new(json!({}), &["--datagram"]);
    let port = servers::http(servers::listener(Family::V4));
    let udp = servers::echo_datagrams(servers::datagrams(Family::V4));
    let all = [
        online(),
        ("fetch", fetch("100.96.0.1", port, 1_000_000)),
        ("9000 bytes", format!("datagram 100.96.0.1:{udp} 9000")),
    ];
    let finished = gateway.boot_with_datagrams(&steps(&all)).finish();
    for (name, _) in &all {
        assert!(finished.output.contains(&format!("PASS {name}")), "{name}: {finished:?}");
    }
}
