//! Every capacity and timeout of the engine, unit in the name.
//!
//! What a user may change is a field of the configuration whose default or bound stands here.

/// Bytes of an Ethernet II header: destination, source, EtherType.
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// The largest IP packet (RFC 791: a 16-bit total length).
pub const IP_PACKET_BYTES_MAX: usize = 65_535;
/// The largest frame of any link here: an Ethernet header and the largest IP packet.
pub const FRAME_BYTES_MAX: usize = ETHERNET_HEADER_BYTES + IP_PACKET_BYTES_MAX;

/// The link MTU where nothing is configured.
pub const MTU_BYTES_DEFAULT: u16 = 1500;
/// The smallest link MTU: IPv6 needs it (RFC 8200 5).
pub const MTU_BYTES_MIN: u16 = 1280;
/// The largest link MTU: what Linux lets a virtio-net interface have, a multiple of 8 below 65,535.
pub const MTU_BYTES_MAX: u16 = 65_520;
/// Ethernet frame bytes that every virtio-net driver's receive buffers take without offloads.
pub const RECEIVE_FRAME_BYTES_DEFAULT: u32 = 1514;
/// The least that a guest's receive buffers may take: a frame of the smallest MTU.
pub const RECEIVE_FRAME_BYTES_MIN: u32 = 1294;
/// The longest Ethernet frame that any guest takes, in bytes: as [`FRAME_BYTES_MAX`].
pub const RECEIVE_FRAME_BYTES_MAX: u32 = 65_549;

/// TCP flows where nothing is configured.
pub const TCP_FLOWS_DEFAULT: u32 = 4096;
/// The most TCP flows that may be configured.
pub const TCP_FLOWS_MAX: u32 = 65_536;
/// UDP flows where nothing is configured: of the guest's, and as many from outside.
pub const UDP_FLOWS_DEFAULT: u32 = 4096;
/// The most UDP flows of each that may be configured.
pub const UDP_FLOWS_MAX: u32 = 65_536;
/// Echo (ping) flows where nothing is configured.
pub const ICMP_FLOWS_DEFAULT: u32 = 256;
/// The most echo flows that may be configured.
pub const ICMP_FLOWS_MAX: u32 = 65_536;

/// The gateway's ports as the guest sees those who come from outside (RFC 6335 6).
pub const GATEWAY_PORTS: core::ops::RangeInclusive<u16> = 49_152..=65_535;
/// How long a connection may take to say whom it is for.
pub const TCP_LOOK_MS_MAX: u64 = 5_000;
/// Who has greeted in a protocol in which the outside may have to speak first, and is silent for so
/// long, waits for that.
pub const TCP_GREETING_MS: u64 = 100;
/// The port of HTTP.
pub const HTTP_PORT: u16 = 80;
/// The port of HTTPS, and of QUIC.
pub const HTTPS_PORT: u16 = 443;
/// Bytes of the message of a page that denies.
pub const DENY_MESSAGE_BYTES_MAX: usize = 256;

/// Tokens of a rate limit's bucket, and of its burst: 1 PiB.
pub const BUCKET_TOKENS_MAX: u64 = 1 << 50;
/// The longest time in which a bucket is refilled: a day.
pub const BUCKET_REFILL_MS_MAX: u64 = 86_400_000;

/// Bytes of a TCP flow's receive buffer (from the guest), a power of two.
pub const TCP_RECEIVE_BYTES: usize = 512 * 1024;
/// Bytes of a TCP flow's send buffer (to the guest), a power of two.
pub const TCP_SEND_BYTES: usize = 512 * 1024;

/// The least of either: the first segments of a connection fit, and what servers are told in the
/// clear of their name.
pub const TCP_BUFFER_BYTES_MIN: usize = 16 * 1024;

