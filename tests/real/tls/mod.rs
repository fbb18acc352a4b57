//! TLS that ends at the gateway, with real clients inside and a server outside that keeps every
//! byte it hears.

mod authority;
mod clients;
mod conformance;
mod ends;
mod expect;
mod hostile;
mod http;
mod interim;
mod names;
mod plain;
mod programs;
mod providers;
mod secrets;
mod site;
mod streams;
mod taint;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::guest::{ConfigFile, free_slot, open_config, sluicegate};
use crate::needs;
use crate::process::{self, Finished};
pub(crate) use programs::{PYTHON, has_module};
pub(crate) use site::{EVIL, Flaw, GOOD, Site, files};

/// The secret's value, which nobody but the good server may see.
const VALUE: &str = "sk-live-0123456789abcdef";

/// A configuration under which TLS with `site` ends at the gateway, and the fields of `more`.
pub(crate) fn config(site: &Site, more: Value) -> Value {
    let mut config = open_config(json!({
        "tls": {
            "enabled": true,
            "intercepted_ports": [site.port],
            "upstream_ca_cert": [site.authority()],
        },
        "secrets": {"secrets": [{
            "env_var": "API_KEY",
            "value": VALUE,
            "allowed_hosts": [{"exact": GOOD}],
            "substitution": {"headers": true, "query": true, "body": true},
        }]},
    }));
    for section in ["tls", "secrets"] {
        if let Some(fields) = more.get(section).and_then(Value::as_object) {
            for (name, value) in fields {
                config[section][name] = value.clone();
            }
        }
    }
    if let Some(policy) = more.get("policy") {
        config["policy"] = policy.clone();
    }
    config
}

/// `script`, a shell's, in a guest under `config`.
fn command(file: &ConfigFile, script: &str) -> Command {
    let mut command = sluicegate();
    command
        .args(["run", "--log=json", "--slot", &free_slot().to_string(), "--config"])
        .arg(file.path())
        .args(["--", "sh", "-c", script]);
    command
}

fn run(config: &Value, script: &str) -> Finished {
    process::run(&mut command(&ConfigFile::new(config), script))
}

/// The program of a workspace of its own in `tests/real`, built if it was not; `None`: it can't be.
fn built(name: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target").join(name);
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "-q", "--locked", "--manifest-path"])
        .arg(root.join("tests/real").join(name).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    if !cargo.status().is_ok_and(|status| status.success()) {
        needs::without(&format!("what tests/real/{name} is built of"));
        return None;
    }
    Some(target.join("debug").join(name))
}

/// The last line of `finished` as JSON.
fn told(finished: &Finished) -> Value {
    let line = finished.output.lines().next_back();
    let line = line.unwrap_or_else(|| panic!("something was said: {finished:?}"));
    serde_json::from_str(line).unwrap_or_else(|_| panic!("it is JSON: {finished:?}"))
}

/// The events that were logged.
fn events(finished: &Finished) -> Vec<Value> {
    let lines = finished.errors.lines();
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Whether `bytes` are somewhere in `all`.
fn has(all: &[u8], bytes: &[u8]) -> bool {
    memchr::memmem::find(all, bytes).is_some()
}

/// A directory that goes with the value.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluicegate-{name}-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
