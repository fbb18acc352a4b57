//! A guest: a network namespace, and the `sluicegate attach` that serves it.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};
use sluicegate_host::adapter::tap::Tap;
use sluicegate_host::netns::Interface;
use sluicegate_host::{MetricsHandle, NetworkConfig, Permission, SmoltcpNetwork};
use tokio::runtime::Runtime;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::servers::Family;
use crate::waiting::PATIENCE;

/// The command under test.
pub(crate) fn sluicegate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluicegate"))
}

/// How a guest is to be served.
pub(crate) struct Setup<'a> {
    /// The MTU of its link.
    pub(crate) mtu: u16,
    /// The configuration file; `None`: there is none.
    pub(crate) config: Option<Value>,
    /// Where the engine runs and has its sockets; `None`: where this test does.
    pub(crate) host: Option<&'a Namespace>,
    /// The most descriptors that the engine may open.
    pub(crate) descriptors: Option<u32>,
    /// The engine says what it does.
    pub(crate) verbose: bool,
    /// The guest's kernel leaves work to the engine, and the other way round.
    pub(crate) offload: bool,
    /// What the engine's environment has besides.
    pub(crate) variables: &'a [(&'a str, &'a str)],
    /// More words for the engine's command.
    pub(crate) words: &'a [&'a str],
    /// Where the engine is asked and changed; `None`: nowhere.
    pub(crate) control: Option<PathBuf>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            mtu: 1500,
            config: Some(open_config(json!({}))),
            host: None,
            descriptors: None,
            verbose: false,
            offload: true,
            variables: &[],
            words: &[],
            control: None,
        }
    }
}

/// A configuration that lets everything out, and the fields of `more`.
pub(crate) fn open_config(mut more: Value) -> Value {
    more["policy"] = json!({ "default_egress": "allow" });
    more
}

/// What serves a guest.
enum Engine {
    /// The command.
    Command(Process),
    /// The library, in this process. The runtime outlives the network.
    Library { metrics: MetricsHandle, network: Box<Mutex<SmoltcpNetwork>>, runtime: Runtime },
}

/// A guest that is online.
pub(crate) struct Guest {
    // First, so that it ends first.
    engine: Engine,
    namespace: Namespace,
    slot: u16,
    _config: Option<ConfigFile>,
}

impl Guest {
    /// One whose traffic may go everywhere.
    pub(crate) fn online() -> Self {
        Self::with(&Setup::default())
    }

    /// One that is served as `setup` says.
    pub(crate) fn with(setup: &Setup<'_>) -> Self {
        allow_many_descriptors();
        let namespace = Namespace::new();
        // Its kernel asks for routers now and then, which is no traffic of the test's.
        namespace.set("ipv6/conf/default/router_solicitations", "0");
        let slot = free_slot();
        let config = setup.config.as_ref().map(ConfigFile::new);
        let mut arguments: Vec<OsString> = Vec::new();
        for (option, value) in [
            ("--netns", namespace.name().into()),
            ("--slot", slot.to_string().into()),
            ("--mtu", setup.mtu.to_string().into()),
            ("--offload", if setup.offload { "on" } else { "off" }.into()),
        ] {
            arguments.extend([option.into(), value]);
        }
        if let Some(config) = &config {
            arguments.extend(["--config".into(), config.0.clone().into()]);
        }
        if let Some(path) = &setup.control {
            arguments.extend(["--control".into(), path.into()]);
        }
        arguments.extend(setup.words.iter().map(Into::into));
        if setup.verbose {
            arguments.push("-vv".into());
        }
        let mut engine = Process::start(
            engine_command(setup)
                .envs(setup.variables.iter().copied())
                .arg("attach")
                .args(arguments),
        );
        engine.wait_for("ready\n");
        Self { engine: Engine::Command(engine), namespace, slot, _config: config }
    }

    /// One that the library serves, in this process, where its counters can be read. Its traffic
    /// may go everywhere.
    pub(crate) fn embedded() -> Self {
        let mut config = NetworkConfig::default();
        config.policy.default_egress = Permission::Allow;
        Self::embedded_with(config)
    }

