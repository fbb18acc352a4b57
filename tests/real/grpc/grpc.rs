//! gRPC (tonic) on both sides of a gateway, neither of which knows of it: a server on the host,
//! and a client in a guest that says what became of each kind of call.
//!
//! `grpc serve DIR` serves with the certificate in DIR and says at which port; `grpc ask NAME
//! OTHER PORT CA` asks it under one name, and under another.

use core::convert::Infallible;
use core::task::{Context, Poll};
use core::time::Duration;
use std::net::Ipv6Addr;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::NamedService;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

type Outcome<T> = Result<T, Box<dyn core::error::Error>>;
type Words = ReceiverStream<Result<Bytes, Status>>;

/// Nothing here takes so long, but where something is lost.
const LOST: Duration = Duration::from_secs(20);
/// Bytes of a message that no window holds.
const LARGE: usize = 4_000_000;

/// Messages that are bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The server's side of each call.
#[derive(Debug, Clone, Default)]
struct Calls {
    /// A client has cancelled a chat.
    cancelled: Arc<Notify>,
    /// A call was given up that takes for ever.
    given_up: Arc<Notify>,
}

/// Tells of its end, however that comes.
struct Ends(Arc<Notify>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Calls {
    async fn unary(self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let binary = request.metadata().get_bin("x-key-bin").map(|value| value.to_bytes());
        println!("heard {:?} {binary:?}", text("x-key"));
        let timeout = text("grpc-timeout").unwrap_or("none").parse();
        let mut response = Response::new(request.get_ref().clone());
        let timeout = timeout.map_err(|_| Status::internal("the field is one"))?;
        response.metadata_mut().insert("x-timeout", timeout);
        if let Some(key) = request.metadata().get_bin("x-key-bin") {
            response.metadata_mut().insert_bin("x-back-bin", key.clone());
        }
        Ok(response)
    }

    async fn fail(self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-last", MetadataValue::from_static("word"));
        let mut details = Bytes::from_static(b"\x00details\xff");
        if let Some(key) = request.metadata().get_bin("x-key-bin") {
            metadata.insert_bin("x-back-bin", key.clone());
            details = key.to_bytes().unwrap_or_default();
        }
        let code = tonic::Code::FailedPrecondition;
        Err(Status::with_details_and_metadata(code, "it is not so: 100 %", details, metadata))
    }

    /// Does not end, but is given up.
    async fn wait(self, _: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let _ends = Ends(self.given_up);
        core::future::pending().await
    }

    /// Waits until `what` was seen.
    async fn see(self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        match &request.get_ref()[..] {
            b"cancelled" => self.cancelled.notified().await,
            _ => self.given_up.notified().await,
        }
        Ok(Response::new(Bytes::from_static(b"seen")))
    }

    async fn sum(self, request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
        let mut words = request.into_inner();
        let (mut count, mut len) = (0, 0);
        while let Some(word) = words.message().await? {
            count += 1;
            len += word.len();
        }
        Ok(Response::new(format!("{count} of {len}").into()))
    }

    async fn count(self, request: Request<Bytes>) -> Result<Response<Words>, Status> {
        let (send, words) = mpsc::channel(1);
        let first = request.into_inner();
        tokio::spawn(async move {
            for number in 0..3 {
                let word = format!("{} {number}", String::from_utf8_lossy(&first));
                let _ = send.send(Ok(word.into())).await;
            }
            let _ = send.send(Err(Status::out_of_range("three is all"))).await;
        });
        Ok(Response::new(ReceiverStream::new(words)))
    }

    async fn chat(self, request: Request<Streaming<Bytes>>) -> Result<Response<Words>, Status> {
        let (send, words) = mpsc::channel(1);
        let mut heard = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(word)) = heard.message().await {
                let _ = send.send(Ok(word)).await;
            }
            // It has more to say until the client resets the stream.
            send.closed().await;
            self.cancelled.notify_one();
        });
        Ok(Response::new(ReceiverStream::new(words)))
    }
}

impl NamedService for Calls {
    const NAME: &'static str = "t.T";
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let calls = self.clone();
        let mut grpc = tonic::server::Grpc::new(Plain);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/t.T/Unary" => grpc.unary(service_fn(|r| calls.clone().unary(r)), request).await,
                "/t.T/Fail" => grpc.unary(service_fn(|r| calls.clone().fail(r)), request).await,
                "/t.T/Wait" => grpc.unary(service_fn(|r| calls.clone().wait(r)), request).await,
                "/t.T/See" => grpc.unary(service_fn(|r| calls.clone().see(r)), request).await,
                "/t.T/Sum" => {
                    grpc.client_streaming(service_fn(|r| calls.clone().sum(r)), request).await
                }
                "/t.T/Count" => {
                    grpc.server_streaming(service_fn(|r| calls.clone().count(r)), request).await
                }
                "/t.T/Chat" => grpc.streaming(service_fn(|r| calls.clone().chat(r)), request).await,
                _ => Status::unimplemented("nobody knows it").into_http(),
            })
        })
    }
}

