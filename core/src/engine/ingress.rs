//! The way of one guest frame: what it is, whose it is, and what follows from it.

use core::net::IpAddr;
use core::ops::Range;

use smoltcp::wire::{EthernetProtocol, TcpPacket, TcpSeqNumber};

use super::judge::Admission;
use super::{Engine, Payload, Step};
use crate::contract::{Action, DatagramKind, Drop, Instant, Matter, Offload, Outside, Refusal};
use crate::limits::{DHCP_PORT, DHCPV6_PORT, ETHERNET_HEADER_BYTES, UDP_SEGMENTS_MAX};
use crate::stack::datagram;
use crate::stack::tcp::{Fit, Syn};
use crate::store::flows::{FlowKey, FlowKind, Share};
use crate::store::fragments::Fragments;
use crate::store::ring::{Consumer, Record, RingHandle};
use crate::wire::classify::{self, Ip, Network, Segment, Transport, protocol};
use crate::wire::problem;
use crate::wire::reply::{self, Fault, HOP_LIMIT};

/// Where the payload of an IP packet lies.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// In a frame of the ring.
    Ring(Record),
    /// In a reassembled datagram.
    Set(usize),
}

impl Source {
    /// The bytes that it names, in the ring or among datagrams under reassembly: of these alone, so
    /// that the caller may use the rest of the engine meanwhile.
    fn bytes<'x, R: RingHandle>(
        self,
        from_guest: &'x mut Consumer<R>,
        fragments: &'x mut Fragments<'_>,
    ) -> &'x mut [u8] {
        match self {
            Self::Ring(record) => from_guest.bytes_mut(&record),
            Self::Set(set) => fragments.datagram(set),
        }
    }
}

/// An IP packet whose payload was read.
#[derive(Clone)]
pub(super) struct Packet {
    pub(super) ip: Ip,
    pub(super) source: Source,
    /// Where the payload lies in its source.
    pub(super) at: Range<usize>,
}

