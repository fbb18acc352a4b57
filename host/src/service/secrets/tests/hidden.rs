//! Placeholders that are hidden with care, and values that would grow.

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
    let many = "#".repeat(2000);
    assert!(head(&scope, "/", &[("x", &many)]).is_err());
    assert!(head(&scope, "/?a=%23%23", &[]).is_err(), "longer than any target");
    let fields = headers(&[(CONTENT_TYPE, "text/plain")]);
    let mut filter = scope.body(&fields).unwrap();
    assert!(pushed(&mut filter, many.as_bytes()).is_err());
}
