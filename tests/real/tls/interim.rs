//! Interim responses over HTTP/2 (RFC 9110 15.2): what a server says before its response the guest
//! hears in that order, without values, and not without end.

use serde_json::json;

use super::programs::{PYTHON, Served, has_module, over_h2};
use super::{EVIL, GOOD, VALUE};
use crate::needs;

/// Says 103 of each request with the key that it has, or what its path wants, and 100 where it is
/// expected; then its response, at once where the path is `/early`, and else once it has the body.
const SERVER: &str = r#"
def serve(stream):
    peer = greeted()
    bodies = {}

    def respond(number, status, text):
        peer.send_headers(number, [(":status", status), ("x-field", "value")])
        peer.send_data(number, text.encode())
        peer.send_headers(number, [("x-last", "word")], end_stream=True)

    while True:
        stream.sendall(peer.data_to_send())
        heard = stream.recv(65536)
        if not heard:
            return
        for event in peer.receive_data(heard):
            number = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RequestReceived):
                fields = dict(event.headers)
                bodies[number] = b""
                key = ("x-seen", fields.get("x-key", "no key"))
                before = {"/many": [[(":status", "103"), key]] * 20,
                          "/large": [[(":status", "103"), ("x-large", "a" * 20000)]],
                          "/switch": [[(":status", "101")]]}
                for head in before.get(fields[":path"], [[(":status", "103"), key]]):
                    peer.send_headers(number, head)
                if "expect" in fields:
                    peer.send_headers(number, [(":status", "100")])
                if fields[":path"] == "/early":
                    respond(number, "417", "not wanted")
                    del bodies[number]
            elif isinstance(event, h2.events.DataReceived):
                peer.acknowledge_received_data(event.flow_controlled_length, number)
                if number in bodies:
                    bodies[number] += event.data
            elif isinstance(event, h2.events.StreamEnded) and number in bodies:
                respond(number, "200", f"{len(bodies.pop(number))} bytes")
"#;

/// Asks with each way of saying a body, and says it at once, or when it is told to.
const CLIENT: &str = r#"
def ask(path, fields, body):
    number = peer.get_next_available_stream_id()
    head = [(":method", "POST"), (":scheme", "https"), (":authority", f"{name}:{port}")]
    peer.send_headers(number, head + [(":path", path)] + fields, end_stream=body is None)
    interim, said, text, waits = [], [], "", ("expect", "100-continue") in fields
    if body is not None and not waits:
        peer.send_data(number, body, end_stream=True)
    while "the end" not in said:
        for event in hear():
            if isinstance(event, h2.events.InformationalResponseReceived):
                interim.append(dict(event.headers)[":status"])
            elif isinstance(event, h2.events.ResponseReceived):
                fields = dict(event.headers)
                said += [fields[":status"], fields.get("x-field")]
            elif isinstance(event, h2.events.DataReceived):
                peer.acknowledge_received_data(event.flow_controlled_length, number)
                text += event.data.decode()
            elif isinstance(event, h2.events.TrailersReceived):
                said.append(dict(event.headers)["x-last"])
            elif isinstance(event, h2.events.StreamEnded):
                said.append("the end")
        if waits and "the end" not in said and "100" in interim:
            peer.send_data(number, body, end_stream=True)
            waits = False
    print(text, *said, "after", interim, flush=True)

length = [("content-length", "5")]
expect = [("expect", "100-continue")]
ask("/", [], None)
for fields in (length, [], length + expect, expect):
    ask("/", fields, b"hello")
for fields in (length + expect, expect):
    ask("/early", fields, b"hello")
"#;

#[test]
fn a_guest_hears_what_a_server_says_before_its_response_and_that() {
    if !needs::are_met(&[]) || !has_module("h2") {
        return;
    }
    let serving = Served::over_h2(SERVER);
    // To one that has secrets, so that bodies are held and looked at, and to one that has none.
    let none = json!({"secrets": {"secrets": []}});
    for (more, name) in [(json!({}), GOOD), (json!({}), EVIL), (none, GOOD)] {
        let script = format!("exec {PYTHON} - {name} {}", serving.port);
        let what = format!("{name} {more}");
        let finished = serving.ask_under(more, &script, &over_h2(CLIENT));
        let with = |len: u32, interim: &str| {
            format!("{len} bytes 200 value word the end after [{interim}]\n")
        };
        let (hint, both) = ("'103'", "'103', '100'");
        let early = format!("not wanted 417 value word the end after [{both}]\n");
        let expected =
            [with(0, hint), with(5, hint).repeat(2), with(5, both).repeat(2), early.repeat(2)];
        assert_eq!(finished.output, expected.concat(), "{what}: {finished:?}");
    }
}

#[test]
fn no_value_is_in_what_comes_before_a_response_and_there_is_no_end_of_it_that_is_not_cut() {
    if !needs::are_met(&["curl"]) || !has_module("h2") {
        return;
    }
    let serving = Served::over_h2(SERVER);
    // One hint, as many as pass, one that is too large, and one that is none.
    for (path, heard) in [("/", 1), ("/many", 16), ("/large", 0), ("/switch", 0)] {
        let url = format!("https://{GOOD}:{}{path}", serving.port);
        let script = format!("exec curl -sSi -m 20 --http2 -H \"X-Key: $API_KEY\" {url}");
        let finished = serving.ask_under(json!({}), &script, "");
        let said = finished.output.replace('\r', "");
        let hint = "HTTP/2 103 \nx-seen: $MSB_API_KEY\n\n";
        let expected = format!("{}HTTP/2 200 \nx-field: value\n\n0 bytes", hint.repeat(heard));
        assert!(said.starts_with(&expected), "{path}: {finished:?}");
        assert!(!said.contains(VALUE), "{path}: {finished:?}");
    }
}
