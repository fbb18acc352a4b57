//! What stories begin with: the fixtures as each target takes them, and some that are made.

use std::path::Path;

use crate::dns;
use crate::frame::{ETHERNET, OUTSIDE_V4, protocol};
use crate::tls;

/// All targets, those of the host as well.
pub const TARGETS: &[&str] = &[
    "engine",
    "classify",
    "dns",
    "said",
    "offload",
    "fragments",
    "ring",
    "config",
    "policy",
    "replay",
    "stream",
    "secrets",
    "http",
    "control",
];

/// Frames of a capture that a story has at most.
const FRAMES_MAX: usize = 12;

/// The captures of `fixtures/`, in order of their paths; those of `folder` if it is named.
fn captures(folder: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let paths = |folder: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut found: Vec<_> = paths(&root).iter().flat_map(|folder| paths(folder)).collect();
    found.retain(|path| {
        let is_in = |name: &str| path.parent().is_some_and(|parent| parent.ends_with(name));
        path.extension().is_some_and(|kind| kind == "pcap") && (folder.is_empty() || is_in(folder))
    });
    found.sort();
    assert!(!found.is_empty(), "no fixtures in {}", root.display());
    found.iter().map(|path| std::fs::read(path).expect("because it is there")).collect()
}

/// The frames of a capture in libpcap's classic format, little-endian as all fixtures are.
fn frames(capture: &[u8]) -> Vec<&[u8]> {
    let mut rest = capture.get(24..).unwrap_or(&[]);
    let mut frames = vec![];
    while let Some(len) = rest.get(8..12) {
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        let Some(frame) = rest.get(16..16 + len) else { break };
        frames.push(frame);
        rest = &rest[16 + len..];
    }
    frames
}

/// Stories of `engine` in which the guest sends the frames of each capture, and some in which its
/// connections go on beside all else that happens.
fn engine() -> Vec<Vec<u8>> {
    let raw = |frame: &&[u8]| {
        let behind = frame.get(12..).unwrap_or(&[]);
        [&[130][..], &(behind.len() as u16).to_be_bytes(), behind].concat()
    };
    let story = |capture: Vec<u8>| {
        let frames = frames(&capture);
        let steps = frames.iter().take(FRAMES_MAX).flat_map(raw);
        [0].into_iter().chain(steps).collect()
    };
    let mut stories: Vec<Vec<u8>> = captures("").into_iter().map(story).collect();
    stories.push([0].into_iter().chain((0..20).flat_map(|frame| [frame, 0])).collect());
    // Connections of the guest's and from outside, which speak both ways and finish.
    let begin = [221, 224, 221, 224, 3, 0];
    let speak = [227, 9, 0, 195, 4, 0, 165, 0, 50, 227, 0, 7, 195, 18, 52, 165, 3, 0];
    let end = [235, 0, 207, 165, 9, 0];
    for mode in 0..4 {
        let calm = [&[mode][..], &begin, &speak, &speak, &end].concat();
        stories.push(calm);
        for odd in [
            &[213, 165, 9, 0, 213][..], // the guest takes nothing for a while
            &[243, 1, 165, 9, 0, 243, 0],
            &[243, 2, 165, 1, 0, 243, 3],
            &[248, 0, 251, 0],
            &[238, 1, 238, 0, 217, 185, 1],
            &[2, 0, 3, 16, 40, 8, 11, 3],
        ] {
            stories.push([&[mode][..], &begin, &speak, odd, &speak, odd, &end].concat());
        }
    }
    stories
}

/// Where an IP payload begins in its frame, its protocol, and the place of a fragment.
type Payload = (usize, u8, Option<(usize, bool)>);

