//! What a script tells, and what is on the wire: makes the guest's segments, compares and shows
//! those that it gets. The same for every peer.

use std::net::SocketAddr;

use sim::Tcp;
use sim::frame::{self, Segment, flag, protocol};

use super::read::{Choice, Complaint, Says, Told};

/// The guest's port and the outside's.
pub(crate) const PORTS: (u16, u16) = (40_000, 80);
/// The sequence number of the guest's SYN: it wraps within the first bytes.
const GUEST_ISN: u32 = 0xffff_fff0;

/// What differs if the acknowledgement does.
const ACKNOWLEDGEMENT: &str = "another acknowledgement";
/// What may differ without that the rest of a script has lost its sense.
pub(crate) const MINOR: [&str; 3] = ["another PSH", "another window", "other options"];

/// The byte at `place` of either stream.
pub(crate) fn byte(place: usize) -> u8 {
    (place % 251) as u8
}

/// Where a script's numbers begin.
pub(crate) struct Numbers {
    pub(crate) to: SocketAddr,
    /// The sequence number of the latest SYN from outside.
    pub(crate) isn: Option<u32>,
}

impl Numbers {
    /// The first thing of `tcp` that is not as it is told.
    pub(crate) fn difference(&self, told: &Told, tcp: &Tcp) -> Option<&'static str> {
        let isn = self.isn.unwrap_or(0);
        // A reset of no connection counts from nothing.
        let seq = if tcp.flags == flag::RST | flag::ACK && self.isn.is_none() {
            tcp.seq
        } else {
            tcp.seq.wrapping_sub(isn)
        };
        let ack = tcp.ack.wrapping_sub(GUEST_ISN);
        let place = told.seq.saturating_sub(1) as usize;
        let bytes = tcp.payload.iter().enumerate();
        [
            ((tcp.flags ^ told.flags) & !flag::PSH != 0, "another set of flags"),
            (seq != told.seq, "another sequence number"),
            (tcp.payload.len() != told.len, "another length"),
            (told.ack.is_some_and(|told| told != ack), ACKNOWLEDGEMENT),
            (told.ack.is_some() != tcp.has(flag::ACK), ACKNOWLEDGEMENT),
            (bytes.clone().any(|(at, &found)| found != byte(place + at)), "other content"),
            (tcp.flags != told.flags, "another PSH"),
            (told.window.is_some_and(|told| told != tcp.window), "another window"),
            (told.options.as_ref().is_some_and(|all| !self.has(all, tcp)), "other options"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }

    /// Whether `tcp` does no more than acknowledge less than is told.
    pub(crate) fn is_before(&self, told: &Told, tcp: &Tcp) -> bool {
        let acknowledges = |ack: u32| ack.wrapping_sub(tcp.ack.wrapping_sub(GUEST_ISN)) as i32 > 0;
        let is_plain = told.len == 0 && told.flags == flag::ACK;
        is_plain
            && self.difference(told, tcp) == Some(ACKNOWLEDGEMENT)
            && told.ack.is_some_and(acknowledges)
    }

    /// Whether the options of `tcp` are those told, whatever the order of the kinds.
    fn has(&self, told: &[Choice], tcp: &Tcp) -> bool {
        let in_order = |mut all: Vec<Choice>| {
            all.sort_by_key(|choice| choice.kind());
            all
        };
        in_order(told.to_vec()) == in_order(self.choices(tcp))
    }

    /// The options of `tcp` without padding.
    fn choices(&self, tcp: &Tcp) -> Vec<Choice> {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum: u32, &b| sum << 8 | u32::from(b));
        let mut all = vec![];
        let mut rest = &tcp.options[..];
        while let [kind, tail @ ..] = rest {
            if *kind <= 1 {
                rest = tail;
                continue;
            }
            let (option, after) = rest.split_at(usize::from(tail[0]));
            rest = after;
            let value = &option[2..];
            match kind {
                2 => {
                    let headers = if self.to.is_ipv4() { 40 } else { 60 };
                    let mss = long(value) as u16;
                    all.push(Choice::Mss(Some(mss).filter(|mss| *mss != 1500 - headers)));
                }
                3 => all.push(Choice::Scale(value[0])),
                4 => all.push(Choice::SackOk),
                5 => all.extend(value.chunks(8).map(|block| {
                    let number = |bytes: &[u8]| long(bytes).wrapping_sub(GUEST_ISN);
                    Choice::Sack(number(&block[..4]), number(&block[4..]))
                })),
                8 => all.push(Choice::Time(long(&value[..4]), long(&value[4..]))),
                kind => all.push(Choice::Unknown(*kind)),
            }
        }
        all
    }

