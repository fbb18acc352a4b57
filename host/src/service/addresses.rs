//! The host's own addresses, which its services listen on, and how they come and go.
//!
//! Owns the questions to the kernel and what it says unasked; must not know what the answer is for.
//! It is about the network namespace of the thread that calls [`Watch::start`].
//!
//! **Theory.** One netlink socket (netlink(7), rtnetlink(7)) is a member of the groups that are
//! told of every address, and then asks for all there are. Both come in the order in which they
//! happened, so an address that changes meanwhile is not missed. Where the kernel says that it lost
//! something (`ENOBUFS`), or that the list changed under its hands (`NLM_F_DUMP_INTR`), all are
//! asked for again. Whatever else goes wrong is an error: who holds the list must take it for
//! unknown then. The kernel tells of a new address before it accepts packets for it.
//!
//! **Not done**: addresses that are the host's by a route of type `local` alone.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// The kernel answers within this time.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(5);
/// RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV6_IFADDR.
const GROUPS: [u32; 2] = [5, 9];
/// Addresses that count, by interface; a host with more has a list of no use.
const ADDRESSES_MAX: usize = 4096;
/// How often the list may change while it is read.
const DUMPS_MAX: usize = 16;
/// Messages begin at multiples of this many bytes (netlink(7), NLMSG_ALIGN).
const ALIGN_BYTES: usize = 4;

/// The addresses as they are, as far as they count.
pub(crate) struct Watch {
    socket: Socket,
    /// Whether an address counts; the others are forgotten at once.
    counts: fn(IpAddr) -> bool,
    /// With the interface, since another may have the same.
    known: HashSet<(u32, IpAddr)>,
}

/// What a read of the socket led to.
#[derive(Debug, Default)]
struct Heard {
    /// It was the end of all that was asked for.
    is_end: bool,
    /// Something was missed.
    has_gap: bool,
}

impl Watch {
    /// Reads all addresses that count, and watches from then on.
    ///
    /// # Errors
    /// There is no netlink socket to be had, the kernel refused to answer, or there are more than
    /// 4096.
    pub(crate) fn start(counts: fn(IpAddr) -> bool) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        let mut watch = Self { socket, counts, known: HashSet::new() };
        watch.read_all()?;
        Ok(watch)
    }

    /// What becomes readable when an address comes or goes.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes in what has happened since the last time; true: the list may have changed. Does not
    /// wait, unless something was missed.
    ///
    /// # Errors
    /// The list is not known any more, as in [`start`](Self::start).
    pub(crate) fn update(&mut self) -> io::Result<bool> {
        let mut changed = false;
        while let Some(heard) = self.hear()? {
            changed = true;
            if heard.has_gap {
                self.read_all()?;
            }
        }
        Ok(changed)
    }

    /// The addresses that count, each once.
    pub(crate) fn addresses(&self) -> HashSet<IpAddr> {
        self.known.iter().map(|(_, address)| *address).collect()
    }

    /// Forgets the list, and reads it until it was read in one piece.
    fn read_all(&mut self) -> io::Result<()> {
        for _ in 0..DUMPS_MAX {
            // What is older than the answer must not be taken for newer.
            while self.hear()?.is_some() {}
            self.known.clear();
            self.ask()?;
            if self.is_heard_whole()? {
                return Ok(());
            }
        }
        Err(io::Error::other("the list of addresses changes all the time"))
    }

    /// Asks for every address of either family.
    fn ask(&self) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let payload = RouteNetlinkMessage::GetAddress(AddressMessage::default()).into();
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Takes in the answer; false: it has a gap.
    fn is_heard_whole(&mut self) -> io::Result<bool> {
        let mut is_whole = true;
        loop {
            let Some(heard) = self.hear()? else {
                self.wait()?;
                continue;
            };
            is_whole &= !heard.has_gap;
            if heard.is_end {
                return Ok(is_whole);
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let patience = Timespec::try_from(ANSWER_SECONDS_MAX).map_err(io::Error::other)?;
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&patience)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in one read of the socket; `None`: there is nothing more now.
    fn hear(&mut self) -> io::Result<Option<Heard>> {
        let (bytes, from) = match self.socket.recv_from_full() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Some(Heard::default()));
            }
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                return Ok(Some(Heard { has_gap: true, is_end: false }));
            }
            Err(error) => return Err(error),
        };
        // Port 0 is the kernel's; nobody else has a say.
        let is_kernels = from.port_number() == 0;
        if is_kernels { self.take_in(&bytes).map(Some) } else { Ok(Some(Heard::default())) }
    }

    fn take_in(&mut self, mut bytes: &[u8]) -> io::Result<Heard> {
        let mut heard = Heard::default();
        while !bytes.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(io::Error::other)?;
            let len = usize::try_from(message.header.length).map_err(io::Error::other)?;
            heard.has_gap |= message.header.flags & NLM_F_DUMP_INTR != 0;
            heard.is_end |= matches!(message.payload, NetlinkPayload::Done(_));
            heard.has_gap |= matches!(message.payload, NetlinkPayload::Overrun(_));
            if let NetlinkPayload::InnerMessage(inner) = &message.payload {
                self.note(inner)?;
            } else if let NetlinkPayload::Error(error) = &message.payload
                && error.code.is_some()
            {
                return Err(error.to_io());
            }
            bytes = bytes.get(len.next_multiple_of(ALIGN_BYTES).max(1)..).unwrap_or(&[]);
        }
        Ok(heard)
    }

    /// Takes in that an address came or went; nothing else was asked for.
    fn note(&mut self, message: &RouteNetlinkMessage) -> io::Result<()> {
        if let RouteNetlinkMessage::DelAddress(gone) = message
            && let Some(address) = own(gone)
        {
            self.known.remove(&(gone.header.index, address));
        }
        if let RouteNetlinkMessage::NewAddress(new) = message
            && let Some(address) = own(new).filter(|address| (self.counts)(*address))
        {
            self.known.insert((new.header.index, address));
        }
        if self.known.len() > ADDRESSES_MAX {
            return Err(io::Error::other("this host has more than 4096 public addresses"));
        }
        Ok(())
    }
}

