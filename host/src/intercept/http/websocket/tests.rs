//! Both sides of a WebSocket, and what is between them. Time is virtual.

use h2::ext::Protocol;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::frame::{Frames, Opcode, Part, write};
use super::way::POLICY_VIOLATION;
use super::*;
use crate::config::{SecretConfig, SecretValue, SecretsConfig};
use crate::events::{Audience, Events};
use crate::intercept::fuzz::{self, Agreed};
use crate::service::secrets::{SecretsHandle, Vault};
use bytes::BytesMut;

mod ways;

/// Longer than any timer.
const NOTHING_COMES: Duration = Duration::from_secs(10_000);
/// `KEY`'s, which is good.test's, and `KEYS`'s, which is other.test's.
const VALUE: &str = "sk-live/+ \"quoted\"";
const OTHER: &str = "another-value-entirely";

fn vault() -> Arc<Vault> {
    vault_with(true)
}

/// The same, which bodies have only `in_body`.
fn vault_with(in_body: bool) -> Arc<Vault> {
    let secret = |(env_var, value, host): (&str, &str, &str)| {
        let value = SecretValue::new(value.to_owned());
        let mut secret = SecretConfig::new(env_var, value, host.parse().unwrap());
        secret.substitution.body = in_body;
        secret
    };
    let secrets = [("KEY", VALUE, "good.test"), ("KEYS", OTHER, "other.test")].map(secret);
    let config = SecretsConfig { secrets: secrets.into(), ..SecretsConfig::default() };
    Arc::new(Vault::new(config).unwrap())
}

/// A frame as `speaker` says it.
fn frame_of(speaker: Speaker, kind: (Opcode, bool), payload: &[u8]) -> Vec<u8> {
    let key = (speaker == Speaker::Guest).then_some(*b"\x37\xfa\x21\x3d");
    let mut out = BytesMut::new();
    write(&mut out, kind, payload, key);
    out.to_vec()
}

/// Messages and control frames, in the order of their ends.
type Said = Vec<(Opcode, Vec<u8>)>;

/// What somebody hears of `speaker`.
struct Listener {
    frames: Frames,
    open: Option<(Opcode, Vec<u8>)>,
    said: Said,
}

impl Listener {
    fn of(speaker: Speaker) -> Self {
        Self { frames: Frames::of(speaker), open: None, said: vec![] }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let mut bytes = Bytes::copy_from_slice(bytes);
        while let Some(part) = self.frames.next(&mut bytes).unwrap() {
            match part {
                Part::Begin(opcode) => self.open = Some((opcode, vec![])),
                Part::Data(data) => self.open.as_mut().unwrap().1.extend(data),
                Part::End => self.said.extend(self.open.take()),
                Part::Control(opcode, payload) => self.said.push((opcode, payload.to_vec())),
            }
        }
    }

    /// What there is of a message that has not ended.
    fn begun(&self) -> &[u8] {
        self.open.as_ref().map_or(&[], |(_, data)| data)
    }
}

/// A WebSocket between a guest and a server, over HTTP/1.1.
struct Between {
    guest: DuplexStream,
    server: DuplexStream,
    to_guest: Listener,
    to_server: Listener,
    secrets: SecretsHandle,
    events: Events,
}

