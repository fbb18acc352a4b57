//! Connections that go on through a proxy: tinyproxy (HTTP's CONNECT), microsocks (SOCKS5, with a
//! password) and Dante (SOCKS4), beside a server that says from where it was called.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{Guest, Setup, open_config};
use crate::names;
use crate::namespace::Namespace;
use crate::needs;
use crate::policy::{self, Outside};
use crate::process::{self, Process};
use crate::servers::{self, Family};
use crate::tls::Scratch;
use crate::waiting::{PATIENCE, timed, until};

/// Where the server is, which no proxy needs to be asked for.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// From where proxies call.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));
/// Where they listen.
const PORT: u16 = 1080;
const AT: &str = "127.0.0.1:1080";

/// A namespace with a server's and a proxy's address.
fn outside() -> Namespace {
    let outside = Namespace::new();
    for address in [SERVER, PROXY] {
        outside.ip(&format!("addr add {address}/32 dev lo"));
    }
    outside
}

fn is_open(outside: &Namespace, port: u16) -> bool {
    outside.inside(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// Starts `program` with `arguments` in `outside`, and waits until it listens.
fn start(outside: &Namespace, program: &str, arguments: &[&str]) -> Process {
    let process = Process::start(outside.command(program).args(arguments));
    until("the proxy listens", || is_open(outside, PORT));
    process
}

fn tinyproxy(outside: &Namespace, scratch: &Scratch) -> Process {
    let file = scratch.0.join("tinyproxy.conf");
    let text = format!(
        "Port {PORT}\nListen 127.0.0.1\nBind {PROXY}\nBasicAuth user a-password\nTimeout 60\n"
    );
    std::fs::write(&file, text).unwrap();
    start(outside, "tinyproxy", &["-d", "-c", file.to_str().unwrap()])
}

fn microsocks(outside: &Namespace) -> Process {
    let bind = PROXY.to_string();
    let port = PORT.to_string();
    let who = ["-u", "user", "-P", "a-password"];
    start(
        outside,
        "microsocks",
        &[&["-i", "127.0.0.1", "-p", &port, "-b", &bind], &who[..]].concat(),
    )
}

/// Dante, which speaks `version` of SOCKS.
fn dante(outside: &Namespace, scratch: &Scratch, version: &str) -> Process {
    let file = scratch.0.join("dante.conf");
    let text = format!(
        "logoutput: stderr\ninternal: 127.0.0.1 port = {PORT}\nexternal: {PROXY}\n\
         clientmethod: none\nsocksmethod: none\n\
         client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
         socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 proxyprotocol: {version} }}\n"
    );
    std::fs::write(&file, text).unwrap();
    start(outside, "danted", &["-f", file.to_str().unwrap()])
}

/// What a guest of `outside` is served by, which asks the proxy there.
fn guest(outside: &Namespace, protocol: &str, more: Value) -> Guest {
    let mut proxy = json!({ "protocol": protocol, "address": AT });
    proxy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = Some(open_config(json!({ "outbound_proxy": proxy })));
    let setup = Setup { config, host: Some(outside), ..Setup::default() };
    Guest::with(&Setup { variables: PASSWORDS, ..setup })
}

/// Where passwords are.
const PASSWORDS: &[(&str, &str)] =
    &[("TEST_RIGHT", "a-password"), ("TEST_WRONG", "another-password")];

fn credentials(var: &str) -> Value {
    json!({ "credentials": { "username": "user", "password": { "kind": "env", "var": var } } })
}

/// A server that says from where it was called; returns its port.
fn teller(outside: &Namespace) -> u16 {
    let listener = outside.inside(|| TcpListener::bind((SERVER, 0)).unwrap());
    servers::serve(listener, |mut stream| {
        let peer = stream.peer_addr().unwrap().ip().to_string();
        let _ = stream.write_all(peer.as_bytes());
    })
}

