//! Reads a script: one step a line, close to packetdrill's form.

/// What happens, and when.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The line's number.
    pub(crate) line: usize,
    /// Milliseconds after the step before.
    pub(crate) after_ms: u64,
    pub(crate) what: What,
}

/// One thing that the guest or the host does, or that is seen of it.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// The guest sends this.
    Inject(Told),
    /// The guest gets this.
    Expect(Told),
    /// The guest sends an ICMP error.
    Complain(Complaint),
    /// The guest gets nothing until now.
    Silence,
    /// The host's side does something.
    Host(Host),
}

/// What the host does, or what it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// Its connect succeeds.
    Connects,
    /// Its connect is refused.
    Refuses,
    /// Its peer sends so many bytes.
    Sends(usize),
    /// Its peer takes so many bytes more; before the connect: so many at first.
    Takes(usize),
    /// Its peer finishes.
    Closes,
    /// Its peer resets.
    Resets,
    /// So many bytes of the guest have come in all, each in its place.
    Has(usize),
    /// The guest's end has come, in order.
    HasEnd,
    /// It was told to reset its socket.
    WasReset,
    /// It has closed in order.
    HasClosed,
    /// It was asked for nothing.
    IsIdle,
}

/// An ICMP error about a segment that the guest got, if it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Complaint {
    /// The segment.
    pub(crate) seq: u32,
    pub(crate) len: usize,
    pub(crate) says: Says,
}

/// What an ICMP error says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Says {
    /// Its port is closed.
    Closed,
    /// Its host is not to be reached.
    Unreachable,
    /// It was too long: there is room for so many bytes behind its headers.
    TooBig(u16),
}

/// A segment, as a script tells it: numbers count from each side's SYN.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) len: usize,
    pub(crate) ack: Option<u32>,
    pub(crate) window: Option<u16>,
    pub(crate) urgent: u16,
    pub(crate) options: Option<Vec<Choice>>,
}

/// A TCP option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// `None`: what the link's MTU leaves.
    Mss(Option<u16>),
    Scale(u8),
    SackOk,
    Sack(u32, u32),
    Nop,
    End,
    Time(u32, u32),
    /// One of this kind that nobody knows, of four bytes.
    Unknown(u8),
}

impl Choice {
    /// The kind of the option, as on the wire.
    pub(crate) fn kind(self) -> u8 {
        match self {
            Self::End => 0,
            Self::Nop => 1,
            Self::Mss(_) => 2,
            Self::Scale(_) => 3,
            Self::SackOk => 4,
            Self::Sack(..) => 5,
            Self::Time(..) => 8,
            Self::Unknown(kind) => kind,
        }
    }
}

/// The letters of flags, least significant bit first.
const LETTERS: &str = "FSRP.UEW";

/// What the line `+0 opened` stands for: a connection that is open both ways.
const OPENING: [&str; 4] = [
    "+0 < S 0:0(0) win 65535 <mss mtu,nop,wscale 7,sackOK>",
    "+0 host connects",
    "+0 > S. 0:0(0) ack 1 <mss mtu,wscale 1,sackOK>",
    "+0 < . 1:1(0) ack 1 win 512",
];

/// The steps of a script.
pub(crate) fn script(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = vec![];
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split("//").next().unwrap_or("").trim();
        if text.is_empty() {
            continue;
        }
        if text.split_whitespace().eq(["+0", "opened"]) {
            steps.extend(OPENING.iter().filter_map(|text| step(text)));
            continue;
        }
        let step = step(text).ok_or_else(|| format!("line {line} is no step: {text}"))?;
        steps.push(Step { line, ..step });
    }
    Ok(steps)
}

fn step(text: &str) -> Option<Step> {
    let (time, rest) = text.split_once(' ')?;
    let after_ms = milliseconds(time.strip_prefix('+')?)?;
    let rest = rest.trim();
    let what = match rest.chars().next()? {
        '<' => match rest[1..].trim_start().strip_prefix('[') {
            Some(error) => What::Complain(complaint(error)?),
            None => What::Inject(told(&rest[1..])?),
        },
        '>' => What::Expect(told(&rest[1..])?),
        _ if rest == "nothing" => What::Silence,
        _ => What::Host(host(rest.strip_prefix("host ")?)?),
    };
    Some(Step { line: 0, after_ms, what })
}

