//! Network namespaces, and the guest's side of a link inside one.
//!
//! Owns how a namespace is found, how something runs inside it, and the netlink conversation that
//! gives the guest's interface its addresses and routes. Must not know how the interface was made
//! or who serves it. Linux ties a network namespace to the thread, so [`within`] starts one for the
//! purpose and the caller's own namespace never changes. Every wait is bounded.
//!
//! Nothing here needs to be undone: addresses and routes go when the interface goes, which its
//! owner's descriptor decides. What stays in a namespace that outlives the link is its loopback
//! interface being up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sluicegate_core::addr::{IPV4_PREFIX_BITS, IPV6_PREFIX_BITS};

/// All of an interface's configuration takes this long at most.
const CONFIGURE_SECONDS_MAX: Duration = Duration::from_secs(5);
/// Frames of the guest that may wait for the engine. The kernel's default for a TAP, 500 to 1000,
/// is less than the windows of four connections at MTU 1500: what does not fit is lost and sent
/// again.
const QUEUE_FRAMES: u32 = 4096;
/// The index of the loopback interface in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Why a namespace or an interface in it is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    what: String,
    source: Option<io::Error>,
}

impl Error {
    fn new(what: impl Into<String>, source: io::Error) -> Self {
        Self { what: what.into(), source: Some(source) }
    }

    fn plain(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

/// The guest's interface as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, in bytes of IP packet.
    pub mtu: u16,
    /// Its IPv4 address, in a /30.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, in a /64.
    pub ipv6: Ipv6Addr,
    /// Where its IPv4 default route leads.
    pub gateway_ipv4: Ipv4Addr,
    /// Where its IPv6 default route leads.
    pub gateway_ipv6: Ipv6Addr,
}

/// Opens the network namespace that `name` names: a path if there is a `/` in it, else a name that
/// `ip netns` would know, else a process id.
///
/// # Errors
/// There is none of that name, or the caller may not open it.
pub fn open(name: &str) -> Result<OwnedFd, Error> {
    let path = path_of(name);
    // Not blocking: a path may turn out to be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT if path.starts_with("/proc") && !name.contains('/') => Error::plain(format!(
            "there is neither a process {name} nor a network namespace of that name"
        )),
        Errno::NOENT => Error::plain(format!(
            "there is no network namespace {name:?} ({} does not exist): `ip netns add` makes one",
            path.display()
        )),
        Errno::ACCESS | Errno::PERM => {
            Error::new(format!("opening {} takes root", path.display()), error.into())
        }
        _ => Error::new(format!("opening {}", path.display()), error.into()),
    })
}

fn path_of(name: &str) -> PathBuf {
    if name.contains('/') {
        return name.into();
    }
    let named = Path::new("/run/netns").join(name);
    if !named.exists() && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!("/proc/{name}/ns/net").into();
    }
    named
}

/// Runs `inside` in the network namespace `netns`, on a thread of its own that ends with it.
///
/// # Errors
/// The namespace cannot be entered: it is none, or the caller lacks the right to.
///
/// # Panics
/// If `inside` does.
pub fn within<T: Send>(
    netns: BorrowedFd<'_>,
    inside: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let visit = move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns, kind).map_err(explain_enter)?;
        Ok(inside())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, visit)
            .map_err(|error| Error::new("starting a thread", error))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn explain_enter(error: Errno) -> Error {
    let what = match error {
        Errno::PERM => {
            "entering the network namespace takes root (CAP_SYS_ADMIN); for one of a rootless \
             container, start this with `nsenter --user --preserve-credentials --target PID`"
        }
        Errno::INVAL => "that is not a network namespace",
        _ => "entering the network namespace",
    };
    Error::new(what, error.into())
}

/// Configures and brings up the existing interface `interface.name` in the calling thread's network
/// namespace: MAC, MTU, addresses, default routes; the loopback interface too. A kernel without
/// IPv6 gives the guest IPv4 alone, and a warning.
///
/// # Errors
/// The namespace has a default route already, the kernel refused a step, or it took over 5 seconds.
pub fn configure(interface: &Interface) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new("starting the netlink runtime", error))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| Error::new("opening a netlink socket", error))?;
        tokio::spawn(connection);
        tokio::time::timeout(CONFIGURE_SECONDS_MAX, converse(&handle, interface))
            .await
            .unwrap_or_else(|_| Err(Error::plain("the kernel did not answer over netlink for 5 s")))
    })
}

async fn converse(netlink: &Handle, interface: &Interface) -> Result<(), Error> {
    refuse_second_network(netlink).await?;
    let index = index_of(netlink, &interface.name).await?;
    let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    netlink.link().set(up).execute().await.map_err(|e| failed("bringing lo up", e))?;
    let up = LinkUnspec::new_with_index(index)
        .address(interface.mac.to_vec())
        .mtu(interface.mtu.into())
        .txqueuelen(QUEUE_FRAMES)
        .up()
        .build();
    netlink.link().set(up).execute().await.map_err(|e| failed("bringing the interface up", e))?;
    add_ipv4(netlink, index, interface).await?;
    add_ipv6(netlink, index, interface).await
}

