//! Measures the whole path with microsandbox-network in the product's place: the same guest, device
//! and servers as in the example `whole_path`, for figures of one sitting.
//!
//! `cargo run --release --manifest-path tests/real/krun/upstream/Cargo.toml [SECONDS]`

use std::net::Ipv4Addr;

use microsandbox_network::config::NetworkConfig;
use microsandbox_network::network::SmoltcpNetwork;
use microsandbox_network::policy::NetworkPolicy;
use microsandbox_types::DeploymentProfile;
use sluicegate_tests_krun::bench::{self, Path};

fn main() {
    // It asks for the process's provider of cryptography, TLS or not.
    rustls::crypto::ring::default_provider().install_default().expect("the first");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut config = NetworkConfig { policy: NetworkPolicy::allow_all(), ..Default::default() };
    config.interface.mtu = Some(1500);
    let config = serde_json::json!({"config": config, "outbound_proxy": null});
    let config = serde_json::from_value(config).expect("a configuration");
    let mut network =
        SmoltcpNetwork::new(config, 0, DeploymentProfile::SingleTenant).expect("a network");
    network.start(runtime.handle().clone());
    let path = Path {
        guest: (Ipv4Addr::new(172, 16, 0, 2), 30),
        gateway: Ipv4Addr::new(172, 16, 0, 1),
        mac: network.guest_mac(),
        backend: network.take_backend(),
    };
    bench::run(path, bench::duration());
}