    /// The same under `config`.
    pub(crate) fn embedded_with(config: NetworkConfig) -> Self {
        allow_many_descriptors();
        let namespace = Namespace::new();
        namespace.set("ipv6/conf/default/router_solicitations", "0");
        let slot = free_slot();
        let mut network = SmoltcpNetwork::try_new(config, slot.into()).unwrap();
        let addresses = network.addresses();
        let interface = Interface {
            name: "eth0".to_owned(),
            mac: addresses.guest_mac,
            mtu: addresses.mtu,
            ipv4: addresses.guest_ipv4,
            ipv6: addresses.guest_ipv6,
            gateway_ipv4: addresses.gateway_ipv4,
            gateway_ipv6: addresses.gateway_ipv6,
        };
        let tap = namespace.inside(|| {
            let tap = Tap::create(&interface.name, interface.mtu).unwrap();
            sluicegate_host::netns::configure(&interface).unwrap();
            tap
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        network.attach_link(Box::new(tap)).unwrap();
        network.start(runtime.handle().clone());
        let engine = Engine::Library {
            metrics: network.metrics_handle(),
            network: Box::new(Mutex::new(network)),
            runtime,
        };
        Self { engine, namespace, slot, _config: None }
    }

    /// Lets `see` see the library's network that serves it.
    pub(crate) fn network<T>(&self, see: impl FnOnce(&mut SmoltcpNetwork) -> T) -> T {
        match &self.engine {
            Engine::Library { network, .. } => see(&mut network.lock().unwrap()),
            Engine::Command(_) => panic!("no library serves this guest"),
        }
    }

    /// The tasks of the library that serves it.
    #[allow(dead_code, reason = "tests/shutdown.rs counts them")]
    pub(crate) fn tasks(&self) -> usize {
        match &self.engine {
            Engine::Library { runtime, .. } => runtime.metrics().num_alive_tasks(),
            Engine::Command(_) => panic!("no library serves this guest"),
        }
    }

    /// The command that serves it.
    pub(crate) fn engine(&self) -> &Process {
        match &self.engine {
            Engine::Command(process) => process,
            Engine::Library { .. } => panic!("no command serves this guest"),
        }
    }

    /// A counter of the library that serves it.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let Engine::Library { metrics, .. } = &self.engine else {
            panic!("no library serves this guest");
        };
        let counters = metrics.counters();
        let found = counters.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("there is no counter {name}")).1
    }

    /// One in `namespace` that `engine` serves as the guest of `slot`.
    pub(crate) fn served(engine: Process, namespace: Namespace, slot: u16) -> Self {
        Self { engine: Engine::Command(engine), namespace, slot, _config: None }
    }

    /// Its two parts: the command, and the namespace that it serves.
    pub(crate) fn into_parts(self) -> (Process, Namespace) {
        match self.engine {
            Engine::Command(process) => (process, self.namespace),
            Engine::Library { .. } => panic!("no command serves this guest"),
        }
    }

    /// Where it lives.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The number that its addresses follow from.
    pub(crate) fn slot(&self) -> u16 {
        self.slot
    }

    /// The gateway's address.
    pub(crate) fn gateway(&self, family: Family) -> IpAddr {
        gateway(self.slot, family)
    }

    /// The guest's own address.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        Self::address_in(self.slot, family)
    }

    /// The address of the guest in `slot`.
    pub(crate) fn address_in(slot: u16, family: Family) -> IpAddr {
        match gateway(slot, family) {
            IpAddr::V4(gateway) => Ipv4Addr::from_bits(gateway.to_bits() + 1).into(),
            IpAddr::V6(gateway) => Ipv6Addr::from_bits(gateway.to_bits() + 1).into(),
        }
    }

    /// A program inside the guest.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.namespace.command(program)
    }

    /// Connects from inside.
    pub(crate) fn try_connect(&self, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        let to = to.into();
        let stream = self.namespace.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Connects from inside to `port` of the gateway.
    pub(crate) fn connect(&self, family: Family, port: u16) -> TcpStream {
        self.try_connect((self.gateway(family), port)).unwrap()
    }

    /// A UDP socket inside that is connected to `to`, and is told of every ICMP error.
    pub(crate) fn datagrams(&self, to: impl Into<SocketAddr>) -> UdpSocket {
        let to = to.into();
        self.namespace.inside(|| {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            match to {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap(),
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap(),
            }
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }
}

fn engine_command(setup: &Setup<'_>) -> Command {
    let program = sluicegate().get_program().to_owned();
    let mut words: Vec<OsString> = Vec::new();
    if let Some(host) = setup.host {
        words.extend(["ip", "netns", "exec", host.name()].map(Into::into));
    }
    if let Some(count) = setup.descriptors {
        words.extend(["prlimit".into(), format!("--nofile={count}").into()]);
    }
    words.push(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// A slot that no other test of this process has.
pub(crate) fn free_slot() -> u16 {
    // The first address of the /24 in which both bytes of the slot count.
    static NEXT: AtomicU16 = AtomicU16::new(250);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The gateway of `slot`: 100.96.0.0/11 in pieces of 4, fd42:6d73:62:SLOT::/64.
pub(crate) fn gateway(slot: u16, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let pool = Ipv4Addr::new(100, 96, 0, 0).to_bits();
            Ipv4Addr::from_bits(pool + 4 * u32::from(slot) + 1).into()
        }
        Family::V6 => Ipv6Addr::new(0xfd42, 0x6d73, 0x62, slot, 0, 0, 0, 1).into(),
    }
}

/// This process holds both ends of connections, and a child's limit is ours.
fn allow_many_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).unwrap();
}

/// A configuration in a file that goes with the value.
pub(crate) struct ConfigFile(PathBuf);

impl ConfigFile {
    /// A file that holds `config`.
    pub(crate) fn new(config: &Value) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluicegate-{}-{count}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, config.to_string()).unwrap();
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // Nothing is left to be done where this fails.
        let _ = std::fs::remove_file(&self.0);
    }
}
