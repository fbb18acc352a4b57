//! A configuration as a whole: what loads, what it becomes, and what is refused.

use super::*;

fn load(text: &str) -> Result<NetworkConfig, String> {
    NetworkConfig::from_json(text).map_err(|error| error.to_string())
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(load("{}").unwrap(), NetworkConfig::default());
}

#[test]
fn pools_are_networks_as_rules_have_them() {
    for (v4, v6) in [
        ("172.16.0.0/12", "fd00:1::/48"),
        ("172.16.0.0/255.240.0.0", "fd00:1::1/48"),
        ("172.17.1.2/12", "fd00:1:0:2::/48"),
    ] {
        let text = format!(r#"{{"interface": {{"ipv4_pool": "{v4}", "ipv6_pool": "{v6}"}}}}"#);
        let link = load(&text).unwrap().to_core(1, [0; 16]).unwrap().link;
        assert_eq!(link.guest_ipv4, Ipv4Addr::new(172, 16, 0, 6), "{v4}");
        assert_eq!(link.guest_ipv6, "fd00:1:0:1::2".parse::<Ipv6Addr>().unwrap(), "{v6}");
    }
    for wrong in [r#""ipv4_pool": "fd00::/48""#, r#""ipv6_pool": "10.0.0.0/8""#] {
        let error = load(&format!(r#"{{"interface": {{{wrong}}}}}"#)).unwrap_err();
        assert!(error.contains("is not a network"), "{wrong}: {error}");
    }
}

#[test]
fn a_network_is_read_wherever_it_is_nested() {
    #[derive(Debug, Deserialize)]
    struct Vm {
        network: NetworkConfig,
    }
    let vm: Vm = serde_json::from_str(r#"{"network": {"max_connections": 7}}"#).unwrap();
    let alone = load(r#"{"max_connections": 7}"#).unwrap();
    assert_eq!(vm.network, alone);
    for (wrong, expected) in [
        (r#"{"network": {"polcy": {}}}"#, "unknown field `polcy`"),
        (r#"{"network": {"rate_limiter": {}}}"#, "rate_limiter: it limits nothing"),
    ] {
        let error = serde_json::from_str::<Vm>(wrong).unwrap_err().to_string();
        assert!(error.contains(expected), "{wrong}: {error}");
    }
}

/// The fields that the object has in which `text` has an unknown one, `zzz`: serde names them.
fn fields_of(text: &str) -> Vec<String> {
    let error = load(text).unwrap_err();
    let (_, known) = error.split_once("unknown field `zzz`").expect(&error);
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_table_has_every_field() {
    let scoped = r#"{"tls": {"scoped_upstream_ca_cert": [{"zzz": 1}]}}"#;
    let secret = r#"{"secrets": {"secrets": [{"zzz": 1}]}}"#;
    let proxy = r#"{"outbound_proxy": {"credentials": {"zzz": 1}}}"#;
    let substitution = r#"{"secrets": {"secrets": [{"substitution": {"zzz": 1}}]}}"#;
    let table = include_str!("fields.md").replace("\n| | ", " ");
    for (section, text) in [
        ("", r#"{"zzz": 1}"#),
        ("interface", r#"{"interface": {"zzz": 1}}"#),
        ("interface.autoconf", r#"{"interface": {"autoconf": {"zzz": 1}}}"#),
        ("ports", r#"{"ports": [{"zzz": 1}]}"#),
        ("policy", r#"{"policy": {"zzz": 1}}"#),
        ("rules[]", r#"{"policy": {"rules": [{"zzz": 1}]}}"#),
        ("rules[].ports", r#"{"policy": {"rules": [{"ports": [{"zzz": 1}]}]}}"#),
        ("dns", r#"{"dns": {"zzz": 1}}"#),
        ("http", r#"{"http": {"zzz": 1}}"#),
        ("tls", r#"{"tls": {"zzz": 1}}"#),
        ("tls.scoped_upstream_ca_cert", scoped),
        ("tls.scoped_verify_upstream", r#"{"tls": {"scoped_verify_upstream": [{"zzz": 1}]}}"#),
        ("tls.intercept_ca", r#"{"tls": {"intercept_ca": {"zzz": 1}}}"#),
        ("tls.cache", r#"{"tls": {"cache": {"zzz": 1}}}"#),
        ("secrets.", r#"{"secrets": {"zzz": 1}}"#),
        ("secrets[]", secret),
        ("secrets[].substitution", substitution),
        ("rate_limiter", r#"{"rate_limiter": {"zzz": 1}}"#),
        ("rate_limiter", r#"{"rate_limiter": {"egress": {"zzz": 1}}}"#),
        ("bandwidth", r#"{"rate_limiter": {"egress": {"ops": {"zzz": 1}}}}"#),
        ("outbound_proxy", r#"{"outbound_proxy": {"zzz": 1}}"#),
        ("outbound_proxy.credentials", proxy),
        ("outbound.", r#"{"outbound": {"zzz": 1}}"#),
    ] {
        let start = format!("| `{section}");
        let rows: Vec<&str> = table
            .lines()
            .filter(|row| {
                row.starts_with(&start) || row.contains("bandwidth") && section == "bandwidth"
            })
            .collect();
        let fields = fields_of(text);
        assert!(!fields.is_empty(), "{text}");
        for field in fields {
            let is_word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            let is_there = rows.iter().any(|row| row.split(is_word).any(|word| word == field));
            assert!(is_there, "{field} of {section:?} is in no row of config/fields.md");
        }
    }
}

#[test]
fn everything_that_is_served_loads() {
    let config = load(
        r#"{"enabled": true,
            "interface": {"mac": "02:00:00:00:00:09", "mtu": 9000, "ipv4_address": "10.0.0.2",
                "ipv4_pool": "10.0.0.0/8", "ipv6_address": "fd00::2", "ipv6_pool": "fd00::/48",
                "receive_frame_bytes": 9014},
            "max_tcp_connections": 0, "max_udp_connections": 7, "max_icmp_connections": 9,
            "max_inbound_tcp_connections": 3, "max_inbound_udp_connections": 5,
            "policy": {"default_egress": "allow", "default_ingress": "allow", "rules": []},
            "ports": [], "dns": null, "tls": {"enabled": false, "bypass": []}}"#,
    )
    .unwrap();
    let core = config.to_core(3, [0; 16]).unwrap();
    assert_eq!((core.tcp_flows_max, core.udp_flows_max, core.icmp_flows_max), (65_536, 7, 9));
    assert_eq!((core.inbound_tcp_flows_max, core.inbound_udp_flows_max), (3, 5));
    assert_eq!(core.link.guest_mac, [2, 0, 0, 0, 0, 9]);
    assert_eq!((core.link.mtu, core.link.receive_frame_bytes), (9000, 9014));
    assert_eq!(core.link.gateway_ipv4, Ipv4Addr::new(10, 0, 0, 1));
    let allow = sluicegate_core::Permission::Allow;
    assert_eq!(core.policy, sluicegate_core::Policy::new(allow, allow));
}

#[test]
fn what_is_unknown_or_mistyped_is_refused_with_its_place() {
    for (text, expected) in [
        (r#"{"polcy": {}}"#, "polcy: unknown field at line 1 column 8; did you mean `policy`?"),
        (r#"{"policy": {"default_egres": "allow"}}"#, "did you mean `default_egress`?"),
        (r#"{"zzz": 1}"#, "unknown field `zzz`, expected one of"),
        (r#"{"policy": {"default_egress": "maybe"}}"#, "policy.default_egress"),
        (r#"{"interface": {"mtu": 70000}}"#, "interface.mtu"),
        (r#"{"interface": {"mac": "02:00"}}"#, "interface.mac: \"02:00\" is not six pairs"),
        (r#"{"interface": {"mac": [2, 0]}}"#, "interface.mac: expected six pairs of hex digits"),
        (r#"{"interface": {"mac": [2, 0, 0, 0, 0, 256]}}"#, "interface.mac: expected six"),
        (r#"{"interface": {"ipv4_pool": "10.0.0.0"}}"#, "interface.ipv4_pool"),
        (r#"{"interface": {"ipv4_pool": "10.0.0.0/+8"}}"#, "interface.ipv4_pool"),
        (r#"{"max_connections": -1}"#, "max_connections"),
        (r#"{"enabled": true, "enabled": true}"#, "duplicate field `enabled`"),
        ("{} {}", "trailing characters"),
        ("{", "line 1 column 1"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn values_out_of_range_name_field_value_and_limit() {
    let core = |text: &str| load(text).unwrap().to_core(0, [0; 16]).unwrap_err().to_string();
    assert_eq!(
        core(r#"{"max_connections": 65537}"#),
        "configuration: max_connections: 65537 is not between 1 and 65536"
    );
    assert_eq!(
        core(r#"{"interface": {"mtu": 1000}}"#),
        "configuration: interface.mtu: 1000 is not between 1280 and 65520"
    );
    assert!(core(r#"{"enabled": false}"#).contains("enabled: false"));
    let slot = NetworkConfig::default().to_core(65_536, [0; 16]).unwrap_err();
    assert_eq!(slot.to_string(), "slot 65536 is not between 0 and 65535");
}
