//! What a connection says first, and a model of what follows: policy may turn on the name that the
//! guest says to the server (SNI, Host), which comes in any pieces.
//!
//! The model hears of the guest what the engine hears, and knows by a plain reading of the rules
//! for which names the connection would be allowed. If that is all or none, nothing is waited for.
//! Else no byte, and where nothing said is not allowed either no connect, reaches the outside
//! before the name is said; then, or when the time to say it is over, all of them or a reset.

use core::net::IpAddr;

use sim::core::{Instant, limits};
use sim::frame::flag::{ACK, SYN};
use sim::{Dice, End, Stream, Tcp, tls};

use super::names::NAMES;
use super::policies::Rules;
use super::signs::timer_at;

/// What the guest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Name(&'static str),
    /// No name, or in no protocol that is known.
    Nothing,
    /// What nobody can read, or what can be read in two ways.
    Nonsense,
}

/// What the engine does with the guest's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no connection yet.
    Before,
    /// They wait, and so does the host's connect.
    Unknown,
    /// They wait; the host connects.
    Dialled,
    /// They go on.
    Free,
    /// It has reset the guest.
    Over,
}

/// What policy depends on beside what is said.
pub(crate) struct Place<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) address: IpAddr,
    /// The names that lead there.
    pub(crate) names: Vec<&'a str>,
    /// Policy denies the connection whatever is said.
    pub(crate) is_denied: bool,
}

/// For which words policy allows a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worlds {
    All,
    Some,
    None,
}

impl Place<'_> {
    fn allows(&self, said: Option<&str>) -> bool {
        !self.is_denied && self.rules.allows_connection(self.address, &self.names, said)
    }

    fn worlds(&self) -> Worlds {
        let mut worlds = NAMES.iter().map(|name| Some(*name)).chain([None, Some("x.test")]);
        let allowed = worlds.clone().filter(|said| self.allows(*said)).count();
        if worlds.all(|said| self.allows(said)) {
            Worlds::All
        } else if allowed > 0 {
            Worlds::Some
        } else {
            Worlds::None
        }
    }

    /// Whether policy allows whoever `says` that.
    fn verdict(&self, says: Says) -> bool {
        match says {
            Says::Name(name) => self.allows(Some(name)),
            Says::Nothing => self.allows(None),
            Says::Nonsense => self.worlds() == Worlds::All,
        }
    }
}

/// What became of the connection, as far as the host sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    /// The host's socket.
    pub(crate) stream: Option<&'a Stream>,
    /// The engine waits for what the guest says.
    pub(crate) is_there: bool,
}

/// The first words of a connection.
pub(crate) struct Words {
    pub(crate) bytes: Vec<u8>,
    says: Says,
    /// How many bytes must be there before it is known what they say, and how many suffice.
    decisive: (usize, usize),
    stage: Stage,
    /// As which it began.
    was: Stage,
    /// The sequence number of the first of them.
    first: u32,
    /// Those that the engine heard, in any order, and those that it heard in order.
    heard: Vec<bool>,
    in_order: usize,
    /// The newest acknowledgement that it heard.
    acked: Option<u32>,
    /// The verdict was that on the name.
    has_said: bool,
    /// Since when somebody waits for more, perhaps and surely.
    since: [Option<Instant>; 2],
    /// The guest was refused, and asked once more before it heard that: how it ends is not known.
    pub(crate) is_muddled: bool,
}

impl core::fmt::Debug for Words {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { says, stage, decisive, in_order, since, is_muddled, has_said, .. } = self;
        let heard = self.heard.iter().filter(|heard| **heard).count();
        write!(f, "{says:?}: {stage:?}, of {decisive:?} {heard} bytes were heard, ")?;
        write!(f, "{in_order} in order, since {since:?}; {is_muddled}, {has_said}")
    }
}

