//! A host program whose guest's network card is a Unix socket, as QEMU's `-netdev stream` has it.
//!
//! `embed SOCKET` serves one machine until it goes. Its policy is made here, not read from a file;
//! it tells of every denial, and in the end how often each rule had decided by the last of them.
//! `vmm.rs` is the same within a VMM that is built on msb_krun.

use std::error::Error;

use sluicegate_host::adapter::stream::StreamLink;
use sluicegate_host::config::{DestinationConfig, PolicyConfig, RuleConfig};
use sluicegate_host::{
    Direction, NetworkConfig, NetworkEvent, Permission, PortRange, Protocol, SmoltcpNetwork,
};

const USAGE: &str = "usage: embed SOCKET";

/// HTTPS to one name and what is below it, and nothing else. The gateway answers for names that a
/// rule is about.
fn policy() -> Result<PolicyConfig, Box<dyn Error>> {
    let rule = RuleConfig {
        direction: Direction::Egress.into(),
        destination: DestinationConfig::DomainSuffix("example.com".parse()?),
        protocols: vec![Protocol::Tcp],
        ports: vec![PortRange::single(443)],
        strict: None,
        action: Permission::Allow,
    };
    let none = PolicyConfig::without_rules(Permission::Deny, Permission::Deny);
    Ok(PolicyConfig { rules: vec![rule], ..none })
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or(USAGE)?;
    let mut config = NetworkConfig::default();
    config.policy = policy()?;
    // QEMU's guest knows nothing of the variables that a VMM would boot it with.
    config.interface.autoconf.enabled = Some(true);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut network = SmoltcpNetwork::try_new(config, 0)?;
    network.attach_link(Box::new(StreamLink::listen(path.as_ref())?.one_shot()))?;
    let (control, events) = (network.control_handle(), network.events());
    network.try_start(runtime.handle().clone())?;
    println!("the guest's MAC address is to be {:02x?}", network.guest_mac());
    // Until the network ends, which is when the machine has gone.
    for event in events {
        match event {
            NetworkEvent::Denied(denied) => println!("{denied}"),
            NetworkEvent::Intercepted(intercepted) => println!("{intercepted}"),
            // There may be more kinds one day.
            _ => {}
        }
        // As long as it runs: what was measured last is there to be read afterwards.
        let _ = control.measure();
    }
    for (by, hits) in control.metrics().rule_hits() {
        println!("{hits} by {by}");
    }
    match network.shutdown() {
        Err(error) if !error.is_guest_gone() => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
