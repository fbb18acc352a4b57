//! The policy as it is written: the JSON of microsandbox-network.
//!
//! Owns its forms; must not know what a rule means. A policy
//! that is written denies in either direction unless it says otherwise; one that is left out is
//! [`PolicyConfig::default`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use sluicegate_core::addr::{Ipv4Pool, Ipv6Pool};
use sluicegate_core::{Cidr, Direction, Group, Permission, PortRange, Protocol};

use super::policy::{DestinationConfig, PolicyConfig, RuleConfig};

/// The prefix that counts without being configured (RFC 6052 2.1).
const NAT64_WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PolicyFile {
    #[serde(with = "PermissionWord")]
    default_egress: Permission,
    #[serde(with = "PermissionWord")]
    default_ingress: Permission,
    rules: Option<Vec<RuleFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    direction: DirectionWord,
    destination: DestinationFile,
    #[serde(default)]
    protocols: Vec<ProtocolFile>,
    #[serde(default)]
    ports: Vec<PortsFile>,
    #[serde(with = "PermissionWord")]
    action: Permission,
    strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(remote = "Permission", rename_all = "snake_case")]
enum PermissionWord {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DirectionWord {
    Egress,
    Ingress,
    Any,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DestinationFile {
    Any,
    #[serde(deserialize_with = "cidr")]
    Cidr(Cidr),
    Domain(String),
    DomainSuffix(String),
    #[serde(with = "GroupWord")]
    Group(Group),
}

#[derive(Deserialize)]
#[serde(remote = "Group", rename_all = "snake_case")]
enum GroupWord {
    Public,
    Private,
    Loopback,
    LinkLocal,
    Metadata,
    Multicast,
    Host,
}

#[derive(Deserialize)]
struct ProtocolFile(#[serde(with = "ProtocolWord")] Protocol);

#[derive(Deserialize)]
#[serde(remote = "Protocol", rename_all = "snake_case")]
enum ProtocolWord {
    Tcp,
    Udp,
    Icmpv4,
    Icmpv6,
}

#[derive(Deserialize)]
#[serde(try_from = "Ends")]
struct PortsFile(PortRange);

/// Ports as they are written; the ends may be the wrong way round.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ends {
    start: u16,
    end: u16,
}

impl TryFrom<Ends> for PortsFile {
    type Error = String;

    fn try_from(Ends { start, end }: Ends) -> Result<Self, String> {
        if start > end {
            return Err(format!("start {start} is above end {end}; ports go from low to high"));
        }
        Ok(Self(PortRange { start, end }))
    }
}

/// As it is read: `{"default_egress": "deny", "default_ingress": "allow", "rules": [...]}`.
impl Serialize for PolicyConfig {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json!({
            "default_egress": word(self.default_egress),
            "default_ingress": word(self.default_ingress),
            "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
        })
        .serialize(json)
    }
}

fn word(permission: Permission) -> &'static str {
    match permission {
        Permission::Allow => "allow",
        Permission::Deny => "deny",
    }
}

fn rule(rule: &RuleConfig) -> Value {
    let destination = match &rule.destination {
        DestinationConfig::Any => json!("any"),
        DestinationConfig::Cidr(network) => json!({ "cidr": network.to_string() }),
        DestinationConfig::Group(group) => json!({ "group": group.name() }),
        DestinationConfig::Domain(name) => json!({ "domain": name }),
        DestinationConfig::DomainSuffix(name) => json!({ "domain_suffix": name }),
    };
    let range = |range: &PortRange| json!({ "start": range.start, "end": range.end });
    let mut json = json!({
        "direction": rule.direction.map_or("any", Direction::name),
        "destination": destination,
        "protocols": rule.protocols.iter().map(|one| one.name()).collect::<Vec<_>>(),
        "ports": rule.ports.iter().map(range).collect::<Vec<_>>(),
        "action": word(rule.action),
    });
    if let Some(strict) = rule.strict {
        json["strict"] = strict.into();
    }
    json
}

impl PolicyFile {
    /// The policy.
    pub(super) fn into_policy(self) -> PolicyConfig {
        let rules = self.rules.unwrap_or_default().into_iter();
        PolicyConfig {
            default_egress: self.default_egress,
            default_ingress: self.default_ingress,
            rules: rules.map(RuleFile::into_rule).collect(),
        }
    }
}

