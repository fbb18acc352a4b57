//! Secrets in heads and bodies: however they are cut, the same passes, and nothing that may not.

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};

use super::pieces;
use crate::config::{SecretConfig, SecretValue, SecretsConfig};
use crate::service::secrets::{BodyFilter, Peer, Scope, Vault, Violation};

/// What the guest has, and what it stands for: `KEY` is good.test's, `KEYS` is below other.test.
const SECRETS: [(&str, &str, &str, &str); 2] = [
    ("KEY", "$MSB_KEY", "sk-live/+ \"quoted\" \u{fc}", "good.test"),
    ("KEYS", "$MSB_KEYS", "another-value-entirely", "*.other.test"),
];
/// `KEY`'s value as JSON has it in a string.
const ESCAPED: &str = "sk-live/+ \\\"quoted\\\" \u{fc}";

/// The secrets, in every place. Those that are not to be `kept` have values that are as long, and
/// as different as can be: whatever turns on them shows it.
pub(super) fn vault(kept: [bool; 2]) -> Vault {
    let secret = |((env_var, _, value, host), kept): ((&str, &str, &str, &str), bool)| {
        let host = host.parse().expect("because it is a name");
        let value = if kept { value.to_owned() } else { "z".repeat(value.len()) };
        let mut secret = SecretConfig::new(env_var, SecretValue::new(value), host);
        secret.substitution.query = true;
        secret.substitution.body = true;
        secret
    };
    let passthrough_hosts = Some(vec!["log.test".parse().expect("because it is a name")]);
    let secrets = SECRETS.into_iter().zip(kept).map(secret).collect();
    let config = SecretsConfig { secrets, passthrough_hosts, ..SecretsConfig::default() };
    Vault::new(config).expect("because the secrets are good")
}

/// Who is spoken to: its name, whether it has proven that, and which of the secrets it may have.
const PEERS: [(&str, bool, [bool; 2]); 5] = [
    ("good.test", true, [true, false]),
    ("a.other.test", true, [false, true]),
    ("evil.test", true, [false, false]),
    ("good.test", false, [false, false]),
    ("log.test", true, [false, false]),
];
/// The last of them may have placeholders as they are.
const LOG: usize = 4;

pub(super) fn scope(who: usize, kept: [bool; 2]) -> Arc<Scope> {
    /// By what is kept of the first, and of the second.
    static VAULTS: LazyLock<[[Vault; 2]; 2]> = LazyLock::new(|| {
        [false, true].map(|first| [false, true].map(|second| vault([first, second])))
    });
    let (name, is_tls_verified, _) = PEERS[who];
    let peer = Peer { name: Some(name), is_tls_verified, is_bound: true };
    VAULTS[usize::from(kept[0])][usize::from(kept[1])].current().scope(&peer)
}

/// All secrets; and none.
pub(super) const ALL: [bool; 2] = [true; 2];
const NONE: [bool; 2] = [false; 2];

/// Whether `text` is in `bytes`.
fn is_in(text: &str, bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// `bytes` with a blank for each `text` in them.
fn without(text: &str, bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut from) = (vec![], 0);
    for at in memchr::memmem::find_iter(bytes, text) {
        out.extend_from_slice(bytes.get(from..at).unwrap_or(&[]));
        out.push(b' ');
        from = at + text.len();
    }
    out.extend_from_slice(bytes.get(from..).unwrap_or(&[]));
    out
}

/// Looks at what became of a request on its way to somebody who may have these of the secrets: as
/// the secrets are, and `otherwise` with other values of those that it may not have.
pub(super) fn check_heard(may: [bool; 2], output: &[u8], otherwise: &[u8]) {
    assert!(output == otherwise, "what is sent tells of a value");
    // Where one placeholder begins another, the longer one counts.
    let longer = SECRETS[1].1;
    let output = if may[1] { without(longer, output) } else { output.to_vec() };
    for ((_, placeholder, ..), may) in SECRETS.into_iter().zip(may) {
        assert!(may || !is_in(placeholder, &output), "a placeholder got out");
    }
}

