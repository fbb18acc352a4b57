//! Names that are asked over TLS (RFC 7858): by kdig, and by whoever means no good. They are judged
//! as those at port 53 are, wherever the guest thinks it asks.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Scratch, Site, config};
use crate::guest::{Guest, Setup};
use crate::names::{A, query};
use crate::needs;
use crate::process::{self, Process};
use crate::servers::Family;

/// A name server that says of every name that it leads to 203.0.114.7, and of `private.test` that
/// it leads inside.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut bytes) {
                let mut answer = bytes[..len].to_vec();
                heard.lock().unwrap().push(answer[12..].to_vec());
                // Without the OPT record that may follow the question.
                let is_private = answer[13..].starts_with(b"private");
                let end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                answer.truncate(end);
                (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
                (answer[10], answer[11]) = (0, 0);
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(if is_private { [10, 0, 0, 1] } else { [203, 0, 114, 7] });
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { address, asked }
    }

    /// How often it was asked about `name`.
    fn asked(&self, name: &str) -> usize {
        let question = query(0, name, A)[12..].to_vec();
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.starts_with(&question)).count()
    }
}

/// A guest whose TLS ends at the gateway, and whose names are asked of a server.
struct Asking {
    server: Server,
    guest: Guest,
    scratch: Scratch,
    _site: Site,
}

impl Asking {
    fn new() -> Self {
        let (server, site, scratch) = (Server::new(), Site::new(&["h2"]), Scratch::new("names"));
        let files =
            json!({"cert_path": scratch.0.join("ca.crt"), "key_path": scratch.0.join("key")});
        let rule: Value = json!({"direction": "egress", "destination": {"domain": "denied.test"},
            "action": "deny"});
        let more = json!({"tls": {"intercept_ca": files},
            "policy": {"default_egress": "allow", "rules": [rule]}});
        let mut json = config(&site, more);
        json["dns"] = json!({"nameservers": [server.address]});
        let guest = Guest::with(&Setup { config: Some(json), ..Setup::default() });
        Self { server, guest, scratch, _site: site }
    }

    fn authority(&self) -> String {
        self.scratch.0.join("ca.crt").display().to_string()
    }

    /// What kdig says to `words`.
    fn kdig(&self, words: &str) -> String {
        let mut kdig = self.guest.command("kdig");
        let authority = format!("+tls-ca={}", self.authority());
        kdig.args([&authority, "+retry=0", "+time=10"]).args(words.split(' '));
        process::run(&mut kdig).output
    }

    /// What `script` says, a program's in the guest.
    fn python(&self, script: &str) -> String {
        let mut process = Process::start(self.command().stdin(Stdio::piped()));
        let text = format!("{PRELUDE}{script}");
        std::io::Write::write_all(&mut process.take_input(), text.as_bytes()).unwrap();
        let finished = process.finish();
        assert_eq!(finished.code, 0, "{finished:?}");
        finished.output
    }

    fn command(&self) -> Command {
        let mut python = self.guest.command("python3");
        let [v4, v6] = Family::BOTH.map(|family| self.guest.gateway(family).to_string());
        python.args(["-", &self.authority(), &v4, &v6]);
        python
    }
}

const PRELUDE: &str = r#"
import random, socket, ssl, struct, sys
authority, v4, v6 = sys.argv[1:4]
context = ssl.create_default_context(cafile=authority)

def connect(address, name=None):
    raw = socket.create_connection((address, 853), timeout=60)
    # Otherwise any end would be one in order.
    name = name or address
    return context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False)

