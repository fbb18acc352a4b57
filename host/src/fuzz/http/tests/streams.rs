//! Streams of HTTP/2 whose guest, or whose server, does what it should not.

use futures_util::FutureExt;
use futures_util::future::join_all;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, client, server};

use super::*;
use crate::intercept::fuzz::{fill, streams_left, streams_refused};

/// Bytes of a window that nobody fills.
const VAST: u32 = (1 << 31) - 1;

/// A guest that reads whatever comes, however it comes.
async fn greet<G>(guest: G) -> client::SendRequest<Bytes>
where
    G: AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = client::Builder::new()
        .initial_connection_window_size(VAST)
        .data_frame_budget(1 << 30)
        .handshake(guest)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// A request that says where it goes.
fn to(path: &str, head_len: usize) -> Request<()> {
    let request = Request::builder().uri(format!("https://evil.test{path}"));
    request.header("x", "x".repeat(head_len)).body(()).unwrap()
}

/// A server that answers each stream with what `answer` does.
async fn answer_each<F>(
    builder: server::Builder,
    end: DuplexStream,
    answer: impl Fn(Request<RecvStream>, server::SendResponse<Bytes>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connection = builder.handshake(end).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

/// Which of `responses` were refused so far.
fn refused(responses: Vec<ResponseFuture>) -> usize {
    let is_refused = |response: ResponseFuture| {
        let answer = response.now_or_never();
        answer.is_some_and(|answer| answer.unwrap_err().reason() == Some(Reason::REFUSED_STREAM))
    };
    responses.into_iter().map(is_refused).filter(|is_refused| *is_refused).count()
}

#[test]
fn a_stream_that_was_reset_counts_until_nothing_is_left_of_it() {
    let interceptor = with(secrets::ALL);
    let all = streams_left(&interceptor);
    runtime().block_on(async {
        let (guest, server) = begin_h2(&interceptor);
        let mut builder = server::Builder::new();
        builder.max_concurrent_streams(0);
        tokio::spawn(answer_each(builder, server, |_, _| async {}));
        let mut sender = greet(guest).await;
        sleep(PAUSE).await;
        let (mut asked, mut told) = (0, 0);
        while asked < 2 * all {
            let ask = |_| sender.send_request(to("/", 8 << 10), true).unwrap().0;
            let responses = (0..STREAMS).map(ask).collect();
            sleep(PAUSE).await;
            asked += STREAMS;
            // And the others are reset.
            told += refused(responses);
            sleep(PAUSE).await;
        }
        assert_eq!(streams_left(&interceptor), 0);
        // But for those that only wait to be forgotten.
        assert!((asked - all - 10..=asked - all).contains(&told), "{told} of {asked} were refused");
        assert_eq!(streams_refused(&interceptor), told as u64);
        drop(sender);
        sleep(PAUSE).await;
    });
    assert_eq!(streams_left(&interceptor), all, "with the connection they go");
}

#[test]
fn an_answer_that_the_guest_does_not_read_counts_as_a_stream() {
    let interceptor = with(secrets::ALL);
    let all = streams_left(&interceptor);
    runtime().block_on(async {
        let (stream, server) = begin_h2(&interceptor);
        tokio::spawn(answer_each(server::Builder::new(), server, |_, mut respond| async move {
            sleep(PAUSE).await;
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(vec![b'x'; 60 << 10].into(), true).unwrap();
        }));
        let is_shut = Arc::<AtomicBool>::default();
        let (from_server, to_server) = split(stream);
        let gate = Gate { from_server, is_shut: Arc::clone(&is_shut) };
        let mut sender = greet(join(gate, to_server)).await;
        sleep(PAUSE).await;
        let responses: Vec<_> =
            (0..STREAMS).map(|_| sender.send_request(to("/", 0), true).unwrap().0).collect();
        sleep(PAUSE / 2).await;
        is_shut.store(true, Ordering::Relaxed);
        sleep(2 * PAUSE).await;
        // The first fill the pipe.
        let taken = all - streams_left(&interceptor);
        assert!((STREAMS - 20..=STREAMS).contains(&taken), "{taken}");
        drop(responses);
    });
}

#[test]
fn whom_nobody_reads_does_not_stop_the_others() {
    for (is_wide, unread) in [(true, 8), (false, STREAMS - 1)] {
        let interceptor = with(secrets::ALL);
        let filled = (!is_wide).then(|| fill(&interceptor, STREAMS));
        runtime().block_on(async {
            let (guest, server) = begin_h2(&interceptor);
            tokio::spawn(answer_each(server::Builder::new(), server, answer_long));
            let mut sender = greet(guest).await;
            sleep(PAUSE).await;
            let responses = (0..unread)
                .map(|_| sender.send_request(to("/", 0), true).unwrap().0)
                .collect::<Vec<_>>();
            let responses = join_all(responses).await;
            sleep(PAUSE).await;
            let mut read = sender.send_request(to("/", 0), true).unwrap().0.await.unwrap();
            let mut len = 0;
            while len < LONG_BYTES {
                let data = timeout(PAUSE, read.body_mut().data()).await;
                let data = data.unwrap_or_else(|_| panic!("{is_wide}: {len} bytes")).unwrap();
                len += data.as_ref().unwrap().len();
                read.body_mut().flow_control().release_capacity(data.unwrap().len()).unwrap();
            }
            drop(responses);
        });
        drop(filled);
    }
}

const LONG_BYTES: usize = 4 << 20;

/// Answers with [`LONG_BYTES`].
async fn answer_long(_: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(vec![b'x'; LONG_BYTES].into(), true).unwrap();
    let _ = poll_fn(|context| stream.poll_reset(context)).await;
}

/// Reads a body that nobody has read for a while, whose end must come.
async fn read_late(mut body: RecvStream) -> usize {
    sleep(PAUSE).await;
    let mut len = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        len += data.len();
    }
    len
}

/// Frames of so many bytes, as of short messages of gRPC.
const PIECE_BYTES: usize = 40;
const PIECES: usize = 40_000;

async fn send_pieces(mut stream: h2::SendStream<Bytes>) {
    for count in 1..=PIECES {
        stream.reserve_capacity(PIECE_BYTES);
        while stream.capacity() < PIECE_BYTES {
            poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        }
        stream.send_data(vec![b'x'; PIECE_BYTES].into(), count == PIECES).unwrap();
    }
}

#[test]
fn short_pieces_that_nobody_reads_for_a_while_all_arrive() {
    for is_wide in [true, false] {
        let interceptor = with(secrets::ALL);
        let filled = (!is_wide).then(|| fill(&interceptor, STREAMS));
        runtime().block_on(async {
            let (guest, server) = begin_h2(&interceptor);
            let mut builder = server::Builder::new();
            builder.data_frame_budget(1 << 30);
            tokio::spawn(answer_each(builder, server, |request, mut respond| async move {
                let stream = respond.send_response(Response::new(()), false).unwrap();
                let (len, ()) = tokio::join!(read_late(request.into_body()), send_pieces(stream));
                assert_eq!(len, PIECES * PIECE_BYTES);
            }));
            let mut sender = greet(guest).await;
            let (response, stream) = sender.send_request(to("/", 0), false).unwrap();
            let read = async { read_late(response.await.unwrap().into_body()).await };
            let (len, ()) = tokio::join!(read, send_pieces(stream));
            assert_eq!(len, PIECES * PIECE_BYTES);
        });
        drop(filled);
    }
}

#[test]
fn extended_connect_is_offered_if_the_server_has_it() {
    for has_it in [false, true] {
        runtime().block_on(async {
            let (guest, server) = begin_h2(&AS_THEY_ARE);
            let sender = greet(guest).await;
            sleep(PAUSE).await;
            assert!(!sender.is_extended_connect_protocol_enabled());
            let mut builder = server::Builder::new();
            if has_it {
                builder.enable_connect_protocol();
            }
            tokio::spawn(answer_each(builder, server, |_, _| async {}));
            sleep(PAUSE).await;
            assert_eq!(sender.is_extended_connect_protocol_enabled(), has_it);
        });
    }
}

#[test]
fn a_body_that_is_cut_without_an_error_is_not_whole() {
    runtime().block_on(async {
        let (guest, server) = begin_h2(&AS_THEY_ARE);
        let heard = Arc::<std::sync::Mutex<Vec<bool>>>::default();
        let hears = Arc::clone(&heard);
        tokio::spawn(answer_each(server::Builder::new(), server, move |request, mut respond| {
            let hears = Arc::clone(&hears);
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(b"a part"[..].into(), false).unwrap();
                sleep(PAUSE).await;
                if request.uri().path() == "/download" {
                    stream.send_reset(Reason::NO_ERROR);
                    return;
                }
                let is_whole = is_whole(request.into_body()).await;
                hears.lock().unwrap().push(is_whole);
            }
        }));
        let mut sender = greet(guest).await;
        let download = sender.send_request(to("/download", 0), true).unwrap().0;
        assert!(!is_whole(download.await.unwrap().into_body()).await);
        let (upload, mut stream) = sender.send_request(to("/upload", 0), false).unwrap();
        stream.send_data(b"a part"[..].into(), false).unwrap();
        let upload = upload.await.unwrap();
        stream.send_reset(Reason::NO_ERROR);
        sleep(2 * PAUSE).await;
        drop(upload);
        assert_eq!(*heard.lock().unwrap(), [false], "nor is what the guest has cut");
    });
}

