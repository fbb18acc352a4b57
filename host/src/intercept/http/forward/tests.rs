//! Requests to a server that may have a secret, and its answers, byte by byte.
//!
//! Time is virtual: it passes when nobody has anything left to do.

use std::pin::pin;
use std::sync::atomic::AtomicUsize;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;

use super::*;
use crate::config::{SecretConfig, SecretValue, SecretsConfig};
use crate::intercept::fuzz::{self, Agreed};
use crate::intercept::{HELD_BYTES_MAX, Interceptor};
use crate::service::secrets::{SecretsHandle, Vault};

/// Longer than any timer.
const NOTHING_COMES: Duration = Duration::from_secs(10_000);

const VALUE: &str = "sk-live/+0123456789abcdef";

fn vault(placeholder: Option<&str>, value: &str) -> Arc<Vault> {
    let host = "good.test".parse().unwrap();
    let mut secret = SecretConfig::new("KEY", SecretValue::new(value.to_owned()), host);
    secret.placeholder = placeholder.map(str::to_owned);
    secret.substitution.body = true;
    let config = SecretsConfig { secrets: vec![secret], ..SecretsConfig::default() };
    Arc::new(Vault::new(config).unwrap())
}

/// The two ends of a connection, and the secrets of what is between them.
struct Between {
    guest: DuplexStream,
    server: DuplexStream,
    secrets: SecretsHandle,
}

impl Between {
    fn new() -> Self {
        let vault = vault(None, VALUE);
        let interceptor = fuzz::interceptor(Arc::clone(&vault));
        let ((guest, near), (server, far)) = (duplex(64 * 1024), duplex(64 * 1024));
        let call = fuzz::call("good.test");
        tokio::spawn(fuzz::serve(interceptor, (call, true), Agreed::Http1, (near, far)));
        Self { guest, server, secrets: SecretsHandle(vault) }
    }

    /// What the server hears of a request with `fields` and `body`.
    async fn asked(&mut self, fields: &str, body: &str) -> String {
        let head = format!("POST / HTTP/1.1\r\nHost: good.test\r\n{fields}\r\n");
        say(&mut self.guest, &(head + body)).await;
        hear(&mut self.server, "\r\n\r\n").await
    }

    /// What the guest hears once the server has said `response` to a request.
    async fn answered(&mut self, response: &str, until: &str) -> String {
        self.asked("", "").await;
        say(&mut self.server, response).await;
        hear(&mut self.guest, until).await
    }
}

/// Says `text`, each `|` in it an end of a line.
async fn say(end: &mut DuplexStream, text: &str) {
    end.write_all(text.replace('|', "\r\n").as_bytes()).await.unwrap();
}

/// What comes until `until`.
async fn hear(end: &mut DuplexStream, until: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(until) {
        let mut piece = [0; 1000];
        let read = timeout(NOTHING_COMES, end.read(&mut piece)).await;
        let len = read.unwrap_or_else(|_| panic!("nothing comes behind {heard}")).unwrap();
        assert_ne!(len, 0, "it ended behind {heard}");
        heard.push_str(core::str::from_utf8(&piece[..len]).unwrap());
    }
    heard
}

/// What comes until the end.
async fn hear_all(end: &mut DuplexStream) -> String {
    let mut heard = String::new();
    timeout(NOTHING_COMES, end.read_to_string(&mut heard)).await.unwrap().unwrap();
    heard
}

#[tokio::test(start_paused = true)]
async fn no_value_is_in_the_head_of_an_answer_whatever_its_status() {
    for response in [
        "HTTP/1.1 101 Changing|Connection: upgrade|Upgrade: websocket|Protocol: VALUE||",
        "HTTP/1.1 101 VALUE|Connection: upgrade|Upgrade: websocket||",
        "HTTP/1.1 302 Moved|Content-Length: 0|Location: /?sk-live%2F%2b0123456789abcdef||",
        "HTTP/1.1 200 VALUE|Content-Length: 0||",
    ] {
        let mut between = Between::new();
        between.asked("Connection: upgrade\r\nUpgrade: websocket\r\n", "").await;
        say(&mut between.server, &response.replace("VALUE", VALUE)).await;
        let heard = hear(&mut between.guest, "\r\n\r\n").await;
        assert!(!heard.contains("0123456789abcdef"), "{heard}");
        assert_eq!(heard[9..12], response[9..12], "{heard}");
    }
}

