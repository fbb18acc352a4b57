//! How things end, by blame: a frame is dropped, a flow is refused, a caller's config is wrong.

use core::fmt;

/// Why a guest frame went no further. Counted, never an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Drop {
    /// Shorter than its own headers say.
    Truncated,
    /// Longer than the link's MTU allows.
    TooLong,
    /// Not from the guest's MAC address.
    SourceMac,
    /// Not to the gateway, and neither broadcast nor multicast.
    DestinationMac,
    /// Not from an address of the guest.
    SourceAddress,
    /// To an address that no guest may name (unspecified, loopback, multicast, broadcast, its own).
    DestinationAddress,
    /// A header or payload checksum is wrong.
    Checksum,
    /// A header field contradicts another, or its RFC.
    Malformed,
    /// An EtherType, IP protocol, ICMP type or extension header that is not served.
    Unsupported,
    /// A fragment that overlaps, lies outside 64 KiB, or whose set was discarded.
    Fragment,
    /// A datagram for the outside whose time to live, or hop limit, ends at the gateway.
    HopLimit,
    /// A port that must be non-zero is zero.
    Port,
    /// A segment of no flow that asks for no answer (a stray RST).
    NoFlow,
    /// A segment that TCP has no use for in the flow's state: a repeated SYN while connecting, what
    /// comes behind the guest's own FIN, anything on a connection that was just reset.
    Redundant,
    /// A segment without an acknowledgement on an open connection (RFC 9293 3.10.7.4, fifth).
    NoAck,
    /// A segment all of which has come before: its bytes, its FIN, or a later acknowledgement than
    /// its own. Where it is due, it was acknowledged again. A keepalive is none.
    Duplicate,
    /// A segment outside the window that the guest was offered (RFC 9293 3.10.7.4, first). It is
    /// told where the window is.
    OutOfWindow,
    /// Bytes or a FIN before which others are missing, and which cannot wait for them: a FIN alone,
    /// or one more piece of a stream that has too many gaps.
    Early,
    /// A reset, a SYN or an acknowledgement on an open connection that whoever does not know the
    /// connection's numbers might have sent (RFC 5961).
    Doubtful,
    /// An ICMP error from which nothing follows: it is about nothing that is on its way to the
    /// guest, or about what may yet arrive.
    IcmpError,
    /// The flow table of the protocol is full of busy flows.
    FlowsFull,
    /// Policy denies the destination.
    Denied,
    /// The ring from the guest was full for too long (counted by the adapter).
    RingFull,
    /// An offload record that the frame's bytes contradict.
    Offload,
    /// A message for another DHCP server.
    OtherServer,
    /// An answer could not be put into the full ring to the guest, or no packet holds it.
    AnswerLost,
}

impl Drop {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 26] = [
        Self::Truncated,
        Self::TooLong,
        Self::SourceMac,
        Self::DestinationMac,
        Self::SourceAddress,
        Self::DestinationAddress,
        Self::Checksum,
        Self::Malformed,
        Self::Unsupported,
        Self::Fragment,
        Self::HopLimit,
        Self::Port,
        Self::NoFlow,
        Self::Redundant,
        Self::NoAck,
        Self::Duplicate,
        Self::OutOfWindow,
        Self::Early,
        Self::Doubtful,
        Self::IcmpError,
        Self::FlowsFull,
        Self::Denied,
        Self::RingFull,
        Self::Offload,
        Self::OtherServer,
        Self::AnswerLost,
    ];

    /// The name used in counters and fixtures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::TooLong => "too_long",
            Self::SourceMac => "source_mac",
            Self::DestinationMac => "destination_mac",
            Self::SourceAddress => "source_address",
            Self::DestinationAddress => "destination_address",
            Self::Checksum => "checksum",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Fragment => "fragment",
            Self::HopLimit => "hop_limit",
            Self::Port => "port",
            Self::NoFlow => "no_flow",
            Self::Redundant => "redundant",
            Self::NoAck => "no_ack",
            Self::Duplicate => "duplicate",
            Self::OutOfWindow => "out_of_window",
            Self::Early => "early",
            Self::Doubtful => "doubtful",
            Self::IcmpError => "icmp_error",
            Self::FlowsFull => "flows_full",
            Self::Denied => "denied",
            Self::RingFull => "ring_full",
            Self::Offload => "offload",
            Self::OtherServer => "other_server",
            Self::AnswerLost => "answer_lost",
        }
    }
}

