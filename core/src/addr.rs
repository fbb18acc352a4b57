//! The addresses of a guest's link, from its slot, and the words in which the guest is told them.
//!
//! A slot is the guest's number on its host. It gives the guest a MAC address, a /30 of IPv4 and a
//! /64 of IPv6, and the gateway the addresses beside them. The strings are an ABI with the agent in
//! the guest, byte for byte; this module writes and parses them, and a firmware guest uses it too.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::contract::ConfigError;
use crate::limits;

/// The environment variable of [`Interface`].
pub const ENV_INTERFACE: &str = "MSB_NET";
/// The environment variable of the IPv4 [`Family`].
pub const ENV_IPV4: &str = "MSB_NET_IPV4";
/// The environment variable of the IPv6 [`Family`].
pub const ENV_IPV6: &str = "MSB_NET_IPV6";
/// The guest's name for its interface.
pub const INTERFACE_NAME: &str = "eth0";
/// Network bits of a guest's IPv4 link.
pub const IPV4_PREFIX_BITS: u8 = 30;
/// Network bits of a guest's IPv6 link.
pub const IPV6_PREFIX_BITS: u8 = 64;

/// An IPv4 prefix: the pool that guests' links are cut from.
pub type Ipv4Pool = (Ipv4Addr, u8);
/// An IPv6 prefix: the pool that guests' links are cut from.
pub type Ipv6Pool = (Ipv6Addr, u8);

/// The pool of IPv4 links: 2^19 of them, of which slots name 2^16.
pub const IPV4_POOL_DEFAULT: Ipv4Pool = (Ipv4Addr::new(100, 96, 0, 0), 11);
/// The pool of IPv6 links: one for each slot.
pub const IPV6_POOL_DEFAULT: Ipv6Pool = (Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 0), 48);

/// What a configuration may say in place of what follows from the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// The guest's MAC address.
    pub mac: Option<[u8; 6]>,
    /// The link's MTU, in bytes of IP packet.
    pub mtu: Option<u16>,
    /// The guest's IPv4 address; the gateway's is one below.
    pub ipv4_address: Option<Ipv4Addr>,
    /// The pool that the slot picks a /30 of.
    pub ipv4_pool: Option<Ipv4Pool>,
    /// The guest's IPv6 address; the gateway's is ::1 of its /64.
    pub ipv6_address: Option<Ipv6Addr>,
    /// The pool that the slot picks a /64 of.
    pub ipv6_pool: Option<Ipv6Pool>,
}

/// All addresses of one guest's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The guest's MAC address.
    pub guest_mac: [u8; 6],
    /// The gateway's MAC address.
    pub gateway_mac: [u8; 6],
    /// The guest's IPv4 address, in a /30.
    pub guest_ipv4: Ipv4Addr,
    /// The gateway's IPv4 address, which is the guest's name server too.
    pub gateway_ipv4: Ipv4Addr,
    /// The guest's IPv6 address, in a /64.
    pub guest_ipv6: Ipv6Addr,
    /// The gateway's IPv6 address, which is the guest's name server too.
    pub gateway_ipv6: Ipv6Addr,
    /// The link's MTU, in bytes of IP packet.
    pub mtu: u16,
}

