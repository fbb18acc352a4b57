//! HTTP inside: what a client and a server say to each other is what they said.

use std::net::{Ipv6Addr, UdpSocket};
use std::process::Stdio;

use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use super::{EVIL, Flaw, GOOD, Site, VALUE, command, config, events, has, run, told};
use crate::guest::{ConfigFile, Guest, Setup};
use crate::needs;
use crate::process::{Finished, Process};
use crate::servers::Family;
use crate::waiting::{PATIENCE, until};

/// A client of Python's own, without a library of its own for what it says.
fn python(site: &Site, script: &str) -> Finished {
    python_under(&config(site, json!({})), site, script)
}

fn python_under(config: &Value, site: &Site, script: &str) -> Finished {
    let file = ConfigFile::new(config);
    let mut command = command(&file, "exec python3 - $0 $1");
    command.args([GOOD, &site.port.to_string()]).stdin(Stdio::piped());
    let mut process = Process::start(&mut command);
    std::io::Write::write_all(&mut process.take_input(), script.as_bytes()).unwrap();
    process.finish()
}

#[test]
fn the_client_has_the_protocol_that_the_server_chose() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for (protocols, asked, expected) in [
        (&["h2", "http/1.1"][..], "", "h2"),
        (&["h2", "http/1.1"], "--http1.1", "h1"),
        (&["http/1.1"], "", "h1"),
        (&[], "", "h1"),
    ] {
        let site = Site::new(protocols);
        let url = site.url(GOOD, "/a?b=c");
        let fields = "-H 'X-Mixed-Case: kept' --data-binary @-";
        let script = format!("printf 12345 | curl -sS -m 20 {asked} {fields} {url}");
        let finished = run(&config(&site, json!({})), &script);
        let told = told(&finished);
        assert_eq!(told["version"], expected, "{protocols:?} {asked}: {finished:?}");
        assert_eq!((&told["method"], &told["target"]), (&json!("POST"), &json!("/a?b=c")));
        assert_eq!((&told["body"], &told["len"]), (&json!("12345"), &json!(5)));
        let is_kept = has(&site.heard(), b"X-Mixed-Case: kept\r\n");
        assert_eq!(is_kept, expected == "h1", "HTTP/2 has no capitals, HTTP/1 keeps them");
    }
}

#[test]
fn bodies_of_any_length_pass_whole_both_ways() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        let site = Site::new(&["h2", "http/1.1"]);
        let (url, big) = (site.url(GOOD, "/"), site.url(GOOD, "/big"));
        let script = format!(
            "head -c 3000000 /dev/zero | curl -sS -m 20 {version} -T - {url} >/dev/null && \
             curl -sS -m 20 {version} {big} | wc -c && \
             head -c 3000000 /dev/zero | curl -sS -m 20 {version} -T - {url}"
        );
        let finished = run(&config(&site, json!({})), &script);
        assert!(finished.output.starts_with("3000000\n"), "{finished:?}");
        assert_eq!(told(&finished)["bytes"], 3_000_000);
        // Of a server that may have no secret nothing is looked for: it passes as it is.
        let other = run(&config(&site, json!({"secrets": {"secrets": []}})), &script);
        assert_eq!(told(&other)["bytes"], 3_000_000, "{other:?}");
    }
}

#[test]
fn events_come_when_they_are_sent() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        let site = Site::new(&["h2", "http/1.1"]);
        let file = ConfigFile::new(&config(&site, json!({})));
        let url = site.url(GOOD, "/events");
        let script = format!("exec curl -sSN -m 60 {version} {url}");
        let mut process = Process::start(&mut command(&file, &script));
        for number in 1..=3 {
            process.wait_for(&format!("data: event {number}\n\n"));
            assert!(!process.output().contains(&format!("event {}", number + 1)), "not before");
            site.go_on();
        }
        assert_eq!(process.finish().code, 0);
    }
}

