//! The engine under frames and events in any order, beside connections that mean well.
//!
//! Those connections have ports that no other frame has, so each byte of theirs is known: what
//! arrives, at either end, is the beginning of what was said at the other, an end comes after all
//! of it, and what nobody has ended is whole when the story is over.

use core::net::SocketAddr;

use sluicegate_core::{
    Bucket, Config, Destination, Direction, FlowId, Inbound, Outside, Permission, Policy, Protocol,
    Protocols, Rate, Refusal, Rule,
};

use super::Bytes;
use crate::frame::{self, ETHERNET, OUTSIDES};
use crate::guest::{Plain, Script};
use crate::oracle::drops;
use crate::{Answer, Pattern, Room, Stream, World, default_config};

/// Things that happen in one story.
const STEPS_MAX: usize = 400;
/// Bytes of the longest frame that is made of a story's bytes.
const FRAME_BYTES: usize = 2000;
/// The first port of connections that mean well, at both ends.
const PORT: u16 = 0xee48;
/// How many there are at most.
const HONEST_MAX: u16 = 6;
/// The guest is asked what it has to say so often, in ms.
const TICK_MS: u64 = 500;
/// What is left comes within so many ticks of the story's end.
const TICKS_MAX: u32 = 400;

/// Frames that a guest may send, to be changed.
fn good_frames() -> Vec<Vec<u8>> {
    let link = default_config().link;
    let mut all = vec![
        frame::arp_request(link.guest_ipv4, link.gateway_ipv4),
        frame::solicit(link.guest_ipv6, link.gateway_ipv6),
    ];
    for outside in OUTSIDES {
        for port in [80, 443] {
            let to = SocketAddr::new(outside, port);
            let script = Script::new(to, 40_000);
            all.push(frame::tcp(to, &script.syn()));
            all.push(frame::tcp(to, &script.segment(frame::flag::ACK, b"word")));
            all.push(frame::tcp(to, &script.segment(frame::flag::ACK | frame::flag::FIN, b"")));
        }
        let to = SocketAddr::new(outside, 80);
        all.push(frame::udp(4000, to, b"a datagram"));
        all.push(frame::echo(outside, 7, 1, b"ping"));
        all.extend(frame::fragments(&frame::udp(4000, to, &[7; 900]), 5, 400));
    }
    all
}

/// A connection that means well: the guest's end, and what each side has said and heard.
struct Honest {
    end: Plain,
    /// Whom it is with, outside.
    with: SocketAddr,
    said: Pattern,
    heard: Pattern,
    /// The same of the other side.
    given: Pattern,
    taken: Pattern,
    /// Each side has said that it has finished.
    guest_finishes: bool,
    outside_finishes: bool,
    /// It was ended by somebody who may.
    is_ended: bool,
}

impl Honest {
    fn new(end: Plain, with: SocketAddr) -> Self {
        let [one, other] = [0, 1].map(|way| Pattern::new(u64::from(with.port()) * 2 + way));
        Self {
            end,
            with,
            said: one.clone(),
            taken: one,
            given: other.clone(),
            heard: other,
            guest_finishes: false,
            outside_finishes: false,
            is_ended: false,
        }
    }

    /// Looks at what has come at both ends.
    fn check(&mut self, stream: Option<&Stream>) {
        let news = self.end.read(usize::MAX);
        self.heard.check(&news);
        assert!(self.heard.len() <= self.given.len(), "the guest hears what nobody said");
        if self.end.finished {
            assert!(self.outside_finishes, "an end that nobody said");
            assert_eq!(self.heard.len(), self.given.len(), "an end before all has come");
        }
        self.is_ended |= self.end.reset;
        let Some(stream) = stream else { return };
        let known = usize::try_from(self.taken.len()).expect("because it is in memory");
        self.taken.check(stream.received.get(known..).expect("because none goes again"));
        assert!(self.taken.len() <= self.said.len(), "the outside hears what nobody said");
        if stream.guest_finished {
            assert!(self.guest_finishes, "an end that the guest did not say");
            assert_eq!(self.taken.len(), self.said.len(), "an end before all has come");
        }
    }

    fn is_whole(&self) -> bool {
        self.heard.len() == self.given.len() && self.taken.len() == self.said.len()
    }
}

/// One story, as far as it has come.
struct Story<'w, 'a> {
    world: &'w mut World<'a>,
    frames: Vec<Vec<u8>>,
    honest: Vec<Honest>,
    /// What the configuration was at first.
    config: Config,
}