/// A guest with two ways out would use either: its packets may pass one network's policy by.
async fn refuse_second_network(netlink: &Handle) -> Result<(), Error> {
    let ipv4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let ipv6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for family in [ipv4, ipv6] {
        let mut routes = core::pin::pin!(netlink.route().get(family).execute());
        // A kernel without IPv6 has no such routes to tell of.
        while let Ok(Some(route)) = routes.try_next().await {
            if is_default(&route) {
                return Err(Error::plain(
                    "the network namespace has a default route already, so another network \
                     (a second sluicegate, perhaps) serves it: end that one first",
                ));
            }
        }
    }
    Ok(())
}

fn is_default(route: &RouteMessage) -> bool {
    let leads_out = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::Oif(index) if *index != LOOPBACK_INDEX)
            || matches!(attribute, RouteAttribute::MultiPath(_))
    };
    route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && route.attributes.iter().any(leads_out)
}

async fn index_of(netlink: &Handle, name: &str) -> Result<u32, Error> {
    let request = netlink.link().get().match_name(name.to_owned()).execute();
    let found = core::pin::pin!(request).try_next().await;
    match found.map_err(|e| failed("finding the interface", e))? {
        Some(link) => Ok(link.header.index),
        None => Err(Error::plain(format!("there is no interface {name}"))),
    }
}

async fn add_ipv4(netlink: &Handle, index: u32, interface: &Interface) -> Result<(), Error> {
    let address = IpAddr::V4(interface.ipv4);
    let add = netlink.address().add(index, address, IPV4_PREFIX_BITS).execute();
    add.await.map_err(|e| failed("adding the IPv4 address", e))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(index)
        .gateway(interface.gateway_ipv4)
        .build();
    let add = netlink.route().add(route).execute();
    add.await.map_err(|e| failed("adding the IPv4 default route", e))
}

async fn add_ipv6(netlink: &Handle, index: u32, interface: &Interface) -> Result<(), Error> {
    // A host that disables IPv6 by default passes that on to new interfaces.
    let switch = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", interface.name);
    let enabled = std::fs::write(switch, "0");
    let mut add = netlink.address().add(index, IpAddr::V6(interface.ipv6), IPV6_PREFIX_BITS);
    // Nobody else is on this link, and an address under duplicate detection is of no use at first.
    add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    if let Err(error) = add.execute().await.map_err(into_io) {
        if enabled.is_err() {
            tracing::warn!(%error, "no IPv6 here: the guest has IPv4 only");
            return Ok(());
        }
        return Err(Error::new("adding the IPv6 address", error));
    }
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .output_interface(index)
        .gateway(interface.gateway_ipv6)
        .build();
    let add = netlink.route().add(route).execute();
    add.await.map_err(|e| failed("adding the IPv6 default route", e))
}

fn failed(step: &str, error: rtnetlink::Error) -> Error {
    Error::new(step, into_io(error))
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = &error {
        return message.to_io();
    }
    io::Error::other(error)
}

/// Lets every group that this process can name send pings through unprivileged sockets in the
/// calling thread's network namespace (`ping_group_range` is the namespace's own).
///
/// # Errors
/// The file cannot be written: `/proc/sys` is read-only in some containers.
pub fn allow_ping() -> io::Result<()> {
    const FILE: &str = "/proc/sys/net/ipv4/ping_group_range";
    let group = rustix::process::getegid();
    // In a user namespace only mapped groups are valid in the file, often just our own.
    std::fs::write(FILE, "0 2147483647")
        .or_else(|_| std::fs::write(FILE, format!("{0} {0}", group.as_raw())))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_name_is_a_path_a_named_namespace_or_a_process() {
        assert_eq!(path_of("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
        assert_eq!(path_of("./here"), Path::new("./here"));
        assert_eq!(path_of("guest"), Path::new("/run/netns/guest"));
        assert_eq!(path_of("4294967295"), Path::new("/proc/4294967295/ns/net"));
        assert_eq!(path_of(""), Path::new("/run/netns"));
    }

    #[test]
    fn a_namespace_that_does_not_exist_is_named_with_what_to_do() {
        let error = open("no-such-namespace").unwrap_err().to_string();
        assert!(error.contains("no-such-namespace") && error.contains("ip netns add"), "{error}");
    }

    #[test]
    fn what_is_no_namespace_is_not_entered() {
        let nothing = open("/dev/null").unwrap();
        let error = within(nothing.as_fd(), || unreachable!()).map(|(): ()| ()).unwrap_err();
        assert_eq!(error.to_string(), "that is not a network namespace");
    }

    #[test]
    fn only_a_way_out_of_the_namespace_counts_as_a_default_route() {
        let route = |edit: fn(&mut RouteMessage)| {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(2).build();
            edit(&mut route);
            is_default(&route)
        };
        assert!(route(|_| ()));
        assert!(!route(|route| route.header.destination_prefix_length = 30));
        assert!(!route(|route| route.header.kind = RouteType::Unreachable));
        assert!(!route(|route| route.attributes = vec![RouteAttribute::Oif(LOOPBACK_INDEX)]));
    }
}
