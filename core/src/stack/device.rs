//! The one producer of guest frames, and the guest's link as smoltcp sees it.
//!
//! The emitter knows what the guest can take: a packet that does not fit a frame goes into the ring
//! with a record of how it is to be cut (TCP, and datagrams that came as several) or is fragmented
//! (one datagram). smoltcp sees a link without Ethernet, whose MTU is the largest IP packet and
//! whose checksums are somebody else's work; it writes straight into the ring.

#![allow(
    clippy::cast_possible_truncation,
    reason = "packets, and what lies in them, are below 2^16"
)]

use core::net::IpAddr;

use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, TcpPacket};

use super::watch::Watch;
use crate::contract::{Counters, Drop, Instant, Link, Offload, Refusal, TransportChecksum};
use crate::limits::{self, ETHERNET_HEADER_BYTES, FRAME_BYTES_MAX, IP_PACKET_BYTES_MAX};
use crate::store::fragments::Late;
use crate::store::ring::{Producer, RingHandle};
use crate::wire::classify::protocol;
use crate::wire::reply::{self, Fault, HOP_LIMIT, Quote, REPLY_BYTES_MAX};
use crate::wire::segment::{Headers, set_offered_mss};

mod parts;
mod shape;

pub(crate) use parts::Parts;
use parts::Piece;
pub(crate) use shape::Shape;

/// Payload bytes that one pass through smoltcp may move: what the longest packet has room for
/// beside an IPv6 header, and a TCP header with as many options as smoltcp writes beside data.
pub(crate) const SUPER_SEGMENT_BYTES_MAX: usize = IP_PACKET_BYTES_MAX - 40 - 44;
/// Ring space that must be free before smoltcp is asked for a packet.
const ROOM_BYTES: usize = FRAME_BYTES_MAX;

/// The only producer of frames for the guest.
pub(crate) struct Emitter<'a, R: RingHandle> {
    ring: Producer<R>,
    scratch: &'a mut [u8],
    link: Link,
    fragment_ident: u32,
    errors: ErrorBudget,
    pub(crate) watch: Watch<R>,
    /// The sequence number behind what the last pass over a flow sent, if that takes any.
    sent_end: Option<u32>,
    /// Bytes that the guest is told it may send on one flow beyond what has come.
    window_bytes_max: u32,
    pub(crate) counters: Counters,
}

/// ICMP errors still allowed in the running second (RFC 1812 4.3.2.8).
#[derive(Debug, Default)]
struct ErrorBudget {
    second: u64,
    sent: u32,
}

impl<'a, R: RingHandle> Emitter<'a, R> {
    /// `scratch` has at least [`FRAME_BYTES_MAX`] bytes.
    pub(crate) fn new(ring: Producer<R>, scratch: &'a mut [u8], link: Link, ident: u32) -> Self {
        assert!(scratch.len() >= FRAME_BYTES_MAX, "scratch holds the largest packet");
        Self {
            ring,
            scratch,
            link,
            fragment_ident: ident,
            errors: ErrorBudget::default(),
            watch: Watch::OFF,
            sent_end: None,
            window_bytes_max: u32::MAX,
            counters: Counters::default(),
        }
    }

    /// Adds what the pace has gained: once a turn.
    pub(crate) fn refill(&mut self, now: Instant) {
        if self.watch.is_on() {
            self.watch.refill(now);
        }
    }

    /// When the next packet may be emitted, where that is limited.
    pub(crate) fn opens_at(&self) -> Option<Instant> {
        self.watch.opens_at()
    }

    /// The link that frames are made for.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Whether any one packet can be emitted now.
    ///
    /// # Cost
    /// Constant; usually no shared memory is touched.
    pub(crate) fn has_room(&mut self) -> bool {
        !self.watch.is_closed() && self.ring.room() >= ROOM_BYTES
    }

    /// As [`has_room`](Self::has_room), and if there is none, asks the consumer to wake us; where
    /// the pace is what forbids more, its [time](Self::opens_at) does.
    pub(crate) fn wait_for_room(&mut self) -> bool {
        !self.watch.is_closed() && !self.ring.wait_for_room(ROOM_BYTES)
    }

    /// From now on the guest is told of no more than `bytes` bytes that it may send on one flow,
    /// but of no less than it was told before.
    pub(crate) fn set_window_bytes_max(&mut self, bytes: u32) {
        self.window_bytes_max = bytes;
    }

    pub(crate) fn window_bytes_max(&self) -> u32 {
        self.window_bytes_max
    }

    /// The sequence number behind what was sent since this was last asked, if that took any.
    pub(crate) fn take_sent_end(&mut self) -> Option<u32> {
        self.sent_end.take()
    }

