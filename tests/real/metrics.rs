//! What a network counts, with real traffic for each counter, read as Prometheus reads it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::control::{Controlled, echoes};
use crate::names::{A, address, answering, query, record};
use crate::needs;
use crate::process::{self, Process};
use crate::servers::{self, Family, RefusingPort};
use crate::tls::{self, EVIL, Flaw, GOOD, Site};
use crate::waiting::{PATIENCE, until};

/// Reads metrics as Prometheus does.
const READER: &str = "\
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(family.type, sample.name, sorted(sample.labels.items()), sample.value)
";

/// A port of the guest's that is published.
const GUEST_PORT: u16 = 7000;
/// Where names lead that are allowed.
const NAMED: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 0, 2));

/// The counters of verdicts and what follows from them that are not zero, without their prefix.
type Counted = BTreeMap<String, u64>;

/// A guest of which everything that is counted by reason can be had.
struct Scene {
    controlled: Controlled,
    site: Site,
    expired: Site,
    /// What was counted when the last step had ended.
    before: Counted,
}

impl Scene {
    fn new() -> Self {
        let site = Site::new(&["http/1.1"]);
        let expired = Site::with(&["http/1.1"], Flaw::Expired, None);
        let server = servers::datagrams(Family::V4);
        let names = server.local_addr().unwrap();
        server.set_read_timeout(None).unwrap();
        answering(server, |query| match query[13] {
            b'a' => vec![address(query, 2)],
            b'i' => vec![record(query, &[0xc0, 12], 1, &[10, 0, 0, 1])],
            b'm' => vec![record(query, &[0xc0, 12], 1, &[11, 0, 0])],
            _ => vec![],
        });
        let rule = |direction: &str, destination: Value, more: Value| {
            let mut rule = json!({ "direction": direction, "destination": destination });
            rule["action"] = json!("allow");
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let high = json!({ "ports": [{ "start": 1024, "end": 65535 }] });
        let pings = json!({ "protocols": ["icmpv4"] });
        let mut config = tls::config(&site, json!({}));
        config["tls"]["intercepted_ports"] = json!([site.port, expired.port]);
        config["tls"]["upstream_ca_cert"] = json!([site.authority(), expired.authority()]);
        let mut silent = config["secrets"]["secrets"][0].clone();
        silent["env_var"] = json!("SILENT");
        silent["violation_action"] = json!("block");
        config["secrets"]["secrets"].as_array_mut().unwrap().push(silent);
        config["dns"] = json!({ "nameservers": [names.to_string()], "query_timeout_ms": 300 });
        config["http"] = json!({ "deny_response": true });
        config["max_inbound_tcp_connections"] = json!(1);
        config["ports"] = json!([{ "host_port": 0, "guest_port": GUEST_PORT }]);
        config["policy"] = json!({ "default_egress": "deny", "default_ingress": "deny", "rules": [
            rule("egress", json!({ "domain_suffix": "named.test" }), json!({})),
            rule("egress", json!({ "group": "host" }), high),
            rule("egress", json!({ "cidr": "11.0.0.7/32" }), pings),
            rule("ingress", json!({ "cidr": "127.0.0.1/32" }), json!({})),
        ]});
        let controlled = Controlled::new(config);
        Self { controlled, site, expired, before: Counted::new() }
    }

    fn text(&self) -> String {
        self.controlled.curl(&[], "/v1/metrics").2
    }

    fn counted(&self) -> Counted {
        let text = self.text();
        let lines = text.lines().filter_map(|line| line.strip_prefix("sluicegate_"));
        let read = lines.filter_map(|line| {
            let (name, count) = line.rsplit_once(' ')?;
            let families = ["verdicts", "denials", "refusals", "name_refusals", "incidents"];
            let is_of = families.iter().any(|f| name.starts_with(&format!("{f}_total")));
            let count = count.parse().unwrap_or(0);
            let name = name.replace("_total", "").replace('"', "");
            ((is_of || name == "deny_pages") && count > 0).then_some((name, count))
        });
        read.collect()
    }

    /// `act` is what each of `counters` counts, once, and no other.
    fn counts(&mut self, counters: &[&str], act: impl FnOnce(&Self)) {
        act(self);
        let mut expected = self.before.clone();
        for counter in counters {
            *expected.entry((*counter).to_owned()).or_default() += 1;
        }
        until(&format!("{counters:?} are counted"), || {
            let counted = self.counted();
            let missing = expected.iter().any(|(name, count)| counted.get(name) < Some(count));
            assert!(missing || counted == expected, "{counters:?}: {counted:?}, {expected:?}");
            !missing
        });
        self.before = expected;
        until("each verdict is a hit of what decided", || {
            let text = self.text();
            sum(&text, "rule_hits") == sum(&text, "verdicts")
        });
    }

    fn gateway(&self) -> IpAddr {
        self.controlled.guest.gateway(Family::V4)
    }

    /// A datagram for the gateway's `port`.
    fn send(&self, port: u16, bytes: &[u8]) -> UdpSocket {
        let socket = self.controlled.guest.datagrams((self.gateway(), port));
        socket.send(bytes).unwrap();
        socket
    }

    /// What a connection to `to` ends with on which `words` are said.
    fn say(&self, to: impl Into<SocketAddr>, words: &str) -> std::io::Result<String> {
        let mut stream = self.controlled.guest.try_connect(to)?;
        stream.write_all(words.as_bytes())?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map(|_| said)
    }

    /// Asks for `name`, and waits for what comes.
    fn ask(&self, name: &str, kind: u16) {
        self.send(53, &query(7, name, kind)).recv(&mut [0; 512]).unwrap();
    }

    fn ping(&self, words: &[&str]) {
        process::run(self.controlled.guest.command("ping").args(["-c1", "-W1"]).args(words));
    }

    fn fetch(&self, (site, name): (&Site, &str), words: &[&str]) -> String {
        let mut curl = self.controlled.guest.command("curl");
        let resolve = format!("{name}:{}:{}", site.port, self.gateway());
        curl.args(["-sSk", "-m", "30", "-w", "%{http_code}", "-o", "/dev/null"]);
        let curl = curl.args(["--resolve", &resolve]).args(words).arg(site.url(name, "/"));
        process::run(curl).output
    }

    /// Somebody on this host, at `from`, who calls the published port.
    fn call(&self, from: [u8; 4]) -> TcpStream {
        let ports = self.controlled.json(&["ports"]);
        let port: SocketAddr = ports["ports"][0]["host"].as_str().unwrap().parse().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(&port.into()).unwrap();
        socket.into()
    }
}

const ALLOW_TCP: &str = "verdicts{decision=allow,kind=tcp}";
const DENY_TCP: &str = "verdicts{decision=deny,kind=tcp}";
const ALLOW_UDP: &str = "verdicts{decision=allow,kind=udp}";
const DENY_UDP: &str = "verdicts{decision=deny,kind=udp}";
const ALLOW_NAME: &str = "verdicts{decision=allow,kind=name}";
const DENY_NAME: &str = "verdicts{decision=deny,kind=name}";
const ALLOW_INBOUND: &str = "verdicts{decision=allow,kind=inbound}";
const POLICY: &str = "denials{reason=policy}";

fn is_reset<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| {
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
    })
}