impl Addresses {
    /// The addresses of the guest in `slot`, 0 to 65535, where `overrides` says nothing else.
    ///
    /// # Errors
    /// The first override that is out of its range, or a pool that has no link for the slot.
    pub fn of_slot(slot: u16, overrides: &Overrides) -> Result<Self, ConfigError> {
        let [high, low] = slot.to_be_bytes();
        let gateway_mac = [0x02, 0x6d, 0x73, high, low, 0x01];
        let guest_mac = overrides.mac.unwrap_or([0x02, 0x6d, 0x73, high, low, 0x02]);
        check_mac(guest_mac, gateway_mac)?;
        let mtu = overrides.mtu.unwrap_or(limits::MTU_BYTES_DEFAULT);
        if !(limits::MTU_BYTES_MIN..=limits::MTU_BYTES_MAX).contains(&mtu) {
            return Err(ConfigError::new("interface.mtu", mtu, "between 1280 and 65520"));
        }
        let pool = overrides.ipv4_pool.unwrap_or(IPV4_POOL_DEFAULT);
        let (guest_ipv4, gateway_ipv4) = match overrides.ipv4_address {
            Some(address) => ipv4_of_address(address)?,
            None => ipv4_of_pool(pool, slot)?,
        };
        let pool = overrides.ipv6_pool.unwrap_or(IPV6_POOL_DEFAULT);
        let (guest_ipv6, gateway_ipv6) = match overrides.ipv6_address {
            Some(address) => ipv6_of_address(address)?,
            None => ipv6_of_pool(pool, slot)?,
        };
        Ok(Self { guest_mac, gateway_mac, guest_ipv4, gateway_ipv4, guest_ipv6, gateway_ipv6, mtu })
    }

    /// Checks addresses that follow from no slot of this host, as those of a guest that comes from
    /// another.
    ///
    /// # Errors
    /// The first that no slot with overrides could have had.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_mac(self.guest_mac, self.gateway_mac)?;
        let [first, ..] = self.gateway_mac;
        if first & 1 == 1 || self.gateway_mac == [0; 6] {
            let (value, expected) = (Mac(self.gateway_mac), "a unicast address");
            return Err(ConfigError::new("gateway_mac", value, expected));
        }
        let overrides = Overrides {
            mtu: Some(self.mtu),
            ipv4_address: Some(self.guest_ipv4),
            ipv6_address: Some(self.guest_ipv6),
            ..Overrides::default()
        };
        let Self { gateway_ipv4, gateway_ipv6, .. } = Self::of_slot(0, &overrides)?;
        if gateway_ipv4 != self.gateway_ipv4 {
            let expected = "the first host of the guest's /30";
            return Err(ConfigError::new("gateway_ipv4", self.gateway_ipv4, expected));
        }
        if gateway_ipv6 != self.gateway_ipv6 {
            let expected = "::1 of the guest's /64";
            return Err(ConfigError::new("gateway_ipv6", self.gateway_ipv6, expected));
        }
        Ok(())
    }

    /// The guest's environment, in its order: name and value.
    pub fn environment(&self) -> [(&'static str, Value); 3] {
        let interface = Interface { name: interface_name(), mac: self.guest_mac, mtu: self.mtu };
        let ipv4 = Family {
            address: self.guest_ipv4,
            prefix_bits: IPV4_PREFIX_BITS,
            gateway: self.gateway_ipv4,
            nameserver: self.gateway_ipv4,
        };
        let ipv6 = Family {
            address: self.guest_ipv6,
            prefix_bits: IPV6_PREFIX_BITS,
            gateway: self.gateway_ipv6,
            nameserver: self.gateway_ipv6,
        };
        [
            (ENV_INTERFACE, Value::Interface(interface)),
            (ENV_IPV4, Value::Ipv4(ipv4)),
            (ENV_IPV6, Value::Ipv6(ipv6)),
        ]
    }
}

fn check_mac(mac: [u8; 6], gateway_mac: [u8; 6]) -> Result<(), ConfigError> {
    let [first, ..] = mac;
    if first & 1 == 1 || mac == [0; 6] || mac == gateway_mac {
        let expected = "a unicast address that is neither zero nor the gateway's";
        return Err(ConfigError::new("interface.mac", Mac(mac), expected));
    }
    Ok(())
}