fn check_request(who: usize, output: &[u8], otherwise: &[u8]) {
    // Who may have placeholders as they are is told them.
    let may = if who == LOG { ALL } else { PEERS[who].2 };
    check_heard(may, output, otherwise);
}

/// The first byte says who is spoken to, the second how it is cut, the third what it is.
///
/// # Panics
/// If a cut changes what passes, or what may not pass does.
pub fn secrets(data: &[u8]) {
    let Some((&[who, cuts, kind], bytes)) = data.split_first_chunk::<3>() else { return };
    let who = usize::from(who) % PEERS.len();
    match kind % 4 {
        0 => head(who, bytes),
        1 => response((cuts, kind), bytes),
        _ => body(who, (cuts, kind), bytes),
    }
}

/// What a filter makes of `body`, cut so.
pub(super) fn through(
    filter: Result<BodyFilter, Violation>,
    cuts: u8,
    body: &[u8],
) -> Result<Vec<u8>, Violation> {
    Ok(taken(filter, cuts, body)?.concat())
}

/// The same, as it leaves: behind each piece, and at the end.
fn taken(
    filter: Result<BodyFilter, Violation>,
    cuts: u8,
    body: &[u8],
) -> Result<Vec<Vec<u8>>, Violation> {
    let (mut filter, mut all) = (filter?, vec![]);
    for piece in pieces(cuts, body) {
        let mut piece = Bytes::copy_from_slice(piece);
        while !piece.is_empty() {
            all.push(filter.push(&mut piece)?.to_vec());
        }
    }
    all.push(filter.finish()?.to_vec());
    Ok(all)
}

const PLAIN: &str = "text/plain";
const GRPC: &str = "application/grpc";
const TYPES: [&str; 4] = [PLAIN, "application/json", "application/x-www-form-urlencoded", GRPC];

/// The fields of a body of `kind`, and whether it is encoded.
fn fields(kind: u8) -> (HeaderMap, bool) {
    let mut fields = HeaderMap::new();
    let text = TYPES[usize::from(kind >> 2 & 0x1f) % TYPES.len()];
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(text));
    let is_encoded = kind & 0x80 != 0;
    if is_encoded {
        fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    (fields, is_encoded)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).expect("because memory takes it");
    encoder.finish().expect("because memory takes it")
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = vec![];
    MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("because it was encoded here");
    plain
}

fn body(who: usize, (cuts, kind): (u8, u8), plain: &[u8]) {
    let scope = scope(who, ALL);
    let (fields, is_encoded) = fields(kind);
    let sent = if is_encoded { gzip(plain) } else { plain.to_vec() };
    let whole = through(scope.body(&fields), 0, &sent);
    let cut = through(scope.body(&fields), cuts, &sent);
    assert_eq!(whole.is_err(), cut.is_err(), "a cut decides what passes");
    let (Ok(whole), Ok(cut)) = (whole, cut) else { return };
    let read = |bytes: Vec<u8>| if is_encoded { gunzip(&bytes) } else { bytes };
    let (whole, cut) = (read(whole), read(cut));
    assert!(whole == cut, "a cut changes what passes");
    let (_, _, allowed) = PEERS[who];
    let other = self::scope(who, allowed);
    let otherwise = through(other.body(&fields), 0, &sent).map(read);
    let otherwise = otherwise.unwrap_or_else(|_| panic!("a value decides what passes"));
    check_request(who, &whole, &otherwise);
    if !allowed.contains(&true) {
        assert!(whole == plain, "nothing is changed for who may have nothing");
    } else if fields[CONTENT_TYPE] == PLAIN
        && let Ok(text) = core::str::from_utf8(plain)
    {
        // In a plain text the rule is as simple as that: what is left of `KEYS` would be one.
        let (_, placeholder, value, _) = SECRETS[usize::from(allowed[1])];
        let replaced = text.replace(placeholder, value);
        let whole = String::from_utf8_lossy(&whole);
        assert_eq!(whole, replaced, "replaced as a text");
    }
}

