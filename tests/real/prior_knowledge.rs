//! HTTP/2 in the clear by prior knowledge (RFC 9113 3.3), where policy is by name: curl and nghttp
//! inside, nghttpd outside; and gRPC's own library, which waits for its server before it asks.

use serde_json::{Value, json};

use crate::guest::{self, ConfigFile, free_slot};
use crate::names::{NameServer, SERVER, asking};
use crate::needs;
use crate::policy::Outside;
use crate::process::{self, Finished, Process};
use crate::tls::{PYTHON, Scratch, has_module};
use crate::waiting::until;

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
    files: Scratch,
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
        Self { outside, _names: names, server, files }
    }

    /// What becomes of `program`, a shell's words, for the authority `name` at the address of the
    /// server, under `policy`. The guest has asked for the address of `asked`.
    fn ask(&self, policy: &Value, (program, name): (&str, &str), asked: &str) -> Finished {
        let program = program.replace("URL", &format!("http://{SERVER}:{PORT}/page"));
        let program = program.replace("NAME", name);
        // What it says of errors comes in parts, between which the gateway's lines might be.
        let errors = self.files.0.join("errors").display().to_string();
        let told = format!("{program} 2>{errors}; code=$?; cat {errors} >&2; exit $code");
        let script = format!("getent ahostsv4 {asked} >&2; {told}");
        self.run(policy, &script)
    }

    /// What becomes of `script`, a shell's, in a guest under `policy`.
    fn run(&self, policy: &Value, script: &str) -> Finished {
        let mut config = asking(&[SERVER]);
        config["policy"] = policy.clone();
        self.run_under(&config, script)
    }

    /// The same under the whole of `config`.
    fn run_under(&self, config: &Value, script: &str) -> Finished {
        let file = ConfigFile::new(config);
        let sluicegate = guest::sluicegate();
        let mut command = self.outside.host.command(sluicegate.get_program().to_str().unwrap());
        command.args(["run", "--log=json", "--slot", &free_slot().to_string(), "--config"]);
        process::run(command.arg(file.path()).args(["--", "sh", "-c", script]))
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

/// The names of the flows that `finished` was told are denied.
fn denied(finished: &Finished) -> Vec<Value> {
    let lines = finished.errors.lines();
    let told = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    told.filter(|event| event["protocol"] == "tcp").map(|event| event["name"].clone()).collect()
}

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
    let mut passed = 0;
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
            (&both, EVIL, GOOD, Some(json!(EVIL))),
            (&both, GOOD, GOOD, None),
        ] {
            let finished = web.ask(policy, (client, name), asked);
            let what = format!("{client} of {name} after {asked} under {policy}: {finished:?}");
            let page = if denied.is_none() { "a page" } else { "" };
            assert_eq!(finished.output, page, "{what}");
            passed += usize::from(denied.is_none());
            // It may yet say what it has heard, but in the order in which it has.
            until("the server says so", || web.heard(GOOD) >= passed);
            assert_eq!([GOOD, EVIL].map(|name| web.heard(name)), [passed, 0], "{what}");
            assert_eq!(self::denied(&finished), Vec::from_iter(denied), "{what}");
        }
    }
}

const GRPC_PORT: u16 = 50_051;

const GRPC_SERVER: &str = r#"
import grpc, sys
from concurrent import futures
class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        print("asked", dict(call.invocation_metadata)["x-name"], flush=True)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: b"heard " + request)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
server.add_insecure_port(sys.argv[1])
server.start()
print("listens", flush=True)
server.wait_for_termination()
"#;

/// Asks at an address under a name.
const GRPC_CLIENT: &str = r#"
import grpc, sys
address, name = sys.argv[1:3]
channel = grpc.insecure_channel(address, [("grpc.default_authority", name)])
call = channel.unary_unary("/t.T/Unary")
for said in sys.argv[3:] or [name]:
    try:
        print(call(b"word", metadata=(("x-name", said),), timeout=20).decode())
    except grpc.RpcError as error:
        print(error.code().name)
"#;

/// A server of gRPC, and the words of a shell's by which a guest asks it.
struct Grpc {
    server: Process,
    client: String,
}

impl Web {
    fn grpc(&self) -> Grpc {
        let end = format!("{SERVER}:{GRPC_PORT}");
        let mut python = self.outside.neighbour.command(PYTHON);
        let mut server = Process::start(python.args(["-c", GRPC_SERVER, &end]));
        server.wait_for("listens");
        let client = self.files.0.join("client.py");
        std::fs::write(&client, GRPC_CLIENT).unwrap();
        let client =
            format!("getent ahostsv4 {GOOD} >&2; exec {PYTHON} {} {end}", client.display());
        Grpc { server, client }
    }
}

