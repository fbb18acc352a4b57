//! Values that come back in pieces, and in other ways of writing than their own.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use super::*;

/// The scope of a server that may have a secret with `value`, in any place.
fn with_value(value: &str) -> Arc<Scope> {
    let mut secret = secret("KEY", value, "good.test");
    secret.substitution.headers = !value.contains('\n');
    let config = SecretsConfig { secrets: vec![secret], ..Default::default() };
    vault(config).current().scope(&peer("good.test"))
}

/// What passes of each of `pieces` of a response before the next comes, and at its end.
fn taken(scope: &Arc<Scope>, kind: &'static str, pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut filter = scope.response(&headers(&[(CONTENT_TYPE, kind)]), true).unwrap();
    let mut taken: Vec<_> =
        pieces.iter().map(|piece| pushed(&mut filter, piece).unwrap()).collect();
    taken.push(filter.finish().unwrap().to_vec());
    taken
}

/// What becomes of the field of a response with `said`.
fn field(scope: &Arc<Scope>, said: &[u8]) -> String {
    let mut fields = HeaderMap::new();
    fields.insert("location", HeaderValue::from_bytes(said).unwrap());
    scope.redact(&mut fields).unwrap();
    String::from_utf8(fields["location"].as_bytes().to_vec()).unwrap()
}

#[test]
fn what_is_held_of_a_response_says_nothing_of_the_value() {
    // As long as each other, and otherwise as different as can be.
    let (mine, other) = ("sk-live/+abcdefghij", "ABCDEFG0123456789-=");
    for value in [mine, other] {
        let scope = with_value(value);
        for kind in ["text/plain", "application/json", "application/grpc"] {
            for guess in [mine, other] {
                for len in 0..guess.len() {
                    // What a guest would guess one byte after the other.
                    let guess = &guess.as_bytes()[..len];
                    let text = [b"\n", guess].concat();
                    let text = if kind == "application/grpc" {
                        [&b"\0\0\0\x01\0"[..], &text].concat()
                    } else {
                        text
                    };
                    let none = [&text[..text.len() - len], &b"?".repeat(len)].concat();
                    let lens = |text: &[u8]| {
                        let pieces = [text.to_vec(), b"more, ".to_vec()];
                        taken(&scope, kind, &pieces).iter().map(Vec::len).collect::<Vec<_>>()
                    };
                    assert_eq!(lens(&text), lens(&none), "{value}: {kind}, {len} of it");
                }
            }
        }
    }
}

#[test]
fn a_line_of_a_response_leaves_at_once() {
    let scope = with_value("sk-live-0123456789abcdef");
    let event = &b"data: {\"k\": \"sk-live\"}\n\n"[..];
    assert_eq!(taken(&scope, "text/event-stream", &[event.to_vec()])[0], event);
    // Of one that goes on, and of one that a value of more lines might, not before it has.
    let open = &b"data: sk-live"[..];
    assert_eq!(taken(&scope, "text/event-stream", &[open.to_vec()]), [b"", open]);
    let lines = with_value("one line\nand another\n");
    assert_eq!(taken(&lines, "text/event-stream", &[event.to_vec()]), [b"", event]);
    let back = taken(&lines, "text/plain", &[b"a one line\nand".to_vec(), b" another\n".to_vec()]);
    assert_eq!(back.concat(), b"a $MSB_KEY");
    // However long a text without an end of a line is, so much of it waits.
    let long = taken(&scope, "text/plain", &[vec![b'x'; 10_000]]);
    assert!((1..4096).contains(&long[1].len()), "{}", long[1].len());
}

#[test]
fn a_value_is_found_in_each_way_in_which_servers_write() {
    for value in
        ["wJalrXU/K7+MDENG&x=<1>", "caf\u{e9}/\u{1f600}/secret", "n\"ew\\line\\u0041%41+ x"]
    {
        let scope = with_value(value);
        let escaped = |byte: &u8| format!("%{byte:02x}");
        let unit = |unit| format!("\\u{unit:04X}");
        let percent: String = value.as_bytes().iter().map(escaped).collect();
        let form = percent.replace("%20", "+");
        let json: String = value.encode_utf16().map(unit).collect();
        let php = serde_json::to_string(value).unwrap().replace('/', "\\/");
        let php = php[1..php.len() - 1].to_owned();
        let kept = value.replace('%', "%25").replace('/', "%2F").replace('+', "%2B");
        for written in [value, &percent, &form, &json, &php, &kept] {
            let said = format!("https://x/?a={written}&b");
            assert_eq!(field(&scope, said.as_bytes()), "https://x/?a=$MSB_KEY&b", "{written}");
            let text = format!("before {written} behind {written}, \\ {written}");
            for seed in 1..40 {
                let filter = scope.response(&HeaderMap::new(), false).unwrap();
                let out = through(filter, text.as_bytes(), &mut Dice(seed)).unwrap();
                let out = String::from_utf8(out).unwrap();
                assert_eq!(out, "before $MSB_KEY behind $MSB_KEY, \\ $MSB_KEY", "{written}");
            }
        }
    }
}