/// Seconds with up to three places after the point.
fn milliseconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = format!("{part:0<3}");
    (part.len() == 3).then_some(())?;
    Some(whole.parse::<u64>().ok()? * 1000 + part.parse::<u64>().ok()?)
}

fn host(text: &str) -> Option<Host> {
    let (verb, number) = text.split_once(' ').unwrap_or((text, ""));
    let number = || number.parse().ok();
    Some(match (text, verb) {
        ("connects", _) => Host::Connects,
        ("refuses", _) => Host::Refuses,
        ("closes", _) => Host::Closes,
        ("resets", _) => Host::Resets,
        ("has end", _) => Host::HasEnd,
        ("was reset", _) => Host::WasReset,
        ("has closed", _) => Host::HasClosed,
        ("is idle", _) => Host::IsIdle,
        (_, "sends") => Host::Sends(number()?),
        (_, "takes") => Host::Takes(number()?),
        (_, "has") => Host::Has(number()?),
        _ => return None,
    })
}

/// What stands behind the first bracket of `[1:101(100)] icmp closed`.
fn complaint(text: &str) -> Option<Complaint> {
    let (segment, error) = text.split_once("] icmp ")?;
    let (seq, len) = place(segment)?;
    let says = match error.split_once(' ').unwrap_or((error, "")) {
        ("closed", "") => Says::Closed,
        ("unreachable", "") => Says::Unreachable,
        ("too-big", mss) => Says::TooBig(mss.parse().ok()?),
        _ => return None,
    };
    Some(Complaint { seq, len, says })
}

/// Where a segment begins, and how long it is: `1:101(100)`.
fn place(text: &str) -> Option<(u32, usize)> {
    let (range, len) = text.strip_suffix(')')?.split_once('(')?;
    let (seq, end) = range.split_once(':')?;
    let (seq, len) = (seq.parse::<u32>().ok()?, len.parse::<u32>().ok()?);
    (seq.wrapping_add(len) == end.parse::<u32>().ok()?).then_some((seq, len as usize))
}

fn told(text: &str) -> Option<Told> {
    let (head, options) = match text.split_once('<') {
        Some((head, options)) => (head, Some(options.strip_suffix('>')?)),
        None => (text, None),
    };
    let mut words = head.split_whitespace();
    let mut told = Told::default();
    let flags = words.next()?;
    if flags != "-" {
        for letter in flags.chars() {
            told.flags |= 1 << LETTERS.find(letter)?;
        }
    }
    (told.seq, told.len) = place(words.next()?)?;
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word {
            "ack" => told.ack = Some(value.parse().ok()?),
            "win" => told.window = Some(value.parse().ok()?),
            "urg" => told.urgent = value.parse().ok()?,
            _ => return None,
        }
    }
    if let Some(options) = options {
        let words = options.split(',').map(str::trim).filter(|word| !word.is_empty());
        let options: Option<Vec<_>> = words.map(choice).collect();
        told.options = Some(options?);
    }
    Some(told)
}

fn choice(text: &str) -> Option<Choice> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Some(match words[..] {
        ["nop"] => Choice::Nop,
        ["eol"] => Choice::End,
        ["sackOK"] => Choice::SackOk,
        ["mss", "mtu"] => Choice::Mss(None),
        ["mss", value] => Choice::Mss(Some(value.parse().ok()?)),
        ["wscale", value] => Choice::Scale(value.parse().ok()?),
        ["sack", range] => {
            let (left, right) = range.split_once(':')?;
            Choice::Sack(left.parse().ok()?, right.parse().ok()?)
        }
        ["TS", "val", val, "ecr", ecr] => Choice::Time(val.parse().ok()?, ecr.parse().ok()?),
        ["unknown", kind] => Choice::Unknown(kind.parse().ok()?),
        _ => return None,
    })
}
