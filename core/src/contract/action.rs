//! What the engine asks of the host.

use core::net::SocketAddr;
use core::ops::Range;

use super::{Denial, FlowId, Instant};

/// Where a flow goes, as the guest addressed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outside {
    /// The gateway's own address: this host's loopback, in the family of the address. Only the port
    /// counts.
    HostLoopback(SocketAddr),
    /// Any other address.
    Remote(SocketAddr),
    /// The gateway's name service, in place of a name server at any address. What the guest sends
    /// there is DNS (RFC 1035 4.2): a query in each datagram, and on a stream each behind its
    /// length. `Engine::judge_query` says what is to be done with one.
    Names(SocketAddr),
}

/// The protocol of a datagram flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum DatagramKind {
    /// UDP; the payload is what follows the UDP header.
    Udp,
    /// ICMP or ICMPv6 echo; the payload is the whole ICMP message from its type octet on. The
    /// host's ping socket replaces identifier and checksum; the engine restores the guest's
    /// identifier.
    Echo,
}

/// What was said before a flow is intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Beginning {
    /// The guest has begun a TLS handshake.
    Tls,
    /// The guest speaks in the clear.
    Clear,
    /// The same in HTTP/2, and it was sent empty settings in the server's place: the first that it
    /// acknowledges (RFC 9113 6.5.3) are those, and that is not to be handed on.
    Welcomed,
}

/// One thing for the host to do. Actions come in order; each is complete in itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'e> {
    /// Connect a stream socket; answer with [`Event::Connected`](super::Event::Connected) or
    /// [`Event::ConnectFailed`](super::Event::ConnectFailed). The guest's SYN waits meanwhile,
    /// unless it was answered so that the guest would say whom the flow is for.
    Connect {
        /// The new flow.
        flow: FlowId,
        /// The destination.
        to: Outside,
    },
    /// The guest has begun a TLS handshake at one of
    /// [`Config::intercepted_ports`](super::Config::intercepted_ports), and policy was asked about
    /// the name it said: answer it in the server's place, on a connection of the host's own to
    /// `to`. To be answered as [`Action::Connect`]; the first bytes that come are the whole of what
    /// the guest has said so far, from its hello on.
    ///
    /// Where `to` is [`Outside::Names`], names are to be asked inside (RFC 7858): nobody is
    /// connected to, and each query is to be judged. If it does not begin with TLS, what the guest
    /// says is to be relayed ([`Config::relays_http`](super::Config::relays_http)).
    Intercept {
        /// The flow.
        flow: FlowId,
        /// The destination.
        to: Outside,
        /// The guest's port.
        guest_port: u16,
        /// What was said so far.
        begins: Beginning,
        /// The server's name, in lower case and without a dot at its end: the only one for which
        /// policy allows the flow. `None`: none was said that can be read.
        name: Option<&'e str>,
        /// There may be another name that nobody here can read, encrypted (RFC 9849): whoever does
        /// not end the handshake itself does not know whom it is for.
        is_veiled: bool,
        /// Policy denies the flow, by default: nobody is to be connected to, and the guest is to be
        /// told so in its own words, as by [`DenyPage`](super::DenyPage).
        is_denied: bool,
    },
    /// Bytes of the guest wait in `Engine::take_from_guest`: write them outside. Said once until
    /// the host takes some; a host whose socket is full comes back when it is writable.
    Send {
        /// The flow.
        flow: FlowId,
    },
    /// The guest has finished, and every byte of it has been taken: shut down the sending side.
    Finish {
        /// The flow.
        flow: FlowId,
    },
    /// There is room again for bytes to the guest, after `Engine::give_to_guest` had none.
    Receive {
        /// The flow.
        flow: FlowId,
    },
    /// The guest reset the flow, or the engine gave it up: close the socket with a reset. The id is
    /// free.
    Reset {
        /// The ended flow.
        flow: FlowId,
    },
    /// Both directions have ended in order: close the socket. The id is free.
    Close {
        /// The ended flow.
        flow: FlowId,
    },
    /// Send one datagram, on a socket of the flow's own, connected to `to` (opened if this is the
    /// first), or a row of them. A flow of an earlier generation in the same slot has given way:
    /// close its socket.
    SendDatagram {
        /// The flow.
        flow: FlowId,
        /// What kind of socket.
        kind: DatagramKind,
        /// The destination.
        to: Outside,
        /// The payload; 0 to 65,507 bytes.
        payload: &'e [u8],
        /// 0: the payload is that of one datagram. Otherwise it is cut: this many bytes are the
        /// payload of each of up to [`UDP_SEGMENTS_MAX`](crate::limits::UDP_SEGMENTS_MAX)
        /// datagrams, of which the last may be shorter.
        segment_bytes: u16,
    },
    /// Policy denied a flow, and the guest was told: tell who wants to know. Of very many some are
    /// left out, and counted.
    Denied {
        /// The denial.
        denial: Denial,
        /// The name that the guest said to the server, if it is why, and was read.
        name: Option<&'e str>,
    },
    /// These bytes of [`Memory::buffers`](crate::Memory::buffers) hold nothing, and many of them
    /// were used: the memory behind them may be given back to the system, whatever they read as
    /// afterwards. A host without such a system ignores it.
    Unused {
        /// Offsets in the buffers.
        bytes: Range<usize>,
        /// Their flow has ended: the next one uses them. Otherwise it has been silent.
        is_ended: bool,
    },
    /// Nothing to do until `until`, a frame, or an event.
    Wait {
        /// The deadline; `None`: none. In the past: poll again at once, after others had a turn.
        until: Option<Instant>,
        /// What the deadline is for.
        why: WaitReason,
    },
}

/// Why the engine waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum WaitReason {
    /// No timer runs.
    Idle,
    /// The nearest timer of a flow, of a half reassembled datagram, or of router advertisements.
    Timer,
    /// One direction is limited, and its time to go on is nearer than any timer.
    Paced,
    /// The turn's budget is spent; more frames wait.
    Budget,
    /// The ring to the guest is full; the consumer wakes the producer when there is room.
    GuestRingFull,
}
