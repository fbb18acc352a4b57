//! The guest's network as the command line describes it. Owns the arguments that all share which
//! serve a guest, and how they and a config file become a [`SmoltcpNetwork`]; must not know
//! namespaces.

use std::path::{Path, PathBuf};

use sluicegate_host::adapter::tap::Tap;
use sluicegate_host::config::{PolicyConfig, PortConfig, PortList};
use sluicegate_host::netns::Interface;
use sluicegate_host::{Error, NetworkConfig, Permission, SmoltcpNetwork, Snapshot};

use super::config_file;
use super::control::{ControlSocket, Desk, Document};
use super::failure::{Failure, warn};
use super::guest_env::{self, Withheld};
use super::log::{Log, LogFormat};
use super::sandbox::{self, Removable};

/// What the guest's network is like.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct LinkArgs {
    /// Configuration of the network, JSON; - for the standard input (`sluicegate check FILE` tells
    /// what is wrong with one)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number of the guest on this host, which its addresses follow from
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    slot: u16,
    /// Take the place of the network whose snapshot (`sluicegate ctl snapshot`) this is: with its
    /// addresses, whatever the slot, and its ports and names
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
    /// MTU of the guest's interface: 1280 to 65520 [default: the config's, else 1500]
    #[arg(long, value_name = "N")]
    mtu: Option<u16>,
    /// What happens to traffic that no rule of the config matches; without a config: to all traffic
    /// [default: the config's; without one, the public Internet and the name server are reached]
    #[arg(long, value_name = "VERDICT")]
    egress: Option<Egress>,
    /// Reach a port of the guest at a port of this host, as 8080:80, 0.0.0.0:8080:80, 53:53/udp or
    /// 8000-8009:80-89; an address of IPv6 is in brackets; host port 0: any that is free, which is
    /// told. May be said again
    #[arg(long, short = 'p', value_name = "[BIND:]HOST:GUEST[/udp]")]
    publish: Vec<PortList>,
    /// Go on outside from this address of this host (of either family one), or by this interface;
    /// over what the config's `outbound` says, also where that is a tenant's. May be said again
    #[arg(long, value_name = "ADDRESS|INTERFACE")]
    outbound: Vec<String>,
    /// Whose word the configuration is: with `multi-tenant` a tenant's, who reaches the public
    /// Internet and the gateway's name server at most, and decides neither its addresses
    /// nor its name servers
    #[arg(long, value_name = "PROFILE", default_value = "single-tenant")]
    profile: ProfileName,
    /// Write a line to the standard error for every flow that is denied, in words or as JSON
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text")]
    log: Option<LogFormat>,
    /// Whether segments of up to 64 KiB cross the guest's interface in one piece, whatever its MTU,
    /// as far as the kernel has that; with `off` every frame fits, its checksum in place
    #[arg(long, value_name = "SWITCH", default_value = "on")]
    offload: Switch,
    /// Whether the guest is told its addresses when it asks, by DHCP, DHCPv6 and router
    /// advertisements [default: the config's, else on for `attach` and `serve`, else off]
    #[arg(long, value_name = "SWITCH")]
    autoconf: Option<Autoconf>,
    /// Write the authority that signs in the servers' place where TLS is intercepted to this file
    /// (PEM), for the guest's trust store
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Let the network be asked and changed at this Unix socket (`sluicegate ctl`), which only this
    /// user may connect to
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Whether this process gives up what it needs no more once it has the guest's link: its
    /// capabilities, writing and running files, and system calls to that end
    #[arg(long, value_name = "SWITCH", default_value = "on")]
    sandbox: Switch,
}

/// Whether a guest is told its addresses, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Autoconf {
    /// The gateway answers
    On,
    /// Nobody does
    Off,
}

/// A deployment profile on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProfileName {
    /// That of whoever runs this
    #[default]
    SingleTenant,
    /// A tenant's
    MultiTenant,
}