/// The host's connect may take this long; then the guest sees ICMP host unreachable.
pub const TCP_CONNECT_MS_MAX: u64 = 30_000;
/// The guest must answer a SYN-ACK within this time.
pub const TCP_HALF_OPEN_MS_MAX: u64 = 10_000;
/// A silent connection is probed after this time, and given up when the probes go unanswered.
pub const TCP_IDLE_MS_MAX: u64 = 2 * 3600 * 1000;
/// How long unanswered data, probes or keepalives are retried before the guest counts as gone.
pub const TCP_UNANSWERED_MS_MAX: u64 = 120_000;
/// An acknowledgement waits so long for an answer that can carry it (RFC 9293 3.8.6.3: less than
/// half a second).
pub const TCP_ACK_DELAY_MS: u64 = 20;
/// Guest and outside have taken turns so often before it is believed that they go on.
pub const TURNS_MIN: u8 = 4;
/// A flow whose guest owes an acknowledgement is nudged after this time, then at twice that, and so
/// on: well after the first repetition (RFC 6298 2.4).
pub const TCP_NUDGE_MS: u64 = 2000;
/// A connection that the outside finished and the guest left open may be silent this long.
pub const TCP_FIN_WAIT_2_MS_MAX: u64 = 60_000;
/// Data of a finished direction may make no progress this long.
pub const TCP_DRAIN_MS_MAX: u64 = 30_000;
/// An open flow that hears nothing of its guest for this long gives the memory of its empty buffers
/// back.
pub const TCP_SILENT_MS: u64 = 2000;
/// Bytes that must have moved through a flow's buffers for that to be worth a system call.
pub const UNUSED_BYTES_MIN: u32 = 64 * 1024;
/// Challenge ACKs of one flow are at least this far apart, as in Linux
/// (`tcp_invalid_ratelimit`).
pub const TCP_CHALLENGE_MS: u64 = 500;
/// TIME-WAIT towards the guest. RFC 9293 asks for 2 MSL; no segment wanders on a link of one hop,
/// so a second covers what this state is for: answering a repeated FIN.
pub const TCP_TIME_WAIT_MS: u64 = 1000;

/// A UDP flow without a datagram either way ends (RFC 4787 REQ-5 asks for 2 minutes of NATs, and
/// lets the administrator choose; the nearest peer has a minute too).
pub const UDP_IDLE_MS_MAX: u64 = 60_000;
/// An echo flow without a message either way ends (RFC 5508 REQ-1).
pub const ICMP_IDLE_MS_MAX: u64 = 60_000;

/// UDP datagrams that one frame of the guest may be cut into, as in Linux (`UDP_MAX_SEGMENTS`: 64
/// before 6.9, then 128).
pub const UDP_SEGMENTS_MAX: usize = 128;
/// UDP datagrams that are handed on in a row, to a guest or to a host's kernel: what every Linux
/// takes.
pub const UDP_ROW_DATAGRAMS_MAX: usize = 64;

/// Datagrams that are being reassembled at a time.
pub const FRAGMENT_SETS_DEFAULT: u32 = 16;
/// Separate pieces of one datagram that are remembered.
pub const FRAGMENT_HOLES_MAX: usize = 16;
/// A datagram must be complete this long after its first fragment (RFC 1122 3.3.2, RFC 8200 4.5).
pub const FRAGMENT_MS_MAX: u64 = 60_000;

/// ICMP errors that the guest is sent in a second (RFC 1812 4.3.2.8, RFC 4443 2.4 f).
pub const ICMP_ERRORS_PER_SECOND_MAX: u32 = 1000;

/// Denials that the host is told of in a second; more are counted.
pub const DENIALS_PER_SECOND_MAX: u32 = 50;

/// Rules of a policy.
pub const POLICY_RULES_MAX: usize = 512;
/// Ranges of ports in all rules of a policy.
pub const POLICY_PORT_RANGES_MAX: usize = 1024;
/// Bytes of names in all rules of a policy.
pub const POLICY_NAME_BYTES_MAX: usize = 16_384;
/// Bytes of a name, its dots included (RFC 1035 2.3.4 counts a length octet before each label and
/// one at the end: 255 of those).
pub const DOMAIN_BYTES_MAX: usize = 253;
/// Addresses of this host on the public Internet that a policy is told of.
pub const OWN_ADDRESSES_MAX: usize = 256;
/// Ports at which TLS is intercepted.
pub const INTERCEPTED_PORTS_MAX: usize = 16;
/// NAT64 prefixes beside the well-known one.
pub const NAT64_PREFIXES_MAX: usize = 8;