impl RuleFile {
    fn into_rule(self) -> RuleConfig {
        let destination = match self.destination {
            DestinationFile::Any => DestinationConfig::Any,
            DestinationFile::Cidr(network) => DestinationConfig::Cidr(network),
            DestinationFile::Group(group) => DestinationConfig::Group(group),
            DestinationFile::Domain(name) => DestinationConfig::Domain(canonical(&name)),
            DestinationFile::DomainSuffix(name) => {
                DestinationConfig::DomainSuffix(canonical(&name))
            }
        };
        RuleConfig {
            direction: match self.direction {
                DirectionWord::Egress => Some(Direction::Egress),
                DirectionWord::Ingress => Some(Direction::Ingress),
                DirectionWord::Any => None,
            },
            destination,
            protocols: self.protocols.into_iter().map(|protocol| protocol.0).collect(),
            ports: self.ports.into_iter().map(|ports| ports.0).collect(),
            action: self.action,
            strict: self.strict,
        }
    }
}

/// `name` as it is compared: in lower case, without a dot at either end. What is no name is refused
/// later.
fn canonical(name: &str) -> String {
    let name = name.strip_prefix('.').unwrap_or(name);
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A network, or an address alone.
fn cidr<'de, D: Deserializer<'de>>(json: D) -> Result<Cidr, D::Error> {
    let text = String::deserialize(json)?;
    network(&text).ok_or_else(|| {
        D::Error::custom(format!("{text:?} is not a network, as 10.0.0.0/8, or an address"))
    })
}

/// A pool of IPv4 addresses: a network as rules have them, of which the bits of hosts don't count.
pub(super) fn ipv4_pool<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Ipv4Pool>, D::Error> {
    pool(json, |address, bits| match address {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            Some((Ipv4Addr::from_bits(v4.to_bits() & !hosts), bits))
        }
        IpAddr::V6(_) => None,
    })
}

/// The same of IPv6 addresses.
pub(super) fn ipv6_pool<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Ipv6Pool>, D::Error> {
    pool(json, |address, bits| match address {
        IpAddr::V6(v6) => {
            let hosts = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
            Some((Ipv6Addr::from_bits(v6.to_bits() & !hosts), bits))
        }
        IpAddr::V4(_) => None,
    })
}

fn pool<'de, P, D: Deserializer<'de>>(
    json: D,
    of: impl FnOnce(IpAddr, u8) -> Option<P>,
) -> Result<Option<P>, D::Error> {
    let Some(text) = Option::<String>::deserialize(json)? else { return Ok(None) };
    let network = address_and_bits(&text).filter(|_| text.contains('/'));
    let pool = network.and_then(|(address, bits)| of(address, bits));
    let wrong = || D::Error::custom(format!("{text:?} is not a network, as 10.0.0.0/8"));
    pool.map(Some).ok_or_else(wrong)
}

/// A network: an address, and how many of its bits count.
fn network(text: &str) -> Option<Cidr> {
    let (address, bits) = address_and_bits(text)?;
    Cidr::new(address, bits)
}

