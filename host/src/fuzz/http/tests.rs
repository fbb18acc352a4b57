//! What reaches a server, and what a guest is told, behind their handshakes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::ext::Protocol;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, ReadBuf, ReadHalf, join, split};

use super::*;

mod streams;

/// What guest and server hear, where the guest calls `good.test` and speaks first.
fn between(
    agreed: Agreed,
    guest_says: impl AsRef<[u8]>,
    server_says: impl AsRef<[u8]>,
) -> (String, String) {
    let speaker =
        |words: &[u8], waits| Speaker { words: words.to_vec(), cuts: 0, waits, then: vec![] };
    let both = (speaker(guest_says.as_ref(), false), speaker(server_says.as_ref(), true));
    let (guest, server) = relay(&AS_THEY_ARE, (call("good.test"), true), agreed, both);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(guest), text(server))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";

#[test]
fn what_lenient_servers_take_for_a_request_is_one_where_no_protocol_was_agreed_on() {
    for line in [
        "A_B / HTTP/1.1\r\n",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n",
        "GET\t/\tHTTP/1.1\r\n",
        "A_B / HTTP/1.1\n",
        "\x0bA_B /\x0cHTTP/1.10 \r\n",
        "get / HTTP/1.1\r\n",
    ] {
        let request = format!("{line}Host: evil.test\r\n\r\n");
        let (guest, server) = between(Agreed::Nothing, request.repeat(2), OK);
        assert!(guest.starts_with("HTTP/1.1 4"), "{line:?}: the guest is told: {guest:?}");
        assert_eq!(server, "", "{line:?}: the server hears nothing");
    }
    let request = "A_B / HTTP/1.1\r\nHost: good.test\r\n\r\n";
    let (guest, server) = between(Agreed::Nothing, request, OK);
    assert!(server.starts_with("A_B / HTTP/1.1\r\n") && guest.ends_with("OK"), "{guest} {server}");
    for other in ["SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "a1 LOGIN x y\r\nand so on", "{\"a\": 1}"] {
        let (guest, server) = between(Agreed::Nothing, other, "hello");
        assert_eq!((guest.as_str(), server.as_str()), ("hello", other));
    }
}

#[test]
fn a_connection_becomes_no_other_in_which_nobody_looks() {
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
        Upgrade: h2c\r\n\r\nfrom then on";
    for asks in ["Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", "Upgrade: TLS/1.2\r\n", ""] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: upgrade, http2-settings\r\n\
             {asks}\r\nPRI * HTTP/2.0\r\n\r\n"
        );
        let (guest, server) = between(Agreed::Http1, &request, SWITCHED);
        let server = server.to_ascii_lowercase();
        assert!(server.contains("host: good.test"), "the request itself passes: {server:?}");
        for word in ["\r\nupgrade:", "\r\nhttp2-settings:", "pri *"] {
            assert!(!server.contains(word), "{asks:?}: {word:?} in {server:?}");
        }
        assert!(!guest.contains("from then on"), "{asks:?}: {guest:?}");
    }
    let request = "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\n\r\n";
    // And in that it is a message that passes, and nothing else.
    let switched = SWITCHED.replace("h2c", "websocket").replace("from then on", "");
    for (to_server, to_guest, passes) in [
        (&b"\x81\x8d\0\0\0\0to the server"[..], &b"\x81\x0cfrom then on"[..], true),
        (b"to the server", b"from then on", false),
    ] {
        let said = |head: &str, frame| [head.as_bytes(), frame].concat();
        let (guest, server) =
            between(Agreed::Http1, said(request, to_server), said(&switched, to_guest));
        assert_eq!(guest.ends_with("from then on"), passes, "{guest:?}");
        assert_eq!(server.ends_with("to the server"), passes, "{server:?}");
    }
}

