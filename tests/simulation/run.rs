//! One run: the plan that follows from a seed, and its execution.

use core::net::SocketAddr;
use std::collections::{BTreeMap, HashMap, VecDeque};

use sim::core::{Config, Drop, Event, FlowId, Instant, Outside, Refusal, limits};
use sim::frame::flag::ACK;
use sim::frame::{OUTSIDES, gateway, protocol};
use sim::guest::Guest;
use sim::link::{Link, Weather};
use sim::{Answer, Dice, End, Message, Pattern, Room, Seen, Tcp, World, default_config};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};

use super::app::{App, Denied, Ending, REFUSALS, number};
use super::callers::{Call, PUBLISHED, Writers, is_published};
use super::caps::{self, Caps, Fate, Places};
use super::client::{Client, by_plain, index, smol};
use super::datagrams::DatagramFlows;
use super::lie::{self, MEANT, PUBLIC};
use super::lines::{Line, framed};
use super::names::{self, Names, Reply, is_own, is_visited};
use super::pings::{Pings, SETS};
use super::policies::{self, Rules};
use super::rates::{self, Limits, Rates};
use super::signs::{Signs, quoted, timer_at};

/// Virtual time that a run may take.
const RUN_MS_MAX: u64 = 60 * 60 * 1000;
/// How long an address is known by a name, at most.
const BINDING_SECONDS_MAX: u64 = 3600;
/// Silence at the end, after which nothing may be left.
const SILENCE_MS: u64 = 5 * 3600 * 1000;

/// The port of the outside's echo server (RFC 862).
const ECHO_PORT: u16 = 7;

/// All that a seed decides beforehand.
pub(crate) struct Plan {
    seed: u64,
    dice: Dice,
    weather: Weather,
    mtu: u16,
    receive_frame_bytes: u32,
    buffers: (usize, usize),
    apps: Vec<App>,
    datagrams: u32,
    stalls: u64,
    /// What policy says, and from when on.
    policies: Vec<(u64, Rules)>,
    /// What limits each direction meanwhile.
    rates: Vec<Limits>,
    /// How many flows there may be.
    caps: Vec<Places>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let weather = match dice.below(4) {
            0 => Weather { delay_us: dice.below(3000), ..Weather::default() },
            _ => Weather {
                loss: dice.below(30),
                double: dice.below(20),
                damage: dice.below(15),
                late: dice.below(100),
                delay_us: dice.below(20_000),
                late_us_max: dice.below(50_000),
            },
        };
        let mtu = [1280, 1500, 1500, 9000][dice.below(4) as usize];
        let receive = [1514, u32::from(mtu).max(1500) + 14][dice.below(2) as usize];
        let size = |dice: &mut Dice| 4096 << dice.below(6);
        let apps = apps(&mut dice);
        // Those that policy is about come first.
        let own = apps.iter().filter(|app| app.call.is_none() && app.line.is_none());
        let starts: Vec<u64> = own.map(|app| app.start_ms).collect();
        let policies = policies::plan(&starts, &mut dice);
        let caps = caps::plan(policies.len(), &mut dice);
        let rates = rates::plan(policies.len(), &mut dice);
        let stalls = dice.one_of(500);
        let mut buffers = (size(&mut dice), size(&mut dice));
        if stalls {
            buffers.1 = buffers.1.max(1 << 16); // so much that a guest's ring may be full
        }
        Self {
            seed,
            policies,
            rates,
            caps,
            weather,
            mtu,
            receive_frame_bytes: receive,
            buffers,
            apps,
            datagrams: dice.below(20) as u32,
            stalls: if stalls { dice.below(50) } else { 0 },
            dice,
        }
    }

    /// Whether no frame is lost.
    fn is_calm(&self) -> bool {
        self.weather.loss == 0 && self.stalls == 0
    }

    /// How its connections end.
    pub(crate) fn endings(&self) -> impl Iterator<Item = Ending> {
        self.apps.iter().map(|app| app.ending)
    }

    /// What the engine is told in the stretch of number `index`.
    fn config(&self, index: usize) -> Config {
        let (_, rules) = &self.policies[index];
        let mut config = default_config();
        names::configure(&mut config);
        rules.configure(&mut config);
        let Places { tcp, inbound, udp, inbound_udp, echo } = self.caps[index];
        config.tcp_flows_max = tcp;
        config.inbound_tcp_flows_max = inbound;
        config.udp_flows_max = udp;
        config.inbound_udp_flows_max = inbound_udp;
        config.icmp_flows_max = echo;
        config.fragment_sets = SETS;
        // So names over TLS end here; nobody goes to that port.
        config.intercepted_ports.push(limits::HTTPS_PORT).expect("because 1 fits");
        config.keeps_names = self.policies.len() > 1;
        config.link.mtu = self.mtu;
        config.link.receive_frame_bytes = self.receive_frame_bytes;
        (config.tcp_receive_bytes, config.tcp_send_bytes) = self.buffers;
        [config.from_guest_rate, config.to_guest_rate] = self.rates[index];
        config
    }

    pub(crate) fn room<'r>(&self) -> Room<'r> {
        Room::new(self.config(0)).with_rings(1 << 18)
    }
}

