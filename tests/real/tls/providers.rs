//! The crypto provider of a process is its embedder's: none is needed, and none is touched.

use std::process::Command;

use rustls::crypto::{CryptoProvider, ring};
use serde_json::json;
use sluicegate_host::NetworkConfig;

use super::{GOOD, Site, config};
use crate::guest::{ConfigFile, Guest};
use crate::needs;
use crate::process;
use crate::servers::Family;

/// What the test is in a process of its own, as a process has one provider in its life.
const PART: &str = "SLUICEGATE_TEST_PROVIDER";

#[test]
fn a_process_needs_no_crypto_provider_and_keeps_the_one_it_has() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let Some(part) = std::env::var_os(PART) else {
        for part in ["none", "useless"] {
            let mut test = Command::new(std::env::current_exe().unwrap());
            let name =
                "tls::providers::a_process_needs_no_crypto_provider_and_keeps_the_one_it_has";
            let output = process::succeed(test.args(["--exact", name]).env(PART, part));
            assert!(output.contains("1 passed"), "{part}: {output}");
        }
        return;
    };
    let is_useless = part == "useless";
    if is_useless {
        // No handshake is possible with it.
        let useless = CryptoProvider { cipher_suites: vec![], ..ring::default_provider() };
        useless.install_default().unwrap();
    }
    let site = Site::new(&["h2", "http/1.1"]);
    let json = config(&site, json!({}));
    let guest = Guest::embedded_with(NetworkConfig::from_json(&json.to_string()).unwrap());
    let authority = ConfigFile::new(&json!(null));
    let pem = guest.network(|network| network.ca_cert_pem()).unwrap();
    std::fs::write(authority.path(), pem).unwrap();
    let gateway = guest.gateway(Family::V4);
    let mut curl = guest.command("curl");
    curl.args(["-sS", "-m", "20", "--cacert"]).arg(authority.path());
    curl.args(["--resolve", &format!("{GOOD}:{}:{gateway}", site.port), &site.url(GOOD, "/")]);
    assert!(process::succeed(&mut curl).contains(r#""version":"h2""#));
    let left = CryptoProvider::get_default().map(|provider| provider.cipher_suites.len());
    assert_eq!(left, is_useless.then_some(0), "the process's own is as it was");
}