#[test]
fn whom_a_request_is_for_is_said_in_one_way() {
    for (target, host) in [
        ("/", "good.test:evil.test"),
        ("/", "good.test:99999"),
        ("/", "good.test:"),
        ("abc-msb://good.test/", "good.test"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (guest, server) = between(Agreed::Http1, &request, OK);
        assert!(guest.starts_with("HTTP/1.1 400 "), "{target} {host}: {guest:?}");
        assert_eq!(server, "", "{target} {host}");
    }
}

/// A runtime whose time passes when nobody has anything left to do.
fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}

/// Serves HTTP/2 of a guest that calls `evil.test`; the guest's end, and the server's.
fn begin_h2(interceptor: &Arc<Interceptor>) -> (DuplexStream, DuplexStream) {
    let ((near, guest), (far, server)) = (duplex(64 * 1024), duplex(64 * 1024));
    let call = (call("evil.test"), true);
    tokio::spawn(serve(Arc::clone(interceptor), call, Agreed::Http2, (near, far)));
    (guest, server)
}

/// A request of HTTP/2 of `method`.
fn request(method: &str, protocol: Option<&'static str>) -> Request<()> {
    let mut request = Request::builder().method(method).uri("https://evil.test/").body(()).unwrap();
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from_static(protocol));
    }
    request
}

#[test]
fn a_stream_becomes_a_websocket_and_nothing_else() {
    runtime().block_on(async {
        let (guest, server) = begin_h2(&AS_THEY_ARE);
        let asked = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            let greeting = builder.enable_connect_protocol().handshake::<_, Bytes>(server);
            let mut connection = greeting.await.unwrap();
            let mut asked: Vec<Option<String>> = vec![];
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let protocol = request.extensions().get::<Protocol>();
                asked.push(protocol.map(|protocol| protocol.as_str().to_owned()));
                respond.send_response(Response::new(()), true).unwrap();
            }
            asked
        });
        let (mut sender, connection) = h2::client::handshake(guest).await.unwrap();
        let connection = tokio::spawn(connection);
        sleep(PAUSE).await;
        let mut told = vec![];
        for (method, protocol) in
            [("GET", None), ("CONNECT", Some("websocket")), ("CONNECT", Some("connect-udp"))]
        {
            sender = sender.ready().await.unwrap();
            let sent = sender.send_request(request(method, protocol), true).unwrap().0;
            told.push(sent.await.unwrap().status().as_u16());
        }
        assert_eq!(told, [200, 200, 501]);
        drop(sender);
        connection.await.unwrap().unwrap();
        assert_eq!(asked.await.unwrap(), [None, Some("websocket".to_owned())]);
    });
}

/// What a guest hears, which is no more once the gate is shut.
struct Gate {
    from_server: ReadHalf<DuplexStream>,
    is_shut: Arc<AtomicBool>,
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_shut.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.from_server).poll_read(context, space)
    }
}

const STREAMS: usize = 100;

/// A server of HTTP/2 that answers the first [`STREAMS`] requests without end, once all have come:
/// then it shuts the gate. It counts the bytes that it got rid of.
async fn answer_without_end(end: DuplexStream, is_shut: Arc<AtomicBool>, sent: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(end).await.unwrap();
    let mut asked = vec![];
    while let Some(Ok((_, respond))) = connection.accept().await {
        asked.push(respond);
        if asked.len() < STREAMS {
            continue;
        }
        is_shut.store(true, Ordering::Relaxed);
        for mut respond in asked.drain(..) {
            let sent = Arc::clone(&sent);
            tokio::spawn(async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                loop {
                    stream.reserve_capacity(16 * 1024);
                    let Some(Ok(len)) = poll_fn(|context| stream.poll_capacity(context)).await
                    else {
                        return;
                    };
                    sent.fetch_add(len, Ordering::Relaxed);
                    stream.send_data(vec![b'x'; len].into(), false).unwrap();
                }
            });
        }
    }
}

