//! The user's configuration: JSON in, checked once.
//!
//! Field names and meaning are those of microsandbox-network, so that a configuration written for
//! it loads here. What is not known is refused by its name: nothing that a user wrote is ever
//! ignored.
//!
#![doc = include_str!("config/fields.md")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Deserializer};
use sluicegate_core::addr::{Addresses, Ipv4Pool, Ipv6Pool, Mac, Overrides};
use sluicegate_core::{Config, ConfigError, Link, Profile, limits};

use crate::error::{Error, LoadError};

mod autoconf;
pub(crate) mod buffers;
mod dns;
mod file;
pub(crate) mod host;
mod http;
mod identity;
mod nameserver;
mod outbound;
mod policy;
mod ports;
mod proxy;
mod rate;
mod rules;
pub(crate) mod secrets;
mod tenant;
pub(crate) mod tls;

pub use autoconf::AutoconfConfig;
pub use dns::DnsConfig;
use file::File;
pub use host::HostPattern;
pub use http::{DenyResponseFormat, HttpConfig};
pub(crate) use identity::Identity;
pub use nameserver::{NameChannel, NameServer};
pub use outbound::OutboundConfig;
pub use policy::{DestinationConfig, PolicyConfig, RuleConfig};
pub(crate) use ports::PORTS_MAX;
pub use ports::{PortConfig, PortList, PortProtocol};
pub(crate) use proxy::CREDENTIAL_BYTES_MAX;
pub use proxy::{ProxyConfig, ProxyCredentials, ProxyException, ProxyProtocol};
pub use rate::{BucketConfig, RateConfig, RateLimiterConfig};
pub use secrets::{
    SecretConfig, SecretSource, SecretValue, SecretsConfig, SubstitutionConfig, ViolationAction,
};
pub use tls::{InterceptCaConfig, LeafCacheConfig, ScopedCaConfig, ScopedVerifyConfig, TlsConfig};

/// A configuration file is at most this long.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// An unknown name longer than this is like no known one.
const NAME_BYTES_MAX: usize = 64;

/// One guest's network, as the user wants it. By default the guest reaches the public Internet and
/// the gateway's name server. Who makes one without a file takes the default and assigns to its
/// fields (`host/examples/embed.rs`), as there are some that nobody sets; what is out of range is
/// told when the network is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Whether there is a network at all.
    pub enabled: bool,
    /// The guest's link.
    pub interface: InterfaceConfig,
    /// TCP flows at a time; 0: as many as can be.
    pub max_connections: Option<u32>,
    /// UDP flows at a time that the guest opened; 0: as many as can be.
    pub max_udp_connections: Option<u32>,
    /// Echo (ping) flows at a time; 0: as many as can be.
    pub max_icmp_connections: Option<u32>,
    /// Bytes that the buffers of all TCP flows hold together, which each has its share of; 0: as
    /// many as they like.
    pub max_buffered_bytes: Option<u64>,
    /// What of the guest is reached from outside.
    pub ports: Vec<PortConfig>,
    /// TCP flows at a time that were opened from outside; 0: as many as can be.
    pub max_inbound_tcp_connections: Option<u32>,
    /// UDP flows at a time that were opened from outside, beside the guest's own; 0: as many as can
    /// be.
    pub max_inbound_udp_connections: Option<u32>,
    /// Connections to a published port that may wait to be accepted.
    pub tcp_accept_queue_size: u32,
    /// What the guest may reach.
    pub policy: PolicyConfig,
    /// How names are resolved.
    pub dns: DnsConfig,
    /// Whether a flow that is allowed by a name alone must say that name, and in the clear.
    pub strict: bool,
    /// How denials are told to programs that speak HTTP.
    pub http: HttpConfig,
    /// How TLS is intercepted.
    pub tls: TlsConfig,
    /// Whether the guest is to trust the authorities that this host trusts
    /// ([`host_cas_cert_pem`](crate::SmoltcpNetwork::host_cas_cert_pem)).
    pub trust_host_cas: bool,
    /// Credentials that the guest uses and never has.
    pub secrets: SecretsConfig,
    /// Through whom connections go on; `None`: they go straight.
    pub outbound_proxy: Option<ProxyConfig>,
    /// From which address and interface of this host connections go on.
    pub outbound: OutboundConfig,
    /// Networks of 96 bits behind which is IPv4 (RFC 6052 2.2), beside 64:ff9b::/96.
    pub nat64_prefixes: Vec<Ipv6Addr>,
    /// How much may pass each way.
    pub rate_limiter: Option<RateLimiterConfig>,
    /// Whose word this is; no file says that ([`for_tenant`](Self::for_tenant)).
    profile: Profile,
    /// The link of a guest that is restored; no file says that.
    identity: Option<Identity>,
}

