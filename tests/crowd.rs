//! A thousand networks in one process, and what each costs while its guest does nothing. Whoever
//! measures that is a process of its own.

#![allow(clippy::disallowed_methods, reason = "what is measured runs on the real clock")]

#[path = "real"]
#[allow(dead_code, reason = "of tests/real/, what waits and what measures")]
pub(crate) mod real {
    pub(crate) mod held;
    pub(crate) mod waiting;
}

use std::time::Duration;

use real::held;
use real::waiting::until_still;
use sluicegate_host::{MetricsHandle, NetworkConfig, SmoltcpNetwork};

const NETWORKS: u64 = 1000;

/// Starts a thousand networks, each by `start`; returns them, and how many bytes of memory each
/// has taken.
pub(crate) fn gather(
    what: &str,
    mut start: impl FnMut(u64, &mut SmoltcpNetwork),
) -> (Vec<SmoltcpNetwork>, usize) {
    let own = std::process::id();
    let resident = held::resident_bytes(own);
    let began = std::time::Instant::now();
    let networks: Vec<SmoltcpNetwork> = (0..NETWORKS)
        .map(|slot| {
            let mut network = SmoltcpNetwork::try_new(NetworkConfig::default(), slot).unwrap();
            start(slot, &mut network);
            network
        })
        .collect();
    let each_us = began.elapsed().as_micros() / u128::from(NETWORKS);
    let each_bytes = (held::resident_bytes(own) - resident) / usize::try_from(NETWORKS).unwrap();
    println!("{NETWORKS} networks{what}: {} KiB and {each_us} us each", each_bytes / 1024);
    (networks, each_bytes)
}

/// Lets this process have as many descriptors as it may.
pub(crate) fn raise_descriptors() {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

/// Returns once no driver of `networks` has had a turn for two seconds.
pub(crate) fn until_idle(networks: &[SmoltcpNetwork]) {
    let handles: Vec<_> = networks.iter().map(SmoltcpNetwork::metrics_handle).collect();
    let turns = || -> u64 {
        let counters = handles.iter().flat_map(MetricsHandle::counters);
        counters.filter(|(name, _)| *name == "driver_turns").map(|(_, turns)| turns).sum()
    };
    until_still("no turn", Duration::from_secs(2), turns);
}