def query(number, name, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = struct.pack(">HHHHHH", number, 256, 1, 0, 0, 0)
    return head + labels + struct.pack(">BHH", 0, kind, 1)

def framed(message):
    return struct.pack(">H", len(message)) + message

def exactly(stream, count):
    heard = b""
    while len(heard) < count:
        piece = stream.recv(count - len(heard))
        if not piece: raise EOFError
        heard += piece
    return heard

def answer(stream):
    return exactly(stream, struct.unpack(">H", exactly(stream, 2))[0])

def ended(stream):
    try:
        return "in order" if stream.recv(100) == b"" else "it goes on"
    except (ConnectionResetError, ssl.SSLEOFError):
        return "reset"
    except OSError as error:
        return repr(error)
"#;

#[test]
fn kdig_asks_over_tls_whomever_it_likes_and_the_gateway_answers() {
    if !needs::are_met(&["kdig"]) {
        return;
    }
    let asking = Asking::new();
    let [v4, v6] = Family::BOTH.map(|family| asking.guest.gateway(family).to_string());
    for server in [&v4, &v6, "1.1.1.1", "2606:4700:4700::1111"] {
        for name in ["", " +tls-hostname=dns.example"] {
            let said = asking.kdig(&format!("@{server} +tls{name} good.test A"));
            assert!(said.contains("203.0.114.7"), "{server}{name}: {said}");
            assert!(said.contains("TLS session"), "{server}{name}: {said}");
        }
    }
    let stranger = "@1.1.1.1 +tls +tls-ca=/etc/ssl/certs/ca-certificates.crt good.test A";
    let mut kdig = asking.guest.command("kdig");
    let said = process::run(kdig.args(stranger.split(' '))).output;
    assert!(!said.contains("203.0.114.7"), "nobody else vouches for the gateway: {said}");
    // What is known is known, however it was asked.
    assert!(asking.kdig(&format!("@{v4} good.test A")).contains("203.0.114.7"));
    assert_eq!(asking.server.asked("good.test"), 1);
    // The gateway's own names, and several on one connection.
    let said = asking.kdig(&format!("@{v4} +tls +keepopen one.test A two.test A three.test A"));
    assert_eq!(said.matches("203.0.114.7").count(), 3, "{said}");
    let own = asking.kdig(&format!("@{v4} +tls host.sluicegate.internal A"));
    assert!(own.contains(&v4), "{own}");
}

#[test]
fn a_name_that_is_denied_or_leads_inside_is_not_there() {
    if !needs::are_met(&["kdig"]) {
        return;
    }
    let asking = Asking::new();
    let gateway = asking.guest.gateway(Family::V4);
    for (name, is_asked, reason) in
        [("denied.test", 0, "by rule 1"), ("private.test", 1, "leads inside")]
    {
        let said = asking.kdig(&format!("@{gateway} +tls {name} A"));
        assert!(said.contains("NXDOMAIN") && !said.contains("10.0.0.1"), "{name}: {said}");
        assert_eq!(asking.server.asked(name), is_asked, "{name}, {reason}");
    }
}

#[test]
fn many_questions_on_one_connection_are_all_answered_in_whatever_pieces_they_come() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let said = Asking::new().python(
        r#"
context.set_alpn_protocols(["dot"])
stream = connect(v6)
print(stream.selected_alpn_protocol())
dice = random.Random(1)
sent = b"".join(framed(query(n, f"n{n % 40}.test")) for n in range(300))
rest = sent
# One after the other, as the two directions of a Python socket are one object: the answers wait.
while rest:
    cut = dice.randrange(1, 90)
    stream.sendall(rest[:cut])
    rest = rest[cut:]
answers = [answer(stream) for _ in range(300)]
print(sorted(struct.unpack(">H", a[:2])[0] for a in answers) == list(range(300)))
print(all(a.endswith(bytes([203, 0, 114, 7])) for a in answers))
stream.unwrap().close()
"#,
    );
    assert_eq!(said, "dot\nTrue\nTrue\n");
}

#[test]
fn what_is_no_query_or_no_tls_ends_the_connection() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let asking = Asking::new();
    let said = asking.python(
        r#"
def said(bytes):
    stream = connect(v4)
    stream.sendall(bytes)
    return ended(stream)
print(said(b"\xff\xff" + b"x" * 5000))
print(said(b"\x00\x05hello"))
print(said(framed(query(1, "a.test")[:2] + b"\x80" + query(1, "a.test")[3:])))
raw = socket.create_connection((v4, 853), timeout=60)
raw.sendall(framed(query(1, "clear.test")))
print(ended(raw))
raw = socket.create_connection((v4, 853), timeout=60)
raw.sendall(b"\x16\x03\x01\x00\x05hello")
print(ended(raw))
silent = socket.create_connection((v4, 853), timeout=60)
print(ended(silent))
# Half a query, and an end that was announced.
stream = connect(v4)
stream.sendall(framed(query(1, "half.test"))[:9])
stream.unwrap()
# Who comes next is served.
stream = connect(v4)
stream.sendall(framed(query(7, "good.test")))
print(answer(stream)[:2])
"#,
    );
    let expected = ["reset", "reset", "reset", "reset"].join("\n");
    assert_eq!(said, format!("{expected}\nreset\nreset\nb'\\x00\\x07'\n"));
    assert_eq!(asking.server.asked("clear.test") + asking.server.asked("half.test"), 0);
}

#[test]
fn with_too_many_connections_the_oldest_end() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let asking = Asking::new();
    let said = asking.python(
        r#"
streams = [connect(v4) for _ in range(80)]
print([ended(stream) for stream in streams[:16]] == ["reset"] * 16)
for number in (16, 79):
    streams[number].sendall(framed(query(number, "good.test")))
    print(answer(streams[number])[1])
"#,
    );
    assert_eq!(said, "True\n16\n79\n");
}

#[test]
fn a_silent_connection_is_ended_in_order_and_in_time() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let asking = Asking::new();
    let mut process = Process::start(asking.command().stdin(Stdio::piped()));
    let script = r#"
import select
stream = connect(v4)
stream.sendall(framed(query(1, "good.test")))
answer(stream)
print(select.select([stream], [], [], 15)[0], flush=True)
print(ended(stream))
"#;
    let text = format!("{PRELUDE}{script}");
    std::io::Write::write_all(&mut process.take_input(), text.as_bytes()).unwrap();
    process.wait_for("[]\n");
    let finished = process.finish();
    assert_eq!(finished.output, "[]\nin order\n", "{finished:?}");
}
