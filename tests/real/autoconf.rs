//! Stock clients in a guest that knows nothing: what they make of the gateway's answers.
//!
//! Each client runs as its package made it, with its own script and configuration, in a namespace
//! whose interface has no address; files that it writes are in a directory of its own. What counts
//! is what a user has of it: addresses, routes, MTU, /etc/resolv.conf, and a page over both
//! families. The engine's MTU is 1400, the interface begins with 1500.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::guest::{Guest, Setup, open_config};
use crate::needs;
use crate::process::{self, Process};
use crate::servers::{self, Family};
use crate::waiting::until;

const MTU: u16 = 1400;
const SEARCH: &str = "guests.example";

/// A guest that knows nothing, and the files of its own.
struct Stock {
    guest: Guest,
    files: PathBuf,
}

impl Stock {
    /// One whose leases last `lease_s` seconds.
    fn new(lease_s: u32) -> Self {
        Self::told(&json!({ "enabled": true, "lease_s": lease_s, "search": SEARCH }))
    }

    /// One that is told as `autoconf` says.
    fn told(autoconf: &serde_json::Value) -> Self {
        let config = open_config(json!({ "interface": { "autoconf": autoconf } }));
        let setup = Setup { mtu: MTU, config: Some(config), ..Setup::default() };
        let guest = Guest::with(&setup);
        let files = std::env::temp_dir().join(guest.namespace().name());
        for folder in ["etc", "run/dhcpcd", "run/systemd/network", "lease"] {
            std::fs::create_dir_all(files.join(folder)).unwrap();
        }
        process::succeed(Command::new("cp").args(["-a", "/etc/."]).arg(files.join("etc")));
        std::fs::write(files.join("etc/resolv.conf"), "").unwrap();
        let stock = Self { guest, files };
        stock.forget();
        stock
    }

    /// Takes from the interface what `attach` configured; the kernel may ask for routers.
    fn forget(&self) {
        let namespace = self.guest.namespace();
        namespace.ip("link set eth0 down");
        namespace.ip("address flush dev eth0");
        namespace.ip("link set eth0 mtu 1500");
        namespace.set("ipv6/conf/eth0/router_solicitations", "3");
        namespace.ip("link set eth0 up");
        until("a link-local address", || {
            let shown = self.ip("-6 -o address show dev eth0");
            shown.contains("fe80:") && !shown.contains("tentative")
        });
        assert!(!self.ip("address show dev eth0").contains("scope global"), "it knows nothing");
    }

    /// `script` for a shell in the guest, with files of its own.
    fn command(&self, script: &str) -> Command {
        let files = self.files.display();
        let mount = |what: &str, to: &str| format!("mount --bind {files}/{what} {to} && ");
        let mounts = [
            mount("etc", "/etc"),
            mount("run", "/run"),
            "mkdir -p /var/lib/dhcp /var/lib/dhcpcd && ".to_owned(),
            mount("lease", "/var/lib/dhcp"),
            mount("lease", "/var/lib/dhcpcd"),
        ]
        .concat();
        let mut command = self.guest.command("sh");
        command.args(["-c", &format!("{mounts} {script}")]);
        command
    }

    /// Starts a client that stays; what it says is its output.
    fn client(&self, words: &str) -> Process {
        Process::start(&mut self.command(&format!("exec {words} 2>&1")))
    }

    /// What `ip` says inside.
    fn ip(&self, arguments: &str) -> String {
        let mut ip = Command::new("ip");
        ip.args(["-n", self.guest.namespace().name()]);
        process::succeed(ip.args(arguments.split_whitespace()))
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.files.join(name)).unwrap_or_default()
    }

    /// Waits until the guest has its address of `family` and a way out.
    fn until_configured(&self, family: Family) {
        let address = self.guest.address(family);
        let (option, bits) = if family == Family::V4 { ("-4", "/30") } else { ("-6", "/") };
        let route = match family {
            Family::V4 => format!("default via {} dev eth0", self.guest.gateway(family)),
            Family::V6 => format!("default via {} dev eth0", self.router()),
        };
        until(&format!("{address}, and {route}"), || {
            let shown = self.ip(&format!("{option} -o address show dev eth0"));
            let is_mine = |line: &str| {
                line.contains(&format!("{address}{bits}")) && !line.contains("tentative")
            };
            let routes = self.ip(&format!("{option} route show"));
            shown.lines().any(is_mine) && routes.contains(&route)
        });
    }

    /// The gateway's link-local address.
    fn router(&self) -> String {
        let [high, low] = self.guest.slot().to_be_bytes().map(u16::from);
        let [a, b, c, d] = [0x6d, 0x73ff, 0xfe00 | high, (low << 8) | 1];
        std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, a, b, c, d).to_string()
    }

    /// Waits until /etc/resolv.conf names the gateway in `family`.
    fn until_resolving(&self, family: Family) {
        let line = format!("nameserver {}", self.guest.gateway(family));
        until(&line, || self.file("etc/resolv.conf").lines().any(|known| known.trim() == line));
    }

    /// Fetches a page of this host over `family`.
    fn fetch(&self, family: Family) {
        let port = servers::http(servers::listener(family));
        let url = match family {
            Family::V4 => format!("http://{}:{port}/1000", self.guest.gateway(family)),
            Family::V6 => format!("http://[{}]:{port}/1000", self.guest.gateway(family)),
        };
        let mut curl = self.guest.command("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url]);
        assert_eq!(process::succeed(&mut curl), "200 1000", "{url}");
    }

    fn interface_mtu(&self) -> String {
        let shown = self.ip("-o link show dev eth0");
        let mut words = shown.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).unwrap_or("none").to_owned()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        remove(&self.files);
    }
}