impl Words {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        // The first of them may be allowed.
        let names = if dice.one_of(500) { &NAMES[..5] } else { &NAMES };
        let name = names[dice.below(names.len() as u64) as usize];
        let (bytes, says) = match dice.below(12) {
            0 => (tls::hello_without_name(), Says::Nothing),
            1 => (b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n".to_vec(), Says::Nothing),
            2 => (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Says::Nothing),
            3 => (tls::lying(), Says::Nonsense),
            4 => {
                let odd = [
                    "GET / HTTP/1.1\r\nHost: good.test\r\n",
                    "GET\t/\tHTTP/1.1\r\n",
                    "A_B / HTTP/1.1\n",
                ][dice.below(3) as usize];
                (format!("{odd}Host: {name}\r\n\r\n").into_bytes(), Says::Nonsense)
            }
            5..8 => (request(name, dice), Says::Name(name)),
            _ => (hello(name, dice), Says::Name(name)),
        };
        let least = if matches!(says, Says::Name(_)) { bytes.len() } else { 1 };
        Self {
            says,
            decisive: (least, bytes.len()),
            stage: Stage::Before,
            was: Stage::Before,
            first: 0,
            heard: vec![false; bytes.len()],
            in_order: 0,
            acked: None,
            has_said: false,
            since: [None; 2],
            is_muddled: false,
            bytes,
        }
    }

    /// The name that is said.
    pub(crate) fn name(&self) -> Option<&'static str> {
        if let Says::Name(name) = self.says { Some(name) } else { None }
    }

    /// Whether the host may connect, and bytes may reach the outside.
    pub(crate) fn may_pass(&self) -> (bool, bool) {
        match self.stage {
            Stage::Before | Stage::Unknown => (false, false),
            // A SYN that comes twice may begin a connection on which nothing is said.
            Stage::Dialled | Stage::Over => (true, false),
            Stage::Free => (true, true),
        }
    }

    /// How it went, in a few words.
    pub(crate) fn story(&self) -> String {
        let says = match self.says {
            Says::Name(_) => "a name",
            Says::Nothing => "nothing",
            Says::Nonsense => "nonsense",
        };
        format!("{says} is said: first {:?}, then {:?}", self.was, self.stage)
    }

    /// The engine is about to hear `segment`, whole. Returns whether policy denies the connection.
    pub(crate) fn hear(&mut self, now: Instant, segment: &Tcp, place: &Place<'_>) -> Option<bool> {
        if segment.has(SYN) && !segment.has(ACK) && self.stage == Stage::Before {
            self.first = segment.seq.wrapping_add(1);
            self.stage = match place.worlds() {
                Worlds::All => Stage::Free,
                Worlds::None => Stage::Before,
                Worlds::Some if place.allows(None) => Stage::Dialled,
                Worlds::Some => Stage::Unknown,
            };
            self.was = self.stage;
            self.since = [(self.stage == Stage::Unknown).then_some(now); 2];
            return Some(self.stage == Stage::Before);
        }
        if !self.is_held() {
            return None;
        }
        let at = segment.seq.wrapping_sub(self.first) as usize;
        let end = at.saturating_add(segment.payload.len()).min(self.bytes.len());
        // What acknowledges very little may be refused (RFC 5961 5.2).
        let newest = self.acked.unwrap_or(segment.ack);
        let is_new = segment.ack.wrapping_sub(newest).cast_signed() >= 0;
        self.acked = Some(if is_new { segment.ack } else { newest });
        if at < end {
            self.heard[at..end].fill(true);
            if at <= self.in_order && is_new {
                self.in_order = self.in_order.max(end);
            }
        }
        let has_begun = [self.heard[0], self.in_order > 0];
        for (since, _) in self.since.iter_mut().zip(has_begun).filter(|(_, has_begun)| *has_begun) {
            since.get_or_insert(now);
        }
        None
    }

    /// Whether nothing of it was heard.
    pub(crate) fn is_new(&self) -> bool {
        self.stage == Stage::Before
    }

    /// Whether what the guest sends matters.
    pub(crate) fn listens(&self) -> bool {
        self.stage == Stage::Before || self.is_held()
    }

    /// Whether its bytes wait.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.stage, Stage::Unknown | Stage::Dialled)
    }

    /// Whether the host knows nothing of it yet.
    pub(crate) fn is_unknown(&self) -> bool {
        self.stage == Stage::Unknown
    }

    /// The engine has reset the guest, for another reason than its words: nothing passes any more,
    /// unless it did.
    pub(crate) fn end(&mut self) {
        if self.stage != Stage::Free {
            self.stage = Stage::Over;
        }
    }

    /// Policy has changed. Returns whether the connection was ended by that.
    pub(crate) fn change(&mut self, place: &Place<'_>, is_there: bool) -> bool {
        if !self.is_held() || is_there {
            return false;
        }
        assert_eq!(place.worlds(), Worlds::None, "it would have been heard: {self:?}");
        self.stage = Stage::Over;
        true
    }

    /// Whether the engine must keep the connection where policy has changed to what holds at
    /// `now`; where that is not to be known, it may do what it did. `ever`: the same with all names
    /// that ever led there, of which it keeps some.
    pub(crate) fn may_stay(&self, (now, ever): (&Place<'_>, &Place<'_>), is_live: bool) -> bool {
        let (may, must_not) = match self.says {
            _ if self.is_held() => (now.worlds() != Worlds::None, now.is_denied),
            Says::Name(name) if self.has_said => (now.allows(Some(name)), !ever.allows(Some(name))),
            Says::Name(_) | Says::Nothing | Says::Nonsense => {
                (now.allows(None), ever.worlds() == Worlds::None)
            }
        };
        let may = may || now.worlds() == Worlds::All;
        if may || must_not { may } else { is_live }
    }

    /// The engine has done at `now` what it had to do. Returns whether that ended the connection.
    pub(crate) fn check(&mut self, now: Instant, place: &Place<'_>, sight: Sight<'_>) -> bool {
        if !self.is_held() {
            return false;
        }
        let [may_be_late, is_late] = self.since.map(|since| {
            since.is_some_and(|since| timer_at(since, limits::TCP_LOOK_MS_MAX) <= now)
        });
        let (least, most) = self.decisive;
        let has_said = self.heard.iter().take_while(|heard| **heard).count() >= least;
        let did = self.did(sight);
        let is_said = has_said && did == Some(place.verdict(self.says));
        let is_unsaid = may_be_late && did == Some(place.allows(None));
        let must = is_late || self.in_order >= most;
        let is_right = match did {
            Some(false) if self.is_muddled => true,
            Some(_) => is_said || is_unsaid,
            // What the host may have and does not take is not seen.
            None if self.stage == Stage::Dialled && must => {
                place.verdict(self.says) || (is_late && place.allows(None))
            }
            None => !must,
        };
        let names = &place.names;
        assert!(is_right, "{did:?} at {now:?} by {names:?}: {self:?}, {:?}", sight.is_there);
        self.has_said = has_said && !may_be_late;
        match did {
            Some(true) => self.stage = Stage::Free,
            Some(false) => self.stage = Stage::Over,
            None if must => self.stage = Stage::Free,
            None => {}
        }
        self.stage == Stage::Over
    }

    /// Whether the engine has let the words pass, or has reset the guest; `None`: neither is seen.
    fn did(&self, sight: Sight<'_>) -> Option<bool> {
        match (self.stage, sight.stream) {
            (Stage::Unknown, Some(_)) => Some(true),
            (Stage::Unknown, None) => (!sight.is_there).then_some(false),
            (_, Some(stream)) if !stream.received.is_empty() => Some(true),
            (_, Some(stream)) => (stream.end == Some(End::Reset)).then_some(false),
            (_, None) => None,
        }
    }
}