/// Reads a body; whether it comes to its end.
async fn is_whole(mut body: RecvStream) -> bool {
    while let Some(data) = body.data().await {
        if data.is_err() {
            return false;
        }
    }
    true
}

#[test]
fn a_request_that_says_whom_it_is_for_in_its_field_only_says_so_in_both() {
    runtime().block_on(async {
        let (guest, server) = begin_h2(&AS_THEY_ARE);
        let answer = |request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>| {
            let response = Response::builder().header("x", request.uri().to_string());
            respond.send_response(response.body(()).unwrap(), true).unwrap();
            std::future::ready(())
        };
        tokio::spawn(answer_each(server::Builder::new(), server, answer));
        let mut sender = greet(guest).await;
        let request = Request::builder().uri("/a?b").header("host", "evil.test").body(()).unwrap();
        let response = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["x"], "https://evil.test/a?b");
    });
}

/// Frames of HTTP/2: settings with one stream at a time, and those of the guest acknowledged; the
/// answer to the first stream, and the server's end behind all that it was asked; and the answer to
/// the second.
const ONE_STREAM: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0\x04\x01\0\0\0\0";
const FIRST_AND_END: &[u8] =
    b"\0\0\x01\x01\x05\0\0\0\x01\x88\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";
const SECOND: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x03\x88";

#[test]
fn a_server_that_is_going_away_may_still_answer() {
    runtime().block_on(async {
        let (guest, server) = begin_h2(&AS_THEY_ARE);
        let (mut from_gateway, mut to_gateway) = split(server);
        tokio::spawn(
            async move { tokio::io::copy(&mut from_gateway, &mut tokio::io::sink()).await },
        );
        to_gateway.write_all(ONE_STREAM).await.unwrap();
        let mut sender = greet(guest).await;
        sleep(PAUSE).await;
        let mut ask = || sender.send_request(to("/", 0), true).unwrap().0;
        let (first, second) = (ask(), ask());
        sleep(PAUSE).await;
        to_gateway.write_all(FIRST_AND_END).await.unwrap();
        assert_eq!(first.await.unwrap().status(), 200);
        sleep(PAUSE).await;
        to_gateway.write_all(SECOND).await.unwrap();
        assert_eq!(second.await.unwrap().status(), 200);
    });
}