#[tokio::test(start_paused = true)]
async fn neither_a_part_nor_a_coded_transfer_comes_back() {
    let wishes = "Range: bytes=1-2\r\nIf-Range: \"a\"\r\nTE: gzip\r\nX: $MSB_KEY\r\n";
    let heard = Between::new().asked(wishes, "").await.to_ascii_lowercase();
    assert!(heard.contains(VALUE) && !heard.contains("range") && !heard.contains("te:"), "{heard}");
    for (response, expected) in [
        ("206 Partial Content|Content-Range: bytes 0-2/9|Content-Length: 3||abc", "502"),
        ("200 OK|Transfer-Encoding: gzip, chunked||3|abc|0||", "502"),
        ("200 OK|Transfer-Encoding: chunked||3|abc|0||", "200"),
        ("200 OK|Content-Length: 3||abc", "200"),
    ] {
        let heard = Between::new().answered(&format!("HTTP/1.1 {response}"), "\r\n\r\n").await;
        assert_eq!(&heard[9..12], expected, "{response}: {heard}");
    }
    let mut between = Between::new();
    let request = "POST / HTTP/1.1|Host: good.test|Transfer-Encoding: gzip, chunked||3|abc|0||";
    say(&mut between.guest, request).await;
    assert!(hear(&mut between.guest, "\r\n\r\n").await.starts_with("HTTP/1.1 403"));
    assert_eq!(hear_all(&mut between.server).await, "", "nothing of it leaves");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_waits_with_a_body_does_not_keep_a_value_that_is_gone() {
    let mut between = Between::new();
    let head = "POST / HTTP/1.1|Host: good.test|X: $MSB_KEY|Content-Length: 8||";
    say(&mut between.guest, head).await;
    // Virtual time passes once everybody waits: what there is of it was looked at by then.
    sleep(Duration::from_secs(1)).await;
    between.secrets.remove("KEY").unwrap();
    say(&mut between.guest, "$MSB_KEY").await;
    let heard = hear(&mut between.server, "\r\n\r\n$MSB_KEY").await;
    assert!(heard.contains(": $MSB_KEY\r\n") && !heard.contains(VALUE), "{heard}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_under_way_gets_no_value_that_is_gone() {
    let mut between = Between::new();
    let head = "POST / HTTP/1.1|Host: good.test|Transfer-Encoding: chunked||";
    say(&mut between.guest, &format!("{head}a|1 $MSB_KEY|")).await;
    hear(&mut between.server, VALUE).await;
    between.secrets.rotate("KEY", "rotated-value".to_owned()).unwrap();
    say(&mut between.guest, "a|2 $MSB_KEY|0||").await;
    assert!(hear(&mut between.guest, "\r\n\r\n").await.starts_with("HTTP/1.1 403"));
    let heard = hear_all(&mut between.server).await;
    assert!(!heard.contains(VALUE) && !heard.contains("rotated-value"), "{heard}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut between = Between::new();
    let head = "POST / HTTP/1.1|Host: good.test|X: $MSB_KEY|Content-Length: 8||short";
    say(&mut between.guest, head).await;
    assert!(hear(&mut between.guest, "\r\n\r\n").await.starts_with("HTTP/1.1 408"));
    assert_eq!(hear_all(&mut between.server).await, "", "nothing of it leaves");
    let mut between = Between::new();
    let heard = between.answered("HTTP/1.1 200 OK|Content-Length: 8||short", "\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 504"), "{heard}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_has_lost_its_length_is_sent_whatever_the_version_and_the_method() {
    for line in ["POST / HTTP/1.0", "GET / HTTP/1.1", "POST / HTTP/1.1"] {
        let mut between = Between::new();
        // Longer than what is held.
        let head = format!("{line}|Host: good.test|Content-Length: 300000||");
        say(&mut between.guest, &format!("{head}1 $MSB_KEY ")).await;
        let heard = hear(&mut between.server, VALUE).await.to_ascii_lowercase();
        assert!(heard.contains(" http/1.1\r\n"), "{line}: {heard}");
        assert!(heard.contains("transfer-encoding: chunked\r\n"), "{line}: {heard}");
        assert!(!heard.contains("content-length"), "{line}: {heard}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_in_the_name_of_a_field_does_not_come_back() {
    for (name, expected) in [("SK-live%2F%2B0123456789abcdef", "502"), ("X-Sk-Live", "200")] {
        let response = format!("HTTP/1.1 200 OK|{name}: 1|Content-Length: 0||");
        let heard = Between::new().answered(&response, "\r\n\r\n").await;
        assert_eq!(&heard[9..12], expected, "{heard}");
        assert!(!heard.to_ascii_lowercase().contains("0123456789abcdef"), "{heard}");
    }
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// What the guest hears of a response with `fields` and `body`: its head, and what is behind it.
async fn heard_of(fields: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut between = Between::new();
    between.asked("Connection: close\r\n", "").await;
    let fields = format!("HTTP/1.1 200 OK|ETag: \"a\"|Content-Digest: sha-256=:x:|{fields}||");
    say(&mut between.server, &fields).await;
    between.server.write_all(body).await.unwrap();
    let mut heard = vec![];
    timeout(NOTHING_COMES, between.guest.read_to_end(&mut heard)).await.unwrap().unwrap();
    let end = memchr::memmem::find(&heard, b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(heard[..end].to_vec()).unwrap().to_ascii_lowercase(), heard[end..].to_vec())
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_the_bytes_of_a_response_is_said_of_those_that_come() {
    let says = |head: &str| (head.contains("content-digest:"), head.contains("etag: \"a\""));
    let honest = gzip("nothing of interest");
    let length = |body: &[u8]| format!("Content-Length: {}|Content-Encoding: gzip", body.len());
    let (head, body) = heard_of(&length(&honest), &honest).await;
    assert_eq!((says(&head), body), ((true, true), honest.clone()), "as it came");
    let echo = gzip(VALUE);
    let (head, body) = heard_of(&length(&echo), &echo).await;
    assert!(body != echo && says(&head) == (false, false), "{head}");
    assert!(head.contains("etag: w/\"a\""), "{head}");
    // What streams is encoded anew before anybody knows.
    let chunked = "Transfer-Encoding: chunked|Content-Encoding: gzip";
    let chunk = [format!("{:x}\r\n", honest.len()).as_bytes(), &honest, b"\r\n0\r\n\r\n"].concat();
    let (head, _) = heard_of(chunked, &chunk).await;
    assert!(says(&head) == (false, false) && head.contains("etag: w/\"a\""), "{head}");
    // What is not encoded is as it was but for values.
    let (head, body) = heard_of("Content-Length: 3", b"abc").await;
    assert_eq!((says(&head), &*body), ((true, true), &b"abc"[..]));
}

/// An exchange with a server that may have `value` in the place of `placeholder`.
fn exchange(placeholder: &str, value: &str) -> (Arc<Interceptor>, Arc<Exchange>) {
    let interceptor = fuzz::interceptor(vault(Some(placeholder), value));
    let call = fuzz::call("good.test");
    (Arc::clone(&interceptor), Arc::new(Exchange::new(interceptor, call, true)))
}

/// What becomes of `text`, the body of a request, and how often others were let go on meanwhile.
async fn passed(exchange: &Arc<Exchange>, text: &str) -> (Result<Body, Stopped>, usize) {
    let scope = exchange.scope();
    let mut headers = HeaderMap::new();
    let filter = scope.body(&headers).unwrap_or_else(|_| panic!("it is readable"));
    let permit = exchange.try_hold(text.len()).unwrap();
    let whole = Whole { bytes: Bytes::copy_from_slice(text.as_bytes()), trailers: None, permit };
    let mut passing = pin!(whole.pass(exchange, &scope, &mut headers, filter));
    let mut waits = 0;
    let body = std::future::poll_fn(|context| {
        let polled = passing.as_mut().poll(context);
        waits += usize::from(polled.is_pending());
        polled
    });
    (body.await, waits)
}

#[tokio::test]
async fn bytes_count_as_held_until_they_have_gone_and_those_that_values_add() {
    let (interceptor, exchange) = exchange("#", &"v".repeat(60_000));
    let held = &interceptor.lasting.held;
    let (body, _) = passed(&exchange, "# and # and # again").await;
    let body = body.unwrap_or_else(|_| panic!("there is room"));
    assert_eq!(held.available_permits(), HELD_BYTES_MAX - 180_016);
    let bytes = body.collect().await.unwrap().to_bytes();
    assert_eq!(bytes.len(), 180_016);
    assert_eq!(held.available_permits(), HELD_BYTES_MAX - 180_016, "they have not gone");
    drop(bytes);
    assert_eq!(held.available_permits(), HELD_BYTES_MAX);
    let _others = held.acquire_many(u32::try_from(HELD_BYTES_MAX - 100_000).unwrap()).await;
    let (refused, _) = passed(&exchange, "# and # and # again").await;
    assert!(matches!(refused, Err(Stopped::Violation(_))), "there is no room");
}

#[tokio::test]
async fn others_go_on_while_a_long_body_is_looked_at() {
    let (_, exchange) = exchange("$MSB_KEY", VALUE);
    let text = "%+\\".repeat(80_000);
    let (body, waits) = passed(&exchange, &text).await;
    assert!(waits >= 14, "{waits}");
    let whole = body.unwrap_or_else(|_| panic!("nothing is in it"));
    // The same where it is looked at on its way.
    let scope = exchange.scope();
    let filter = scope.body(&HeaderMap::new()).unwrap_or_else(|_| panic!("it is readable"));
    let mut body = Body::filtered(whole, filter, scope, |_| panic!("nothing is in it"));
    let (mut turns, mut most, mut len) = (0, 0, 0);
    while let Some(frame) = std::future::poll_fn(|context| {
        let polled = hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), context);
        if polled.is_pending() {
            turns = 0;
        }
        turns += 1;
        most = most.max(turns);
        polled
    })
    .await
    {
        len += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(len, text.len());
    assert!(most <= 6, "{most} turns, one behind the other");
}

#[tokio::test]
async fn a_long_body_that_is_looked_at_lets_every_other_go_on() {
    const LEN: usize = 64 * 1024;
    let exchange =
        Exchange::new(fuzz::interceptor(vault(None, VALUE)), fuzz::call("good.test"), true);
    let scope = exchange.scope();
    let turns = AtomicUsize::new(0);
    let mut all = FuturesUnordered::new();
    for _ in 0..64 {
        all.push(async {
            let permit = exchange.try_hold(LEN).unwrap();
            let whole = Whole { bytes: vec![b'x'; LEN].into(), trailers: None, permit };
            let mut headers = HeaderMap::new();
            let filter = scope.body(&headers).unwrap_or_else(|_| panic!("it is looked at"));
            let mut passing = pin!(whole.pass(&exchange, &scope, &mut headers, filter));
            let passed = poll_fn(|context| {
                turns.fetch_add(1, Ordering::Relaxed);
                passing.as_mut().poll(context)
            });
            passed.await.is_ok()
        });
    }
    poll_fn(|context| Poll::Ready(all.poll_next_unpin(context).is_ready())).await;
    assert!((1..4).contains(&turns.load(Ordering::Relaxed)), "{turns:?} turns in one");
    while let Some(is_passed) = all.next().await {
        assert!(is_passed);
    }
    assert!(turns.load(Ordering::Relaxed) >= 2 * 64, "each has several");
}