#[test]
fn trailers_pass() {
    if !needs::are_met(&["nghttp"]) {
        return;
    }
    let site = Site::new(&["h2"]);
    let url = site.url(GOOD, "/trailers");
    let finished = run(&config(&site, json!({})), &format!("nghttp -nv {url}"));
    assert!(finished.output.contains("grpc-status: 7"), "{finished:?}");
    // A request's own; curl sends none. What might yet become a placeholder comes with them.
    let url = site.url(GOOD, "/");
    for (body, options) in [("", ""), ("word $", ""), ("word $", "--no-content-length")] {
        let script =
            format!("printf '{body}' | nghttp -v -d - {options} --trailer 'x-last: word' {url}",);
        let finished = run(&config(&site, json!({})), &script);
        assert!(finished.output.contains("x-last: word"), "{finished:?}");
        assert!(finished.output.contains(r#""trailers":["x-last: word"]"#), "{finished:?}");
        assert!(finished.output.contains(&format!(r#""body":"{body}""#)), "{finished:?}");
    }
}

#[test]
fn what_ends_early_is_no_end() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for (version, codes) in [("--http1.1", &[18, 56][..]), ("--http2", &[92, 18, 56])] {
        let site = Site::new(&["h2", "http/1.1"]);
        let url = site.url(GOOD, "/cut");
        let finished = run(&config(&site, json!({})), &format!("curl -sS -m 20 {version} {url}"));
        assert!(codes.contains(&finished.code), "{finished:?}");
    }
}

#[test]
fn a_connection_that_switches_is_bytes_where_there_is_no_secret() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let finished = python_under(
        &config(&site, json!({"secrets": {"secrets": []}})),
        &site,
        r#"
import socket, ssl, sys
name, port = sys.argv[1], int(sys.argv[2])
raw = socket.create_connection((name, port), timeout=20)
tls = ssl.create_default_context().wrap_socket(raw, server_hostname=name)
tls.sendall(f"GET /switch HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: upgrade\r\n"
            "Upgrade: websocket\r\n\r\n".encode())
head = b""
while not head.endswith(b"\r\n\r\n"):
    head += tls.recv(1)
print(head.split(b"\r\n")[0].decode())
for word in (b"one", b"\x00\xff two"):
    tls.sendall(word)
    heard = b""
    while len(heard) < len(word):
        heard += tls.recv(100)
    print(heard == word)
"#,
    );
    assert_eq!(finished.output, "HTTP/1.1 101 Switching Protocols\nTrue\nTrue\n", "{finished:?}");
}

#[test]
fn what_is_not_http_passes_and_the_server_may_speak_first() {
    if !needs::are_met(&["openssl"]) {
        return;
    }
    let site = Site::new(&["bytes"]);
    let secret = json!({"env_var": "OTHER", "value": VALUE, "allowed_hosts": ["elsewhere.test"]});
    let file = ConfigFile::new(&config(&site, json!({"secrets": {"secrets": [secret]}})));
    let script = format!(
        "exec openssl s_client -quiet -verify_return_error -alpn bytes -servername {GOOD} \
         -connect {GOOD}:{}",
        site.port
    );
    let mut process = Process::start(command(&file, &script).stdin(Stdio::piped()));
    process.wait_for("hello\n");
    let mut input = process.take_input();
    std::io::Write::write_all(&mut input, b"said back\n").unwrap();
    process.wait_for("said back\n");
    // A placeholder for whom it is not is found there, too, however it is cut: what makes it one
    // goes no further, and the connection ends.
    std::io::Write::write_all(&mut input, b"first $MSB_O").unwrap();
    process.wait_for("first $MSB_O");
    std::io::Write::write_all(&mut input, b"THER and more\n").unwrap();
    let finished = process.finish();
    assert!(has(&site.heard(), b"first $MSB_O"), "{finished:?}");
    assert!(!has(&site.heard(), b"THER") && !has(&site.heard(), b"and more"), "{finished:?}");
    let events = events(&finished);
    assert_eq!((events.len(), &events[0]["secret"]), (1, &json!("OTHER")), "{finished:?}");
}

#[test]
fn a_session_is_resumed() {
    if !needs::are_met(&["openssl"]) {
        return;
    }
    for (version, upstream) in [("-tls1_2", &TLS13), ("-tls1_3", &TLS13), ("-tls1_3", &TLS12)] {
        let site = Site::with(&["http/1.1"], Flaw::None, Some(&[upstream]));
        let script = format!(
            "c='openssl s_client {version} -verify_return_error -servername {GOOD} \
             -connect {GOOD}:{}'; d=$(mktemp); \
             printf 'GET / HTTP/1.0\\r\\nHost: {GOOD}\\r\\n\\r\\n' | $c -ign_eof -sess_out $d; \
             printf 'GET / HTTP/1.0\\r\\nHost: {GOOD}\\r\\n\\r\\n' | $c -ign_eof -sess_in $d",
            site.port
        );
        let finished = run(&config(&site, json!({})), &script);
        assert!(finished.output.contains("New, TLSv1"), "{finished:?}");
        assert!(finished.output.contains("Reused, TLSv1"), "{version}: {finished:?}");
        let server = (site.handshakes(), site.resumed());
        assert_eq!(server, (2, 1), "the server's, too: {version} {upstream:?}");
    }
}

#[test]
fn a_server_that_cannot_be_believed_is_told_in_an_alert() {
    if !needs::are_met(&["curl", "openssl"]) {
        return;
    }
    for (flaw, trusted, alert) in [
        (Flaw::Expired, true, "alert certificate expired"),
        (Flaw::SelfSigned, true, "alert unknown ca"),
        (Flaw::None, false, "alert unknown ca"),
        (Flaw::OtherName, true, "alert certificate unknown"),
    ] {
        let site = Site::with(&["http/1.1"], flaw, None);
        let trust = if trusted { json!([site.authority()]) } else { json!([]) };
        let more = json!({"tls": {"upstream_ca_cert": trust}});
        let curl = format!("curl -sS -m 20 {}", site.url(GOOD, "/"));
        let openssl = format!("openssl s_client -servername {GOOD} -connect {GOOD}:{}", site.port);
        let finished = run(&config(&site, more.clone()), &openssl);
        assert!(finished.errors.contains(alert), "{flaw:?}: {finished:?}");
        let events = events(&finished);
        assert_eq!((events.len(), &events[0]["reason"]), (1, &json!("server")), "{finished:?}");
        assert_eq!(site.handshakes(), 0, "nothing was said to it");
        // Whoever need not prove its name is spoken to, and has no secrets.
        let mut more = more;
        more["tls"]["scoped_verify_upstream"] = json!([{"pattern": GOOD, "verify": false}]);
        let secret = format!("{curl} -H \"X: $API_KEY\" -o /dev/null -w '%{{http_code}}'");
        let secret = secret.replace("$API_KEY", "$MSB_API_KEY").replace('"', "'");
        assert_eq!(run(&config(&site, more.clone()), &secret).output, "403");
        let plain = run(&config(&site, more), &curl);
        assert_eq!(told(&plain)["version"], "h1", "{flaw:?}");
    }
}

#[test]
fn a_server_that_wants_a_certificate_of_its_client_refuses_clearly() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for (version, protocol) in
        [(&TLS12, "http/1.1"), (&TLS13, "http/1.1"), (&TLS13, "h2"), (&TLS13, "bytes")]
    {
        let site = Site::wanting_a_certificate(&[protocol], version);
        let script = if protocol == "bytes" {
            format!(
                "exec openssl s_client -quiet -verify_return_error -alpn bytes -servername {GOOD} \
                 -connect {GOOD}:{}",
                site.port
            )
        } else {
            format!("curl -sS -m 20 -w '%{{http_code}}' {}", site.url(GOOD, "/"))
        };
        let finished = run(&config(&site, json!({})), &script);
        let events = events(&finished);
        assert_eq!((events.len(), &events[0]["reason"]), (1, &json!("server")), "{finished:?}");
        assert_eq!(site.handshakes(), 0, "{finished:?}");
        if version.version == rustls::ProtocolVersion::TLSv1_2 {
            // It says so within the handshake.
            assert!(finished.errors.contains("alert certificate required"), "{finished:?}");
        } else if protocol == "bytes" {
            assert_ne!(finished.code, 0, "{finished:?}");
        } else {
            assert!(finished.output.ends_with("502"), "{protocol}: {finished:?}");
            assert!(finished.output.contains("server_refused"), "{protocol}: {finished:?}");
        }
    }
}

#[test]
fn nobody_there_is_a_reset_and_silence_is_an_alert_in_time() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let mut site = Site::new(&["http/1.1"]);
    let closed = crate::servers::RefusingPort::new();
    site.port = closed.port();
    let curl = format!("curl -sS -m 20 {}", site.url(GOOD, "/"));
    let finished = run(&config(&site, json!({})), &curl);
    assert!(finished.errors.contains("reset by peer"), "{finished:?}");
    // One that accepts, and says nothing.
    let silent = crate::servers::listener(Family::V4);
    site.port = silent.local_addr().unwrap().port();
    let curl = format!("curl -sS -m 20 {}", site.url(GOOD, "/"));
    let finished = run(&config(&site, json!({})), &curl);
    assert!(finished.errors.contains("alert internal error"), "{finished:?}");
}

#[test]
fn versions_that_a_server_has_are_enough() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in [&TLS12, &TLS13] {
        let site = Site::with(&["h2", "http/1.1"], Flaw::None, Some(&[version]));
        for asked in ["--tls-max 1.2", "--tlsv1.3"] {
            let curl = format!("curl -sS -m 20 {asked} {}", site.url(GOOD, "/"));
            assert_eq!(told(&run(&config(&site, json!({})), &curl))["version"], "h2");
        }
    }
}