impl Between {
    /// Switched as `fields` of the server's answer say; and what it was asked.
    async fn new(host: &str, vault: Arc<Vault>, fields: &str) -> (Self, String) {
        let audience = Arc::<Audience>::default();
        let events = audience.subscribe();
        let interceptor = fuzz::observed(Arc::clone(&vault), audience);
        let ((guest, near), (server, far)) = (duplex(64 * 1024), duplex(64 * 1024));
        let served = fuzz::serve(interceptor, (fuzz::call(host), true), Agreed::Http1, (near, far));
        tokio::spawn(served);
        let mut between = Self {
            guest,
            server,
            to_guest: Listener::of(Speaker::Server),
            to_server: Listener::of(Speaker::Guest),
            secrets: SecretsHandle(vault),
            events,
        };
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        );
        between.guest.write_all(request.as_bytes()).await.unwrap();
        let asked = head(&mut between.server).await;
        let answer = format!(
            "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{fields}\r\n"
        );
        between.server.write_all(answer.as_bytes()).await.unwrap();
        (between, asked)
    }

    async fn says(&mut self, speaker: Speaker, kind: (Opcode, bool), payload: &[u8]) {
        let bytes = frame_of(speaker, kind, payload);
        self.says_bytes(speaker, &bytes).await;
    }

    async fn says_bytes(&mut self, speaker: Speaker, bytes: &[u8]) {
        let end = match speaker {
            Speaker::Guest => &mut self.guest,
            Speaker::Server => &mut self.server,
        };
        end.write_all(bytes).await.unwrap();
    }

    /// What is heard next of `speaker`.
    async fn next(&mut self, speaker: Speaker) -> (Opcode, String) {
        let (end, listener) = match speaker {
            Speaker::Guest => (&mut self.server, &mut self.to_server),
            Speaker::Server => (&mut self.guest, &mut self.to_guest),
        };
        while listener.said.is_empty() {
            let mut piece = [0; 1000];
            let read = timeout(NOTHING_COMES, end.read(&mut piece)).await;
            let len = read.expect("because something comes").unwrap();
            assert_ne!(len, 0, "it has ended");
            listener.hear(&piece[..len]);
        }
        let (opcode, payload) = listener.said.remove(0);
        (opcode, String::from_utf8(payload).unwrap_or_else(|error| format!("{error:?}")))
    }

    /// The close that the guest is told, and what the server hears until the end.
    async fn ends(&mut self) -> (u16, Vec<u8>) {
        let mut at_guest = vec![];
        timeout(NOTHING_COMES, self.guest.read_to_end(&mut at_guest)).await.unwrap().unwrap();
        let [0x88, 2, high, low] = at_guest[..] else { panic!("no close: {at_guest:?}") };
        let mut at_server = vec![];
        timeout(NOTHING_COMES, self.server.read_to_end(&mut at_server)).await.unwrap().unwrap();
        (u16::from_be_bytes([high, low]), at_server)
    }

    fn told(&mut self) -> Vec<String> {
        core::iter::from_fn(|| self.events.try_next()).map(|event| told(&event)).collect()
    }
}

fn told(event: &crate::events::NetworkEvent) -> String {
    match event {
        crate::events::NetworkEvent::Intercepted(told) => told.incident.to_string(),
        crate::events::NetworkEvent::Denied(_) => unreachable!("nobody is denied anything"),
    }
}

/// The head of a message that comes.
async fn head(end: &mut DuplexStream) -> String {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(NOTHING_COMES, end.read_u8()).await;
        head.push(byte.expect("because something comes").unwrap());
    }
    String::from_utf8(head).unwrap()
}

const TEXT: (Opcode, bool) = (Opcode::Text, true);

#[tokio::test(start_paused = true)]
async fn both_ways_are_looked_at_and_what_changes_counts_for_the_next_message() {
    let (mut between, asked) = Between::new("good.test", vault(), "").await;
    let asked = asked.to_ascii_lowercase();
    assert!(asked.contains("upgrade: websocket") && !asked.contains("extensions"), "{asked}");
    assert!(head(&mut between.guest).await.starts_with("HTTP/1.1 101 "));
    between.says(Speaker::Server, TEXT, b"hello").await;
    assert_eq!(between.next(Speaker::Server).await, (Opcode::Text, "hello".to_owned()));
    between.says(Speaker::Guest, TEXT, b"k=$MSB_KEY").await;
    assert_eq!(between.next(Speaker::Guest).await, (Opcode::Text, format!("k={VALUE}")));
    between.says(Speaker::Server, TEXT, VALUE.as_bytes()).await;
    assert_eq!(between.next(Speaker::Server).await, (Opcode::Text, "$MSB_KEY".to_owned()));
    between.secrets.rotate("KEY", "rotated-value".to_owned()).unwrap();
    between.says(Speaker::Guest, TEXT, b"$MSB_KEY").await;
    assert_eq!(between.next(Speaker::Guest).await, (Opcode::Text, "rotated-value".to_owned()));
    // The old one is still known where it comes back.
    between.says(Speaker::Server, TEXT, format!("{VALUE} rotated-value").as_bytes()).await;
    let both = "$MSB_KEY $MSB_KEY".to_owned();
    assert_eq!(between.next(Speaker::Server).await, (Opcode::Text, both));
    between.secrets.remove("KEYS").unwrap();
    between.says(Speaker::Guest, TEXT, b"$MSB_KEY and $MSB_KEYS").await;
    let removed = "rotated-value and rotated-valueS".to_owned();
    assert_eq!(between.next(Speaker::Guest).await, (Opcode::Text, removed));
    assert!(between.told().is_empty());
    between.secrets.set_allowed_hosts("KEY", vec!["other.test".parse().unwrap()]).unwrap();
    between.says(Speaker::Guest, TEXT, b"$MSB_KEY").await;
    assert_eq!(between.ends().await, (POLICY_VIOLATION, vec![]));
    assert_eq!(between.told(), ["the placeholder of KEY in its WebSocket message"]);
}