fn response((cuts, kind): (u8, u8), plain: &[u8]) {
    let scope = scope(0, ALL);
    let (mut fields, is_encoded) = fields(kind);
    if let Ok(value) = HeaderValue::from_bytes(plain) {
        fields.insert(HeaderName::from_static("x"), value);
    }
    let sent = if is_encoded { gzip(plain) } else { plain.to_vec() };
    assert!(scope.redact(&mut fields).is_ok(), "a head is readable");
    // What was stored says what it is; whoever asks may have made a call of it.
    let may_be_messages = fields[CONTENT_TYPE] == GRPC && cuts & 1 != 0 && !is_encoded;
    let filter = |kept| self::scope(0, kept).response(&fields, may_be_messages);
    if may_be_messages {
        return messages(filter, cuts, &sent);
    }
    let whole = through(filter(ALL), 0, &sent);
    let cut = taken(filter(ALL), cuts, &sent);
    let (Ok(whole), Ok(cut)) = (whole, cut) else { panic!("a response is readable") };
    let others = taken(filter(NONE), cuts, &sent);
    let others = others.unwrap_or_else(|_| panic!("a response is readable"));
    // What there is of no value must not tell of one, however much it is like its beginning.
    if cut.concat() == others.concat() {
        assert!(cut == others, "what waits tells of the value");
    }
    let cut = cut.concat();
    let read = |bytes: Vec<u8>| if is_encoded { gunzip(&bytes) } else { bytes };
    let (whole, cut) = (read(whole), read(cut));
    assert!(whole == cut, "a cut changes what comes back");
    let in_head = fields.get("x").map_or(&b""[..], HeaderValue::as_bytes);
    for value in [SECRETS[0].2, ESCAPED, SECRETS[1].2] {
        assert!(!is_in(value, &whole) && !is_in(value, in_head), "a value came back");
    }
}

/// Messages keep their lengths, and have no value in them, nor beside their headers. (Of one that
/// goes on in another message, what has left has left.)
fn messages(filter: impl Fn([bool; 2]) -> Result<BodyFilter, Violation>, cuts: u8, sent: &[u8]) {
    for cuts in [0, cuts] {
        let Ok(passed) = through(filter(ALL), cuts, sent) else { continue };
        assert_eq!(passed.len(), sent.len(), "a message keeps its length");
        for value in [SECRETS[0].2, ESCAPED, SECRETS[1].2] {
            assert!(!is_in(value, &passed), "a value came back");
        }
    }
}

/// The first line is a target, each other one a field.
fn head(who: usize, bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = Uri::try_from(lines.next().unwrap_or(&[]));
    let Ok(mut request) = Request::get(target.unwrap_or_default()).body(()) else { return };
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or(&[]), parts.next().unwrap_or(&[]));
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            request.headers_mut().append(name, value);
        }
    }
    let (parts, ()) = request.into_parts();
    let sent = |kept| {
        let mut parts = parts.clone();
        scope(who, kept).head(&mut parts).ok()?;
        let mut output = parts.uri.to_string().into_bytes();
        for (name, value) in &parts.headers {
            output.extend([b"\n", name.as_str().as_bytes(), b":", value.as_bytes()].concat());
        }
        Some(output)
    };
    let (as_it_is, otherwise) = (sent(ALL), sent(PEERS[who].2));
    assert_eq!(as_it_is.is_some(), otherwise.is_some(), "a value decides what passes");
    if let (Some(as_it_is), Some(otherwise)) = (as_it_is, otherwise) {
        check_request(who, &as_it_is, &otherwise);
    }
}