/// Some connections that the guest opens, some that are opened to it, and some to name servers.
fn apps(dice: &mut Dice) -> Vec<App> {
    let (own, called, lines) = (dice.between(1, 8), dice.below(4), dice.below(3));
    let app = |index: u64| {
        let number = index as u16;
        match index {
            _ if index >= own + called => App::line(number, dice),
            _ if index >= own => App::called(number, dice),
            _ if dice.one_of(300) => App::speaker(number, dice),
            _ => App::new(number, dice),
        }
    };
    (0..own + called + lines).map(app).collect()
}

/// How many connections went how.
pub(crate) type Tally = BTreeMap<String, u32>;

/// A run under way.
pub(crate) struct Run<'a> {
    pub(super) world: World<'a>,
    dice: Dice,
    pub(super) apps: Vec<App>,
    pub(super) clients: Vec<Client>,
    guest: Guest,
    up: Link,
    down: Link,
    udp: Udp,
    pub(super) writers: Writers,
    pub(super) names: Names,
    pub(super) pings: Pings,
    pub(super) rates: Rates,
    pub(super) caps: Caps,
    pub(super) datagrams: DatagramFlows,
    is_calm: bool,
    pub(super) began: Instant,
    /// What policy says.
    pub(super) rules: Rules,
    /// What it is going to say, and when.
    pub(super) changes: VecDeque<(u64, Rules, Config)>,
    stalls: u64,
    has_stalls: bool,
    stalled_until: Instant,
    digest: u64,
    tally: Tally,
    signs: Signs,
    /// Since when the host connects for each flow.
    connecting: HashMap<FlowId, Instant>,
    /// The last segment for each port of the guest, and how often it came.
    repeated: HashMap<u16, (Tcp, u32)>,
}

/// Datagrams that an echo server sends back.
struct Udp {
    socket: SocketHandle,
    left: u32,
    sent: Vec<Vec<u8>>,
    answered: usize,
}

