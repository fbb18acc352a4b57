//! Thousands of random requests, of which no byte may be where it must not: values only at the
//! server that may have them, placeholders only at the guest.

use std::process::Stdio;

use serde_json::json;

use super::{EVIL, GOOD, Site, VALUE, command, config, has, programs};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::Process;

/// What chance has a client ask.
const PRELUDE: &str = r#"
import base64, gzip, json, random, socket, ssl, sys, urllib.parse
good, evil, good_port, evil_port, seed, count = sys.argv[1:7]
dice = random.Random(int(seed))
context = ssl.create_default_context()
PLACEHOLDERS = ["$MSB_API_KEY", "$MSB_API_KEY_LONGER", "${other}"]

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
        text = payload()
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

#[test]
fn no_byte_is_where_it_must_not_be() {
    if !needs::are_met(&[]) || !programs::has_module("h2") {
        return;
    }
    no_byte_strays("http/1.1", HTTP_1, "3000");
    no_byte_strays("h2", HTTP_2, "1000");
}

fn no_byte_strays(protocol: &str, client: &str, count: &str) {
    let (good, evil) = (Site::new(&[protocol]), Site::new(&[protocol]));
    let other = "another-value-that-nobody-here-may-have";
    let all = json!({"headers": true, "query": true, "body": true});
    let secrets = json!([
        {"env_var": "API_KEY", "value": VALUE, "allowed_hosts": [GOOD], "substitution": all},
        {"env_var": "API_KEY_LONGER", "value": other, "allowed_hosts": ["elsewhere.test"],
            "substitution": all},
        {"env_var": "OTHER", "value": other, "placeholder": "${other}",
            "allowed_hosts": ["*.elsewhere.test"], "substitution": all},
    ]);
    let more = json!({"secrets": {"secrets": secrets}, "tls": {
        "intercepted_ports": [good.port, evil.port],
        "upstream_ca_cert": [good.authority(), evil.authority()],
    }});
    let file = ConfigFile::new(&config(&good, more));
    let ports = [good.port, evil.port].map(|port| port.to_string());
    let mut python = command(&file, "exec \"$0\" - \"$@\"");
    python.args([programs::PYTHON, GOOD, EVIL, &ports[0], &ports[1], "1", count]);
    let mut process = Process::start(python.stdin(Stdio::piped()));
    let client = format!("{PRELUDE}{client}");
    std::io::Write::write_all(&mut process.take_input(), client.as_bytes()).unwrap();
    // On a machine that is busy with other tests, too, all of it takes longer than any step.
    let step = count.parse::<usize>().unwrap() / 10;
    (0..10).for_each(|mark| process.wait_for(&format!("turn {}.\n", mark * step)));
    let finished = process.finish();
    let tail = &finished.output[finished.output.len().saturating_sub(500)..];
    assert!(finished.output.ends_with("asked all\n"), "{tail}\n{}", &finished.errors);

    let (at_good, at_evil) = (good.heard(), evil.heard());
    assert!(has(&at_good, VALUE.as_bytes()), "some may have it");
    let (yes, no) = if protocol == "h2" {
        ("(':status', '200')", "(':status', '403')")
    } else {
        ("200 OK", "403 Forbidden")
    };
    assert!(finished.output.contains(yes) && finished.output.contains(no), "{tail}");
    for (where_, bytes) in [
        ("the evil server", at_evil.as_slice()),
        ("the log", finished.errors.as_bytes()),
        ("the guest", finished.output.as_bytes()),
    ] {
        assert!(!has(bytes, VALUE.as_bytes()), "a value at {where_}");
        assert!(!has(bytes, other.as_bytes()), "another at {where_}");
    }
    assert!(!has(&at_good, other.as_bytes()), "the other is nobody's here");
    for hidden in ["$MSB_API_KEY_LONGER", "${other}", "%24MSB_API_KEY_LONGER"] {
        assert!(!has(&at_good, hidden.as_bytes()), "{hidden} at the good server");
    }
    for hidden in ["$MSB_API_KEY", "%24MSB_API_KEY", "${other}", "\\u0024MSB_API_KEY"] {
        let at = memchr::memmem::find(&at_evil, hidden.as_bytes());
        let near = at.map(|at| &at_evil[at.saturating_sub(200)..at_evil.len().min(at + 99)]);
        let near = near.map(String::from_utf8_lossy);
        assert_eq!(near, None, "{hidden} at the evil server");
    }
    // Whatever noise is before it: the name itself gets nowhere but where the guest spelled it
    // otherwise than a placeholder.
    assert!(finished.errors.contains(r#""secret":"API_KEY_LONGER""#), "violations are told");
}
