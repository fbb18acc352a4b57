//! A VMM whose guest has Sluicegate for its network card.
//!
//! `vmm ROOT PROGRAM [ARGUMENT]...` boots the directory ROOT as a microVM and runs PROGRAM in it.
//! The guest's agent finds its addresses in the `MSB_NET` variables. Needs /dev/kvm and libkrunfw.

use std::error::Error;
use std::sync::Arc;

use msb_krun::VmBuilder;
use sluicegate_host::{NetworkConfig, SmoltcpNetwork};

const USAGE: &str = "usage: vmm ROOT PROGRAM [ARGUMENT]...";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().ok_or(USAGE)?;
    let program = arguments.next().ok_or(USAGE)?;

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let config = NetworkConfig::from_json(r#"{"policy": {"default_egress": "allow"}}"#)?;
    let mut network = SmoltcpNetwork::try_new(config, 0)?;
    let backend = network.try_take_backend()?;
    network.try_start(runtime.handle().clone())?;

    let vm = VmBuilder::new()
        .machine(|machine| machine.vcpus(1).memory_mib(512))
        .fs(|fs| fs.root(root))
        .net(|net| net.mac(network.guest_mac()).custom(backend))
        .exec(|exec| exec.path(program).args(arguments).envs(network.guest_env_vars()))
        .build()?;
    let exit = vm.exit_handle();
    network.termination_handle().set_hook(Arc::new(move || exit.trigger()));
    // When the guest ends, so does the process, with the guest's exit code.
    match vm.enter()? {}
}
