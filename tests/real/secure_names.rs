//! Name servers that are asked over TLS and HTTPS: unbound, which has both.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use crate::guest::{Guest, Setup, open_config};
use crate::needs;
use crate::process::{self, Process};
use crate::servers::Family;
use crate::tls::{Flaw, GOOD, Scratch, files};
use crate::waiting::{AT_ONCE, timed, until};

/// An unbound that knows one name, over TLS and over HTTPS only.
struct Unbound {
    tls: u16,
    https: u16,
    scratch: Scratch,
    process: Process,
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

impl Unbound {
    fn start() -> Self {
        Self::with(Flaw::None)
    }

    fn with(flaw: Flaw) -> Self {
        let scratch = Scratch::new("unbound");
        let (authority, certificate, key) = files(flaw);
        let path = |name: &str| scratch.0.join(name).display().to_string();
        for (name, text) in [("ca.pem", authority), ("cert.pem", certificate), ("key.pem", key)] {
            std::fs::write(path(name), text).unwrap();
        }
        let (tls, https) = (free_port(), free_port());
        let (certificate, key) = (path("cert.pem"), path("key.pem"));
        let config = format!(
            "server:\n username: \"\"\n chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n \
             use-syslog: no\n verbosity: 2\n log-queries: yes\n do-daemonize: no\n \
             interface: 127.0.0.1@{tls}\n interface: 127.0.0.1@{https}\n interface: ::1@{https}\n \
             tls-port: {tls}\n https-port: {https}\n \
             tls-service-pem: \"{certificate}\"\n tls-service-key: \"{key}\"\n \
             local-zone: \"test.\" static\n local-data: \"good.test. 60 IN A 203.0.114.7\"\n \
             local-data: 'long.test. 60 IN TXT \"{}\"'\nremote-control:\n control-enable: no\n",
            "long ".repeat(40)
        );
        std::fs::write(path("unbound.conf"), config).unwrap();
        let mut unbound = Command::new("/usr/sbin/unbound");
        let process = Process::start(unbound.args(["-d", "-c", &path("unbound.conf")]));
        let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        until("unbound to listen", || listens(tls) && listens(https));
        Self { tls, https, scratch, process }
    }

