//! Messages of gRPC: each leaves whole, and as long as it came.

use super::*;

/// `text` as a message.
fn message(text: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

fn grpc() -> HeaderMap {
    headers(&[(CONTENT_TYPE, "application/grpc+proto")])
}

/// What the guest has of a secret for good.test whose value is `value`, and its scope there.
fn with_value(value: &str) -> (String, Arc<Scope>) {
    let config =
        SecretsConfig { secrets: vec![secret("KEY", value, "good.test")], ..Default::default() };
    let placeholder = config.secrets[0].placeholder();
    (placeholder, vault(config).current().scope(&peer("good.test")))
}

/// What passes of each of `texts` before the next comes.
fn taking_turns(mut filter: BodyFilter, texts: &[&[u8]]) -> Vec<Vec<u8>> {
    let pass = |text: &&[u8]| pushed(&mut filter, &message(text)).unwrap();
    let passed = texts.iter().map(pass).collect();
    assert_eq!(filter.finish().unwrap(), Bytes::new());
    passed
}

#[test]
fn nothing_of_a_message_waits_for_the_next() {
    let (placeholder, scope) = with_value("87654321");
    assert_eq!(placeholder.len(), 8, "as long as the value");
    let end = &placeholder.as_bytes()[..5];
    let texts = [b"costs 5 $", end, b"", end, b"another"];
    let request = taking_turns(scope.body(&grpc()).unwrap(), &texts);
    assert_eq!(request, texts.map(message));
    let texts = [&b"counts 8765"[..], b"", b"4321"];
    let response = taking_turns(scope.response(&grpc(), true).unwrap(), &texts);
    // What has left has left; the rest of the value is masked.
    assert_eq!(response, [&b"counts 8765"[..], b"", b"_KEY"].map(message));
}

#[test]
fn a_value_as_long_as_its_placeholder_takes_its_place_however_it_is_cut() {
    let (placeholder, scope) = with_value("87654321");
    let text = |secret: &str| format!("a {secret} b{secret}").into_bytes();
    let (with, without) = (message(&text("87654321")), message(&text(&placeholder)));
    let mut dice = Dice(5);
    for _ in 0..50 {
        let sent = through(scope.body(&grpc()).unwrap(), &without, &mut dice).unwrap();
        assert_eq!(sent, with);
        let back = through(scope.response(&grpc(), true).unwrap(), &with, &mut dice).unwrap();
        assert_eq!(back, without);
    }
}

#[test]
fn one_of_another_length_would_break_the_message_and_is_refused() {
    for value in ["short678", "longer-than-that"] {
        let (placeholder, scope) = with_value(value);
        let body = message(format!("a {placeholder}").as_bytes());
        let sent = through(scope.body(&grpc()).unwrap(), &body, &mut Dice(6));
        assert_eq!(sent.is_err(), value.len() != placeholder.len(), "{value}");
        if let Err(violation) = sent {
            assert_eq!((violation.env_var.as_deref(), violation.place), (Some("KEY"), "body"));
        }
        // Elsewhere it has its place.
        let fields = [(HeaderName::from_static("x"), placeholder.as_str())];
        assert_eq!(head(&scope, "/", &[("x", &placeholder)]).unwrap().1, [value]);
        assert_eq!(body_of(&scope, &headers(&fields), &placeholder), value);
    }
}

/// What a body that is no message becomes.
fn body_of(scope: &Arc<Scope>, headers: &HeaderMap, text: &str) -> String {
    let sent = through(scope.body(headers).unwrap(), text.as_bytes(), &mut Dice(7)).unwrap();
    String::from_utf8(sent).unwrap()
}

#[test]
fn a_value_that_comes_back_is_masked_in_its_length() {
    for (value, mask) in [("longer-than-that", "$MSB_KEY********"), ("12345678", "$MSB_KEY")] {
        let (_, scope) = with_value(value);
        let back = through(
            scope.response(&grpc(), true).unwrap(),
            &message(format!("is {value}.").as_bytes()),
            &mut Dice(8),
        );
        assert_eq!(back.unwrap(), message(format!("is {mask}.").as_bytes()));
    }
}

#[test]
fn what_was_stored_as_another_type_is_no_message_and_hides_no_value() {
    let value = "sk-live/+0123456789";
    let (_, scope) = with_value(value);
    let stored = [b"\0\0\0\0\x03", value.as_bytes(), b" and more"].concat();
    for seed in 1..40 {
        // Who asked for none is told of none, whatever the type says.
        let filter = scope.response(&grpc(), false).unwrap();
        let back = through(filter, &stored, &mut Dice(seed)).unwrap();
        assert_eq!(back, b"\0\0\0\0\x03$MSB_KEY and more");
        // A header with such flags is none.
        let filter = scope.response(&grpc(), true).unwrap();
        assert!(through(filter, &stored, &mut Dice(seed)).is_err());
    }
}

#[test]
fn a_value_with_bytes_that_look_like_a_header_is_not_hidden_by_them() {
    // The second byte of the letter is the flag of trailers in gRPC-Web.
    let value = "sk-\u{c0}\0\0\0\u{9}live/0123";
    let mut config = SecretsConfig::default();
    config.secrets.push(secret("KEY", value, "good.test"));
    config.secrets[0].substitution.headers = false;
    let scope = vault(config).current().scope(&peer("good.test"));
    let web = headers(&[(CONTENT_TYPE, "application/grpc-web+proto")]);
    let body = [b"\0\0\0\0\x04", value.as_bytes(), &message(b"xy")].concat();
    let mut filter = scope.response(&web, true).unwrap();
    assert!(pushed(&mut filter, &body).is_err(), "at once");
    // Were it another, all of it would be read.
    let mut filter = with_value("87654321").1.response(&web, true).unwrap();
    assert_eq!(pushed(&mut filter, &body).unwrap(), body);
    // Where its header has left, the bytes behind it are masked.
    for cut in 9..14 {
        let mut filter = scope.response(&web, true).unwrap();
        let (head, tail) = body.split_at(cut);
        let passed = pushed(&mut filter, head).and_then(|mut out| {
            out.extend(pushed(&mut filter, tail)?);
            out.extend(filter.finish()?);
            Ok(out)
        });
        let is_there = |out: &Vec<u8>| memchr::memmem::find(out, b"live").is_some();
        assert!(!passed.as_ref().is_ok_and(is_there), "{cut}: {passed:?}");
    }
}

#[test]
fn messages_and_headers_leave_as_they_came_however_they_are_cut() {
    let value = "sk-live/+0123456789";
    let (_, scope) = with_value(value);
    let texts = ["a", "", "bc sk-live", "\\\\", "sk-live/+012345678", "9", &"x".repeat(3000)];
    let body: Vec<u8> = texts.iter().flat_map(|text| message(text.as_bytes())).collect();
    for seed in 1..60 {
        let filter = scope.response(&grpc(), true).unwrap();
        let back = through(filter, &body, &mut Dice(seed)).unwrap();
        assert_eq!(back.len(), body.len(), "{seed}");
        // But for the rest of the value: its beginning may go with it.
        let at = memchr::memmem::find(&body, b"sk-live/+").unwrap();
        assert_eq!(back[..at], body[..at], "{seed}");
        assert_eq!(back[at + 18..at + 23], body[at + 18..at + 23], "{seed}");
        assert_eq!(back[at + 24..], body[at + 24..], "{seed}");
        assert_eq!(back[at + 23], b'*', "{seed}");
    }
}

#[test]
fn base64_of_grpc_web_is_a_text_like_any_other() {
    let (_, scope) = with_value("87654321");
    let text = headers(&[(CONTENT_TYPE, "application/grpc-web-text+proto")]);
    let evil = vault(config()).current().scope(&peer("evil.test"));
    let body = b"AAAAAAA=";
    for filter in [evil.body(&text), scope.response(&text, true)] {
        assert_eq!(through(filter.unwrap(), body, &mut Dice(3)).unwrap(), body);
    }
}

#[test]
fn what_can_not_be_read_or_must_not_pass_does_not() {
    let (_, scope) = with_value("87654321");
    let compressed = [&[1][..], &message(b"what?")[1..]].concat();
    for filter in [scope.body(&grpc()).unwrap(), scope.response(&grpc(), true).unwrap()] {
        assert!(through(filter, &compressed, &mut Dice(9)).is_err());
    }
    // To somebody who may not have it, at the end of a message as in the middle.
    let evil = vault(config()).current().scope(&peer("evil.test"));
    for text in [&b"$MSB_KEY"[..], b"a $MSB_KEY b", b"$MSB_KEYS"] {
        let body = [message(b"first"), message(text)].concat();
        assert!(through(evil.body(&grpc()).unwrap(), &body, &mut Dice(10)).is_err());
    }
}

#[test]
fn a_turn_is_short_however_many_messages_are_in_it() {
    use crate::service::secrets::stream::LOOKED_BYTES;
    let evil = vault(config()).current().scope(&peer("evil.test"));
    let mut filter = evil.body(&grpc()).unwrap();
    let mut body = Bytes::from(message(b"x").repeat(10_000));
    while !body.is_empty() {
        LOOKED_BYTES.set(0);
        let (before, _) = (body.len(), filter.push(&mut body).unwrap());
        let (taken, looked) = (before - body.len(), LOOKED_BYTES.get());
        // Each twice: where it begins, and across the cut before it.
        assert!(looked <= 2 * taken + 1024, "{looked} of {taken}");
    }
}
