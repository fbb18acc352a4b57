//! The page that denies: HTTP/1.1 403 (RFC 9110 15.5.4) with a small body, and the connection's
//! end.

use core::fmt::Write;

use crate::contract::{DenyFormat, DenyPage};
use crate::limits::{DENY_MESSAGE_BYTES_MAX, DOMAIN_BYTES_MAX};
use crate::wire::said::Method;

/// Bytes of the longest body: each byte of a message in six, a name, and what is between.
const BODY_BYTES_MAX: usize = 6 * DENY_MESSAGE_BYTES_MAX + DOMAIN_BYTES_MAX + 128;
/// Bytes of the longest page.
const PAGE_BYTES_MAX: usize = BODY_BYTES_MAX + 256;

/// A whole page.
pub(crate) type Page = heapless::String<PAGE_BYTES_MAX>;
type Body = heapless::String<BODY_BYTES_MAX>;

/// The page for a request that asked for `name`, if it said one.
pub(crate) fn page(deny: &DenyPage, name: Option<&str>, method: Method) -> Page {
    let (kind, body) = match deny.format {
        DenyFormat::Json => ("application/json", json(&deny.message, name)),
        DenyFormat::Text => ("text/plain; charset=utf-8", text(&deny.message, name)),
    };
    let mut page = Page::new();
    // It has room for the longest of both.
    let _ = write!(
        page,
        "HTTP/1.1 403 Forbidden\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if method == Method::Head { "" } else { body.as_str() },
    );
    page
}

fn json(message: &str, name: Option<&str>) -> Body {
    let mut body = Body::new();
    let _ = body.push_str(r#"{"code":"network_policy_denied","message":""#);
    for character in message.chars() {
        let _ = match character {
            '"' | '\\' => write!(body, "\\{character}"),
            '\0'..='\x1f' => write!(body, "\\u{:04x}", u32::from(character)),
            _ => write!(body, "{character}"),
        };
    }
    // A name has no character that JSON would escape.
    let _ = match name {
        Some(name) => write!(body, r#"","domain":"{name}"}}"#),
        None => write!(body, r#"","domain":null}}"#),
    };
    body
}

/// What does not fit is left out: a template may say the name often.
fn text(template: &str, name: Option<&str>) -> Body {
    let mut body = Body::new();
    for (index, part) in template.split("{host}").enumerate() {
        let between = if index == 0 { "" } else { name.unwrap_or("this host") };
        if body.push_str(between).and_then(|()| body.push_str(part)).is_err() {
            break;
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: DenyFormat, message: &str, name: Option<&str>, method: Method) -> Page {
        page(&DenyPage { format, message: message.try_into().unwrap() }, name, method)
    }

    #[test]
    fn a_message_is_escaped_and_its_length_is_that_of_the_body() {
        let page = of(DenyFormat::Json, "no \"way\"\n\\ é", Some("a.test"), Method::Other);
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        let expected = concat!(
            r#"{"code":"network_policy_denied","message":"#,
            r#""no \"way\"\u000a\\ é","domain":"a.test"}"#
        );
        assert_eq!(body, expected);
        assert!(head.contains(&*std::format!("Content-Length: {}\r\n", expected.len())), "{head}");
        let bare = of(DenyFormat::Json, "", None, Method::Head);
        assert!(bare.ends_with("\r\n\r\n"), "{bare}");
        assert!(bare.contains("Content-Length: 59\r\n"), "{bare}");
    }

    #[test]
    fn a_text_says_the_name_wherever_it_is_to_and_what_is_too_long_is_cut() {
        let page = of(DenyFormat::Text, "{host} is not {host}", Some("a.test"), Method::Other);
        assert!(page.ends_with("\r\n\r\na.test is not a.test"), "{page}");
        let page = of(DenyFormat::Text, "no {host}", None, Method::Other);
        assert!(page.ends_with("no this host"), "{page}");
        let long = "a".repeat(DOMAIN_BYTES_MAX);
        let page = of(DenyFormat::Text, &"{host}".repeat(42), Some(&long), Method::Other);
        assert!(page.len() <= PAGE_BYTES_MAX && page.contains(&long), "{}", page.len());
    }

    #[test]
    fn the_longest_message_and_name_fit() {
        let message = "\u{1}".repeat(DENY_MESSAGE_BYTES_MAX);
        let long = "a".repeat(DOMAIN_BYTES_MAX);
        let page = of(DenyFormat::Json, &message, Some(&long), Method::Other);
        assert!(page.ends_with(r#"a"}"#), "{page}");
    }

    extern crate std;
}
