//! Thousands of random requests, of which no byte may be where it must not: values only at the
//! server that may have them and in the places that they may be in, placeholders only at the guest.
//!
//! Requests and values are of one seed, which is printed, and may be set: `SLUICEGATE_TAINT_SEED`.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{EVIL, GOOD, Scratch, Site, config, has, programs};
use crate::guest::{ConfigFile, free_slot, sluicegate};
use crate::needs;
use crate::process::{self, Process};
use crate::waiting::until;

/// What chance has a client ask.
const PRELUDE: &str = r#"
import base64, gzip, json, random, socket, ssl, sys, urllib.parse
good, evil, good_port, evil_port, seed, count = sys.argv[1:7]
dice = random.Random(int(seed))
context = ssl.create_default_context()
PLACEHOLDERS = ["$MSB_API_KEY", "$MSB_API_KEY_LONGER", "$MSB_NARROW", "${other}"]

def percent(text):
    return "".join("%%%02X" % ord(c) if dice.random() < .5 or c in "%&+ #?" else c for c in text)

def escaped(text):
    return "".join("\\u%04x" % ord(c) if dice.random() < .5 else c for c in text)

def hidden(text):
    return dice.choice([str, percent, escaped])(text)

def noise():
    return "".join(dice.choice("ab$_MSB{}%\\u0024=&") for _ in range(dice.randrange(12)))

def payload():
    return noise() + hidden(dice.choice(PLACEHOLDERS)) + noise()

def request():
    fields, body, target = {}, b"", "/p"
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(7)
        # So that it can be told where a value got to.
        text = f"p{place}." + payload()
        if place == 0: fields["X-A"] = text
        if place == 1: fields["Authorization"] = "Bearer " + text
        if place == 2: fields["Authorization"] = "Basic " + base64.b64encode(text.encode()).decode()
        if place == 3: target += "?q=" + urllib.parse.quote(text, safe="$%{}")
        if place == 4: body, kind = text.encode(), "text/plain"
        if place == 5: body, kind = json.dumps({"k": text}).encode(), "application/json"
        if place == 6: body, kind = text.encode(), "application/x-www-form-urlencoded"
    if body: fields["Content-Type"] = kind
    if body and dice.random() < .3:
        body, fields["Content-Encoding"] = gzip.compress(body), "gzip"
    return target, fields, body

def anybody():
    name = dice.choice([good, evil])
    return name, int(good_port if name == good else evil_port)

def pieces(message):
    while message:
        cut = dice.randrange(1, len(message) + 1)
        yield message[:cut]
        message = message[cut:]

def connect(name, port):
    raw = socket.create_connection((name, port), timeout=30)
    return context.wrap_socket(raw, server_hostname=name)

