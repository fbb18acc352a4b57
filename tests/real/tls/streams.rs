//! Streams of HTTP/2: each of the guest's is one of the server's, from its begin to the code that
//! it ends with, and holds up no other.

use serde_json::json;

use super::programs::{PYTHON, Served, has_module, over_h2};
use super::{EVIL, GOOD, events};
use crate::needs;
use crate::process::Finished;

/// Does with each stream what its path says, and tells at `/seen` what came of the others.
const SERVER: &str = r#"
SEEN, SENT = [], [0]
def words(heard):
    # Those of short frames that are masked (RFC 6455 5.2), as many as are whole.
    while len(heard) > 1 and len(heard) >= (end := 6 + (heard[1] & 127)):
        key, text = heard[2:6], heard[6:end]
        del heard[:end]
        yield bytes(byte ^ key[index % 4] for index, byte in enumerate(text))

def serve(stream):
    peer = greeted()
    peer.update_settings({h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
    tunnels, endless = {}, set()

    def begin(number, head):
        _, what, *more = head[":path"].split("/")
        code = int(more[0]) if more else None
        if what == "seen":
            peer.send_headers(number, [(":status", "200")])
            peer.send_data(number, json.dumps([SEEN, SENT[0]]).encode(), end_stream=True)
            return
        if what == "away":
            # Streams up to the one before are served, and no later one.
            last = (number - 2).to_bytes(4, "big") + bytes(4)
            stream.sendall(peer.data_to_send() + bytes([0, 0, 8, 7, 0, 0, 0, 0, 0]) + last)
            return
        if what != "reset":
            peer.send_headers(number, [(":status", "200")])
        if code is not None:
            peer.reset_stream(number, code)
        if what == "endless":
            endless.add(number)
        if what == "tunnel":
            SEEN.append([head[":method"], head[":protocol"]])
            tunnels[number] = bytearray()

    while True:
        for number in endless:
            while room := min(peer.local_flow_control_window(number), 16384):
                peer.send_data(number, bytes(room))
                SENT[0] += room
        stream.sendall(peer.data_to_send())
        heard = stream.recv(65536)
        if not heard:
            return
        for event in peer.receive_data(heard):
            number = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RequestReceived):
                begin(number, dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                peer.acknowledge_received_data(event.flow_controlled_length, number)
                if number in tunnels:
                    tunnels[number] += event.data
                    for word in words(tunnels[number]):
                        SEEN.append(word.decode())
                        peer.send_data(number, bytes([0x81, len(word)]) + word.upper())
                elif event.data:
                    SEEN.append(event.data.decode())
            elif isinstance(event, h2.events.StreamEnded) and number in tunnels:
                peer.end_stream(number)
            elif isinstance(event, h2.events.StreamReset):
                SEEN.append(event.error_code)
"#;

/// Begins streams, and waits for what becomes of them.
const CLIENT: &str = r#"
import json
from h2.events import *
waiting = []
def begin(path, more=(), method="POST", ends=False):
    number = peer.get_next_available_stream_id()
    head = [(":method", method), (":scheme", "https"), (":authority", f"{name}:{port}")]
    peer.send_headers(number, head + [(":path", path), *more], end_stream=ends)
    return number

def next_of(number, *kinds):
    while True:
        for index, event in enumerate(waiting):
            if getattr(event, "stream_id", None) == number and isinstance(event, kinds):
                return waiting.pop(index)
        waiting.extend(hear())

def seen():
    number, text = begin("/seen", method="GET", ends=True), b""
    while not isinstance(event := next_of(number, DataReceived, StreamEnded), StreamEnded):
        text += event.data
    return json.loads(text)
"#;

fn ask(name: &str, what: &str) -> Finished {
    let serving = Served::over_h2(SERVER);
    let script = format!("exec {PYTHON} - {name} {}", serving.port);
    serving.ask_under(json!({}), &script, &over_h2(&[CLIENT, what].concat()))
}

#[test]
fn a_stream_that_one_side_ends_ends_for_the_other_with_its_code() {
    if !needs::are_met(&[]) || !has_module("h2") {
        return;
    }
    let finished = ask(
        GOOD,
        r#"
for code in (2, 7, 8, 11):
    for path in (f"/reset/{code}", f"/late/{code}"):
        for ends in (True, False):
            assert next_of(begin(path, ends=ends), StreamReset).error_code == code, path
print("the server's")
for code, ends in ((2, False), (8, False), (8, True), (11, False)):
    number = begin("/open", ends=ends)
    next_of(number, ResponseReceived)
    before = seen()[0]
    peer.reset_stream(number, code)
    while (now := seen()[0]) == before: pass
    assert now == before + [code], (now, code)
print("the guest's")
opened = begin("/open")
next_of(opened, ResponseReceived)
# Whoever is refused may ask again, elsewhere.
told, heard = {}, b""
def hear_of(kind, number):
    global heard
    while (kind, number) not in told:
        length = int.from_bytes(heard[:3], "big") + 9
        if len(heard) < max(length, 9):
            assert (piece := stream.recv(65536)), told
            heard += piece
            continue
        frame, heard = heard[:length], heard[length:]
        told[frame[3], int.from_bytes(frame[5:9], "big")] = int.from_bytes(frame[-4:], "big")
    return told[kind, number]
RST_STREAM, GOAWAY = 3, 7
for path in ("/away", "/seen"):
    number = begin(path)
    stream.sendall(peer.data_to_send())
    print(hear_of(RST_STREAM, number), hear_of(GOAWAY, 0))
"#,
    );
    let expected = "the server's\nthe guest's\n7 0\n7 0\n";
    assert_eq!(finished.output, expected, "{finished:?}");
}

#[test]
fn a_stream_that_a_guest_does_not_read_is_not_read_either_and_holds_up_no_other() {
    if !needs::are_met(&[]) || !has_module("h2") {
        return;
    }
    let finished = ask(
        GOOD,
        r#"
stalled, got = begin("/endless", ends=True), 0
while got < 65535:
    got += len(next_of(stalled, DataReceived).data)
# The window of the connection is for others, too.
peer.increment_flow_control_window(1000000)
for _ in range(50):
    _, sent = seen()
print(got, got < sent < 1500000)
"#,
    );
    assert_eq!(finished.output, "65535 True\n", "{finished:?}");
}

#[test]
fn a_tunnel_is_a_stream_that_is_looked_at() {
    if !needs::are_met(&[]) || !has_module("h2") {
        return;
    }
    let tunnel = r#"
import os
def open_tunnel():
    # It is there for whoever was told so (RFC 8441 3).
    while not peer.remote_settings.enable_connect_protocol:
        waiting.extend(hear())
    number = begin("/tunnel", [(":protocol", "websocket")], "CONNECT")
    print(dict(next_of(number, ResponseReceived).headers)[":status"])
    return number
def frame(word):
    # A message of text, masked with "abcd".
    masked = bytes(byte ^ b"abcd"[index % 4] for index, byte in enumerate(word))
    return bytes([0x81, 0x80 | len(word)]) + b"abcd" + masked
number = open_tunnel()
for word in (b"one", b"two"):
    peer.send_data(number, frame(word))
    heard = next_of(number, DataReceived).data
    print(heard[:2].hex(), heard[2:].decode())
peer.end_stream(number)
next_of(number, StreamEnded)
"#;
    let passed = "200\n8103 ONE\n8103 TWO\n";
    let finished = ask(GOOD, &format!("{tunnel}print(seen()[0])"));
    let seen = "[['CONNECT', 'websocket'], 'one', 'two']\n";
    assert_eq!(finished.output, format!("{passed}{seen}"), "{finished:?}");
    assert!(events(&finished).is_empty(), "{finished:?}");
    // Who may not have it hears no more, and so it is behind the head of a response.
    let held = r#"
opened = begin("/open")
next_of(opened, ResponseReceived)
said = b"and " + os.environ["API_KEY"].encode()
tunnel = open_tunnel()
peer.send_data(tunnel, frame(said))
# A close, whose code is that of a violation of policy (RFC 6455 7.4.1).
print(next_of(tunnel, DataReceived).data.hex(), bool(next_of(tunnel, StreamEnded)))
peer.send_data(opened, said)
print(int(next_of(opened, StreamReset).error_code))
print([word for word in seen()[0] if "$" in str(word)])
"#;
    let finished = ask(EVIL, &format!("{tunnel}{held}"));
    assert_eq!(finished.output, format!("{passed}200\n880203f0 True\n2\n[]\n"), "{finished:?}");
    let events = events(&finished);
    let places: Vec<_> = events.iter().map(|event| (&event["reason"], &event["place"])).collect();
    let secret = json!("secret");
    let expected = [(&secret, &json!("WebSocket message")), (&secret, &json!("body"))];
    assert_eq!(places, expected, "{finished:?}");
}