impl<'a> Run<'a> {
    pub(crate) fn new(mut plan: Plan, room: &'a mut Room<'a>) -> Self {
        let mut world = room.world();
        world.pcap.rename(&format!("seed-{}", plan.seed));
        world.peers.answer = Answer::Silence;
        world.peers.room = 0;
        world.looks_ahead = true;
        let mut link = default_config().link;
        link.mtu = plan.mtu.min(1500);
        let mut guest = Guest::new(&link, plan.seed, world.now());
        let clients = plan.apps.iter().map(|_| Client::Due).collect();
        let changes = plan.policies.iter().enumerate().skip(1);
        let changes =
            changes.map(|(index, (at, rules))| (*at, rules.clone(), plan.config(index))).collect();
        let writers = Writers::new(&mut guest, Dice::new(plan.dice.draw()));
        let pings = Dice::new(plan.dice.draw());
        let pings = Pings::new(world.now(), plan.caps[0].echo, pings);
        let socket = guest.bind();
        let link = |dice: &mut Dice| Link::new(plan.weather, Dice::new(dice.draw()));
        Self {
            up: link(&mut plan.dice),
            down: link(&mut plan.dice),
            udp: Udp { socket, left: plan.datagrams, sent: vec![], answered: 0 },
            writers,
            pings,
            rates: Rates::new(plan.rates[0]),
            caps: Caps::new(plan.caps[0]),
            datagrams: DatagramFlows::new(plan.caps[0]),
            is_calm: plan.is_calm(),
            began: world.now(),
            names: Names::new(plan.policies[0].1.clone(), Dice::new(plan.dice.draw())),
            rules: plan.policies[0].1.clone(),
            changes,
            stalls: plan.stalls,
            has_stalls: plan.stalls > 0,
            stalled_until: Instant::ZERO,
            digest: 0xcbf2_9ce4_8422_2325,
            tally: Tally::new(),
            signs: Signs::default(),
            connecting: HashMap::new(),
            repeated: HashMap::new(),
            dice: plan.dice,
            apps: plan.apps,
            world,
            clients,
            guest,
        }
    }

    pub(crate) fn run(mut self) -> (u64, Tally) {
        let end = self.world.now().plus_millis(RUN_MS_MAX);
        loop {
            let now = self.world.now();
            if now >= end {
                let may = self.has_guest_forgotten() || self.are_places_forgotten();
                assert!(may, "an hour: {:#?}", self.unfinished());
                return (self.digest, self.tally);
            }
            self.change(now);
            self.inside(now);
            self.call(now);
            self.deliver_up(now);
            self.turn(now);
            self.outside();
            self.collect(now);
            self.deliver_down(now);
            // A SYN that comes twice may have begun a connection once more.
            let connects = self.world.peers.streams.values().any(|stream| !stream.open);
            let is_answered = !self.is_calm || self.writers.are_done(&self.datagrams);
            let is_over = is_answered && self.changes.is_empty() && self.pings.are_asked();
            let is_over = is_over && !self.rates.has_waiting();
            if self.unfinished().is_empty() && !connects && is_over {
                return self.conclude();
            }
            // Applications look about them every ten milliseconds.
            let tick = now.plus_millis(10);
            let up = self.up.next().filter(|_| !self.is_held_up());
            let waits = [up, self.down.next(), self.world.wait().0, Some(tick)];
            let next = waits.into_iter().flatten().min().unwrap_or(tick);
            self.world.clock.move_to(next);
        }
    }

    /// What the guest does: its applications, then its stacks.
    fn inside(&mut self, now: Instant) {
        let began = self.began;
        for (index, app) in (0..).zip(&mut self.apps) {
            let client = &mut self.clients[usize::from(index)];
            if matches!(client, Client::Due) && now >= began.plus_millis(app.start_ms) {
                let is_denied = self.rules.denied.contains(&index);
                if let Some(words) = &app.words {
                    let name = words.name().filter(|_| self.dice.one_of(800));
                    let elsewhere = |dice: &mut Dice| {
                        lie::pick([&PUBLIC[..], &MEANT][dice.below(2) as usize], dice)
                    };
                    app.to.set_ip(self.names.somewhere(name, elsewhere));
                }
                app.denied = is_denied.then_some(Denied::Refused { before: false });
                app.ask(&mut self.names);
                *client = Client::new(index, app, &mut self.guest, &mut self.dice);
            }
            match client {
                Client::Smol(handle) => {
                    smol(app, self.guest.tcp(*handle), (now, &mut self.dice, &self.names))
                }
                Client::Plain(plain) => {
                    if let Some(reset) = by_plain(app, plain, (now, &mut self.dice, &self.names)) {
                        self.up.send(now, reset);
                    }
                    plain.poll(now).into_iter().for_each(|frame| self.up.send(now, frame));
                }
                Client::Nobody | Client::Silence | Client::Due => {}
            }
        }
        self.ask();
        self.writers.serve(&mut self.guest);
        let own = self.names.frame().into_iter().chain(self.pings.frames(now));
        own.for_each(|frame| self.up.send(now, frame));
        self.guest.poll(now);
        for frame in self.guest.port.leaving.drain(..) {
            self.up.send(now, frame);
        }
    }