def turns():
    for turn in range(int(count)):
        yield turn
        if turn % (int(count) // 10) == 0: print(f"turn {turn}.", flush=True)

def show(said):
    sys.stdout.buffer.write(said + b"\n")
"#;

/// Asks of whom chance says over HTTP/1.1, and shows all that comes back.
const HTTP_1: &str = r#"
def message(name):
    target, fields, body = request()
    fields = {"Host": name, **fields}
    if body and dice.random() < .3:
        fields["Transfer-Encoding"] = "chunked"
        cut = [body[i:i + 3] for i in range(0, len(body), 3)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in cut) + b"0\r\n\r\n"
    elif body:
        fields["Content-Length"] = str(len(body))
    head = f"POST {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    return head.encode() + b"\r\n" + body

def answer(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte: return head, True
        head += byte
    lower, body = head.lower(), b""
    if b"content-length: " in lower:
        left = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < left:
            body += stream.recv(left - len(body))
    elif b"transfer-encoding: chunked" in lower:
        while not body.endswith(b"0\r\n\r\n"):
            piece = stream.recv(4096)
            if not piece: return head + body, True
            body += piece
    return head + body, b"connection: close" in lower

streams = {}
for _ in turns():
    name, port = anybody()
    if name not in streams:
        streams[name] = connect(name, port)
    stream = streams[name]
    try:
        for piece in pieces(message(name)):
            stream.sendall(piece)
        said, is_over = answer(stream)
    except OSError:
        said, is_over = b"-", True
    show(said)
    if is_over: streams.pop(name).close()
print("asked all")
"#;

/// The same over HTTP/2: a few streams at a time, whose bodies are cut into frames, padded or not,
/// that come in any order, some with trailers behind them.
const HTTP_2: &str = r#"
import h2.config, h2.connection, h2.events, h2.exceptions
context.set_alpn_protocols(["h2"])

class Peer:
    def __init__(self, name, port):
        self.name, self.stream = name, connect(name, port)
        assert self.stream.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()

    def begin(self):
        target, fields, body = request()
        number = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "https"), (":authority", self.name)]
        head += [(":path", target)] + [(name.lower(), value) for name, value in fields.items()]
        left = [(self.h2.send_data, piece) for piece in pieces(body)]
        if body and dice.random() < .2:
            left.append((self.h2.send_headers, [("x-last", payload())]))
        self.h2.send_headers(number, head, end_stream=not left)
        return number, left

    def say(self):
        for piece in pieces(self.h2.data_to_send()):
            self.stream.sendall(piece)

    def ask(self):
        asked = dict(self.begin() for _ in range(dice.randrange(1, 5)))
        while any(asked.values()):
            number = dice.choice([number for number, left in asked.items() if left])
            send, what = asked[number].pop(0)
            pad = {"pad_length": dice.randrange(9)} if send == self.h2.send_data else {}
            send(number, what, end_stream=not asked[number], **pad)
        self.say()
        while asked:
            heard = self.stream.recv(65536)
            if not heard: raise OSError("it is over")
            for event in self.h2.receive_data(heard):
                if isinstance(event, h2.events.ResponseReceived):
                    show(repr(event.headers).encode())
                if isinstance(event, h2.events.DataReceived):
                    show(event.data)
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id)
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    asked.pop(event.stream_id, None)
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise OSError("it was ended")
            self.say()

peers = {}
for _ in turns():
    name, port = anybody()
    if name not in peers:
        peers[name] = Peer(name, port)
    try:
        peers[name].ask()
    except (OSError, h2.exceptions.ProtocolError) as error:
        show(repr(error).encode())
        peers.pop(name).stream.close()
print("asked all")
"#;

/// What of a run is looked at.
struct Taint {
    /// Of the secret that may be anywhere, of the one that may be in one field, and of the one that
    /// nobody here may have.
    values: [String; 3],
    /// What was heard or shown somewhere, and where.
    seen: Vec<(&'static str, Vec<u8>)>,
    at_good: Vec<u8>,
}

/// A sequence of numbers that look random (SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A value that is other in a query, a form, and base64. In JSON it is as it is: the server says
/// what it heard in JSON, and escapes within escapes are not found (README.md).
fn value(state: &mut u64) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=&%";
    let len = 24 + next(state) % 17;
    let letter = |_| char::from(LETTERS[usize::from(next(state).to_le_bytes()[0]) % LETTERS.len()]);
    (0..len).map(letter).collect()
}

/// `bytes`, and what they are where escapes of a query and of JSON mean something, once and twice.
fn readings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![bytes.to_vec()];
    for decode in [percent_decoded, json_decoded] {
        let once = decode(bytes);
        all.extend([percent_decoded(&once), json_decoded(&once), once]);
    }
    all
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, behind)) = rest.split_first() {
        let escaped = if *first == b'%' { hex(behind, 2) } else { None };
        (plain, rest) = pushed(plain, escaped.unwrap_or((*first, behind)));
    }
    plain
}

fn json_decoded(bytes: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, behind)) = rest.split_first() {
        let escaped = match (first, behind) {
            (b'\\', [b'u', digits @ ..]) => hex(digits, 4),
            // Of the others those that stand for themselves matter here.
            (b'\\', [byte, behind @ ..]) => Some((*byte, behind)),
            _ => None,
        };
        (plain, rest) = pushed(plain, escaped.unwrap_or((*first, behind)));
    }
    plain
}

fn pushed(mut plain: Vec<u8>, (byte, rest): (u8, &[u8])) -> (Vec<u8>, &[u8]) {
    plain.push(byte);
    (plain, rest)
}

