//! The authority that signs in the servers' place.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{GOOD, Scratch, Site, config, run, told};
use crate::guest::{ConfigFile, sluicegate};
use crate::needs;
use crate::process;

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
