//! Names among real programs: dig and curl inside, a name server from a package outside, and
//! servers that misbehave as a test says.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::guest::{self, ConfigFile, Guest, free_slot};
use crate::namespace::Namespace;
use crate::needs;
use crate::policy::{Outside, fetch, serve};
use crate::process::{self, Process};
use crate::servers::Family;
use crate::waiting::{AT_ONCE, timed, until};

/// Kinds of records (RFC 1035 3.2.2).
pub(crate) const A: u16 = 1;
const TXT: u16 = 16;

/// The neighbour, who serves example.test.
pub(crate) const SERVER: &str = "11.0.0.2";

/// Records of every kind that resolvers know, and one that nobody does.
const ZONE: &str = "\
$ORIGIN example.test.
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 11.0.0.2
www A 11.0.0.2
www AAAA 2600:0:0:11::2
other A 11.0.0.2
alias CNAME www
text TXT \"some text\" \"and more\"
mail MX 10 www
_http._tcp SRV 1 2 80 www
secure HTTPS 1 . alpn=h2,h3 ipv4hint=11.0.0.2 ipv6hint=2600:0:0:11::2
service SVCB 1 www port=8443
caa CAA 0 issue \"authority.test\"
naptr NAPTR 10 20 \"s\" \"SIP+D2T\" \"\" _http._tcp
ds DS 1 13 2 0102030405060708091011121314151617181920212223242526272829303132
tlsa TLSA 3 1 1 0102030405060708091011121314151617181920212223242526272829303132
unknown TYPE65280 \\# 5 0102030405
private A 10.0.0.1
hinted HTTPS 1 . ipv4hint=10.0.0.1
";

/// A name server with [`ZONE`], in a directory that goes with it.
pub(crate) struct NameServer {
    directory: PathBuf,
    process: Option<Process>,
}

