//! `sluicegate vm`: a directory booted as a microVM whose network card is the engine. Owns what is
//! looked for before the boot and what the guest runs first; the VMM is msb_krun, and from its
//! start on this process is the machine: it ends with the guest's exit code.

mod kernel;
mod probe;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use msb_krun::{ExitHandle, VmBuilder};
use nix::sys::signal::Signal;
use sluicegate_core::addr::INTERFACE_NAME;
use sluicegate_host::SmoltcpNetwork;

use super::failure::{Failure, complain, warn};
use super::inside::SET_UP_FAILED;
use super::link::{Autoconf, Described, LinkArgs};
use super::online::{allow_descriptors, tell_ports};
use super::signals::{Occurrence, Signals};

/// Boot a directory as a microVM whose network card is the engine
///
/// The guest's root is DIR (a container image unpacked, for one), its kernel that of libkrunfw, its
/// only network the engine's. Where DIR has a shell and `ip`, eth0 is set up before CMD starts;
/// else CMD finds its addresses in the MSB_NET variables.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Needs /dev/kvm and libkrunfw.so.5, which the distribution's package brings, or the wheel of
microsandbox: pip download --no-deps microsandbox; unzip microsandbox-*.whl '*/libkrunfw*'

Exit status: that of CMD; 125 if the options are wrong or the machine could not be
started. Ctrl-C turns the machine off.

Examples:
  sluicegate vm --rootfs ./alpine -- wget -qO- http://example.com
  sluicegate vm --rootfs ./debian --cpus 2 --memory 2048 --config policy.json --log -- bash
  sluicegate vm --rootfs ./alpine --krunfw ./libkrunfw.so.5.6.1 --egress deny -- sh")]
pub(crate) struct VmArgs {
    #[command(flatten)]
    link: LinkArgs,
    /// The guest's root directory; what the guest writes there stays
    #[arg(long, value_name = "DIR")]
    rootfs: PathBuf,
    /// The library that holds the guest's kernel [default: libkrunfw.so.5 where libraries are]
    #[arg(long, value_name = "PATH")]
    krunfw: Option<PathBuf>,
    /// Processors of the guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// Memory of the guest, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    memory: u32,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// Runs the machine. Comes back only if it could not be started.
pub(crate) fn run(args: VmArgs) -> ExitCode {
    if let Err(failure) = boot(args) {
        complain(failure.as_ref());
    }
    ExitCode::from(SET_UP_FAILED)
}

fn boot(args: VmArgs) -> Result<(), Failure> {
    if !args.rootfs.is_dir() {
        return Err(format!("--rootfs {}: not a directory", args.rootfs.display()).into());
    }
    let krunfw = kernel::library(args.krunfw.as_deref())?;
    probe::probe()?;
    let signals = Signals::block()?;
    let Described { mut network, control, .. } = args.link.network(Autoconf::Off)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    allow_descriptors();
    let backend = network.try_take_backend()?;
    network.try_start(runtime.handle().clone())?;
    tell_ports(&network);
    if let Some((socket, desk)) = control {
        socket.serve(runtime.handle(), desk)?;
    }
    let log = args.link.log(&network)?;
    let [program, arguments] = command(&args, &network);
    let vm = VmBuilder::new()
        .machine(|machine| machine.vcpus(args.cpus).memory_mib(args.memory as usize))
        .kernel(|kernel| kernel.krunfw_path(krunfw))
        .fs(|fs| fs.root(&args.rootfs))
        .net(|net| net.mac(network.guest_mac()).custom(backend))
        .exec(|exec| exec.path(program.concat()).args(arguments).envs(network.guest_env_vars()))
        .build()?;
    let exit = Arc::new(vm.exit_handle());
    end_on_signal(signals, Arc::clone(&exit))?;
    network.termination_handle().set_hook(Arc::new(move || exit.trigger()));
    let _log = log;
    match vm.enter()? {}
}

/// What the guest runs: the program, and its arguments.
fn command(args: &VmArgs, network: &SmoltcpNetwork) -> [Vec<String>; 2] {
    let (program, rest) = args.command.split_at(1);
    if !["bin/ip", "sbin/ip", "usr/bin/ip", "usr/sbin/ip"]
        .iter()
        .any(|place| is_there(&args.rootfs, place))
        || !is_there(&args.rootfs, "bin/sh")
    {
        warn("the root has no /bin/sh and ip: CMD must set eth0 up from the MSB_NET variables");
        return [program.to_vec(), rest.to_vec()];
    }
    let shell = ["-c".to_owned(), set_up(network), "sh".to_owned()];
    [vec!["/bin/sh".to_owned()], shell.into_iter().chain(args.command.clone()).collect()]
}

/// Whether the guest will find something at `place`: a link may point to where only it looks.
fn is_there(root: &Path, place: &str) -> bool {
    root.join(place).symlink_metadata().is_ok()
}

/// A script that sets eth0 up and becomes its arguments. It travels on the kernel's command line,
/// where nothing escapes a double quote: so it has none, and without separators and patterns `$@`
/// is what `"$@"` would be.
fn set_up(network: &SmoltcpNetwork) -> String {
    let link = network.addresses();
    let (mtu, eth) = (link.mtu, INTERFACE_NAME);
    let (ipv4, gateway_ipv4) = (link.guest_ipv4, link.gateway_ipv4);
    let (ipv6, gateway_ipv6) = (link.guest_ipv6, link.gateway_ipv6);
    format!(
        "ip link set lo up; ip link set {eth} mtu {mtu} up; \
         ip addr add {ipv4}/30 dev {eth}; ip route add default via {gateway_ipv4}; \
         ip addr add {ipv6}/64 dev {eth} nodad; ip -6 route add default via {gateway_ipv6}; \
         echo nameserver {gateway_ipv4} >/dev/resolv.conf; \
         mount -o bind /dev/resolv.conf /etc/resolv.conf; set -f; IFS=; exec $@"
    )
}

/// Turns the machine off when this process is asked to end.
fn end_on_signal(signals: Signals, exit: Arc<ExitHandle>) -> Result<(), Failure> {
    let (tell, occurrences) = std::sync::mpsc::channel();
    signals.tell(tell)?;
    std::thread::Builder::new().name("turn off".to_owned()).spawn(move || {
        while let Ok(occurrence) = occurrences.recv() {
            match occurrence {
                Occurrence::Asked { signal: Signal::SIGUSR1 | Signal::SIGUSR2, .. } => {}
                Occurrence::Asked { .. } => exit.trigger(),
                Occurrence::ChildChanged | Occurrence::NetworkEnded | Occurrence::GuestMustEnd => {}
            }
        }
    })?;
    Ok(())
}
