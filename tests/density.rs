//! A thousand networks in one process: what each costs while its guest does nothing.
//!
//! A process of its own, so that nothing else is measured.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(clippy::disallowed_methods, reason = "what is measured runs on the real clock")]

#[path = "real"]
#[allow(dead_code, reason = "of tests/real/, what waits and what measures")]
mod real {
    pub(crate) mod held;
    pub(crate) mod waiting;
}

use std::time::Duration;

use real::held;
use real::waiting::until_still;
use sluicegate_host::{MetricsHandle, NetworkConfig, SmoltcpNetwork};

const NETWORKS: u64 = 1000;
/// Of a network that has just been started, in memory. Code that is not optimised moves what an
/// engine is made of through the stack, some 700 KiB of it.
const RESIDENT_BYTES_MAX: usize = if cfg!(debug_assertions) { 2 << 20 } else { 1 << 20 };

/// Turns of all drivers.
fn turns(handles: &[MetricsHandle]) -> u64 {
    let counters = handles.iter().flat_map(MetricsHandle::counters);
    counters.filter(|(name, _)| *name == "driver_turns").map(|(_, turns)| turns).sum()
}

#[test]
fn a_thousand_networks_cost_a_mebibyte_each_and_no_wakeup() {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = std::process::id();
    let (resident, threads) = (held::resident_bytes(own), held::threads(own));
    let began = std::time::Instant::now();
    let mut networks: Vec<SmoltcpNetwork> = (0..NETWORKS)
        .map(|slot| {
            let mut network = SmoltcpNetwork::try_new(NetworkConfig::default(), slot).unwrap();
            network.try_start(runtime.handle().clone()).unwrap();
            network
        })
        .collect();
    let each_us = began.elapsed().as_micros() / u128::from(NETWORKS);
    let each_bytes = (held::resident_bytes(own) - resident) / usize::try_from(NETWORKS).unwrap();
    println!("{NETWORKS} networks: {} KiB and {each_us} us each", each_bytes / 1024);
    assert!(each_bytes <= RESIDENT_BYTES_MAX, "{each_bytes} bytes each");
    let handles: Vec<_> = networks.iter().map(SmoltcpNetwork::metrics_handle).collect();
    until_still("no turn", Duration::from_secs(2), || turns(&handles));
    networks.iter_mut().for_each(|network| network.shutdown().unwrap());
    drop(networks);
    assert_eq!(held::threads(own), threads, "each driver's thread is gone");
}