    /// Sends a datagram now and then, and checks those that come back.
    fn ask(&mut self) {
        let udp = &mut self.udp;
        let socket = self.guest.udp(udp.socket);
        if udp.left > 0 && self.dice.one_of(100) {
            udp.left -= 1;
            let len = self.dice.between(1, 1200) as usize;
            let data = Pattern::new(self.dice.draw()).take(len);
            let outside = OUTSIDES[self.dice.below(2) as usize];
            let to = if self.dice.one_of(500) { outside } else { gateway(outside) };
            if socket.send_slice(&data, SocketAddr::new(to, ECHO_PORT)).is_ok() {
                udp.sent.push(data);
            }
        }
        while let Ok((data, _)) = socket.recv() {
            assert!(udp.sent.iter().any(|sent| sent == data), "an answer to no question");
            udp.answered += 1;
        }
    }

    /// Who wants something of the guest.
    fn call(&mut self, now: Instant) {
        let (world, when) = (&mut self.world, (now, self.began));
        for app in &mut self.apps {
            let Some(call) = app.call.as_mut().filter(|call| call.is_due(now, self.began)) else {
                continue;
            };
            let (may, is_full) = (self.rules.may_come(app.to.ip()), self.caps.refuses_call(world));
            self.caps.refused_calls += u64::from(may && is_full);
            if let Some(flow) = call.make(when, (app.to, may, !is_full), &mut world.engine) {
                world.peers.came(flow, app.to);
            }
        }
        self.writers.write(world, &self.rules, &mut self.datagrams);
    }

    /// Frames that arrive from the guest.
    fn deliver_up(&mut self, now: Instant) {
        while !self.is_held_up()
            && let Some(frame) = self.up.receive(now)
        {
            self.note(&frame);
            if !self.world.push(&frame) {
                break; // lost, as on a ring that stays full
            }
            self.rates.pushed(frame);
            if self.caps.are_small() {
                self.turn(now);
            }
        }
    }

    /// Whether the guest's next frame has to wait, so that they come one a turn.
    fn is_held_up(&self) -> bool {
        self.caps.are_small() && self.rates.has_waiting()
    }

    /// The engine does what it can, and every model hears the frames that it has taken.
    pub(super) fn turn(&mut self, now: Instant) {
        self.caps.begin(&self.world);
        let before = self.world.peers.log.len();
        self.world.run();
        let heard = self.rates.heard(now, &self.world);
        self.datagrams.heard(now, (&heard, &self.world.peers.log[before..]), &self.world);
        for frame in heard {
            self.pings.heard(now, &frame);
            let fate = match self.caps.are_small() {
                true => self.caps.fate(&self.world, self.pings.refused),
                false => Fate::Other,
            };
            self.names.heard(now, &frame, fate == Fate::Crowded);
            if fate != Fate::Other {
                self.note_place(&frame, fate == Fate::Crowded);
            }
            if fate != Fate::Crowded {
                self.hear(now, &frame);
            }
        }
        self.rates.look(now, &self.world);
        self.caps.check(&self.world, self.rates.is_closed(now) || self.world.stalled);
        self.check_calls(now);
        self.check_words(now);
        self.check_lines(now, before);
        self.names.check_visits(&self.world.peers.log);
    }

    /// What the outside does.
    fn outside(&mut self) {
        let now = self.world.now();
        let indices: Vec<u32> = self.world.peers.streams.keys().copied().collect();
        for index in indices {
            if self.world.peers.stream(index).open {
                self.serve(index, now);
            } else {
                self.answer_connect(index, now);
            }
        }
        self.pings.serve(now, &mut self.world);
        self.answer_datagrams(now);
        self.world.run();
        for stream in &mut self.world.peers.ended {
            if is_visited(address(stream.to)) {
                continue;
            }
            let app = &mut self.apps[usize::from(number(address(stream.to)))];
            app.arrive(&core::mem::take(&mut stream.received));
        }
    }