#[tokio::test(start_paused = true)]
async fn the_guest_is_told_what_ended_it_and_the_server_hears_no_more() {
    let in_message = "the placeholder of KEYS in its WebSocket message";
    let unreadable = "an unreadable WebSocket in which a placeholder could hide";
    let of_server = "the server failed: in a WebSocket, ";
    let compressed = [0xc1, 0x85, 0, 0, 0, 0, 1, 2, 3, 4, 5];
    for (speaker, bytes, code, event) in [
        (
            Speaker::Guest,
            &frame_of(Speaker::Guest, TEXT, b"a $MSB_KEYS")[..],
            POLICY_VIOLATION,
            in_message.to_owned(),
        ),
        (Speaker::Guest, &compressed, PROTOCOL_ERROR, unreadable.to_owned()),
        (Speaker::Guest, b"\x81\x01a", PROTOCOL_ERROR, unreadable.to_owned()),
        (
            Speaker::Server,
            b"\xc1\x01a",
            PROTOCOL_ERROR,
            format!("{of_server}a frame with bits of an extension"),
        ),
        (
            Speaker::Server,
            b"\x81\x81\0\0\0\0a",
            PROTOCOL_ERROR,
            format!("{of_server}a client's frame without a mask, or a server's with one"),
        ),
    ] {
        let (mut between, _) = Between::new("good.test", vault(), "").await;
        head(&mut between.guest).await;
        // A message of the server is under way: a close may stand within it.
        between.says(Speaker::Server, (Opcode::Text, false), b"\n").await;
        let mut piece = [0; 3];
        between.guest.read_exact(&mut piece).await.unwrap();
        assert_eq!(piece, *b"\x01\x01\n");
        between.says_bytes(speaker, bytes).await;
        assert_eq!(between.ends().await, (code, vec![]), "{bytes:?}");
        assert_eq!(between.told(), [event], "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_nobody_asked_for_is_no_websocket() {
    let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut between, _) = Between::new("good.test", vault(), extension).await;
    assert!(head(&mut between.guest).await.starts_with("HTTP/1.1 502 "));
    let event = "the server failed: a WebSocket with an extension that nobody asked for";
    assert_eq!(between.told(), [event]);
    // Where there is no secret it is the two sides' own, as all that they say is.
    let none = Arc::new(Vault::new(SecretsConfig::default()).unwrap());
    let (mut between, asked) = Between::new("good.test", none, extension).await;
    assert!(asked.to_ascii_lowercase().contains(": permessage-deflate"), "{asked}");
    let told = head(&mut between.guest).await.to_ascii_lowercase();
    assert!(told.starts_with("http/1.1 101 ") && told.contains("permessage-deflate"), "{told}");
    between.says_bytes(Speaker::Guest, b"any bytes").await;
    let mut heard = [0; 9];
    between.server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"any bytes");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_takes_nothing_does_not_keep_what_has_ended() {
    let (mut between, _) = Between::new("good.test", vault(), "").await;
    head(&mut between.guest).await;
    // More than all that is between them holds.
    let much = frame_of(Speaker::Server, (Opcode::Binary, true), &[b'\n'; 1 << 20]);
    let (_, mut to_server) = split(core::mem::replace(&mut between.server, duplex(1).0));
    let flood = tokio::spawn(async move { to_server.write_all(&much).await });
    sleep(CLOSING_MAX).await;
    assert!(!flood.is_finished(), "somebody waits");
    between.says(Speaker::Guest, TEXT, b"$MSB_KEYS").await;
    let failed = timeout(NOTHING_COMES, flood).await.expect("because it ends").unwrap();
    assert!(failed.is_err(), "the server's connection is gone");
}

#[tokio::test(start_paused = true)]
async fn a_message_under_way_gets_no_value_that_has_changed() {
    let (mut between, _) = Between::new("good.test", vault(), "").await;
    head(&mut between.guest).await;
    between.says(Speaker::Guest, (Opcode::Text, false), b"a").await;
    let mut begun = [0; 7];
    between.server.read_exact(&mut begun).await.unwrap();
    assert_eq!(begun, *b"\x01\x81\0\0\0\0a");
    between.secrets.rotate("KEY", "rotated-value".to_owned()).unwrap();
    between.says(Speaker::Guest, (Opcode::Continuation, true), b"$MSB_KEY").await;
    assert_eq!(between.ends().await, (POLICY_VIOLATION, vec![]));
    assert_eq!(between.told(), ["the placeholder of KEY in its WebSocket message"]);
}

/// A server of HTTP/2 that answers one WebSocket with `fields`, and says `VALUE` in it. What it
/// hears there until the end; `Err`: it was reset.
async fn hear_over_h2(
    end: DuplexStream,
    fields: &[(&'static str, &'static str)],
) -> Result<Said, h2::Error> {
    let mut builder = h2::server::Builder::new();
    let greeting = builder.enable_connect_protocol().handshake::<_, Bytes>(end);
    let mut connection = greeting.await?;
    let (request, mut respond) = connection.accept().await.expect("because one comes")?;
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    assert!(!request.headers().contains_key("sec-websocket-extensions"));
    let mut response = Response::new(());
    for (name, value) in fields {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    let mut back = respond.send_response(response, false)?;
    back.send_data(frame_of(Speaker::Server, TEXT, VALUE.as_bytes()).into(), false)?;
    let mut listener = Listener::of(Speaker::Guest);
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        listener.hear(&data);
    }
    Ok(listener.said)
}

/// Asks for a WebSocket over HTTP/2.
async fn ask_over_h2(guest: DuplexStream) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let (sender, connection) = h2::client::handshake(guest).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    // It is there for whoever was told so (RFC 8441 3), which takes no time here.
    sleep(CLOSING_MAX).await;
    let request = Request::builder().method("CONNECT").uri("https://good.test/");
    let request = request.header("sec-websocket-extensions", "permessage-deflate");
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    sender.send_request(request, false).unwrap()
}