/// As [`from_json`](NetworkConfig::from_json) reads it, in whatever it is nested. There is no
/// `Serialize`: what is written would have the values of secrets, or be another configuration
/// without them.
impl<'de> Deserialize<'de> for NetworkConfig {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        File::deserialize(json)?.check().map_err(serde::de::Error::custom)
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interface: InterfaceConfig::default(),
            max_connections: None,
            max_udp_connections: None,
            max_icmp_connections: None,
            max_buffered_bytes: None,
            ports: vec![],
            max_inbound_tcp_connections: None,
            max_inbound_udp_connections: None,
            tcp_accept_queue_size: ports::ACCEPT_QUEUE_DEFAULT,
            policy: PolicyConfig::default(),
            dns: DnsConfig::default(),
            strict: true,
            http: HttpConfig::default(),
            tls: TlsConfig::default(),
            trust_host_cas: false,
            secrets: SecretsConfig::default(),
            outbound_proxy: None,
            outbound: OutboundConfig::default(),
            nat64_prefixes: vec![],
            rate_limiter: None,
            profile: Profile::SingleTenant,
            identity: None,
        }
    }
}

/// The guest's link; what is `None` follows from the slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InterfaceConfig {
    /// The guest's MAC address.
    #[serde(deserialize_with = "mac")]
    pub mac: Option<[u8; 6]>,
    /// The link's MTU, in bytes of IP packet.
    pub mtu: Option<u16>,
    /// The guest's IPv4 address.
    pub ipv4_address: Option<Ipv4Addr>,
    /// The network that slots take their /30 from.
    #[serde(deserialize_with = "rules::ipv4_pool")]
    pub ipv4_pool: Option<Ipv4Pool>,
    /// The guest's IPv6 address.
    pub ipv6_address: Option<Ipv6Addr>,
    /// The network that slots take their /64 from.
    #[serde(deserialize_with = "rules::ipv6_pool")]
    pub ipv6_pool: Option<Ipv6Pool>,
    /// The longest Ethernet frame that the guest's receive buffers take, in bytes without a virtio
    /// header.
    pub receive_frame_bytes: Option<u32>,
    /// Whether the guest is told its addresses when it asks for them (DHCP, DHCPv6, router
    /// solicitations), as a stock image does; one that reads the environment needs no such thing.
    pub autoconf: AutoconfConfig,
}

impl NetworkConfig {
    /// Reads `path`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), with the path, or if the file can't be read or is longer
    /// than 1 MiB.
    pub fn from_file(path: &Path) -> Result<Self, LoadError> {
        Self::from_json(&Self::text_of(path)?).map_err(|error| error.of(path))
    }

