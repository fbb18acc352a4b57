//! The authority that signs in the servers' place.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{GOOD, Scratch, Site, config, run, told};
use crate::guest::{ConfigFile, Guest, free_slot, sluicegate};
use crate::namespace::Namespace;
use crate::needs;
use crate::process::{self, Process};
use crate::servers::Family;

#[test]
fn one_with_files_is_made_once_and_then_used() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let scratch = Scratch::new("authority");
    let (cert, key) = (scratch.0.join("ca.crt"), scratch.0.join("ca.key"));
    let site = Site::new(&["http/1.1"]);
    let files = json!({"tls": {"intercept_ca": {"cert_path": cert, "key_path": key}}});
    let config = config(&site, files);
    let curl = format!("curl -sS -m 20 --cacert {} {}", cert.display(), site.url(GOOD, "/"));
    assert_eq!(told(&run(&config, &curl))["version"], "h1");
    let made = [&cert, &key].map(|path| std::fs::read(path).unwrap());
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&cert)), (0o600, 0o644));
    assert_eq!(told(&run(&config, &curl))["version"], "h1");
    assert_eq!([&cert, &key].map(|path| std::fs::read(path).unwrap()), made, "as they were");
    let left: Vec<_> = std::fs::read_dir(&scratch.0).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");

    let check = |what: &str| {
        let file = ConfigFile::new(&config);
        let mut command = sluicegate();
        command.args(["run", "--config"]).arg(file.path()).args(["--", "true"]);
        let finished = process::run(&mut command);
        assert_eq!(finished.code, 125, "{finished:?}");
        assert!(finished.errors.contains(what), "{what}: {finished:?}");
        assert!(!finished.errors.contains("BEGIN"), "{finished:?}");
    };
    // Somebody else's key, then none, then what is none.
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(&key, other).unwrap();
    check("not the key of");
    std::fs::remove_file(&key).unwrap();
    check("is there and");
    std::fs::write(&key, "no key").unwrap();
    check("no private key");
    std::fs::write(&cert, "no certificate").unwrap();
    check("no certificate");
    assert_eq!(std::fs::read(&cert).unwrap(), b"no certificate", "nothing is replaced");
}

#[test]
fn it_is_written_where_it_is_asked_for() {
    if !needs::are_met(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("written");
    let site = Site::new(&["http/1.1"]);
    let file = ConfigFile::new(&config(&site, json!({})));
    let path = scratch.0.join("ca.pem");
    let mut command = sluicegate();
    command.args(["run", "--ca-out"]).arg(&path).arg("--config").arg(file.path());
    assert_eq!(process::run(command.args(["--", "true"])).code, 0);
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["x509", "-noout", "-text", "-in"]).arg(&path);
    let text = process::succeed(&mut openssl);
    assert!(text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign"), "{text}");
    let mut command = sluicegate();
    command.args(["run", "--egress", "allow", "--ca-out"]).arg(&path).args(["--", "true"]);
    let finished = process::run(&mut command);
    assert!(finished.code == 125 && finished.errors.contains("tls.enabled"), "{finished:?}");
}

#[test]
fn a_guest_whose_clock_is_slow_believes_it() {
    if !needs::are_met(&["openssl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let config = config(&site, json!({}));
    // A guest that woke with yesterday's time: what OpenSSL is told is 20 hours ago.
    let script = format!(
        "openssl s_client -verify_return_error -attime $(($(date +%s) - 72000)) \
         -servername {GOOD} -connect {GOOD}:{} </dev/null",
        site.port
    );
    let finished = run(&config, &script);
    assert!(finished.output.contains("Verify return code: 0 (ok)"), "{finished:?}");
    let long_ago = script.replace("72000", "100000");
    let finished = run(&config, &long_ago);
    assert!(finished.output.contains("not yet valid"), "{finished:?}");
}

#[test]
fn a_command_of_run_is_told_whom_to_trust_by_every_variable_that_programs_read() {
    if !needs::are_met(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("told");
    let site = Site::new(&["http/1.1"]);
    let file = ConfigFile::new(&config(&site, json!({})));
    let authority = scratch.0.join("ca.pem");
    let variables = [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "DENO_CERT",
        "AWS_CA_BUNDLE",
    ];
    // The authority is the only one that verifies itself, among all that are in the file.
    let script = "env | sort; for name in $0; do eval \"file=\\$$name\"; \
        openssl verify -CAfile \"$file\" -no-CApath $1; done";
    let mut command = sluicegate();
    for name in variables {
        command.env(name, "/what/was/there");
    }
    command.args(["run", "--ca-out"]).arg(&authority).arg("--config").arg(file.path());
    command.args(["--", "sh", "-c", script, &variables.join(" ")]).arg(&authority);
    let finished = process::run(&mut command);
    assert_eq!(finished.code, 0, "{finished:?}");
    let told = |name: &str| {
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        finished.output.lines().find_map(value)
    };
    let bundle = told("SSL_CERT_FILE");
    assert!(bundle.as_deref().is_some_and(|path| path.ends_with("/ca.pem")), "{finished:?}");
    assert!(variables.iter().all(|name| told(name) == bundle), "{finished:?}");
    let verified = format!("{}: OK\n", authority.display());
    assert_eq!(finished.output.matches(&verified).count(), variables.len(), "{finished:?}");
}

#[test]
fn attach_writes_the_authority_by_which_its_guest_believes_the_gateway() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let scratch = Scratch::new("attached");
    let site = Site::new(&["http/1.1"]);
    let file = ConfigFile::new(&config(&site, json!({})));
    let authority = scratch.0.join("ca.pem");
    let (namespace, slot) = (Namespace::new(), free_slot());
    let mut attach = sluicegate();
    attach.args(["attach", "--netns", namespace.name(), "--slot", &slot.to_string(), "--ca-out"]);
    let mut engine = Process::start(attach.arg(&authority).arg("--config").arg(file.path()));
    engine.wait_for("ready\n");
    let guest = Guest::served(engine, namespace, slot);
    let gateway = guest.gateway(Family::V4);
    let mut curl = guest.command("curl");
    curl.args(["-sS", "-m", "20", "--cacert"]).arg(&authority);
    curl.args(["--resolve", &format!("{GOOD}:{}:{gateway}", site.port), &site.url(GOOD, "/")]);
    assert!(process::succeed(&mut curl).contains(r#""version":"h1""#));
}