#[test]
fn a_client_that_waits_for_its_server_is_served_and_judged_by_the_name_it_then_says() {
    if !needs::are_met(&["curl", "nghttpd", "knotd"]) || !has_module("grpc") {
        return;
    }
    let web = Web::new();
    let Grpc { server, client } = web.grpc();
    let allows = json!({"rules": [rule("allow", GOOD)]});
    let open = json!({"default_egress": "allow"});
    let denies = json!({"default_egress": "allow", "rules": [rule("deny", EVIL)]});
    let mut asked = vec!["listens\n".to_owned()];
    for (policy, name, passes) in [
        (&open, EVIL, true),
        (&allows, GOOD, true),
        (&allows, EVIL, false),
        (&denies, EVIL, false),
        (&denies, GOOD, true),
    ] {
        let finished = web.run(policy, &format!("{client} {name}"));
        let what = format!("{name} under {policy}: {finished:?}");
        assert_eq!(
            finished.output,
            if passes { "heard word\n" } else { "UNAVAILABLE\n" },
            "{what}"
        );
        // A client that is reset may come again.
        let denied = denied(&finished);
        assert_eq!(denied.is_empty(), passes, "{what}");
        assert!(denied.iter().all(|denied| denied == name), "{what}");
        asked.extend(passes.then(|| format!("asked {name}\n")));
        until("the server says so", || server.output().len() >= asked.concat().len());
        assert_eq!(server.output(), asked.concat(), "{what}");
    }
}

/// What only the server is to have.
const VALUE: &str = "sk-live-0123456789abcdef";

#[test]
fn where_the_host_relays_what_it_says_a_client_that_waits_is_served_and_its_secret_substituted() {
    if !needs::are_met(&["curl", "nghttpd", "knotd"]) || !has_module("grpc") {
        return;
    }
    let web = Web::new();
    let Grpc { server, client } = web.grpc();
    let mut asked = "listens\n".to_owned();
    let open = json!({"default_egress": "allow"});
    let allows = json!({"rules": [rule("allow", GOOD)]});
    let denies = json!({"default_egress": "allow", "rules": [rule("deny", EVIL)]});
    for (policy, name, bypass, answers, heard) in [
        (&allows, GOOD, None, &["heard word"; 3][..], &[VALUE, "word", VALUE][..]),
        (&open, GOOD, None, &["heard word"; 3], &[VALUE, "word", VALUE]),
        (&open, EVIL, None, &["PERMISSION_DENIED", "heard word", "PERMISSION_DENIED"], &["word"]),
        (&allows, EVIL, None, &["UNAVAILABLE"; 3], &[]),
        (&denies, EVIL, None, &["UNAVAILABLE"; 3], &[]),
        (&allows, GOOD, Some(GOOD), &["heard word"; 3], &["$MSB_API_KEY", "word", "$MSB_API_KEY"]),
    ] {
        let mut config = asking(&[SERVER]);
        config["policy"] = policy.clone();
        config["tls"] = json!({"enabled": true, "intercepted_ports": [GRPC_PORT],
            "bypass": Vec::from_iter(bypass)});
        config["secrets"] = json!({"secrets": [{"env_var": "API_KEY", "value": VALUE,
            "allowed_hosts": [GOOD], "require_tls_identity": false,
            "substitution": {"headers": true}}]});
        let finished = web.run_under(&config, &format!("{client} {name} $API_KEY word $API_KEY"));
        let what = format!("{name} under {policy}, {bypass:?} passes: {finished:?}");
        assert_eq!(finished.output.lines().collect::<Vec<_>>(), answers, "{what}");
        asked.extend(heard.iter().map(|said| format!("asked {said}\n")));
        until("the server says so", || server.output().len() >= asked.len());
        assert_eq!(server.output(), asked, "{what}");
        let denied = denied(&finished);
        assert_eq!(denied.is_empty(), !answers.contains(&"UNAVAILABLE"), "{what}");
        assert!(denied.iter().all(|denied| denied == name), "{what}");
    }
}

#[test]
fn at_any_port_a_placeholder_leaves_in_no_request_over_http_2_and_a_value_where_it_may() {
    if !needs::are_met(&["curl", "nghttpd", "knotd"]) || !has_module("grpc") {
        return;
    }
    let web = Web::new();
    let Grpc { server, client } = web.grpc();
    let mut asked = "listens\n".to_owned();
    for (is_open, answers, heard) in [
        (false, ["PERMISSION_DENIED", "heard word", "PERMISSION_DENIED"], &["word"][..]),
        (true, ["heard word"; 3], &[VALUE, "word", VALUE]),
    ] {
        let mut config = asking(&[SERVER]);
        config["policy"] = json!({"default_egress": "allow"});
        config["tls"] = json!({"enabled": true});
        config["secrets"] = json!({"secrets": [{"env_var": "API_KEY", "value": VALUE,
            "allowed_hosts": [GOOD], "require_tls_identity": !is_open}]});
        // Of a client that waits for its server, which speaks first.
        let finished = web.run_under(&config, &format!("{client} {GOOD} $API_KEY word $API_KEY"));
        assert_eq!(finished.output.lines().collect::<Vec<_>>(), answers, "{finished:?}");
        asked.extend(heard.iter().map(|said| format!("asked {said}\n")));
        until("the server says so", || server.output().len() >= asked.len());
        assert_eq!(server.output(), asked, "{finished:?}");
        // And of one that asks at once.
        let url = format!("http://{GOOD}:{PORT}/page");
        let curl = format!("curl -sS -m 20 --http2-prior-knowledge {url} -H \"X: $API_KEY\"");
        let finished = web.run_under(&config, &curl);
        let page = if is_open { "a page" } else { "secret_policy_denied" };
        assert!(finished.output.contains(page), "{finished:?}");
        let name = format!("{GOOD}:{PORT}");
        until("the server says so", || web.heard(&name) >= usize::from(is_open));
        let has_heard = |what: &str| web.server.output().contains(what);
        assert_eq!([has_heard(VALUE), has_heard("MSB_API_KEY")], [is_open, false]);
    }
}