/// Guest and gateway of the /30 number `slot` of `pool`.
fn ipv4_of_pool((network, bits): Ipv4Pool, slot: u16) -> Result<(Ipv4Addr, Ipv4Addr), ConfigError> {
    const FIELD: &str = "interface.ipv4_pool";
    let pool = Prefix(network, bits);
    if bits > IPV4_PREFIX_BITS || network.to_bits() & host_mask_v4(bits) != 0 {
        let expected = "a network of at most 30 bits, without host bits";
        return Err(ConfigError::new(FIELD, pool, expected));
    }
    let last = network.to_bits() | host_mask_v4(bits);
    if !is_usable_v4(network) || !is_usable_v4(Ipv4Addr::from_bits(last)) {
        return Err(ConfigError::new(FIELD, pool, "a network of unicast addresses"));
    }
    if u32::from(slot) > host_mask_v4(bits) >> 2 {
        return Err(ConfigError::new(FIELD, pool, "large enough for the slot's /30"));
    }
    let link = network.to_bits() + 4 * u32::from(slot);
    Ok((Ipv4Addr::from_bits(link + 2), Ipv4Addr::from_bits(link + 1)))
}

fn host_mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

/// Unicast, and not an address that means this host or this network.
fn is_usable_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

fn ipv4_of_address(address: Ipv4Addr) -> Result<(Ipv4Addr, Ipv4Addr), ConfigError> {
    const FIELD: &str = "interface.ipv4_address";
    if !is_usable_v4(address) {
        return Err(ConfigError::new(FIELD, address, "a unicast address"));
    }
    // The gateway is one below, and both must be hosts of one /30: so the guest is its second.
    if address.to_bits() & 3 != 2 {
        return Err(ConfigError::new(FIELD, address, "the second host of a /30 (x.x.x.4n+2)"));
    }
    Ok((address, Ipv4Addr::from_bits(address.to_bits() - 1)))
}

/// Guest and gateway of the /64 number `slot` of `pool`.
fn ipv6_of_pool((network, bits): Ipv6Pool, slot: u16) -> Result<(Ipv6Addr, Ipv6Addr), ConfigError> {
    const FIELD: &str = "interface.ipv6_pool";
    let pool = Prefix(network, bits);
    let host_mask = u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
    if bits > IPV6_PREFIX_BITS || network.to_bits() & host_mask != 0 {
        let expected = "a network of at most 64 bits, without host bits";
        return Err(ConfigError::new(FIELD, pool, expected));
    }
    if u128::from(slot) > host_mask >> 64 {
        return Err(ConfigError::new(FIELD, pool, "large enough for the slot's /64"));
    }
    let link = network.to_bits() + (u128::from(slot) << 64);
    let guest = Ipv6Addr::from_bits(link + 2);
    if !is_usable_v6(guest) {
        return Err(ConfigError::new(FIELD, pool, "a network of routable unicast addresses"));
    }
    Ok((guest, Ipv6Addr::from_bits(link + 1)))
}

/// Unicast beyond the link: not unspecified, loopback, IPv4 in disguise, link-local or multicast.
fn is_usable_v6(address: Ipv6Addr) -> bool {
    let in_low_96 = address.to_bits() >> 32 == 0 || address.to_ipv4_mapped().is_some();
    !in_low_96 && !address.is_unicast_link_local() && !address.is_multicast()
}

fn ipv6_of_address(address: Ipv6Addr) -> Result<(Ipv6Addr, Ipv6Addr), ConfigError> {
    const FIELD: &str = "interface.ipv6_address";
    if !is_usable_v6(address) {
        return Err(ConfigError::new(FIELD, address, "a routable unicast address"));
    }
    let link = address.to_bits() >> 64 << 64;
    let gateway = Ipv6Addr::from_bits(link + 1);
    if address == gateway || address.to_bits() == link {
        let expected = "an address beside ::0 (routers) and ::1 (the gateway) of its /64";
        return Err(ConfigError::new(FIELD, address, expected));
    }
    Ok((address, gateway))
}

/// A MAC address as text: six pairs of lower-case hex digits with colons between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut mac = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut mac {
            let pair = pairs.next().filter(|pair| {
                pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            let parsed = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            *octet = parsed.ok_or(ParseError::Value("mac"))?;
        }
        if pairs.next().is_some() { Err(ParseError::Value("mac")) } else { Ok(Self(mac)) }
    }
}

