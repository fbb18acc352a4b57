//! What passes and what does not, wherever the bytes are cut and however they are written.

use std::io::{Read, Write};

use super::*;
use crate::config::{SecretConfig, SecretValue};
use bytes::Bytes;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue};

mod alike;
mod back;
mod changes;
mod echo;
mod hidden;
mod messages;

const VALUE: &str = "sk-live/+ \"quoted\" \u{fc}";
const OTHER: &str = "another-value-entirely";

/// Random numbers from a fixed seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit.max(1)
    }
}

fn secret(env_var: &str, value: &str, host: &str) -> SecretConfig {
    let mut secret =
        SecretConfig::new(env_var, SecretValue::new(value.to_owned()), host.parse().unwrap());
    secret.substitution.query = true;
    secret.substitution.body = true;
    secret
}

/// `KEY` is good.test's, `KEYS`, whose placeholder begins with the other's, is other.test's.
fn config() -> SecretsConfig {
    let secrets = vec![secret("KEY", VALUE, "good.test"), secret("KEYS", OTHER, "*.other.test")];
    SecretsConfig { secrets, ..SecretsConfig::default() }
}

fn vault(config: SecretsConfig) -> Arc<Vault> {
    Arc::new(Vault::new(config).unwrap())
}

fn peer(name: &str) -> Peer<'_> {
    Peer { name: Some(name), is_tls_verified: true, is_bound: true }
}

fn scope_of(name: &str) -> Arc<Scope> {
    vault(config()).current().scope(&peer(name))
}

fn head(
    scope: &Arc<Scope>,
    uri: &str,
    fields: &[(&str, &str)],
) -> Result<(String, Vec<String>), Violation> {
    let mut request = Request::builder().uri(uri).header(HOST, "good.test");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut parts = request.body(()).unwrap().into_parts().0;
    scope.head(&mut parts)?;
    let values = fields.iter().map(|(name, _)| parts.headers[*name].as_bytes().to_vec());
    let values = values.map(|value| String::from_utf8(value).unwrap());
    Ok((parts.uri.to_string(), values.collect()))
}

fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
    let pair = |(name, value): &(HeaderName, &str)| (name.clone(), value.parse().unwrap());
    fields.iter().map(pair).collect()
}

/// What `filter` lets pass of `bytes`.
fn pushed(filter: &mut BodyFilter, bytes: &[u8]) -> Result<Vec<u8>, Violation> {
    let (mut bytes, mut out) = (Bytes::copy_from_slice(bytes), vec![]);
    while !bytes.is_empty() {
        out.extend(filter.push(&mut bytes)?);
    }
    Ok(out)
}

/// What `filter` makes of `body`, cut as `dice` says.
fn through(mut filter: BodyFilter, body: &[u8], dice: &mut Dice) -> Result<Vec<u8>, Violation> {
    let (mut out, mut rest) = (vec![], body);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(1 + dice.below(rest.len().min(40)));
        out.extend(pushed(&mut filter, piece)?);
        rest = behind;
    }
    out.extend(filter.finish()?);
    Ok(out)
}

fn body(scope: &Arc<Scope>, kind: &str, body: &[u8]) -> Result<Vec<u8>, Violation> {
    let fields = headers(&[(CONTENT_TYPE, kind)]);
    let whole = through(scope.body(&fields)?, body, &mut Dice(usize::MAX as u64));
    for seed in 1..60 {
        let cut = through(scope.body(&fields)?, body, &mut Dice(seed));
        assert_eq!(cut.is_err(), whole.is_err(), "a cut changes nothing, seed {seed}");
        if let (Ok(cut), Ok(whole)) = (&cut, &whole) {
            assert_eq!(String::from_utf8_lossy(cut), String::from_utf8_lossy(whole));
        }
    }
    whole
}