    /// Wakes the consumer if it sleeps: once a batch.
    pub(crate) fn flush(&mut self) {
        self.ring.flush();
        self.counters.capture_lost += self.watch.end_turn();
    }

    /// The longest IP packet that the guest takes.
    fn packet_bytes_max(&self) -> usize {
        let taken = self.link.receive_frame_bytes as usize - ETHERNET_HEADER_BYTES;
        taken.min(usize::from(self.link.mtu))
    }

    /// Payload bytes of a TCP segment to a guest that offered `mss`, in the family of `guest`.
    pub(crate) fn segment_bytes(&self, guest: IpAddr, mss: u16) -> u16 {
        let headers = if guest.is_ipv4() { 40 } else { 60 };
        // The bound is below 2^16, as the link's MTU is.
        mss.min((self.packet_bytes_max() - headers) as u16)
    }

    /// Puts one frame with `len` bytes of packet into the ring; `write` fills the packet in, and
    /// says how far it is finished.
    fn frame(
        &mut self,
        kind: EthernetProtocol,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Offload,
    ) {
        let Some(frame) = self.ring.reserve(ETHERNET_HEADER_BYTES + len) else {
            self.counters.count_drop(Drop::AnswerLost);
            return;
        };
        write_ethernet(&self.link, kind, frame);
        let offload = write(frame.get_mut(ETHERNET_HEADER_BYTES..).unwrap_or(&mut []));
        self.commit(ETHERNET_HEADER_BYTES + len, offload);
    }

    /// Publishes the frame that was reserved last, and pays for it.
    fn commit(&mut self, len: usize, offload: Offload) {
        if self.watch.is_on() {
            self.watch.frame(self.ring.reserved(len), offload);
        }
        self.ring.commit(len, offload);
    }

    /// Sends a packet that [`reply`] composes, whose kind is `kind`.
    pub(crate) fn reply(
        &mut self,
        kind: EthernetProtocol,
        compose: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let mut packet = [0; REPLY_BYTES_MAX];
        let len = compose(&mut packet);
        self.frame(kind, len, |out| {
            out.copy_from_slice(packet.get(..len).unwrap_or(&[]));
            Offload::NONE
        });
    }

    /// Sends a whole packet, whose kind is `kind`; false if there is none, or no room for it, which
    /// is counted.
    pub(crate) fn packet(&mut self, kind: EthernetProtocol, packet: &[u8]) -> bool {
        let mut is_sent = false;
        if !packet.is_empty() {
            self.frame(kind, packet.len(), |out| {
                out.copy_from_slice(packet);
                is_sent = true;
                Offload::NONE
            });
        }
        is_sent
    }

    /// Sends the ICMP error for `refusal` of a packet that is here no longer.
    pub(crate) fn icmp_error(&mut self, now: Instant, refusal: Refusal, quote: &Quote) {
        let ends = (quote.guest, quote.outside);
        let fault = Fault::Refused(refusal);
        self.error_about(now, fault, ends, (quote.bytes(), |out| quote.write(out)));
    }

    /// Sends the ICMP error for `fault` of `packet`, which was between `ends`.
    pub(crate) fn icmp_error_about(
        &mut self,
        now: Instant,
        fault: Fault,
        ends: (IpAddr, IpAddr),
        packet: &[u8],
    ) {
        let quoted = packet.get(..reply::quoted_bytes_max(ends.0)).unwrap_or(packet);
        self.error_about(now, fault, ends, (quoted.len(), |out| out.copy_from_slice(quoted)));
    }

    /// Sends the ICMP error about a datagram of which the rest did not come in time, unless its
    /// first piece did not either (RFC 792, RFC 8200 4.5).
    pub(crate) fn late_error(&mut self, now: Instant, late: &Late<'_>) {
        let Some((head, payload)) = late.first.split_first_chunk() else { return };
        let ends = (late.guest, late.outside);
        let parts = Parts { head: *head, payload, segment_bytes: 0 };
        let piece = Piece { offset: 0, len: late.first.len(), more: true, ident: late.ident };
        let len = (Piece::headers_len(late.guest) + late.first.len())
            .min(reply::quoted_bytes_max(late.guest));
        let write = |out: &mut [u8]| piece.write(ends, late.protocol, &parts, out);
        self.error_about(now, Fault::NotWhole, ends, (len, write));
    }