    /// The text of `path`, for [`from_json`](Self::from_json).
    ///
    /// # Errors
    /// The file can't be read, or is longer than 1 MiB.
    pub fn text_of(path: &Path) -> Result<String, LoadError> {
        use std::io::Read;
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(read)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(LoadError::TooLong { path: path.to_owned() });
        }
        Ok(text)
    }

    /// Reads JSON. Ranges are checked later, with the slot: [`to_core`](Self::to_core).
    ///
    /// # Errors
    /// What is not JSON, unknown, or of another type, with its field.
    pub fn from_json(text: &str) -> Result<Self, LoadError> {
        read_json::<File>(text)?.check()
    }

    /// The addresses of the guest in `slot`.
    ///
    /// # Errors
    /// A slot above 65535, or an override out of its range.
    pub fn addresses(&self, slot: u64) -> Result<Addresses, Error> {
        let number = u16::try_from(slot).map_err(|_| Error::Slot(slot))?;
        if let Some(identity) = &self.identity {
            return Ok(identity.addresses);
        }
        let interface = &self.interface;
        let overrides = Overrides {
            mac: interface.mac,
            mtu: interface.mtu,
            ipv4_address: interface.ipv4_address,
            ipv4_pool: interface.ipv4_pool,
            ipv6_address: interface.ipv6_address,
            ipv6_pool: interface.ipv6_pool,
        };
        Ok(Addresses::of_slot(number, &overrides)?)
    }

    /// The longest frame that the guest takes, if anybody says so.
    pub(crate) fn receive_frame_bytes(&self) -> Option<u32> {
        let known = self.identity.map(|identity| identity.receive_frame_bytes);
        known.or(self.interface.receive_frame_bytes)
    }

    /// The same for the guest of `network`, whatever that has become since it began.
    pub(crate) fn for_guest_of(mut self, network: &Self) -> Self {
        self.identity = network.identity;
        self
    }

    /// The variables of this process's environment that hold credentials: of its secrets, and of
    /// the outbound proxy. Whatever is started for the guest must not inherit them.
    pub fn credential_variables(&self) -> impl Iterator<Item = &str> {
        let secrets = self.secrets.secrets.iter().filter_map(|secret| secret.source.as_ref());
        let proxy = self.outbound_proxy.iter().filter_map(|proxy| proxy.credentials.as_ref());
        secrets
            .chain(proxy.map(|user| &user.password))
            .map(|SecretSource::Env { var }| var.as_str())
    }

    /// The same without the values of its secrets.
    pub(crate) fn without_values(mut self) -> Self {
        for secret in &mut self.secrets.secrets {
            secret.value = SecretValue::default();
        }
        self
    }

    /// Checks that `new` differs in nothing that this host can't change while a network runs; what
    /// the engine can't is the engine's to say.
    pub(crate) fn check_fixed(&self, new: &Self) -> Result<(), ConfigError> {
        let fixed = |field, is_same, value: &str| {
            let expected = "as it was at the start: it can't change while the network runs";
            if is_same { Ok(()) } else { Err(ConfigError::new(field, value, expected)) }
        };
        fixed("interface", self.interface == new.interface, "another link")?;
        let is_same_proxy = self.outbound_proxy == new.outbound_proxy;
        fixed("outbound_proxy", is_same_proxy, "another")?;
        fixed("outbound", self.outbound == new.outbound, "another way out")?;
        let trust = new.trust_host_cas;
        fixed(
            "trust_host_cas",
            self.trust_host_cas == trust,
            if trust { "true" } else { "false" },
        )?;
        fixed("profile", self.profile == new.profile, "another profile")
    }

    /// The engine's configuration for the guest in `slot`; `seed` is secret randomness. It does not
    /// know this host's own addresses yet.
    ///
    /// # Errors
    /// A disabled network, a slot above 65535, or a field out of its range.
    pub fn to_core(&self, slot: u64, seed: [u8; 16]) -> Result<Config, Error> {
        if !self.enabled {
            let expected = "true; a disabled network is one that is not made";
            return Err(ConfigError::new("enabled", false, expected).into());
        }
        self.dns.check()?;
        self.tls.check()?;
        self.secrets.check()?;
        self.outbound_proxy.as_ref().map_or(Ok(()), ProxyConfig::check)?;
        self.outbound.check()?;
        if !self.secrets.secrets.is_empty() && !self.tls.enabled {
            let (count, expected) = (self.secrets.secrets.len(), "of use without tls.enabled");
            return Err(ConfigError::new("secrets.secrets", count, expected).into());
        }
        ports::check(&self.ports, self.tcp_accept_queue_size)?;
        let a = self.addresses(slot)?;
        let prefixes = self.nat64_prefixes.as_slice();
        let too_many = |_| ConfigError::new("nat64_prefixes", prefixes.len(), "at most 8 networks");
        let bound = self.receive_frame_bytes();
        let limiter = self.rate_limiter.unwrap_or_default();
        let mut policy = self.policy.to_core()?;
        policy.profile = self.profile;
        let tcp_flows_max =
            cap(self.max_connections, limits::TCP_FLOWS_DEFAULT, limits::TCP_FLOWS_MAX);
        let (tcp_receive_bytes, tcp_send_bytes) =
            buffers::divide(self.max_buffered_bytes, tcp_flows_max)?;
        let config = Config {
            link: Link {
                guest_mac: a.guest_mac,
                gateway_mac: a.gateway_mac,
                guest_ipv4: a.guest_ipv4,
                gateway_ipv4: a.gateway_ipv4,
                guest_ipv6: a.guest_ipv6,
                gateway_ipv6: a.gateway_ipv6,
                mtu: a.mtu,
                receive_frame_bytes: bound.unwrap_or(limits::RECEIVE_FRAME_BYTES_DEFAULT),
            },
            tcp_flows_max,
            udp_flows_max: udp_cap(self.max_udp_connections),
            inbound_udp_flows_max: udp_cap(self.max_inbound_udp_connections),
            icmp_flows_max: cap(
                self.max_icmp_connections,
                limits::ICMP_FLOWS_DEFAULT,
                limits::ICMP_FLOWS_MAX,
            ),
            inbound_tcp_flows_max: cap(self.max_inbound_tcp_connections, u32::MAX, u32::MAX),
            tcp_receive_bytes,
            tcp_send_bytes,
            fragment_sets: limits::FRAGMENT_SETS_DEFAULT,
            policy,
            strict: self.strict,
            deny_page: self.http.to_core()?,
            intercepted_ports: self.tls.ports()?,
            relays_http: self.secrets.go_in_the_clear(),
            refuses_quic: self.tls.block_quic_on_intercept,
            // Who may have a secret, or passes by, is known by name; and a proxy is told names.
            keeps_names: !self.secrets.secrets.is_empty()
                || !self.tls.bypass.is_empty()
                || self.outbound_proxy.is_some(),
            rebind_protection: self.dns.rebind_protection,
            own_addresses: Default::default(),
            nat64_prefixes: prefixes.try_into().map_err(too_many)?,
            from_guest_rate: limiter.egress.map(RateConfig::to_core),
            to_guest_rate: limiter.ingress.map(RateConfig::to_core),
            autoconf: self.interface.autoconf.to_core()?,
            seed,
        };
        config.check()?;
        Ok(config)
    }
}