/// A network and its bits, as `network/bits`.
struct Prefix<A>(A, u8);

impl<A: fmt::Display> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// The value of one variable of the guest's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`ENV_INTERFACE`].
    Interface(Interface),
    /// Of [`ENV_IPV4`].
    Ipv4(Family<Ipv4Addr>),
    /// Of [`ENV_IPV6`].
    Ipv6(Family<Ipv6Addr>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(value) => value.fmt(f),
            Self::Ipv4(value) => value.fmt(f),
            Self::Ipv6(value) => value.fmt(f),
        }
    }
}

/// The link layer: `iface=eth0,mac=02:6d:73:00:00:02,mtu=1500`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name in the guest, 1 to 15 bytes as Linux has it.
    pub name: heapless::String<15>,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, in bytes of IP packet.
    pub mtu: u16,
}

fn interface_name() -> heapless::String<15> {
    // Four bytes fit fifteen.
    heapless::String::try_from(INTERFACE_NAME).unwrap_or_default()
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iface={},mac={},mtu={}", self.name, Mac(self.mac), self.mtu)
    }
}

impl FromStr for Interface {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let [name, mac, mtu] = fields(text, ["iface", "mac", "mtu"])?;
        if name.is_empty() {
            return Err(ParseError::Value("iface"));
        }
        Ok(Self {
            name: heapless::String::try_from(name).map_err(|_| ParseError::Value("iface"))?,
            mac: mac.parse::<Mac>()?.0,
            mtu: decimal(mtu).ok_or(ParseError::Value("mtu"))?,
        })
    }
}

/// One address family: `addr=100.96.0.2/30,gw=100.96.0.1,dns=100.96.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family<A> {
    /// The guest's address.
    pub address: A,
    /// Network bits of the link.
    pub prefix_bits: u8,
    /// The default route.
    pub gateway: A,
    /// The name server.
    pub nameserver: A,
}

impl<A: fmt::Display> fmt::Display for Family<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, prefix_bits, gateway, nameserver } = self;
        write!(f, "addr={address}/{prefix_bits},gw={gateway},dns={nameserver}")
    }
}

impl<A: FromStr> FromStr for Family<A> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let [address, gateway, nameserver] = fields(text, ["addr", "gw", "dns"])?;
        let (address, bits) = address.split_once('/').ok_or(ParseError::Value("addr"))?;
        // As many bits as the longest address of the family could have.
        let bits_max = 8 * u8::try_from(size_of::<A>()).unwrap_or(u8::MAX / 8);
        let prefix_bits = decimal(bits).filter(|bits| *bits <= bits_max);
        Ok(Self {
            address: address.parse().map_err(|_| ParseError::Value("addr"))?,
            prefix_bits: prefix_bits.ok_or(ParseError::Value("addr"))?,
            gateway: gateway.parse().map_err(|_| ParseError::Value("gw"))?,
            nameserver: nameserver.parse().map_err(|_| ParseError::Value("dns"))?,
        })
    }
}

/// A number as it is written here: digits alone, none of them a leading zero.
fn decimal<N: FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if plain && (text == "0" || !text.starts_with('0')) { text.parse().ok() } else { None }
}

/// The values of exactly `keys`, in any order.
fn fields<'t>(text: &'t str, keys: [&'static str; 3]) -> Result<[&'t str; 3], ParseError> {
    let mut found = [None; 3];
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').ok_or(ParseError::Syntax)?;
        let slot = keys.iter().zip(&mut found).find(|(known, _)| **known == key);
        let (known, slot) = slot.ok_or(ParseError::UnknownKey)?;
        if slot.replace(value).is_some() {
            return Err(ParseError::RepeatedKey(known));
        }
    }
    let mut values = [""; 3];
    for ((value, found), key) in values.iter_mut().zip(found).zip(keys) {
        *value = found.ok_or(ParseError::MissingKey(key))?;
    }
    Ok(values)
}

