//! A network is asked and changed while it runs: with `sluicegate ctl`, with curl, and by programs
//! that read metrics.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::guest::{Guest, Setup, sluicegate};
use crate::namespace::Namespace;
use crate::needs;
use crate::policy::{self, Outside};
use crate::process::{self, Finished, Process};
use crate::servers::{self, Family};
use crate::tls::{self, GOOD, Scratch, Site};
use crate::waiting::{PATIENCE, now, until};

/// A guest that is served under `config`, and the socket that it is asked at.
pub(crate) struct Controlled {
    pub(crate) guest: Guest,
    socket: PathBuf,
    _scratch: Scratch,
}

impl Controlled {
    pub(crate) fn new(config: Value) -> Self {
        Self::on(None, config)
    }

    /// The same, served from `host`; `None`: from where this test runs.
    fn on(host: Option<&Namespace>, config: Value) -> Self {
        Self::with(Setup { config: Some(config), host, ..Setup::default() })
    }

    fn with(setup: Setup<'_>) -> Self {
        let scratch = Scratch::new("control");
        let socket = scratch.0.join("control");
        let setup = Setup { control: Some(socket.clone()), ..setup };
        Self { guest: Guest::with(&setup), socket, _scratch: scratch }
    }

    fn ctl(&self, arguments: &[&str]) -> Command {
        let mut command = sluicegate();
        command.arg("ctl").arg("--control").arg(&self.socket).args(arguments);
        command
    }

    pub(crate) fn json(&self, what: &[&str]) -> Value {
        serde_json::from_str(&process::succeed(&mut self.ctl(what))).unwrap()
    }

    /// The flows but those on which names are asked.
    fn flows(&self) -> Vec<Value> {
        let flows = self.json(&["flows", "--json"])["flows"].as_array().unwrap().clone();
        flows.into_iter().filter(|flow| !peer(flow).ends_with(":53")).collect()
    }

    /// Lets `config` hold.
    fn put(&self, config: &Value) -> Finished {
        let mut process = Process::start(self.ctl(&["put", "-"]).stdin(Stdio::piped()));
        process.take_input().write_all(config.to_string().as_bytes()).unwrap();
        process.finish()
    }

    /// curl at the socket: the status, the headers, and the body.
    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> (u16, String, String) {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "30", "-i", "--unix-socket"]).arg(&self.socket).args(arguments);
        let answer = process::succeed(curl.arg(format!("http://localhost{path}")));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }
}

fn peer(flow: &Value) -> &str {
    flow["peer"].as_str().unwrap()
}

fn allow_all() -> Value {
    json!({ "policy": { "default_egress": "allow", "default_ingress": "allow" } })
}

/// One that lets the guest reach these ports of this host, and nothing else.
fn only(ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports.iter().map(|p| json!({ "start": p, "end": p })).collect();
    json!({ "policy": { "default_egress": "deny", "rules": [{
        "direction": "egress", "destination": { "group": "host" }, "ports": ports,
        "action": "allow" }] } })
}

/// What comes back on `stream` of what is written to it.
pub(crate) fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"echo")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)
}

#[test]
fn a_policy_that_changes_resets_what_it_forbids_and_nothing_else() {
    if !needs::are_met(&[]) {
        return;
    }
    let controlled = Controlled::new(allow_all());
    let guest = &controlled.guest;
    let ports = [(); 2].map(|()| servers::echo(servers::listener(Family::V4)));
    let mut streams = ports.map(|port| guest.connect(Family::V4, port));
    streams.iter_mut().for_each(|stream| echoes(stream).unwrap());
    let shown = controlled.flows();
    let mut peers: Vec<&str> = shown.iter().map(peer).collect();
    peers.sort_unstable();
    let gateway = guest.gateway(Family::V4);
    let mut expected = ports.map(|port| SocketAddr::new(gateway, port).to_string());
    expected.sort_unstable();
    assert_eq!(peers, expected);
    for flow in &shown {
        assert_eq!((&flow["state"], &flow["by"]), (&json!("open"), &json!("default")), "{flow}");
        assert_eq!((&flow["from_guest_bytes"], &flow["to_guest_bytes"]), (&json!(4), &json!(4)));
    }
    let done = controlled.put(&only(&ports[..1]));
    assert_eq!(done.code, 0, "{}", done.errors);
    echoes(&mut streams[0]).unwrap();
    let error = echoes(&mut streams[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let again = guest.try_connect((gateway, ports[1])).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::ConnectionRefused);
    let flows = controlled.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!((&flows[0]["by"], &flows[0]["rule"]), (&json!("rule"), &json!(0)));
    assert_eq!(process::succeed(&mut controlled.ctl(&["config", "--number"])), "2\n");
    // The rule has let nobody in since it holds, and the default has refused one.
    let rules = controlled.json(&["rules", "--json"]);
    let allows = format!("allow everything to host, port {}", ports[0]);
    assert_eq!(rules["rules"][0], json!({ "by": "rule", "rule": 0, "does": allows, "hits": 0 }));
    assert_eq!(rules["rules"][1]["hits"], json!(1), "{rules}");
    guest.connect(Family::V4, ports[0]);
    let rules = process::succeed(&mut controlled.ctl(&["rules"]));
    let lines: Vec<Vec<&str>> =
        rules.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1].join(" "), format!("1 rule 0 {allows}"), "{rules}");
    assert_eq!(lines[2], ["1", "default"], "{rules}");
    // And as it was.
    assert_eq!(controlled.put(&allow_all()).code, 0);
    echoes(&mut guest.connect(Family::V4, ports[1])).unwrap();
}