    /// What becomes of a connect, if that is known by now.
    fn answer_connect(&mut self, index: u32, now: Instant) {
        let stream = self.world.peers.stream(index);
        let (to, flow) = (stream.to, stream.id);
        if is_visited(address(to)) {
            self.world.peers.refuse(index, Refusal::Refused, &mut self.world.engine, now);
            return;
        }
        let app = &self.apps[usize::from(number(address(to)))];
        let may = app.words.as_ref().map_or(app.denied.is_none(), |words| words.may_pass().0);
        assert!(may, "policy denies {app:#?}");
        let since = *self.connecting.entry(flow).or_insert(now);
        assert!(
            now < timer_at(since, limits::TCP_CONNECT_MS_MAX),
            "{flow:?} connects since {since:?}"
        );
        if now < since.plus_millis(app.answer_ms) || !self.dice.one_of(300) {
            return;
        }
        let (peers, engine) = (&mut self.world.peers, &mut self.world.engine);
        match app.ending {
            Ending::Refused(refusal) => peers.refuse(index, refusal, engine, now),
            Ending::ResetEarly => peers.reset(index, engine, now),
            Ending::Unanswered => {}
            Ending::Close
            | Ending::OutsideReset
            | Ending::FinishThenReset
            | Ending::GuestReset
            | Ending::Stuck => peers.accept(index, engine, now),
            Ending::NotListening | Ending::Deaf => panic!("the guest does not call {to:?}"),
        }
    }

    /// What the host's socket at `index` does, which is connected.
    fn serve(&mut self, index: u32, now: Instant) {
        let stream = self.world.peers.stream(index);
        let app = &mut self.apps[usize::from(number(address(stream.to)))];
        let received = core::mem::take(&mut stream.received);
        app.arrive(&received);
        if let Some(line) = &mut app.line {
            for message in line.take(&received) {
                let heard = (now, stream.id);
                let reply = self.names.hear(heard, &message, &mut self.world.engine);
                line.replied += usize::from(reply.is_some());
                stream.to_give.extend(reply.iter().flat_map(|reply| framed(reply)));
            }
        }
        if app.outside_takes(now) && self.dice.one_of(app.up.appetite) {
            stream.room = stream.room.max(app.up.gulp as usize);
        }
        if stream.to_give.len() < 20_000 {
            stream.to_give.extend(app.down.write(app.down.spurt as usize));
        }
        let has_said = app.down.is_written() && app.line.as_ref().is_none_or(Line::is_replied);
        stream.finishes |= has_said && app.outside_finishes(stream.guest_finished);
        if app.rings() {
            if app.ending == Ending::ResetEarly && self.dice.one_of(300) {
                self.world.peers.reset(index, &mut self.world.engine, now);
            }
            return;
        }
        let is_due = match app.ending {
            Ending::OutsideReset => true,
            Ending::ResetEarly => app.call.is_some(),
            Ending::FinishThenReset => stream.finishes && stream.to_give.is_empty(),
            Ending::Close
            | Ending::GuestReset
            | Ending::Refused(_)
            | Ending::Unanswered
            | Ending::Stuck
            | Ending::NotListening
            | Ending::Deaf => false,
        };
        if is_due && app.is_at_reset() {
            self.world.peers.reset(index, &mut self.world.engine, now);
        }
    }