    /// Sends the ICMP error for `fault` of the packet between `ends` which `quote` writes the given
    /// number of bytes of, unless too many were sent this second.
    fn error_about(
        &mut self,
        now: Instant,
        fault: Fault,
        (guest, outside): (IpAddr, IpAddr),
        (len, quote): (usize, impl FnOnce(&mut [u8])),
    ) {
        let second = now.as_millis() / 1000;
        if self.errors.second != second {
            self.errors = ErrorBudget { second, sent: 0 };
        }
        if self.errors.sent >= limits::ICMP_ERRORS_PER_SECOND_MAX {
            self.counters.icmp_errors_left_out += 1;
            return;
        }
        self.errors.sent += 1;
        // A closed port is said by its owner, everything else by the router.
        let from = match (fault, guest) {
            (Fault::Refused(Refusal::Refused), _) => outside,
            (_, IpAddr::V4(_)) => self.link.gateway_ipv4.into(),
            (_, IpAddr::V6(_)) => self.link.gateway_ipv6.into(),
        };
        let at = reply::ip_header_len(guest) + reply::ICMP_ERROR_HEADER_BYTES;
        self.frame(ethertype(guest), at + len, |out| {
            quote(out.get_mut(at..).unwrap_or(&mut []));
            reply::icmp_error((from, guest), fault, out);
            Offload::NONE
        });
    }

    /// Sends a datagram whose transport is the eight bytes of `head` and `payload`, in fragments
    /// where it is longer than the guest takes (RFC 791 3.2, RFC 8200 4.5).
    ///
    /// # Cost
    /// One copy of the payload.
    pub(crate) fn datagram(&mut self, from: IpAddr, to: IpAddr, number: u8, mut parts: Parts<'_>) {
        let header = reply::ip_header_len(from);
        let total = parts.len();
        // IPv4 counts its header in the length of a packet, IPv6 does not.
        if total > IP_PACKET_BYTES_MAX - if from.is_ipv4() { header } else { 0 } {
            self.counters.count_drop(Drop::AnswerLost);
            return;
        }
        if self.fits_whole(from, &parts) {
            self.whole_datagram((from, to), number, &parts);
            return;
        }
        if number == protocol::UDP {
            parts.complete_udp((from, to));
        }
        self.fragment_ident = self.fragment_ident.wrapping_add(1);
        let headers = Piece::headers_len(from);
        let step = (self.packet_bytes_max() - headers) & !7;
        let mut offset = 0;
        while offset < total {
            let len = step.min(total - offset);
            let piece =
                Piece { offset, len, more: offset + len < total, ident: self.fragment_ident };
            self.frame(ethertype(from), headers + len, |out| {
                piece.write((from, to), number, &parts, out);
                Offload::NONE
            });
            offset += len;
        }
    }

    /// Whether each datagram of `parts`, in the family of `address`, needs no fragments.
    pub(crate) fn fits_whole(&self, address: IpAddr, parts: &Parts<'_>) -> bool {
        let header = reply::ip_header_len(address);
        header + parts.piece_len() <= self.packet_bytes_max()
    }

    /// Sends a datagram, or a row of them, that needs no fragments.
    fn whole_datagram(&mut self, ends: (IpAddr, IpAddr), number: u8, parts: &Parts<'_>) {
        let total = parts.len();
        let header = reply::ip_header_len(ends.0);
        self.frame(ethertype(ends.0), header + total, |out| {
            reply::ip_header(ends, number, total, HOP_LIMIT, out);
            parts.copy(0, out.get_mut(header..).unwrap_or(&mut []));
            match Headers::of(out).filter(|_| number == protocol::UDP) {
                Some(headers) => {
                    headers.leave_partial(out);
                    unfinished(headers.len, parts.segment_bytes)
                }
                None => Offload::NONE,
            }
        });
    }