fn remove(files: &Path) {
    // Nothing is left to be done where this fails.
    let _ = std::fs::remove_dir_all(files);
}

/// Ends a client as a user would.
fn end(client: Process) {
    client.signal(Signal::TERM);
    client.finish();
}

#[test]
fn dhclient_gets_the_guest_online_in_both_families() {
    if !needs::are_met(&["dhclient", "curl"]) {
        return;
    }
    let stock = Stock::new(3600);
    let v4 = stock.client("dhclient -4 -d -pf /run/4.pid -lf /var/lib/dhcp/4 eth0");
    stock.until_configured(Family::V4);
    stock.until_resolving(Family::V4);
    assert!(stock.file("etc/resolv.conf").contains(SEARCH));
    assert_eq!(stock.interface_mtu(), MTU.to_string());
    let v6 = stock.client("dhclient -6 -d -pf /run/6.pid -lf /var/lib/dhcp/6 eth0");
    stock.until_configured(Family::V6);
    stock.until_resolving(Family::V6);
    Family::BOTH.into_iter().for_each(|family| stock.fetch(family));
    end(v4);
    end(v6);
}

#[test]
fn udhcpc_gets_the_guest_online() {
    if !needs::are_met(&["udhcpc", "curl"]) {
        return;
    }
    let stock = Stock::new(3600);
    let client = stock.client("udhcpc -f -i eth0 -O mtu -O search");
    stock.until_configured(Family::V4);
    stock.until_resolving(Family::V4);
    assert!(stock.file("etc/resolv.conf").contains(&format!("domain {SEARCH}")));
    assert_eq!(stock.interface_mtu(), MTU.to_string());
    stock.fetch(Family::V4);
    end(client);
}

#[test]
fn dhcpcd_gets_the_guest_online_in_both_families() {
    if !needs::are_met(&["dhcpcd", "curl"]) {
        return;
    }
    let stock = Stock::new(3600);
    let client = stock.client("dhcpcd -B eth0");
    for family in Family::BOTH {
        stock.until_configured(family);
        stock.until_resolving(family);
    }
    for family in ["-4", "-6"] {
        let routes = stock.ip(&format!("{family} route show default"));
        assert!(routes.contains("mtu 1400"), "it puts the MTU there: {routes}");
    }
    Family::BOTH.into_iter().for_each(|family| stock.fetch(family));
    end(client);
}

#[test]
fn systemd_networkd_gets_the_guest_online_in_both_families() {
    const NETWORKD: &str = "/lib/systemd/systemd-networkd";
    if !needs::are_met(&["curl"]) {
        return;
    }
    if !Path::new(NETWORKD).exists() && !needs::without(NETWORKD) {
        return;
    }
    let stock = Stock::new(3600);
    let network = "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n\
                   [DHCPv4]\nUseMTU=yes\n";
    std::fs::write(stock.files.join("run/systemd/network/eth0.network"), network).unwrap();
    // With a /sys that cannot be written it waits for no udev, as in a container. Without a bus it
    // configures all the same, and tells resolved nothing.
    let client = stock.client(&format!("sh -c 'mount -o remount,ro /sys; exec {NETWORKD}'"));
    for family in Family::BOTH {
        stock.until_configured(family);
    }
    until("the MTU", || stock.interface_mtu() == MTU.to_string());
    Family::BOTH.into_iter().for_each(|family| stock.fetch(family));
    end(client);
}

#[test]
fn a_kernel_alone_finds_its_router_prefix_and_mtu() {
    if !needs::are_met(&["rdisc6"]) {
        return;
    }
    let stock = Stock::new(3600);
    until("a default route", || {
        let routes = stock.ip("-6 route show default");
        routes.contains(&format!("via {} dev eth0 proto ra", stock.router()))
            && routes.contains("mtu 1400")
    });
    let routes = stock.ip("-6 route show");
    let prefix = format!("fd42:6d73:62:{:x}::/64 dev eth0", stock.guest.slot());
    assert!(routes.contains(&prefix), "{routes}");
    let addresses = stock.ip("-6 address show dev eth0");
    assert!(!addresses.contains("scope global"), "no address of its own making: {addresses}");
    let said = process::succeed(stock.guest.command("rdisc6").args(["-1", "eth0"]));
    let gateway = stock.guest.gateway(Family::V6);
    for line in [
        "Stateful address conf.    :          Yes",
        "Stateful other conf.      :          Yes",
        "MTU                      :         1400 bytes (valid)",
        "On-link                 :          Yes",
        "Autonomous address conf.:           No",
        &format!("Recursive DNS server     : {gateway}"),
        &format!("DNS search list          : {SEARCH}"),
    ] {
        assert!(said.contains(line), "{line:?} is not in {said}");
    }
}