#[tokio::test(start_paused = true)]
async fn over_http2_it_is_looked_at_as_well() {
    const EXTENSION: &[(&str, &str)] = &[("sec-websocket-extensions", "permessage-deflate")];
    for (fields, status, said, heard, code) in [
        (&[][..], 200, &b"$MSB_KEY"[..], Some(VALUE), None),
        (&[], 200, b"$MSB_KEYS", None, Some(POLICY_VIOLATION)),
        (EXTENSION, 502, b"any", None, None),
    ] {
        let ((guest, near), (server, far)) = (duplex(64 * 1024), duplex(64 * 1024));
        let call = (fuzz::call("good.test"), true);
        tokio::spawn(fuzz::serve(fuzz::interceptor(vault()), call, Agreed::Http2, (near, far)));
        let server = tokio::spawn(async move { hear_over_h2(server, fields).await });
        let (response, mut to_server) = ask_over_h2(guest).await;
        let (head, mut body) = response.await.unwrap().into_parts();
        assert_eq!(head.status, status);
        let mut listener = Listener::of(Speaker::Server);
        if head.status == 200 {
            listener.hear(&body.data().await.unwrap().unwrap());
            assert_eq!(listener.said.remove(0).1, b"$MSB_KEY");
            let said = frame_of(Speaker::Guest, TEXT, said);
            to_server.send_data(said.into(), code.is_none()).unwrap();
        }
        let ended = timeout(NOTHING_COMES, server).await.expect("because it ends").unwrap();
        let said = ended.ok().map(|said| said.into_iter().map(|(_, text)| text).collect());
        assert_eq!(said, heard.map(|heard| vec![heard.as_bytes().to_vec()]));
        if head.status == 200 {
            while let Some(Ok(data)) = timeout(NOTHING_COMES, body.data()).await.unwrap() {
                listener.hear(&data);
            }
            let closed = code.map(|code| (Opcode::Close, code.to_be_bytes().to_vec()));
            assert_eq!(listener.said, closed.into_iter().collect::<Vec<_>>());
        }
    }
}