/// An address, and how many of its bits count: a number, a mask (of IPv4), or all of them.
fn address_and_bits(text: &str) -> Option<(IpAddr, u8)> {
    let Some((address, length)) = text.split_once('/') else {
        let address: IpAddr = text.parse().ok()?;
        return Some((address, if address.is_ipv4() { 32 } else { 128 }));
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = match length.parse::<Ipv4Addr>() {
        Ok(mask) if address.is_ipv4() => mask_bits(mask)?,
        Ok(_) => return None,
        // A number, and not with a sign as Rust lets it have one.
        Err(_) if length.bytes().all(|byte| byte.is_ascii_digit()) => length.parse().ok()?,
        Err(_) => return None,
    };
    Some((address, bits))
}

/// How many bits of `mask` are set, if those are its first.
fn mask_bits(mask: Ipv4Addr) -> Option<u8> {
    let ones = mask.to_bits().leading_ones();
    let is_mask = mask.to_bits().checked_shl(ones).unwrap_or(0) == 0;
    u8::try_from(ones).ok().filter(|_| is_mask)
}

/// NAT64 prefixes beside the one that always counts.
pub(super) fn nat64<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<Ipv6Addr>, D::Error> {
    let networks: Vec<Nat64File> = Option::deserialize(json)?.unwrap_or_default();
    let prefixes = networks.into_iter().map(|network| network.0);
    Ok(prefixes.filter(|prefix| *prefix != NAT64_WELL_KNOWN).collect())
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Nat64File(Ipv6Addr);

impl TryFrom<String> for Nat64File {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = text.strip_suffix("/96").and_then(|address| address.parse::<Ipv6Addr>().ok());
        let prefix = address.map(|address| Ipv6Addr::from_bits(address.to_bits() >> 32 << 32));
        let expected = "a network of 96 bits, as 64:ff9b::/96";
        prefix.map(Self).ok_or_else(|| format!("{text:?} is not {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;

    fn load(text: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::from_json(text).map_err(|error| error.to_string())
    }

    /// A policy of one rule, with `destination` and `more` of its members.
    fn one(destination: &str, more: &str) -> Result<RuleConfig, String> {
        let text = format!(
            r#"{{"policy": {{"rules": [{{"direction": "egress", "destination": {destination},
                "action": "allow"{more}}}]}}}}"#
        );
        load(&text).map(|mut config| config.policy.rules.remove(0))
    }

    /// The default of microsandbox-network 0.7.13, as it writes it.
    const PEER: &str = r#"{"policy": {
        "default_egress": "deny", "default_ingress": "allow",
        "rules": [
            {"direction": "egress", "destination": {"group": "host"}, "protocols": ["udp", "tcp"],
                "ports": [{"start": 53, "end": 53}], "action": "allow"},
            {"direction": "egress", "destination": {"group": "public"}, "protocols": [],
                "ports": [], "action": "allow"}]}}"#;

    #[test]
    fn the_peers_default_written_out_is_the_default() {
        assert_eq!(load(PEER).unwrap(), NetworkConfig::default());
        assert_eq!(load(r#"{"policy": null}"#).unwrap().policy, PolicyConfig::default());
    }

    #[test]
    fn a_policy_that_is_written_denies_unless_it_says_otherwise() {
        let nothing = PolicyConfig::without_rules(Permission::Deny, Permission::Deny);
        for text in
            ["{}", r#"{"rules": []}"#, r#"{"rules": null}"#, r#"{"default_egress": "deny"}"#]
        {
            assert_eq!(
                load(&format!(r#"{{"policy": {text}}}"#)).unwrap().policy,
                nothing,
                "{text}"
            );
        }
    }

    #[test]
    fn every_form_of_the_peer_loads() {
        for (destination, more, expected) in [
            (r#""any""#, "", "allow everything to any"),
            (r#"{"any": null}"#, "", "allow everything to any"),
            (r#"{"cidr": "10.1.2.3/8"}"#, "", "allow everything to 10.1.2.3/8"),
            (r#"{"cidr": "10.0.0.0/255.0.0.0"}"#, "", "allow everything to 10.0.0.0/8"),
            (r#"{"cidr": "10.0.0.1"}"#, "", "allow everything to 10.0.0.1/32"),
            (r#"{"cidr": "0.0.0.0/0"}"#, "", "allow everything to 0.0.0.0/0"),
            (r#"{"cidr": "2001:db8::/32"}"#, "", "allow everything to 2001:db8::/32"),
            (r#"{"cidr": "2001:db8::1"}"#, "", "allow everything to 2001:db8::1/128"),
            (
                r#"{"group": "link_local"}"#,
                r#", "protocols": ["icmpv4", "icmpv6"]"#,
                "allow icmpv4, icmpv6 to link_local",
            ),
            (
                r#"{"group": "metadata"}"#,
                r#", "ports": [{"start": 80, "end": 80}, {"start": 1, "end": 9}]"#,
                "allow everything to metadata, port 80, 1-9",
            ),
        ] {
            let rule = one(destination, more).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(rule.to_string(), expected);
        }
        for group in Group::ALL {
            let rule = one(&format!(r#"{{"group": "{}"}}"#, group.name()), "").unwrap();
            assert_eq!(rule.destination, DestinationConfig::Group(group));
        }
        for (word, direction) in [("ingress", Some(Direction::Ingress)), ("any", None)] {
            let text = PEER.replace("\"egress\"", &format!("\"{word}\""));
            assert_eq!(load(&text).unwrap().policy.rules[1].direction, direction);
        }
    }

    #[test]
    fn names_are_compared_in_one_form() {
        for written in ["a.test", "A.Test.", ".a.tesT"] {
            let rule = one(&format!(r#"{{"domain": "{written}"}}"#), "").unwrap();
            assert_eq!(rule.to_string(), "allow everything to a.test");
            let rule = one(&format!(r#"{{"domain_suffix": "{written}"}}"#), "").unwrap();
            assert_eq!(rule.to_string(), "allow everything to a.test and names below");
        }
        for wrong in ["", ".", "a..test", "a test", "..a.test"] {
            let text = PEER.replace(r#"{"group": "host"}"#, &format!(r#"{{"domain": "{wrong}"}}"#));
            let error = load(&text).unwrap().to_core(0, [0; 16]).unwrap_err().to_string();
            assert!(error.contains("is not a name: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_rule_by_name_says_for_itself_whether_the_name_must_be_said() {
        for (more, strict, shown) in [
            ("", None, "allow everything to a.test"),
            (r#", "strict": null"#, None, "allow everything to a.test"),
            (r#", "strict": false"#, Some(false), "allow everything to a.test, not strict"),
            (r#", "strict": true"#, Some(true), "allow everything to a.test, strict"),
        ] {
            let one = one(r#"{"domain": "a.test"}"#, more).unwrap();
            assert_eq!((one.strict, one.to_string().as_str()), (strict, shown));
            let policy = PolicyConfig { rules: vec![one], ..PolicyConfig::default() };
            let again = serde_json::to_string(&json!({ "policy": policy })).unwrap();
            assert_eq!(load(&again).unwrap().policy, policy, "{again}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_said_with_its_place() {
        for (destination, more, expected) in [
            (
                r#"{"cidr": "10.0.0.0/33"}"#,
                "",
                "destination.cidr: \"10.0.0.0/33\" is not a network",
            ),
            (r#"{"cidr": "10.0.0.0/"}"#, "", "destination.cidr: \"10.0.0.0/\" is not"),
            (r#"{"cidr": "10.0.0.0/+8"}"#, "", "destination.cidr: \"10.0.0.0/+8\" is not"),
            (r#"{"cidr": "10.0.0.0/255.0.255.0"}"#, "", "destination.cidr: \"10.0.0.0/255"),
            (r#"{"cidr": "::/255.0.0.0"}"#, "", "destination.cidr: \"::/255.0.0.0\" is not"),
            (r#"{"cidr": "example.com"}"#, "", "destination.cidr: \"example.com\" is not"),
            (r#"{"group": "publik"}"#, "", "destination.group: unknown variant `publik`"),
            (r#"{"grup": "public"}"#, "", "destination: unknown variant `grup`"),
            (r#""public""#, "", "destination: unknown variant `public`"),
            (r#"{"group": "host", "cidr": "::/0"}"#, "", "destination"),
            (r#""any""#, r#", "protocols": ["icmp"]"#, "protocols[0]: unknown variant `icmp`"),
            (
                r#""any""#,
                r#", "ports": [{"start": 1, "end": 70000}]"#,
                "ports[0].end: invalid value",
            ),
            (
                r#""any""#,
                r#", "ports": [{"start": 1, "end": 1}, {"start": 9, "end": 3}]"#,
                "ports[1]: start 9 is above end 3",
            ),
            (r#""any""#, r#", "ports": [{"start": 1}]"#, "ports[0]: missing field `end`"),
            (r#""any""#, r#", "port": 1"#, "port: unknown field"),
            (r#""any""#, r#", "action": "deny""#, "duplicate field `action`"),
            (r#""any""#, r#", "strict": "no""#, "strict: invalid type"),
        ] {
            let error = one(destination, more).unwrap_err();
            assert!(error.starts_with("policy.rules[0]"), "{error}");
            assert!(error.contains(expected), "{destination} {more}: {error}");
        }
        for member in ["direction", "destination", "action"] {
            let text = PEER.replace(&format!("\"{member}\""), "\"ports\"");
            assert!(load(&text).is_err(), "{member} may not be left out");
        }
    }

    #[test]
    fn nat64_prefixes_are_added_to_the_well_known_one() {
        let load = |text: &str| load(&format!(r#"{{"nat64_prefixes": {text}}}"#));
        for (text, expected) in [
            ("null", vec![]),
            ("[]", vec![]),
            (r#"["64:ff9b::/96"]"#, vec![]),
            (r#"["64:ff9b::/96", "2001:db8:64::/96"]"#, vec!["2001:db8:64::"]),
        ] {
            let expected: Vec<Ipv6Addr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(load(text).unwrap().nat64_prefixes, expected, "{text}");
        }
        for wrong in ["2001:db8::/64", "2001:db8::", "10.0.0.0/96"] {
            let error = load(&format!(r#"["{wrong}"]"#)).unwrap_err();
            let expected = format!("nat64_prefixes[0]: {wrong:?} is not a network of 96 bits");
            assert!(error.starts_with(&expected), "{error}");
        }
        let many = [r#""2001:db8:64::/96""#; 9].join(", ");
        let error = load(&format!("[{many}]")).unwrap().to_core(0, [0; 16]).unwrap_err();
        assert_eq!(error.to_string(), "configuration: nat64_prefixes: 9 is not at most 8 networks");
    }
}