#[test]
fn an_authority_and_an_exception_count_for_those_they_are_for() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let ask = |name: &str, fields: serde_json::Value| {
        let mut more = json!({"tls": {"upstream_ca_cert": []}});
        more["tls"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        run(&config(&site, more), &format!("curl -sS -m 20 {}", site.url(name, "/")))
    };
    let authority = json!([{"pattern": GOOD, "path": site.authority()}]);
    let scoped = json!({"scoped_upstream_ca_cert": authority});
    let checked = json!([{"pattern": GOOD, "verify": true}]);
    let checked = json!({"verify_upstream": false, "scoped_verify_upstream": checked});
    for (believed, other, fields) in [(GOOD, EVIL, scoped), (EVIL, GOOD, checked)] {
        assert_eq!(told(&ask(believed, fields.clone()))["version"], "h1", "{fields}");
        let refused = ask(other, fields);
        assert!(refused.errors.contains("alert unknown ca"), "{refused:?}");
        assert_eq!(events(&refused).len(), 1, "{refused:?}");
    }
}

#[test]
fn a_bypassed_name_is_the_servers_own_handshake() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["h2", "http/1.1"]);
    let bypass = config(&site, json!({"tls": {"bypass": ["*.sluicegate.internal"]}}));
    let url = site.url(GOOD, "/");
    let theirs = format!("curl -sS -m 20 --cacert {} {url}", site.authority());
    assert_eq!(told(&run(&bypass, &theirs))["version"], "h2");
    let ours = run(&bypass, &format!("curl -sS -m 20 {url}"));
    assert_eq!(ours.code, 60, "nobody in between: {ours:?}");
    let other = site.url(EVIL, "/");
    assert_eq!(told(&run(&bypass, &format!("curl -sS -m 20 {other}")))["version"], "h2");
}