/// Where the IP payload of `frame` begins and what it is, with the fragment it is of: its offset,
/// and whether more follow.
fn ip(frame: &[u8]) -> Option<Payload> {
    if frame.get(ETHERNET)? >> 4 == 4 {
        let header = ETHERNET + usize::from(frame[ETHERNET] & 15) * 4;
        let word = u16::from_be_bytes([*frame.get(20)?, *frame.get(21)?]);
        let (offset, more) = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
        let is_piece = offset > 0 || more;
        return Some((header, *frame.get(23)?, is_piece.then_some((offset, more))));
    }
    let (next, header) = (*frame.get(20)?, ETHERNET + 40);
    if next != protocol::FRAGMENT {
        return Some((header, next, None));
    }
    let word = u16::from_be_bytes([*frame.get(header + 2)?, *frame.get(header + 3)?]);
    Some((header + 8, *frame.get(header)?, Some((usize::from(word & !7), word & 1 != 0))))
}

/// Stories of `dns`: each query of a capture, with what would answer it.
fn dns_stories() -> Vec<Vec<u8>> {
    let story = |query: &[u8], answer: &[u8]| {
        [&(query.len() as u16).to_be_bytes()[..], query, answer].concat()
    };
    let query = dns::query("good.test", 1);
    let record = dns::address(&dns::QUESTION, 60, OUTSIDE_V4);
    let mut stories = vec![story(&query, &dns::answer(&query, &[record]))];
    for capture in captures("dns") {
        for frame in frames(&capture) {
            let Some((at, protocol::UDP, None)) = ip(frame) else { continue };
            let query = frame.get(at + 8..).unwrap_or(&[]);
            let mut answer = query.to_vec();
            answer.iter_mut().skip(2).take(1).for_each(|flags| *flags |= 0x80);
            stories.push(story(query, &answer));
        }
    }
    stories
}

/// Stories of `said`: the first words of real clients, and of some who are none.
fn said() -> Vec<Vec<u8>> {
    let long = tls::in_records(&tls::long_hello("good.test", 2000), 100);
    let http = b"GET / HTTP/1.1\r\nHost: good.test\r\nX: y\r\n\r\n".to_vec();
    let ech = tls::with_extension(0xfe0d, &[1; 40]);
    let mut words = vec![tls::hello("good.test"), ech, tls::lying(), long, http];
    for capture in captures("client") {
        let from_guest = frames(&capture).into_iter().filter(|frame| frame.get(5) == Some(&1));
        let said = from_guest.filter_map(|frame| {
            let (at, number, None) = ip(frame)? else { return None };
            let header = usize::from(frame.get(at + 12)? >> 4) * 4;
            frame.get(at + header..).filter(|_| number == protocol::TCP)
        });
        words.push(said.flatten().copied().collect());
    }
    words.iter().map(|words| [&[6][..], words].concat()).collect()
}

/// Stories of `classify`: each frame of the captures, with its sums and with right ones.
fn classify() -> Vec<Vec<u8>> {
    let mut stories = vec![];
    for capture in captures("") {
        for frame in frames(&capture).into_iter().take(FRAMES_MAX) {
            stories.extend([0, 1].map(|mends| [&[mends], frame].concat()));
        }
    }
    stories.sort();
    stories.dedup();
    stories
}

/// Stories of `fragments`: the pieces of each capture, of the same offset and length.
fn fragments() -> Vec<Vec<u8>> {
    let story = |capture: Vec<u8>| {
        let mut story = vec![11, 200];
        for frame in frames(&capture).into_iter().take(4 * FRAMES_MAX) {
            let Some((at, _, Some((offset, more)))) = ip(frame) else { continue };
            let family = u8::from(frame[ETHERNET] >> 4 == 6);
            for kind in [0x0c | if more { 0x20 } else { 0 }, 0x02] {
                story.push(family | kind);
                story.extend(((offset / 8) as u16).to_be_bytes());
                story.extend(((frame.len() - at) as u16).to_be_bytes());
            }
        }
        story
    };
    let mut stories: Vec<Vec<u8>> = captures("fragment").into_iter().map(story).collect();
    // Backwards, both families and both names at once.
    let turn = |at: u8| (0..4).flat_map(move |kind| [kind, 0, at * 100, 3, 32]);
    stories.push([8, 0].into_iter().chain((0..3).rev().flat_map(turn)).collect());
    stories
}