/// The byte that the first `len` of `bytes` mean as digits, and what is behind them.
fn hex(bytes: &[u8], len: usize) -> Option<(u8, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(len)?;
    Some((u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, rest))
}

/// `text`, and what is in base64 wherever it begins there (RFC 4648 4).
fn spellings(text: &str) -> Vec<Vec<u8>> {
    let inner = (0..3).map(|offset| {
        let encoded = BASE64_STANDARD.encode([vec![0; offset], text.into()].concat());
        // But for the digits that have bits of what is beside it.
        let (from, to) = ((offset * 8).div_ceil(6), (offset + text.len()) * 8 / 6);
        encoded.as_bytes()[from..to].to_vec()
    });
    std::iter::once(text.as_bytes().to_vec()).chain(inner).collect()
}

/// Nothing of `texts` is in `bytes`, however it is written.
fn is_clean(bytes: &[u8], texts: &[&str], place: &str) {
    for reading in readings(bytes) {
        for text in texts {
            for spelling in spellings(text) {
                let at = memchr::memmem::find(&reading, &spelling);
                let near =
                    at.map(|at| &reading[at.saturating_sub(200)..reading.len().min(at + 99)]);
                assert_eq!(near.map(String::from_utf8_lossy), None, "{text} at {place}");
            }
        }
    }
}

#[test]
fn no_byte_is_where_it_must_not_be() {
    if !needs::are_met(&[]) || !programs::has_module("h2") {
        return;
    }
    let seed = std::env::var("SLUICEGATE_TAINT_SEED").map_or_else(
        |_| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) << 32 | now.as_secs()
        },
        |seed| seed.parse().unwrap(),
    );
    eprintln!("SLUICEGATE_TAINT_SEED={seed}");
    for (protocol, client, count, log) in [
        ("http/1.1", HTTP_1, "3000", "warn"),
        ("h2", HTTP_2, "1000", "warn"),
        ("http/1.1", HTTP_1, "1000", "trace"),
        ("h2", HTTP_2, "400", "trace"),
    ] {
        let taint = taint(seed, (protocol, client, count), log);
        no_byte_strays(&taint);
        // In the shorter runs chance may not have asked for it.
        let is_there = has(&taint.at_good, taint.values[1].as_bytes());
        assert!(log == "trace" || is_there, "some may have it in its place");
    }
}

/// A configuration for the two servers, under which the secrets have `values`.
fn secretive((good, evil): (&Site, &Site), values: &[String; 3]) -> Value {
    let all = json!({"headers": true, "query": true, "body": true});
    let secrets = json!([
        {"env_var": "API_KEY", "value": values[0], "allowed_hosts": [GOOD], "substitution": all},
        {"env_var": "NARROW", "value": values[1], "allowed_hosts": [GOOD],
            "substitution": {"header_fields": ["Authorization"], "query": true}},
        {"env_var": "API_KEY_LONGER", "value": values[2], "allowed_hosts": ["elsewhere.test"],
            "substitution": all},
        {"env_var": "OTHER", "value": values[2], "placeholder": "${other}",
            "allowed_hosts": ["*.elsewhere.test"], "substitution": all},
    ]);
    let more = json!({"secrets": {"secrets": secrets}, "tls": {
        "intercepted_ports": [good.port, evil.port],
        "upstream_ca_cert": [good.authority(), evil.authority()],
    }});
    config(good, more)
}

