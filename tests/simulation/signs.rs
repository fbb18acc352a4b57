//! What the guest is told of the end of its connections and datagrams, and what a model says that
//! it must be told: by a reset, by a FIN, by an ICMP error, or not at all.
//!
//! It is noted where it leaves the engine, so that the link's weather changes nothing.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, VecDeque};

use sim::core::{Instant, Refusal, limits};
use sim::frame::flag::{ACK, FIN, RST, SYN};
use sim::frame::{gateway, guest, protocol};
use sim::{Icmp, Message, Seen};

use super::app::{App, Denied, Ending, number};
use super::callers::{Call, is_published, outside_port};
use super::names::is_visited;

/// Type, code, and the word behind the checksum.
pub(crate) type Kind = (u8, u8, u32);

/// What a refused connect is to a guest.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    Reset,
    Error(u8, u8),
}

/// The ICMP error that says `refusal` (RFC 792, RFC 1191 4, RFC 1812 5.2.7.1, RFC 4443 3.1 to 3.3).
pub(crate) fn kind(refusal: Refusal, to: IpAddr) -> Kind {
    let ((a, b), (c, d), word) = match refusal {
        Refusal::Refused => ((3, 3), (1, 4), 0),
        Refusal::NetUnreachable => ((3, 0), (1, 0), 0),
        Refusal::HostUnreachable | Refusal::TimedOut | Refusal::Exhausted => ((3, 1), (1, 3), 0),
        Refusal::Forbidden => ((3, 13), (1, 1), 0),
        Refusal::Expired => ((11, 0), (3, 0), 0),
        Refusal::TooBig { mtu } => ((3, 4), (2, 0), mtu),
    };
    if to.is_ipv4() { (a, b, word) } else { (c, d, word) }
}

fn sign(refusal: Refusal, to: IpAddr) -> Sign {
    match refusal {
        Refusal::Refused | Refusal::Expired | Refusal::TooBig { .. } | Refusal::Exhausted => {
            Sign::Reset
        }
        Refusal::HostUnreachable
        | Refusal::NetUnreachable
        | Refusal::TimedOut
        | Refusal::Forbidden => {
            let (kind, code, _) = kind(refusal, to);
            Sign::Error(kind, code)
        }
    }
}

/// What was sent to the guest on one connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    answered: bool,
    called: bool,
    finished: bool,
    reset: bool,
    /// Reset, and not finished before.
    reset_first: bool,
    errors: Vec<(u8, u8)>,
}

/// The packet that an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) protocol: u8,
    /// Where it went; a ping to port 0.
    pub(crate) to: SocketAddr,
    /// The first bytes of its transport.
    pub(crate) head: [u8; 8],
}

impl Quoted {
    /// Whether it is an answer to who came from outside, and came too late.
    fn is_late_answer(&self) -> bool {
        self.to.ip() == gateway(self.to.ip()) && limits::GATEWAY_PORTS.contains(&self.to.port())
    }

    /// Whether it was damaged on the link where IPv6 says what comes next, which no checksum
    /// guards: it became a piece, or something that nobody here sends.
    pub(crate) fn is_damaged(&self) -> bool {
        let sent = [protocol::TCP, protocol::UDP, protocol::ICMPV6];
        self.to.is_ipv6() && !sent.contains(&self.protocol)
    }
}

/// The packet that `icmp` is about, which is the guest's own; `None`: it is no error.
pub(crate) fn quoted(icmp: &Icmp) -> Option<Quoted> {
    let (from, to) = icmp.ends;
    let is_error = if to.is_ipv4() { matches!(icmp.kind, 3 | 11) } else { icmp.kind < 128 };
    if !is_error {
        return None;
    }
    let body = &icmp.body;
    let (header, protocol) = if to.is_ipv4() { (20, body[9]) } else { (40, body[6]) };
    let address = |at: usize| -> IpAddr {
        match to {
            IpAddr::V4(_) => {
                <[u8; 4]>::try_from(&body[at..at + 4]).expect("because it is 4").into()
            }
            IpAddr::V6(_) => <[u8; 16]>::try_from(&body[at..at + 16]).expect("as many").into(),
        }
    };
    let (source, target) = if to.is_ipv4() { (12, 16) } else { (8, 24) };
    assert_eq!(address(source), guest(to), "an error about another's packet");
    let head = *body[header..].first_chunk().expect("because an error has 8 bytes of it");
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
    let port = if has_ports { u16::from_be_bytes([head[2], head[3]]) } else { 0 };
    let to = SocketAddr::new(address(target), port);
    let is_from = from == to.ip() || from == gateway(to.ip());
    assert!(is_from, "an error of {from}, who has nothing to do with {to}");
    Some(Quoted { protocol, to, head })
}

/// What the guest was told, and what it has to be told yet.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// By their number.
    connections: BTreeMap<u16, Said>,
    /// Errors that are due, of datagrams, in order.
    due: VecDeque<(SocketAddr, Kind)>,
    /// Errors that were due and did not come before later ones.
    missing: u64,
}

impl Signs {
    /// A datagram to `to` failed.
    pub(crate) fn failed(&mut self, to: SocketAddr, refusal: Refusal) {
        self.due.push_back((to, kind(refusal, to.ip())));
    }