#[test]
fn what_is_public_after_a_change_never_includes_this_host() {
    if !needs::are_met(&["curl", "sh", "seq", "sed"]) {
        return;
    }
    let outside = Outside::new();
    let own = ["11.0.0.1", "[2600:0:0:11::1]"].map(|own| policy::serve(&outside.host, own));
    let elsewhere = policy::serve(&outside.neighbour, "11.0.0.2");
    let public = json!({ "policy": { "rules": [{
        "direction": "egress", "destination": { "group": "public" }, "action": "allow" }] } });
    let refused = 7;
    // Neither of the first speaks of what is public.
    let anywhere = json!({ "direction": "egress", "destination": "any", "action": "deny" });
    for first in [json!([]), json!([anywhere])] {
        let first = json!({ "policy": { "default_egress": "deny", "rules": first } });
        let controlled = Controlled::on(Some(&outside.host), first);
        assert_eq!(controlled.put(&public).code, 0);
        assert_eq!(policy::fetch(&controlled.guest, elsewhere), 0);
        for own in own {
            assert_eq!(policy::fetch(&controlled.guest, own), refused, "{own}");
        }
    }
    // One that does not depend on the list starts where that is too long, and then nothing is
    // public.
    policy::addresses(&outside.host, 257, "add");
    let controlled = Controlled::on(Some(&outside.host), allow_all());
    assert_eq!(policy::fetch(&controlled.guest, elsewhere), 0);
    assert_eq!(controlled.put(&public).code, 0);
    for end in [own[0], elsewhere] {
        assert_eq!(policy::fetch(&controlled.guest, end), refused, "{end}");
    }
    policy::addresses(&outside.host, 257, "del");
    until("it has few addresses", || policy::fetch(&controlled.guest, elsewhere) == 0);
    assert_eq!(policy::fetch(&controlled.guest, own[0]), refused);
}

#[test]
fn limits_of_flows_are_lowered_below_what_is_open_and_raised_again() {
    if !needs::are_met(&[]) {
        return;
    }
    let limited = |tcp: u32, udp: u32| {
        let mut config = allow_all();
        config["max_connections"] = json!(tcp);
        config["max_udp_connections"] = json!(udp);
        config
    };
    let controlled = Controlled::new(limited(3, 8));
    let guest = &controlled.guest;
    let port = servers::echo(servers::listener(Family::V4));
    let to = (guest.gateway(Family::V4), port);
    let datagrams = servers::datagrams(Family::V4);
    let asked = (to.0, datagrams.local_addr().unwrap().port());
    servers::echo_datagrams(datagrams);
    let mut streams: Vec<_> = (0..3).map(|_| guest.connect(Family::V4, port)).collect();
    let askers = [(); 3].map(|()| guest.datagrams(asked));
    let ask = |asker: &std::net::UdpSocket| {
        asker.send(b"ask").unwrap();
        assert_eq!(asker.recv(&mut [0; 16]).unwrap(), 3);
    };
    askers.iter().for_each(ask);
    let ends = |protocol: &str| -> Vec<String> {
        let flows = controlled.flows();
        let flows = flows.iter().filter(|flow| flow["protocol"] == protocol);
        flows.map(|flow| flow["guest"].as_str().unwrap().to_owned()).collect()
    };
    let done = controlled.put(&limited(1, 1));
    assert_eq!(done.code, 0, "{}", done.errors);
    streams.iter_mut().for_each(|stream| echoes(stream).unwrap());
    assert_eq!(ends("udp"), [askers[2].local_addr().unwrap().to_string()], "used last");
    ask(&askers[0]);
    assert_eq!(ends("udp").len(), 1);
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    assert!(guest.try_connect(to).is_err_and(refused));
    streams.drain(..2);
    until("two have ended", || ends("tcp").len() == 1);
    assert!(guest.try_connect(to).is_err_and(refused), "there is still the one");
    assert_eq!(controlled.put(&limited(4, 8)).code, 1, "there never was memory for that");
    assert!(guest.try_connect(to).is_err_and(refused));
    assert_eq!(controlled.put(&limited(3, 8)).code, 0);
    streams.push(guest.connect(Family::V4, port));
    streams.iter_mut().for_each(|stream| echoes(stream).unwrap());
}

