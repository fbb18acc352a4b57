//! Values that come back in binary metadata.

use base64::Engine as _;
use base64::prelude::{
    BASE64_STANDARD as PADDED, BASE64_STANDARD_NO_PAD as PLAIN, BASE64_URL_SAFE as URL_PADDED,
    BASE64_URL_SAFE_NO_PAD as URL,
};

use super::*;

/// What becomes of the field `name` of a response with `value`.
fn back(scope: &Arc<Scope>, name: &'static str, value: &str) -> String {
    let mut fields = headers(&[(HeaderName::from_static(name), value)]);
    scope.redact(&mut fields).unwrap();
    fields[name].to_str().unwrap().to_owned()
}

#[test]
fn a_value_in_binary_metadata_is_a_placeholder_again_written_as_it_was() {
    let good = scope_of("good.test");
    for more in 0..3 {
        let written = |text: [&str; 2]| {
            let [key, keys] = text.map(str::as_bytes);
            [b"\xff\xfb", key, b"\0", keys, &b"..."[..more]].concat()
        };
        for (padded, plain) in [(&PADDED, &PLAIN), (&URL_PADDED, &URL)] {
            for engine in [padded, plain] {
                let text = engine.encode(written([VALUE, OTHER]));
                // Where nothing was to be padded, nobody can tell what would have been.
                let like = if text.ends_with('=') { padded } else { plain };
                let expected = like.encode(written(["$MSB_KEY", "$MSB_KEYS"]));
                assert_eq!(back(&good, "x-key-bin", &text), expected, "{text}");
            }
        }
    }
}

#[test]
fn each_of_a_list_is_opened_and_what_is_no_base64_is_read_as_it_is() {
    let good = scope_of("good.test");
    let [value, mine] = [OTHER, "$MSB_KEYS"].map(|text| PLAIN.encode(text));
    let none = PLAIN.encode("nothing of interest");
    for (name, said, expected) in [
        ("x-bin", format!("{none}, {value},{none}"), format!("{none},{mine},{none}")),
        ("x-bin", format!("?{OTHER},{value}"), format!("?$MSB_KEYS,{mine}")),
        ("x-bin", format!("a {OTHER}!"), "a $MSB_KEYS!".to_owned()),
        ("x-bin", format!("{none}="), format!("{none}=")),
        // Nobody said that it is base64, so it is not written in that again.
        ("x-other", value.clone(), "$MSB_KEYS".to_owned()),
    ] {
        assert_eq!(back(&good, name, &said), expected, "{said}");
    }
}

#[test]
fn the_details_of_a_status_keep_their_lengths() {
    let good = scope_of("good.test");
    let message = |text: &str| PLAIN.encode([b"\x08\x07\x12\x16", text.as_bytes()].concat());
    let said = back(&good, "grpc-status-details-bin", &message(OTHER));
    assert_eq!(said, message("$MSB_KEYS*************"));
    assert_eq!(OTHER.len(), 22, "as the message says");
}