#[test]
fn a_guest_that_does_not_read_is_not_read_ahead_for_by_the_stream() {
    let (is_shut, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    runtime().block_on(async {
        let (stream, server) = begin_h2(&AS_THEY_ARE);
        tokio::spawn(answer_without_end(server, Arc::clone(&is_shut), Arc::clone(&sent)));
        let (from_server, to_server) = split(stream);
        let gate = Gate { from_server, is_shut: Arc::clone(&is_shut) };
        let (mut sender, connection) = h2::client::Builder::new()
            .initial_window_size((1 << 31) - 1)
            .initial_connection_window_size((1 << 31) - 1)
            .handshake::<_, Bytes>(join(gate, to_server))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut responses = vec![];
        for _ in 0..STREAMS {
            sender = sender.ready().await.unwrap();
            responses.push(sender.send_request(request("GET", None), true).unwrap().0);
        }
        // Time passes when nobody has anything left to do.
        let all = futures_util::future::join_all(responses);
        timeout(Duration::from_secs(60), all).await.unwrap_err();
        assert_eq!(sender.current_max_send_streams(), STREAMS, "no more may be open");
    });
    assert!(is_shut.load(Ordering::Relaxed), "all were asked");
    // The window of the connection, and of each stream what may wait and a frame.
    let sent = sent.load(Ordering::Relaxed);
    assert!((1 << 20..STREAMS * (128 + 96) * 1024).contains(&sent), "{sent} bytes are held");
}

/// A server of HTTP/2 that answers what it is asked once it hears of each to be answered. Returns
/// how many bytes could be sent to whom the first is from.
async fn answer_when_told(end: DuplexStream, told: Arc<Notify>) -> usize {
    let mut builder = h2::server::Builder::new();
    let greeting = builder.max_send_buffer_size(4 << 20).handshake(end);
    let mut connection = greeting.await.unwrap();
    let mut capacity = 0;
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.reserve_capacity(4 << 20);
        let told = async {
            told.notified().await;
            if capacity == 0 {
                capacity = stream.capacity();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        };
        tokio::pin!(told);
        // What the gateway says meanwhile is heard.
        poll_fn(|context| {
            let _ = connection.poll_closed(context);
            told.as_mut().poll(context)
        })
        .await;
    }
    capacity
}

/// Hears the rest of a response, which is its end.
async fn end(response: Response<h2::RecvStream>) {
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        assert_eq!(data.unwrap(), b""[..]);
    }
}

#[test]
fn a_network_has_so_much_for_http2_and_who_finds_none_left_may_ask_again() {
    for is_filled in [false, true] {
        let interceptor = with(secrets::ALL);
        let filled = is_filled.then(|| crate::intercept::fuzz::fill(&interceptor, 1));
        let (begun, capacity) = runtime().block_on(async {
            let (guest, server) = begin_h2(&interceptor);
            let told = Arc::<Notify>::default();
            let server = tokio::spawn(answer_when_told(server, Arc::clone(&told)));
            let (mut sender, connection) = h2::client::handshake(guest).await.unwrap();
            let connection = tokio::spawn(connection);
            sender = sender.ready().await.unwrap();
            let mut begun = vec![];
            for _ in 0..2 {
                let first = sender.send_request(request("GET", None), true).unwrap().0;
                let first = first.await.unwrap();
                // While it is under way.
                let mut second = sender.send_request(request("GET", None), true).unwrap().0;
                let answer = timeout(Duration::from_secs(5), &mut second).await;
                let refused = answer.ok().and_then(|answer| answer.unwrap_err().reason());
                begun.push(refused);
                told.notify_one();
                end(first).await;
                if refused.is_none() {
                    let second = second.await.unwrap();
                    told.notify_one();
                    end(second).await;
                }
            }
            drop(sender);
            connection.await.unwrap().unwrap();
            (begun, server.await.unwrap())
        });
        drop(filled);
        let refused = is_filled.then_some(h2::Reason::REFUSED_STREAM);
        assert_eq!(begun, [refused; 2], "the second of two; and so again behind them");
        assert_eq!(capacity, if is_filled { 128 << 10 } else { 1 << 20 });
    }
}