#[test]
fn a_configuration_that_is_refused_changes_nothing_and_says_why() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let controlled = Controlled::new(allow_all());
    let port = servers::echo(servers::listener(Family::V4));
    let mut stream = controlled.guest.connect(Family::V4, port);
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let in_use = held.local_addr().unwrap().port();
    let before = controlled.json(&["config"]);
    let deny = |more: Value| {
        let mut config = json!({ "policy": { "default_egress": "deny" } });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        config
    };
    for (config, words) in [
        (deny(json!({ "polizy": {} })), "did you mean `policy`"),
        (deny(json!({ "interface": { "mac": "02:00:00:00:00:99" } })), "interface: another link"),
        (deny(json!({ "trust_host_cas": true })), "trust_host_cas: true"),
        (deny(json!({ "outbound": { "device": "lo" } })), "outbound: another way out"),
        (
            deny(json!({ "tls": { "enabled": true, "upstream_ca_cert": ["/nowhere.pem"] } })),
            "/nowhere.pem",
        ),
        (deny(json!({ "max_connections": 5000 })), "max_connections: 5000 (4096 at the start)"),
        (
            deny(json!({ "ports": [{ "host_port": in_use, "guest_port": 1 }] })),
            "can't be published",
        ),
        (deny(json!({ "dns": { "query_timeout_ms": 0 } })), "dns.query_timeout_ms: 0"),
        (json!("not an object"), "invalid type"),
    ] {
        let refused = controlled.put(&config);
        assert_eq!(refused.code, 1, "{config}");
        assert!(refused.errors.contains(words), "{config}: {}", refused.errors);
        assert!(refused.errors.starts_with("sluicegate: standard input: "), "{refused:?}");
        assert_eq!(controlled.json(&["config"]), before, "{config}");
        echoes(&mut stream).unwrap();
    }
    // Who has seen another than what holds is told so, and may look again.
    let stale = ["put", "--if-version", "7", "/dev/null"];
    let refused = process::run(&mut controlled.ctl(&stale));
    assert_eq!(refused.code, 1);
    let long = format!("{{\"policy\": \"{}\"}}", "x".repeat(1024 * 1024));
    let scratch = Scratch::new("long");
    let file = scratch.0.join("file");
    std::fs::write(&file, long).unwrap();
    let data = format!("@{}", file.display());
    let put = ["-X", "PUT", "-H", "Expect:", "--data-binary", &data];
    assert_eq!(controlled.curl(&put, "/v1/config").0, 413);
    assert_eq!(controlled.curl(&["-X", "PUT", "-d", "{"], "/v1/config").0, 400);
    let stale = ["-X", "PUT", "-d", "{}", "-H", "If-Match: \"7\""];
    assert_eq!(controlled.curl(&stale, "/v1/config").0, 412);
    let wrong = ["-X", "PUT", "-d", "{}", "-H", "If-Match: seven"];
    assert_eq!(controlled.curl(&wrong, "/v1/config").0, 400);
    assert_eq!(controlled.curl(&[], "/v1/nothing").0, 404);
    assert_eq!(controlled.curl(&[], "/").0, 404);
    let (status, head, _) = controlled.curl(&["-X", "POST"], "/v1/flows");
    assert!(status == 405 && head.contains("allow: get"), "{head}");
    let (status, head, body) = controlled.curl(&[], "/v1/config");
    assert!(status == 200 && head.contains("etag: \"1\""), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), before);
    let (status, head, _) =
        controlled.curl(&["-X", "PUT", "-d", "{}", "-H", "If-Match: \"1\""], "/v1/config");
    assert!(status == 200 && head.contains("etag: \"2\""), "{head}");
    echoes(&mut stream).unwrap_err();
}