impl<R: RingHandle> Engine<'_, R> {
    /// Takes one frame of the guest in.
    ///
    /// # Cost
    /// Constant, and a pass over the bytes for the checksum and the copy.
    pub(super) fn ingest(&mut self, now: Instant, record: Record) -> Option<Step> {
        self.out.counters.frames_from_guest += 1;
        if self.is_watched {
            self.watch(&record);
        }
        match self.accept(now, record) {
            Ok(step) => step,
            Err(reason) => {
                self.out.counters.count_drop(reason);
                if self.is_watched {
                    self.watch_drop(reason);
                }
                if matches!(reason, Drop::Unsupported | Drop::Malformed | Drop::Fragment) {
                    self.say_problem(now, record);
                }
                self.denied()
            }
        }
    }

    /// Tells the guest what is wrong with the dropped frame of `record`, where that is to be told.
    #[cold]
    #[inline(never)]
    fn say_problem(&mut self, now: Instant, record: Record) {
        if let Some(said) = problem::of(self.from_guest.bytes(&record), &self.ends) {
            self.out.icmp_error_about(now, said.fault, said.ends, said.packet);
        }
    }

    fn accept(&mut self, now: Instant, record: Record) -> Result<Option<Step>, Drop> {
        let frame = self.from_guest.bytes(&record);
        let ip = match classify::network(frame, record.offload, &self.ends)? {
            Network::Arp { sender, target } => {
                self.answer_arp(sender, target);
                return Ok(None);
            }
            Network::Ip(ip) => ip,
        };
        if let Some(piece) = ip.fragment {
            return self.piece(now, ip, piece, record);
        }
        let at = ip.payload.clone();
        let packet = Packet { ip, source: Source::Ring(record), at };
        self.packet(now, packet, record.offload)
    }

    fn answer_arp(&mut self, sender: core::net::Ipv4Addr, target: core::net::Ipv4Addr) {
        let link = self.config.link;
        // Silence about its own address tells the guest that nobody else has it (RFC 5227 2.1.1).
        if target != link.guest_ipv4 && !target.is_unspecified() {
            self.out.reply(EthernetProtocol::Arp, |out| {
                reply::arp(link.gateway_mac, link.guest_mac, sender, target, out)
            });
        }
    }

    /// Takes the payload of an IP packet in.
    pub(super) fn packet(
        &mut self,
        now: Instant,
        packet: Packet,
        offload: Offload,
    ) -> Result<Option<Step>, Drop> {
        let bytes = self.bytes(packet.source).get(packet.at.clone()).ok_or(Drop::Truncated)?;
        let transport = classify::transport(&packet.ip, bytes, offload.checksum)?;
        match transport {
            Transport::Tcp(segment) => {
                self.waiting.rows |= offload.segment_bytes > 0;
                self.segment(now, &packet, segment)
            }
            Transport::Udp { outside_port: port @ (DHCP_PORT | DHCPV6_PORT), payload, .. }
                if self.is_for_autoconf(&packet.ip, port) =>
            {
                self.answer_dhcp(&packet, payload)
            }
            Transport::Udp { guest_port, outside_port, payload } => {
                let key = FlowKey {
                    kind: FlowKind::Udp,
                    outside: packet.ip.destination,
                    guest_port,
                    outside_port,
                };
                let segment_bytes = usize::from(offload.segment_bytes);
                if segment_bytes > 0 && payload.len() > segment_bytes * UDP_SEGMENTS_MAX {
                    return Err(Drop::Offload);
                }
                self.datagram_out(now, &packet, key, (payload, offload.segment_bytes))
            }
            Transport::Echo { .. } if offload.segment_bytes > 0 => Err(Drop::Offload),
            Transport::Echo { ident } => self.echo(now, &packet, ident),
            Transport::Error(complaint) => self.complaint(now, &packet.ip, complaint),
            Transport::NeighborSolicit { target } => self.answer_solicit(&packet.ip, target),
            Transport::RouterSolicit => self.answer_router_solicit(now, &packet.ip),
        }
    }

    fn bytes(&mut self, source: Source) -> &mut [u8] {
        source.bytes(&mut self.from_guest, &mut self.fragments)
    }

    /// RFC 4861 7.2.3, 7.2.4.
    fn answer_solicit(
        &mut self,
        ip: &Ip,
        target: core::net::Ipv6Addr,
    ) -> Result<Option<Step>, Drop> {
        let IpAddr::V6(solicitor) = ip.source else { return Err(Drop::Malformed) };
        if target.is_multicast() || target.is_unspecified() {
            return Err(Drop::Malformed);
        }
        let link = self.config.link;
        // Whoever asks without an address wants to know whether `target` is taken. Only our own is:
        // the guest's link-local addresses are its own choice.
        let taken = target == link.gateway_ipv6
            || target == link.gateway_link_local()
            || (!solicitor.is_unspecified() && target != link.guest_ipv6);
        if taken {
            self.out.reply(EthernetProtocol::Ipv6, |out| {
                reply::neighbor_advert(link.gateway_mac, solicitor, target, out)
            });
        }
        Ok(None)
    }

    fn segment(
        &mut self,
        now: Instant,
        packet: &Packet,
        segment: Segment,
    ) -> Result<Option<Step>, Drop> {
        let key = FlowKey {
            kind: FlowKind::Tcp,
            outside: packet.ip.destination,
            guest_port: segment.guest_port,
            outside_port: segment.outside_port,
        };
        if self.extends_run(&key, packet, &segment) {
            return Ok(None);
        }
        self.end_run(now);
        let opens = segment.syn && segment.ack.is_none() && !segment.rst && !segment.fin;
        match self.flows.find(&key) {
            Some(slot) if self.tcp.connecting(slot).is_some() => {
                self.while_connecting(slot, packet, &segment)
            }
            Some(slot) if self.tcp.is_calling(slot) => {
                let bytes = self.bytes(packet.source).get(packet.at.clone()).unwrap_or(&[]);
                let syn = Syn::of(packet.ip.source, &segment, bytes);
                self.while_calling(now, slot, (&segment, syn)).map(|()| None)
            }
            Some(slot) if opens && self.tcp.is_lingering(slot) => {
                self.tcp.forget(slot);
                self.remove(slot);
                self.open(now, packet, key, segment)
            }
            Some(slot) if self.begins_run(slot, packet, &segment) => Ok(None),
            Some(slot) => self.feed(now, slot, packet, &segment).map(|()| None),
            None if opens => self.open(now, packet, key, segment),
            None if segment.rst => Err(Drop::NoFlow),
            None => {
                self.answer_reset(&key, &segment);
                Err(Drop::NoFlow)
            }
        }
    }

    /// Gives `segment` of `packet` to the flow in `slot`.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        slot: u32,
        packet: &Packet,
        segment: &Segment,
    ) -> Result<(), Drop> {
        let ends = (packet.ip.source, packet.ip.destination);
        self.tcp.believe(now, (slot, segment), ends, &mut self.out)?;
        let fit = self.tcp.fit(slot, segment);
        let bytes = packet.source.bytes(&mut self.from_guest, &mut self.fragments);
        let whole = canonical(&packet.ip, packet.at.clone(), bytes)?;
        let (whole, end) = trim(ends, segment, fit, whole)?;
        let verdict = self.tcp.ingress(now, (slot, segment, end), whole, &mut self.out);
        self.fed(now, slot);
        verdict
    }

    /// The guest may repeat its SYN, or give up.
    fn while_connecting(
        &mut self,
        slot: u32,
        packet: &Packet,
        segment: &Segment,
    ) -> Result<Option<Step>, Drop> {
        if !segment.rst {
            if segment.syn && segment.ack.is_none() {
                let bytes = self.bytes(packet.source).get(packet.at.clone()).unwrap_or(&[]);
                let syn = Syn::of(packet.ip.source, segment, bytes);
                self.tcp.again(slot, syn);
            }
            return Err(Drop::Redundant);
        }
        if !self.tcp.connecting(slot).is_some_and(|syn| syn.is_reset_by(segment.seq)) {
            return Err(Drop::Doubtful);
        }
        let flow = self.flows.id(slot);
        self.tcp.forget(slot);
        self.remove(slot);
        self.out.counters.tcp_reset += 1;
        Ok(Some(Step::Plain(Action::Reset { flow })))
    }

    /// A SYN opens a flow, if policy and capacity allow.
    fn open(
        &mut self,
        now: Instant,
        packet: &Packet,
        key: FlowKey,
        segment: Segment,
    ) -> Result<Option<Step>, Drop> {
        let Some((admission, by)) = self.admission(now, &key) else {
            self.answer_reset(&key, &segment);
            return Err(Drop::Denied);
        };
        if admission == Admission::Connect {
            self.count_allowed(Matter::Tcp, by);
        }
        let Some(slot) = self.insert_tcp(key) else {
            self.out.counters.count_refusal(Refusal::Exhausted);
            self.answer_reset(&key, &segment);
            return Err(Drop::FlowsFull);
        };
        let guest = packet.ip.source;
        let bytes = self.bytes(packet.source).get(packet.at.clone()).unwrap_or(&[]);
        let syn = Syn::of(guest, &segment, bytes);
        self.tcp.open(now, slot, syn);
        self.note_opened(now, slot, &key, by);
        let action = self.begin(now, slot, &key, admission);
        let deadline = self.tcp.deadline(now, slot);
        self.timers.set(slot, deadline);
        self.out.counters.tcp_opened += 1;
        Ok(action.map(Step::Plain))
    }

    /// A slot for a new TCP flow. At the cap, the flow that is oldest makes room if it only
    /// lingers: one, or as many as there are too many since the cap was lowered, each of which goes
    /// but once.
    pub(super) fn insert_tcp(&mut self, key: FlowKey) -> Option<u32> {
        while self.flows.is_full(Share::Tcp) {
            let oldest = self.flows.oldest(Share::Tcp);
            let oldest = oldest.filter(|&slot| self.tcp.is_lingering(slot))?;
            self.tcp.forget(oldest);
            self.remove(oldest);
        }
        self.flows.insert(Share::Tcp, key)
    }

    fn answer_reset(&mut self, key: &FlowKey, segment: &Segment) {
        let guest = self.guest(key.outside);
        let kind = if guest.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        self.out.reply(kind, |out| reply::reset(guest, key.outside, segment, out));
    }

    /// The reset that answers a SYN with sequence number `seq`.
    pub(super) fn reset_syn(&mut self, key: &FlowKey, seq: u32) {
        let segment = Segment {
            guest_port: key.guest_port,
            outside_port: key.outside_port,
            seq,
            ack: None,
            syn: true,
            fin: false,
            rst: false,
            window: 0,
            header_len: 20,
            payload_len: 0,
        };
        self.answer_reset(key, &segment);
    }

    /// An echo request: the gateway answers for itself, the host asks everybody else.
    fn echo(&mut self, now: Instant, packet: &Packet, ident: u16) -> Result<Option<Step>, Drop> {
        let (guest, outside) = (packet.ip.source, packet.ip.destination);
        let key = FlowKey { kind: FlowKind::Echo, outside, guest_port: ident, outside_port: 0 };
        let len = packet.at.len();
        let link = &self.config.link;
        if outside == link.gateway_ipv4 || outside == link.gateway_ipv6 {
            let message = packet.source.bytes(&mut self.from_guest, &mut self.fragments);
            let message = message.get(packet.at.clone()).unwrap_or(&[]);
            if let Some(parts) = datagram::echo_reply(guest, &key, message) {
                let number = datagram::number(DatagramKind::Echo, guest);
                self.out.datagram(outside, guest, number, parts);
            }
            return Ok(None);
        }
        self.datagram_out(now, packet, key, (0..len, 0))
    }

    /// A datagram for the outside, or a row of them: `payload` is a range of the packet's payload,
    /// and what it is to be cut into.
    fn datagram_out(
        &mut self,
        now: Instant,
        packet: &Packet,
        key: FlowKey,
        (payload, segment_bytes): (Range<usize>, u16),
    ) -> Result<Option<Step>, Drop> {
        let kind = match key.kind {
            FlowKind::Echo => DatagramKind::Echo,
            FlowKind::Udp | FlowKind::Tcp => DatagramKind::Udp,
        };
        let (guest, to) = (packet.ip.source, self.outside(&key));
        // What ends here is taken whatever it says (RFC 1122 3.2.1.7), TCP among it; what goes on
        // needs another hop (RFC 1812 5.3.1, RFC 8200 3).
        let goes_on = packet.ip.hop_limit > 1 || !matches!(to, Outside::Remote(_));
        let slot = match self.flows.find(&key) {
            _ if !goes_on => Err((Drop::HopLimit, Refusal::Expired)),
            Some(slot) => Ok(slot),
            None => self.admit(now, key, kind),
        };
        let slot = slot.map_err(|(reason, refusal)| {
            if reason != Drop::Denied {
                self.out.counters.count_refusal(refusal);
            }
            let bytes = packet.source.bytes(&mut self.from_guest, &mut self.fragments);
            if let Ok(whole) = canonical(&packet.ip, packet.at.clone(), bytes) {
                let (ends, fault) = ((guest, key.outside), Fault::Refused(refusal));
                self.out.icmp_error_about(now, fault, ends, whole);
            }
            reason
        })?;
        let bytes = packet.source.bytes(&mut self.from_guest, &mut self.fragments);
        let transport = bytes.get(packet.at.clone()).unwrap_or(&[]);
        let own = self.datagrams.made(slot - self.flows.datagrams_start());
        let own = own.expect("because there is one for each flow");
        own.sent(now, transport);
        let (deadline, takes_turns) = (own.deadline(kind), own.takes_turns());
        if takes_turns {
            self.guest_waits(now);
        }
        self.timers.set(slot, Some(deadline));
        self.flows.touch(slot);
        self.flows.account_mut(slot).from_guest_bytes += payload.len() as u64;
        let range = packet.at.start + payload.start..packet.at.start + payload.end;
        let payload = match packet.source {
            Source::Ring(record) => Payload::Ring(record, range),
            Source::Set(set) => Payload::Set(set, range),
        };
        Ok(Some(Step::Datagram { slot, kind, to, payload, segment_bytes }))
    }

    /// A slot of `share` for a new UDP flow: a free one, or that of the one that was used least
    /// recently.
    pub(super) fn insert_or_evict(&mut self, share: Share, key: FlowKey) -> Option<u32> {
        self.flows.insert(share, key).or_else(|| {
            self.evict_oldest(share)?;
            self.flows.insert(share, key)
        })
    }

    /// Ends the UDP flow of `share` that was used least recently, without a word to anybody.
    pub(super) fn evict_oldest(&mut self, share: Share) -> Option<()> {
        let oldest = self.flows.oldest(share)?;
        self.evict(oldest);
        Some(())
    }

    /// Ends the UDP flow in `slot`, without a word to anybody.
    pub(super) fn evict(&mut self, slot: u32) {
        self.remove(slot);
        self.out.counters.udp_evicted += 1;
    }

    /// A slot for a new datagram flow of the guest's, if policy allows it: a free one, or that of
    /// its UDP flow which was used least recently.
    fn admit(
        &mut self,
        now: Instant,
        key: FlowKey,
        kind: DatagramKind,
    ) -> Result<u32, (Drop, Refusal)> {
        let by = self.admit_datagrams(now, &key).map_err(|refusal| (Drop::Denied, refusal))?;
        let slot = match kind {
            DatagramKind::Udp => self.insert_or_evict(Share::Udp, key),
            DatagramKind::Echo => self.flows.insert(Share::Echo, key),
        };
        let slot = slot.ok_or((Drop::FlowsFull, Refusal::Exhausted))?;
        match kind {
            DatagramKind::Udp => self.out.counters.udp_opened += 1,
            DatagramKind::Echo => self.out.counters.icmp_opened += 1,
        }
        self.note_opened(now, slot, &key, by);
        Ok(slot)
    }
}