#[test]
fn a_value_in_base64_goes_with_each_digit_that_has_some_of_it() {
    let value = "wJalrXU/K7+MDENG&x=<1>";
    let scope = with_value(value);
    for before in 0..6 {
        for behind in 0..3 {
            let user = &"user:!"[..before];
            let plain = format!("{user}{value}{}", &"..."[..behind]);
            let coded = BASE64_STANDARD.encode(&plain);
            for coded in [coded.as_str(), &BASE64_URL_SAFE_NO_PAD.encode(&plain)] {
                let text = format!("authorization: Basic {coded}\n\"{coded}\"");
                for seed in 1..20 {
                    let filter = scope.response(&HeaderMap::new(), false).unwrap();
                    let out = through(filter, text.as_bytes(), &mut Dice(seed)).unwrap();
                    let out = String::from_utf8(out).unwrap();
                    assert_eq!(out.matches("$MSB_KEY").count(), 2, "{out}");
                    // Digits that are left are those of what stands before and behind.
                    let (first, _) = out.split_once("$MSB_KEY").unwrap();
                    let digits = first.strip_prefix("authorization: Basic ").unwrap();
                    assert_eq!(digits.len(), before * 8 / 6, "{out}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_digit_beside_a_value_in_base64_stays_wherever_it_is_cut() {
    let value = "wJalrXU/K7+MDENG&x=<1>";
    let scope = with_value(value);
    let coded = BASE64_STANDARD.encode(format!("u{value}"));
    // Digits that have bits of the value alone.
    let text = format!("\u{3}{}\r\n\u{3}", &coded[2..coded.len() - 2]);
    for cut in 0..=text.len() {
        let (first, rest) = text.as_bytes().split_at(cut);
        let out = taken(&scope, "text/plain", &[first.to_vec(), rest.to_vec()]).concat();
        assert_eq!(String::from_utf8(out).unwrap(), "\u{3}$MSB_KEY\r\n\u{3}", "{cut}");
    }
}

#[test]
fn a_backslash_before_a_value_hides_nothing_wherever_it_is_cut() {
    let scope = with_value("new/line-of-text");
    let filler = "x".repeat(3000);
    for run in [1, 2, 3, 200, 201] {
        let slashes = "\\".repeat(run);
        for written in ["new/line-of-text", "new\\/line-of-text"] {
            let text = format!("{filler}{slashes}{written}{filler}");
            for cut in (2900..3300).chain(4000..4200) {
                let (first, rest) = text.as_bytes().split_at(cut);
                let out = taken(&scope, "text/plain", &[first.to_vec(), rest.to_vec()]).concat();
                // An odd number of them makes another text of it in JSON, and none where it is raw.
                let is_there = written.contains("\\/") && run % 2 == 1;
                let found = memchr::memmem::find(&out, b"$MSB_KEY").is_some();
                assert_eq!(found, !is_there, "{run} before {written}, cut at {cut}");
            }
        }
    }
}

#[test]
fn as_many_values_as_there_may_be_are_found_where_they_begin_alike() {
    // Each is the beginning of the next.
    let value = |index: usize| format!("sk-live-{}", "x".repeat(index));
    let some = (0..64).map(|index| secret(&format!("K{index:02}"), &value(index), "good.test"));
    let config = SecretsConfig { secrets: some.collect(), ..Default::default() };
    let scope = vault(config).current().scope(&peer("good.test"));
    for index in 0..64 {
        let said = field(&scope, format!("a {} b", value(index)).as_bytes());
        assert_eq!(said, format!("a $MSB_K{index:02} b"));
    }
}

#[test]
fn a_value_is_found_whichever_byte_of_it_is_escaped_and_however_far_other_escapes_are() {
    let value = "sk-live+abcdefghij";
    let scope = with_value(value);
    for escaped in ["%41", "\\n", "\\\\"] {
        for (at, byte) in value.bytes().enumerate() {
            let byte = match escaped {
                "%41" => format!("%{byte:02x}"),
                _ => format!("\\u{byte:04x}"),
            };
            let written = [&value[..at], &byte, &value[at + 1..]].concat();
            for gap in 0..200 {
                let dots = ".".repeat(gap);
                let text = |it: &str| format!("{escaped}{dots}{it}{dots}{escaped}{dots}{it}");
                let said = field(&scope, text(&written).as_bytes());
                assert_eq!(said, text("$MSB_KEY"), "{written} {gap} from {escaped}");
            }
        }
    }
    // A blank is written as `+` in a form.
    let scope = with_value("sk live abcdefghij");
    for gap in 0..200 {
        let text = |it: &str| format!("a+b{0}{it}{0}c+d", ".".repeat(gap));
        assert_eq!(field(&scope, text("sk+live%20abcdefghij").as_bytes()), text("$MSB_KEY"));
    }
}