#[test]
fn a_bypassed_name_that_does_not_lead_to_the_server_is_no_way_past() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let bypass = config(&site, json!({"tls": {"bypass": ["elsewhere.test"]}}));
    let (url, port) = (site.url("elsewhere.test", "/fronted"), site.port);
    let finished = run(
        &bypass,
        &format!(
            "address=$(getent ahostsv4 {GOOD} | head -1 | cut -d' ' -f1)
             exec curl -s -k -m 20 --resolve elsewhere.test:{port}:$address {url}"
        ),
    );
    // Its server has to prove the name, and can't.
    assert_eq!(finished.code, 35, "{finished:?}");
    let events = events(&finished);
    assert_eq!(events.len(), 1, "{finished:?}");
    assert_eq!(events[0]["reason"], "server", "{finished:?}");
    assert!(!has(&site.heard(), b"fronted"));
}

#[test]
fn what_ends_in_order_is_no_reset_to_the_guest() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let finished = python(
        &site,
        r#"
import socket, ssl, sys
name, port = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context()
for _ in range(20):
    raw = socket.create_connection((name, port), timeout=20)
    # An end without close_notify is an error.
    tls = context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False)
    tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
    while tls.recv(65536):
        pass
    # Behind the end of TLS comes that of TCP.
    raw = socket.socket(fileno=tls.detach())
    raw.settimeout(20)
    try:
        print("in order" if raw.recv(1) == b"" else "more")
    except ConnectionResetError:
        print("reset")
"#,
    );
    assert_eq!(finished.output, "in order\n".repeat(20), "{finished:?}");
}

/// Asks a server whose answer is as long as its connection, or which has none, with `context`;
/// and says how it ended.
const ENDINGS: &str = r#"
import socket, ssl, sys
name, port = sys.argv[1], int(sys.argv[2])
def connect(protocol):
    context = ssl.create_default_context()
    context.set_alpn_protocols([protocol])
    raw = socket.create_connection((name, port), timeout=20)
    tls = context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False)
    assert tls.selected_alpn_protocol() == protocol
    return tls
def rest(tls):
    said = b""
    try:
        while piece := tls.recv(65536): said += piece
        return said, "in order"
    except TimeoutError:
        return said, "never"
    except OSError:
        return said, "broken off"
