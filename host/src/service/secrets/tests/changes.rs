//! Secrets that change while requests and responses are under way, and before.

use super::*;

fn plain() -> HeaderMap {
    headers(&[(CONTENT_TYPE, "text/plain")])
}

/// Secrets whose violations end the guest.
fn strict() -> (Arc<Vault>, SecretsHandle) {
    let config = SecretsConfig { violation_action: ViolationAction::BlockAndTerminate, ..config() };
    let vault = vault(config);
    (Arc::clone(&vault), SecretsHandle(vault))
}

#[test]
fn a_body_under_way_goes_on_where_its_secret_is_as_it_was() {
    let (vault, handle) = strict();
    let mut filter = vault.current().scope(&peer("good.test")).body(&plain()).unwrap();
    let mut sends = |text: &[u8]| pushed(&mut filter, text);
    let expected = [VALUE, "\n"].concat();
    // As a reload does that changes something else.
    let before = vault.current();
    let held = vault.hold();
    vault.set(held.prepare(before.config.clone()).unwrap());
    drop(held);
    assert!(Arc::ptr_eq(&before, &vault.current()), "nothing has changed");
    assert_eq!(sends(b"$MSB_KEY\n").unwrap(), expected.as_bytes());
    handle.rotate("KEYS", "rotated-value".to_owned()).unwrap();
    handle.remove("KEYS").unwrap();
    assert_eq!(sends(b"$MSB_KEY\n").unwrap(), expected.as_bytes());
    // Its own change ends it, two snapshots later too, and the guest is not to blame for that.
    handle.rotate("KEY", "rotated-value".to_owned()).unwrap();
    let late = sends(b"$MSB_KEY\n").unwrap_err();
    assert_eq!((late.env_var.as_deref(), late.action), (Some("KEY"), ViolationAction::BlockAndLog));
    let mut evil = before.scope(&peer("evil.test")).body(&plain()).unwrap();
    let own = pushed(&mut evil, b"$MSB_KEY\n").unwrap_err();
    assert_eq!(own.action, ViolationAction::BlockAndTerminate, "what it never might have had");
}

#[test]
fn a_response_under_way_is_looked_at_for_what_has_come_since() {
    let (vault, handle) = strict();
    for (name, asked) in [("text/event-stream", false), ("application/grpc", true)] {
        let fields = headers(&[(CONTENT_TYPE, name)]);
        let scope = vault.current().scope(&peer("good.test"));
        let mut filter = scope.response(&fields, asked).unwrap();
        let written = |text: &str| {
            let head =
                if asked { vec![0, 0, 0, 0, u8::try_from(text.len()).unwrap()] } else { vec![] };
            [&head, text.as_bytes()].concat()
        };
        pushed(&mut filter, &written("begun\n")).unwrap();
        let new = format!("rotated-for-{}", if asked { "calls" } else { "lines" });
        handle.rotate("KEY", new.clone()).unwrap();
        for value in [new.as_str(), VALUE] {
            let passed = pushed(&mut filter, &written(&format!("{value}\n"))).unwrap();
            assert!(memchr::memmem::find(&passed, b"$MSB_KEY").is_some(), "{name}: {passed:?}");
            let mut trailers = HeaderMap::new();
            trailers.insert("x", HeaderValue::from_bytes(value.as_bytes()).unwrap());
            filter.trailers(&scope, &mut trailers).unwrap();
            assert_eq!(trailers["x"], "$MSB_KEY", "{name}");
        }
    }
}

#[test]
fn a_server_that_had_a_value_is_looked_at_when_it_may_have_it_no_more() {
    let (vault, handle) = strict();
    let back = |text: &str| {
        let scope = vault.current().scope(&peer("good.test"));
        assert!(scope.redacts() && !scope.is_empty());
        let filter = scope.response(&plain(), false).unwrap();
        String::from_utf8(through(filter, text.as_bytes(), &mut Dice(4)).unwrap()).unwrap()
    };
    handle.set_allowed_hosts("KEY", vec!["new.test".parse().unwrap()]).unwrap();
    assert_eq!(back(&format!("a {VALUE}")), "a $MSB_KEY");
    handle.rotate("KEY", "rotated-value".to_owned()).unwrap();
    assert_eq!(back(&format!("a {VALUE} rotated-value")), "a $MSB_KEY $MSB_KEY");
    handle.remove("KEYS").unwrap();
    handle.remove("KEY").unwrap();
    assert_eq!(back(&format!("{VALUE} {OTHER}")), "$MSB_KEY $MSB_KEYS");
    assert!(!vault.current().scope(&peer("evil.test")).redacts(), "who never had any");
}

#[test]
fn so_many_earlier_secrets_are_kept_and_no_more() {
    let (vault, handle) = strict();
    for turn in 0..EARLIER_MAX + 2 {
        handle.rotate("KEY", format!("value-number-{turn:03}")).unwrap();
    }
    let now = vault.current();
    assert_eq!(now.earlier.len(), EARLIER_MAX);
    let texts = now.earlier.iter().map(|secret| secret.value.as_slice());
    let texts: Vec<_> = texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let newest_first = (1..=EARLIER_MAX).rev().map(|turn| format!("value-number-{turn:03}"));
    assert_eq!(texts, newest_first.collect::<Vec<_>>());
}

#[test]
fn a_name_with_a_value_in_it_is_none_to_be_read() {
    let good = scope_of("good.test");
    let redacted = |name: &str| {
        let mut fields = HeaderMap::new();
        fields.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("x"));
        good.redact(&mut fields)
    };
    use base64::Engine as _;
    let coded = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(OTHER);
    for name in
        [OTHER, &OTHER.to_uppercase(), &format!("x-{OTHER}-y"), "%61NOTHER%2dvalue-entirely"]
    {
        assert!(redacted(name).is_err(), "{name}");
    }
    assert!(redacted(&coded).is_err(), "{coded}");
    for name in ["another-value-entire", "content-type", "x%2", "x+y"] {
        assert!(redacted(name).is_ok(), "{name}");
    }
    let mut trailers = headers(&[(HeaderName::from_static(OTHER), "x")]);
    let filter = good.response(&plain(), false).unwrap();
    assert!(filter.trailers(&good, &mut trailers).is_err(), "in trailers too");
}