/// Why the outside would not have a flow or a datagram; decides what the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Refusal {
    /// Refused by the peer: TCP RST, ICMP port unreachable (RFC 792, RFC 4443 3.1).
    Refused,
    /// No route to the host: ICMP host unreachable, ICMPv6 address unreachable.
    HostUnreachable,
    /// No route to the network: ICMP net unreachable, ICMPv6 no route.
    NetUnreachable,
    /// Nobody answered in time: ICMP host unreachable, ICMPv6 address unreachable.
    TimedOut,
    /// The host forbids it: ICMP administratively prohibited (RFC 1812 5.2.7.1, RFC 4443 3.1).
    Forbidden,
    /// A datagram is larger than the path takes: ICMP fragmentation needed, ICMPv6 packet too big.
    TooBig {
        /// The path's MTU, in bytes of IP packet.
        mtu: u32,
    },
    /// A datagram may go no further than this link: ICMP time exceeded (RFC 1812 5.3.1, RFC 4443
    /// 3.3).
    Expired,
    /// This host is out of descriptors, ports or memory: TCP RST, ICMP host unreachable.
    Exhausted,
}

impl Refusal {
    /// The name of every kind, in the order of the counters.
    pub const NAMES: [&str; 8] = [
        "refused",
        "host_unreachable",
        "net_unreachable",
        "timed_out",
        "forbidden",
        "too_big",
        "expired",
        "exhausted",
    ];

    /// Where it is among [`NAMES`](Self::NAMES).
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Refused => 0,
            Self::HostUnreachable => 1,
            Self::NetUnreachable => 2,
            Self::TimedOut => 3,
            Self::Forbidden => 4,
            Self::TooBig { .. } => 5,
            Self::Expired => 6,
            Self::Exhausted => 7,
        }
    }
}

/// Why the guest does not learn what it asked of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum NameRefusal {
    /// Policy denies the name: NXDOMAIN.
    Denied,
    /// It leads where it must not: NXDOMAIN.
    Rebinding,
    /// A whole zone is asked for: REFUSED.
    Transfer,
    /// The query is none, or of another version of EDNS: FORMERR, NOTIMP, BADVERS, or silence.
    Query,
    /// No name server answered in time, or too much is asked at once: SERVFAIL.
    Unreachable,
    /// The answer is none: SERVFAIL.
    Malformed,
}

impl NameRefusal {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 6] = [
        Self::Denied,
        Self::Rebinding,
        Self::Transfer,
        Self::Query,
        Self::Unreachable,
        Self::Malformed,
    ];
}

/// What is wrong with a configuration: the field, its value and the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The field, dotted from the top (`interface.mtu`).
    pub field: &'static str,
    /// The offending value, as text.
    pub value: heapless::String<64>,
    /// What the field accepts, as a sentence fragment.
    pub expected: &'static str,
}

impl ConfigError {
    /// An error for `field`. A value longer than 64 bytes is cut.
    #[must_use]
    pub fn new(field: &'static str, value: impl fmt::Display, expected: &'static str) -> Self {
        let mut cut = Cut(heapless::String::new());
        // `Cut` takes as much as fits and never fails.
        let _ = fmt::write(&mut cut, format_args!("{value}"));
        Self { field, value: cut.0, expected }
    }
}

struct Cut(heapless::String<64>);

impl fmt::Write for Cut {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is not {}", self.field, self.value, self.expected)
    }
}

impl core::error::Error for ConfigError {}
