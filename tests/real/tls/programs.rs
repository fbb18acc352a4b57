//! Whole programs on both sides, neither of which knows of the gateway: gRPC and WebSocket.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{EVIL, GOOD, Scratch, Site, VALUE, command, config};
use crate::guest::ConfigFile;
use crate::needs;
use crate::process::{Finished, Process};

/// Debian's own, whose packages these programs use.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Whether [`PYTHON`] has `module`.
pub(crate) fn has_module(module: &str) -> bool {
    let mut probe = Command::new(PYTHON);
    let has_it = probe.args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    let has_it = has_it.is_ok_and(|status| status.success());
    if !has_it {
        needs::without(&format!("{PYTHON} with {module}"));
    }
    has_it
}

/// Runs `server` on this host, with a certificate for [`GOOD`], and `client` in a guest.
fn run(server: &str, client: &str, module: &str) -> Option<(String, Finished)> {
    if !has_module(module) {
        return None;
    }
    let mut python = Command::new(PYTHON);
    let serving = Served::by(python.args(["-u", "-c", server]));
    let finished = serving.ask(&format!("exec {PYTHON} - {GOOD} {}", serving.port), client);
    Some((serving.process.output() + &serving.process.errors(), finished))
}

/// What a server of HTTP/2 begins and ends with, in Python; between them it has `serve`.
const SERVER_BEGINS: &str = r#"
import json, socket, ssl, threading
import h2.config, h2.connection, h2.events, h2.settings
def greeted():
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    peer = h2.connection.H2Connection(config)
    peer.initiate_connection()
    return peer
"#;
const SERVER_ENDS: &str = r#"
def begin(stream):
    try:
        with context.wrap_socket(stream, server_side=True) as stream:
            serve(stream)
    except OSError:
        pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
context.set_alpn_protocols(["h2"])
listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=begin, args=[listener.accept()[0]], daemon=True).start()
"#;

/// What a client of HTTP/2 begins with, likewise: who its server is, and what it hears next.
const CLIENT_BEGINS: &str = r#"
import socket, ssl, sys
import h2.config, h2.connection, h2.events
name, port = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context()
context.set_alpn_protocols(["h2"])
raw = socket.create_connection((name, port), timeout=20)
stream = context.wrap_socket(raw, server_hostname=name)
peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
peer.initiate_connection()

def hear():
    stream.sendall(peer.data_to_send())
    heard = stream.recv(65536)
    assert heard, "it is over"
    return peer.receive_data(heard)
"#;

/// The client of HTTP/2 that does `what`.
pub(super) fn over_h2(what: &str) -> String {
    [CLIENT_BEGINS, what].concat()
}

/// A program that serves on this host.
pub(super) struct Served {
    process: Process,
    pub(super) port: u16,
    scratch: Scratch,
}

impl Served {
    /// One that finds a certificate where it is started, and says at which port it serves.
    pub(super) fn by(server: &mut Command) -> Self {
        let scratch = Scratch::new("program");
        let (authority, certificate, key) = super::site::files(super::site::Flaw::None);
        let files = [("ca.pem", authority), ("cert.pem", certificate), ("key.pem", key)];
        for (name, text) in files {
            std::fs::write(scratch.0.join(name), text).unwrap();
        }
        let mut process = Process::start(server.current_dir(&scratch.0));
        process.wait_for("\n");
        let port = process.output().trim().parse().unwrap();
        Self { process, port, scratch }
    }

    /// One of HTTP/2 that `serve`s each connection so.
    pub(super) fn over_h2(serve: &str) -> Self {
        let program = [SERVER_BEGINS, serve, SERVER_ENDS].concat();
        Self::by(Command::new(PYTHON).args(["-u", "-c", &program]))
    }

    /// What became of `script` in a guest, which reads `input`.
    fn ask(&self, script: &str, input: &str) -> Finished {
        self.ask_under(json!({}), script, input)
    }

