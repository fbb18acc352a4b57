//! `sluicegate check`: whether a configuration would be accepted, and what it would do.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use sluicegate_host::{Error, Permission, Protocol};

use super::config_file;
use super::failure::{self, Failure};
use super::link::ProfileName;

/// Check a configuration without starting anything
///
/// Says what is wrong (field, value, what it should be), or what the network would do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if the file is good, 1 if it is not, 2 if the options are wrong.

Examples:
  sluicegate check network.json
  sluicegate check --profile multi-tenant tenant.json
  echo '{\"policy\": {\"default_egress\": \"allow\"}}' | sluicegate check -")]
pub(crate) struct CheckArgs {
    /// The configuration, as JSON; - for the standard input
    file: PathBuf,
    /// Whose word the configuration is: with `multi-tenant` a tenant's
    #[arg(long, value_name = "PROFILE", default_value = "single-tenant")]
    profile: ProfileName,
}

/// Checks the file.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    failure::exit_code(check(args))
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let written = config_file::read(Some(&args.file))?.1;
    let dropped = written.not_a_tenants();
    let config = args.profile.apply(written);
    let name = config_file::name_of(&args.file).display();
    let core = config.to_core(0, [0; 16]).map_err(|error| {
        let Error::Config(error) = error else { return error.to_string() };
        format!("{name}: {error}")
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{name}: ok")?;
    for (index, rule) in config.policy.rules.iter().enumerate() {
        writeln!(out, "  rule {index}: {rule}")?;
    }
    writeln!(out, "  guest to outside: {} by default", word(config.policy.default_egress))?;
    writeln!(out, "  outside to guest: {} by default", word(config.policy.default_ingress))?;
    if args.profile == ProfileName::MultiTenant {
        let bound = "the public Internet and the gateway's port 53";
        writeln!(out, "  multi-tenant: of that, the platform allows {bound}")?;
        if !dropped.is_empty() {
            let dropped = dropped.join(", ");
            writeln!(out, "  multi-tenant: not a tenant's to say, and not so: {dropped}")?;
        }
    }
    for port in &config.ports {
        let (host, guest) = (port.host(), port.guest_port);
        let protocol = Protocol::from(port.protocol).name();
        writeln!(out, "  {host} is published: port {guest}/{protocol} of the guest")?;
    }
    let link = &core.link;
    writeln!(
        out,
        "  MTU {} bytes, frames to the guest {} bytes",
        link.mtu, link.receive_frame_bytes
    )?;
    writeln!(
        out,
        "  at most {} TCP, {} UDP and {} ping flows",
        core.tcp_flows_max, core.udp_flows_max, core.icmp_flows_max
    )?;
    let servers: Vec<_> = config.dns.nameservers.iter().map(ToString::to_string).collect();
    let asked = if servers.is_empty() { "this host's servers".into() } else { servers.join(", ") };
    let ms = config.dns.query_timeout_ms;
    let outside = if config.dns.rebind_protection { "public addresses only" } else { "anywhere" };
    writeln!(out, "  names are asked of {asked} for {ms} ms, and may lead to {outside}")?;
    if !config.outbound.is_empty() {
        writeln!(out, "  what goes on outside leaves {}", config.outbound)?;
    }
    if config.tls.enabled {
        let ports: Vec<_> = config.tls.intercepted_ports.iter().map(ToString::to_string).collect();
        writeln!(out, "  TLS at port {} ends at the gateway", ports.join(", "))?;
        for name in &config.tls.bypass {
            writeln!(out, "  TLS for {name} passes untouched")?;
        }
    }
    for secret in &config.secrets.secrets {
        let hosts: Vec<_> = secret.allowed_hosts.iter().map(ToString::to_string).collect();
        let (name, hosts) = (&secret.env_var, hosts.join(", "));
        writeln!(out, "  secret {name}: {} becomes its value for {hosts}", secret.placeholder())?;
    }
    let autoconf = match config.interface.autoconf.enabled {
        Some(true) => "answered",
        Some(false) => "not answered",
        None => "answered by attach and serve, not by run",
    };
    writeln!(out, "  DHCP, DHCPv6 and router solicitations are {autoconf}")?;
    writeln!(out, "  in slot 0: guest {} and {}", link.guest_ipv4, link.guest_ipv6)?;
    Ok(())
}

fn word(permission: Permission) -> &'static str {
    match permission {
        Permission::Allow => "allowed",
        Permission::Deny => "denied",
    }
}