/// Leaves of the segment in `packet` what smoltcp may see: no options, which say nothing to it
/// after the SYN, and of the payload what `fit` says. Returns it, and the sequence number of its
/// end.
#[allow(clippy::cast_possible_truncation, reason = "a payload is below 2^16")]
pub(super) fn trim<'b>(
    ends: (IpAddr, IpAddr),
    segment: &Segment,
    fit: Option<Fit>,
    packet: &'b mut [u8],
) -> Result<(&'b mut [u8], u32), Drop> {
    let tcp_at = reply::ip_header_len(ends.0);
    let header_end = tcp_at + segment.header_len;
    packet.get_mut(tcp_at + 20..header_end).ok_or(Drop::Truncated)?.fill(0);
    let whole = Fit { seq: segment.seq, len: segment.payload_len, fin: segment.fin };
    let Fit { seq, len, fin } = fit.unwrap_or(whole);
    if fit.is_some() {
        let len = segment.header_len + len;
        reply::ip_header(ends, protocol::TCP, len, HOP_LIMIT, packet);
        let mut tcp = TcpPacket::new_unchecked(packet.get_mut(tcp_at..).ok_or(Drop::Truncated)?);
        tcp.set_seq_number(TcpSeqNumber(seq.cast_signed()));
        tcp.set_fin(fin);
    }
    let packet = packet.get_mut(..header_end + len).ok_or(Drop::Truncated)?;
    Ok((packet, seq.wrapping_add(len as u32)))
}

/// The packet of `ip` whose payload is at `at` of `bytes`, under a header without options: smoltcp
/// reads no other. The bytes before the payload are the packet's own headers, or headroom.
fn canonical<'b>(ip: &Ip, at: Range<usize>, bytes: &'b mut [u8]) -> Result<&'b mut [u8], Drop> {
    let header = reply::ip_header_len(ip.source);
    let start = at.start.checked_sub(header).ok_or(Drop::Malformed)?;
    let packet = bytes.get_mut(start..at.end).ok_or(Drop::Truncated)?;
    // A frame whose header is plain is what it should be already.
    if start != ETHERNET_HEADER_BYTES {
        let hop_limit = ip.hop_limit;
        reply::ip_header((ip.source, ip.destination), ip.protocol, at.len(), hop_limit, packet);
    }
    Ok(packet)
}
