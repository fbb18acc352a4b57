//! What a name server says, which need not be true: an answer as its parts, from which follow both
//! its bytes and, by a plain reading of the RFCs, what a guest may have of it.

use core::net::IpAddr;
use std::collections::BTreeSet;

use sim::Dice;
use sim::dns::{self, kind};

/// Addresses of the public Internet, where names may lead.
pub(crate) const PUBLIC: [&str; 8] =
    ["1.1.1.1", "1.1.1.2", "8.8.4.4", "45.1.2.3", "2600::1", "2600::2", "2a00::53", "2606:4700::1"];
/// Addresses that a rule by network means, so that names may lead there too.
pub(crate) const MEANT: [&str; 3] = ["10.1.2.3", "203.0.113.7", "2001:db8::7"];
/// An address of the host itself.
pub(crate) const OWN: &str = "45.0.0.1";
/// Where no name outside may lead: inside, nowhere, to a group, or there in another form.
const INSIDE: [&str; 22] = [
    "127.0.0.1",
    "10.0.0.5",
    "10.2.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.0.9",
    "100.96.0.1",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    OWN,
    "::",
    "::1",
    "fe80::1",
    "fd42:6d73:62::1",
    "ff02::1",
    "::ffff:10.0.0.5",
    "64:ff9b::a00:5",
    "fd00:ec2::254",
];
/// Aliases that are followed (RFC 1034 3.6.2 asks for an end).
const ALIASES_MAX: usize = 16;
/// Bytes of an answer in a datagram for who says nothing of EDNS (RFC 1035 4.2.1).
pub(crate) const DATAGRAM_BYTES_MAX: usize = 512;

/// One of `pool`.
pub(crate) fn pick(pool: &[&str], dice: &mut Dice) -> IpAddr {
    let text = pool[dice.below(pool.len() as u64) as usize];
    text.parse().expect("because the pools hold addresses")
}

/// An address of any kind.
pub(crate) fn any_address(dice: &mut Dice) -> IpAddr {
    let pool = [&PUBLIC[..], &PUBLIC, &PUBLIC, &MEANT, &INSIDE][dice.below(5) as usize];
    pick(pool, dice)
}

/// Whether a rule by network allows `address`.
pub(crate) fn is_meant(address: IpAddr) -> bool {
    MEANT.iter().any(|text| text.parse() == Ok(address))
}

fn is_inside(address: IpAddr) -> bool {
    INSIDE.iter().any(|text| text.parse() == Ok(address))
}

/// The data of a record.
#[derive(Debug, Clone)]
enum Data {
    Address(IpAddr),
    Alias(String),
    /// A service with hints of addresses (RFC 9460 7.3).
    Service(Vec<IpAddr>),
    Text,
}

#[derive(Debug, Clone)]
struct Record {
    /// Answer, authority, additional.
    section: usize,
    owner: String,
    class: u16,
    ttl: u32,
    data: Data,
}

/// What makes a message one that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It ends somewhere in its records.
    Cut,
    /// A label of a kind that there is none of.
    Label,
    /// A pointer to itself.
    Loop,
    /// An address of three bytes.
    Short,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The name and type that it repeats.
    question: (String, u16),
    /// Its number is another.
    is_misnumbered: bool,
    /// It is a question itself.
    is_query: bool,
    is_cut_short: bool,
    code: u8,
    records: Vec<Record>,
    fault: Fault,
}

/// What the guest may have of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// Nothing: it can't be read.
    Unreadable,
    /// Nothing: it leads where it must not.
    Rebinding,
    /// All; and where its name leads, for how many seconds.
    Leads(Vec<(IpAddr, u32)>),
}