#[test]
fn a_placeholder_in_a_field_becomes_its_value_for_whom_it_is() {
    let scope = scope_of("good.test");
    let (_, values) = head(&scope, "/", &[("authorization", "Bearer $MSB_KEY")]).unwrap();
    assert_eq!(values, [format!("Bearer {VALUE}")]);
    let violation = head(&scope, "/", &[("authorization", "Bearer $MSB_KEYS")]).unwrap_err();
    assert_eq!((violation.env_var.as_deref(), violation.place), (Some("KEYS"), "header"));
    let violation = head(&scope_of("evil.test"), "/", &[("x", "a$MSB_KEY!")]).unwrap_err();
    assert_eq!(violation.env_var.as_deref(), Some("KEY"));
}

#[test]
fn basic_credentials_are_opened_and_closed_again() {
    use base64::Engine as _;
    let coded = |text: &str| format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(text));
    let good = scope_of("good.test");
    let (_, values) = head(&good, "/", &[("authorization", &coded("me:$MSB_KEY"))]).unwrap();
    assert_eq!(values, [coded(&format!("me:{VALUE}"))]);
    let (_, values) = head(&good, "/", &[("authorization", &coded("me:word"))]).unwrap();
    assert_eq!(values, [coded("me:word")]);
    let evil = scope_of("evil.test");
    let violation = head(&evil, "/", &[("authorization", &coded("me:$MSB_KEY"))]).unwrap_err();
    assert_eq!(violation.place, "basic credentials");
}

#[test]
fn a_query_is_read_and_written_in_its_own_way() {
    let good = scope_of("good.test");
    for query in ["/p?a=$MSB_KEY&b", "/p?a=%24MSB_KEY&b", "/p?a=%24%4dSB%5FKEY&b"] {
        let (uri, _) = head(&good, query, &[]).unwrap();
        assert_eq!(uri, "/p?a=sk-live%2F%2B%20%22quoted%22%20%C3%BC&b");
    }
    let (uri, _) = head(&good, "/p/$MSB_KEY?a=%2", &[]).unwrap();
    assert_eq!(uri, "/p/$MSB_KEY?a=%2", "a path is no place for it, and what is no escape stays");
    for target in ["/?a=$MSB_KEY", "/?%24MSB_KEY", "/$MSB_KEY", "/%24MSB%5fKEY"] {
        assert!(head(&scope_of("evil.test"), target, &[]).is_err(), "{target}");
    }
}

#[test]
fn only_the_fields_that_are_named_and_the_places_that_are_on_have_values() {
    let mut config = config();
    config.secrets[0].substitution.header_fields = vec!["X-Api-Key".to_owned()];
    config.secrets[0].substitution.query = false;
    config.secrets[0].substitution.body = false;
    let scope = vault(config).current().scope(&peer("good.test"));
    let fields = [("x-api-key", "$MSB_KEY"), ("authorization", "$MSB_KEY")];
    let (uri, values) = head(&scope, "/?$MSB_KEY", &fields).unwrap();
    assert_eq!(values, [VALUE, "$MSB_KEY"]);
    assert_eq!(uri, "/?$MSB_KEY");
    assert_eq!(body(&scope, "text/plain", b"a $MSB_KEY").unwrap(), b"a $MSB_KEY");
}

#[test]
fn who_has_not_proven_its_name_or_was_not_led_there_has_nothing() {
    let snapshot = vault(config()).current();
    let good = peer("good.test");
    let field = [("x", "$MSB_KEY")];
    for (what, peer) in [
        ("not verified", Peer { is_tls_verified: false, ..good }),
        ("not bound", Peer { is_bound: false, ..good }),
        ("no name", Peer { name: None, ..good }),
        ("a name below it", peer("a.good.test")),
    ] {
        assert!(head(&snapshot.scope(&peer), "/", &field).is_err(), "{what}");
    }
    let mut config = config();
    config.secrets[0].allowed_hosts = vec![HostPattern::Any];
    let any = vault(config.clone()).current();
    let nobody = Peer { name: None, is_bound: false, is_tls_verified: true };
    assert_eq!(head(&any.scope(&nobody), "/", &field).unwrap().1, [VALUE]);
    let unproven = Peer { is_tls_verified: false, ..nobody };
    assert!(head(&any.scope(&unproven), "/", &field).is_err());
    config.secrets[0].require_tls_identity = false;
    assert_eq!(head(&vault(config).current().scope(&unproven), "/", &field).unwrap().1, [VALUE]);
}

