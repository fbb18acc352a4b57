//! HTTP/2 as RFC 9113 has it, between a guest and the gateway: the cases of httpwg (h2spec in
//! Rust), which `tests/real/http2` asks.

use serde_json::json;

use super::{GOOD, Site, command, config, has};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::Process;

/// Cases in which the gateway ends what it should end, and says less exactly why: h2 says
/// PROTOCOL_ERROR of all that is wrong with a frame.
const LESS_EXACT: [&str; 14] = [
    "_4_http_frames::invalid_header_block_fragment",
    "_5_streams_and_multiplexing::half_closed_remote_sends_data_frame",
    "_5_streams_and_multiplexing::half_closed_remote_sends_headers_frame",
    "_5_streams_and_multiplexing::closed_sends_headers_frame_after_rst_stream",
    "_5_streams_and_multiplexing::closed_sends_headers_frame",
    "_6_frame_definitions::sends_data_frame_on_invalid_stream_state",
    "_6_frame_definitions::sends_priority_frame_with_invalid_length",
    "_6_frame_definitions::sends_rst_stream_frame_with_invalid_length",
    "_6_frame_definitions::sends_settings_frame_with_ack_and_payload",
    "_6_frame_definitions::sends_settings_frame_with_invalid_length",
    "_6_frame_definitions::sends_settings_initial_window_size_with_invalid_value",
    "_6_frame_definitions::sends_ping_frame_with_invalid_length",
    "_6_frame_definitions::sends_window_update_frame_with_invalid_length",
    "_6_frame_definitions::\
     sends_settings_initial_window_size_with_exceeded_max_window_size_value",
];

/// Cases in which a request that is malformed is answered with 400 or 421, rather than ended with
/// an error of its stream (RFC 9113 8.1.1 lets a server); and one in which h2 leaves out what must
/// not be in a trailer.
const ANSWERED: [&str; 5] = [
    "_8_expressing_http_semantics_in_http2::sends_headers_frame_with_leading_space_in_field_value",
    "_8_expressing_http_semantics_in_http2::sends_headers_frame_with_trailing_tab_in_field_value",
    "_8_expressing_http_semantics_in_http2::sends_headers_frame_with_pseudo_header_in_trailer",
    "_8_expressing_http_semantics_in_http2::sends_headers_frame_with_mismatched_host_authority",
    "_8_expressing_http_semantics_in_http2::sends_connect_without_authority",
];

/// A case that sends a frame which is to be followed by more (it lacks END_HEADERS), and sends no
/// more: the gateway waits for that. Whether the case's own wait ends first, or its connection,
/// which would do, is as it happens.
const UNFINISHED: &str = "_8_expressing_http_semantics_in_http2::client_sends_push_promise_frame";

#[test]
fn every_case_of_http2_is_as_it_should_be() {
    if !needs::are_met(&[]) {
        return;
    }
    let Some(program) = super::built("http2") else { return };
    let site = Site::new(&["h2"]);
    let file = ConfigFile::new(&config(&site, json!({})));
    let script = format!(
        "BUFFET_NUM_BUFS=4096 exec {} {GOOD} {} $SSL_CERT_FILE",
        program.display(),
        site.port
    );
    let mut process = Process::start(&mut command(&file, &script));
    for section in ["_4_", "_5_", "_6_", "_8_", "as it should be\n"] {
        process.wait_for(section);
    }
    let finished = process.finish();
    let mut wrong = vec![];
    for line in finished.output.lines().filter_map(|line| line.strip_prefix("FAILED ")) {
        let (case, said) = line.split_once(": ").unwrap();
        let is_known = if said.ends_with("but got ProtocolError") {
            LESS_EXACT.contains(&case)
        } else {
            ANSWERED.contains(&case) && said.contains("waiting for stream error")
                || case == UNFINISHED && said.contains("waiting for connection error")
        };
        if !is_known {
            wrong.push(line);
        }
    }
    assert_eq!(wrong, [""; 0], "{finished:?}");
    assert!(finished.output.contains(" of 107 as it should be"), "{finished:?}");
    assert!(!has(&site.heard(), b"different"), "nobody else is asked");
    for blank in [":  ", "\t\n"] {
        assert!(!has(&site.heard(), blank.as_bytes()), "no field with a blank at its end passes");
    }
}