/// From where `guest` seems to call the server at `port`.
fn seen(guest: &Guest, port: u16) -> String {
    let mut stream = guest.try_connect((SERVER, port)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn connections_go_through_a_proxy_of_each_kind_and_errors_come_back() {
    if !needs::are_met(&["tinyproxy", "microsocks", "danted", "curl"]) {
        return;
    }
    for protocol in ["http_connect", "socks5", "socks4"] {
        let (outside, scratch) = (outside(), Scratch::new("proxy"));
        let (_proxy, more) = match protocol {
            "http_connect" => (tinyproxy(&outside, &scratch), credentials("TEST_RIGHT")),
            "socks5" => (microsocks(&outside), credentials("TEST_RIGHT")),
            _ => (dante(&outside, &scratch, "socks_v4"), json!({ "user_id": "sandbox" })),
        };
        let guest = guest(&outside, protocol, more);
        // What the server says first is not lost, though the proxy's own words come before it.
        assert_eq!(seen(&guest, teller(&outside)), PROXY.to_string(), "{protocol}");
        let port = servers::http(outside.inside(|| TcpListener::bind((SERVER, 0)).unwrap()));
        for bytes in ["1000", "20000000"] {
            let mut curl = guest.command("curl");
            curl.args(["-sSf", "-m", "60", "-o", "/dev/null", "-w", "%{size_download}"]);
            let said = process::run(curl.arg(format!("http://{SERVER}:{port}/{bytes}")));
            assert_eq!(said.output, bytes, "{protocol}: {}", said.errors);
        }
        let refused = guest.try_connect((SERVER, 9)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{protocol}");
        // This host is reached as ever.
        let echo = outside.inside(|| servers::echo(servers::listener(Family::V4)));
        let mut stream = guest.connect(Family::V4, echo);
        stream.write_all(b"ask").unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
    }
}

#[test]
fn a_proxy_that_is_not_there_or_says_no_is_what_the_guest_sees() {
    if !needs::are_met(&["microsocks", "tinyproxy"]) {
        return;
    }
    let (outside, scratch) = (outside(), Scratch::new("proxy"));
    let port = teller(&outside);
    let gone = guest(&outside, "socks5", json!({}));
    let error = gone.try_connect((SERVER, port)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "nobody listens");
    drop(gone);
    for protocol in ["socks5", "http_connect"] {
        let proxy = match protocol {
            "socks5" => microsocks(&outside),
            _ => tinyproxy(&outside, &scratch),
        };
        for wrong in [credentials("TEST_WRONG"), json!({})] {
            let guest = guest(&outside, protocol, wrong);
            let error = guest.try_connect((SERVER, port)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{protocol}: {error}");
            until("it is told", || {
                guest.engine().errors().contains("the outbound proxy wants other credentials")
            });
            let told = guest.engine().errors();
            assert!(!told.contains("another-password"), "{told}");
        }
        drop(proxy);
        until("the proxy is gone", || !is_open(&outside, PORT));
    }
}

/// A proxy of `outside` that says `first` to whoever has said something, and no more; returns where
/// it is.
fn stalling(outside: &Namespace, first: &'static [u8]) -> SocketAddr {
    let listener = outside.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    servers::serve(listener, move |mut stream| {
        if stream.read(&mut [0; 512]).is_ok_and(|len| len > 0) {
            let _ = stream.write_all(first);
        }
        // Until whoever asked goes away.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    at
}

#[test]
fn a_proxy_that_stops_answering_at_any_step_has_ten_seconds() {
    if !needs::are_met(&[]) {
        return;
    }
    /// Less than the engine's own patience for a connection, which is thirty seconds.
    const STEP_TOOK_MAX: Duration = Duration::from_secs(15);
    let outside = outside();
    let is_given_up = |error: std::io::Error, took: Duration, what: &str| {
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{what}: {error}");
        assert!(took < STEP_TOOK_MAX, "{what}: {took:?}");
    };
    std::thread::scope(|scope| {
        for (protocol, first) in [
            ("http_connect", &b""[..]),
            ("http_connect", b"HTTP/1.1 200 OK\r\nX: "),
            ("socks4", b""),
            ("socks4", &[0]),
            ("socks5", b""),
            ("socks5", &[5, 0]),
            ("socks5", &[5, 0, 5, 0, 0, 1]),
        ] {
            let (outside, is_given_up) = (&outside, &is_given_up);
            scope.spawn(move || {
                let at = stalling(outside, first).to_string();
                let what = format!("{protocol} {first:?}");
                let guest = guest(outside, protocol, json!({ "address": at }));
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let (called, took) = timed(|| guest.try_connect((SERVER, 7)));
                        is_given_up(called.unwrap_err(), took, &what);
                    });
                    if protocol == "socks5" {
                        let datagrams = guest.datagrams((SERVER, 7));
                        datagrams.send(b"ask").unwrap();
                        let (heard, took) = timed(|| datagrams.recv(&mut [0; 16]));
                        is_given_up(heard.unwrap_err(), took, &format!("datagrams, {what}"));
                    }
                });
            });
        }
    });
}

#[test]
fn what_is_excepted_goes_without_it_and_datagrams_do_not_leave_beside_it() {
    if !needs::are_met(&["microsocks"]) {
        return;
    }
    let outside = outside();
    let _proxy = microsocks(&outside);
    let port = teller(&outside);
    let mut more = credentials("TEST_RIGHT");
    let proxied = guest(&outside, "socks5", more.clone());
    assert_eq!(seen(&proxied, port), PROXY.to_string());
    let datagrams = outside.inside(|| UdpSocket::bind((SERVER, 0)).unwrap());
    datagrams.set_nonblocking(true).unwrap();
    let to = datagrams.local_addr().unwrap();
    let socket = proxied.datagrams(to);
    socket.send(b"ask").unwrap();
    // This one passes no datagrams on.
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let nothing = datagrams.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    drop(proxied);
    // Nor can these.
    for protocol in ["http_connect", "socks4"] {
        let proxied = guest(&outside, protocol, json!({}));
        let socket = proxied.datagrams(to);
        socket.send(b"ask").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{protocol}: {error}");
    }
    let nothing = datagrams.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    more["no_proxy"] = json!(["198.51.100.0/24"]);
    let direct = guest(&outside, "socks5", more);
    assert_eq!(seen(&direct, port), SERVER.to_string());
    let socket = direct.datagrams(to);
    socket.send(b"ask").unwrap();
    until("the datagram is there", || datagrams.recv(&mut [0; 16]).is_ok());
}

#[test]
fn datagrams_to_a_name_that_is_excepted_go_without_it() {
    if !needs::are_met(&["dig"]) {
        return;
    }
    let outside = Outside::new();
    names::scripted(&outside.neighbour, names::SERVER, |query| {
        vec![names::address(query, if query[13] == b'd' { 2 } else { 3 })]
    });
    outside.neighbour.ip("address add 11.0.0.3/24 dev link0");
    let (at, _told) = refusing(&outside.host);
    let guest = outside.guest(Some(open_config(json!({
        "dns": { "nameservers": [names::SERVER] },
        "outbound_proxy": {
            "protocol": "socks5", "address": at.to_string(), "no_proxy": ["*.inside.test"],
        },
    }))));
    for (name, address, is_excepted) in
        [("direct.inside.test", "11.0.0.2", true), ("proxied.test", "11.0.0.3", false)]
    {
        assert_eq!(names::ask(&guest, &format!("{name} +short")).trim(), address);
        let server = outside.neighbour.inside(|| UdpSocket::bind((address, 0)).unwrap());
        let to = server.local_addr().unwrap();
        servers::echo_datagrams(server);
        let socket = guest.datagrams(to);
        socket.send(b"ask").unwrap();
        let heard = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
        // The proxy passes nothing on.
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(heard, if is_excepted { Ok(3) } else { refused }, "{name}");
    }
}

#[test]
fn of_two_names_at_one_address_only_the_excepted_one_goes_without_it() {
    if !needs::are_met(&["dig", "curl"]) {
        return;
    }
    let outside = Outside::new();
    names::scripted(&outside.neighbour, names::SERVER, |query| vec![names::address(query, 2)]);
    let server = policy::serve(&outside.neighbour, "11.0.0.2");
    let (at, _told) = refusing(&outside.host);
    let proxy = json!({
        "protocol": "socks5", "address": at.to_string(), "no_proxy": ["*.inside.test"],
    });
    let rule = |to| json!({ "direction": "egress", "destination": to, "action": "allow" });
    let host = rule(json!({ "group": "host" }));
    let heard = outside.guest(Some(json!({
        "policy": { "rules": [host, rule(json!({ "domain_suffix": "test" }))] },
        "dns": { "nameservers": [names::SERVER] }, "outbound_proxy": proxy,
    })));
    let unheard = outside.guest(Some(open_config(json!({
        "dns": { "nameservers": [names::SERVER] }, "outbound_proxy": proxy,
    }))));
    let is_reached = |guest: &Guest, name: &str| {
        let pair = format!("{name}:{}:11.0.0.2", server.port());
        let url = format!("http://{name}:{}/1000", server.port());
        let mut curl = guest.command("curl");
        process::run(curl.args(["-sSf", "-o", "/dev/null", "-m", "20", "--resolve", &pair, &url]))
            .code
            == 0
    };
    let resolve = |name: &str| {
        for guest in [&heard, &unheard] {
            assert_eq!(names::ask(guest, &format!("{name} +short")).trim(), "11.0.0.2");
        }
    };
    resolve("a.inside.test");
    resolve("b.inside.test");
    for guest in [&heard, &unheard] {
        assert!(is_reached(guest, "a.inside.test"), "either name is excepted");
    }
    resolve("other.test");
    assert!(is_reached(&heard, "a.inside.test"), "it is the one that was said");
    assert!(!is_reached(&heard, "other.test"));
    // Nobody knows here which of them is meant.
    assert!(!is_reached(&unheard, "a.inside.test"));
}

#[test]
fn intercepted_connections_go_through_it_too() {
    if !needs::are_met(&["microsocks", "openssl", "curl"]) {
        return;
    }
    let (outside, scratch) = (outside(), Scratch::new("proxy"));
    let proxy = microsocks(&outside);
    let [key, certificate] = ["key.pem", "cert.pem"].map(|name| scratch.0.join(name));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=server.test",
        "-days",
    ]);
    process::succeed(make.arg("2").arg("-keyout").arg(&key).arg("-out").arg(&certificate));
    let mut server = outside.command("openssl");
    server.args(["s_server", "-www", "-accept", &SocketAddr::new(SERVER, 443).to_string(), "-key"]);
    let _server = Process::start(server.arg(&key).arg("-cert").arg(&certificate));
    until("the server listens", || outside.inside(|| TcpStream::connect((SERVER, 443)).is_ok()));
    let mut config = open_config(json!({ "tls": { "enabled": true, "verify_upstream": false } }));
    let mut outbound = json!({ "protocol": "socks5", "address": AT });
    outbound["credentials"] = credentials("TEST_RIGHT")["credentials"].clone();
    config["outbound_proxy"] = outbound;
    let setup = Setup { config: Some(config), host: Some(&outside), ..Setup::default() };
    let guest = Guest::with(&Setup { variables: PASSWORDS, ..setup });
    let mut curl = guest.command("curl");
    let said = process::run(curl.args(["-sSk", "-m", "60", &format!("https://{SERVER}/")]));
    assert!(said.output.contains("Ciphers supported in s_server"), "{said:?}");
    let told = proxy.errors();
    assert!(told.contains(&format!("connected to {SERVER}:443")), "{told}");
}