impl Answer {
    /// An answer to the question for the type `kind` of `name`, true or not.
    pub(crate) fn new(name: &str, kind: u16, dice: &mut Dice) -> Self {
        let record = |owner: &str, data| Record {
            section: 0,
            owner: owner.to_owned(),
            class: 1,
            ttl: 60,
            data,
        };
        let mut answer = Self {
            question: (name.to_owned(), kind),
            is_misnumbered: false,
            is_query: false,
            is_cut_short: false,
            code: 0,
            records: vec![record(name, Data::Address(pick(&PUBLIC, dice)))],
            fault: Fault::None,
        };
        answer.records[0].ttl = dice.between(1, 30) as u32;
        let others = ["good.test", "a.wide.test", "short.test", "evil.test"];
        let other = others[dice.below(4) as usize];
        let anywhere = |dice: &mut Dice| Data::Address(pick(&PUBLIC, dice));
        match dice.below(20) {
            0 => answer.question.0 = other.to_owned(),
            1 => answer.question.1 = if kind == kind::A { kind::AAAA } else { kind::A },
            2 => answer.is_misnumbered = true,
            3 => answer.is_query = true,
            // Of another name, beside the one that was asked or in its place.
            4 | 5 => {
                let stray = record(other, anywhere(dice));
                let section = dice.below(3) as usize;
                answer.records.push(Record { section, ..stray });
                answer.records.rotate_left(usize::from(section == 0));
                answer.records.truncate(dice.between(1, 2) as usize);
            }
            6 | 7 => {
                let inside = record(name, Data::Address(pick(&INSIDE, dice)));
                answer.records.push(Record { section: dice.below(3) as usize, ..inside });
            }
            8 => {
                let hint = any_address(dice);
                answer.records = vec![record(name, Data::Service(vec![hint]))];
            }
            9 | 10 => answer.lead_through_aliases(name, dice),
            11 => {
                answer.records[0].ttl = [0, 3600, 86_400, 1 << 31, u32::MAX][dice.below(5) as usize]
            }
            12 => answer.code = [2, 3, 5][dice.below(3) as usize],
            13 => (answer.code, answer.records) = (3, vec![]),
            14 => answer.is_cut_short = true,
            15 => {
                let many = (0..dice.between(2, 60)).map(|_| {
                    let [a, b, ..] = dice.draw().to_le_bytes();
                    record(name, Data::Address(IpAddr::from([1, 2, a, b])))
                });
                answer.records = many.collect();
            }
            16 => {
                let faults = [Fault::Cut, Fault::Label, Fault::Loop, Fault::Short];
                answer.fault = faults[dice.below(4) as usize];
            }
            17 => answer.records[0].class = 3,
            18 => answer.records = vec![record(name, Data::Address(pick(&MEANT, dice)))],
            _ => answer.records.push(record(name, Data::Text)),
        }
        answer
    }

    /// From name to name, to an address; or around.
    fn lead_through_aliases(&mut self, name: &str, dice: &mut Dice) {
        let steps = dice.between(1, ALIASES_MAX as u64 + 3) as usize;
        let alias = |step: usize| match step {
            0 => name.to_owned(),
            _ => format!("n{step}.cdn.evil.test"),
        };
        let mut link = |owner: String, data| Record {
            section: 0,
            owner,
            class: 1,
            ttl: dice.between(1, 90) as u32,
            data,
        };
        let chain = (0..steps).map(|step| link(alias(step), Data::Alias(alias(step + 1))));
        self.records = chain.collect();
        self.records.push(link(alias(steps), Data::Address("1.1.1.2".parse().expect("one"))));
        if dice.one_of(300) {
            // Around: the last name leads back to one of those before.
            let back = alias(dice.below(steps as u64) as usize);
            self.records.push(link_back(alias(steps), back));
        }
        if dice.one_of(300) {
            let at = dice.below(self.records.len() as u64) as usize;
            self.records.rotate_left(at);
        }
    }

    /// Whether it answers the question for the type `kind` of `name`, as far as its header and its
    /// question say.
    pub(crate) fn is_to(&self, name: &str, kind: u16) -> bool {
        !self.is_misnumbered && !self.is_query && self.repeats(name, kind)
    }

    /// Whether it repeats the question.
    pub(crate) fn repeats(&self, name: &str, kind: u16) -> bool {
        self.question.0 == name && self.question.1 == kind
    }

    /// Its response code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// The addresses that a record leads to.
    fn addresses(record: &Record) -> &[IpAddr] {
        match &record.data {
            Data::Address(address) if record.class == 1 => core::slice::from_ref(address),
            Data::Service(hints) => hints,
            Data::Address(_) | Data::Alias(_) | Data::Text => &[],
        }
    }

