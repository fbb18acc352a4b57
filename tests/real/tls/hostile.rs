//! A guest that wants to break what ends its TLS. Each attack is refused or carried, and whoever
//! comes next is served as ever, with little memory taken.

use std::process::Stdio;

use serde_json::json;

use super::{EVIL, GOOD, Scratch, Site, config, has};
use crate::guest::{ConfigFile, Guest, Setup, sluicegate};
use crate::held;
use crate::needs;
use crate::process::{self, Process};
use crate::servers::Family;

/// What every attack here begins with.
const PRELUDE: &str = r#"
import socket, ssl, sys
name, port, gateway, authority = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=authority)

def connect(*protocols):
    raw = socket.create_connection((gateway, port), timeout=20)
    if protocols: context.set_alpn_protocols(protocols)
    return context.wrap_socket(raw, server_hostname=name)

def all_of(stream):
    said = b""
    try:
        while True:
            piece = stream.recv(65536)
            if not piece: return said
            said += piece
    except OSError as error:
        return said

def status(request):
    stream = connect()
    try:
        stream.sendall(request)
    except OSError:
        pass
    return all_of(stream).split(b"\r\n")[0].decode() or "nothing"
"#;

/// A guest whose TLS ends at the gateway, and the server behind that.
struct Ring {
    site: Site,
    guest: Guest,
    scratch: Scratch,
}

impl Ring {
    fn new(protocols: &[&str]) -> Self {
        let site = Site::new(protocols);
        let scratch = Scratch::new("ring");
        let files =
            json!({"cert_path": scratch.0.join("ca.crt"), "key_path": scratch.0.join("key")});
        let json = config(&site, json!({"tls": {"intercept_ca": files}}));
        let guest = Guest::with(&Setup { config: Some(json), ..Setup::default() });
        Self { site, guest, scratch }
    }

    /// Bytes of memory of the gateway.
    fn resident_bytes(&self) -> u64 {
        held::resident_bytes(self.guest.engine().id()) as u64
    }

    /// What `script` says that runs in the guest.
    fn attack(&self, script: &str) -> String {
        let finished = self.begin(script).finish();
        assert_eq!(finished.code, 0, "{finished:?}");
        finished.output
    }

    /// `script`, which begins to run in the guest.
    fn begin(&self, script: &str) -> Process {
        let gateway = self.guest.gateway(Family::V4).to_string();
        let mut python = self.guest.command("python3");
        python
            .args(["-", GOOD, &self.site.port.to_string(), &gateway])
            .arg(self.scratch.0.join("ca.crt"));
        let mut process = Process::start(python.stdin(Stdio::piped()));
        let text = format!("{PRELUDE}{script}");
        std::io::Write::write_all(&mut process.take_input(), text.as_bytes()).unwrap();
        process
    }