/// The port of name servers: whatever address it is of, the gateway answers.
pub const DNS_PORT: u16 = 53;
/// The port of those that are asked over TLS (RFC 7858 3.1).
pub const DNS_OVER_TLS_PORT: u16 = 853;
/// Bytes of the longest answer that goes in one datagram: what crosses every path whole (the limit
/// of the DNS flag day of 2020).
pub const DNS_DATAGRAM_BYTES_MAX: u16 = 1232;
/// Bytes of an answer in a datagram for a guest that says nothing of EDNS (RFC 1035 4.2.1).
pub const DNS_DATAGRAM_BYTES_MIN: u16 = 512;
/// Bytes of the longest message (RFC 1035 4.2.2: a length of 16 bits).
pub const DNS_MESSAGE_BYTES_MAX: usize = 65_535;
/// Bytes of the longest query that goes upstream: a header, a question, and an OPT record.
pub const DNS_QUERY_BYTES_MAX: usize = 12 + 255 + 4 + 11;
/// Pointers that lead from one to the next within a name.
pub const DNS_POINTERS_MAX: u32 = 32;
/// Records of the longest answer that is looked at, and addresses in them: as many as are kept of
/// one name. One with more is as one that is malformed.
pub const DNS_RECORDS_MAX: u32 = 1024;
/// Names through which an answer may lead to its addresses.
pub const DNS_CNAMES_MAX: u32 = 16;
/// For how long the gateway's own name is good.
pub const DNS_OWN_TTL_SECONDS: u32 = 60;

/// Addresses that are known by a name, where a policy has rules by name.
pub const BINDINGS_MAX: u32 = 16_384;
/// Names of one address that a verdict looks at; with more it denies.
pub const BINDINGS_PER_ADDRESS_MAX: usize = 256;
/// Addresses of one name that are known to be its own.
pub const BINDINGS_PER_NAME_MAX: u32 = 1024;
/// The least time that an address is known by its name.
pub const BINDING_SECONDS_MIN: u32 = 1;
/// The longest time that an address is known by its name.
pub const BINDING_SECONDS_MAX: u32 = 3600;

/// The port of DHCP servers.
pub const DHCP_PORT: u16 = 67;
/// The port of DHCPv6 servers.
pub const DHCPV6_PORT: u16 = 547;
/// For how long an address is leased where nothing is configured, in seconds: a day, so that a
/// guest renews twice a day. Each renewal wakes both sides.
pub const LEASE_S_DEFAULT: u32 = 86_400;
/// The shortest lease, in seconds: clients take less for a mistake.
pub const LEASE_S_MIN: u32 = 10;
/// The longest lease, in seconds: a year. All ones would mean "for ever" (RFC 2131 3.3).
pub const LEASE_S_MAX: u32 = 31_536_000;
/// Between two router advertisements that nobody asked for: the longest that RFC 4861 6.2.1 allows,
/// as each wakes an idle guest.
pub const ADVERT_MS: u64 = 1_800_000;
/// The least time between a router advertisement and one for all (RFC 4861 10,
/// `MIN_DELAY_BETWEEN_RAS`).
pub const ADVERT_MS_MIN: u64 = 3000;
/// The same for one that goes to who asked: a guest's kernel asks, and its network daemon a moment
/// later.
pub const ADVERT_ANSWER_MS_MIN: u64 = 250;
/// For how long the gateway is a router, and a name server, by an advertisement: the longest that
/// RFC 4861 6.2.1 allows, so that four may be lost.
pub const ADVERT_LIFETIME_S: u32 = 9000;
/// For how long the prefix is on the link by an advertisement (RFC 4861 6.2.1).
pub const PREFIX_LIFETIME_S: u32 = 2_592_000;
/// Bytes of a DHCP message that every client takes: those of a datagram of 576 bytes (RFC 2131 2).
pub const DHCP_BYTES_MAX: usize = 548;
/// Bytes below which some clients take a DHCP message for cut short (RFC 1542 2.1).
pub const DHCP_BYTES_MIN: usize = 300;
/// Bytes of the longest answer of ours to DHCPv6.
pub const DHCPV6_BYTES_MAX: usize = 720;
/// Bytes of a DHCPv6 client's identifier (RFC 8415 11.1).
pub const DUID_BYTES_MAX: usize = 130;
/// Identity associations of a DHCPv6 message that are answered.
pub const ASSOCIATIONS_MAX: usize = 4;

