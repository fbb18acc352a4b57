//! The control handle, without a guest: what holds, who may change it, and what is kept.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::SmoltcpNetwork;
use crate::config::{NetworkConfig, PolicyConfig};
use crate::control::ControlHandle;
use crate::error::Error;
use sluicegate_core::Permission;
use tokio::runtime::Runtime;

mod authority;
mod orders;
mod pool;
mod tenants;

fn config(egress: Permission) -> NetworkConfig {
    let policy = PolicyConfig::without_rules(egress, Permission::Deny);
    let mut config = NetworkConfig::default();
    config.policy = policy;
    config
}

/// A network without a guest, before it was started.
fn network(config: NetworkConfig) -> (SmoltcpNetwork, ControlHandle, Runtime) {
    let mut network = SmoltcpNetwork::try_new(config, 0).unwrap();
    let control = network.control_handle();
    (network, control, runtime())
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn nobody_is_there_before_the_start_and_after_the_end() {
    let (mut network, control, runtime) = network(config(Permission::Allow));
    let is_nobody = || {
        let replaced = control.replace(config(Permission::Deny), None);
        assert!(matches!(replaced, Err(Error::NotRunning)), "{replaced:?}");
        assert!(matches!(control.flows(), Err(Error::NotRunning)));
        assert!(matches!(control.end_flow(1), Err(Error::NotRunning)));
    };
    is_nobody();
    network.try_start(runtime.handle().clone()).unwrap();
    assert_eq!(control.flows().unwrap(), []);
    assert!(!control.end_flow(1).unwrap());
    network.shutdown().unwrap();
    is_nobody();
    assert_eq!(control.config(), (config(Permission::Allow), 1));
}

#[test]
fn a_start_that_fails_for_now_may_be_tried_again() {
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let network_of = |servers: &str, port: u16| {
        let ports = format!(r#"[{{"host_port": {port}, "guest_port": 1}}]"#);
        let json = format!(r#"{{"dns": {{"nameservers": [{servers}]}}, "ports": {ports}}}"#);
        network(NetworkConfig::from_json(&json).unwrap()).0
    };
    let runtime = runtime();
    // No resolver knows it (RFC 6761 6.4).
    let mut nameless = network_of(r#""tls://dns.invalid""#, 0);
    for _ in 0..2 {
        let failed = nameless.try_start(runtime.handle().clone());
        assert!(matches!(failed, Err(Error::Config(_))), "{failed:?}");
        assert_eq!(nameless.published_ports(), []);
    }
    let mut network = network_of("", port);
    let failed = network.try_start(runtime.handle().clone());
    assert!(matches!(failed, Err(Error::Publish { .. })), "{failed:?}");
    drop(held);
    network.try_start(runtime.handle().clone()).unwrap();
    assert_eq!(network.published_ports()[0].host.port(), port);
    network.shutdown().unwrap();
}

#[test]
fn a_change_is_counted_and_who_has_not_seen_the_last_is_told() {
    let (mut network, control, runtime) = network(config(Permission::Allow));
    network.try_start(runtime.handle().clone()).unwrap();
    assert_eq!(control.replace(config(Permission::Deny), Some(1)).unwrap(), 2);
    assert_eq!(control.config(), (config(Permission::Deny), 2));
    let stale = control.replace(config(Permission::Allow), Some(1)).unwrap_err();
    assert!(matches!(stale, Error::Conflict { expected: 1, current: 2 }), "{stale}");
    // One that is refused is not counted.
    let mut other = config(Permission::Allow);
    other.max_connections = Some(5000);
    let refused = control.replace(other, None).unwrap_err();
    assert!(refused.to_string().contains("max_connections: 5000 (4096 at"), "{refused}");
    assert_eq!(control.config(), (config(Permission::Deny), 2));
    let tenants = control.replace(config(Permission::Allow).for_tenant(), None).unwrap_err();
    assert!(tenants.to_string().contains("profile"), "{tenants}");
}

#[test]
fn numbers_of_flows_go_down_and_up_again_and_what_each_buffers_stays() {
    let limited = |tcp: u32| {
        let mut config = config(Permission::Allow);
        (config.max_connections, config.max_buffered_bytes) = (Some(tcp), Some(1024 * 1024));
        config
    };
    let (mut network, control, runtime) = network(limited(8));
    network.try_start(runtime.handle().clone()).unwrap();
    // Alone it would have buffers of other sizes, for which there is no memory.
    control.replace(limited(1), None).unwrap();
    control.replace(limited(8), None).unwrap();
    let mut more = limited(9);
    more.max_buffered_bytes = Some(2 * 1024 * 1024);
    let refused = control.replace(more, None).unwrap_err().to_string();
    assert!(refused.contains("max_connections: 9 (8 at the start)"), "{refused}");
    assert_eq!(control.config(), (limited(8), 3));
}

#[test]
fn the_bound_of_all_buffers_is_lowered_with_how_many_may_have_some_and_raised_again() {
    const EACH: u64 = 128 * 1024;
    let bounded = |tcp: u32, bytes: Option<u64>| {
        let mut config = config(Permission::Allow);
        (config.max_connections, config.max_buffered_bytes) = (Some(tcp), bytes);
        config
    };
    let (mut network, control, runtime) = network(bounded(8, Some(8 * EACH)));
    network.try_start(runtime.handle().clone()).unwrap();
    let mut version = 1;
    for (tcp, bytes, refused) in [
        (
            8,
            Some(8 * EACH - 1),
            Some("max_buffered_bytes: 1048575 (8 times 131072 since the start)"),
        ),
        (4, Some(4 * EACH), None),
        // What each has is what it had, though fewer could have more of it, or more have less.
        (5, Some(4 * EACH), Some("max_buffered_bytes: 524288 (5 times 131072 since the start)")),
        (1, Some(64 * 1024), Some("max_buffered_bytes: 65536 (1 times 131072 since the start)")),
        (8, Some(8 * EACH), None),
        (8, Some(100 * EACH), None),
        (8, Some(0), None),
        (8, None, None),
    ] {
        let before = control.config();
        let done = control.replace(bounded(tcp, bytes), None);
        match refused {
            Some(words) => {
                let error = done.unwrap_err().to_string();
                assert!(error.contains(words), "{error}");
                assert_eq!(control.config(), before);
            }
            None => {
                version += 1;
                assert_eq!(done.unwrap(), version);
                assert_eq!(control.config(), (bounded(tcp, bytes), version));
            }
        }
    }
}

fn with_secret(value: Option<&str>, host: &str) -> NetworkConfig {
    let secret = serde_json::json!({ "env_var": "KEY", "value": value.unwrap_or(""),
        "allowed_hosts": [host] });
    let json = serde_json::json!({ "tls": { "enabled": true },
        "secrets": { "secrets": [secret] } });
    NetworkConfig::from_json(&json.to_string()).unwrap()
}

#[test]
fn a_secret_without_a_value_keeps_the_one_it_has_also_one_that_was_rotated() {
    let (mut network, control, runtime) = network(with_secret(Some("first"), "one.test"));
    network.try_start(runtime.handle().clone()).unwrap();
    let secrets = network.secrets_handle();
    let values = || secrets.0.current().values_for_test();
    assert_eq!(values(), ["first"]);
    control.replace(with_secret(None, "other.test"), None).unwrap();
    assert_eq!(values(), ["first"]);
    secrets.rotate("KEY", "second".to_owned()).unwrap();
    control.replace(with_secret(None, "other.test"), None).unwrap();
    assert_eq!(values(), ["second"]);
    control.replace(with_secret(Some("third"), "other.test"), None).unwrap();
    assert_eq!(values(), ["third"]);
    let shown = format!("{:?}", control.config());
    assert!(!shown.contains("third"), "{shown}");
    // What the engine refuses leaves the secrets as they are.
    let mut other = with_secret(Some("x"), "a.test");
    other.max_connections = Some(5000);
    control.replace(other, None).unwrap_err();
    assert_eq!(values(), ["third"]);
    let mut none = with_secret(None, "a.test");
    none.secrets.secrets.clear();
    control.replace(none, None).unwrap();
    assert_eq!(values(), [""; 0]);
    control.replace(with_secret(None, "a.test"), None).unwrap_err();
}

#[test]
fn the_authority_that_the_guest_trusts_outlasts_every_change_and_files_bring_another() {
    let folder = std::env::temp_dir().join(format!("sluicegate-forge-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let with = |tls: serde_json::Value| {
        NetworkConfig::from_json(&serde_json::json!({ "tls": tls }).to_string()).unwrap()
    };
    let files =
        serde_json::json!({ "cert_path": folder.join("ca"), "key_path": folder.join("key") });
    let filed = || with(serde_json::json!({ "enabled": true, "intercept_ca": files }));
    let plain = || with(serde_json::json!({ "enabled": true }));
    let none = || with(serde_json::json!({ "enabled": false }));
    let (mut network, control, runtime) = network(none());
    network.try_start(runtime.handle().clone()).unwrap();
    assert_eq!(network.ca_cert_pem(), None);
    control.replace(plain(), None).unwrap();
    let own = network.ca_cert_pem().unwrap();
    let other = with(serde_json::json!({ "enabled": true, "verify_upstream": false,
        "intercepted_ports": [443, 8443], "bypass": ["*.bank.test"] }));
    control.replace(other, None).unwrap();
    assert_eq!(network.ca_cert_pem().unwrap(), own);
    control.replace(none(), None).unwrap();
    assert_eq!(network.ca_cert_pem(), None, "nobody signs");
    control.replace(filed(), None).unwrap();
    let written = std::fs::read(folder.join("ca")).unwrap();
    assert!(network.ca_cert_pem().unwrap() == written && written != own);
    // What is there now is not looked at, as the guest trusts what was.
    std::fs::write(folder.join("ca"), "something else").unwrap();
    let mut again = filed();
    again.tls.block_quic_on_intercept = false;
    control.replace(again, None).unwrap();
    assert_eq!(network.ca_cert_pem().unwrap(), written);
    control.replace(plain(), None).unwrap();
    assert_eq!(network.ca_cert_pem().unwrap(), own);
    let before = control.config();
    let mut missing = plain();
    missing.tls.upstream_ca_cert = vec![folder.join("nowhere")];
    missing.policy = PolicyConfig::without_rules(Permission::Deny, Permission::Deny);
    let refused = control.replace(missing, None).unwrap_err();
    assert!(matches!(&refused, Error::Authority(_)), "{refused}");
    let mut broken = filed();
    broken.tls.intercept_ca.cert_path = Some(folder.join("key"));
    assert!(matches!(control.replace(broken, None), Err(Error::Authority(_))));
    let mut large = filed();
    large.max_connections = Some(5000);
    assert!(matches!(control.replace(large, None), Err(Error::Config(_))));
    assert!(control.config() == before && network.ca_cert_pem().unwrap() == own);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn names_are_kept_where_a_secret_a_bypass_or_a_proxy_goes_by_them_though_no_rule_does() {
    let keeps = |config: &NetworkConfig| config.to_core(0, [0; 16]).unwrap().keeps_names;
    assert!(!keeps(&config(Permission::Allow)));
    assert!(keeps(&with_secret(Some("value"), "one.test")));
    let json = r#"{"outbound_proxy": {"protocol": "socks5", "address": "192.0.2.1:1080"}}"#;
    assert!(keeps(&NetworkConfig::from_json(json).unwrap()));
    let json = r#"{"tls": {"enabled": true, "bypass": ["*.bank.test"]}}"#;
    assert!(keeps(&NetworkConfig::from_json(json).unwrap()));
}

/// One whose port is published, and a port that somebody else has.
fn published() -> (NetworkConfig, std::net::TcpListener) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = config(Permission::Allow);
    config.ports = vec![format!("{port}:80").parse().unwrap()];
    (config, taken)
}

#[test]
fn what_is_held_back_binds_nothing_before_it_is_let_go() {
    let (config, taken) = published();
    let port = config.ports[0].host();
    let (mut network, control, runtime) = network(config);
    let activation = network.defer_activation();
    // The port is taken, and nobody minds yet.
    network.try_start(runtime.handle().clone()).unwrap();
    // A change of ports that are not there yet would be lost when they are.
    let (now, _) = control.config();
    assert!(matches!(control.replace(now, None), Err(Error::NotRunning)));
    assert!(network.is_running() && network.published_ports().is_empty());
    let refused = activation.activate().unwrap_err();
    assert!(matches!(refused, Error::Publish { port: named, .. } if named == port), "{refused}");
    drop(taken);
    activation.activate().unwrap();
    assert_eq!(network.published_ports()[0].host, port);
    std::net::TcpStream::connect(port).unwrap();
    activation.clone().activate().unwrap();
    control.flows().unwrap();
    network.shutdown().unwrap();
}

#[test]
fn what_is_let_go_before_the_start_is_not_held_back_and_what_never_is_ends_all_the_same() {
    let (mut first, control, runtime) = network(config(Permission::Allow));
    first.defer_activation().activate().unwrap();
    first.try_start(runtime.handle().clone()).unwrap();
    assert_eq!(control.flows().unwrap(), []);
    let (mut second, _, _) = network(config(Permission::Allow));
    let activation = second.defer_activation();
    second.try_start(runtime.handle().clone()).unwrap();
    second.shutdown().unwrap();
    activation.activate().unwrap();
    assert!(!second.is_running());
}

/// A guest's link with a bug, which has lost frames.
struct Faulty(UnixStream);

impl crate::adapter::GuestLink for Faulty {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }

    fn receive(
        &mut self,
        _: &mut crate::rings::RingProducer,
        _: sluicegate_core::FrameBudget,
    ) -> std::io::Result<bool> {
        let mut word = [0; 8];
        match (&self.0).read(&mut word) {
            Ok(_) => panic!("an injected fault"),
            Err(_) => Ok(false),
        }
    }

    fn send(&mut self, _: &mut crate::rings::RingConsumer) -> std::io::Result<bool> {
        Ok(false)
    }

    fn lost_frames(&self) -> crate::adapter::LostFrames {
        crate::adapter::LostFrames { link_full: 7, short: 8, too_long: 9 }
    }
}

/// A request for the MAC address of the gateway of slot 0, behind its length, as its guest asks.
const ASK: [u8; 46] = [
    0, 0, 0, 42, 255, 255, 255, 255, 255, 255, 2, 0x6d, 0x73, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0,
    1, 2, 0x6d, 0x73, 0, 0, 2, 100, 96, 0, 2, 0, 0, 0, 0, 0, 0, 100, 96, 0, 1,
];

/// Whatever takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// A network, and the machine that is its guest.
fn with_machine() -> (SmoltcpNetwork, UnixStream) {
    machine_of(config(Permission::Allow), 0)
}

/// The same of `config`, of the guest in `slot`.
fn machine_of(config: NetworkConfig, slot: u64) -> (SmoltcpNetwork, UnixStream) {
    let mut network = SmoltcpNetwork::try_new(config, slot).unwrap();
    let (machine, link) = UnixStream::pair().unwrap();
    machine.set_read_timeout(Some(PATIENCE)).unwrap();
    let link = crate::adapter::stream::StreamLink::connected(link).unwrap();
    network.attach_link(Box::new(link)).unwrap();
    (network, machine)
}

/// The guest asks for its gateway, and is answered.
fn exchange(mut machine: &UnixStream) {
    machine.write_all(&ASK).unwrap();
    machine.read_exact(&mut [0; 46]).unwrap();
}

#[test]
fn a_network_that_dies_of_a_bug_says_so_and_its_neighbour_goes_on() {
    one_dies_and_its_neighbour_goes_on(|network, runtime| {
        network.try_start(runtime.handle().clone()).unwrap();
    });
}

fn one_dies_and_its_neighbour_goes_on(start: impl Fn(&mut SmoltcpNetwork, &Runtime)) {
    let (mut bad, control, runtime) = network(config(Permission::Allow));
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    bad.attach_link(Box::new(Faulty(theirs))).unwrap();
    start(&mut bad, &runtime);
    let (mut good, machine) = with_machine();
    start(&mut good, &runtime);
    exchange(&machine);
    assert_eq!(control.flows().unwrap(), []);
    (&ours).write_all(b"now").unwrap();
    let clock = crate::clock::Clock::new();
    while bad.is_running() {
        assert!(u128::from(clock.now().as_micros()) < PATIENCE.as_micros());
        std::thread::yield_now();
    }
    let ended = bad.wait().unwrap_err();
    assert!(matches!(&ended, Error::Bug(text) if text == "an injected fault"), "{ended}");
    assert!(matches!(control.flows(), Err(Error::NotRunning)));
    exchange(&machine);
    good.shutdown().unwrap();
}

#[test]
fn what_a_link_has_lost_is_counted() {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (mut network, control, runtime) = network(config(Permission::Allow));
    network.attach_link(Box::new(Faulty(theirs))).unwrap();
    network.try_start(runtime.handle().clone()).unwrap();
    control.flows().unwrap();
    // That is answered within a turn, and counted at its end, which shutting down waits for.
    network.shutdown().unwrap();
    let counters = network.metrics_handle().counters();
    for lost in [("adapter_link_full", 7), ("adapter_short", 8), ("adapter_too_long", 9)] {
        assert!(counters.contains(&lost), "{lost:?} {counters:?}");
    }
}