#[test]
fn every_verdict_refusal_and_incident_is_counted_by_reason() {
    if !needs::are_met(&["curl", "ping"]) {
        return;
    }
    let mut scene = Scene::new();
    count_flows(&mut scene);
    count_names(&mut scene);
    scene.counts(&[DENY_TCP, "denials{reason=name_unknown}"], |scene| {
        assert!(is_reset(scene.say((NAMED, 8443), "SSH-2.0-words\r\n")));
    });
    count_calls(&mut scene);
    count_incidents(&mut scene);
    read_as_prometheus(&scene);
}

fn count_flows(scene: &mut Scene) {
    let echo = servers::echo(servers::listener(Family::V4));
    scene.counts(&[ALLOW_TCP], |scene| {
        echoes(&mut scene.controlled.guest.connect(Family::V4, echo)).unwrap();
    });
    let nobody = RefusingPort::new();
    scene.counts(&[ALLOW_TCP, "refusals{reason=refused}"], |scene| {
        assert!(is_reset(scene.say((scene.gateway(), nobody.port()), "")));
    });
    scene.counts(&[DENY_TCP, POLICY], |scene| {
        assert!(is_reset(scene.say((scene.gateway(), 22), "")));
    });
    scene.counts(&[DENY_TCP, POLICY, "deny_pages"], |scene| {
        let said = scene.say((scene.gateway(), 80), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert!(said.unwrap().starts_with("HTTP/1.1 403 "));
    });
    let datagrams = servers::datagrams(Family::V4);
    let port = datagrams.local_addr().unwrap().port();
    servers::echo_datagrams(datagrams);
    scene.counts(&[ALLOW_UDP], |scene| {
        scene.send(port, b"ask").recv(&mut [0; 16]).unwrap();
    });
    let nobody = servers::datagrams(Family::V4).local_addr().unwrap().port();
    scene.counts(&[ALLOW_UDP, "refusals{reason=refused}"], |scene| {
        assert!(is_reset(scene.send(nobody, b"ask").recv(&mut [0; 16])));
    });
    for (port, reason) in [
        (80, POLICY),
        (5353, "denials{reason=other_names}"),
        (scene.site.port, "denials{reason=quic}"),
    ] {
        scene.counts(&[DENY_UDP, reason], |scene| {
            scene.send(port, b"ask").recv(&mut [0; 16]).unwrap_err();
        });
    }
    scene.counts(&["verdicts{decision=deny,kind=icmp}", POLICY], |scene| {
        scene.ping(&["11.0.0.8"]);
    });
    scene.counts(&["refusals{reason=expired}"], |scene| scene.ping(&["-t1", "11.0.0.7"]));
    // What this host says to it is this host's own.
    scene.ping(&["11.0.0.7"]);
    let allowed = "verdicts{decision=allow,kind=icmp}";
    until("a ping is counted", || scene.counted().get(allowed) == Some(&1));
    scene.before = scene.counted();
}

fn count_names(scene: &mut Scene) {
    let asked = [ALLOW_UDP, ALLOW_NAME];
    scene.counts(&asked, |scene| scene.ask("a.named.test", A));
    let denied = [ALLOW_UDP, DENY_NAME, POLICY, "name_refusals{reason=denied}"];
    scene.counts(&denied, |scene| scene.ask("elsewhere.test", A));
    let rebound = ["denials{reason=rebinding}", "name_refusals{reason=rebinding}"];
    let rebound = [&asked[..], &[DENY_NAME], &rebound].concat();
    scene.counts(&rebound, |scene| scene.ask("i.named.test", A));
    for (name, kind, reason) in [
        ("silent.named.test", A, "name_refusals{reason=unreachable}"),
        ("m.named.test", A, "name_refusals{reason=malformed}"),
        ("z.named.test", 252, "name_refusals{reason=transfer}"),
    ] {
        let counters = [&asked[..], &[reason]].concat();
        scene.counts(&counters, |scene| scene.ask(name, kind));
    }
    scene.counts(&[ALLOW_UDP, "name_refusals{reason=query}"], |scene| {
        let mut update = query(7, "a.named.test", A);
        update[2] |= 5 << 3;
        scene.send(53, &update).recv(&mut [0; 512]).unwrap();
    });
}

fn count_calls(scene: &mut Scene) {
    let guest = &scene.controlled.guest;
    let inside = (guest.address(Family::V4), GUEST_PORT);
    let listener = guest.namespace().inside(|| std::net::TcpListener::bind(inside).unwrap());
    servers::echo(listener);
    let mut first = None;
    scene.counts(&[ALLOW_INBOUND], |scene| {
        let mut call = scene.call([127, 0, 0, 1]);
        echoes(&mut call).unwrap();
        first = Some(call);
    });
    scene.counts(&[ALLOW_INBOUND, "refusals{reason=exhausted}"], |scene| {
        assert!(is_reset(scene.call([127, 0, 0, 1]).read(&mut [0])));
    });
    scene.counts(&["verdicts{decision=deny,kind=inbound}", POLICY], |scene| {
        assert!(is_reset(scene.call([127, 0, 0, 2]).read(&mut [0])));
    });
}

fn count_incidents(scene: &mut Scene) {
    for secret in ["API_KEY", "SILENT"] {
        scene.counts(&[ALLOW_TCP, "incidents{kind=secret}"], |scene| {
            let field = format!("X: $MSB_{secret}");
            assert_eq!(scene.fetch((&scene.site, EVIL), &["-H", &field]), "403");
        });
    }
    scene.counts(&[ALLOW_TCP, "incidents{kind=authority}"], |scene| {
        assert_eq!(scene.fetch((&scene.site, GOOD), &["-H", "Host: other.test"]), "421");
    });
    scene.counts(&[ALLOW_TCP, "incidents{kind=server}"], |scene| {
        assert_eq!(scene.fetch((&scene.expired, GOOD), &[]), "000");
    });
}

/// The counters of a family, put together.
fn sum(text: &str, family: &str) -> u64 {
    let start = format!("sluicegate_{family}_total{{");
    let lines = text.lines().filter(|line| line.starts_with(&start));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

fn read_as_prometheus(scene: &Scene) {
    let (_, head, text) = scene.controlled.curl(&[], "/v1/metrics");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let mut reader =
        Process::start(Command::new("/usr/bin/python3").args(["-c", READER]).stdin(Stdio::piped()));
    reader.take_input().write_all(text.as_bytes()).unwrap();
    let read = reader.finish();
    assert_eq!(read.code, 0, "{}\n{text}", read.errors);
    for line in [
        "counter sluicegate_tcp_refused_total [] 1",
        "gauge sluicegate_flows [('protocol', 'udp')] ",
        "counter sluicegate_drops_total [('reason', 'fragment')] 0",
        "gauge sluicegate_ring_capacity_bytes [('way', 'to_guest')] 1048576",
        "gauge sluicegate_ring_frames [('way', 'from_guest')] 0",
        "gauge sluicegate_tcp_buffered_bytes [('way', 'from_guest')] 0",
        "counter sluicegate_adapter_drops_total [('reason', 'ring_full')] 0",
        "counter sluicegate_verdicts_total [('decision', 'deny'), ('kind', 'inbound')] 1",
        "counter sluicegate_rule_hits_total [('rule', '2')] 1",
        "counter sluicegate_rule_hits_total [('rule', 'platform')] 0",
        "counter sluicegate_denials_total [('reason', 'quic')] 1",
        "counter sluicegate_refusals_total [('reason', 'exhausted')] 1",
        "counter sluicegate_name_refusals_total [('reason', 'transfer')] 1",
        "counter sluicegate_incidents_total [('kind', 'secret')] 2",
        "counter sluicegate_deny_pages_total [] 1",
        // Three names were answered, three handshakes ended, and one server that is not intercepted
        // took a connection.
        "histogram sluicegate_dns_seconds_count [] 3",
        "histogram sluicegate_tls_handshake_seconds_count [] 3",
        "histogram sluicegate_tls_handshake_seconds_bucket [('le', '+Inf')] 3",
        "histogram sluicegate_connect_seconds_count [] 1",
    ] {
        let is_there = |read: &str| read == line || (line.ends_with(' ') && read.starts_with(line));
        assert!(read.output.lines().any(is_there), "{line}:\n{}", read.output);
    }
    for sum in ["dns", "tls_handshake", "connect"] {
        let name = format!("histogram sluicegate_{sum}_seconds_sum [] ");
        let sum = read.output.lines().find_map(|line| line.strip_prefix(&name));
        assert!(sum.unwrap().parse::<f64>().unwrap() > 0.0, "{name}:\n{}", read.output);
    }
}