/// The address that `message` is about: on a link with one peer, the other one is the peer's.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None }
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_loopback_addresses_are_the_hosts_own() {
        let mut watch = Watch::start(|_| true).unwrap();
        let own = watch.addresses();
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()), "{own:?}");
        if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert!(own.contains(&Ipv6Addr::LOCALHOST.into()), "{own:?}");
        }
        // Asked again after a gap, it is the same.
        watch.read_all().unwrap();
        assert_eq!(watch.addresses(), own);
    }

    #[test]
    fn what_does_not_count_is_not_kept() {
        let watch = Watch::start(|address| !address.is_loopback()).unwrap();
        assert!(!watch.addresses().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn of_two_ends_the_own_is_taken() {
        let [own_end, peer] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(peer)];
        assert_eq!(own(&message), Some(peer));
        message.attributes.push(AddressAttribute::Local(own_end));
        assert_eq!(own(&message), Some(own_end));
    }

    /// What the kernel would say of `message`.
    fn bytes(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn address(index: u32, address: IpAddr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address)];
        message
    }

    #[test]
    fn an_address_is_own_until_the_last_interface_has_lost_it() {
        let mut watch = Watch::start(|_| true).unwrap();
        let ip: IpAddr = Ipv4Addr::new(11, 0, 0, 1).into();
        let new = |index| bytes(RouteNetlinkMessage::NewAddress(address(index, ip)), 0);
        let gone = |index| bytes(RouteNetlinkMessage::DelAddress(address(index, ip)), 0);
        watch.take_in(&[new(701), new(702)].concat()).unwrap();
        assert!(watch.addresses().contains(&ip));
        watch.take_in(&gone(701)).unwrap();
        assert!(watch.addresses().contains(&ip));
        watch.take_in(&gone(702)).unwrap();
        assert!(!watch.addresses().contains(&ip));
    }

    #[test]
    fn a_list_that_changed_while_it_was_read_has_a_gap_and_one_too_long_is_an_error() {
        let mut watch = Watch::start(|_| true).unwrap();
        let torn = RouteNetlinkMessage::NewAddress(address(1, Ipv4Addr::new(11, 0, 0, 1).into()));
        assert!(watch.take_in(&bytes(torn, NLM_F_DUMP_INTR)).unwrap().has_gap);
        let mut many = (0..5000_u32).map(|number| {
            let ip = Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + number).into();
            watch.take_in(&bytes(RouteNetlinkMessage::NewAddress(address(1, ip)), 0))
        });
        assert!(many.any(|heard| heard.is_err()));
        assert!(watch.take_in(&[1; 20]).is_err(), "what can't be read is not passed over");
    }
}