"#;

#[test]
fn an_end_that_nobody_announced_is_none_of_a_body_that_ends_with_its_connection() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.0"]);
    let client = r#"
for path in ("/", "/drop"):
    tls = connect("http/1.0")
    tls.sendall(f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\n\r\n".encode())
    said, end = rest(tls)
    print(said.startswith(b"HTTP/1.0 200 OK"), end)
"#;
    let finished = python(&site, &format!("{ENDINGS}{client}"));
    assert_eq!(finished.output, "True in order\nTrue broken off\n", "{finished:?}");
}

#[test]
fn an_end_of_bytes_that_nobody_announced_is_none_to_either_side() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["bytes"]);
    let client = r#"
for last in (b"END\n", b"DROP\n"):
    tls = connect("bytes")
    tls.sendall(last)
    print(*rest(tls))
for is_announced in (True, False):
    tls = connect("bytes")
    tls.sendall(b"mine\n")
    heard = b""
    while not heard.endswith(b"mine\n"): heard += tls.recv(100)
    if is_announced:
        tls.unwrap()
    else:
        # The end of TCP only.
        raw = socket.socket(fileno=tls.detach())
        raw.settimeout(20)
        raw.shutdown(socket.SHUT_WR)
        try:
            while raw.recv(100): pass
        except ConnectionResetError: pass
"#;
    let finished = python(&site, &format!("{ENDINGS}{client}"));
    let expected = "b'hello\\nEND\\n' in order\nb'hello\\nDROP\\n' broken off\n";
    assert_eq!((finished.output.as_str(), finished.code), (expected, 0), "{finished:?}");
    until("the ends of the guest's", || site.endings().len() == 2);
    assert_eq!(site.endings(), [true, false], "{finished:?}");
}

#[test]
fn a_request_for_somebody_else_goes_to_nobody() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        let site = Site::new(&["h2", "http/1.1"]);
        let url = site.url(GOOD, "/secretive");
        let script =
            format!("curl -sS -m 20 {version} -H 'Host: evil.test' {url} -w '%{{http_code}}'");
        let finished = run(&config(&site, json!({})), &script);
        assert!(finished.output.ends_with("421"), "{finished:?}");
        assert!(finished.output.contains("misdirected_request"), "{finished:?}");
        let events = events(&finished);
        assert_eq!((&events[0]["reason"], events.len()), (&json!("authority"), 1), "{finished:?}");
        assert!(!has(&site.heard(), b"secretive"));
    }
}

#[test]
fn a_denial_by_default_is_told_inside_tls() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        let site = Site::new(&["h2", "http/1.1"]);
        let dns = json!({"direction": "egress", "destination": {"group": "host"},
            "ports": [{"start": 53, "end": 53}], "action": "allow"});
        let more = json!({"policy": {"default_egress": "deny", "rules": [dns]}});
        let script =
            format!("curl -sS -m 20 {version} -o - -w ' %{{http_code}}' {}", site.url(GOOD, "/"));
        let finished = run(&config(&site, more), &script);
        assert!(finished.output.ends_with(" 403"), "{finished:?}");
        assert!(finished.output.contains("network_policy_denied"), "{finished:?}");
        assert!(finished.output.contains(GOOD), "{finished:?}");
        assert_eq!(site.handshakes(), 0);
    }
}

#[test]
fn quic_is_refused_so_that_clients_do_without() {
    if !needs::are_met(&[]) {
        return;
    }
    let site = Site::new(&["h2"]);
    let config = Some(config(&site, json!({})));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    for family in Family::BOTH {
        let socket = guest.datagrams((guest.gateway(family), site.port));
        socket.send(b"initial").unwrap();
        let error = socket.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{family:?}");
    }
}

#[test]
fn quic_passes_where_it_is_not_to_be_refused() {
    if !needs::are_met(&[]) {
        return;
    }
    let site = Site::new(&["h2"]);
    let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, site.port)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = Some(config(&site, json!({"tls": {"block_quic_on_intercept": false}})));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    for family in Family::BOTH {
        let socket = guest.datagrams((guest.gateway(family), site.port));
        socket.send(b"initial").unwrap();
        let mut heard = [0; 100];
        let (len, from) = server.recv_from(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"initial", "{family:?}");
        server.send_to(b"reply", from).unwrap();
        let len = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"reply", "{family:?}");
    }
}