/// A SOCKS5 proxy of `outside` that refuses everything; returns where it is, and what tells of whom
/// it was asked for: the kind of the address (RFC 1928 4), and its bytes.
fn refusing(outside: &Namespace) -> (SocketAddr, Receiver<(u8, Vec<u8>)>) {
    let listener = outside.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4];
            stream.read_exact(&mut head[..3]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            stream.read_exact(&mut head).unwrap();
            let mut len = [4];
            if head[3] == 3 {
                stream.read_exact(&mut len).unwrap();
            }
            let mut bytes = vec![0; len[0].into()];
            stream.read_exact(&mut bytes).unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
            tell.send((head[3], bytes)).unwrap();
            let _ = stream.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    });
    (at, told)
}

#[test]
fn a_proxy_is_told_a_name_only_where_a_rule_about_it_allowed_the_connection() {
    if !needs::are_met(&["dig", "curl"]) {
        return;
    }
    let outside = Outside::new();
    names::scripted(&outside.neighbour, names::SERVER, |query| vec![names::address(query, 7)]);
    let (at, told) = refusing(&outside.host);
    let rule = |to| json!({ "direction": "egress", "destination": to, "action": "allow" });
    for (destination, asked_for) in [
        (json!({ "domain": "a.test" }), (3, b"a.test".to_vec())),
        (json!({ "group": "public" }), (1, vec![11, 0, 0, 7])),
    ] {
        let guest = outside.guest(Some(json!({
            "policy": { "rules": [rule(json!({ "group": "host" })), rule(destination)] },
            "dns": { "nameservers": [names::SERVER] },
            "outbound_proxy": { "protocol": "socks5", "address": at.to_string() },
        })));
        assert_eq!(names::ask(&guest, "a.test +short").trim(), "11.0.0.7");
        let mut curl = guest.command("curl");
        curl.args(["-sS", "-m", "20", "--resolve", "a.test:80:11.0.0.7", "http://a.test/"]);
        assert_ne!(process::run(&mut curl).code, 0);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), asked_for);
    }
}

#[test]
fn datagrams_go_through_a_proxy_that_passes_them_on() {
    if !needs::are_met(&["danted"]) {
        return;
    }
    let (outside, scratch) = (outside(), Scratch::new("proxy"));
    let proxy = dante(&outside, &scratch, "socks_v5");
    let server = outside.inside(|| UdpSocket::bind((SERVER, 0)).unwrap());
    let to = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut space = [0; 65_535];
        while let Ok((len, from)) = server.recv_from(&mut space) {
            // As long as what was asked, with from where at its beginning.
            let said = from.ip().to_string();
            space[..said.len()].copy_from_slice(said.as_bytes());
            let _ = server.send_to(&space[..len], from);
        }
    });
    let guest = guest(&outside, "socks5", json!({}));
    let sockets = [(); 2].map(|()| guest.datagrams(to));
    let mut heard = [0; 65_535];
    for len in [100, 1400, 8000] {
        for socket in &sockets {
            socket.send(&vec![b'.'; len]).unwrap();
            let said = socket.recv(&mut heard).unwrap();
            let expected = PROXY.to_string();
            assert_eq!((said, &heard[..expected.len()]), (len, expected.as_bytes()));
        }
    }
    drop(proxy);
}