/// Frames of the guest, changed or made up, and what the outside does, in any order, while
/// connections that mean well go on.
///
/// # Panics
/// If the engine breaks a rule, or one of them has other bytes than were said.
pub fn engine(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mode = bytes.one().unwrap_or(0);
    let mut room = Room::with(|config| {
        config.tcp_receive_bytes = 8192;
        config.tcp_send_bytes = 8192;
        if mode & 1 != 0 {
            config.intercepted_ports = [443].as_slice().try_into().expect("because it is one");
        }
        if mode & 2 != 0 {
            config.policy = by_name();
            config.keeps_names = true;
        }
    });
    let config = room.config.clone();
    let mut world = room.world();
    let mut story = Story { world: &mut world, frames: good_frames(), honest: vec![], config };
    for _ in 0..STEPS_MAX {
        if story.step(&mut bytes).is_none() {
            break;
        }
        story.relay();
    }
    story.end();
    world.advance(24 * 3600 * 1000);
    assert_eq!(world.wait().0, None, "all of it passes");
}

/// Everybody but who must say a name first, at the ports of names.
fn by_name() -> Policy {
    let mut policy = Policy::new(Permission::Allow, Permission::Allow);
    let ports = [80, 443].map(sluicegate_core::PortRange::single);
    let rule = |destination, action| Rule {
        direction: Some(Direction::Egress),
        destination,
        protocols: Protocols::of(&[Protocol::Tcp]),
        ports: &ports,
        action,
        strict: None,
    };
    for (destination, action) in [
        (Destination::Domain("evil.test"), Permission::Deny),
        (Destination::Domain("good.test"), Permission::Allow),
        (Destination::Any, Permission::Deny),
    ] {
        policy.push(&rule(destination, action)).expect("because there is room");
    }
    policy
}

