//! The control handle, without a guest: what holds, who may change it, and what is kept.

use super::SmoltcpNetwork;
use crate::config::{NetworkConfig, PolicyConfig};
use crate::control::ControlHandle;
use crate::error::Error;
use sluicegate_core::Permission;
use tokio::runtime::Runtime;

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
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    (network, control, runtime)
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
fn a_change_is_counted_and_who_has_not_seen_the_last_is_told() {
    let (mut network, control, runtime) = network(config(Permission::Allow));
    network.try_start(runtime.handle().clone()).unwrap();
    assert_eq!(control.replace(config(Permission::Deny), Some(1)).unwrap(), 2);
    assert_eq!(control.config(), (config(Permission::Deny), 2));
    let stale = control.replace(config(Permission::Allow), Some(1)).unwrap_err();
    assert!(matches!(stale, Error::Conflict { expected: 1, current: 2 }), "{stale}");
    // One that is refused is not counted.
    let mut other = config(Permission::Allow);
    other.max_connections = Some(7);
    let refused = control.replace(other, None).unwrap_err();
    assert!(refused.to_string().contains("max_connections: 7"), "{refused}");
    assert_eq!(control.config(), (config(Permission::Deny), 2));
    let tenants = control.replace(config(Permission::Allow).for_tenant(), None).unwrap_err();
    assert!(tenants.to_string().contains("profile"), "{tenants}");
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
    other.max_connections = Some(7);
    control.replace(other, None).unwrap_err();
    assert_eq!(values(), ["third"]);
    let mut none = with_secret(None, "a.test");
    none.secrets.secrets.clear();
    control.replace(none, None).unwrap();
    assert_eq!(values(), [""; 0]);
    control.replace(with_secret(None, "a.test"), None).unwrap_err();
}