/// Why a variable of the guest's environment could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Not `key=value` pairs with commas between.
    Syntax,
    /// A key that the variable does not have.
    UnknownKey,
    /// The key is there twice.
    RepeatedKey(&'static str),
    /// The key is not there.
    MissingKey(&'static str),
    /// The value of the key is not what it should be.
    Value(&'static str),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("not key=value pairs with commas between"),
            Self::UnknownKey => f.write_str("an unknown key"),
            Self::RepeatedKey(key) => write!(f, "{key} is there twice"),
            Self::MissingKey(key) => write!(f, "{key} is missing"),
            Self::Value(key) => write!(f, "the value of {key} can't be read"),
        }
    }
}

impl core::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn of(slot: u16) -> Addresses {
        Addresses::of_slot(slot, &Overrides::default()).unwrap()
    }

    fn environment(slot: u16) -> Vec<String> {
        let variables = of(slot).environment();
        variables.iter().map(|(name, value)| std::format!("{name}={value}")).collect()
    }

    #[test]
    fn the_environment_of_slot_zero_is_the_abi() {
        assert_eq!(
            environment(0),
            [
                "MSB_NET=iface=eth0,mac=02:6d:73:00:00:02,mtu=1500",
                "MSB_NET_IPV4=addr=100.96.0.2/30,gw=100.96.0.1,dns=100.96.0.1",
                "MSB_NET_IPV6=addr=fd42:6d73:62::2/64,gw=fd42:6d73:62::1,dns=fd42:6d73:62::1",
            ]
        );
    }

    #[test]
    fn slots_count_through_the_pools() {
        for (slot, mac, ipv4, ipv6) in [
            (1, "02:6d:73:00:01:02", "100.96.0.6", "fd42:6d73:62:1::2"),
            (255, "02:6d:73:00:ff:02", "100.96.3.254", "fd42:6d73:62:ff::2"),
            (256, "02:6d:73:01:00:02", "100.96.4.2", "fd42:6d73:62:100::2"),
            (65_535, "02:6d:73:ff:ff:02", "100.99.255.254", "fd42:6d73:62:ffff::2"),
        ] {
            let a = of(slot);
            assert_eq!(Mac(a.guest_mac).to_string(), mac);
            assert_eq!(
                (a.guest_ipv4.to_string(), a.guest_ipv6.to_string()),
                (ipv4.into(), ipv6.into())
            );
            assert_eq!(a.gateway_ipv4.to_bits() + 1, a.guest_ipv4.to_bits());
            assert_eq!(a.gateway_mac[5], 1);
        }
    }

    #[test]
    fn every_slot_reads_back_from_its_strings() {
        for slot in 0..=u16::MAX {
            for (_, value) in of(slot).environment() {
                let text = value.to_string();
                let again = match value {
                    Value::Interface(_) => text.parse().map(Value::Interface),
                    Value::Ipv4(_) => text.parse().map(Value::Ipv4),
                    Value::Ipv6(_) => text.parse().map(Value::Ipv6),
                };
                assert_eq!(again, Ok(value));
            }
        }
    }

    #[test]
    fn strings_that_are_not_the_abi_are_refused_by_key() {
        for (text, error) in [
            ("", ParseError::Syntax),
            ("iface=eth0,mac=02:00:00:00:00:01", ParseError::MissingKey("mtu")),
            ("iface=eth0,mac=02:00:00:00:00:01,mtu=1,mtu=1", ParseError::RepeatedKey("mtu")),
            ("iface=eth0,mac=02:00:00:00:00:01,mtu=1,x=1", ParseError::UnknownKey),
            ("iface=eth0,mac=02:00:00:00:00,mtu=1", ParseError::Value("mac")),
            ("iface=eth0,mac=02:00:00:00:00:+1,mtu=1", ParseError::Value("mac")),
            ("iface=eth0,mac=02:00:00:00:00:01,mtu=65536", ParseError::Value("mtu")),
            ("iface=eth0,mac=02:00:00:00:00:01,mtu=+1500", ParseError::Value("mtu")),
            ("iface=eth0,mac=02:00:00:00:00:01,mtu=01500", ParseError::Value("mtu")),
            ("iface=0123456789abcdef,mac=02:00:00:00:00:01,mtu=1", ParseError::Value("iface")),
        ] {
            assert_eq!(text.parse::<Interface>(), Err(error), "{text}");
        }
        for bits in ["33", "+30", "030", ""] {
            let bad = std::format!("addr=100.96.0.2/{bits},gw=100.96.0.1,dns=100.96.0.1");
            assert_eq!(bad.parse::<Family<Ipv4Addr>>(), Err(ParseError::Value("addr")), "{bad}");
        }
    }

    fn with(change: impl FnOnce(&mut Overrides)) -> Result<Addresses, ConfigError> {
        let mut overrides = Overrides::default();
        change(&mut overrides);
        Addresses::of_slot(7, &overrides)
    }

    #[test]
    fn a_gateway_follows_from_an_overridden_address() {
        let a = with(|o| o.ipv4_address = Some(Ipv4Addr::new(10, 1, 2, 6))).unwrap();
        assert_eq!(a.gateway_ipv4, Ipv4Addr::new(10, 1, 2, 5));
        let a = with(|o| o.ipv6_address = Some("2001:db8:1:2:3::4".parse().unwrap())).unwrap();
        assert_eq!(a.gateway_ipv6.to_string(), "2001:db8:1:2::1");
    }

    #[test]
    fn pools_are_cut_by_slot_and_must_hold_it() {
        let pool = |address: &str, bits| Some((address.parse().unwrap(), bits));
        let a = with(|o| o.ipv4_pool = pool("10.0.0.0", 27)).unwrap();
        assert_eq!(a.guest_ipv4, Ipv4Addr::new(10, 0, 0, 30));
        for (network, bits) in
            [("10.0.0.0", 28), ("10.0.0.1", 24), ("10.0.0.0", 31), ("127.0.0.0", 8)]
        {
            let error = with(|o| o.ipv4_pool = pool(network, bits)).unwrap_err();
            assert_eq!(error.field, "interface.ipv4_pool", "{network}/{bits}");
        }
        let pool = |address: &str, bits| Some((address.parse().unwrap(), bits));
        for (network, bits) in
            [("fd00::", 62), ("fd00::1", 48), ("fd00::", 65), ("fe80::", 16), ("ff00::", 8)]
        {
            let error = with(|o| o.ipv6_pool = pool(network, bits)).unwrap_err();
            assert_eq!(error.field, "interface.ipv6_pool", "{network}/{bits}");
        }
    }

    #[test]
    fn overrides_out_of_range_are_named_with_their_value() {
        let v4 = |text: &str| with(|o| o.ipv4_address = Some(text.parse().unwrap()));
        for text in ["10.0.0.1", "10.0.0.3", "10.0.0.4", "127.0.0.2", "0.0.0.2", "224.0.0.2"] {
            let error = v4(text).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), ("interface.ipv4_address", text));
        }
        let v6 = |text: &str| with(|o| o.ipv6_address = Some(text.parse().unwrap()));
        for text in ["fd00::1", "fd00::", "fe80::5", "ff02::5", "::1", "::5"] {
            let error = v6(text).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), ("interface.ipv6_address", text));
        }
        for mac in [[1, 0, 0, 0, 0, 1], [0; 6], [0x02, 0x6d, 0x73, 0, 7, 1]] {
            assert_eq!(with(|o| o.mac = Some(mac)).unwrap_err().field, "interface.mac");
        }
        for mtu in [0, 1279, 65_521] {
            assert_eq!(with(|o| o.mtu = Some(mtu)).unwrap_err().field, "interface.mtu");
        }
    }
}