    /// Names are answered somehow; other datagrams are echoed, or fail.
    fn answer_datagrams(&mut self, now: Instant) {
        let engine = &mut self.world.engine;
        let mut answers = vec![];
        for Reply { flow, is_on_line, message } in self.names.answers(now, engine) {
            if !is_on_line {
                answers.push((flow, message));
            } else if let Some(stream) = self.world.peers.streams.get_mut(&flow.index) {
                assert_eq!(stream.id, flow, "a connection ends before it is answered");
                let app = &mut self.apps[usize::from(number(address(stream.to)))];
                app.line.iter_mut().for_each(|line| line.replied += 1);
                stream.to_give.extend(framed(&message));
            }
        }
        for flow in self.world.peers.datagrams.values_mut() {
            if self.writers.take(flow) {
                continue;
            }
            for data in flow.sent.drain(..) {
                match flow.to {
                    Outside::Names(_) => {
                        let reply = self.names.hear((now, flow.id), &data, engine);
                        answers.extend(reply.map(|reply| (flow.id, reply)));
                    }
                    Outside::Remote(to) if is_visited(to) => {}
                    Outside::Remote(to) | Outside::HostLoopback(to) => {
                        let times = [0, 0, 0, 2, 1, 1, 1, 1, 1, 1][self.dice.below(10) as usize];
                        answers.extend(core::iter::repeat_n((flow.id, data), times));
                        if times == 0 && self.dice.one_of(700) {
                            let refusal = REFUSALS[self.dice.below(8) as usize];
                            engine.handle(now, Event::DatagramFailed { flow: flow.id, refusal });
                            self.signs.failed(to, refusal);
                        }
                    }
                }
            }
        }
        for (flow, data) in answers {
            if engine.can_deliver(now) {
                engine.deliver(now, flow, &data);
                self.datagrams.delivered(now, flow);
            }
        }
    }

    /// Takes the frames for the guest, unless it stalls.
    fn collect(&mut self, now: Instant) {
        if self.stalls > 0 && self.dice.one_of(20) {
            self.stalls -= 1;
            self.stalled_until = now.plus_millis(self.dice.below(1000));
        }
        self.world.stalled = now < self.stalled_until;
        self.world.run();
        self.rates.look(now, &self.world);
        self.rates.check(now, &self.world);
        self.world.peers.log.clear();
        if self.world.stalled {
            return;
        }
        self.rates.sent();
        self.world.records.clear();
        for frame in core::mem::take(&mut self.world.raw) {
            self.note(&frame);
            self.down.send(now, frame);
        }
        self.note_signs();
    }

    fn note_signs(&mut self) {
        for seen in self.world.inbox.drain(..) {
            if let Some(segment) = seen.tcp()
                && is_published(segment.ports.1)
            {
                let app = &mut self.apps[usize::from(segment.ports.1 - PUBLISHED)];
                app.call.as_mut().expect("because it is called").note(segment);
            }
            self.signs.note(&seen);
            self.writers.note(&seen);
            self.names.note(&seen);
            self.pings.note(&seen);
        }
    }

    /// Frames that arrive at the guest.
    fn deliver_down(&mut self, now: Instant) {
        while let Some(frame) = self.down.receive(now) {
            // Damaged ones are no longer what a strict reader takes.
            let Ok(seen) = Seen::read(&frame) else { continue };
            if is_for_names(&seen) || seen.piece().is_some() {
                continue;
            }
            if let Message::Tcp(segment) = &seen.message
                && let Some(index) = index(segment.ports.1)
                && let Some(client @ (Client::Plain(_) | Client::Silence)) =
                    self.clients.get_mut(index)
            {
                if let Client::Plain(plain) = client
                    && (segment.ports.0 == plain.to.port() || plain.to.port() == 0)
                {
                    plain.receive(now, segment);
                }
            } else if let Message::Icmp(icmp) = &seen.message
                && let Some(about) = quoted(icmp)
                && about.protocol == protocol::TCP
                && !is_visited(about.to)
                && !limits::GATEWAY_PORTS.contains(&about.to.port())
            {
                self.give_up(about.to);
            } else if !self.is_third(&seen) {
                self.guest.port.arrived.push_back(frame);
            }
        }
    }

