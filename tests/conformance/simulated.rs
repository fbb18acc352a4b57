//! The engine on virtual time, as the peer of a script.

use sim::{Answer, End, Tcp, World};
use sluicegate_core::Refusal;

use super::play::Peer;
use super::read::Host;
use super::told::byte;

/// The engine, and a host that does as the script says.
pub(crate) struct Simulated<'a> {
    world: World<'a>,
    /// Bytes that the host's peer has sent.
    sent: usize,
}

impl<'a> Simulated<'a> {
    pub(crate) fn new(mut world: World<'a>) -> Self {
        world.peers.answer = Answer::Silence;
        Self { world, sent: 0 }
    }

    /// What has come of the guest is so many bytes, each in its place.
    fn has(&self, len: usize) -> Result<bool, String> {
        let peers = &self.world.peers;
        let stream = peers.streams.values().next().or(peers.ended.last());
        let received = stream.map_or(&[][..], |stream| &stream.received);
        let right = received.iter().enumerate().all(|(at, &found)| found == byte(at));
        if received.len() != len || !right {
            return Err(format!("it has {} bytes, right: {right}", received.len()));
        }
        Ok(true)
    }

    fn takes(&mut self, len: usize, live: usize) {
        if live == 0 {
            self.world.peers.room = len;
        } else {
            self.world.stream().room = self.world.stream().room.saturating_add(len);
            self.world.run();
        }
    }

    fn sends(&mut self, len: usize) {
        let bytes: Vec<u8> = (self.sent..self.sent + len).map(byte).collect();
        self.sent += len;
        self.world.give(&bytes);
    }
}

impl Peer for Simulated<'_> {
    const SLACK_MS: u64 = 2;
    const AT_ONCE_MS: u64 = 0;
    const QUIET_MS: u64 = 0;
    const GOES_ON: bool = false;

    fn send(&mut self, frames: &[Vec<u8>]) -> Result<(), String> {
        for frame in frames {
            assert!(self.world.push(frame), "the ring has room");
        }
        self.world.run();
        Ok(())
    }

    fn wait(&mut self, ms: u64) -> Result<(), String> {
        self.world.advance(ms);
        Ok(())
    }

    fn inbox(&mut self) -> Result<Vec<Tcp>, String> {
        let tcp = |seen: sim::Seen| {
            let tcp = seen.tcp().ok_or_else(|| format!("nobody expects {:?}", seen.message))?;
            Ok(tcp.clone())
        };
        self.world.inbox().into_iter().map(tcp).collect()
    }

    fn host(&mut self, host: Host) -> Result<(), String> {
        let live = self.world.peers.streams.len();
        let ended = self.world.peers.ended.last().and_then(|stream| stream.end);
        let needs = !matches!(
            host,
            Host::WasReset | Host::HasClosed | Host::IsIdle | Host::Has(_) | Host::Takes(_)
        );
        if needs && live != 1 {
            return Err(format!("the host has {live} sockets"));
        }
        match host {
            Host::Connects => self.world.accept(),
            Host::Refuses => self.world.refuse(Refusal::Refused),
            Host::Sends(len) => self.sends(len),
            Host::Takes(len) => self.takes(len, live),
            Host::Closes => self.world.finish(),
            Host::Resets => self.world.reset(),
            Host::Has(_) | Host::HasEnd | Host::WasReset | Host::HasClosed | Host::IsIdle => {}
        }
        let holds = match host {
            Host::Has(len) => self.has(len)?,
            Host::HasEnd => self.world.stream().guest_finished,
            Host::WasReset => live == 0 && ended == Some(End::Reset),
            Host::HasClosed => live == 0 && ended == Some(End::Close),
            Host::IsIdle => live == 0 && ended.is_none(),
            Host::Connects | Host::Refuses | Host::Sends(_) | Host::Takes(_) => true,
            Host::Closes | Host::Resets => true,
        };
        if holds { Ok(()) } else { Err(format!("{live} live sockets, ended {ended:?}")) }
    }
}