/// Zero asks for no cap, and gets the highest.
fn cap(configured: Option<u32>, default: u32, highest: u32) -> u32 {
    match configured {
        None => default,
        Some(0) => highest,
        Some(flows) => flows,
    }
}

fn udp_cap(configured: Option<u32>) -> u32 {
    cap(configured, limits::UDP_FLOWS_DEFAULT, limits::UDP_FLOWS_MAX)
}

/// Reads all of `text`.
///
/// # Errors
/// What is not JSON, unknown, or of another type, with its field.
pub(crate) fn read_json<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, LoadError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(explain)?;
    json.end().map_err(|problem| LoadError::Json { field: ".".to_owned(), problem })?;
    Ok(value)
}

/// What `error` says, and the name that was meant if one is near.
fn explain(error: serde_path_to_error::Error<serde_json::Error>) -> LoadError {
    let field = error.path().to_string();
    let problem = error.into_inner();
    match nearest(&problem.to_string()) {
        Some(nearest) => {
            let (line, column) = (problem.line(), problem.column());
            LoadError::Unknown { field, nearest, line, column }
        }
        None => LoadError::Json { field, problem },
    }
}

/// The known field nearest to the unknown one of `message`, whose form is serde's:
/// "unknown field `a`, expected one of `b`, `c`". It has no other way to tell the names.
fn nearest(message: &str) -> Option<String> {
    let mut names = message.strip_prefix("unknown field `")?.split('`').step_by(2);
    let unknown = names.next().filter(|name| name.len() <= NAME_BYTES_MAX)?;
    let rated = names.map(|name| (strsim::jaro(unknown, name), name));
    let near = rated.filter(|(likeness, _)| *likeness > 0.8);
    let (_, name) = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(name.to_owned())
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected six pairs of hex digits, as 02:6d:73:00:00:02, or six bytes"
)]
enum MacForm {
    Text(String),
    Octets([u8; 6]),
}

fn mac<'de, D: Deserializer<'de>>(json: D) -> Result<Option<[u8; 6]>, D::Error> {
    let expected = "six pairs of hex digits with colons between, as 02:6d:73:00:00:02";
    match Option::<MacForm>::deserialize(json)? {
        None => Ok(None),
        Some(MacForm::Octets(octets)) => Ok(Some(octets)),
        Some(MacForm::Text(text)) => match text.parse::<Mac>() {
            Ok(mac) => Ok(Some(mac.0)),
            Err(_) => Err(serde::de::Error::custom(format!("{text:?} is not {expected}"))),
        },
    }
}

#[cfg(test)]
mod tests;