/// Stories of `offload`: cuts, and crossings with runs and rows both ways.
fn offload() -> Vec<Vec<u8>> {
    let cut = |kind: u8| vec![kind, 5, 120, 40, 1, 7, 7, 7, 7, 7, 7, 7, 7];
    let crossing = |kind: u8, mtu: [u8; 2], bound: [u8; 2]| {
        let mut story = vec![kind, mtu[0], mtu[1], bound[0], bound[1]];
        for step in 0..6 {
            story.extend([step * 20, 10 + step, 7, 5, 100, 3, 30, 0, 1, 200]);
            story.extend([170 + step, 30, step, 150, 215, 9, 9, 3, 100, 235, 20, 9, 5, 200]);
        }
        story
    };
    let mut stories: Vec<Vec<u8>> = (0..12).map(|kind| cut(kind * 10)).collect();
    stories.extend(
        [(128, [0, 220], [0, 220]), (129, [0, 220], [9, 0]), (130, [30, 0], [0, 0])]
            .map(|(kind, mtu, bound)| crossing(kind, mtu, bound)),
    );
    stories
}

/// Stories of `ring`: rings of each size, filled, emptied and waited for.
fn ring() -> Vec<Vec<u8>> {
    let turn = |at: u8| [10, 0, 20 + at, 70, at * 40, at * 47, 195, 130, 230, 1, at, 245, at, 180];
    let fill = [5, 1, 0, 65, 0, 0, 4, 1, 0, 66, 255, 255, 225, 0, 200, 200, 130, 150, 180, 210];
    (0..16)
        .map(|size| {
            let mut story = vec![size * 15];
            story.extend((0..6).flat_map(turn));
            story.extend(fill.repeat(3));
            story
        })
        .collect()
}

/// Frames behind their lengths, as a link over a stream carries them.
fn stream() -> Vec<Vec<u8>> {
    let story = |capture: Vec<u8>| {
        let framed = |frame: &&[u8]| [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        let frames = frames(&capture);
        let bytes: Vec<u8> = frames.iter().take(FRAMES_MAX).flat_map(framed).collect();
        [&[bytes.len() as u8, 255][..], &bytes].concat()
    };
    let mut stories: Vec<Vec<u8>> = captures("tcp").into_iter().map(story).collect();
    stories.push(vec![3, 0, 0, 0, 0, 13, 1, 2, 3]);
    stories.push(vec![3, 0, 0, 1, 0, 14, 1, 2, 3]);
    stories
}

/// Configurations: of the fixtures, and one with most of what there is.
fn configs() -> Vec<Vec<u8>> {
    let policies = policies().into_iter();
    let whole = |policy: Vec<u8>| [b"{\"policy\": ", &policy[..], b"}"].concat();
    let mut all: Vec<Vec<u8>> = policies.map(whole).collect();
    for text in [
        "{}",
        r#"{"interface": {"mtu": 1500}, "max_connections": 10, "strict": false,
            "ports": [{"host_port": 0, "guest_port": 80}], "nat64_prefixes": ["64:ff9b::/96"]}"#,
        r#"{"secrets": {"secrets": [{"env_var": "KEY", "value": "sk-live-1",
            "allowed_hosts": ["good.test"], "substitution": {"body": true}}]},
            "tls": {"enabled": true, "intercepted_ports": [443], "bypass": ["*.other.test"]}}"#,
        r#"{"dns": {"nameservers": ["192.0.2.1"], "rebind_protection": true},
            "http": {"deny_response_format": "json"},
            "rate_limiter": {"egress": {"ops": {"size": 1000, "refill_time_ms": 100}}}}"#,
    ] {
        all.push(text.as_bytes().to_vec());
    }
    all
}

