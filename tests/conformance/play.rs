//! Plays a script: the guest and the host do as it says, and all that the guest gets is as it says.
//! Who the guest speaks to, and whose time passes, is the [`Peer`]'s.

use std::collections::VecDeque;
use std::net::SocketAddr;

use sim::Tcp;
use sim::frame::{self, Segment, flag};

use super::read::{Host, Step, Told, What};
use super::told::{MINOR, Numbers};

/// Bytes of the guest's segments.
const SEGMENT: usize = 1400;

/// Who is at the other end of the guest's link.
pub(crate) trait Peer {
    /// Milliseconds by which a frame may miss its time.
    const SLACK_MS: u64;
    /// Milliseconds that "at once" may take.
    const AT_ONCE_MS: u64;
    /// Milliseconds after which what came of a step has come.
    const QUIET_MS: u64;
    /// Whether a script goes on after what is minor ([`MINOR`], and acknowledgements of each part
    /// of a burst), to be told at the end.
    const GOES_ON: bool;

    /// The guest sends `frames`, all at once.
    fn send(&mut self, frames: &[Vec<u8>]) -> Result<(), String>;
    /// Time passes.
    fn wait(&mut self, ms: u64) -> Result<(), String>;
    /// What the guest has got since this was last asked.
    fn inbox(&mut self) -> Result<Vec<Tcp>, String>;
    /// The host's side does something, or has seen something.
    fn host(&mut self, host: Host) -> Result<(), String>;
}

/// What is not as a script says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The line, and what of it: the same whenever it is played.
    pub(crate) what: String,
    /// What came in its place.
    pub(crate) seen: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.seen)
    }
}