impl NameServer {
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let directory = std::env::temp_dir().join(namespace.name());
        std::fs::create_dir_all(&directory).unwrap();
        let text = |long: &str, count: usize, len: usize| -> String {
            (0..count).map(|n| format!("{long} TXT \"{n:04}{}\"\n", "x".repeat(len))).collect()
        };
        let zone = [ZONE, &text("long", 40, 50), &text("longest", 300, 196)].concat();
        std::fs::write(directory.join("zone"), zone).unwrap();
        let at = directory.display();
        let config = format!(
            "server:\n    listen: {SERVER}@53\n    rundir: {at}\n\
             database:\n    storage: {at}\n\
             log:\n  - target: stderr\n    any: warning\n\
             zone:\n  - domain: example.test\n    storage: {at}\n    file: zone\n    \
             zonefile-load: whole\n    journal-content: none\n"
        );
        std::fs::write(directory.join("knot.conf"), config).unwrap();
        let mut server = Self { directory, process: None };
        server.restart(namespace);
        server
    }

    fn restart(&mut self, namespace: &Namespace) {
        self.process = None;
        let mut knotd = namespace.command("knotd");
        self.process = Some(Process::start(knotd.arg("-c").arg(self.directory.join("knot.conf"))));
        until("the name server answers", || {
            let mut dig = namespace.command("dig");
            dig.args([&format!("@{SERVER}"), "+tries=1", "+timeout=1", "example.test", "SOA"]);
            process::run(&mut dig).output.contains("NOERROR")
        });
    }

    fn kill(&mut self) {
        self.process = None;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.kill();
        // Nothing is left to be done where this fails.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A configuration whose name servers are `servers`, and whose guest may go to public addresses.
pub(crate) fn asking(servers: &[&str]) -> Value {
    json!({ "dns": { "nameservers": servers } })
}

/// What dig says to `words`, which are split at blanks.
fn dig(mut dig: Command, words: &str) -> String {
    process::succeed(dig.args(["+tries=1", "+timeout=10"]).args(words.split_whitespace()))
}

pub(crate) fn ask(guest: &Guest, words: &str) -> String {
    let gateway = guest.gateway(Family::V4);
    dig(guest.command("dig"), &format!("@{gateway} {words}"))
}

/// The records of an answer, in some order, without their TTL.
fn records(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_type_comes_through_over_udp_and_tcp_and_from_whatever_address_it_is_asked() {
    if !needs::are_met(&["dig", "knotd"]) {
        return;
    }
    let outside = Outside::new();
    let _server = NameServer::start(&outside.neighbour);
    let guest = outside.guest(Some(asking(&[SERVER])));
    let [v4, v6] = Family::BOTH.map(|family| guest.gateway(family).to_string());
    for question in [
        "www A",
        "www AAAA",
        "WwW A",
        "alias A",
        "text TXT",
        "mail MX",
        "_http._tcp SRV",
        "secure HTTPS",
        "service SVCB",
        "caa CAA",
        "naptr NAPTR",
        "ds DS",
        "tlsa TLSA",
        "unknown TYPE65280",
        "long TXT",
        "longest TXT",
        "@ SOA",
        "@ NS",
        "nothing A",
        "text A",
    ] {
        let (name, kind) = question.split_once(' ').unwrap();
        let name = if name == "@" { String::new() } else { format!("{name}.") };
        let words = format!(
            "{name}example.test {kind} +noall +answer +authority +comments +nottlid \
             +norecurse +nocookie"
        );
        let without_number = |text: &str| {
            let is_kept = |line: &&str| !line.contains("id: ") && !line.contains("flags: ");
            records(&text.lines().filter(is_kept).collect::<Vec<_>>().join("\n"))
        };
        let host = outside.neighbour.command("dig");
        let direct = without_number(&dig(host, &format!("@{SERVER} +tcp {words}")));
        for from in [&v4, &v6, "192.0.2.9", "2001:db8::9", "10.0.0.53"] {
            for how in ["+notcp", "+tcp", "+notcp +dnssec", "+notcp +noedns"] {
                let text = dig(guest.command("dig"), &format!("@{from} {how} {words}"));
                let heard: Vec<_> = without_number(&text)
                    .into_iter()
                    .filter(|line| !line.contains("Truncated, retrying"))
                    .collect();
                let is_record = |line: &&String| !line.starts_with(';');
                let [direct, heard] = [&direct, &heard]
                    .map(|lines| lines.iter().filter(is_record).cloned().collect::<Vec<_>>());
                assert_eq!(heard, direct, "{question} {how} from {from}");
            }
        }
        let heard = ask(&guest, &words);
        let status = |text: &str| text.split("status: ").nth(1).map(|rest| rest[..7].to_owned());
        let host = outside.neighbour.command("dig");
        assert_eq!(status(&heard), status(&dig(host, &format!("@{SERVER} {words}"))), "{question}");
    }
}

#[test]
fn a_datagram_has_what_the_guest_takes_and_says_that_there_is_more() {
    if !needs::are_met(&["dig", "knotd"]) {
        return;
    }
    let outside = Outside::new();
    let _server = NameServer::start(&outside.neighbour);
    let guest = outside.guest(Some(asking(&[SERVER])));
    for how in ["+bufsize=4096", "+bufsize=600", "+noedns"] {
        let cut = ask(&guest, &format!("long.example.test TXT +ignore {how}"));
        assert!(cut.contains(" tc ") && cut.contains("ANSWER: 0"), "{cut}");
    }
    let whole = ask(&guest, "longest.example.test TXT");
    assert!(whole.contains("(TCP)") && whole.contains("ANSWER: 300"), "{whole}");
}

#[test]
fn many_questions_on_one_connection_are_all_answered() {
    if !needs::are_met(&["dig", "knotd"]) {
        return;
    }
    let outside = Outside::new();
    let _server = NameServer::start(&outside.neighbour);
    let guest = outside.guest(Some(asking(&[SERVER])));
    let mut stream = guest.try_connect((guest.gateway(Family::V6), 53)).unwrap();
    let names = ["www", "other", "longest", "private", "nothing", "www"];
    let mut sent = Vec::new();
    for number in 0..300_u16 {
        let name = names[usize::from(number) % names.len()];
        let query = query(number, &format!("{name}.example.test"), TXT);
        sent.extend(u16::try_from(query.len()).unwrap().to_be_bytes());
        sent.extend(query);
    }
    // In pieces that are no queries.
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        sent.chunks(50).for_each(|piece| writer.write_all(piece).unwrap());
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut seen = vec![0; 300];
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    writing.join().unwrap();
    let mut rest = answers.as_slice();
    while let Some((len, after)) = rest.split_first_chunk() {
        let (answer, after) = after.split_at(u16::from_be_bytes(*len).into());
        seen[usize::from(u16::from_be_bytes([answer[0], answer[1]]))] += 1;
        rest = after;
    }
    assert_eq!(seen, [1; 300]);
}

#[test]
fn for_a_minute_no_answer_is_lost() {
    if !needs::are_met(&["dnsperf", "knotd", "dig"]) {
        return;
    }
    let outside = Outside::new();
    let server = NameServer::start(&outside.neighbour);
    let guest = outside.guest(Some(asking(&[SERVER])));
    // Names that are new, one that is not, and one whose answer comes over TCP from its server.
    let lines = (0..50_000).map(|number| match number % 5 {
        0 => "www.example.test A\n".to_owned(),
        1 if number % 100 == 1 => "longest.example.test TXT\n".to_owned(),
        _ => format!("new{number}.example.test AAAA\n"),
    });
    let queries = server.directory.join("queries");
    std::fs::write(&queries, lines.collect::<String>()).unwrap();
    let mut dnsperf = guest.command("timeout");
    dnsperf.args(["90", "dnsperf", "-s", &guest.gateway(Family::V4).to_string(), "-d"]);
    dnsperf.arg(queries).args(["-c", "20", "-Q", "2000", "-l", "60"]);
    let told = dnsperf.output().expect("dnsperf to run");
    let told = String::from_utf8_lossy(&told.stdout);
    let of = |what: &str| {
        let line = told.lines().find_map(|line| line.trim().strip_prefix(what));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
    };
    let (sent, completed, lost) =
        (of("Queries sent:"), of("Queries completed:"), of("Queries lost:"));
    assert!(sent > 10_000 && lost == 0 && completed == sent, "{told}");
    assert!(!told.contains("SERVFAIL"), "{told}");
}

/// A query for records of `kind` of `name`, with this number (RFC 1035 4.1).
pub(crate) fn query(number: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

#[test]
fn what_policy_denies_does_not_exist_and_what_leads_inside_neither() {
    if !needs::are_met(&["dig", "knotd"]) {
        return;
    }
    let outside = Outside::new();
    let _server = NameServer::start(&outside.neighbour);
    let mut config = asking(&[SERVER]);
    let rule = |form: &str, name: &str, action: &str| {
        let destination = json!({ form: name });
        json!({ "direction": "egress", "destination": destination, "action": action })
    };
    config["policy"] = json!({ "rules": [
        rule("domain", "other.example.test", "deny"),
        rule("domain_suffix", "Example.test.", "allow"),
        rule("group", "host", "allow"),
    ]});
    let guest = outside.guest(Some(config));
    let is_blocked = |text: &str| text.contains("NXDOMAIN") && text.contains("EDE: 15");
    for name in [
        "other.example.test",
        "OTHER.example.test TXT",
        "private.example.test",
        "hinted.example.test HTTPS",
        "+tcp other.example.test",
    ] {
        let (text, took) = timed(|| ask(&guest, name));
        assert!(is_blocked(&text) && took < AT_ONCE, "{took:?} {text}");
    }
    assert!(ask(&guest, "www.example.test").contains("11.0.0.2"));
    // The group's rule is about every name, once the ones before are not.
    assert!(!is_blocked(&ask(&guest, "elsewhere.test")));
    let own = ask(&guest, "host.sluicegate.internal +short");
    assert_eq!(own.trim(), guest.gateway(Family::V4).to_string());
    let own = ask(&guest, "host.microsandbox.internal AAAA +short");
    assert_eq!(own.trim(), guest.gateway(Family::V6).to_string());
}

#[test]
fn curl_reaches_by_its_name_what_a_rule_allows_by_name() {
    if !needs::are_met(&["curl", "dig", "knotd"]) {
        return;
    }
    let outside = Outside::new();
    let _server = NameServer::start(&outside.neighbour);
    let end = serve(&outside.neighbour, SERVER);
    let mut config = asking(&[SERVER]);
    config["policy"] = json!({ "rules": [{
        "direction": "egress", "action": "allow", "destination": { "domain": "www.example.test" },
        "protocols": ["tcp"], "ports": [{ "start": end.port(), "end": end.port() }]
    }]});
    let file = ConfigFile::new(&config);
    let run = |script: &str| {
        let mut command = outside.host.command(guest::sluicegate().get_program().to_str().unwrap());
        command.args(["run", "--slot", &free_slot().to_string(), "--config"]).arg(file.path());
        let curl = "curl -sS -m 20 -o /dev/null -w %{http_code} http";
        let script = script.replace("PORT", &end.port().to_string()).replace("CURL", curl);
        process::run(command.args(["--", "sh", "-c", &script]))
    };
    let done = run("CURL://www.example.test:PORT/10");
    assert_eq!((done.code, done.output.as_str()), (0, "200"), "{done:?}");
    // It is not resolved; it was not resolved; it was, and what is said there is no name, or is
    // another; the port is another.
    for (script, code) in [
        ("CURL://other.example.test:PORT/10", 6),
        ("CURL://11.0.0.2:PORT/10", 7),
        ("dig +short www.example.test >&2; CURL://11.0.0.2:PORT/10", 56),
        ("CURL://www.example.test:PORT/10 -H 'Host: other.example.test'", 56),
        ("dig +short www.example.test >&2; CURL://11.0.0.2:PORT/10 -H 'Host: www.example.test'", 0),
        ("CURL://www.example.test:1/10", 7),
    ] {
        let done = run(script);
        assert_eq!(done.code, code, "{script}: {done:?}");
    }
}

#[test]
fn a_server_that_is_gone_is_a_failure_at_once_and_one_that_is_back_answers() {
    if !needs::are_met(&["dig", "knotd"]) {
        return;
    }
    let outside = Outside::new();
    let mut server = NameServer::start(&outside.neighbour);
    let guest = outside.guest(Some(asking(&[SERVER])));
    assert!(ask(&guest, "www.example.test").contains("11.0.0.2"));
    server.kill();
    let (text, took) = timed(|| ask(&guest, "other.example.test"));
    assert!(text.contains("SERVFAIL") && took < AT_ONCE, "{took:?} {text}");
    assert!(ask(&guest, "www.example.test").contains("11.0.0.2"), "it is known still");
    server.restart(&outside.neighbour);
    assert!(ask(&guest, "other.example.test").contains("11.0.0.2"));
}

/// A name server at `address` that answers each query with what `answers` says.
pub(crate) fn scripted(
    namespace: &Namespace,
    address: &str,
    answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) {
    answering(namespace.inside(|| UdpSocket::bind((address, 53)).unwrap()), answers);
}

/// The same at `socket`.
pub(crate) fn answering(
    socket: UdpSocket,
    answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            for answer in answers(&bytes[..len]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

/// The answer to `query`, of which the question is repeated, with the one address 11.0.0.`last`.
pub(crate) fn address(query: &[u8], last: u8) -> Vec<u8> {
    record(query, &[0xc0, 12], 1, &[11, 0, 0, last])
}

pub(crate) fn record(query: &[u8], owner: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let mut answer = query[..question_end(query)].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(owner);
    answer.extend([0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
    answer.extend(data);
    answer
}

fn question_end(query: &[u8]) -> usize {
    let mut at = 12;
    while query[at] != 0 {
        at += 1 + usize::from(query[at]);
    }
    at + 5
}

#[test]
fn another_resolv_conf_counts_at_once() {
    if !needs::are_met(&["dig"]) {
        return;
    }
    let outside = Outside::new();
    scripted(&outside.neighbour, SERVER, |query| vec![address(query, 7)]);
    scripted(&outside.host, "11.0.0.1", |query| vec![address(query, 8)]);
    // Stands at /etc/resolv.conf of what runs in the namespace.
    let directory = PathBuf::from("/etc/netns").join(outside.host.name());
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("resolv.conf");
    std::fs::write(&file, format!("nameserver {SERVER}\n")).unwrap();
    let guest = outside.guest(Some(json!({})));
    let first = ask(&guest, "a.test +short");
    std::fs::write(&file, "nameserver 11.0.0.1\n").unwrap();
    let second = ask(&guest, "b.test +short");
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!((first.trim(), second.trim()), ("11.0.0.7", "11.0.0.8"));
}

#[test]
fn a_name_that_leads_to_this_host_does_not_exist() {
    if !needs::are_met(&["dig"]) {
        return;
    }
    let outside = Outside::new();
    scripted(&outside.neighbour, SERVER, |query| vec![address(query, query[13] - b'0')]);
    let mut config = asking(&[SERVER]);
    config["policy"] = json!({ "rules": [{
        "direction": "egress", "action": "allow", "destination": { "domain_suffix": "test" }
    }]});
    let guest = outside.guest(Some(config));
    let end = serve(&outside.host, "11.0.0.1");
    let text = ask(&guest, "1.test");
    assert!(text.contains("NXDOMAIN") && text.contains("EDE: 15"), "{text}");
    assert_ne!(fetch(&guest, end), 0);
    assert_eq!(ask(&guest, "2.test +short").trim(), "11.0.0.2");
}

#[test]
fn a_silent_server_is_overtaken_and_then_asked_last() {
    if !needs::are_met(&["dig"]) {
        return;
    }
    let outside = Outside::new();
    let (tell, told) = std::sync::mpsc::channel();
    scripted(&outside.neighbour, SERVER, move |_| {
        tell.send(()).unwrap();
        vec![]
    });
    scripted(&outside.host, "11.0.0.1", |query| vec![address(query, 2)]);
    let guest = outside.guest(Some(asking(&[SERVER, "11.0.0.1"])));
    for name in ["a.test", "b.test"] {
        let (text, took) = timed(|| ask(&guest, name));
        assert!(text.contains("11.0.0.2") && took < AT_ONCE, "{took:?} {text}");
    }
    assert_eq!(told.try_iter().count(), 1, "the second query goes to who answers");
}

#[test]
fn one_question_more_than_can_be_asked_at_a_time_is_refused_at_once_and_others_are_served() {
    if !needs::are_met(&[]) {
        return;
    }
    const AT_A_TIME: usize = 512;
    let outside = Outside::new();
    let heard = Arc::<Mutex<BTreeSet<Vec<u8>>>>::default();
    let hears = Arc::clone(&heard);
    scripted(&outside.neighbour, SERVER, move |query| {
        hears.lock().unwrap().insert(query[12..question_end(query)].to_vec());
        if query[13] == b'k' { vec![address(query, 2)] } else { vec![] }
    });
    let mut config = asking(&[SERVER]);
    config["dns"]["query_timeout_ms"] = json!(60_000);
    let guest = outside.guest(Some(config));
    let socket = guest.datagrams((guest.gateway(Family::V4), 53));
    let code = |number: u16, name: &str| {
        socket.send(&query(number, name, A)).unwrap();
        let mut answer = [0; 512];
        socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..2], number.to_be_bytes(), "{name}");
        answer[3] & 15
    };
    assert_eq!(code(1000, "known.test"), 0);
    for number in 0..AT_A_TIME {
        let name = format!("silent-{number}.test");
        socket.send(&query(u16::try_from(number).unwrap(), &name, A)).unwrap();
        // A turn takes so many, and no more.
        until("it is asked", || heard.lock().unwrap().len() == number + 2);
    }
    const SERVER_FAILURE: u8 = 2;
    let (refused, took) = timed(|| code(1001, "kept-out.test"));
    assert_eq!(refused, SERVER_FAILURE);
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!(code(1002, "known.test"), 0, "what is known is told");
    assert_eq!(heard.lock().unwrap().len(), AT_A_TIME + 1);
}

#[test]
fn a_query_that_nobody_answers_fails_when_its_time_is_up() {
    if !needs::are_met(&["dig"]) {
        return;
    }
    let outside = Outside::new();
    scripted(&outside.neighbour, SERVER, |_| vec![]);
    let mut config = asking(&[SERVER]);
    config["dns"]["query_timeout_ms"] = json!(300);
    let guest = outside.guest(Some(config));
    let (text, took) = timed(|| ask(&guest, "a.test"));
    assert!(text.contains("SERVFAIL") && text.contains("EDE: 22"), "{text}");
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn what_is_no_answer_is_passed_over_and_what_is_malformed_is_a_failure() {
    if !needs::are_met(&["dig"]) {
        return;
    }
    let outside = Outside::new();
    scripted(&outside.neighbour, SERVER, |query| {
        let good = address(query, 2);
        let changed = |at: usize| {
            let mut other = address(query, 66);
            other[at] ^= 1;
            other
        };
        let name_at = u8::try_from(good.len() - 16).unwrap();
        match query[13] {
            // Another number, another question, no answer, nothing: then the answer.
            b'a' => vec![changed(0), changed(1), changed(14), query.to_vec(), vec![], good],
            // Names that lead to themselves, in an owner and in an alias.
            b'b' => vec![record(query, &[0xc0, name_at], 1, &[11, 0, 0, 2])],
            b'c' => vec![record(query, &[0xc0, 12], 1, &[11, 0, 0])],
            // Aliases without an end.
            b'd' => {
                let mut answer = address(query, 2);
                answer.truncate(question_end(query));
                for hop in 0..200_u8 {
                    let target = [3, b'x', b'x', hop, 0];
                    let owner =
                        if hop == 0 { vec![0xc0, 12] } else { vec![3, b'x', b'x', hop - 1, 0] };
                    answer.extend(owner);
                    answer.extend([0, 5, 0, 1, 0, 0, 0, 60, 0, 5]);
                    answer.extend(target);
                }
                answer[7] = 200;
                vec![answer]
            }
            _ => vec![good],
        }
    });
    let guest = outside.guest(Some(asking(&[SERVER])));
    assert_eq!(ask(&guest, "a.test +short").trim(), "11.0.0.2");
    for name in ["b.test", "c.test"] {
        assert!(ask(&guest, name).contains("SERVFAIL"), "{name}");
    }
    // All of it goes to the guest, over TCP as it is long; where the guest's side ends is its own.
    ask(&guest, "d.test +ignore");
    let end = serve(&outside.neighbour, SERVER);
    assert_eq!(ask(&guest, "e.test +short").trim(), "11.0.0.2");
    assert_eq!(fetch(&guest, end), 0, "the network lives");
}
