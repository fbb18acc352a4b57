//! What policy has to do with the connections of a run: it changes, what is said first decides, and
//! who calls may. Leads each connection's model along, and holds the engine to it.

use core::net::SocketAddr;

use sim::core::{Config, FlowId, FlowState, Instant};
use sim::{Datagrams, End, Seen, Stream};

use super::app::{App, Denied, number};
use super::client::Client;
use super::names::{Names, is_visited};
use super::policies::Rules;
use super::run::{Run, address};
use super::words::{Place, Sight, Words};

impl Run<'_> {
    /// Policy changes, if it is time.
    pub(super) fn change(&mut self, now: Instant) {
        let is_due = |(at, ..): &(u64, Rules, Config)| self.began.plus_millis(*at) <= now;
        if !self.changes.front().is_some_and(is_due) {
            return;
        }
        let Some((_, rules, config)) = self.changes.pop_front() else { return };
        self.turn(now);
        let streams: Vec<(FlowId, SocketAddr)> =
            self.world.peers.streams.values().map(|s| (s.id, address(s.to))).collect();
        let sockets: Vec<Datagrams> = self.world.peers.datagrams.values().cloned().collect();
        self.deny(&rules);
        let replaced = self.world.engine.replace_config(now, &config);
        replaced.expect("because what is fixed is the same");
        self.rates.change(&config);
        self.caps.change(&config, &self.world);
        self.pings.change(now, config.icmp_flows_max);
        let names = &self.names;
        let may = |to: SocketAddr| {
            !is_visited(to) || rules.allows_datagram(to.ip(), &names.names_of(to.ip(), now))
        };
        let may_come = |peer: SocketAddr| rules.may_come(peer.ip());
        self.datagrams.change(&config, (may, may_come), &self.world);
        streams.into_iter().for_each(|stream| self.check_change(now, &rules, stream));
        self.check_unknown(now, &rules);
        let engine = &self.world.engine;
        // Of those that gave way policy has said nothing.
        let live = |socket: Datagrams| {
            let is_live = engine.is_live(socket.id) || self.datagrams.has_given_way(socket.id);
            (socket, is_live)
        };
        let sockets: Vec<_> = sockets.into_iter().map(live).collect();
        self.names.change(now, &rules, &sockets);
        self.writers.change(&rules, engine);
        self.rules = rules;
        self.world.peers.close_ended(&self.world.engine);
        self.turn(now);
    }

    /// The connection of the host's socket for `flow` has ended, or not, as `rules` have it.
    fn check_change(&mut self, now: Instant, rules: &Rules, (flow, to): (FlowId, SocketAddr)) {
        let number = number(to);
        let app = &mut self.apps[usize::from(number)];
        let is_live = self.world.engine.is_live(flow);
        let may = match (&app.call, &app.words) {
            (Some(_), _) => rules.may_come(to.ip()),
            (None, Some(words)) if app.denied.is_none() => {
                let place = |from| place(&self.names, rules, (from, number), to);
                words.may_stay((&place(now), &place(Instant::ZERO)), is_live)
            }
            (None, _) => app.denied.is_none(),
        };
        assert_eq!(is_live, may, "policy changes for {app:#?}");
        if may {
            return;
        }
        if let Some(call) = &mut app.call {
            call.expel();
        }
        if let Some(words) = &mut app.words {
            words.end();
            app.denied = Some(Denied::Ended);
        }
    }

    /// The same for connections of which the host knows nothing yet.
    fn check_unknown(&mut self, now: Instant, rules: &Rules) {
        for (index, app) in (0..).zip(&mut self.apps) {
            let Some(words) = app.words.as_mut().filter(|words| words.is_unknown()) else {
                continue;
            };
            let is_there = self
                .world
                .engine
                .flows()
                .any(|f| f.outside == app.to && f.state == FlowState::Hearing);
            let place = place(&self.names, rules, (now, index), app.to);
            assert!(!is_there || !place.is_denied, "policy denies {words:?}");
            if words.change(&place, is_there) {
                app.denied = Some(Denied::Ended);
            }
        }
    }

    /// Says of each connection of the guest what `rules` make of it, before they hold.
    fn deny(&mut self, rules: &Rules) {
        let unfinished: Vec<u16> = self.unfinished().iter().map(|app| app.to.port()).collect();
        let peers = &self.world.peers;
        for number in &rules.denied {
            let app = &mut self.apps[usize::from(*number)];
            let is_due = matches!(self.clients[usize::from(*number)], Client::Due);
            let is_its = |stream: &Stream| address(stream.to) == app.to;
            let is_unknown = app.words.as_ref().is_some_and(Words::is_unknown);
            if peers.streams.values().any(is_its) || is_unknown {
                app.denied = Some(Denied::Ended);
            } else if !is_due && app.denied.is_none() && unfinished.contains(&app.to.port()) {
                // One that has ended in order the guest has yet to read.
                let mut ended = peers.ended.iter().filter(|stream| is_its(stream)).peekable();
                let before = ended.peek().is_some();
                if ended.all(|stream| stream.end != Some(End::Close)) {
                    app.denied = Some(Denied::Refused { before });
                }
            }
        }
    }

    /// `frame` has opened a connection, or would have, had there been a place.
    pub(super) fn note_place(&mut self, frame: &[u8], is_crowded: bool) {
        let seen = Seen::read(frame).expect("because the engine could read it");
        let segment = seen.tcp().expect("because it is a SYN");
        let to = SocketAddr::new(segment.ends.1, segment.ports.1);
        let Some(app) = self.apps.iter_mut().find(|app| app.to == to) else { return };
        let peers = &self.world.peers;
        let is_its = |stream: &Stream| address(stream.to) == to;
        let is_known = peers.streams.values().chain(&peers.ended).any(is_its)
            || app.words.as_ref().is_some_and(|words| !words.is_new());
        if !is_crowded {
            app.is_muddled |= app.is_crowded;
            app.denied = app.denied.filter(|_| !app.is_crowded);
            app.is_crowded = false;
        } else if is_known || (app.denied.is_some() && !app.is_crowded) {
            app.is_muddled = true;
        } else {
            app.is_crowded = true;
            app.denied = Some(Denied::Refused { before: false });
        }
    }

    /// The engine has heard `frame`, which may answer a call, or say something first.
    pub(super) fn hear(&mut self, now: Instant, frame: &[u8]) {
        let began = self.began;
        let has_begun = |app: &App| began.plus_millis(app.start_ms) <= now;
        let speaks = |app: &App| app.words.as_ref().is_some_and(Words::listens) && has_begun(app);
        let listens = |app: &App| app.rings() || speaks(app) || app.has_held_line();
        if !self.apps.iter().any(listens) {
            return;
        }
        let Ok(seen) = Seen::read(frame) else { return };
        let Some(segment) = seen.tcp() else { return };
        let to = SocketAddr::new(segment.ends.1, segment.ports.1);
        for (index, app) in (0..).zip(&mut self.apps) {
            if let Some(call) = &mut app.call {
                call.hear(segment);
            }
            if app.to == to {
                app.line.iter_mut().for_each(|line| line.listen(now, segment));
            }
            let Some(words) = app.words.as_mut().filter(|_| app.to == to) else { continue };
            let place = place(&self.names, &self.rules, (now, index), to);
            match words.hear(now, segment, &place) {
                Some(true) => app.denied = app.denied.or(Some(Denied::Refused { before: false })),
                Some(false) => words.is_muddled = app.denied.take().is_some(),
                None => {}
            }
        }
    }

    /// What is said first has had the effect that it must have.
    pub(super) fn check_words(&mut self, now: Instant) {
        let (peers, engine) = (&self.world.peers, &self.world.engine);
        for (index, app) in (0..).zip(&mut self.apps) {
            let Some(words) = app.words.as_mut().filter(|words| words.is_held()) else { continue };
            let is_its = |stream: &&Stream| address(stream.to) == app.to;
            let stream = peers.streams.values().chain(&peers.ended).find(is_its);
            let is_there =
                engine.flows().any(|f| f.outside == app.to && f.state == FlowState::Hearing);
            let place = place(&self.names, &self.rules, (now, index), app.to);
            if words.check(now, &place, Sight { stream, is_there }) {
                app.denied = Some(Denied::Ended);
            }
        }
    }

    /// The host has every line in TLS that it must have; `before` were the host's actions so far.
    pub(super) fn check_lines(&mut self, now: Instant, before: usize) {
        let (did, engine) = (&self.world.peers.log[before..], &self.world.engine);
        for app in self.apps.iter_mut().filter(|app| app.has_held_line()) {
            let is_there =
                engine.flows().any(|f| f.outside == app.to && f.state == FlowState::Hearing);
            let line = app.line.as_mut().expect("because it is held");
            if line.check(now, app.to, (did, is_there)) {
                app.denied = Some(Denied::Ended);
            }
        }
    }

    /// Every call is as far as it has to be.
    pub(super) fn check_calls(&mut self, now: Instant) {
        let peers = &self.world.peers;
        for app in &mut self.apps {
            let is_its = |stream: &&Stream| address(stream.to) == app.to;
            let mut streams = peers.streams.values().chain(&peers.ended);
            if let Some(call) = &mut app.call
                && let Some(stream) = streams.find(is_its)
            {
                call.check(now, stream);
            }
        }
    }
}

/// What policy depends on where the connection of number `index` goes: by `rules`, and by the names
/// that lead there after `now`.
fn place<'a>(
    names: &'a Names,
    rules: &'a Rules,
    (now, index): (Instant, u16),
    to: SocketAddr,
) -> Place<'a> {
    let (address, is_denied) = (to.ip(), rules.denied.contains(&index));
    Place { rules, address, names: names.names_of(address, now), is_denied }
}