impl Story<'_, '_> {
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        match bytes.one()? {
            kind @ 0..130 => {
                let frame = self.changed_frame(kind, bytes)?;
                self.send(&frame);
            }
            130..165 => {
                let len = bytes.number()? % FRAME_BYTES;
                let mut frame = self.frames.first()?.get(..12)?.to_vec();
                frame.extend(bytes.take(len));
                self.send(&frame);
            }
            165..185 => self.pass(bytes.number()? as u64),
            185..195 => {
                self.world.peers.answer = match bytes.one()? % 3 {
                    0 => Answer::Accept,
                    1 => Answer::Refuse(Refusal::Refused),
                    _ => Answer::Silence,
                };
            }
            195..207 => self.give(bytes.number()? % 5000),
            207..213 => self.finish_outside(),
            213..217 => self.world.stalled = !self.world.stalled,
            217..221 => {
                let live: Vec<u32> = self.world.peers.datagrams.keys().copied().collect();
                for index in live {
                    self.world.fail_datagram(index, Refusal::Refused);
                }
            }
            221..224 => self.connect(),
            224..227 => self.come_honestly(),
            227..235 => {
                let len = bytes.number()? % 5000;
                for one in self.honest.iter_mut().filter(|one| !one.guest_finishes) {
                    let said = one.said.take(len);
                    one.end.write(&said);
                }
            }
            235..238 => {
                let at = usize::from(bytes.one()?) % self.honest.len().max(1);
                if let Some(one) = self.honest.get_mut(at) {
                    one.guest_finishes = true;
                    one.end.finish();
                }
            }
            238..243 => self.come(bytes.one()?),
            243..248 => self.reload(bytes.one()?),
            248..251 => {
                if let Some(flow) = self.live(bytes.one()?) {
                    let now = self.world.now();
                    assert!(self.world.engine.end(now, flow), "{flow:?} is live");
                    self.is_ended(flow);
                    self.world.close_ended();
                }
            }
            251.. => {
                if let Some(flow) = self.live(bytes.one()?) {
                    self.is_ended(flow);
                    let now = self.world.now();
                    let peers = &mut self.world.peers;
                    if peers.stream(flow.index).open {
                        peers.reset(flow.index, &mut self.world.engine, now);
                    } else {
                        let refusal = Refusal::Refused;
                        peers.refuse(flow.index, refusal, &mut self.world.engine, now);
                    }
                    self.world.run();
                }
            }
        }
        Some(())
    }

    fn changed_frame(&self, kind: u8, bytes: &mut Bytes<'_>) -> Option<Vec<u8>> {
        let mut frame = self.frames.get(usize::from(kind) % self.frames.len())?.clone();
        let changes = bytes.one()?;
        for _ in 0..changes % 8 {
            let at = bytes.number()? % frame.len();
            *frame.get_mut(at)? = bytes.one()?;
        }
        if changes & 8 != 0 {
            frame.truncate(bytes.number()? % (frame.len() + 1));
        }
        // Most would die of their checksums.
        let is_ip = frame.get(ETHERNET).is_some_and(|byte| matches!(byte, 0x45 | 0x60));
        if changes & 16 != 0 && is_ip && frame.len() >= ETHERNET + 60 {
            frame::mend(&mut frame);
        }
        Some(frame)
    }

    /// Sends what means no good, unless it might be of a connection that does.
    fn send(&mut self, frame: &[u8]) {
        let ports = PORT..PORT + HONEST_MAX;
        let is_honest =
            |two: &[u8]| two.try_into().is_ok_and(|two| ports.contains(&u16::from_be_bytes(two)));
        let before = drops(&self.world.counters());
        if frame.windows(2).any(is_honest) || !self.world.push(frame) {
            return;
        }
        self.world.run();
        let now = self.world.now();
        let counted = drops(&self.world.counters()) - before;
        let waits = self.world.engine.is_paced(now);
        assert!(counted <= 1 || waits, "one frame is counted as {counted} drops");
    }

    /// Lets `ms` pass, in which the guest goes on.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.world.advance(TICK_MS);
            self.relay();
        }
        self.world.advance(ms % TICK_MS);
    }

    /// The guest takes what came, and says what follows.
    fn relay(&mut self) {
        loop {
            let mut sent = false;
            let now = self.world.now();
            for seen in self.world.inbox() {
                let Some(segment) = seen.tcp() else { continue };
                let of = |one: &&mut Honest| one.end.port == segment.ports.1;
                if let Some(one) = self.honest.iter_mut().find(of) {
                    one.end.receive(now, segment);
                }
            }
            for one in &mut self.honest {
                for frame in one.end.poll(now) {
                    sent |= self.world.push(&frame);
                }
            }
            self.look();
            if !sent {
                break;
            }
            self.world.run();
        }
        self.world.peers.log.clear();
        self.world.peers.ended.clear();
    }

    /// Looks at all that has come.
    fn look(&mut self) {
        let peers = &self.world.peers;
        // Where one was ended before its guest knew of it, that may have begun anew, with another
        // stream, in which what was said before is not said again.
        for one in self.honest.iter_mut().filter(|one| !one.is_ended) {
            let is_its = |stream: &&Stream| stream.to == Outside::Remote(one.with);
            let ended = peers.ended.iter().find(is_its);
            one.check(peers.streams.values().find(is_its).or(ended));
            one.is_ended |= ended.is_some_and(|stream| stream.end != Some(crate::End::Close));
        }
    }

    /// The other end of the next connection that means well, and its port.
    fn next(&self) -> Option<(SocketAddr, u16)> {
        let count = u16::try_from(self.honest.len()).ok().filter(|count| *count < HONEST_MAX)?;
        let outside = OUTSIDES[usize::from(count % 2)];
        Some((SocketAddr::new(outside, PORT + count), PORT + count))
    }

    fn connect(&mut self) {
        let Some((to, port)) = self.next() else { return };
        let shape = (1400, 20_000);
        self.honest.push(Honest::new(Plain::new(to, port, 0xffff_f000, shape), to));
    }

    /// Somebody calls the guest, who answers.
    fn come_honestly(&mut self) {
        let Some((peer, port)) = self.next() else { return };
        let call =
            Inbound { protocol: Protocol::Tcp, peer, guest_port: port, is_ipv6: peer.is_ipv6() };
        let now = self.world.now();
        let Ok(flow) = self.world.engine.open_inbound(now, &call) else { return };
        self.world.peers.came(flow, peer);
        self.honest.push(Honest::new(Plain::listen(port, 0x7fff_ffff, (1400, 20_000)), peer));
        self.world.run();
    }

    /// Somebody comes to a port where the guest may or may not be.
    fn come(&mut self, kind: u8) {
        let peer = SocketAddr::new(OUTSIDES[usize::from(kind & 1)], 5000);
        let protocol = if kind & 2 == 0 { Protocol::Tcp } else { Protocol::Udp };
        let call = Inbound { protocol, peer, guest_port: 40_000, is_ipv6: peer.is_ipv6() };
        let now = self.world.now();
        let Ok(flow) = self.world.engine.open_inbound(now, &call) else { return };
        if protocol == Protocol::Tcp {
            self.world.peers.came(flow, peer);
        } else {
            self.world.peers.came_without_connection(flow);
            if self.world.engine.can_deliver(now) {
                self.world.engine.deliver(now, flow, b"from outside");
            }
        }
        self.world.run();
    }

    /// Another configuration: as at first, nothing allowed, limited, or fewer flows.
    fn reload(&mut self, kind: u8) {
        let mut config = self.config.clone();
        match kind % 4 {
            0 => {}
            1 => config.policy = Policy::new(Permission::Deny, Permission::Deny),
            2 => {
                let bucket = Bucket { size: 3000, refill_ms: 100, one_time_burst: 0 };
                let rate = Rate { bandwidth: Some(bucket), ops: None };
                (config.from_guest_rate, config.to_guest_rate) = (Some(rate), Some(rate));
            }
            _ => (config.tcp_flows_max, config.udp_flows_max) = (2, 2),
        }
        let before = self.honest_streams();
        self.world.replace_config(&config).expect("because each is lower than at first");
        for with in before {
            self.ends_without_stream(with);
        }
    }

    /// With whom the live streams of connections that mean well are.
    fn honest_streams(&self) -> Vec<SocketAddr> {
        let streams = self.world.peers.streams.values();
        let with = streams.filter_map(|stream| match stream.to {
            Outside::Remote(with) => Some(with),
            Outside::HostLoopback(_) | Outside::Names(_) => None,
        });
        with.collect()
    }

    /// What has no stream any more was ended.
    fn ends_without_stream(&mut self, with: SocketAddr) {
        if !self.honest_streams().contains(&with) {
            self.honest.iter_mut().filter(|one| one.with == with).for_each(|one| {
                one.is_ended = true;
            });
        }
    }

    /// The live stream that `number` chooses, if there is any.
    fn live(&self, number: u8) -> Option<FlowId> {
        let streams = &self.world.peers.streams;
        let at = usize::from(number) % streams.len().max(1);
        streams.values().nth(at).map(|stream| stream.id)
    }

    /// Whoever has `flow` is ended by others.
    fn is_ended(&mut self, flow: FlowId) {
        let stream = &self.world.peers.streams[&flow.index];
        for one in self.honest.iter_mut().filter(|one| stream.to == Outside::Remote(one.with)) {
            one.is_ended = true;
        }
    }

    /// Everybody outside says `len` bytes more, each its own.
    fn give(&mut self, len: usize) {
        for stream in self.world.peers.streams.values_mut().filter(|stream| !stream.finishes) {
            let mut of = self.honest.iter_mut();
            let bytes = match of.find(|one| stream.to == Outside::Remote(one.with)) {
                Some(one) => one.given.take(len),
                None => Pattern::new(u64::from(stream.id.index) << 32).take(len),
            };
            stream.to_give.extend(bytes);
        }
        self.world.run();
    }

    fn finish_outside(&mut self) {
        for stream in self.world.peers.streams.values_mut() {
            stream.finishes = true;
            let mut of = self.honest.iter_mut();
            if let Some(one) = of.find(|one| stream.to == Outside::Remote(one.with)) {
                one.outside_finishes = true;
            }
        }
        self.world.run();
    }

    /// Nothing is in the way any more: what nobody has ended becomes whole.
    fn end(&mut self) {
        self.world.stalled = false;
        self.reload(0);
        let now = self.world.now();
        let silent = self.world.peers.streams.values().filter(|stream| !stream.open);
        for index in silent.map(|stream| stream.id.index).collect::<Vec<_>>() {
            self.world.peers.accept(index, &mut self.world.engine, now);
        }
        self.world.peers.answer = Answer::Accept;
        self.world.run();
        self.relay();
        for _ in 0..TICKS_MAX {
            if self.honest.iter().all(|one| one.is_ended || one.is_whole()) {
                break;
            }
            self.pass(TICK_MS);
        }
        for one in self.honest.iter().filter(|one| !one.is_ended) {
            assert!(one.is_whole(), "with {}: {:?}", one.with, one.end);
        }
        // The guest is gone.
        self.honest.clear();
        let streams = self.world.peers.streams.values_mut();
        streams.for_each(|stream| stream.finishes = true);
    }
}
