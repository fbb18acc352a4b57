//! Interim responses over HTTP/2 (RFC 9110 15.2): whatever a server says before its response, the
//! guest has that response; and nobody waits for ever for a word that does not come.

use std::process::Command;

use serde_json::json;

use super::programs::{PYTHON, Served, has_module};
use super::{EVIL, GOOD};
use crate::needs;

/// Says 103 of each request, and 100 where it is expected; then its response, at once where the
/// path is `/early`, and else once it has the body.
const SERVER: &str = r#"
import socket, ssl, threading
import h2.config, h2.connection, h2.events

def serve(stream):
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    peer = h2.connection.H2Connection(config)
    peer.initiate_connection()
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
                peer.send_headers(number, [(":status", "103"), ("link", "</a>; rel=preload")])
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

def begin(stream):
    try:
        with context.wrap_socket(stream, server_side=True) as stream:
            serve(stream)
    except OSError:
        pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
context.set_alpn_protocols(["h2"])
listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=begin, args=[listener.accept()[0]], daemon=True).start()
"#;

/// Asks with each way of saying a body, and says it when it is told to, or after a second.
const CLIENT: &str = r#"
import socket, ssl, sys
import h2.config, h2.connection, h2.events
name, port = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context()
context.set_alpn_protocols(["h2"])
stream = context.wrap_socket(socket.create_connection((name, port)), server_hostname=name)
peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
peer.initiate_connection()

def hear(seconds):
    stream.sendall(peer.data_to_send())
    stream.settimeout(seconds)
    try:
        heard = stream.recv(65536)
    except TimeoutError:
        return None
    assert heard, "it is over"
    return peer.receive_data(heard)

def ask(path, fields, body):
    number = peer.get_next_available_stream_id()
    head = [(":method", "POST"), (":scheme", "https"), (":authority", f"{name}:{port}")]
    peer.send_headers(number, head + [(":path", path)] + fields, end_stream=body is None)
    interim, said, text, waits = [], [], "", ("expect", "100-continue") in fields
    if body is not None and not waits:
        peer.send_data(number, body, end_stream=True)
    while "the end" not in said:
        events = hear(1 if waits else 20)
        assert events is not None or waits, "it hangs"
        for event in events or []:
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
        if waits and "the end" not in said and (events is None or interim):
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
fn what_a_server_says_before_its_response_does_not_keep_that_from_the_guest() {
    if !needs::are_met(&[]) || !has_module("h2") {
        return;
    }
    let serving = Served::by(Command::new(PYTHON).args(["-u", "-c", SERVER]));
    // To one that has secrets, so that bodies are held and looked at, and to one that has none.
    let none = json!({"secrets": {"secrets": []}});
    for (more, name) in [(json!({}), GOOD), (json!({}), EVIL), (none, GOOD)] {
        let script = format!("exec {PYTHON} - {name} {}", serving.port);
        let what = format!("{name} {more}");
        let finished = serving.ask_under(more, &script, CLIENT);
        let with = |len: u32| format!("{len} bytes 200 value word the end after []\n");
        let early = "not wanted 417 value word the end after []\n";
        let expected = [with(0), with(5).repeat(4), early.repeat(2)].concat();
        assert_eq!(finished.output, expected, "{what}: {finished:?}");
    }
}