#[test]
fn what_is_shown_can_be_put_back_and_has_no_value_of_a_secret() {
    if !needs::are_met(&[]) {
        return;
    }
    let mut config = allow_all();
    config["tls"] = json!({ "enabled": true });
    config["strict"] = json!(false);
    config["secrets"] = json!({ "secrets": [
        { "env_var": "KEY", "value": "not-to-be-seen", "allowed_hosts": ["api.test"] }] });
    let controlled = Controlled::new(config);
    let shown = controlled.json(&["config"]);
    assert!(!shown.to_string().contains("not-to-be-seen"), "{shown}");
    assert_eq!(shown["strict"], json!(false));
    let done = controlled.put(&shown);
    assert_eq!(done.code, 0, "the value is kept: {}", done.errors);
    assert_eq!(controlled.json(&["config"]), shown);
    // Of another secret there is none to be kept.
    let mut other = shown.clone();
    other["secrets"]["secrets"][0]["env_var"] = json!("OTHER");
    let refused = controlled.put(&other);
    assert!(refused.errors.contains("secrets.secrets[].value: OTHER"), "{}", refused.errors);
}

#[test]
fn ports_are_published_and_withdrawn_and_those_that_stay_do_not_notice() {
    if !needs::are_met(&[]) {
        return;
    }
    let port = |guest_port: u16, protocol: &str| {
        let mut port = json!({ "host_port": 0, "guest_port": guest_port });
        port["protocol"] = json!(protocol);
        port
    };
    let with = |ports: &[Value]| {
        let mut config = allow_all();
        config["ports"] = json!(ports);
        config
    };
    let controlled = Controlled::new(with(&[port(7001, "tcp"), port(7002, "tcp")]));
    let guest = &controlled.guest;
    for inside in [7001, 7002, 7003] {
        let address = guest.address(Family::V4);
        let listener = guest.namespace().inside(|| std::net::TcpListener::bind((address, inside)));
        servers::echo(listener.unwrap());
    }
    let published = || -> Vec<(u64, SocketAddr)> {
        let ports = controlled.json(&["ports"]);
        let ports = ports["ports"].as_array().unwrap().iter();
        ports
            .map(|p| {
                (p["guest_port"].as_u64().unwrap(), p["host"].as_str().unwrap().parse().unwrap())
            })
            .collect()
    };
    let connect = |to: SocketAddr| {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        std::io::Result::Ok(stream)
    };
    let first = published();
    let mut streams = [0, 1].map(|index| connect(first[index].1).unwrap());
    streams.iter_mut().for_each(|stream| echoes(stream).unwrap());
    let datagrams = port(7004, "udp");
    let done = controlled.put(&with(&[port(7003, "tcp"), port(7002, "tcp"), datagrams.clone()]));
    assert_eq!(done.code, 0, "{}", done.errors);
    let second = published();
    assert_eq!(second[1], first[1], "the one that stays is where it was");
    assert_eq!(connect(first[0].1).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    echoes(&mut connect(second[0].1).unwrap()).unwrap();
    echoes(&mut connect(second[1].1).unwrap()).unwrap();
    // As where any program closes its listener, connections stay.
    streams.iter_mut().for_each(|stream| echoes(stream).unwrap());
    let peer = servers::datagrams(Family::V4);
    peer.connect(second[2].1).unwrap();
    let address = guest.address(Family::V4);
    let inside = guest.namespace().inside(|| std::net::UdpSocket::bind((address, 7004)).unwrap());
    servers::echo_datagrams(inside);
    peer.send(b"ask").unwrap();
    assert_eq!(peer.recv(&mut [0; 16]).unwrap(), 3);
    // A port of datagrams goes with what came by it; its place may be another's.
    assert_eq!(controlled.put(&with(&[port(7001, "tcp")])).code, 0);
    until("the flow of datagrams ends", || {
        controlled.flows().iter().all(|flow| flow["protocol"] == "tcp")
    });
    echoes(&mut connect(published()[0].1).unwrap()).unwrap();
    assert_eq!(controlled.put(&with(&[datagrams])).code, 0);
    peer.connect(published()[0].1).unwrap();
    peer.send(b"once more").unwrap();
    assert_eq!(peer.recv(&mut [0; 16]).unwrap(), 9);
}

#[test]
fn the_ports_of_who_runs_a_tenant_stay_whatever_that_writes() {
    if !needs::are_met(&[]) {
        return;
    }
    let words = &["--profile", "multi-tenant", "-p", "127.0.0.1:0:7001"];
    let open = json!({ "policy": { "default_egress": "allow", "default_ingress": "allow" } });
    let config = Some(open.clone());
    let controlled = Controlled::with(Setup { config, words, ..Setup::default() });
    let guest = &controlled.guest;
    let inside = (guest.address(Family::V4), 7001);
    let listener = guest.namespace().inside(|| std::net::TcpListener::bind(inside).unwrap());
    servers::echo(listener);
    let shown = controlled.json(&["config"]);
    assert_eq!(shown["ports"][0]["guest_port"], json!(7001), "{shown}");
    let ports = controlled.json(&["ports"]);
    let port: SocketAddr = ports["ports"][0]["host"].as_str().unwrap().parse().unwrap();
    let mut written = open;
    written["ports"] = json!([{ "host_port": 0, "guest_port": 7002 }]);
    written["dns"] = json!({ "rebind_protection": false });
    written["interface"] = json!({ "mtu": 1500 });
    let done = controlled.put(&written);
    assert_eq!(done.code, 0, "{}", done.errors);
    assert_eq!(controlled.json(&["config"]), shown, "what a tenant can't say does not hold");
    assert_eq!(controlled.json(&["ports"]), ports);
    let mut stream = TcpStream::connect(port).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    echoes(&mut stream).unwrap();
    assert_eq!(controlled.put(&shown).code, 0, "what is shown can be put back");
    assert_eq!(controlled.json(&["ports"]), ports);
    echoes(&mut stream).unwrap();
}

#[test]
fn a_flow_is_ended_by_its_number() {
    if !needs::are_met(&[]) {
        return;
    }
    let controlled = Controlled::new(allow_all());
    let port = servers::echo(servers::listener(Family::V6));
    let mut streams = [(); 2].map(|()| controlled.guest.connect(Family::V6, port));
    streams.iter_mut().for_each(|stream| echoes(stream).unwrap());
    let guest = streams[0].local_addr().unwrap().to_string();
    let flows = controlled.flows();
    let flow = flows.iter().find(|flow| flow["guest"] == guest.as_str()).unwrap();
    let id = flow["id"].to_string();
    assert!(process::succeed(&mut controlled.ctl(&["flows"])).contains(&id), "{id}");
    process::succeed(&mut controlled.ctl(&["end", &id]));
    assert_eq!(echoes(&mut streams[0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    echoes(&mut streams[1]).unwrap();
    // One that has ended keeps no other from its end.
    let guest = streams[1].local_addr().unwrap().to_string();
    let flows = controlled.flows();
    let other = flows.iter().find(|flow| flow["guest"] == guest.as_str()).unwrap();
    let twice = process::run(&mut controlled.ctl(&["end", &id, &other["id"].to_string()]));
    assert!(twice.code == 1 && twice.errors.contains(&format!("flow {id}")), "{}", twice.errors);
    assert_eq!(echoes(&mut streams[1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let word = process::run(&mut controlled.ctl(&["end", "first"]));
    assert!(word.code == 2 && word.errors.contains("not the number of a flow"), "{word:?}");
    // The socket may be named behind what is asked, or in the environment, and must be somewhere.
    let mut behind = sluicegate();
    process::succeed(behind.args(["ctl", "flows", "--control"]).arg(&controlled.socket));
    let mut named = sluicegate();
    process::succeed(named.env("SLUICEGATE_CONTROL", &controlled.socket).args(["ctl", "flows"]));
    let nowhere =
        process::run(sluicegate().env_remove("SLUICEGATE_CONTROL").args(["ctl", "flows"]));
    assert!(nowhere.code == 2 && nowhere.errors.contains("SLUICEGATE_CONTROL"), "{nowhere:?}");
}

#[test]
fn events_come_as_they_are_until_the_network_ends() {
    if !needs::are_met(&[]) {
        return;
    }
    let controlled = Controlled::new(only(&[1]));
    let events = Process::start(&mut controlled.ctl(&["events"]));
    // They come from when somebody listens.
    let gateway = controlled.guest.gateway(Family::V4);
    until("an event is told", || {
        controlled.guest.try_connect((gateway, 4242)).unwrap_err();
        events.output().contains("\"destination_port\":4242")
    });
    let (engine, _namespace) = controlled.guest.into_parts();
    engine.signal(rustix::process::Signal::TERM);
    assert_eq!(engine.finish().code, 0);
    events.finish();
    assert!(!controlled.socket.exists(), "the socket goes with the network");
}

#[test]
fn the_socket_is_for_this_user_and_root_alone() {
    if !needs::are_met(&["setpriv", "curl"]) {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let controlled = Controlled::new(allow_all());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&controlled.socket) & 0o777, 0o600);
    // Somebody opens it to everybody: who comes is looked at all the same.
    std::fs::set_permissions(&controlled.socket, PermissionsExt::from_mode(0o777)).unwrap();
    let folder = controlled.socket.parent().unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS", "-m", "30"]);
    nobody.arg("--unix-socket").arg(&controlled.socket);
    let refused = process::run(nobody.arg("http://localhost/v1/flows"));
    assert!(refused.code != 0 && refused.output.is_empty(), "{refused:?}");
    assert_eq!(controlled.curl(&[], "/v1/flows").0, 200);
}

#[test]
fn who_holds_the_socket_open_keeps_nobody_else_from_it_for_long() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let controlled = Controlled::new(allow_all());
    let connect = || std::os::unix::net::UnixStream::connect(&controlled.socket).unwrap();
    // Who begins a configuration and sends no more of it.
    let slow = connect();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    (&slow)
        .write_all(
            b"PUT /v1/config HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\
          Content-Length: 9\r\n\r\n{",
        )
        .unwrap();
    let mut said = String::new();
    (&slow).read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    let silent: Vec<_> = (0..16).map(|_| connect()).collect();
    // Each is given up after its time for a head.
    assert_eq!(controlled.curl(&[], "/v1/flows").0, 200);
    drop(silent);
}

/// What is done over and over while changes are made, and how often it was.
struct Load<'l> {
    what: &'static str,
    act: Box<dyn FnMut() -> std::io::Result<()> + Send + 'l>,
    count: AtomicU32,
}

impl<'l> Load<'l> {
    fn new(what: &'static str, act: impl FnMut() -> std::io::Result<()> + Send + 'l) -> Self {
        Self { what, act: Box::new(act), count: AtomicU32::new(0) }
    }
}

/// Datagrams that are echoed: on one flow, and now and then on a new one.
fn asks<'g>(guest: &'g Guest, to: (IpAddr, u16)) -> impl FnMut() -> std::io::Result<()> + 'g {
    let (mut socket, mut count) = (guest.datagrams(to), 0_u32);
    move || {
        count += 1;
        if count.is_multiple_of(16) {
            socket = guest.datagrams(to);
        }
        let asked = count.to_be_bytes();
        socket.send(&asked)?;
        let mut heard = [0; 4];
        socket.recv(&mut heard)?;
        assert_eq!(heard, asked);
        Ok(())
    }
}

#[test]
fn a_hundred_changes_a_second_drop_nothing_that_stays_allowed() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    const BYTES: usize = 400_000_000;
    const CHANGES: u32 = 200;
    const EACH_MIN: u32 = 100;
    const GUEST_PORT: u16 = 7001;
    let port = servers::http(servers::listener(Family::V4));
    let echo = servers::echo(servers::listener(Family::V4));
    let datagrams = servers::datagrams(Family::V4);
    let asked = datagrams.local_addr().unwrap().port();
    servers::echo_datagrams(datagrams);
    let config = |spare: u16| {
        let mut config = only(&[port, echo, asked, spare]);
        config["policy"]["default_ingress"] = json!("allow");
        config["ports"] = json!([{ "host_port": 0, "guest_port": GUEST_PORT }]);
        config
    };
    let controlled = Controlled::new(config(1));
    let guest = &controlled.guest;
    let inside = (guest.address(Family::V4), GUEST_PORT);
    let listener = guest.namespace().inside(|| std::net::TcpListener::bind(inside).unwrap());
    servers::echo(listener);
    let ports = controlled.json(&["ports"]);
    let published: SocketAddr = ports["ports"][0]["host"].as_str().unwrap().parse().unwrap();
    let gateway = guest.gateway(Family::V4);
    let mut curl = guest.command("curl");
    curl.args(["-sSf", "-m", "120", "-o", "/dev/null", "-w", "%{size_download}"]);
    let download = Process::start(curl.arg(format!("http://{gateway}:{port}/{BYTES}")));
    until("bytes pass", || {
        let flows = controlled.flows();
        flows.iter().any(|flow| flow["to_guest_bytes"].as_u64() > Some(1_000_000))
    });
    let mut loads = [
        Load::new("connections", || echoes(&mut guest.try_connect((gateway, echo))?)),
        Load::new("datagrams", asks(guest, (gateway, asked))),
        Load::new("calls", || {
            let mut stream = TcpStream::connect(published)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            echoes(&mut stream)
        }),
    ];
    // Each is a rule more or less, and holds before the next is sent.
    let mut socket = std::os::unix::net::UnixStream::connect(&controlled.socket).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let is_over = AtomicBool::new(false);
    let (mut change, began) = (0, now());
    std::thread::scope(|scope| {
        let counts = loads.each_mut().map(|Load { what, act, count }| {
            let (count, is_over) = (&*count, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    act().unwrap_or_else(|error| panic!("{what}: {error}"));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            count
        });
        let _over = Over(&is_over);
        while change < CHANGES || counts.iter().any(|c| c.load(Ordering::Relaxed) < EACH_MIN) {
            assert!(began.elapsed() < PATIENCE, "{change} changes, and {counts:?}");
            put_on(&mut socket, &config(20_000 + u16::try_from(change % 50).unwrap()), change + 2);
            change += 1;
        }
    });
    let a_second = f64::from(change) / began.elapsed().as_secs_f64();
    let counts = loads.each_ref().map(|load| (load.what, load.count.load(Ordering::Relaxed)));
    println!("{a_second:.0} changes a second under load, {change} beside {counts:?}");
    assert_eq!(controlled.json(&["ports"]), ports);
    let loaded = download.finish();
    assert_eq!((loaded.code, loaded.output), (0, BYTES.to_string()), "{}", loaded.errors);
}

/// Ends what waits for it, however a test ends.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets `config` hold, as change number `version`.
fn put_on(socket: &mut std::os::unix::net::UnixStream, config: &Value, version: u32) {
    let text = config.to_string();
    let head = format!("PUT /v1/config HTTP/1.1\r\nHost: l\r\nContent-Length: {}", text.len());
    socket.write_all(format!("{head}\r\n\r\n{text}").as_bytes()).unwrap();
    let mut answer = vec![0; 8192];
    let len = socket.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("etag: \"{version}\"")), "{answer}");
}

