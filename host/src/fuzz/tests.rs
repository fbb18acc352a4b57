//! What `fuzz/` fuzzes of the host, as tests: the seeds, and so many random changes of them.

use sim::fuzz::{run, seeds};

use crate::config::NetworkConfig;

#[test]
fn the_configurations_to_begin_with_are_good_ones() {
    for seed in seeds("config") {
        let text = core::str::from_utf8(&seed).unwrap();
        let config = NetworkConfig::from_json(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(config.to_core(0, [7; 16]).is_ok(), "{text}");
    }
}

#[test]
fn a_configuration_of_any_text_is_refused_or_makes_a_network() {
    run("config", super::config);
}

#[test]
fn a_policy_of_any_text_is_refused_or_is_itself_again() {
    run("policy", super::policy);
}

#[test]
fn a_capture_of_any_bytes_is_refused_or_replayed() {
    run("replay", super::replay);
}

#[test]
fn frames_over_a_stream_are_the_same_however_they_are_cut() {
    run("stream", super::stream);
}

#[test]
fn secrets_are_the_same_however_they_are_cut_and_reach_nobody_else() {
    run("secrets", super::secrets);
}

#[test]
fn http_of_any_bytes_ends_and_carries_no_secret_where_it_may_not() {
    run("http", super::http);
}