/// What is wrong, and what was seen of it.
type Wrong = (&'static str, String);

/// One script that is played.
struct Play<P> {
    peer: P,
    numbers: Numbers,
    /// Segments that no step has looked at.
    queue: VecDeque<Tcp>,
    /// Whether the step before was to wait.
    has_waited: bool,
    /// What was minor so far.
    minor: Vec<Fault>,
}

/// Plays `steps` against `peer`, who has the address `to`.
pub(crate) fn script<P: Peer>(steps: &[Step], to: SocketAddr, peer: P) -> Result<(), Fault> {
    let numbers = Numbers { to, isn: None };
    let (queue, minor) = (VecDeque::new(), vec![]);
    let mut play = Play { peer, numbers, queue, has_waited: false, minor };
    let fault =
        |place: String| move |(what, seen): Wrong| Fault { what: format!("{place}: {what}"), seen };
    let played = steps
        .iter()
        .try_for_each(|step| play.step(step).map_err(fault(format!("line {}", step.line))));
    let end = match played {
        Ok(()) => play.pass(P::QUIET_MS).map_err(fault("at the end".into())),
        Err(fault) => Err(fault),
    };
    let mut faults = play.minor;
    faults.extend(end.err());
    let join = |part: fn(&Fault) -> &String| {
        faults.iter().map(|fault| &part(fault)[..]).collect::<Vec<_>>().join("; ")
    };
    let all = Fault { what: join(|fault| &fault.what), seen: join(|fault| &fault.seen) };
    if faults.is_empty() { Ok(()) } else { Err(all) }
}

/// `payload` in segments; at least one.
fn parts(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = payload.is_empty().then_some(payload);
    empty.into_iter().chain(payload.chunks(SEGMENT))
}

/// The script or the peer is not what it should be.
fn broken(what: String) -> Wrong {
    ("it does not go on", what)
}

impl<P: Peer> Play<P> {
    fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        if let What::Expect(told) = &step.what {
            self.has_waited = false;
            return match self.expect(told, step) {
                Err((what, seen)) if P::GOES_ON && MINOR.contains(&what) => {
                    self.note(step, what, seen);
                    Ok(())
                }
                other => other,
            };
        }
        self.all_seen()?;
        let is_silence = matches!(step.what, What::Silence);
        let quiet_ms = if self.has_waited && !is_silence { 0 } else { P::QUIET_MS };
        self.pass(step.after_ms.max(quiet_ms))?;
        self.has_waited = is_silence;
        match &step.what {
            What::Inject(told) => {
                let frames = self.frames(told).map_err(broken)?;
                self.peer.send(&frames).map_err(broken)?;
            }
            What::Complain(complaint) => {
                let error = self.numbers.icmp_error(complaint);
                self.peer.send(&[error]).map_err(broken)?;
            }
            What::Host(host) => self.peer.host(*host).map_err(|seen| ("not so", seen))?,
            What::Expect(_) | What::Silence => {}
        }
        self.collect()
    }

    /// What the guest sends; more than a segment's worth comes in several.
    fn frames(&self, told: &Told) -> Result<Vec<Vec<u8>>, String> {
        let whole = self.numbers.segment(told)?;
        let parts = (0..).step_by(SEGMENT).zip(parts(&whole.payload));
        let frame = |(at, part): (u32, &[u8])| {
            let (seq, payload) = (whole.seq.wrapping_add(at), part.to_vec());
            frame::tcp(self.numbers.to, &Segment { seq, payload, ..whole.clone() })
        };
        Ok(parts.map(frame).collect())
    }

    /// Nothing came that no step has told of.
    fn all_seen(&self) -> Result<(), Wrong> {
        match self.queue.front() {
            None => Ok(()),
            Some(tcp) => Err(("nobody expects what comes", self.numbers.show(tcp))),
        }
    }

    /// Nothing comes for `ms`.
    fn pass(&mut self, ms: u64) -> Result<(), Wrong> {
        self.peer.wait(ms).map_err(broken)?;
        self.collect()?;
        self.all_seen()
    }

    fn collect(&mut self) -> Result<(), Wrong> {
        for tcp in self.peer.inbox().map_err(broken)? {
            if tcp.has(flag::SYN) {
                self.numbers.isn = Some(tcp.seq);
            }
            self.queue.push_back(tcp);
        }
        Ok(())
    }

    fn note(&mut self, step: &Step, what: &str, seen: String) {
        let what = format!("line {}: {what}", step.line);
        if self.minor.last().is_none_or(|fault| fault.what != what) {
            self.minor.push(Fault { what, seen });
        }
    }

    fn expect(&mut self, told: &Told, step: &Step) -> Result<(), Wrong> {
        let mut ms = P::AT_ONCE_MS;
        if step.after_ms > 0 {
            self.all_seen()?;
            self.pass(step.after_ms.saturating_sub(P::SLACK_MS + 1))
                .map_err(|(_, seen)| ("too early", seen))?;
            ms = 2 * P::SLACK_MS + 1;
        }
        let mut tcp = self.next(ms)?;
        while P::GOES_ON && tcp.as_ref().is_some_and(|tcp| self.numbers.is_before(told, tcp)) {
            let seen = tcp.map_or(String::new(), |tcp| self.numbers.show(&tcp));
            self.note(step, "more acknowledgements", seen);
            tcp = self.next(ms)?;
        }
        let tcp = tcp.ok_or(("nothing comes", told_as(told)))?;
        let wrong = self.numbers.difference(told, &tcp);
        wrong.map_or(Ok(()), |what| Err((what, self.numbers.show(&tcp))))
    }

    /// The next segment, if it comes within `ms`.
    fn next(&mut self, ms: u64) -> Result<Option<Tcp>, Wrong> {
        for _ in 0..ms {
            if self.queue.is_empty() {
                self.peer.wait(1).map_err(broken)?;
                self.collect()?;
            }
        }
        Ok(self.queue.pop_front())
    }
}

/// What should have come.
fn told_as(told: &Told) -> String {
    format!("{} bytes at {}", told.len, told.seq)
}