fn policies() -> Vec<Vec<u8>> {
    [
        "{}",
        r#"{"default_egress": "deny", "default_ingress": "allow", "rules": []}"#,
        r#"{"default_egress": "deny", "rules": [
            {"direction": "egress", "destination": {"domain": "good.test"}, "action": "allow",
                "protocols": ["tcp"], "ports": [{"start": 8000, "end": 8009}]},
            {"direction": "any", "destination": {"cidr": "10.0.0.0/8"}, "action": "deny"},
            {"direction": "egress", "destination": {"group": "metadata"}, "action": "deny"},
            {"direction": "egress", "destination": {"domain_suffix": "other.test"},
                "action": "allow"},
            {"direction": "ingress", "destination": "any", "action": "allow"}]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Bodies, fields and queries with placeholders, plain and hidden: see the host's `fuzz/secrets`.
fn secrets() -> Vec<Vec<u8>> {
    let texts = [
        "a $MSB_KEY b $MSB_KEYS c",
        "$MSB_KEY",
        "x=%24MSB_KEY&y=$MSB%5FKEYS&z=%2524MSB_KEY",
        r#"{"a": "\u0024MSB_KEY", "b": "\\u0024MSB_KEYS", "c": "\\$MSB_KEY"}"#,
        "Basic bWU6JE1TQl9LRVk=",
        "$$MSB_KE$MSB_KEYS$MSB_KEY $MSB_",
        "sk-live/+ \"quoted\" \u{fc} sk-live/+ \\\"quoted\\\" \u{fc} another-value-entirely",
        "s\nsk-live/+ \"quoted\nanother-value-entire\nsk-live%2F%2B+%22\r\nYW5vdGhlci12YWx1",
        "sk-live%2F%2B+%22quoted%22+%C3%BC YW5vdGhlci12YWx1ZS1lbnRpcmVseQ== sk-live\\/\\u002b",
    ];
    // A message, and what only looks like one; two that have a value together.
    let messages = [
        "\0\0\0\0\u{f}a $MSB_KEYS b c.\0\0\0\0\u{16}another-value-entirely",
        "\0\0\0\0\u{3}sk-live/+ \"quoted\" \u{fc}",
        "\0\0\0\0\u{3}another-value-entirely",
        "\0\0\0\0\u{7}another\0\0\0\0\u{f}-value-entirely",
    ];
    let stories = (0..16u8).flat_map(|who| texts.iter().map(move |text| (who, text)));
    let stories =
        stories.map(|(who, text)| [&[who * 17, who * 5 + 1, who][..], text.as_bytes()].concat());
    // In a response and in a request of gRPC, cut in some ways.
    let kinds = (0..8u8).flat_map(|cuts| [13, 14].map(|kind| (cuts, kind)));
    let calls = kinds.flat_map(|(cuts, kind)| {
        messages.map(|text| [&[cuts, cuts, kind][..], text.as_bytes()].concat())
    });
    stories.chain(calls).collect()
}

/// What a guest says of HTTP, and its server; each `|` is an end of line.
const EXCHANGES: &[(&str, &str)] = &[
    ("GET / HTTP/1.1|Host: good.test|X: $MSB_KEY||", OK),
    ("GET /?%24MSB_KEY HTTP/1.1|Host: good.test||GET / HTTP/1.1|Host: good.test||", OK),
    ("POST / HTTP/1.1|Host: good.test|Content-Length: 8||$MSB_KEY", OK),
    (
        "POST / HTTP/1.1|Host: good.test|Transfer-Encoding: chunked|Trailer: t||8|$MSB_KEY|0|\
         T: $MSB_KEYS||",
        OK,
    ),
    (
        "PUT / HTTP/1.1|Host: good.test|Expect: 100-continue|Content-Length: 1||x",
        "HTTP/1.1 100 Continue||HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|y|0||",
    ),
    (
        "GET / HTTP/1.1|Host: good.test|Connection: Upgrade|Upgrade: websocket||then $MSB_KEY",
        "HTTP/1.1 101 Switching|Connection: Upgrade|Upgrade: websocket||\u{1}\u{5}bytes",
    ),
    ("CONNECT good.test:443 HTTP/1.1|Host: good.test:443||$MSB_KEY", "HTTP/1.1 200 OK||x"),
    ("HEAD http://evil.test/ HTTP/1.1|Host: good.test||", OK),
    ("GET / HTTP/1.0||", "HTTP/1.0 200 OK||until the end"),
    ("\u{0}\u{1}bytes that are none of it $MSB_KEY", "and others"),
];
const OK: &str = "HTTP/1.1 200 OK|Content-Length: 4||wordHTTP/1.1 204 No||";

/// What each says in a WebSocket.
const MESSAGES: &[(&str, &str)] = &[
    ("say $MSB_KEY and $MSB_KE", "sk-live/+ \"quoted\" \u{fc} and sk-live/+ \"quo"),
    ("say $MSB_KEYS", "another-value-entirely\nand more"),
    (r#"{"k": "\u0024MSB_KEY", "x": "%24MSB_KEY"}"#, r#"{"k": "sk-live/+ \"quoted\" \u00fc"}"#),
    ("", ""),
];

fn http() -> Vec<Vec<u8>> {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let pair = |(mode, (guest, server)): (u8, (&[u8], &[u8]))| {
        [&[mode, 9][..], &(guest.len() as u16).to_be_bytes(), guest, server].concat()
    };
    let mut all = vec![];
    for mode in 0..16 {
        let name = if mode & 1 == 0 { "good.test" } else { "evil.test" };
        for exchange in EXCHANGES {
            let (guest, server) =
                (lines(&exchange.0.replace("good.test", name)), lines(exchange.1));
            all.push(pair((mode, (&guest, &server))));
        }
        for (guest, server) in MESSAGES {
            let mut story =
                pair((mode << 1 & 16 | mode | 32, (guest.as_bytes(), server.as_bytes())));
            story[1] = mode * 17;
            all.push(story);
        }
        // A GET of good.test in HTTP/2: settings, then a head without Huffman codes.
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let head = [b"\x82\x86\x84\x41\x09", name.as_bytes(), b"\x40\x01x\x08$MSB_KEY"].concat();
        let frame = [0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1];
        let guest = [preface.as_bytes(), &settings, &frame, &head].concat();
        let server = [&settings[..], &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]].concat();
        all.push(pair((mode, (&guest, &server))));
    }
    all
}

fn lines(text: &str) -> Vec<u8> {
    text.replace('|', "\r\n").into_bytes()
}

/// Requests to the control socket.
fn control() -> Vec<Vec<u8>> {
    let mut all = vec![];
    for what in [
        "GET /v1/config",
        "GET /v1/flows",
        "GET /v1/ports",
        "GET /v1/metrics",
        "GET /v1/events",
        "GET /v1/nothing",
        "POST /v1/capture",
        "DELETE /v1/flows/12",
        "DELETE /v1/flows/",
        "BREW /v1/config",
    ] {
        all.push(lines(&format!("{what} HTTP/1.1|Host: x||")));
    }
    for config in configs() {
        let head = "PUT /v1/config HTTP/1.1|Host: x|If-Match: \"1\"|Content-Length: ";
        all.push([lines(&format!("{head}{}||", config.len())), config].concat());
    }
    let chunked =
        "PUT /v1/config HTTP/1.1|Host: x|If-Match: *|Transfer-Encoding: chunked||2|{}|0||";
    all.push(lines(&format!("{chunked}GET /v1/config HTTP/1.1|Host: x||")));
    all.iter().map(|request| [&[7][..], request].concat()).collect()
}

/// Stories of `target` to begin with.
///
/// # Panics
/// If there is no such target, or the fixtures are gone.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "engine" => engine(),
        "classify" => classify(),
        "dns" => dns_stories(),
        "said" => said(),
        "offload" => offload(),
        "fragments" => fragments(),
        "ring" => ring(),
        "config" => configs(),
        "policy" => policies(),
        "replay" => captures(""),
        "stream" => stream(),
        "secrets" => secrets(),
        "http" => http(),
        "control" => control(),
        _ => panic!("there is no target {target}"),
    }
}
