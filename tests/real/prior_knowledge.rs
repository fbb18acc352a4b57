//! HTTP/2 in the clear by prior knowledge (RFC 9113 3.3), where policy is by name: curl and nghttp
//! inside, nghttpd outside.

use serde_json::{Value, json};

use crate::guest::{self, ConfigFile, free_slot};
use crate::names::{NameServer, SERVER, asking};
use crate::needs;
use crate::policy::Outside;
use crate::process::{self, Finished, Process};
use crate::tls::Scratch;

/// In a namespace of its own, so that nobody else has it.
const PORT: u16 = 8080;
/// Both lead to the server's address.
const GOOD: &str = "www.example.test";
const EVIL: &str = "other.example.test";

/// A server that says whom each request was for, and who asks it.
struct Web {
    outside: Outside,
    _names: NameServer,
    server: Process,
    _files: Scratch,
}

impl Web {
    fn new() -> Self {
        let (outside, files) = (Outside::new(), Scratch::new("prior"));
        let names = NameServer::start(&outside.neighbour);
        std::fs::write(files.0.join("page"), "a page").unwrap();
        let mut nghttpd = outside.neighbour.command("nghttpd");
        nghttpd.args(["--no-tls", "--verbose", "--address", SERVER, "--htdocs"]).arg(&files.0);
        let mut server = Process::start(nghttpd.arg(PORT.to_string()));
        server.wait_for("listen");
        Self { outside, _names: names, server, _files: files }
    }

    /// What becomes of `program`, a shell's words, for the authority `name` at the address of the
    /// server, under `policy`. The guest has asked for the address of `asked`.
    fn ask(&self, policy: &Value, (program, name): (&str, &str), asked: &str) -> Finished {
        let mut config = asking(&[SERVER]);
        config["policy"] = policy.clone();
        let file = ConfigFile::new(&config);
        let program = program.replace("URL", &format!("http://{SERVER}:{PORT}/page"));
        let script = format!("getent ahostsv4 {asked} >&2; {}", program.replace("NAME", name));
        let sluicegate = guest::sluicegate();
        let mut command = self.outside.host.command(sluicegate.get_program().to_str().unwrap());
        command.args(["run", "--log=json", "--slot", &free_slot().to_string(), "--config"]);
        process::run(command.arg(file.path()).args(["--", "sh", "-c", &script]))
    }

    /// How many requests for `name` the server has had.
    fn heard(&self, name: &str) -> usize {
        let said = self.server.output();
        said.lines().filter(|line| line.ends_with(&format!(":authority: {name}"))).count()
    }
}

/// Clients that speak HTTP/2 at once: one asks in its first frames, the other behind PRIORITY.
const CLIENTS: [&str; 2] = [
    "curl -sS -m 20 --http2-prior-knowledge -H 'Host: NAME' URL",
    "nghttp -t 20 -H ':authority: NAME' URL",
];

fn rule(action: &str, name: &str) -> Value {
    json!({"direction": "egress", "action": action, "destination": {"domain": name}})
}

#[test]
fn whom_http_2_in_the_clear_is_for_decides_and_nothing_leaves_for_another() {
    if !needs::are_met(&["curl", "nghttp", "nghttpd", "knotd"]) {
        return;
    }
    let web = Web::new();
    let allows = json!({"rules": [rule("allow", GOOD)]});
    let denies = json!({"default_egress": "allow", "rules": [rule("deny", EVIL)]});
    let both = json!({"rules": [rule("deny", EVIL), rule("allow", GOOD)]});
    for client in CLIENTS {
        // What the guest says, what it has asked for, and of which name a denial tells.
        for (policy, name, asked, denied) in [
            (&allows, GOOD, GOOD, None),
            // The address is an allowed name's, what is said there is not.
            (&allows, EVIL, GOOD, Some(json!(EVIL))),
            // The name is allowed, and nobody was told that it leads there.
            (&allows, GOOD, "nothing.example.test", Some(Value::Null)),
            (&denies, GOOD, GOOD, None),
            (&denies, EVIL, GOOD, Some(json!(EVIL))),
            (&both, GOOD, GOOD, None),
            (&both, EVIL, GOOD, Some(json!(EVIL))),
        ] {
            let before = [GOOD, EVIL].map(|name| web.heard(name));
            let finished = web.ask(policy, (client, name), asked);
            let what = format!("{client} of {name} after {asked} under {policy}: {finished:?}");
            let page = if denied.is_none() { "a page" } else { "" };
            assert_eq!(finished.output, page, "{what}");
            let expected = [before[0] + usize::from(denied.is_none()), before[1]];
            assert_eq!([GOOD, EVIL].map(|name| web.heard(name)), expected, "{what}");
            let lines = finished.errors.lines();
            let told = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let flows = told.filter(|event| event["protocol"] == "tcp");
            let names: Vec<_> = flows.map(|event| event["name"].clone()).collect();
            assert_eq!(names, Vec::from_iter(denied), "{what}");
        }
    }
}
