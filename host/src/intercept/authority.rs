//! Whom a request is for (RFC 9110 7.2), which must be whom the handshake was for: a server that
//! answers for many names would otherwise give those that policy denies.

use std::net::IpAddr;

use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Uri, Version};
use sluicegate_core::Beginning;

use super::Call;

/// What is wrong with a request's authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// There is none, or several that may differ, or none that can be read.
    Unclear,
    /// It is for somebody else.
    Elsewhere(String),
    /// A field's value begins or ends with a blank, which nobody may hand on over HTTP/2 (RFC 9113
    /// 8.2.1, 8.1.1); over HTTP/1 it is no part of the value.
    Padded,
}

/// Checks that `request` is for the server of `call`.
pub(super) fn check(call: &Call, request: &Parts) -> Result<(), Wrong> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded = |value: &[u8]| is_blank(value.first()) || is_blank(value.last());
    if request.version == Version::HTTP_2
        && request.headers.values().any(|value| is_padded(value.as_bytes()))
    {
        return Err(Wrong::Padded);
    }
    // Of any other a server may know what it likes, and nobody looks for placeholders there.
    let is_web = |scheme: &str| ["http", "https"].iter().any(|it| it.eq_ignore_ascii_case(scheme));
    if !request.uri.scheme_str().is_none_or(is_web) {
        return Err(Wrong::Unclear);
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Wrong::Unclear);
    }
    // As nearly every request has it.
    if request.uri.authority().is_none()
        && let (Some(host), Some(name)) = (host, &call.name)
        && host.as_bytes().eq_ignore_ascii_case(name.as_bytes())
    {
        return Ok(());
    }
    let host = match host {
        Some(value) => {
            let text = value.to_str().map_err(|_| Wrong::Unclear)?;
            Some(text.parse::<Authority>().map_err(|_| Wrong::Unclear)?)
        }
        None => None,
    };
    let target = request.uri.authority();
    if host.is_none() && target.is_none() {
        return Err(Wrong::Unclear);
    }
    host.iter().chain(target).try_for_each(|said| same(call, said))
}

/// The name that `request` is for, at the server of `call`, if it says one and no other.
pub(super) fn said(call: &Call, request: &Parts) -> Option<String> {
    let host = || request.headers.get(HOST)?.to_str().ok()?.parse().ok();
    let authority: Authority = request.uri.authority().cloned().or_else(host)?;
    let name = authority.host().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
    let call = Call { name: Some(name), ..call.clone() };
    check(&call, request).ok().and(call.name)
}

/// Lets the target of a request over HTTP/2 say whom it is for, where only its field does (RFC 9113
/// 8.3.1). It was checked.
pub(super) fn complete(call: &Call, request: &mut Parts) {
    if request.method == Method::CONNECT || request.uri.authority().is_some() {
        return;
    }
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let mut parts = request.uri.clone().into_parts();
    let is_tls = call.begins == Beginning::Tls;
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = host;
    if let Ok(uri) = Uri::from_parts(parts) {
        request.uri = uri;
    }
}

fn same(call: &Call, said: &Authority) -> Result<(), Wrong> {
    let elsewhere = || Wrong::Elsewhere(said.host().to_owned());
    // `user@host`, and what stands for a port and is none, are read differently by different
    // servers.
    let behind = said.as_str().strip_prefix(said.host()).ok_or(Wrong::Unclear)?;
    if let Some(port) = port(behind).ok_or(Wrong::Unclear)?
        && port != call.destination.port()
    {
        return Err(elsewhere());
    }
    let host = said.host().to_ascii_lowercase();
    let is_same = match &call.name {
        Some(name) => host.strip_suffix('.').unwrap_or(&host) == name,
        None => {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let address = bare.unwrap_or(&host).parse::<IpAddr>();
            address
                .is_ok_and(|address| address.to_canonical() == call.destination.ip().to_canonical())
        }
    };
    if is_same { Ok(()) } else { Err(elsewhere()) }
}

/// The port that `text` says, which stands behind a host, if it says one (RFC 3986 3.2.3); `None`:
/// it says something else.
fn port(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    let digits = text.strip_prefix(':')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(Some)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn call(name: Option<&str>) -> Call {
        Call {
            through_proxy: None,
            guest: "100.96.0.2:4000".parse().unwrap(),
            destination: "93.184.216.34:443".parse().unwrap(),
            to: ("93.184.216.34:443".parse().unwrap(), None),
            name: name.map(str::to_owned),
            is_bound: true,
            begins: sluicegate_core::Beginning::Tls,
            is_denied: false,
            open_to: None,
        }
    }

    fn checked(name: Option<&str>, uri: &str, hosts: &[&str]) -> Result<(), Wrong> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&call(name), &request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_request_is_for_whom_the_handshake_was_for() {
        let good = Some("good.test");
        for (uri, hosts, expected) in [
            ("/", &["good.test"][..], true),
            ("/", &["GOOD.test"], true),
            ("/", &["good.test."], true),
            ("/", &["good.test:443"], true),
            ("/", &["good.test:8443"], false),
            ("/", &["good.test:evil.test"], false),
            ("/", &["good.test:99999"], false),
            ("/", &["good.test:+443"], false),
            ("/", &["good.test:"], false),
            ("/", &["evil.test"], false),
            ("/", &["a.good.test"], false),
            ("/", &["good.test@evil.test"], false),
            ("/", &["evil.test@good.test"], false),
            ("/", &["good.test", "good.test"], false),
            ("/", &["good.test evil.test"], false),
            ("/", &[""], false),
            ("/", &[], false),
            ("https://good.test/", &[], true),
            ("https://good.test/", &["good.test"], true),
            ("https://good.test/", &["evil.test"], false),
            ("https://evil.test/", &["good.test"], false),
            ("HTTP://good.test/", &["good.test"], true),
            ("ftp://good.test/", &["good.test"], false),
            ("abc-msb://good.test/", &[], false),
        ] {
            assert_eq!(checked(good, uri, hosts).is_ok(), expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn a_field_with_a_blank_at_its_end_is_none_of_http2() {
        for (value, expected) in
            [("a b", Ok(())), (" a", Err(Wrong::Padded)), ("a\t", Err(Wrong::Padded))]
        {
            let mut request = Request::builder().uri("https://good.test/").version(Version::HTTP_2);
            request = request.header("x", value);
            let parts = request.body(()).unwrap().into_parts().0;
            assert_eq!(check(&call(Some("good.test")), &parts), expected, "{value:?}");
        }
    }

    #[test]
    fn without_a_name_the_address_is_whom_it_is_for() {
        assert_eq!(checked(None, "/", &["93.184.216.34"]), Ok(()));
        assert_eq!(checked(None, "/", &["93.184.216.34:443"]), Ok(()));
        assert_eq!(checked(None, "/", &["[::ffff:93.184.216.34]"]), Ok(()));
        let elsewhere = checked(None, "/", &["good.test"]).unwrap_err();
        assert_eq!(elsewhere, Wrong::Elsewhere("good.test".to_owned()));
    }
}