    /// A guest whose names are asked of `servers`, in which this one's authority is believed, or
    /// not.
    fn guest(&self, servers: Value, is_believed: bool) -> Guest {
        let authority = self.scratch.0.join("ca.pem");
        let files = if is_believed { json!([authority]) } else { json!([]) };
        let dns = json!({"nameservers": servers, "upstream_ca_cert": files});
        let config = Some(open_config(json!({"dns": dns})));
        Guest::with(&Setup { config, ..Setup::default() })
    }
}

fn dig(guest: &Guest, words: &[&str]) -> String {
    let server = format!("@{}", guest.gateway(Family::V4));
    let mut dig = guest.command("dig");
    dig.args([&server, "+tries=1", "+time=8"]).args(words);
    process::run(&mut dig).output
}

#[test]
fn names_are_asked_over_tls_and_https() {
    if !needs::are_met(&["dig"]) || !is_there() {
        return;
    }
    let unbound = Unbound::start();
    for server in [
        format!("tls://127.0.0.1:{}#{GOOD}", unbound.tls),
        format!("https://localhost:{}/dns-query#{GOOD}", unbound.https),
        format!("https://127.0.0.1:{}#{GOOD}", unbound.https),
    ] {
        let guest = unbound.guest(json!([server]), true);
        for _ in 0..3 {
            assert_eq!(dig(&guest, &["+short", "good.test"]), "203.0.114.7\n", "{server}");
        }
        assert!(dig(&guest, &["long.test", "TXT"]).contains("long long"), "{server}");
        assert!(dig(&guest, &["none.test"]).contains("NXDOMAIN"), "{server}");
        // Many at once share what there is.
        let names: Vec<String> = (0..200).map(|n| format!("n{n}.test")).collect();
        let words: Vec<&str> = names.iter().map(String::as_str).collect();
        let answered = dig(&guest, &words);
        assert_eq!(answered.matches("NXDOMAIN").count(), 200, "{server}");
    }
    until("it says what it was asked", || unbound.process.errors().contains("long.test"));
}

#[test]
fn a_server_that_does_not_prove_its_name_is_not_asked_and_the_next_is() {
    if !needs::are_met(&["dig"]) || !is_there() {
        return;
    }
    let unbound = Unbound::start();
    let (tls, https) = (unbound.tls, unbound.https);
    for (servers, is_believed) in [
        (json!([format!("tls://127.0.0.1:{tls}#other.test")]), true),
        (json!([format!("tls://127.0.0.1:{tls}")]), true),
        (json!([format!("tls://127.0.0.1:{tls}#{GOOD}")]), false),
        (json!([format!("https://127.0.0.1:{https}#other.test")]), true),
        (json!([format!("https://127.0.0.1:{https}#{GOOD}")]), false),
        // What speaks another protocol there is none.
        (json!([format!("https://127.0.0.1:{tls}#{GOOD}")]), true),
    ] {
        let guest = unbound.guest(servers.clone(), is_believed);
        assert!(dig(&guest, &["good.test"]).contains("SERVFAIL"), "{servers}");
        let mut both = servers.as_array().unwrap().clone();
        both.push(json!(format!("tls://127.0.0.1:{tls}#{GOOD}")));
        let guest = unbound.guest(json!(both), true);
        assert_eq!(dig(&guest, &["+short", "good.test"]), "203.0.114.7\n", "{both:?}");
    }
    assert!(!unbound.process.errors().contains("other.test"), "nothing was said to it");
}

#[test]
fn a_server_whose_certificate_is_not_good_is_told_nothing() {
    if !needs::are_met(&["dig"]) || !is_there() {
        return;
    }
    for flaw in [Flaw::Expired, Flaw::SelfSigned, Flaw::OtherName] {
        let unbound = Unbound::with(flaw);
        for (scheme, port) in [("tls", unbound.tls), ("https", unbound.https)] {
            let guest = unbound.guest(json!([format!("{scheme}://127.0.0.1:{port}#{GOOD}")]), true);
            let (text, took) = timed(|| dig(&guest, &["good.test"]));
            assert!(text.contains("SERVFAIL") && took < AT_ONCE, "{flaw:?} {took:?} {text}");
        }
        assert!(
            !unbound.process.errors().contains("good.test"),
            "{flaw:?}: nothing was said to it"
        );
    }
}

/// Relays connections to `to`, and says when each begins; while it is `stuck`, those that are there
/// hear nothing more, and do not end.
fn relay(to: u16, stuck: Arc<AtomicBool>) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Nobody counts any more when the test has ended.
            let _ = tell.send(());
            let other = TcpStream::connect(("127.0.0.1", to)).unwrap();
            for (mut from, mut to) in [
                (stream.try_clone().unwrap(), other.try_clone().unwrap()),
                (other.try_clone().unwrap(), stream),
            ] {
                let stuck = Arc::clone(&stuck);
                let mut is_stuck = false;
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(len @ 1..) = from.read(&mut bytes) {
                        is_stuck |= stuck.load(SeqCst);
                        if !is_stuck && to.write_all(&bytes[..len]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (port, told)
}

#[test]
fn a_connection_is_used_again_unless_it_leads_nowhere() {
    if !needs::are_met(&["dig"]) || !is_there() {
        return;
    }
    let unbound = Unbound::start();
    for (scheme, to) in [("tls", unbound.tls), ("https", unbound.https)] {
        let stuck = Arc::new(AtomicBool::new(false));
        let (port, made) = relay(to, Arc::clone(&stuck));
        let dns = json!({
            "nameservers": [format!("{scheme}://127.0.0.1:{port}#{GOOD}")],
            "upstream_ca_cert": [unbound.scratch.0.join("ca.pem")],
            "query_timeout_ms": 1000,
        });
        let config = Some(open_config(json!({"dns": dns})));
        let guest = Guest::with(&Setup { config, ..Setup::default() });
        for name in ["a.test", "b.test", "c.test"] {
            assert!(dig(&guest, &[name]).contains("NXDOMAIN"), "{scheme}");
        }
        assert_eq!(made.try_iter().count(), 1, "{scheme}: one connection serves all");
        stuck.store(true, SeqCst);
        assert!(dig(&guest, &["d.test"]).contains("SERVFAIL"), "{scheme}");
        stuck.store(false, SeqCst);
        assert!(dig(&guest, &["e.test"]).contains("NXDOMAIN"), "{scheme}: by another connection");
        assert_eq!(made.try_iter().count(), 1, "{scheme}");
    }
}

#[test]
fn a_server_whose_name_is_not_known_is_an_error_at_once() {
    if !needs::are_met(&[]) {
        return;
    }
    let config = open_config(json!({"dns": {"nameservers": ["tls://no-such-name.invalid"]}}));
    let file = crate::guest::ConfigFile::new(&config);
    let mut command = crate::guest::sluicegate();
    command.args(["run", "--config"]).arg(file.path()).args(["--", "true"]);
    let finished = process::run(&mut command);
    assert_eq!(finished.code, 125);
    let expected = "dns.nameservers: tls://no-such-name.invalid:853 is not a server whose name";
    assert!(finished.errors.contains(expected), "{finished:?}");
}

fn is_there() -> bool {
    std::path::Path::new("/usr/sbin/unbound").exists() || needs::without("unbound")
}