/// A hello for `name`, in records of any length.
pub(super) fn hello(name: &str, dice: &mut Dice) -> Vec<u8> {
    let (padding, least) = if dice.one_of(500) { (dice.below(2500), 200) } else { (0, 1) };
    let most = [least, least + 20, 16_000][dice.below(3) as usize];
    let bytes = dice.between(least, most) as usize;
    tls::in_records(&tls::long_hello(&spelt(name, dice), padding as usize), bytes)
}

/// A request to `name`.
fn request(name: &str, dice: &mut Dice) -> Vec<u8> {
    let method = ["GET", "POST", "m-search"][dice.below(3) as usize];
    let more = ["", "Accept: */*\r\n", "X-Name: evil.test\r\n"][dice.below(3) as usize];
    let port = ["", ":80", ":8080"][dice.below(3) as usize];
    let name = spelt(name, dice);
    format!("{method} /index HTTP/1.1\r\n{more}Host: {name}{port}\r\n{more}\r\n").into_bytes()
}

/// `name` in letters of any case, perhaps with a dot at its end.
fn spelt(name: &str, dice: &mut Dice) -> String {
    let mut letter = |letter: char| {
        if dice.one_of(300) { letter.to_ascii_uppercase() } else { letter }
    };
    let name: String = name.chars().map(&mut letter).collect();
    if dice.one_of(200) { format!("{name}.") } else { name }
}