/// Lets `client` ask, under a log of the level `log`.
fn taint(seed: u64, (protocol, client, count): (&str, &str, &str), log: &str) -> Taint {
    let mut state = seed;
    let values = [value(&mut state), value(&mut state), value(&mut state)];
    let (good, evil) = (Site::new(&[protocol]), Site::new(&[protocol]));
    let scratch = Scratch::new("taint");
    let [control, capture] = ["control", "capture"].map(|name| scratch.0.join(name));
    let file = ConfigFile::new(&secretive((&good, &evil), &values));
    let mut python = sluicegate();
    python.args(["run", "--log=json", "--slot", &free_slot().to_string(), "--control"]);
    python.arg(&control).arg("--config").arg(file.path()).env("SLUICEGATE_LOG", log);
    let ports = [good.port, evil.port].map(|port| port.to_string());
    python.args(["--", programs::PYTHON, "-", GOOD, EVIL, &ports[0], &ports[1]]);
    python.args([&seed.to_string(), count]);
    let mut process = Process::start(python.stdin(Stdio::piped()));
    let mut input = process.take_input();
    // What an operator sees, from the begin.
    until("the control socket", || control.exists());
    let ctl = |words: &[&str]| {
        let mut command = sluicegate();
        command.arg("ctl").arg("--control").arg(&control).args(words);
        command
    };
    let recorder = Process::start(ctl(&["capture"]).arg(&capture));
    until("the capture has begun", || capture.metadata().is_ok_and(|file| file.len() > 0));
    let listener = Process::start(&mut ctl(&["events"]));
    std::io::Write::write_all(&mut input, format!("{PRELUDE}{client}").as_bytes()).unwrap();
    drop(input);
    // On a machine that is busy with other tests, too, all of it takes longer than any step.
    let step = count.parse::<usize>().unwrap() / 10;
    let mut shown = String::new();
    for mark in 0..10 {
        process.wait_for(&format!("turn {}.\n", mark * step));
        if mark == 9 {
            // It may be over by now.
            break;
        }
        // Which flows there are at the time is chance's.
        for words in [&["flows", "--json"][..], &["metrics"], &["config"]] {
            shown += &process::succeed(&mut ctl(words));
        }
    }
    assert!(shown.contains(r#""flows""#) && shown.contains("sluicegate_flows"), "{shown}");
    let finished = process.finish();
    let tail = &finished.output[finished.output.len().saturating_sub(500)..];
    let errors = &finished.errors[finished.errors.len().saturating_sub(5000)..];
    assert!(finished.output.ends_with("asked all\n"), "{tail}\n{errors}");
    let (yes, no) = if protocol == "h2" {
        ("(':status', '200')", "(':status', '403')")
    } else {
        ("200 OK", "403 Forbidden")
    };
    assert!(finished.output.contains(yes) && finished.output.contains(no), "{tail}");
    let told = listener.finish();
    assert!(told.output.contains(r#""secret":"API_KEY_LONGER""#), "{told:?}");
    recorder.finish();
    let frames = std::fs::read(&capture).unwrap();
    assert!(frames.len() > 10_000, "{} bytes were captured", frames.len());
    assert_eq!(log == "trace", finished.errors.contains("DEBUG"), "{errors}");
    assert!(finished.errors.contains(r#""secret":"API_KEY_LONGER""#), "violations are told");
    let seen = vec![
        ("the evil server", evil.heard()),
        ("the log", finished.errors.into_bytes()),
        ("the guest", finished.output.into_bytes()),
        ("flows, metrics or configuration", shown.into_bytes()),
        ("the events", [told.output, told.errors].concat().into_bytes()),
        ("the capture", frames),
    ];
    Taint { values, seen, at_good: good.heard() }
}

fn no_byte_strays(taint: &Taint) {
    let [wide, narrow, nobodys] = taint.values.each_ref().map(String::as_str);
    assert!(has(&taint.at_good, wide.as_bytes()), "some may have it");
    for (place, bytes) in &taint.seen {
        is_clean(bytes, &[wide, narrow, nobodys], place);
    }
    is_clean(&taint.at_good, &[nobodys, "$MSB_API_KEY_LONGER", "${other}"], "the good server");
    let (_, at_evil) = &taint.seen[0];
    is_clean(at_evil, &["$MSB_API_KEY", "$MSB_NARROW", "${other}"], "the evil server");
    // In the field and in the query: fields of other names and bodies are none of its places.
    for reading in readings(&taint.at_good) {
        for at in memchr::memmem::find_iter(&reading, narrow) {
            let before = &reading[at.saturating_sub(40)..at];
            let tag = before.windows(3).rev().find(|tag| tag[0] == b'p' && tag[2] == b'.');
            let place = tag.map(|tag| char::from(tag[1]));
            let near = String::from_utf8_lossy(before);
            assert!(
                matches!(place, Some('1' | '2' | '3')),
                "{narrow} in a place of others: {near}"
            );
        }
    }
}