#[test]
fn whoever_may_have_placeholders_gets_them_as_they_are() {
    let mut config = config();
    config.passthrough_hosts = Some(vec!["log.test".parse().unwrap()]);
    let scope = |config: &SecretsConfig| vault(config.clone()).current().scope(&peer("log.test"));
    let field = [("x", "$MSB_KEY $MSB_KEYS")];
    assert_eq!(head(&scope(&config), "/", &field).unwrap().1, ["$MSB_KEY $MSB_KEYS"]);
    config.secrets[1].violation_action = Some(ViolationAction::Block);
    let violation = head(&scope(&config), "/", &field).unwrap_err();
    assert_eq!(violation.env_var.as_deref(), Some("KEYS"), "its own action counts more");
    assert_eq!(violation.action, ViolationAction::Block);
}

#[test]
fn a_placeholder_is_found_in_whatever_it_hides() {
    let evil = scope_of("evil.test");
    for hidden in [
        "$MSB_KEY",
        "%24MSB_KEY",
        "%24%4D%53%42%5F%4B%45%59",
        "\\u0024MSB_KEY",
        "\\u0024\\u004d\\u0053\\u0042\\u005F\\u004b\\u0045\\u0059",
        "x$MSB_KEY",
        "$$MSB_KEY",
        "$MSB_$MSB_KEY",
        "$MSB_KEYS",
    ] {
        for kind in ["text/plain", "application/json", "application/x-www-form-urlencoded"] {
            let text = format!("before {hidden} behind");
            assert!(body(&evil, kind, text.as_bytes()).is_err(), "{hidden} as {kind}");
            assert!(body(&evil, kind, hidden.as_bytes()).is_err(), "{hidden} alone");
        }
        assert!(head(&evil, "/", &[("x", hidden)]).is_err(), "{hidden} in a field");
    }
    for other in ["$MSB_KE", "$MSB-KEY", "%2MSB_KEY", "\\u002MSB_KEY", "$msb_key", "24MSB_KEY"] {
        assert_eq!(body(&evil, "text/plain", other.as_bytes()).unwrap(), other.as_bytes());
    }
    assert!(head(&evil, "/", &[("x-$msb_key", "v")]).is_err(), "the case of a name is nobody's");
    let method = Request::builder().method("X$MSB_KEY").uri("/").body(()).unwrap();
    assert!(evil.head(&mut method.into_parts().0).is_err());
    let trailers = headers(&[(AUTHORIZATION, "$MSB_KEY")]);
    assert!(evil.trailers(&trailers).is_err());
    assert!(scope_of("good.test").trailers(&trailers).is_ok(), "it may, but is no place");
}