    /// Sends the TCP packet of `len` bytes that `write` makes, as far as `shape` lets the guest
    /// have it, and as it has anything to tell, or answers something. `write` is called exactly
    /// once; without room its packet is dropped and counted.
    ///
    /// # Cost
    /// Constant beside the writing, which is in place.
    fn tcp(
        &mut self,
        len: usize,
        (shape, is_answer): (&mut Shape, bool),
        write: impl FnOnce(&mut [u8]),
    ) {
        let Some(frame) = self.ring.reserve(ETHERNET_HEADER_BYTES + len) else {
            let packet = self.scratch.get_mut(..len).unwrap_or(&mut []);
            write(packet);
            if let Some(headers) = Headers::of(packet) {
                shape.note_offer(&headers, packet);
            }
            self.counters.count_drop(Drop::AnswerLost);
            return;
        };
        let packet = frame.get_mut(ETHERNET_HEADER_BYTES..).unwrap_or(&mut []);
        write(packet);
        let Some(headers) = Headers::of(packet) else { return };
        let payload = len - headers.len;
        let kept = shape.within(headers.seq(packet), payload);
        if kept == 0 && payload > 0 {
            shape.note_offer(&headers, packet);
            return;
        }
        let packet = packet.get_mut(..headers.len + kept).unwrap_or(&mut []);
        if kept < payload {
            headers.clear_end_flags(packet);
        }
        let is_news = shape.window.tell(&headers, packet, self.window_bytes_max);
        let counted = kept as u32 + headers.controls(packet);
        if counted > 0 {
            self.sent_end = Some(headers.seq(packet).wrapping_add(counted));
        } else if !is_news && !is_answer {
            return;
        }
        let offload = if kept == 0 {
            offer_mss(&self.link, headers.ip_len, packet);
            headers.finish_in_place(packet);
            Offload::NONE
        } else {
            headers.leave_partial(packet);
            let is_one = kept <= usize::from(shape.segment_bytes);
            unfinished(headers.len, if is_one { 0 } else { shape.segment_bytes })
        };
        write_ethernet(&self.link, ip_ethertype(headers.ip_len), frame);
        self.commit(ETHERNET_HEADER_BYTES + headers.len + kept, offload);
    }
}

/// What is said beside a packet with `headers_len` bytes of headers whose checksum is partial.
fn unfinished(headers_len: usize, segment_bytes: u16) -> Offload {
    let header_bytes = (ETHERNET_HEADER_BYTES + headers_len) as u16;
    Offload { segment_bytes, header_bytes, checksum: TransportChecksum::Partial }
}

fn write_ethernet(link: &Link, kind: EthernetProtocol, frame: &mut [u8]) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    ethernet.set_dst_addr(EthernetAddress(link.guest_mac));
    ethernet.set_src_addr(EthernetAddress(link.gateway_mac));
    ethernet.set_ethertype(kind);
}

/// A SYN offers smoltcp's idea of the largest segment; the link's replaces it.
fn offer_mss(link: &Link, ip_len: usize, packet: &mut [u8]) {
    let is_syn =
        packet.get(ip_len..).is_some_and(|segment| TcpPacket::new_unchecked(segment).syn());
    if is_syn {
        // MTUs are far above the headers.
        set_offered_mss(packet, ip_len, link.mtu - (ip_len as u16 + 20));
    }
}

fn ethertype(address: IpAddr) -> EthernetProtocol {
    if address.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 }
}

fn ip_ethertype(ip_len: usize) -> EthernetProtocol {
    if ip_len == 20 { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 }
}

/// One pass of smoltcp over one flow: at most one packet in, any number out.
pub(crate) struct Port<'x, 'a, R: RingHandle> {
    pub(crate) packet: Option<&'x mut [u8]>,
    pub(crate) out: &'x mut Emitter<'a, R>,
    pub(crate) shape: &'x mut Shape,
}

impl<'a, R: RingHandle> phy::Device for Port<'_, 'a, R> {
    type RxToken<'t>
        = FromGuest<'t>
    where
        Self: 't;
    type TxToken<'t>
        = ToGuest<'t, 'a, R>
    where
        Self: 't;

    fn receive(&mut self, _: SmolInstant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.packet.take()?;
        let out = &mut *self.out;
        Some((FromGuest(packet), ToGuest { out, shape: self.shape, is_answer: true }))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Self::TxToken<'_>> {
        let has_room = self.out.has_room();
        has_room.then_some(ToGuest { out: self.out, shape: self.shape, is_answer: false })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = IP_PACKET_BYTES_MAX;
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.tcp = Checksum::None;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A packet of the guest for smoltcp.
pub(crate) struct FromGuest<'t>(&'t mut [u8]);

impl phy::RxToken for FromGuest<'_> {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, f: F) -> T {
        f(self.0)
    }
}

/// Room for one packet of smoltcp's.
pub(crate) struct ToGuest<'t, 'a, R: RingHandle> {
    out: &'t mut Emitter<'a, R>,
    shape: &'t mut Shape,
    /// It answers a packet of the guest's, and goes whatever it says.
    is_answer: bool,
}

impl<R: RingHandle> phy::TxToken for ToGuest<'_, '_, R> {
    fn consume<T, F: FnOnce(&mut [u8]) -> T>(self, len: usize, f: F) -> T {
        let mut result = None;
        self.shape.has_answered |= self.is_answer;
        self.out.tcp(len, (self.shape, self.is_answer), |packet| {
            if packet.len() == len {
                result = Some(f(packet));
            }
        });
        result.expect("because `Emitter::tcp` calls its writer with every packet up to 64 KiB")
    }
}
