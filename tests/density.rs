//! A thousand networks in one process, each on a thread of its own.
//!
//! A process of its own, so that nothing else is measured.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod crowd;

use crowd::real::held;

/// Of a network that has just been started, in memory. Code that is not optimised moves what an
/// engine is made of through the stack, some 700 KiB of it.
const RESIDENT_BYTES_MAX: usize = if cfg!(debug_assertions) { 2 << 20 } else { 1 << 20 };

#[test]
fn a_thousand_networks_cost_a_mebibyte_each_and_no_wakeup() {
    crowd::raise_descriptors();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let threads = held::threads(std::process::id());
    let (mut networks, each_bytes) = crowd::gather("", |_, network| {
        network.try_start(runtime.handle().clone()).unwrap();
    });
    assert!(each_bytes <= RESIDENT_BYTES_MAX, "{each_bytes} bytes each");
    crowd::until_idle(&networks);
    networks.iter_mut().for_each(|network| network.shutdown().unwrap());
    drop(networks);
    assert_eq!(held::threads(std::process::id()), threads, "each driver's thread is gone");
}
