//! Measures the whole path with the product in it: a guest's stack, the device's worker, the
//! driver, sockets on this host. `tests/real/krun/upstream` does the same with its closest peer.
//!
//! `cargo run --release -p sluicegate-tests-krun --example whole_path [SECONDS]`, on an idle
//! machine. SECONDS is how long each scenario is measured.

use std::net::Ipv4Addr;

use sluicegate_host::{NetworkConfig, SmoltcpNetwork};
use sluicegate_tests_krun::bench::{self, Path};

fn main() {
    let config = r#"{"policy": {"default_egress": "allow"}}"#;
    let config = NetworkConfig::from_json(config).expect("a configuration");
    let mut network = SmoltcpNetwork::new(config, 0);
    let backend = network.take_backend();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    network.start(runtime.handle().clone());
    let path = Path {
        guest: (Ipv4Addr::new(100, 96, 0, 2), 30),
        gateway: Ipv4Addr::new(100, 96, 0, 1),
        mac: network.guest_mac(),
        backend,
    };
    bench::run(path, bench::duration());
    network.shutdown().expect("the driver was content");
}