    /// What a guest that asked for the type `kind` of `name` may have of it.
    pub(crate) fn truth(&self, name: &str, kind: u16) -> Truth {
        if self.fault != Fault::None || !self.repeats(name, kind) {
            return Truth::Unreadable;
        }
        if self.records.iter().flat_map(Self::addresses).any(|address| is_inside(*address)) {
            return Truth::Rebinding;
        }
        if self.code != 0 || !matches!(kind, kind::A | kind::AAAA) {
            return Truth::Leads(vec![]);
        }
        let (mut leads, mut passed, mut current, mut ttl) =
            (vec![], BTreeSet::new(), name.to_owned(), u32::MAX);
        // A name that was passed already is where the way ends.
        while passed.len() <= ALIASES_MAX && passed.insert(current.clone()) {
            let of_it = |record: &&Record| record.section == 0 && record.owner == current;
            let mut next = None;
            for record in self.records.iter().filter(of_it) {
                // RFC 2181 8: one with its first bit set is 0.
                let its = if record.ttl >= 1 << 31 { 0 } else { record.ttl };
                match &record.data {
                    Data::Address(address) if record.class == 1 => {
                        leads.push((*address, its.min(ttl).clamp(1, 3600)));
                    }
                    Data::Alias(target) => next = Some((target.clone(), its.min(ttl))),
                    Data::Address(_) | Data::Service(_) | Data::Text => {}
                }
            }
            let Some(step) = next else { break };
            (current, ttl) = step;
        }
        Truth::Leads(leads)
    }

    /// Its bytes, with the number of `asked`.
    pub(crate) fn bytes(&self, asked: &[u8], dice: &mut Dice) -> Vec<u8> {
        let mut out = asked[..2].to_vec();
        out[1] ^= u8::from(self.is_misnumbered);
        let flags = if self.is_query { 0x01 } else { 0x81 } | u8::from(self.is_cut_short) << 1;
        out.extend([flags, 0x80 | self.code, 0, 1]);
        for section in 0..3 {
            let count = self.records.iter().filter(|record| record.section == section).count();
            let extra = usize::from(section == 0 && self.fault != Fault::None);
            out.extend(((count + extra) as u16).to_be_bytes());
        }
        out.extend(spelt(&self.question.0, dice));
        out.extend(self.question.1.to_be_bytes());
        out.extend([0, 1]);
        let question_end = out.len();
        let itself = [0xc0, question_end as u8];
        out.extend(match self.fault {
            Fault::None | Fault::Cut => vec![],
            Fault::Label => dns::record(&[0x80, 0], kind::A, 60, &[1, 1, 1, 1]),
            Fault::Loop => dns::record(&itself, kind::A, 60, &[1, 1, 1, 1]),
            Fault::Short => dns::record(&dns::QUESTION, kind::A, 60, &[1, 1, 1]),
        });
        for section in 0..3 {
            for record in self.records.iter().filter(|record| record.section == section) {
                out.extend(self.record(record, dice));
            }
        }
        if self.fault == Fault::Cut {
            // One record fewer than is said; what there is may be cut as well.
            let rest = out.len() - question_end;
            out.truncate(out.len() - dice.below(rest as u64 + 1) as usize);
        }
        out
    }

    fn record(&self, record: &Record, dice: &mut Dice) -> Vec<u8> {
        let is_question = record.owner == self.question.0 && dice.one_of(500);
        let owner = if is_question { dns::QUESTION.to_vec() } else { spelt(&record.owner, dice) };
        let mut bytes = match &record.data {
            Data::Address(address) => dns::address(&owner, record.ttl, *address),
            Data::Alias(target) => {
                dns::record(&owner, kind::CNAME, record.ttl, &spelt(target, dice))
            }
            Data::Text => dns::record(&owner, kind::TXT, record.ttl, b"\x04text"),
            Data::Service(hints) => dns::record(&owner, kind::HTTPS, record.ttl, &service(hints)),
        };
        bytes[owner.len() + 2..owner.len() + 4].copy_from_slice(&record.class.to_be_bytes());
        bytes
    }
}

fn link_back(owner: String, target: String) -> Record {
    Record { section: 0, owner, class: 1, ttl: 60, data: Data::Alias(target) }
}

/// A service of the first priority, under its own name, with `hints`.
fn service(hints: &[IpAddr]) -> Vec<u8> {
    let mut data = vec![0, 1, 0];
    for hint in hints {
        let (key, octets) = match hint {
            IpAddr::V4(v4) => (4u16, v4.octets().to_vec()),
            IpAddr::V6(v6) => (6u16, v6.octets().to_vec()),
        };
        data.extend(key.to_be_bytes());
        data.extend((octets.len() as u16).to_be_bytes());
        data.extend(octets);
    }
    data
}

/// `name` on the wire, in letters of either case (RFC 4343).
pub(crate) fn spelt(name: &str, dice: &mut Dice) -> Vec<u8> {
    let letter = |letter: char| {
        if dice.one_of(300) { letter.to_ascii_uppercase() } else { letter }
    };
    dns::name(&name.chars().map(letter).collect::<String>())
}