    /// The same under a configuration with the fields of `more`.
    pub(super) fn ask_under(&self, mut more: Value, script: &str, input: &str) -> Finished {
        // For its configuration only; what is asked is asked of the program.
        let site = Site::new(&["h2"]);
        more["tls"] = json!({"intercepted_ports": [self.port],
            "upstream_ca_cert": [self.scratch.0.join("ca.pem")]});
        let file = ConfigFile::new(&config(&site, more));
        let mut asking = Process::start(command(&file, script).stdin(Stdio::piped()));
        std::io::Write::write_all(&mut asking.take_input(), input.as_bytes()).unwrap();
        asking.finish()
    }
}

const GRPC_SERVER: &str = r#"
import grpc, sys, time
from concurrent import futures
def unary(request, context):
    key = dict(context.invocation_metadata()).get("x-key", "")
    context.set_trailing_metadata((("x-last", "word"),))
    return b"unary " + request + b" " + str(len(key)).encode()
def chat(requests, context):
    for request in requests:
        yield b"heard " + request
def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is not so")
class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return {"/t.T/Unary": grpc.unary_unary_rpc_method_handler(unary),
                "/t.T/Chat": grpc.stream_stream_rpc_method_handler(chat),
                "/t.T/Fail": grpc.unary_unary_rpc_method_handler(fail)}[call.method]
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
read = lambda name: open(name, "rb").read()
credentials = grpc.ssl_server_credentials([(read("key.pem"), read("cert.pem"))])
port = server.add_secure_port("[::]:0", credentials)
server.start()
print(port)
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import grpc, os, queue, sys
roots = open(os.environ["SSL_CERT_FILE"], "rb").read()
target = f"{sys.argv[1]}:{sys.argv[2]}"
channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(roots))
unary = channel.unary_unary("/t.T/Unary")
response, call = unary.with_call(b"word", metadata=(("x-key", os.environ["API_KEY"]),), timeout=20)
print(response.decode(), dict(call.trailing_metadata())["x-last"])
sent = queue.Queue()
words = iter(channel.stream_stream("/t.T/Chat")(iter(sent.get, None), timeout=20))
for word in (b"one", b"two", b"three"):
    sent.put(word)
    print(next(words).decode())
sent.put(None)
print(list(words))
try:
    channel.unary_unary("/t.T/Fail")(b"", timeout=20)
except grpc.RpcError as error:
    print(error.code().name, error.details())
big = unary(b"x" * 3_000_000, timeout=20)
print(len(big))
"#;

#[test]
fn grpc_passes_whole_with_streams_trailers_and_secrets() {
    if !needs::are_met(&[]) {
        return;
    }
    let Some((served, finished)) = run(GRPC_SERVER, GRPC_CLIENT, "grpc") else { return };
    let expected = format!(
        "unary word {} word\nheard one\nheard two\nheard three\n[]\n\
         FAILED_PRECONDITION it is not so\n3000008\n",
        VALUE.len()
    );
    assert_eq!(finished.output, expected, "{finished:?}\n{served}");
}

#[test]
fn tonic_has_every_kind_of_call_and_what_ends_one_reaches_its_server() {
    if !needs::are_met(&[]) {
        return;
    }
    let Some(program) = super::built("grpc") else { return };
    let serving = Served::by(Command::new(&program).args(["serve", "."]));
    let port = serving.port;
    let script = format!("exec {} ask {GOOD} {EVIL} {port} $SSL_CERT_FILE", program.display());
    let finished = serving.ask(&script, "");
    let expected = r#"unary b"one" Some("20000000u")
large 4000000
client streaming b"100 of 5000000"
server streaming b"number 0"
server streaming b"number 1"
server streaming b"number 2"
server streaming OutOfRange three is all
FailedPrecondition it is not so: 100 % [0, 100, 101, 116, 97, 105, 108, 115, 255] Some("word")
Unimplemented
chat Some(b"one")
chat Some(b"two")
chat Some(b"three")
cancelled b"seen"
deadline Cancelled
given up b"seen"
x-key b"keyed"
x-key elsewhere PermissionDenied
b"next"
x-key-bin b"keyed"
x-key-bin elsewhere PermissionDenied
b"next"
back Some(b"$MSB_API_KEY")
back Some(b"$MSB_API_KEY") "$MSB_API_KEY************"
"#;
    let heard = serving.process.output();
    assert_eq!(finished.output, expected, "{finished:?}\n{heard}");
    assert!(heard.contains(&format!("heard Some({VALUE:?}) None\n")), "{heard}");
    let with_key = format!("heard None Some(Ok(b{VALUE:?}))\n");
    assert_eq!(heard.matches(&with_key).count(), 2, "{heard}");
    assert!(!heard.contains("MSB_API_KEY"), "{heard}");
}