async fn serve(dir: &str) -> Outcome<()> {
    let read = |name| std::fs::read(format!("{dir}/{name}"));
    let identity = Identity::from_pem(read("cert.pem")?, read("key.pem")?);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .add_service(Calls::default())
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

/// A client of the server `name`, on a connection of its own.
async fn connect(name: &str, port: &str, authority: &str) -> Outcome<Grpc<Channel>> {
    let certificate = Certificate::from_pem(std::fs::read(authority)?);
    let tls = ClientTlsConfig::new().ca_certificate(certificate).domain_name(name);
    let endpoint = Endpoint::from_shared(format!("https://{name}:{port}"))?.tls_config(tls)?;
    Ok(Grpc::new(endpoint.connect().await?))
}

async fn unary(
    client: &mut Grpc<Channel>,
    method: &'static str,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Status> {
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    client.unary(request, PathAndQuery::from_static(method), Plain).await
}

fn word(text: &'static str) -> Request<Bytes> {
    Request::new(Bytes::from_static(text.as_bytes()))
}

/// A request with a secret of the guest's in its metadata.
fn keyed(field: &'static str) -> Outcome<Request<Bytes>> {
    let mut request = word("keyed");
    let key = std::env::var("API_KEY")?;
    if field.ends_with("-bin") {
        request.metadata_mut().insert_bin(field, MetadataValue::from_bytes(key.as_bytes()));
    } else {
        request.metadata_mut().insert(field, key.parse()?);
    }
    Ok(request)
}

async fn ask(client: &mut Grpc<Channel>) -> Outcome<()> {
    let mut request = word("one");
    request.set_timeout(LOST);
    let response = unary(client, "/t.T/Unary", request).await?;
    println!("unary {:?} {:?}", response.get_ref(), response.metadata().get("x-timeout"));
    let large = Request::new(Bytes::from(vec![b'x'; LARGE]));
    println!("large {}", unary(client, "/t.T/Unary", large).await?.get_ref().len());

    let words = (0..100).map(|_| Bytes::from(vec![b'x'; 50_000]));
    let words = Request::new(tokio_stream::iter(words.collect::<Vec<_>>()));
    client.ready().await?;
    let sum = client.client_streaming(words, PathAndQuery::from_static("/t.T/Sum"), Plain).await?;
    println!("client streaming {:?}", sum.get_ref());

    client.ready().await?;
    let count = PathAndQuery::from_static("/t.T/Count");
    let mut words = client.server_streaming(word("number"), count, Plain).await?.into_inner();
    loop {
        match words.message().await {
            Ok(Some(word)) => println!("server streaming {word:?}"),
            Ok(None) => println!("server streaming ends without a status"),
            Err(status) => {
                println!("server streaming {:?} {}", status.code(), status.message());
                break;
            }
        }
    }

    if let Err(status) = unary(client, "/t.T/Fail", word("")).await {
        let last = status.metadata().get("x-last");
        println!("{:?} {} {:?} {last:?}", status.code(), status.message(), status.details());
    }
    if let Err(status) = unary(client, "/t.T/None", word("")).await {
        println!("{:?}", status.code());
    }
    Ok(())
}

/// Each word is said when the last was answered; then the stream is cancelled, and after it a call
/// whose time is over.
async fn chat(client: &mut Grpc<Channel>) -> Outcome<()> {
    let (send, words) = mpsc::channel(1);
    client.ready().await?;
    let words = Request::new(ReceiverStream::new(words));
    let chat = client.streaming(words, PathAndQuery::from_static("/t.T/Chat"), Plain).await?;
    let mut answers = chat.into_inner();
    for word in ["one", "two", "three"] {
        send.send(Bytes::from_static(word.as_bytes())).await?;
        println!("chat {:?}", answers.message().await?);
    }
    // Whoever hears no more, and has said all, resets the stream (RFC 9113 8.1).
    drop((answers, send));
    println!("cancelled {:?}", unary(client, "/t.T/See", word("cancelled")).await?.get_ref());

    let mut request = word("");
    request.set_timeout(Duration::from_millis(300));
    if let Err(status) = unary(client, "/t.T/Wait", request).await {
        println!("deadline {:?}", status.code());
    }
    println!("given up {:?}", unary(client, "/t.T/See", word("given up")).await?.get_ref());
    Ok(())
}

async fn keys(good: &mut Grpc<Channel>, other: &mut Grpc<Channel>) -> Outcome<()> {
    for field in ["x-key", "x-key-bin"] {
        let said = unary(good, "/t.T/Unary", keyed(field)?).await?;
        println!("{field} {:?}", said.get_ref());
        match unary(other, "/t.T/Unary", keyed(field)?).await {
            Ok(said) => println!("{field} elsewhere {:?}", said.get_ref()),
            Err(status) => println!("{field} elsewhere {:?}", status.code()),
        }
        // What is refused is the call, and not the connection.
        let said = unary(other, "/t.T/Unary", word("next")).await?;
        println!("{:?}", said.get_ref());
    }
    // What the server has comes back as what the guest has: in the head, and in trailers.
    let said = unary(good, "/t.T/Unary", keyed("x-key-bin")?).await?;
    println!("back {:?}", binary(said.metadata()));
    if let Err(status) = unary(good, "/t.T/Fail", keyed("x-key-bin")?).await {
        println!(
            "back {:?} {:?}",
            binary(status.metadata()),
            String::from_utf8_lossy(status.details())
        );
    }
    Ok(())
}

/// The binary metadata that came back.
fn binary(metadata: &MetadataMap) -> Option<Bytes> {
    metadata.get_bin("x-back-bin")?.to_bytes().ok()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", dir] => serve(dir).await,
        ["ask", name, other, port, authority] => {
            let asking = async {
                let mut client = connect(name, port, authority).await?;
                ask(&mut client).await?;
                chat(&mut client).await?;
                let mut other = connect(other, port, authority).await?;
                keys(&mut client, &mut other).await
            };
            tokio::time::timeout(3 * LOST, asking).await?
        }
        _ => Err("serve DIR, or ask NAME OTHER PORT CA".into()),
    }
}
