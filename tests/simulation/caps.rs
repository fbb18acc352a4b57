//! Caps: small ones of connections, of those from outside, and of datagram flows, which may change
//! in the middle. A model counts which connections have a place: at no moment there are more than
//! may be, but for those that were there when a cap was lowered; who is refused was one too many,
//! and who is not was none. What lingers gives way, and what lives is disturbed by nobody; what was
//! reset keeps its place until the guest is told, which may wait for its rate. Of datagram flows
//! and pings others know.
//!
//! Where caps are small, the guest's frames come one a turn.

use sim::core::{Config, Direction, Drop, FlowId, FlowState, Protocol};
use sim::{Dice, End, World};

/// Places of connections, of those from outside, of datagrams, of those from outside, and of pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) tcp: u32,
    pub(crate) inbound: u32,
    pub(crate) udp: u32,
    pub(crate) inbound_udp: u32,
    pub(crate) echo: u32,
}

/// More connections than a run has.
const MANY: Places = Places { tcp: 32, inbound: u32::MAX, udp: 16, inbound_udp: 16, echo: 8 };

/// The caps in each of `count` stretches: mostly large ones. Memory is lent for the first.
pub(crate) fn plan(count: usize, dice: &mut Dice) -> Vec<Places> {
    let is_small = dice.one_of(250);
    let inbound = |dice: &mut Dice| [1, 2, u32::MAX][dice.below(3) as usize];
    let mut first = Places { echo: [1, 2, 3, 8, 8][dice.below(5) as usize], ..MANY };
    if is_small {
        first.tcp = dice.between(1, 6) as u32;
        first.inbound = inbound(dice);
        first.udp = dice.between(1, 16) as u32;
        first.inbound_udp = dice.between(1, 3) as u32;
    }
    let another = |dice: &mut Dice| {
        let mut places = Places { echo: dice.between(1, first.echo.into()) as u32, ..first };
        if is_small {
            places.tcp = dice.between(1, first.tcp.into()) as u32;
            places.inbound = inbound(dice);
            places.udp = dice.between(1, first.udp.into()) as u32;
            places.inbound_udp = dice.between(1, first.inbound_udp.into()) as u32;
        }
        places
    };
    let mut all = vec![first];
    all.extend((1..count).map(|_| if dice.one_of(500) { another(dice) } else { first }));
    all
}

/// The model.
#[derive(Debug)]
pub(crate) struct Caps {
    places: Places,
    /// Connections that there may be: those that there were, where the cap was lowered.
    tcp_max: usize,
    /// Connections before the guest's next frame, and how many it had opened by then.
    before: (usize, u64),
    /// Connections of the guest that were refused.
    pub(crate) refused: u64,
    /// Those from outside.
    pub(crate) refused_calls: u64,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It opened a connection.
    Opened,
    /// It would have, but for the cap.
    Crowded,
    /// Nothing of that kind.
    Other,
}

impl Caps {
    pub(crate) fn new(places: Places) -> Self {
        let tcp_max = places.tcp as usize;
        Self { places, tcp_max, before: (0, 0), refused: 0, refused_calls: 0 }
    }

    pub(crate) fn are_small(&self) -> bool {
        self.places.tcp < MANY.tcp
    }

    /// What `config` says holds from now on; nobody has to go for it.
    pub(crate) fn change(&mut self, config: &Config, world: &World<'_>) {
        self.places.tcp = config.tcp_flows_max;
        self.places.inbound = config.inbound_tcp_flows_max;
        self.tcp_max = busy(world).max(config.tcp_flows_max as usize);
    }

    /// The engine is about to take a frame.
    pub(crate) fn begin(&mut self, world: &World<'_>) {
        self.before = (busy(world), world.counters().tcp_opened);
    }

    /// The engine has taken one. `others`: who was refused that is no connection.
    pub(crate) fn fate(&mut self, world: &World<'_>, others: u64) -> Fate {
        let counters = world.counters();
        let (busy, opened) = self.before;
        let is_full = busy >= self.places.tcp as usize;
        let refused = counters.dropped(Drop::FlowsFull) - others - self.refused;
        match (refused, counters.tcp_opened - opened) {
            (1, 0) => {
                assert!(is_full, "refused at {busy} of {self:?}");
                self.refused += 1;
                Fate::Crowded
            }
            (0, 1) => {
                assert!(!is_full, "opened at {busy} of {self:?}");
                Fate::Opened
            }
            (0, 0) => Fate::Other,
            both => panic!("a frame of the guest is {both:?}"),
        }
    }

    /// Whether who calls the guest now must be refused.
    pub(crate) fn refuses_call(&self, world: &World<'_>) -> bool {
        let flows = world.engine.flows();
        let inbound = flows
            .filter(|f| f.protocol == Protocol::Tcp && f.direction == Direction::Ingress)
            .count();
        inbound >= self.places.inbound as usize || busy(world) >= self.places.tcp as usize
    }

    /// There are no more than may be. `may_wait`: what the guest is told waits.
    pub(crate) fn check(&mut self, world: &World<'_>, may_wait: bool) {
        let (busy, resetting) = (busy(world), resetting(world));
        assert!(may_wait || resetting == 0, "{resetting} resets are not sent: {self:?}");
        assert!(busy <= self.tcp_max, "{busy} of {self:?}");
        self.tcp_max = self.tcp_max.min(busy).max(self.places.tcp as usize);
    }

    /// What was refused, in a few words, and how often.
    pub(crate) fn stories(&self) -> [(&'static str, u64); 2] {
        let (guest, outside) = (self.refused, self.refused_calls);
        [("a connection has no place", guest), ("a call has no place", outside)]
    }
}

/// Connections that live: the host has a socket, or waits for what is said first, or the guest has
/// yet to be told that it is over.
fn busy(world: &World<'_>) -> usize {
    let heard = world.engine.flows().filter(|flow| flow.state == FlowState::Hearing);
    world.peers.streams.len() + heard.count() + resetting(world)
}

/// Connections whose reset has yet to be sent to the guest: those that linger have ended in order.
fn resetting(world: &World<'_>) -> usize {
    let peers = &world.peers;
    let lingers = |id: FlowId| {
        let ended = peers.ended.iter().rev().find(|stream| stream.id == id);
        ended.is_some_and(|stream| stream.end == Some(End::Close))
    };
    let has_socket = |id: FlowId| peers.streams.get(&id.index).is_some_and(|s| s.id == id);
    let flows = world.engine.flows().filter(|flow| flow.protocol == Protocol::Tcp);
    let closing = flows.filter(|flow| flow.state == FlowState::Closing);
    closing.filter(|flow| !has_socket(flow.id) && !lingers(flow.id)).count()
}