#[test]
fn a_lease_is_renewed_before_it_ends() {
    if !needs::are_met(&["dhclient"]) {
        return;
    }
    let stock = Stock::new(10);
    let gateway = stock.guest.gateway(Family::V4);
    let mut v4 = stock.client("dhclient -4 -d -pf /run/4.pid -lf /var/lib/dhcp/4 eth0");
    let mut v6 = stock.client("dhclient -6 -d -v -pf /run/6.pid -lf /var/lib/dhcp/6 eth0");
    let own = stock.guest.address(Family::V4);
    // To the one server, not to all.
    v4.wait_for(&format!("DHCPREQUEST for {own} on eth0 to {gateway} port 67"));
    until("a second lease", || v4.output().matches("bound to").count() >= 2);
    v6.wait_for("XMT: Renew on eth0");
    until("a second lease", || v6.output().matches("RCV: Reply message").count() >= 2);
    assert!(!v4.output().contains("NAK"), "{}", v4.output());
    end(v4);
    end(v6);
}

#[test]
fn a_client_with_a_lease_of_another_network_is_refused_and_gets_its_own() {
    if !needs::are_met(&["dhclient"]) {
        return;
    }
    let stock = Stock::new(3600);
    // As it has it after a move: it asks for the old address first (INIT-REBOOT).
    let lease = "lease {\n interface \"eth0\";\n fixed-address 192.168.1.5;\n \
                 option subnet-mask 255.255.255.0;\n option routers 192.168.1.1;\n \
                 option dhcp-lease-time 86400;\n option dhcp-message-type 5;\n \
                 option dhcp-server-identifier 192.168.1.1;\n renew 0 2099/01/04 00:00:00;\n \
                 rebind 0 2099/01/04 00:00:00;\n expire 0 2099/01/04 00:00:00;\n}\n";
    std::fs::write(stock.files.join("lease/4"), lease).unwrap();
    let mut client = stock.client("dhclient -4 -d -pf /run/4.pid -lf /var/lib/dhcp/4 eth0");
    client.wait_for("DHCPREQUEST for 192.168.1.5 on eth0 to 255.255.255.255 port 67");
    client.wait_for("DHCPNAK from");
    stock.until_configured(Family::V4);
    end(client);
}

#[test]
fn what_goes_over_the_link_is_well_formed_to_a_stranger() {
    if !needs::are_met(&["dhclient", "rdisc6", "tcpdump"]) {
        return;
    }
    let stock = Stock::new(3600);
    let [high, low] = stock.guest.slot().to_be_bytes();
    // The guest's own checksums are still to be completed when this sees them.
    let gateway = format!("ether src 02:6d:73:{high:02x}:{low:02x}:01");
    let mut stranger = stock.client(&format!("tcpdump -l -n -vvv -i eth0 {gateway}"));
    stranger.wait_for("listening on eth0");
    let v4 = stock.client("dhclient -4 -d -pf /run/4.pid -lf /var/lib/dhcp/4 eth0");
    let v6 = stock.client("dhclient -6 -d -pf /run/6.pid -lf /var/lib/dhcp/6 eth0");
    process::succeed(stock.guest.command("rdisc6").args(["-1", "eth0"]));
    for seen in ["length 1: Offer", "length 1: ACK", "dhcp6 advertise", "dhcp6 reply"] {
        until(seen, || stranger.output().to_lowercase().contains(&seen.to_lowercase()));
    }
    stranger.wait_for("router advertisement");
    let said = stranger.output();
    for bad in ["bad udp", "bad icmp", "wrong", "invalid", "malformed", "[|", "incorrect"] {
        assert!(!said.contains(bad), "{bad:?} is in {said}");
    }
    end(v4);
    end(v6);
    end(stranger);
}

#[test]
fn nobody_answers_where_it_is_off() {
    if !needs::are_met(&["udhcpc", "rdisc6"]) {
        return;
    }
    let stock = Stock::told(&json!(false));
    let asked = process::run(&mut stock.command("exec udhcpc -n -q -t 2 -T 1 -i eth0"));
    assert_eq!(asked.code, 1, "{asked:?}");
    let asked = process::run(stock.guest.command("rdisc6").args(["-1", "-r", "1", "eth0"]));
    assert_eq!(asked.code, 2, "{asked:?}");
}
