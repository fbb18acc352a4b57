//! Thousands of random requests, of which no byte may be where it must not: values only at the
//! server that may have them, placeholders only at the guest.

use std::process::Stdio;

use serde_json::json;

use super::{EVIL, GOOD, Site, VALUE, command, config, has};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::Process;

/// Asks what chance says, of whom chance says, and shows all that comes back.
const CLIENT: &str = r#"
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

def request(name):
    fields, body, target = {"Host": name}, b"", "/p"
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
for _ in range(int(count)):
    name = dice.choice([good, evil])
    port = int(good_port if name == good else evil_port)
    if name not in streams:
        raw = socket.create_connection((name, port), timeout=30)
        streams[name] = context.wrap_socket(raw, server_hostname=name)
    stream, message = streams[name], request(name)
    try:
        while message:
            cut = dice.randrange(1, len(message) + 1)
            stream.sendall(message[:cut])
            message = message[cut:]
        said, is_over = answer(stream)
    except OSError:
        said, is_over = b"-", True
    sys.stdout.buffer.write(said + b"\n")
    if is_over: streams.pop(name).close()
print("asked all")
"#;

#[test]
fn no_byte_is_where_it_must_not_be() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let (good, evil) = (Site::new(&["http/1.1"]), Site::new(&["http/1.1"]));
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
    let mut python = command(&file, "exec python3 - \"$0\" \"$@\"");
    python.args([GOOD, EVIL, &ports[0], &ports[1], "1", "3000"]);
    let mut process = Process::start(python.stdin(Stdio::piped()));
    std::io::Write::write_all(&mut process.take_input(), CLIENT.as_bytes()).unwrap();
    let finished = process.finish();
    let tail = &finished.output[finished.output.len().saturating_sub(500)..];
    assert!(finished.output.ends_with("asked all\n"), "{tail}\n{}", &finished.errors);

    let (at_good, at_evil) = (good.heard(), evil.heard());
    assert!(has(&at_good, VALUE.as_bytes()), "some may have it");
    assert!(finished.output.contains("200 OK") && finished.output.contains("403 Forbidden"));
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
        assert!(!has(&at_evil, hidden.as_bytes()), "{hidden} at the evil server");
    }
    // Whatever noise is before it: the name itself gets nowhere but where the guest spelled it
    // otherwise than a placeholder.
    assert!(finished.errors.contains(r#""secret":"API_KEY_LONGER""#), "violations are told");
}