    /// The segment of the guest that is told.
    pub(crate) fn segment(&self, told: &Told) -> Result<Segment, String> {
        let ack = match (told.ack, self.isn) {
            (Some(ack), Some(isn)) => ack.wrapping_add(isn),
            (Some(ack), None) => ack,
            (None, _) => 0,
        };
        let place = told.seq.saturating_sub(1) as usize;
        let mut options = vec![];
        for choice in told.options.iter().flatten() {
            self.write(*choice, &mut options)?;
        }
        Ok(Segment {
            port: PORTS.0,
            seq: told.seq.wrapping_add(GUEST_ISN),
            ack,
            flags: told.flags,
            window: told.window.unwrap_or(65_535),
            urgent: told.urgent,
            options,
            payload: (place..place + told.len).map(byte).collect(),
        })
    }

    /// The guest's ICMP error that is told.
    pub(crate) fn icmp_error(&self, told: &Complaint) -> Vec<u8> {
        let (outside, v4) = (self.to.ip(), self.to.is_ipv4());
        let mut lost = vec![0; 20 + told.len];
        lost[..2].copy_from_slice(&PORTS.1.to_be_bytes());
        lost[2..4].copy_from_slice(&PORTS.0.to_be_bytes());
        let seq = told.seq.wrapping_add(self.isn.unwrap_or(0));
        lost[4..8].copy_from_slice(&seq.to_be_bytes());
        (lost[12], lost[13]) = (5 << 4, flag::ACK);
        let lost = frame::packet((outside, frame::guest(outside)), protocol::TCP, &lost);
        let headers = if v4 { 40 } else { 60 };
        let (said, word) = match told.says {
            Says::Closed => (if v4 { (3, 3) } else { (1, 4) }, 0),
            Says::Unreachable => (if v4 { (3, 1) } else { (1, 3) }, 0),
            Says::TooBig(mss) => (if v4 { (3, 4) } else { (2, 0) }, u32::from(mss) + headers),
        };
        frame::icmp_error(said, word, &lost)
    }

    fn write(&self, choice: Choice, out: &mut Vec<u8>) -> Result<(), String> {
        match choice {
            Choice::Nop => out.push(1),
            Choice::End => out.push(0),
            Choice::Mss(mss) => {
                let headers = if self.to.is_ipv4() { 40 } else { 60 };
                out.extend([2, 4]);
                out.extend(mss.unwrap_or(1500 - headers).to_be_bytes());
            }
            Choice::Scale(shift) => out.extend([3, 3, shift]),
            Choice::SackOk => out.extend([4, 2]),
            Choice::Sack(left, right) => {
                let isn = self.isn.ok_or("a SACK before any SYN")?;
                out.extend([5, 10]);
                out.extend(left.wrapping_add(isn).to_be_bytes());
                out.extend(right.wrapping_add(isn).to_be_bytes());
            }
            Choice::Time(val, ecr) => {
                out.extend([8, 10]);
                out.extend(val.to_be_bytes());
                out.extend(ecr.to_be_bytes());
            }
            Choice::Unknown(kind) => out.extend([kind, 4, 0, 0]),
        }
        Ok(())
    }

    /// `tcp` as a script would tell it.
    pub(crate) fn show(&self, tcp: &Tcp) -> String {
        let letters = "FSRP.UEW".chars().enumerate();
        let flags: String = letters
            .filter(|(bit, _)| tcp.flags >> bit & 1 == 1)
            .map(|(_, letter)| letter)
            .collect();
        let seq = tcp.seq.wrapping_sub(self.isn.unwrap_or(0));
        let (len, ack) = (tcp.payload.len(), tcp.ack.wrapping_sub(GUEST_ISN));
        let end = seq.wrapping_add(len as u32);
        let options = self.choices(tcp);
        format!("{flags} {seq}:{end}({len}) ack {ack} win {} {options:?}", tcp.window)
    }
}