    /// Whoever comes next is served.
    fn is_fine(&self) {
        let script = r#"
print(status(f"GET /fine HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()))"#;
        assert_eq!(self.attack(script), "HTTP/1.1 200 OK\n");
    }
}

#[test]
fn a_request_that_can_be_read_in_two_ways_reaches_nobody_as_two() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let ring = Ring::new(&["http/1.1"]);
    for (what, head, expected) in [
        ("two lengths", "Content-Length: 5\\r\\nContent-Length: 6", &["400"][..]),
        ("a folded field", "X: a\\r\\n b", &["400"]),
        ("a blank before the colon", "Content-Length : 5", &["400"]),
        ("an unknown coding", "Transfer-Encoding: x", &["400"]),
        ("chunked, and not last", "Transfer-Encoding: chunked, x", &["400"]),
        ("two hosts", "Host: good.test", &["400", "421"]),
        ("a control character", "X: a\\x00b", &["400"]),
        ("a length that is none", "Content-Length: +5", &["400"]),
    ] {
        let script = format!(
            r#"
head = f"POST /smuggled HTTP/1.1\r\nHost: {{name}}\r\n{head}\r\n\r\n"
print(status(head.encode() + b"hello"))"#
        );
        let said = ring.attack(&script);
        assert!(expected.iter().any(|code| said.contains(code)), "{what}: {said}");
    }
    assert!(!has(&ring.site.heard(), b"/smuggled"), "none of it has left");
    // A length beside chunks: one of the two is what is sent on, and the body is one.
    let script = r#"
print(status(f"POST /both HTTP/1.1\r\nHost: {name}\r\nContent-Length: 4\r\n"
    "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    "5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".encode()))"#;
    ring.attack(script);
    let heard = ring.site.heard().to_ascii_lowercase();
    assert!(!has(&heard, b"content-length: 4\r\n"), "it is as long as it is, not as it is said");
    assert!(!has(&heard, b"/smuggled"));
    ring.is_fine();
}

#[test]
fn much_is_refused_and_takes_little_memory() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let ring = Ring::new(&["http/1.1"]);
    ring.is_fine();
    let before = ring.resident_bytes();
    let script = r#"
print(status(f"GET / HTTP/1.1\r\nHost: {name}\r\nX: {'a' * 1000000}\r\n\r\n".encode()))
print(status(f"GET / HTTP/1.1\r\nHost: {name}\r\n".encode() + b"X: a\r\n" * 10000 + b"\r\n"))
print(status(b"a" * 1000000))
for _ in range(20):
    status(f"GET / HTTP/1.1\r\nHost: {name}\r\nX: {'a' * 1000000}\r\n\r\n".encode())
"#;
    let said = ring.attack(script);
    for line in said.lines() {
        let is_refused = line.contains("431") || line.contains("400") || line == "nothing";
        assert!(is_refused, "{said}");
    }
    let taken = ring.resident_bytes().saturating_sub(before);
    assert!(taken < 64 << 20, "{taken} bytes for what was refused");
    ring.is_fine();
}

#[test]
fn ten_thousand_requests_in_a_row_are_answered_in_order() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let ring = Ring::new(&["http/1.1"]);
    let script = r#"
stream = connect()
said, total = b"", 0
for batch in range(20):
    one = "GET /{} HTTP/1.1\r\nHost: {}\r\n\r\n"
    stream.sendall("".join(one.format(batch * 500 + n, name) for n in range(500)).encode())
    heard = b""
    while heard.count(b"HTTP/1.1 200 OK") < 500 or not heard.endswith(b"}"):
        heard += stream.recv(65536)
    total += heard.count(b"HTTP/1.1 200 OK")
    order = [heard.find(b'"/%d"' % (batch * 500 + n)) for n in range(500)]
    assert order == sorted(order) and order[0] > 0, batch
print(total)
"#;
    assert_eq!(ring.attack(script), "10000\n");
    ring.is_fine();
}

#[test]
fn hellos_of_every_shape_end_in_an_answer() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let ring = Ring::new(&["http/1.1"]);
    let script = r#"
def hello(server_name):
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    lax = ssl._create_unverified_context()
    session = lax.wrap_bio(into, out, server_hostname=server_name)
    try: session.do_handshake()
    except ssl.SSLWantReadError: pass
    return session, into, out

def send_cut(raw, record, size):
    body = record[5:]
    for at in range(0, len(body), size):
        piece = body[at:at + size]
        raw.sendall(bytes([22, 3, 1]) + len(piece).to_bytes(2, "big") + piece)

# In records of one byte, and then as usual.
session, into, out = hello(name)
raw = socket.create_connection((gateway, port), timeout=20)
send_cut(raw, out.read(), 1)
while True:
    into.write(raw.recv(65536))
    try:
        session.do_handshake()
        break
    except ssl.SSLWantReadError:
        pass
print("handshake", session.version())

def answer(bytes_):
    raw = socket.create_connection((gateway, port), timeout=20)
    try:
        raw.sendall(bytes_)
        raw.shutdown(socket.SHUT_WR)
        said = raw.recv(7)
    except OSError:
        return "reset"
    return "alert" if said[:1] == b"\x15" else "closed" if not said else said

long = bytearray(b"\x01\x00\xff\xff" + b"\x03\x03" + bytes(65533))
records = b"".join(b"\x16\x03\x01\x40\x00" + bytes(long[i:i + 16384]).ljust(16384, b"\0")
                   for i in range(0, 65536, 16384))
print("64 KiB", answer(records))
print("cut", answer(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
print("another message", answer(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"))
print("an alert first", answer(b"\x15\x03\x01\x00\x02\x02\x28"))
"#;
    let said = ring.attack(script);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("handshake TLSv1"), "{said}");
    assert_eq!(lines.len(), 5, "{said}");
    for line in &lines[1..] {
        let is_ended = ["alert", "reset", "closed"].iter().any(|end| line.ends_with(end));
        assert!(is_ended, "{line}: {said}");
    }
    ring.is_fine();
}

#[test]
fn whoever_says_another_name_or_none_gets_that_one_or_nothing() {
    if !needs::are_met(&["curl", "openssl"]) {
        return;
    }
    // By address: no name is said, and the server has to prove that address.
    let site = Site::new(&["http/1.1"]);
    let json = config(&site, json!({"tls": {"verify_upstream": false}}));
    let guest = Guest::with(&Setup { config: Some(json), ..Setup::default() });
    for family in Family::BOTH {
        let address = std::net::SocketAddr::new(guest.gateway(family), site.port);
        let mut curl = guest.command("curl");
        curl.args(["-sSk", "-m", "20", &format!("https://{address}/")]);
        assert!(process::succeed(&mut curl).contains(r#""version":"h1""#), "{family:?}");
        let mut openssl = guest.command("openssl");
        let target = address.to_string();
        openssl.args(["s_client", "-noservername", "-connect", &target, "-showcerts"]);
        let shown = process::run(openssl.stdin(Stdio::null())).output;
        assert!(shown.contains("Sluicegate interception authority"), "{shown}");
    }
    let strict = config(&site, json!({}));
    let guest = Guest::with(&Setup { config: Some(strict), ..Setup::default() });
    let mut curl = guest.command("curl");
    let address = std::net::SocketAddr::new(guest.gateway(Family::V4), site.port);
    curl.args(["-sSk", "-m", "20", &format!("https://{address}/")]);
    let refused = process::run(&mut curl);
    assert!(refused.errors.contains("alert certificate unknown"), "{refused:?}");
}

/// What every flood begins with.
const FRAMES: &str = r#"
import select
def frame(kind, flags, stream, payload=b""):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
def literal(name, value):
    def text(t): return (bytes([len(t)]) if len(t) < 127 else b"\x7f" + number(len(t) - 127)) + t
    return b"\x00" + text(name) + text(value)
def number(n):
    out = b""
    while n >= 128: out += bytes([n % 128 + 128]); n //= 128
    return out + bytes([n])
def head(authority=None):
    return (b"\x82\x87" + literal(b":path", b"/flood") +
            literal(b":authority", (authority or f"{name}:{port}").encode()))
def frames_of(said):
    at = 0
    while at + 9 <= len(said):
        end = at + 9 + int.from_bytes(said[at:at + 3], "big")
        if end > len(said): return
        yield said[at + 3], said[at + 4], bytes(said[at + 9:end])
        at = end
def flood(make, count):
    stream = connect("h2")
    stream.setblocking(False)
    # The last is a ping: who answers it has taken all that was before it.
    out, said, end = PREFACE, bytearray(), None
    n = 0
    while end is None:
        while len(out) < 65536 and n <= count:
            out += make(n) if n < count else frame(6, 0, 0, b"the last")
            n += 1
        moved = False
        try:
            if out:
                out, moved = out[stream.send(out):], True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError): pass
        except OSError: end = "ended"
        try:
            piece = stream.recv(65536)
            said += piece
            moved = True
            if not piece: end = "ended"
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError): pass
        except OSError: end = "ended"
        if b"the last" in said[-65536:]: end = "carried"
        if not moved and end is None:
            if not any(select.select([stream], [stream] if out else [], [], 30)): end = "stuck"
    kinds = list(frames_of(said))
    # What of settings and pings was answered.
    acknowledged = lambda wanted: sum(kind == wanted and flags & 1 for kind, flags, _ in kinds)
    return f"{end} {acknowledged(4)} {acknowledged(6)}"
"#;

/// Floods: how each ends, and what of settings and pings is answered if it is carried.
const FLOODS: [(&str, &str, &str); 7] = [
    (
        "rapid reset",
        "ended",
        "flood(lambda n: frame(1, 5, 2 * n + 1, head()) + \
            frame(3, 0, 2 * n + 1, bytes(4)), 50000)",
    ),
    (
        "CONTINUATION",
        "ended",
        "flood(lambda n: frame(1, 1, 1, head()) if n == 0 else \
            frame(9, 0, 1, literal(b'x', b'a' * 100) * 100), 3000)",
    ),
    (
        "HPACK bomb",
        "ended",
        "flood(lambda n: frame(1, 5, 2 * n + 1, head() + b'\\x40\\x01x' + \
            b'\\x7f' + number(3900 - 127) + b'a' * 3900 + b'\\xbe' * 10000), 200)",
    ),
    ("settings", "carried 200001 1\n", "flood(lambda n: frame(4, 0, 0), 200000)"),
    ("pings", "carried 1 200001\n", "flood(lambda n: frame(6, 0, 0, bytes(8)), 200000)"),
    (
        "empty data",
        "ended",
        "flood(lambda n: frame(1, 4, 1, head()) if n == 0 else \
            frame(0, 0, 1), 200000)",
    ),
    (
        "another server's",
        "carried 1 1\n",
        "flood(lambda n: frame(1, 5, 2 * n + 1, head('evil.test')), 100)",
    ),
];

#[test]
fn floods_of_http_2_end_their_own_connection_only() {
    if !needs::are_met(&["python3", "curl"]) {
        return;
    }
    let ring = Ring::new(&["h2", "http/1.1"]);
    let before = ring.resident_bytes();
    // A stream of somebody else's, which goes on meanwhile.
    let gateway = ring.guest.gateway(Family::V4);
    let mut curl = ring.guest.command("curl");
    curl.args(["-sSN", "--http2", "--cacert"]).arg(ring.scratch.0.join("ca.crt"));
    curl.args(["--resolve", &format!("{GOOD}:{}:{gateway}", ring.site.port)]);
    let mut held = Process::start(curl.arg(ring.site.url(GOOD, "/endless")));
    held.wait_for("data: event 1\n");
    let mut event = 1;
    let mut goes_on = |held: &mut Process| {
        event += 1;
        ring.site.go_on();
        held.wait_for(&format!("data: event {event}\n"));
    };
    for (what, expected, script) in FLOODS {
        let flood = ring.begin(&format!("{FRAMES}\nprint({script})"));
        goes_on(&mut held);
        let finished = flood.finish();
        // A few bytes each way are carried for what they are; what costs more ends.
        assert!(finished.output.starts_with(expected), "{what}: {finished:?}");
        goes_on(&mut held);
        let taken = ring.resident_bytes().saturating_sub(before);
        assert!(taken < 128 << 20, "{what}: {taken} bytes");
        ring.is_fine();
    }
    assert!(!has(&ring.site.heard(), b"evil.test"));
}

#[test]
fn a_guest_that_says_no_more_within_its_handshake_is_ended() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let ring = Ring::new(&["http/1.1"]);
    let script = r#"
into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
session = context.wrap_bio(into, out, server_hostname=name)
try: session.do_handshake()
except ssl.SSLWantReadError: pass
hello = out.read()
def connect_and_say(bytes_):
    raw = socket.create_connection((gateway, port), timeout=20)
    raw.sendall(bytes_)
    # Longer than each handshake may take.
    raw.settimeout(50)
    return raw
def end(raw):
    said = b""
    try:
        while piece := raw.recv(65536): said += piece
        how = "ended"
    except TimeoutError:
        how = "left open"
    except OSError:
        how = "ended"
    return "answered" if said[:1] == b"\x16" else "not answered", how
# Behind the hello of the server, and within its own.
for raw in [connect_and_say(hello), connect_and_say(hello[:len(hello) // 2])]:
    print(*end(raw))
"#;
    assert_eq!(ring.attack(script), "answered ended\nnot answered ended\n");
    ring.is_fine();
}

#[test]
fn the_command_says_what_of_tls_it_can_not_do() {
    if !needs::are_met(&[]) {
        return;
    }
    for (json, expected) in [
        (json!({"tls": {"enabled": true, "upstream_ca_cert": ["/no/such.pem"]}}), "/no/such.pem"),
        (json!({"tls": {"enabled": true, "intercepted_ports": [53]}}), "tls.intercepted_ports: 53"),
        (json!({"tls": {"bypass": ["a b"]}}), "tls.bypass[0]"),
        (json!({"tls": {"cache": {"capacity": 100_001}}}), "tls.cache.capacity: 100001"),
        (json!({"tls": {"ca": {"key_path": "/k"}}}), "tls.intercept_ca.key_path: /k"),
        (
            json!({"secrets": {"secrets":
                [{"env_var": "A", "value": "v", "allowed_hosts": [EVIL]}]}}),
            "secrets.secrets: 1 is not of use without tls.enabled",
        ),
    ] {
        let file = ConfigFile::new(&json);
        let mut command = sluicegate();
        command.args(["run", "--config"]).arg(file.path()).args(["--", "true"]);
        let finished = process::run(&mut command);
        assert!(finished.code == 125 && finished.errors.contains(expected), "{finished:?}");
    }
}

#[test]
fn more_connections_than_are_served_are_reset_and_the_others_go_on() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let ring = Ring::new(&["http/1.1"]);
    let script = r#"
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
opened, reset = [], 0
for _ in range(530):
    try:
        opened.append(connect())
    except OSError:
        reset += 1
print(len(opened), reset)
first = opened[0]
first.sendall(f"GET /fine HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
print(all_of(first).split(b"\r\n")[0].decode())
"#;
    assert_eq!(ring.attack(script), "512 18\nHTTP/1.1 200 OK\n");
    ring.is_fine();
}

#[test]
fn empty_lines_before_a_request_hide_nothing() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    // Without a protocol that was agreed on, what it is is told by its first bytes.
    let ring = Ring::new(&[]);
    let script = r#"
for lines in (0, 1, 3, 40):
    head = b"\r\n" * lines + b"GET /hidden HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    print(status(head))
"#;
    let said = ring.attack(script);
    for line in said.lines() {
        assert!(line.contains("421") || line.contains("400"), "{said}");
    }
    assert!(!has(&ring.site.heard(), b"/hidden"));
}