/// What tshark reads in `file`: of each packet the columns `fields`.
fn tshark(file: &std::path::Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-T", "fields", "-r"]).arg(file);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let read = process::succeed(&mut tshark);
    read.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn a_capture_is_read_by_tshark_and_says_why_a_frame_was_dropped() {
    if !needs::are_met(&["tshark"]) {
        return;
    }
    let port = servers::echo(servers::listener(Family::V4));
    let controlled = Controlled::new(only(&[port]));
    let file = controlled.socket.with_file_name("guest.pcapng");
    let recorder = Process::start(controlled.ctl(&["capture"]).arg(&file));
    let len = || std::fs::metadata(&file).map_or(0, |file| file.len());
    until("the capture has begun", || len() > 0);
    let mut stream = controlled.guest.connect(Family::V4, port);
    echoes(&mut stream).unwrap();
    let gateway = controlled.guest.gateway(Family::V4);
    let refused = controlled.guest.try_connect((gateway, 4242)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let flows = controlled.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    let is_there = |packets: &[Vec<String>]| packets.iter().any(|p| p[0] == "dropped: denied");
    let fields = ["frame.comment", "tcp.dstport", "tcp.flags.syn", "frame.packet_flags_direction"];
    until("what was denied is in the file", || is_there(&tshark(&file, &fields)));
    let packets = tshark(&file, &fields);
    let denied: Vec<_> = packets.iter().filter(|packet| packet[0] == "dropped: denied").collect();
    assert_eq!(denied.len(), 1, "{packets:?}");
    assert_eq!(denied[0][1..3], ["4242", "1"], "{denied:?}");
    // Both directions, and the payload.
    let port = port.to_string();
    let to = packets.iter().any(|p| p[1] == port && p[3] == "0x00000001");
    let from = packets.iter().any(|p| p[1] != port && p[3] == "0x00000002");
    assert!(to && from, "{packets:?}");
    let payloads = tshark(&file, &["tcp.payload"]);
    assert_eq!(payloads.iter().filter(|p| p[0] == "6563686f").count(), 2, "{payloads:?}");
    // Another capture ends this one, in order.
    let mut other = Process::start(controlled.ctl(&["capture", "-"]).stdout(Stdio::piped()));
    assert_eq!(recorder.finish().code, 0);
    other.wait_for("sluicegate");
    echoes(&mut stream).unwrap();
}

#[test]
fn a_capture_is_bounded_where_that_is_said_and_a_full_disk_ends_it_alone() {
    if !needs::are_met(&["tshark", "curl", "unshare"]) {
        return;
    }
    let port = servers::http(servers::listener(Family::V4));
    let controlled = Controlled::new(only(&[port]));
    let fetch = |bytes: u32| {
        let mut curl = controlled.guest.command("curl");
        curl.args(["-sSf", "-m", "60", "-o", "/dev/null"]);
        let gateway = controlled.guest.gateway(Family::V4);
        process::succeed(curl.arg(format!("http://{gateway}:{port}/{bytes}")));
    };
    let full = Process::start(&mut controlled.ctl(&["capture", "/dev/full"]));
    let ended = full.finish();
    assert!(ended.code == 1 && ended.errors.contains("/dev/full: No space left"), "{ended:?}");
    // And one that becomes full on the way, which only the capture sees.
    let small = controlled.socket.with_file_name("small");
    std::fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=512k none \"$0\" && exec \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script]).arg(&small);
    let ctl = controlled.ctl(&["capture"]);
    let record = unshare.arg(ctl.get_program()).args(ctl.get_args()).arg(small.join("a.pcapng"));
    let full = Process::start(record);
    until("the disk is full", || {
        fetch(1_000_000);
        full.errors().contains("No space left")
    });
    let ended = full.finish();
    assert!(ended.code == 1 && ended.errors.contains("a.pcapng: No space left"), "{ended:?}");
    fetch(1000);
    let file = controlled.socket.with_file_name("ring.pcapng");
    let mut ring = controlled.ctl(&["capture", "--size-max", "2000000"]);
    let recorder = Process::start(ring.arg(&file));
    let len = |file: &std::path::Path| std::fs::metadata(file).map_or(0, |file| file.len());
    until("the capture has begun", || len(&file) > 0);
    let before = file.with_file_name("ring.pcapng.1");
    until("the file was begun anew", || {
        fetch(1_000_000);
        before.exists()
    });
    recorder.signal(rustix::process::Signal::TERM);
    recorder.finish();
    for file in [&file, &before] {
        assert!(len(file) <= 1_000_000, "{}", len(file));
        assert!(!tshark(file, &["frame.number"]).is_empty(), "each is a capture");
    }
    fetch(1000);
}

#[test]
fn top_shows_the_flows_on_a_terminal_and_ends_when_it_is_told() {
    if !needs::are_met(&["script"]) {
        return;
    }
    let controlled = Controlled::new(allow_all());
    let port = servers::echo(servers::listener(Family::V4));
    let mut stream = controlled.guest.connect(Family::V4, port);
    echoes(&mut stream).unwrap();
    let program = sluicegate().get_program().to_owned().into_string().unwrap();
    let socket = controlled.socket.display();
    let command = format!("stty rows 30 cols 150; exec {program} top --control {socket}");
    let mut script = Command::new("script");
    script.args(["-qefc", &command, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped());
    let mut top = Process::start(&mut script);
    top.wait_for("flows, ");
    top.wait_for(&format!(":{port}"));
    top.take_input().write_all(b"q").unwrap();
    let ended = top.finish();
    assert_eq!(ended.code, 0, "{ended:?}");
    let pipe = process::run(sluicegate().arg("top").arg("--control").arg(&controlled.socket));
    assert!(pipe.code == 1 && pipe.errors.contains("top needs a terminal"), "{pipe:?}");
}

#[test]
fn who_ends_tls_changes_for_connections_that_are_new() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    /// curl's word for a server that nobody whom it trusts has signed.
    const UNKNOWN_AUTHORITY: i32 = 60;
    let site = Site::new(&["http/1.1"]);
    let mut config = tls::config(&site, json!({}));
    // They are of no use where nothing is intercepted, and refused.
    config.as_object_mut().unwrap().remove("secrets");
    let controlled = Controlled::new(config.clone());
    let resolve = format!("{GOOD}:{}:{}", site.port, controlled.guest.gateway(Family::V4));
    // It trusts the server's own authority, and not the gateway's.
    let fetch = || {
        let mut curl = controlled.guest.command("curl");
        curl.args(["-sS", "-m", "30", "-o", "/dev/null", "--cacert", site.authority()]);
        process::run(curl.args(["--resolve", &resolve]).arg(site.url(GOOD, "/"))).code
    };
    assert_eq!(fetch(), UNKNOWN_AUTHORITY, "it is intercepted");
    for (field, value, expected) in [
        ("bypass", json!([GOOD]), 0),
        ("bypass", json!([]), UNKNOWN_AUTHORITY),
        ("intercepted_ports", json!([site.port + 1]), 0),
        ("intercepted_ports", json!([site.port]), UNKNOWN_AUTHORITY),
        ("enabled", json!(false), 0),
        ("enabled", json!(true), UNKNOWN_AUTHORITY),
    ] {
        config["tls"][field] = value;
        let put = controlled.put(&config);
        assert_eq!((put.code, fetch()), (0, expected), "{field}: {put:?}");
    }
    // All of it or nothing.
    config["tls"]["bypass"] = json!([GOOD]);
    config["tls"]["upstream_ca_cert"] = json!(["/nowhere/ca.pem"]);
    let put = controlled.put(&config);
    assert!(put.code == 1 && put.errors.contains("/nowhere/ca.pem"), "{put:?}");
    assert_eq!(fetch(), UNKNOWN_AUTHORITY, "nothing has changed");
}