/// Frames of the guest that one turn takes.
pub const TURN_FRAMES_MAX: u32 = 256;
/// Payload bytes of a segment that is put together with its neighbours: what a frame of the usual
/// links has. A longer one is worth a pass of its own, without the copy.
pub const RUN_SEGMENT_BYTES_MAX: usize = 9216;
/// Bytes that one flow may give to the guest in one turn.
pub const TURN_FLOW_BYTES_MAX: usize = 256 * 1024;
/// Packets of one flow for the guest, of up to 64 KiB, before those of another have their turn.
pub const TURN_PASSES_MAX: u32 = 16;
/// Bytes of the frames that one turn takes; it ends behind the frame that reaches them.
pub const TURN_FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Frames of the guest that a short turn takes, for whose end somebody waits: another engine of the
/// same thread, or the guest itself, for an answer.
pub const TURN_FRAMES_SHORT_MAX: u32 = 32;
/// Bytes of the frames that such a turn takes.
pub const TURN_FRAME_BYTES_SHORT_MAX: usize = 64 * 1024;
/// Bytes that one flow may give in such a turn.
pub const TURN_FLOW_BYTES_SHORT_MAX: usize = 64 * 1024;
/// Bytes of one flow after which no further packet of it is sent, while the guest waits for an
/// answer on another: a packet has up to 64 KiB.
pub const TURN_SENT_BYTES_SHORT_MAX: u32 = 32 * 1024;
/// Bytes of one flow that the guest may have on their way meanwhile, where it was not told of more
/// before: what it says on another waits behind them in the link's queue, frame by frame. Any
/// window that is not scaled has as many.
pub const TURN_WINDOW_BYTES_SHORT_MAX: u32 = 64 * 1024;
/// For so long turns stay short after the guest has taken turns with somebody.
pub const TURN_SHORT_MS: u64 = 100;

/// Bytes of a frame ring where nothing is configured, a power of two.
pub const RING_BYTES_DEFAULT: usize = 1024 * 1024;

const _: () = assert!(TCP_RECEIVE_BYTES.is_power_of_two() && TCP_SEND_BYTES.is_power_of_two());
const _: () = assert!(TCP_BUFFER_BYTES_MIN.is_power_of_two());
const _: () =
    assert!(TCP_BUFFER_BYTES_MIN <= TCP_RECEIVE_BYTES && TCP_BUFFER_BYTES_MIN <= TCP_SEND_BYTES);
const _: () = assert!(TCP_RECEIVE_BYTES <= 1 << 30, "window scaling ends at 1 GiB (RFC 7323 2.3)");
const _: () = assert!(POLICY_RULES_MAX <= 1 << 16, "a verdict has 16 bits for its rule");
const _: () = assert!(POLICY_PORT_RANGES_MAX < 1 << 16 && POLICY_NAME_BYTES_MAX < 1 << 16);
const _: () = assert!(POLICY_NAME_BYTES_MAX >= POLICY_RULES_MAX * 32, "32 bytes a name");
const _: () = assert!(MTU_BYTES_MIN <= MTU_BYTES_DEFAULT && MTU_BYTES_DEFAULT <= MTU_BYTES_MAX);
const _: () = assert!(RECEIVE_FRAME_BYTES_MAX as usize == FRAME_BYTES_MAX);
const _: () =
    assert!(RECEIVE_FRAME_BYTES_MIN as usize == ETHERNET_HEADER_BYTES + MTU_BYTES_MIN as usize);
const _: () = assert!(DHCPV6_BYTES_MAX + 48 <= MTU_BYTES_MIN as usize, "no answer needs fragments");
const _: () = assert!(ADVERT_LIFETIME_S as u64 * 1000 >= 3 * ADVERT_MS, "two may be lost");
const _: () = assert!(RING_BYTES_DEFAULT.is_power_of_two());
const _: () = assert!(RING_BYTES_DEFAULT >= 8 * FRAME_BYTES_MAX, "the ring must hold a batch");
const _: () = assert!(
    TCP_FLOWS_MAX as u64 + 2 * UDP_FLOWS_MAX as u64 + (ICMP_FLOWS_MAX as u64) < u32::MAX as u64
);
