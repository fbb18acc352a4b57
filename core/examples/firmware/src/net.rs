//! smoltcp between two frame rings: what a guest's network stack is to its card.
//!
//! Owns the interface and its streams; must not know what machine this is, but for its clock and
//! its alarm.

use core::future::poll_fn;
use core::net::SocketAddr;
use core::task::Poll;

use sluicegate_core::{Consumer, FrameRing, Offload, Producer};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::board::{self, Told};

/// Bytes of each ring.
const RING_BYTES: usize = 16 * 1024;
/// Bytes of a stream's buffer, each way.
const STREAM_BYTES: usize = 8 * 1024;
/// How long a stream waits for the other side.
const PATIENCE: Duration = Duration::from_secs(30);
const LOCAL_PORT: u16 = 49_152;

/// A ring in memory of this image.
pub type Ring = FrameRing<[u8; RING_BYTES]>;

/// A ring for frames of this board's card.
pub fn ring() -> Ring {
    FrameRing::with_frame_max([0; RING_BYTES], board::FRAME_BYTES_MAX)
}

/// The memory of one stream.
pub struct StreamMemory([u8; STREAM_BYTES], [u8; STREAM_BYTES]);

impl StreamMemory {
    /// Memory that no stream has.
    pub const NEW: Self = Self([0; STREAM_BYTES], [0; STREAM_BYTES]);
}

/// The ends of the rings that belong to the stack.
struct Link<'r> {
    frames: Consumer<&'r Ring>,
    out: Producer<&'r Ring>,
}

struct Received<'l, 'r>(&'l Consumer<&'r Ring>, sluicegate_core::Record);
struct Sent<'l, 'r>(&'l mut Producer<&'r Ring>);

impl phy::RxToken for Received<'_, '_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0.bytes(&self.1))
    }
}

impl phy::TxToken for Sent<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let space = self.0.reserve(len).expect("room, because the token was given with some");
        let result = write(space);
        self.0.commit(len, Offload::NONE);
        result
    }
}

impl<'r> Device for Link<'r> {
    type RxToken<'l>
        = Received<'l, 'r>
    where
        Self: 'l;
    type TxToken<'l>
        = Sent<'l, 'r>
    where
        Self: 'l;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_, 'r>, Sent<'_, 'r>)> {
        if self.out.room() < board::FRAME_BYTES_MAX {
            return None;
        }
        let record = self.frames.read()?;
        Some((Received(&self.frames, record), Sent(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_, 'r>> {
        (self.out.room() >= board::FRAME_BYTES_MAX).then_some(Sent(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = board::FRAME_BYTES_MAX;
        capabilities
    }
}

/// The stack of this guest, with one stream at a time.
pub struct Net<'a> {
    interface: Interface,
    sockets: SocketSet<'a>,
    stream: SocketHandle,
    link: Link<'a>,
}

impl<'a> Net<'a> {
    /// A stack that has the addresses it was `told`, between the ends of two rings.
    pub fn new(
        (told, ipv4, ipv6): &Told,
        (frames, out): (Consumer<&'a Ring>, Producer<&'a Ring>),
        memory: &'a mut StreamMemory,
        storage: &'a mut [SocketStorage<'a>; 1],
    ) -> Self {
        let mut link = Link { frames, out };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(told.mac)));
        config.random_seed = board::now_us();
        let mut interface = Interface::new(config, &mut link, now());
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ipv4.address.into(), ipv4.prefix_bits)).ok();
            addresses.push(IpCidr::new(ipv6.address.into(), ipv6.prefix_bits)).ok();
        });
        interface.routes_mut().add_default_ipv4_route(ipv4.gateway).ok();
        interface.routes_mut().add_default_ipv6_route(ipv6.gateway).ok();
        let StreamMemory(receive, send) = memory;
        let mut socket =
            Socket::new(SocketBuffer::new(&mut receive[..]), SocketBuffer::new(&mut send[..]));
        socket.set_timeout(Some(PATIENCE));
        let mut sockets = SocketSet::new(&mut storage[..]);
        let stream = sockets.add(socket);
        Self { interface, sockets, stream, link }
    }

    /// Connects to `to`.
    pub async fn connect(&mut self, to: SocketAddr) -> Result<(), &'static str> {
        let socket = self.sockets.get_mut::<Socket>(self.stream);
        socket.abort();
        socket
            .connect(self.interface.context(), (to.ip(), to.port()), LOCAL_PORT)
            .map_err(|_| "no way to connect")?;
        self.opened().await
    }

    /// Waits for somebody who connects to `port`.
    pub async fn accept(&mut self, port: u16) -> Result<(), &'static str> {
        let socket = self.sockets.get_mut::<Socket>(self.stream);
        socket.abort();
        socket.listen(port).map_err(|_| "no such port to listen on")?;
        self.opened().await
    }

    async fn opened(&mut self) -> Result<(), &'static str> {
        let opened = |socket: &mut Socket| match socket.state() {
            State::Closed => Some(Err("refused, or no answer")),
            _ => socket.may_send().then_some(Ok(())),
        };
        self.until(opened).await
    }

    /// Sends all of `bytes`.
    pub async fn send(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        self.until(|socket| {
            let Ok(sent) = socket.send_slice(bytes) else { return Some(Err("closed")) };
            bytes = &bytes[sent..];
            bytes.is_empty().then_some(Ok(()))
        })
        .await
    }

    /// Bytes that come next, up to `room`; none: the other side has finished.
    pub async fn receive(&mut self, room: &mut [u8]) -> usize {
        self.until(|socket| match socket.recv_slice(room) {
            Ok(0) => (!socket.may_recv()).then_some(0),
            Ok(len) => Some(len),
            Err(_) => Some(0),
        })
        .await
    }

    /// Finishes, and waits until the other side has it.
    pub async fn close(&mut self) {
        self.sockets.get_mut::<Socket>(self.stream).close();
        self.until(|socket| {
            matches!(socket.state(), State::Closed | State::TimeWait | State::FinWait2)
                .then_some(())
        })
        .await;
    }

    /// Lets the stack work, and sleep, until `look` finds what it looks for.
    async fn until<T>(&mut self, mut look: impl FnMut(&mut Socket) -> Option<T>) -> T {
        poll_fn(|cx| {
            self.link.frames.register(cx.waker());
            self.interface.poll(now(), &mut self.link, &mut self.sockets);
            let found = look(self.sockets.get_mut(self.stream));
            if found.is_some() {
                self.interface.poll(now(), &mut self.link, &mut self.sockets);
            }
            self.link.frames.release();
            self.link.out.flush();
            if let Some(found) = found {
                return Poll::Ready(found);
            }
            if self.link.frames.poll_ready(cx).is_ready() {
                // Whatever kept them there, the card has its turn first: it alone makes room.
                cx.waker().wake_by_ref();
            }
            let at = self.interface.poll_at(now(), &self.sockets);
            let at_us = at.map_or(u64::MAX, |at| at.total_micros().unsigned_abs());
            board::wake_at(at_us, cx.waker());
            Poll::Pending
        })
        .await
    }
}

fn now() -> Instant {
    Instant::from_micros(i64::try_from(board::now_us()).unwrap_or(i64::MAX))
}