    /// Takes note of a frame for the guest.
    pub(crate) fn note(&mut self, seen: &Seen) {
        match &seen.message {
            Message::Tcp(segment) => {
                let is_called = is_published(segment.ports.1);
                let port = if is_called { outside_port(segment.ports.1) } else { segment.ports.0 };
                if is_visited(SocketAddr::new(segment.ends.0, port)) {
                    return;
                }
                let number = number(SocketAddr::new(segment.ends.0, port));
                let said = self.connections.entry(number).or_default();
                said.answered |= segment.has(SYN | ACK);
                said.called |= segment.has(SYN) && !segment.has(ACK);
                said.finished |= segment.has(FIN);
                said.reset_first |= segment.has(RST) && !said.finished;
                said.reset |= segment.has(RST);
            }
            Message::Icmp(icmp) => {
                let is_known = |quoted: &Quoted| !is_visited(quoted.to) && !quoted.is_late_answer();
                let Some(quoted) = quoted(icmp).filter(is_known) else { return };
                let found = (icmp.kind, icmp.code, u32::from_be_bytes(icmp.rest));
                if quoted.is_damaged() {
                    let (kind, code, _) = found;
                    assert!(kind == 4 || (kind, code) == (3, 1), "{found:?} about {quoted:?}");
                    return;
                }
                if quoted.protocol == protocol::TCP {
                    let said = self.connections.entry(number(quoted.to)).or_default();
                    said.errors.push((icmp.kind, icmp.code));
                    return;
                }
                if quoted.protocol != protocol::UDP {
                    return; // a ping
                }
                loop {
                    let due = self.due.pop_front();
                    assert!(due.is_some(), "{found:?} about {quoted:?}, which did not fail");
                    if due == Some((quoted.to, found)) {
                        break;
                    }
                    self.missing += 1;
                }
            }
            Message::Arp { .. } | Message::Udp { .. } | Message::Piece(_) => {}
        }
    }

    /// Everything has been said: it is what had to be said. `lost`: answers for which there was no
    /// room.
    pub(crate) fn conclude(&self, apps: &[App], lost: u64) {
        let missing = self.missing + self.due.len() as u64;
        assert!(missing <= lost, "{missing} errors were not said, and {lost} lost: {:?}", self.due);
        for app in apps.iter().filter(|app| !app.is_muddled()) {
            let nothing = Said::default();
            let said = self.connections.get(&number(app.to)).unwrap_or(&nothing);
            if let Some(call) = &app.call {
                assert!(said.is_right_for(app, call), "the guest was told {said:?} of {app:#?}");
                continue;
            }
            let is_right = match app.ending {
                // Where no name would be allowed, the guest may be heard all the same.
                _ if app.words.is_some() && app.denied.is_some() => {
                    said.is_ended(app) && said.errors.is_empty()
                }
                _ if app.denied.is_some() => said.is_denied(app),
                Ending::Close => {
                    said.answered && said.finished && !said.reset_first && said.errors.is_empty()
                }
                Ending::OutsideReset | Ending::Stuck => {
                    said.answered && said.reset && !said.finished && said.errors.is_empty()
                }
                Ending::FinishThenReset => said.answered && said.reset && said.errors.is_empty(),
                Ending::GuestReset => said.answered && !said.finished && said.errors.is_empty(),
                Ending::Refused(refusal) => said.is_refused(&sign(refusal, app.to.ip())),
                Ending::ResetEarly => said.is_refused(&Sign::Reset),
                Ending::Unanswered => said.is_refused(&sign(Refusal::TimedOut, app.to.ip())),
                Ending::NotListening | Ending::Deaf => false,
            };
            assert!(is_right, "the guest was told {said:?} of {app:#?}");
        }
    }
}

impl Said {
    /// Whether the guest was told that `app` has ended. Where both sides have finished it has, and
    /// nobody is told that the outside never had the last bytes (RFC 9293 3.10.5, in TIME-WAIT).
    fn is_ended(&self, app: &App) -> bool {
        self.reset || (self.finished && app.up.is_written())
    }

    /// Whether the guest was told of a connection that policy denies.
    fn is_denied(&self, app: &App) -> bool {
        match app.denied {
            Some(Denied::Ended) => self.is_ended(app) && self.errors.is_empty(),
            Some(Denied::Refused { before: true }) => !self.answered,
            Some(Denied::Refused { before: false }) => self.is_refused(&Sign::Reset),
            None => false,
        }
    }

    /// Whether the guest was told of `call` what is meant by the ending of `app`.
    fn is_right_for(&self, app: &App, call: &Call) -> bool {
        if call.is_expelled() {
            return self.called && self.is_ended(app);
        }
        if call.is_forbidden() {
            return *self == Self::default();
        }
        let is_right = match app.ending {
            Ending::Close => self.finished && !self.reset_first,
            Ending::OutsideReset | Ending::Stuck => self.reset && !self.finished,
            Ending::FinishThenReset => self.reset,
            Ending::GuestReset | Ending::ResetEarly | Ending::NotListening | Ending::Deaf => {
                !self.finished
            }
            Ending::Refused(_) | Ending::Unanswered => false,
        };
        let is_called = self.called || call.rings() || call.is_over();
        is_called && !self.answered && self.errors.is_empty() && (is_right || call.is_over())
    }

    /// Whether the guest was told `sign` and nothing else.
    fn is_refused(&self, sign: &Sign) -> bool {
        let is_told = match *sign {
            Sign::Reset => self.reset && self.errors.is_empty(),
            Sign::Error(kind, code) => {
                let is_it = |error: &(u8, u8)| *error == (kind, code);
                !self.reset && !self.errors.is_empty() && self.errors.iter().all(is_it)
            }
        };
        is_told && !self.answered && !self.finished
    }
}

/// When a timer of `ms` fires that began at `since`: at the next whole millisecond.
pub(crate) fn timer_at(since: Instant, ms: u64) -> Instant {
    Instant::from_millis(since.plus_millis(ms).as_micros().div_ceil(1000))
}
