//! Who called a published UDP port, and at which of this host's addresses: an answer leaves from
//! the address that was called (RFC 1122 4.1.3.5), also where the port is bound to all of them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// A peer, and the address that it called; `None`: the socket has but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) peer: SocketAddr,
    called: Option<Called>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Called {
    address: IpAddr,
    interface: u32,
}

impl Caller {
    /// One at a socket with but one address.
    pub(super) const fn of(peer: SocketAddr) -> Self {
        Self { peer, called: None }
    }
}

/// Lets `socket`, which is bound to `address`, tell which address is called.
pub(super) fn watch(socket: &impl std::os::fd::AsFd, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    Ok(())
}

/// Takes a datagram; returns its length and who called.
pub(super) fn receive(socket: &UdpSocket, space: &mut [u8]) -> io::Result<(usize, Caller)> {
    let mut control = cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut space = [IoSliceMut::new(space)];
    let flags = MsgFlags::empty();
    let fd = socket.as_raw_fd();
    let received = recvmsg::<SockaddrStorage>(fd, &mut space, Some(&mut control), flags)?;
    let peer = received.address.and_then(|address| match address.as_sockaddr_in() {
        Some(v4) => Some(SocketAddr::V4((*v4).into())),
        None => address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
    });
    let peer = peer.ok_or_else(|| io::Error::other("a datagram of nobody"))?;
    let mut called = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
            let address = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into();
            called = Some(Called { address, interface: 0 });
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
            called = Some(Called { address, interface: info.ipi6_ifindex });
        }
    }
    Ok((received.bytes, Caller { called, ..Caller::of(peer) }))
}

/// Answers `to`, from the address that it called.
pub(super) fn answer(socket: &UdpSocket, payload: &[u8], to: &Caller) -> io::Result<usize> {
    let Some(called) = to.called else { return socket.send_to(payload, to.peer) };
    let (payload, address) = ([IoSlice::new(payload)], SockaddrStorage::from(to.peer));
    let send = |control: &[ControlMessage<'_>]| {
        let flags = MsgFlags::empty();
        Ok(sendmsg(socket.as_raw_fd(), &payload, control, flags, Some(&address))?)
    };
    match called.address {
        IpAddr::V4(address) => send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        })]),
        IpAddr::V6(address) => {
            // Which link an address of the link is on only the interface says.
            let interface = if address.is_unicast_link_local() { called.interface } else { 0 };
            send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                ipi6_ifindex: interface,
            })])
        }
    }
}