#[test]
fn bodies_have_values_written_as_they_are_read() {
    let good = scope_of("good.test");
    let json = |text: &str| {
        String::from_utf8(body(&good, "application/vnd.x+json; v=1", text.as_bytes()).unwrap())
    };
    let escaped = "sk-live/+ \\\"quoted\\\" \u{fc}";
    assert_eq!(json(r#"{"a": "$MSB_KEY"}"#).unwrap(), format!(r#"{{"a": "{escaped}"}}"#));
    assert_eq!(json(r#"{"a": "\u0024MSB_KEY\n"}"#).unwrap(), format!(r#"{{"a": "{escaped}\n"}}"#));
    assert_eq!(
        json(r#""$MSB_KE\u0059 \ud83d\ude00""#).unwrap(),
        format!(r#""{escaped} \ud83d\ude00""#)
    );
    let form = body(&good, "application/x-www-form-urlencoded", b"a=%24MSB_KEY&b=1+2&c=$MSB_KE");
    let expected = "a=sk-live%2F%2B%20%22quoted%22%20%C3%BC&b=1+2&c=$MSB_KE";
    assert_eq!(String::from_utf8(form.unwrap()).unwrap(), expected);
    let raw = body(&good, "text/plain", b"$MSB_KEY %24MSB_KEY").unwrap();
    assert_eq!(String::from_utf8(raw).unwrap(), format!("{VALUE} %24MSB_KEY"));
    assert!(body(&good, "text/plain", b"$MSB_KEY $MSB_KEYS").is_err(), "the longer is another's");
}

#[test]
fn nothing_of_a_placeholder_has_left_when_it_is_found_even_if_it_might_go_on() {
    // Both are forbidden here: what it goes on to does not matter.
    let passed = |scope: &Arc<Scope>, piece: &'static [u8]| {
        let mut filter = scope.body(&headers(&[(CONTENT_TYPE, "text/plain")])).unwrap();
        pushed(&mut filter, piece)
    };
    let nobody = scope_of("elsewhere.test");
    assert!(passed(&nobody, b"a $MSB_KE").is_ok());
    assert_eq!(passed(&nobody, b"a $MSB_KEY").unwrap_err().env_var.as_deref(), Some("KEY"));
    // Where the longer one may pass, the shorter one waits for what it goes on to.
    for in_body in [true, false] {
        let mut config = config();
        config.secrets[1].substitution.body = in_body;
        let other = vault(config).current().scope(&peer("other.test"));
        assert_eq!(passed(&other, b"a $MSB_KEY").unwrap(), b"a ", "{in_body}");
        // In a stream nothing waits.
        assert!(other.stream().push(b"a $MSB_KEY").is_err());
        assert!(other.stream().push(b"a $MSB_KEYS").is_ok());
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_body_in_gzip_is_opened_looked_at_and_closed_again() {
    let fields = headers(&[(CONTENT_ENCODING, "gzip"), (CONTENT_TYPE, "text/plain")]);
    for times in 1..20 {
        let dice = &mut Dice(u64::try_from(times).unwrap());
        let text = "$MSB_KEY and more ".repeat(times);
        let good = scope_of("good.test");
        let out = through(good.body(&fields).unwrap(), &gzip(text.as_bytes()), dice).unwrap();
        assert_eq!(gunzip(&out), text.replace("$MSB_KEY", VALUE));
        let evil = scope_of("evil.test");
        let refused = through(evil.body(&fields).unwrap(), &gzip(text.as_bytes()), dice);
        assert!(refused.is_err());
        let fine = gzip(b"nothing of interest");
        let passed = through(evil.body(&fields).unwrap(), &fine, dice).unwrap();
        assert_eq!(passed, fine, "as it came");
        // In two members, of which the second hides it.
        let two = [gzip(b"a"), gzip(text.as_bytes())].concat();
        assert!(through(evil.body(&fields).unwrap(), &two, dice).is_err());
        let cut = &fine[..fine.len() - 9];
        assert!(through(evil.body(&fields).unwrap(), cut, dice).is_err(), "no end");
    }
    let bomb = gzip(&vec![0; 64 << 20]);
    let evil = scope_of("evil.test");
    assert!(through(evil.body(&fields).unwrap(), &bomb, &mut Dice(1)).is_err());
    for unknown in ["br", "zstd", "gzip, gzip", "x"] {
        let fields = headers(&[(CONTENT_ENCODING, unknown)]);
        assert!(evil.body(&fields).is_err(), "{unknown}");
    }
}

#[test]
fn a_value_that_comes_back_is_a_placeholder_again() {
    let good = scope_of("good.test");
    let escaped = "sk-live/+ \\\"quoted\\\" \u{fc}";
    let text = format!("a {VALUE} b {escaped} c {OTHER} d");
    let expected = "a $MSB_KEY b $MSB_KEY c $MSB_KEYS d";
    for seed in 1..60 {
        let mut fields = headers(&[(CONTENT_TYPE, "text/plain")]);
        let bytes = HeaderValue::from_bytes(format!("k={VALUE}").as_bytes()).unwrap();
        fields.insert("set-cookie", bytes);
        good.redact(&mut fields).unwrap();
        let filter = good.response(&fields, false).unwrap();
        assert_eq!(fields["set-cookie"], "k=$MSB_KEY");
        let out = through(filter, text.as_bytes(), &mut Dice(seed)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected, "seed {seed}");
        let fields = headers(&[(CONTENT_ENCODING, "gzip")]);
        let filter = good.response(&fields, false).unwrap();
        let out = through(filter, &gzip(text.as_bytes()), &mut Dice(seed)).unwrap();
        assert_eq!(gunzip(&out), expected);
    }
    assert!(good.redacts() && !scope_of("evil.test").redacts());
    assert!(good.response(&headers(&[(CONTENT_ENCODING, "br")]), false).is_err());
    let off = SecretsConfig { redact_responses: false, ..config() };
    assert!(!vault(off).current().scope(&peer("good.test")).redacts());
}

#[test]
fn whatever_is_sent_no_placeholder_passes_and_no_other_byte_changes() {
    let alphabet: Vec<&[u8]> = vec![
        b"$",
        b"$MSB_",
        b"KEY",
        b"KEYS",
        b"$MSB_KEY",
        b"$MSB_KE",
        b"%24",
        b"%2",
        b"%",
        b"\\u0024",
        b"\\u00",
        b"\\",
        b"\\ud83d",
        b"\\ude00",
        b"x",
        b"\xff",
        b"+",
        b"\"",
        VALUE.as_bytes(),
    ];
    let good = scope_of("good.test");
    let evil = scope_of("evil.test");
    let kinds = ["text/plain", "application/json", "application/x-www-form-urlencoded"];
    for seed in 1..4000 {
        let dice = &mut Dice(seed);
        let pieces = 1 + dice.below(12);
        let text: Vec<u8> =
            (0..pieces).flat_map(|_| alphabet[dice.below(alphabet.len())]).copied().collect();
        let fields = headers(&[(CONTENT_TYPE, kinds[dice.below(3)])]);
        let whole = through(evil.body(&fields).unwrap(), &text, &mut Dice(u64::MAX));
        let cut = through(evil.body(&fields).unwrap(), &text, dice);
        // Where it is cut within the longer name, it is the shorter one that was found.
        let alike = (
            &whole.as_ref().map_err(|found| found.place),
            &cut.as_ref().map_err(|found| found.place),
        );
        assert_eq!(alike.0, alike.1, "{}", String::from_utf8_lossy(&text));
        let has = |bytes: &[u8]| bytes.windows(8).any(|window| window == b"$MSB_KEY");
        assert_eq!(whole.is_err(), has(&text) || hidden(&text), "seed {seed}");
        let whole = through(good.body(&fields).unwrap(), &text, &mut Dice(u64::MAX));
        let cut = through(good.body(&fields).unwrap(), &text, dice);
        assert_eq!(whole, cut);
        if let Ok(out) = cut {
            assert!(!has(&out) || !has(&text), "it has become the value: seed {seed}");
        }
        let filter = good.response(&HeaderMap::new(), false).unwrap();
        let back = through(filter, &text, dice).unwrap();
        let value = VALUE.as_bytes();
        assert!(!back.windows(value.len()).any(|window| window == value), "seed {seed}");
    }
}

/// Whether a placeholder is in `text` once it is decoded, by other means than what is tested.
fn hidden(text: &[u8]) -> bool {
    let text: String = text.iter().map(|byte| char::from(*byte)).collect();
    let percent = text.replace("%24", "$");
    // A backslash before it escapes the one behind.
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(behind) = tail.strip_prefix("\\u0024") {
            plain.push('$');
            rest = behind;
        } else if let Some(behind) = tail.strip_prefix("\\\\") {
            plain.push('\\');
            rest = behind;
        } else {
            plain.push('\\');
            rest = &tail[1..];
        }
    }
    plain.push_str(rest);
    [percent, plain].iter().any(|text| text.contains("$MSB_KEY"))
}

#[test]
fn secrets_change_while_a_network_runs() {
    let vault = vault(config());
    let handle = SecretsHandle(Arc::clone(&vault));
    let field = [("x", "$MSB_KEY")];
    let sent = |name: &str| head(&vault.current().scope(&peer(name)), "/", &field);
    handle.rotate("KEY", "rotated-value".to_owned()).unwrap();
    assert_eq!(sent("good.test").unwrap().1, ["rotated-value"]);
    handle.set_allowed_hosts("KEY", vec!["new.test".parse().unwrap()]).unwrap();
    assert!(sent("good.test").is_err() && sent("new.test").is_ok());
    for wrong in ["", "a\r\nx: y", "a\0"] {
        let error = handle.rotate("KEY", wrong.to_owned()).unwrap_err().to_string();
        assert!(error.contains("KEY") && !error.contains("x: y"), "{error}");
    }
    assert!(handle.set_allowed_hosts("KEY", vec![]).is_err());
    assert!(handle.rotate("NONE", "value".to_owned()).is_err());
    handle.remove("KEY").unwrap();
    assert_eq!(sent("good.test").unwrap().1, ["$MSB_KEY"]);
    assert_eq!(vault.environment(), [("KEYS".to_owned(), "$MSB_KEYS".to_owned())]);
}

#[test]
fn no_text_of_ours_shows_a_value() {
    let config = config();
    for text in [format!("{config:?}"), format!("{:?}", config.secrets[0])] {
        assert!(!text.contains("sk-live") && text.contains("redacted"), "{text}");
    }
    let number = r#"{"secrets": {"secrets": [{"env_var": "A", "value": 123456}]}}"#;
    let error = crate::config::NetworkConfig::from_json(number).unwrap_err().to_string();
    assert!(!error.contains("123456") && error.contains("must be a string"), "{error}");
}

#[test]
fn what_is_wrong_with_a_secret_is_said_by_field() {
    let wrong = |change: &dyn Fn(&mut SecretConfig)| {
        let mut config = config();
        change(&mut config.secrets[0]);
        Vault::new(config).err().map(|error| error.to_string()).unwrap_or_default()
    };
    type Change = dyn Fn(&mut SecretConfig);
    let table: &[(&Change, &str)] = &[
        (&|s| s.env_var.clear(), "secrets.secrets[].env_var"),
        (&|s| s.env_var = "A=B".to_owned(), "A=B"),
        (
            &|s| {
                s.env_var = "KEYS".to_owned();
                s.placeholder = Some("other".to_owned());
            },
            "the name of one secret only",
        ),
        (&|s| s.allowed_hosts.clear(), "allowed_hosts: KEY"),
        (&|s| s.placeholder = Some(String::new()), "placeholder: KEY"),
        (&|s| s.placeholder = Some("a\nb".to_owned()), "placeholder: KEY"),
        (&|s| s.placeholder = Some("a".repeat(1025)), "placeholder: KEY"),
        (&|s| s.value = SecretValue::default(), "value: KEY"),
        (&|s| s.substitution.headers = false, ""),
        (&|s| s.substitution.header_fields = vec!["a b".to_owned()], "header_fields: a b"),
        (
            &|s| {
                s.value = SecretValue::default();
                s.source = Some(crate::config::SecretSource::Env { var: "NOT_SET_42".to_owned() });
            },
            "source.var: NOT_SET_42",
        ),
    ];
    for (change, expected) in table {
        let error = wrong(*change);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains("sk-live"), "{error}");
    }
}
