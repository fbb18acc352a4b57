//! A guest's TCP/IP stack over its card: smoltcp, driven as an interrupt and a timer drive Linux's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint};

use crate::card::Card;
use crate::now;

/// Frames that are received before those that answer them are sent: Linux's budget of a poll.
const BUDGET: u32 = 64;
/// The longest sleep, for a stack that waits for nothing in particular.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The guest's stack.
pub struct Stack {
    interface: Interface,
    /// The guest's sockets.
    pub sockets: SocketSet<'static>,
    /// What it sends and receives by.
    pub card: Card,
    start: Instant,
}

impl Stack {
    /// A stack behind `card` with the address `mac` and `addresses`, each with the length of its
    /// network's prefix.
    #[must_use]
    pub fn new(mut card: Card, mac: [u8; 6], addresses: &[(IpAddr, u8)]) -> Self {
        let config = Config::new(EthernetAddress(mac).into());
        let mut interface = Interface::new(config, &mut card, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for (address, prefix) in addresses {
                list.push(IpCidr::new((*address).into(), *prefix)).expect("room for two");
            }
        });
        Self { interface, sockets: SocketSet::new(Vec::new()), card, start: now() }
    }

    /// Lets the stack work until `step`, which looks after the sockets, returns something.
    ///
    /// # Panics
    /// When that takes longer than `longest`, with `what` it was for.
    pub fn run<T>(
        &mut self,
        what: &str,
        longest: Duration,
        mut step: impl FnMut(&mut Interface, &mut SocketSet<'_>) -> Option<T>,
    ) -> T {
        let start = now();
        loop {
            let time = self.turn();
            if let Some(result) = step(&mut self.interface, &mut self.sockets) {
                return result;
            }
            assert!(start.elapsed() < longest, "{what} takes too long");
            match self.interface.poll_delay(time, &self.sockets) {
                Some(smoltcp::time::Duration::ZERO) => {
                    if !self.card.has_room() {
                        self.card.wait_for_room(SLEEP_MAX);
                    }
                }
                Some(delay) => self.card.wait(Duration::from(delay).min(SLEEP_MAX)),
                None => self.card.wait(SLEEP_MAX),
            }
        }
    }

    /// Sends what there is, and takes what is answered first: no timer of the stack's has the time
    /// to say anything again.
    ///
    /// # Panics
    /// When nothing is answered within `longest`.
    pub fn round(&mut self, longest: Duration) {
        self.turn();
        let start = now();
        while !self.card.receiver.is_ready() {
            assert!(start.elapsed() < longest, "nothing is answered");
            self.card.wait(longest);
        }
        self.turn();
    }

    /// Receives, answers and sends what there is.
    fn turn(&mut self) -> smoltcp::time::Instant {
        let micros = i64::try_from(self.start.elapsed().as_micros()).expect("a short test");
        let time = smoltcp::time::Instant::from_micros(micros);
        let Self { interface, sockets, card, .. } = self;
        interface.poll_maintenance(time);
        for _ in 0..BUDGET {
            let received = interface.poll_ingress_single(time, card, sockets);
            if matches!(received, PollIngressSingleResult::None) {
                break;
            }
        }
        while interface.poll_egress(time, card, sockets) != PollResult::None {}
        card.kick();
        time
    }

    /// A socket with `buffer_bytes` each way that connects from `port`.
    pub fn open(&mut self, to: SocketAddr, port: u16, buffer_bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let to = IpEndpoint::from(to);
        socket.connect(self.interface.context(), to, port).expect("a fresh socket");
        self.sockets.add(socket)
    }

    /// Lets a socket that was opened become connected.
    pub fn connect(&mut self, handle: SocketHandle, longest: Duration) {
        self.run("connecting", longest, |_, sockets| {
            let socket = sockets.get::<tcp::Socket>(handle);
            assert!(socket.is_open(), "the connection was refused");
            socket.may_send().then_some(())
        });
    }

    /// Gives a socket up, if it is open yet with a reset, which leaves before this returns.
    pub fn close(&mut self, handle: SocketHandle) {
        self.sockets.get_mut::<tcp::Socket>(handle).abort();
        self.turn();
        self.sockets.remove(handle);
    }
}