impl ProfileName {
    /// `config` as the profile has it.
    pub(super) fn apply(self, config: NetworkConfig) -> NetworkConfig {
        match self {
            Self::SingleTenant => config,
            Self::MultiTenant => config.for_tenant(),
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(crate) enum Switch {
    #[default]
    On,
    Off,
}

/// A verdict on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Egress {
    /// It may leave
    Allow,
    /// It is refused
    Deny,
}

impl From<Egress> for Permission {
    fn from(egress: Egress) -> Self {
        match egress {
            Egress::Allow => Self::Allow,
            Egress::Deny => Self::Deny,
        }
    }
}

impl LinkArgs {
    /// Prepares the guest's interface.
    pub(super) fn prepare(&self, tap: &mut Tap) {
        match self.offload {
            Switch::On => {
                let offload = tap.turn_offload_on();
                tracing::debug!(?offload, "the guest's interface");
            }
            Switch::Off => {}
        }
    }

    /// The network that the arguments describe, not yet started, for a guest that `autoconf` tells
    /// its addresses unless somebody decided otherwise. Says on the standard error what may leave
    /// if nobody decided that.
    pub(super) fn network(&self, autoconf: Autoconf) -> Result<Described, Failure> {
        let (text, config) = config_file::read(self.config.as_deref())?;
        let mut args = self.clone();
        args.decide_autoconf(&config, autoconf);
        // Of all that the file says, whatever of it holds.
        let mut withheld = Withheld::of(&config, self.config.as_deref(), self.control.as_deref());
        let mut config = args.overlay(config);
        withheld.add_key(&config.tls);
        if !config.enabled {
            return Err("enabled: the config says false, so there is no network to make".into());
        }
        self.decide(&mut config.policy);
        if self.profile == ProfileName::SingleTenant {
            config.ports.extend(self.published());
        }
        let control = self.control.as_deref().map(|path| -> Result<_, Failure> {
            let document = Document::first(&text, &config)?;
            Ok((ControlSocket::bind(path)?, document))
        });
        let control = control.transpose()?;
        let slot = self.slot.into();
        let mut network = match &self.restore {
            Some(path) => {
                let snapshot = Snapshot::from_file(path).map_err(|error| {
                    // The others name the file.
                    if let Error::Config(error) = error {
                        format!("--restore {}: {error}", path.display())
                    } else {
                        format!("--restore {error}")
                    }
                })?;
                SmoltcpNetwork::try_restore(config, slot, snapshot)?
            }
            None => SmoltcpNetwork::try_new(config, slot)?,
        };
        if let Some(path) = &self.ca_out {
            guest_env::write_authority(&network, path)?;
        }
        let control = control.map(|(socket, document)| {
            let overlay = move |config| args.overlay(config);
            (socket, Desk::new(network.control_handle(), overlay, document))
        });
        // Last, so that what is wrong is not said behind it.
        if self.egress.is_none() && self.config.is_none() {
            warn(
                "without --config the public Internet is reached, and not this host or private \
                 networks; --egress allow lets all traffic out, --egress deny none",
            );
        }
        Ok(Described { network, control, withheld })
    }

    /// Decides whether the guest is told its addresses: the arguments' word, else that of `config`,
    /// else `default`.
    fn decide_autoconf(&mut self, config: &NetworkConfig, default: Autoconf) {
        let file = config.interface.autoconf.enabled;
        let file = file.map(|told| if told { Autoconf::On } else { Autoconf::Off });
        self.autoconf = self.autoconf.or(file).or(Some(default));
    }

    /// What the arguments make of `config`, whether it is that of the start or a later one.
    pub(super) fn overlay(&self, config: NetworkConfig) -> NetworkConfig {
        let mut config = self.profile.apply(config);
        if self.profile == ProfileName::MultiTenant {
            // A tenant publishes nothing: these stay, whatever it writes.
            config.ports.extend(self.published());
        }
        for word in &self.outbound {
            config.outbound.say(word);
        }
        config.interface.mtu = self.mtu.or(config.interface.mtu);
        let asked = self.autoconf.map(|asked| asked == Autoconf::On);
        let enabled = &mut config.interface.autoconf.enabled;
        *enabled = asked.or(*enabled);
        config
    }

    /// The ports that the arguments publish.
    fn published(&self) -> impl Iterator<Item = &PortConfig> {
        self.publish.iter().flat_map(|list| &list.0)
    }

    /// Gives up what is not needed any more, unless the arguments say no; what is `removable`, and
    /// the control socket, may still be removed. To be called before threads are started.
    pub(super) fn give_up(&self, removable: Option<Removable<'_>>) -> Result<(), Failure> {
        let control = self.control.as_deref().map(folder_of).map(Removable::Files);
        let removable: Vec<_> = removable.into_iter().chain(control).collect();
        match self.sandbox {
            Switch::On => sandbox::enter(&removable).map_err(|failure| {
                format!("giving up privileges: {failure}; --sandbox off goes on without").into()
            }),
            Switch::Off => Ok(()),
        }
    }

    /// Begins the log of `network` that the arguments ask for.
    pub(super) fn log(&self, network: &SmoltcpNetwork) -> Result<Option<Log>, Failure> {
        let start = |format| Log::start(network.events(), format);
        Ok(self.log.map(start).transpose()?)
    }

    /// Lets the arguments have their say on `policy`, the file's or the default.
    fn decide(&self, policy: &mut PolicyConfig) {
        let Some(egress) = self.egress else { return };
        match self.config {
            Some(_) => policy.default_egress = egress.into(),
            // Who says "deny" does not expect what the default policy allows.
            // And what is published is to be reached.
            None => *policy = PolicyConfig::without_rules(egress.into(), Permission::Allow),
        }
    }
}

/// A network that was described, who may ask and change it, and what of it is not for a command
/// that has it.
pub(super) struct Described {
    pub(super) network: SmoltcpNetwork,
    pub(super) control: Option<(ControlSocket, Desk)>,
    pub(super) withheld: Withheld,
}

/// The folder of the file `path`.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// The guest's interface, called `name`, on the link of `network`.
pub(super) fn interface(name: &str, network: &SmoltcpNetwork) -> Interface {
    let addresses = network.addresses();
    Interface {
        name: name.to_owned(),
        mac: addresses.guest_mac,
        mtu: addresses.mtu,
        ipv4: addresses.guest_ipv4,
        ipv6: addresses.guest_ipv6,
        gateway_ipv4: addresses.gateway_ipv4,
        gateway_ipv6: addresses.gateway_ipv6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decides_last_on_autoconf_is_asked_first() {
        let tells = |asked, file, default| {
            let mut config = NetworkConfig::default();
            config.interface.autoconf.enabled = file;
            let mut args = LinkArgs { autoconf: asked, ..LinkArgs::default() };
            args.decide_autoconf(&config, default);
            args.overlay(config).interface.autoconf.enabled == Some(true)
        };
        for default in [Autoconf::On, Autoconf::Off] {
            assert_eq!(tells(None, None, default), default == Autoconf::On);
            for file in [true, false] {
                assert_eq!(tells(None, Some(file), default), file);
                assert!(tells(Some(Autoconf::On), Some(file), default));
                assert!(!tells(Some(Autoconf::Off), Some(file), default));
            }
        }
    }

    #[test]
    fn egress_changes_the_default_of_a_config_and_is_the_whole_policy_without_one() {
        for (egress, permission) in
            [(Egress::Allow, Permission::Allow), (Egress::Deny, Permission::Deny)]
        {
            let mut policy = PolicyConfig::default();
            let mut args = LinkArgs { egress: Some(egress), ..LinkArgs::default() };
            args.decide(&mut policy);
            assert_eq!(policy, PolicyConfig::without_rules(permission, Permission::Allow));
            args.config = Some("network.json".into());
            policy = PolicyConfig::default();
            args.decide(&mut policy);
            let expected = PolicyConfig { default_egress: permission, ..PolicyConfig::default() };
            assert_eq!(policy, expected);
        }
    }
}