    /// The guest hears that its connect to `to` came to nothing.
    fn give_up(&mut self, to: SocketAddr) {
        let index = usize::from(number(to));
        self.apps[index].was_reset = true;
        match &mut self.clients[index] {
            Client::Smol(handle) => self.guest.tcp(*handle).abort(),
            Client::Plain(plain) => plain.reset = true,
            Client::Nobody | Client::Silence | Client::Due => panic!("nobody has called {to}"),
        }
    }

    /// Whether an acknowledgement comes for the third time again: smoltcp in the guest may forget
    /// its FIN then, as the engine's would (it has nudges against that).
    fn is_third(&mut self, seen: &Seen) -> bool {
        let Some(segment) = seen.tcp() else { return false };
        let (last, times) = self.repeated.entry(segment.ports.1).or_insert((segment.clone(), 0));
        let is_pure = segment.flags == ACK && segment.payload.is_empty();
        *times = if last == segment && is_pure { *times + 1 } else { 1 };
        last.clone_from(segment);
        *times > 3
    }

    fn note(&mut self, frame: &[u8]) {
        let now = self.world.now().as_micros().to_le_bytes();
        for byte in now.iter().chain(frame) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The connections that have not come to their end.
    pub(super) fn unfinished(&self) -> Vec<&App> {
        let ended = |app: &App, end: End| {
            let mut all = self.world.peers.ended.iter();
            all.any(|s| address(s.to) == app.to && s.end == Some(end))
        };
        let is_over = |app: &App| app.call.as_ref().is_some_and(Call::is_over);
        let has_gone = |app: &App| app.call.is_some() && ended(app, End::Outside);
        let is_done = |app: &App| match app.ending {
            _ if app.is_muddled() => true,
            _ if is_over(app) || app.denied == Some(Denied::Ended) => true,
            _ if app.denied.is_some() => app.was_reset,
            Ending::ResetEarly if app.call.is_some() => has_gone(app),
            Ending::Close => {
                let is_answered = app.line.as_ref().is_none_or(Line::is_answered);
                let has_arrived = app.up.has_arrived() && app.down.has_arrived();
                has_arrived && is_answered && ended(app, End::Close)
            }
            Ending::OutsideReset | Ending::FinishThenReset => ended(app, End::Outside),
            Ending::Stuck | Ending::NotListening | Ending::Deaf => ended(app, End::Reset),
            Ending::GuestReset | Ending::Refused(_) | Ending::ResetEarly | Ending::Unanswered => {
                app.was_reset
            }
        };
        self.apps.iter().filter(|app| !is_done(app)).collect()
    }

    /// Whether smoltcp in the guest has something unacknowledged and no timer to repeat it: it has
    /// the gaps that the engine closes around its own. Nobody but the guest could go on then.
    fn has_guest_forgotten(&mut self) -> bool {
        let now = self.world.now();
        let waiting: Vec<SocketAddr> = self.unfinished().iter().map(|app| app.to).collect();
        let sleeps = self.guest.next(now).is_none_or(|at| at > now.plus_millis(RUN_MS_MAX));
        sleeps
            && self.apps.iter().zip(&self.clients).filter(|(app, _)| waiting.contains(&app.to)).all(
                |(_, client)| match client {
                    Client::Plain(_) | Client::Nobody | Client::Silence | Client::Due => false,
                    Client::Smol(handle) => {
                        let socket = self.guest.tcp(*handle);
                        let fin = matches!(
                            socket.state(),
                            State::FinWait1 | State::Closing | State::LastAck
                        );
                        fin || socket.send_queue() > 0
                    }
                },
            )
    }

    /// Whether those who are left want to call and find no place, of which one has a connection
    /// that the guest has reset, and the link has lost that: the engine keeps it for two hours.
    fn are_places_forgotten(&self) -> bool {
        let unfinished = self.unfinished();
        let has_gone = |app: &App| app.ending == Ending::GuestReset && app.was_reset;
        let is_there = |app: &App| {
            let mut streams = self.world.peers.streams.values();
            streams.any(|stream| address(stream.to) == app.to)
        };
        let waits = |app: &&App| app.call.as_ref().is_some_and(Call::is_to_be_made);
        self.caps.refuses_call(&self.world)
            && unfinished.iter().all(waits)
            && self.apps.iter().any(|app| has_gone(app) && is_there(app))
    }

    /// Answers that come when nobody waits for them any more, and the end of what is known by them.
    fn conclude_names(&mut self) {
        let now = self.world.now();
        for Reply { flow, is_on_line, message } in self.names.answers(now, &mut self.world.engine) {
            assert!(!is_on_line, "a connection ends before it is answered");
            self.world.engine.deliver(now, flow, &message);
        }
        self.world.run();
        assert!(self.world.inbox.is_empty(), "an answer on a flow that has ended");
        self.world.advance(BINDING_SECONDS_MAX * 1000);
        self.names.check_bindings(self.world.now(), &self.world.engine);
        assert_eq!(self.world.engine.bindings(self.world.now()).count(), 0, "it is forgotten");
    }

    /// Everybody falls silent; nothing may be left, and every end is the one that was meant.
    fn conclude(mut self) -> (u64, Tally) {
        self.world.stalled = false;
        self.world.advance(SILENCE_MS);
        assert_eq!(self.world.peers.streams.len() + self.world.peers.datagrams.len(), 0);
        assert_eq!(self.world.wait().0, None, "nothing is left");
        let now = self.world.now();
        self.pings.forget_pieces(now, true);
        self.note_signs();
        self.pings.answer(now, &mut self.world);
        self.conclude_names();
        let counters = self.world.counters();
        let lost = counters.dropped(Drop::AnswerLost);
        assert!(self.has_stalls || lost == 0, "{lost} answers are lost where the guest takes all");
        self.signs.conclude(&self.apps, lost);
        self.pings.conclude(lost);
        let refused = self.pings.refused + self.caps.refused;
        assert_eq!(counters.dropped(Drop::FlowsFull), refused, "refused at a cap");
        for (app, client) in self.apps.iter().zip(&mut self.clients) {
            let streams = self.world.peers.ended.iter();
            for stream in streams.filter(|s| address(s.to) == app.to) {
                let is_clean = stream.end == Some(End::Close)
                    || (stream.guest_finished && app.ending != Ending::Stuck);
                assert!(
                    !is_clean || app.ending == Ending::Close,
                    "a reset that looks clean: {app:#?}"
                );
            }
            let finished = match client {
                Client::Smol(handle) => {
                    self.guest.tcp(*handle).recv(|_| (0, ())) == Err(RecvError::Finished)
                }
                Client::Plain(plain) => plain.finished,
                Client::Nobody | Client::Silence | Client::Due => false,
            };
            let may = matches!(app.ending, Ending::Close | Ending::FinishThenReset);
            assert!(!finished || may, "a reset that looks clean: {app:#?}");
        }
        for app in &self.apps {
            *self.tally.entry(app.story()).or_insert(0) += 1;
        }
        self.tally.append(&mut self.pings.tally);
        for (story, count) in self.caps.stories().into_iter().chain(self.datagrams.stories()) {
            *self.tally.entry(story.to_owned()).or_insert(0) += count as u32;
        }
        for story in self.rates.stories(self.caps.are_small()) {
            *self.tally.entry(story.to_owned()).or_insert(0) += 1;
        }
        (self.digest, self.tally)
    }
}

/// Whether `seen` is for neither stack of the guest, but for who asks for names.
fn is_for_names(seen: &Seen) -> bool {
    match &seen.message {
        Message::Udp { ports, .. } => is_own(ports.1),
        Message::Tcp(segment) => is_own(segment.ports.1),
        Message::Arp { .. } | Message::Icmp(_) | Message::Piece(_) => false,
    }
}

/// Where `outside` is, as the guest says.
pub(crate) fn address(outside: Outside) -> SocketAddr {
    match outside {
        Outside::Remote(to) | Outside::HostLoopback(to) | Outside::Names(to) => to,
    }
}