const WEBSOCKET_SERVER: &str = r#"
import asyncio, socket, ssl, websockets
async def serve(peer, *_):
    key = peer.request_headers.get("X-Key", "")
    await peer.send(str(len(key)))
    try:
        async for message in peer:
            if len(message) < 100:
                print("heard", message)
            await peer.send(message)
    finally:
        print("ended", peer.close_code)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    await websockets.serve(serve, sock=listener, ssl=context)
    print(listener.getsockname()[1])
    await asyncio.Future()
asyncio.run(main())
"#;

const WEBSOCKET_CLIENT: &str = r#"
import asyncio, os, ssl, sys, websockets
async def main():
    url = f"wss://{sys.argv[1]}:{sys.argv[2]}/chat"
    context = ssl.create_default_context()
    key = os.environ["API_KEY"]
    headers = {"X-Key": key} if len(sys.argv) == 3 else {}
    async with websockets.connect(url, ssl=context, extra_headers=headers) as socket:
        print(await socket.recv(), socket.extensions)
        for message in ("one", b"\x00\xff", "long " * 50000):
            await socket.send(message)
            print(await socket.recv() == message)
        await asyncio.wait_for(await socket.ping(b"there"), 20)
        # In one frame, and in three.
        for message in (f"key={key}", ["key=", key[:9], key[9:]]):
            await socket.send(message)
            print(await socket.recv())
    print("closed", socket.close_code)
try:
    asyncio.run(main())
except websockets.ConnectionClosed as closed:
    print("closed", closed.rcvd.code)
"#;

#[test]
fn a_websocket_passes_both_ways_with_secrets_until_it_is_closed() {
    if !needs::are_met(&[]) {
        return;
    }
    let ran = run(WEBSOCKET_SERVER, WEBSOCKET_CLIENT, "websockets");
    let Some((served, finished)) = ran else { return };
    // No compression was agreed on, and the value that comes back is the placeholder.
    let expected = format!(
        "{} []\nTrue\nTrue\nTrue\nkey=$MSB_API_KEY\nkey=$MSB_API_KEY\nclosed 1000\n",
        VALUE.len()
    );
    assert_eq!(finished.output, expected, "{finished:?}\n{served}");
    let heard = format!("heard key={VALUE}\n");
    assert_eq!(served.matches(&heard).count(), 2, "{served}");
    assert!(served.contains("ended 1000\n") && !served.contains("MSB_API_KEY"), "{served}");
}

#[test]
fn a_placeholder_in_a_websocket_of_whom_it_is_not_for_ends_that() {
    if !needs::are_met(&[]) || !has_module("websockets") {
        return;
    }
    let mut python = Command::new(PYTHON);
    let mut serving = Served::by(python.args(["-u", "-c", WEBSOCKET_SERVER]));
    let script = format!("exec {PYTHON} - {EVIL} {} keyless", serving.port);
    let finished = serving.ask(&script, WEBSOCKET_CLIENT);
    let expected = "0 []\nTrue\nTrue\nTrue\nclosed 1008\n";
    assert_eq!(finished.output, expected, "{finished:?}");
    // Its connection has gone without a word.
    serving.process.wait_for("ended 1006\n");
    let heard = serving.process.output();
    assert!(heard.contains("heard one\n") && !heard.contains("key="), "{heard}");
    let told = super::events(&finished);
    let told: Vec<_> = told.iter().map(|event| (&event["secret"], &event["place"])).collect();
    assert_eq!(told, [(&json!("API_KEY"), &json!("WebSocket message"))], "{finished:?}");
}
