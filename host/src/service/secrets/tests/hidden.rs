//! Placeholders that are hidden with care, and values that would grow.

use super::super::codec::Codec;
use super::super::pattern::Found;
use super::super::stream::Piece;
use super::*;

#[test]
fn a_run_of_backslashes_hides_nothing_wherever_it_is_cut() {
    let evil = scope_of("evil.test");
    let fields = headers(&[(CONTENT_TYPE, "application/json")]);
    // Where the run's own end is escaped, it is hidden twice.
    for run in [200, 201, 1000] {
        let slashes = "\\".repeat(run);
        let text = format!(r#"{{"a":"{slashes}\u0024MSB_KEY"}}"#);
        for cut in 0..text.len() {
            let mut filter = evil.body(&fields).unwrap();
            let (first, rest) = text.as_bytes().split_at(cut);
            let passed = pushed(&mut filter, first)
                .and_then(|_| pushed(&mut filter, rest))
                .and_then(|_| filter.finish());
            assert!(passed.is_err(), "{run} backslashes, cut at {cut}");
        }
    }
}

#[test]
fn what_is_hidden_twice_or_leniently_is_found() {
    let evil = scope_of("evil.test");
    for hidden in [
        "%24\\u004dSB_KEY",
        "\\u002524MSB_KEY",
        "%5cu0024MSB_KEY",
        "%2524MSB_KEY",
        "\\u0025\\u0032\\u0034MSB_KEY",
    ] {
        assert!(body(&evil, "text/plain", hidden.as_bytes()).is_err(), "{hidden}");
        assert!(head(&evil, "/", &[("x", hidden)]).is_err(), "{hidden} in a field");
    }
    // Basic credentials without their padding, with blanks, of the other alphabet.
    for coded in ["bWU6JE1TQl9LRVk", "bWU6 JE1TQl9LRVk=", "bWU6JE1TQl9LRVn"] {
        let field = format!("Basic {coded}");
        assert!(head(&evil, "/", &[("authorization", &field)]).is_err(), "{coded}");
    }
    // Behind a tab, as lenient servers take them.
    let tabbed = "Basic\tbWU6JE1TQl9LRVk=";
    assert!(head(&evil, "/", &[("authorization", tabbed)]).is_err());
    let good = scope_of("good.test");
    let sent = head(&good, "/", &[("authorization", tabbed)]).unwrap().1;
    assert!(sent[0].starts_with("Basic\t") && sent[0] != tabbed, "{sent:?}");
    // In a field's name behind one that may be there, or as the beginning of one.
    for name in ["x-$msb_key-$msb_keys", "$msb_keys-$msb_key"] {
        assert_eq!(head(&good, "/", &[(name, "")]).unwrap_err().env_var.as_deref(), Some("KEYS"));
        assert!(head(&scope_of("a.other.test"), "/", &[(name, "")]).is_err(), "{name}");
    }
    // A file's name in gzip's own header (RFC 1952 2.3.1).
    let mut named = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    named.extend(b"$MSB_KEY\0");
    named.extend(&gzip(b"fine")[10..]);
    let fields = headers(&[(CONTENT_ENCODING, "gzip")]);
    assert!(through(evil.body(&fields).unwrap(), &named, &mut Dice(5)).is_err());
}

#[test]
fn what_would_grow_without_bound_is_refused() {
    let mut config = config();
    config.secrets[0].placeholder = Some("#".to_owned());
    config.secrets[0].value = SecretValue::new("v".repeat(60_000));
    let scope = vault(config).current().scope(&peer("good.test"));
    // Each of them alone may be there, and some together.
    let names: Vec<_> = (0..60).map(|number| format!("x-{number}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "#")).collect();
    assert!(head(&scope, "/", &fields[..4]).is_ok());
    assert!(head(&scope, "/", &fields).is_err());
    let many = "#".repeat(2000);
    assert!(head(&scope, "/", &[("x", &many)]).is_err());
    assert!(head(&scope, "/?a=%23%23", &[]).is_err(), "longer than any target");
    let fields = headers(&[(CONTENT_TYPE, "text/plain")]);
    let mut filter = scope.body(&fields).unwrap();
    assert!(pushed(&mut filter, many.as_bytes()).is_err());
}

#[test]
fn a_body_that_outlives_its_secrets_gets_no_more_values() {
    let vault = vault(config());
    let handle = SecretsHandle(Arc::clone(&vault));
    for kind in ["text/plain", "application/grpc"] {
        let fields = headers(&[(CONTENT_TYPE, kind)]);
        let scope = vault.current().scope(&peer("other.test"));
        let scope =
            if scope.redacts() { scope } else { vault.current().scope(&peer("a.other.test")) };
        let (text, mut filter) =
            (b"\0\0\0\0\x15a $MSB_KEYS and so on", scope.body(&fields).unwrap());
        let mut old = scope.body(&fields).unwrap();
        if kind == "text/plain" {
            let sent = pushed(&mut filter, text).unwrap();
            assert!(memchr::memmem::find(&sent, OTHER.as_bytes()).is_some());
        }
        pushed(&mut old, &text[..10]).unwrap();
        handle.rotate("KEYS", OTHER.replace("another", "rotated")).unwrap();
        let late = pushed(&mut old, &text[10..]).and_then(|_| old.finish());
        assert_eq!(late.unwrap_err().env_var.as_deref(), Some("KEYS"), "{kind}");
        handle.rotate("KEYS", OTHER.to_owned()).unwrap();
    }
}

#[test]
fn a_turn_is_short_however_much_a_body_grows() {
    let evil = scope_of("evil.test");
    let text = "%+\\".repeat(300_000);
    for (coding, body) in [("gzip", gzip(text.as_bytes())), ("identity", text.clone().into_bytes())]
    {
        let mut filter = evil.body(&headers(&[(CONTENT_ENCODING, coding)])).unwrap();
        let (mut rest, mut turns) = (Bytes::from(body), 0);
        while !rest.is_empty() {
            filter.push(&mut rest).unwrap();
            turns += 1;
        }
        // A piece of 256 bytes grows to 256 KiB, and no further.
        assert!(turns >= text.len() / (320 * 1024), "{coding}: {turns}");
    }
}

#[test]
fn an_encoded_body_of_nothing_is_nothing() {
    for coding in ["gzip", "deflate"] {
        let fields = headers(&[(CONTENT_ENCODING, coding)]);
        for name in ["good.test", "evil.test"] {
            let scope = scope_of(name);
            let [request, response] = [scope.body(&fields), scope.response(&fields, false)];
            for filter in [request, response] {
                assert_eq!(filter.unwrap().finish().unwrap(), Bytes::new(), "{coding} {name}");
            }
        }
        // What has begun and has no end is broken, as it was.
        let mut filter = scope_of("evil.test").body(&fields).unwrap();
        let begun = pushed(&mut filter, &[0x1f]);
        assert!(begun.and_then(|_| filter.finish()).is_err(), "{coding}");
    }
}

#[test]
fn a_plain_stream_is_looked_at_as_it_is_wherever_it_is_cut() {
    let config = SecretsConfig {
        secrets: vec![secret("KEY", VALUE, "good.test"), secret("OTHER_KEY", OTHER, "good.test")],
        ..SecretsConfig::default()
    };
    let scope = vault(config).current().scope(&peer("evil.test"));
    let said = b"$MSB_KE $MSB_OTHER_KE %24MSB_KEY $$MSB_OTHER_KEY";
    for first in 0..said.len() {
        for second in first..said.len() {
            let mut scan = scope.plain_stream();
            let (one, rest) = said.split_at(first);
            let (two, three) = rest.split_at(second - first);
            assert!(scan.push(one).is_ok() && scan.push(two).is_ok(), "{first} {second}");
            let found = scan.push(three).unwrap_err();
            assert_eq!(found.env_var.as_deref(), Some("OTHER_KEY"), "{first} {second}");
        }
    }
    let mut allowed = scope_of("good.test").plain_stream();
    assert!(allowed.push(b"$MSB_KEY").is_ok());
}

/// Whether there is a placeholder in `bytes` that `scope` forbids, as it is, decoded, or decoded
/// twice: all of it each time. (A backslash that is the first, once decoded, may be escaped.)
fn naive(scope: &Scope, bytes: &[u8]) -> bool {
    let all = [Codec::Percent, Codec::Form, Codec::Json];
    let once = all.map(|codec| codec.plain(bytes));
    let behind =
        once.iter().filter_map(|bytes| Some(Codec::Json.plain(bytes.strip_prefix(b"\\")?)));
    let twice = once.iter().flat_map(|bytes| all.map(|codec| codec.plain(bytes))).chain(behind);
    let patterns = &scope.snapshot.placeholders;
    let is_in = |bytes: &[u8]| {
        let mut from = 0;
        while let Some(found) = patterns.find(bytes, from) {
            if scope.stand(found.index).is_forbidden() {
                return true;
            }
            from = found.end;
        }
        false
    };
    is_in(bytes)
        || once.iter().any(|bytes| is_in(bytes))
        || twice.into_iter().any(|all| is_in(&all))
}

/// A piece of text: filling, long and short, escapes, and a placeholder that is written in any way.
fn scrap(dice: &mut Dice, placeholder: &str) -> Vec<u8> {
    let percent = |byte: u8| format!("%{byte:02x}");
    let json = |byte: u8| format!("\\u{byte:04x}");
    let mut text = placeholder.as_bytes().to_vec();
    match dice.below(8) {
        0 => return vec![b'x'; dice.below(400)],
        1 => return vec![b'\\'; dice.below(160)],
        2 => return b"%41".to_vec(),
        3 => return b"+".to_vec(),
        4 => return b"\\n".to_vec(),
        5 => text.truncate(dice.below(text.len())),
        _ => {}
    }
    for _ in 0..dice.below(3) {
        let way = dice.below(3);
        let written = text.iter().flat_map(|byte| match (way, byte) {
            (0, _) if dice.below(3) == 0 => percent(*byte).into_bytes(),
            (1, _) if dice.below(3) == 0 => json(*byte).into_bytes(),
            (2, b' ') => b"+".to_vec(),
            _ => vec![*byte],
        });
        text = written.collect();
    }
    text
}

#[test]
fn looking_near_escapes_finds_what_looking_at_all_decoded_finds() {
    let mut dice = Dice(0x5eed);
    for placeholder in ["$MSB_KEY", "a key with blanks"] {
        let mut config = config();
        config.secrets[0].placeholder = Some(placeholder.to_owned());
        let scope = vault(config).current().scope(&peer("evil.test"));
        let mut found = [0; 2];
        for round in 0..4000 {
            let count = dice.below(6);
            let bytes = Vec::from_iter((0..count).flat_map(|_| scrap(&mut dice, placeholder)));
            let expected = naive(&scope, &bytes);
            let looked = scope.look_at(Piece::all(&bytes), "body").is_err();
            assert_eq!(looked, expected, "round {round}: {}", String::from_utf8_lossy(&bytes));
            found[usize::from(expected)] += 1;
        }
        assert!(found.iter().all(|count| *count > 500), "both are tried: {found:?}");
    }
}

#[test]
fn a_value_whose_blanks_are_pluses_is_found_where_nothing_else_is_escaped() {
    let config = SecretsConfig {
        secrets: vec![secret("KEY", "correct horse battery", "good.test")],
        ..SecretsConfig::default()
    };
    let snapshot = vault(config).current();
    let found = snapshot.values.find_all(b"a=correct+horse+battery&b", false);
    assert_eq!(found, [Found { index: 0, start: 2, end: 23 }]);
}
