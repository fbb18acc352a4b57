//! `Expect: 100-continue`: the guest hears what the server says of its body, and nothing else.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{EVIL, GOOD, Site, VALUE, command, config, events, has};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::{Finished, Process};

const PRELUDE: &str = r#"
import socket, ssl, sys, time
name, port, scheme = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def ask(path, length):
    stream = socket.create_connection((name, port), timeout=20)
    if scheme == "https":
        stream = ssl.create_default_context().wrap_socket(stream, server_hostname=name)
    stream.sendall(f"POST {path} HTTP/1.1\r\nHost: {name}:{port}\r\nContent-Length: {length}\r\n"
                   "Content-Type: text/plain\r\nExpect: 100-continue\r\n\r\n".encode())
    return stream

def head(stream):
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte: return said.decode() + "..."
        said += byte
    return said.decode()

def rest(stream):
    said = b""
    while piece := stream.recv(65536):
        said += piece
    return said.decode()
"#;

fn ask(config: &Value, (name, port, scheme): (&str, u16, &str), script: &str) -> Finished {
    let file = ConfigFile::new(config);
    let mut python = command(&file, "exec python3 - \"$@\"");
    python.args(["python3", name, &port.to_string(), scheme]).stdin(Stdio::piped());
    let mut process = Process::start(&mut python);
    let text = format!("{PRELUDE}{script}");
    process.take_input().write_all(text.as_bytes()).unwrap();
    process.finish()
}

/// With secrets, for which bodies are looked at, and without.
fn both(site: &Site) -> [Value; 2] {
    [json!({}), json!({"secrets": {"secrets": []}})].map(|more| config(site, more))
}

#[test]
fn a_body_that_the_server_does_not_want_is_not_asked_for() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    for config in both(&site) {
        let finished = ask(
            &config,
            (GOOD, site.port, "https"),
            r#"
stream = ask("/refuse", 5)
said = head(stream).lower()
print(said.split("\r\n")[0], "\r\nconnection: close\r\n" in said, repr(rest(stream)))
"#,
        );
        let expected = "http/1.1 417 expectation failed True ''\n";
        assert_eq!(finished.output, expected, "{finished:?}");
    }
}

#[test]
fn a_body_that_it_wants_is_asked_for_when_it_says_so() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    for config in both(&site) {
        // Earlier than the gateway says it where a server says nothing: of three times one is.
        let finished = ask(
            &config,
            (GOOD, site.port, "https"),
            r#"
taken = []
for _ in range(3):
    stream = ask("/", 5)
    began = time.monotonic()
    print(head(stream), end="")
    taken.append(time.monotonic() - began)
    stream.sendall(b"hello")
    print(head(stream).split("\r\n")[0], '"body":"hello"' in stream.recv(65536).decode())
print(min(taken) < .9)
"#,
        );
        let each = "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK True\n";
        let output = finished.output.replace('\r', "");
        assert_eq!(output, format!("{}True\n", each.repeat(3)), "{finished:?}");
    }
}

#[test]
fn a_server_that_says_nothing_is_sent_the_body_after_a_while() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut heard, mut bytes) = (Vec::new(), [0; 1000]);
        while !has(&heard, b"hello") {
            let len = stream.read(&mut bytes).unwrap();
            assert_ne!(len, 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&bytes[..len]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let mut site = Site::in_the_clear();
    site.port = port;
    let mut config = config(&site, json!({}));
    config["secrets"]["secrets"][0]["require_tls_identity"] = json!(false);
    let finished = ask(
        &config,
        (GOOD, port, "http"),
        r#"
began = time.monotonic()
stream = ask("/", 5)
print(head(stream), end="")
print(time.monotonic() - began >= 1)
stream.sendall(b"hello")
print(head(stream).split("\r\n")[0], stream.recv(2))
"#,
    );
    let output = finished.output.replace('\r', "");
    assert_eq!(output, "HTTP/1.1 100 Continue\n\nTrue\nHTTP/1.1 200 OK b'ok'\n", "{finished:?}");
    server.join().unwrap();
}

#[test]
fn what_comes_then_is_looked_at_as_ever() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let script = r#"
stream = ask("/p", 25)
print(head(stream).split("\r\n")[0])
stream.sendall(b"a $MSB_")
stream.sendall(b"API_KEY and more..")
print(head(stream).split("\r\n")[0])
"#;
    let config = config(&site, json!({}));
    let finished = ask(&config, (GOOD, site.port, "https"), script);
    assert_eq!(finished.output, "HTTP/1.1 100 Continue\nHTTP/1.1 200 OK\n", "{finished:?}");
    assert!(has(&site.heard(), format!("a {VALUE} and more..").as_bytes()));
    let finished = ask(&config, (EVIL, site.port, "https"), script);
    assert_eq!(finished.output, "HTTP/1.1 100 Continue\nHTTP/1.1 403 Forbidden\n", "{finished:?}");
    assert_eq!(events(&finished)[0]["secret"], "API_KEY", "{finished:?}");
    assert!(!has(&site.heard(), b"MSB_API_KEY"));
}
