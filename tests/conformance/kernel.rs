//! Linux on real time, as the peer of a script: its own TCP at the other end of a TAP, with an
//! ordinary socket as the host's. Everything here is of the network namespace of the thread.

#![allow(clippy::disallowed_methods, reason = "Linux runs on the real clock")]

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sim::frame::{OUTSIDES, guest, protocol};
use sim::{Seen, Tcp};
use sluicegate_host::adapter::tap::Tap;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::play::Peer;
use super::read::Host;
use super::told::byte;

/// Bytes of a `struct virtio_net_hdr`: of zeros, for frames that are finished.
const VNET_HEADER_BYTES: usize = 10;
/// The host's socket has a receive buffer of half this and as much again for Linux's own accounts:
/// then its window is the engine's.
const BUFFER_BYTES: usize = 64 * 1024;
/// A connection that is asked whether it lives is silent for so long before: two hours of a script.
/// Timers of more than two seconds may be late by a quarter of one.
pub(crate) const KEEPALIVE_S: u64 = 2;
/// How long the host's socket may take to be what it was made to be.
const PATIENCE_MS: u64 = 500;
/// Between two looks at the host's socket.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// How the connection ended for the host's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The guest has finished.
    Finished,
    /// It was reset.
    Reset,
}

/// The guest's link, and the host's socket.
pub(crate) struct Kernel<'a> {
    tap: &'a Tap,
    to: SocketAddr,
    keeps_alive: bool,
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
    inbox: Vec<Tcp>,
    received: Vec<u8>,
    /// Bytes that the host takes yet.
    room: usize,
    sent: usize,
    end: Option<End>,
    has_finished: bool,
}

/// A TAP whose other end has the addresses outside, for the guest of [`sim::default_config`].
pub(crate) fn link() -> Tap {
    let tap = Tap::create("tap0", 1500).expect("because a new namespace has none of the name");
    let ends = sim::default_config().link;
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut batch = format!("link set lo up\nlink set tap0 address {}\n", mac(ends.gateway_mac));
    batch += "link set tap0 mtu 1500 up\n";
    for outside in OUTSIDES {
        let (guest, mac) = (guest(outside), mac(ends.guest_mac));
        let nodad = if outside.is_ipv4() { "" } else { "nodad" };
        batch += &format!("addr add {outside} dev tap0 {nodad}\n");
        // RFC 6298 2.4; Linux's own bound is 200 ms.
        batch += &format!("route add {guest} dev tap0 src {outside} rto_min 1s\n");
        batch += &format!("neigh add {guest} lladdr {mac} dev tap0 nud permanent\n");
    }
    let mut ip = Command::new("ip");
    let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip is there");
    let mut input = ip.stdin.take().expect("because it is a pipe");
    input.write_all(batch.as_bytes()).expect("because ip reads it");
    drop(input);
    assert!(ip.wait().expect("because it runs").success(), "ip takes:\n{batch}");
    tap
}

impl<'a> Kernel<'a> {
    /// `keeps_alive`: a silent connection is asked whether it lives.
    pub(crate) fn new(tap: &'a Tap, to: SocketAddr, keeps_alive: bool) -> Self {
        Self {
            tap,
            to,
            keeps_alive,
            listener: None,
            stream: None,
            inbox: vec![],
            received: vec![],
            room: usize::MAX,
            sent: 0,
            end: None,
            has_finished: false,
        }
    }

    fn listen(&mut self) -> std::io::Result<()> {
        self.stream = None;
        self.received.clear();
        (self.sent, self.end, self.has_finished) = (0, None, false);
        if self.listener.is_some() {
            return Ok(());
        }
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        // As RFC 6093 6 advises, and as we have it.
        socket.set_out_of_band_inline(true)?;
        socket.bind(&self.to.into())?;
        socket.listen(1)?;
        socket.set_nonblocking(true)?;
        self.listener = Some(socket.into());
        Ok(())
    }

    /// Takes the connection that is made, if there is one.
    fn accept(&mut self) -> std::io::Result<()> {
        let Some(listener) = self.listener.as_ref().filter(|_| self.stream.is_none()) else {
            return Ok(());
        };
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        if self.keeps_alive {
            let after = TcpKeepalive::new().with_time(Duration::from_secs(KEEPALIVE_S));
            SockRef::from(&stream).set_tcp_keepalive(&after)?;
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// The host takes what it has room for, and hears of the end.
    fn take(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 4096];
        while let Some(stream) = self.stream.as_mut().filter(|_| self.end.is_none()) {
            if self.room == 0 {
                if let Some(error) = stream.take_error()? {
                    self.end = reset(&error).then_some(End::Reset);
                }
                return Ok(());
            }
            let len = self.room.min(bytes.len());
            match stream.read(&mut bytes[..len]) {
                Ok(0) => self.end = Some(End::Finished),
                Ok(read) => {
                    self.room -= read;
                    self.received.extend(&bytes[..read]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if reset(&error) => self.end = Some(End::Reset),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads the frames that wait.
    fn read(&mut self) -> Result<(), String> {
        loop {
            let (mut header, mut frame) = ([0; VNET_HEADER_BYTES], vec![0; 2048]);
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut frame)];
            match rustix::io::readv(self.tap, &mut parts) {
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(format!("the TAP: {error}")),
                Ok(len) => frame.truncate(len.saturating_sub(VNET_HEADER_BYTES)),
            }
            let kind = (frame.get(12..14), frame.get(if self.to.is_ipv4() { 23 } else { 20 }));
            let ether: &[u8] = if self.to.is_ipv4() { &[0x08, 0x00] } else { &[0x86, 0xdd] };
            if kind == (Some(ether), Some(&protocol::TCP)) {
                self.inbox.extend(Seen::read(&frame)?.tcp().cloned());
            }
        }
    }

    /// What has happened meanwhile.
    fn look(&mut self) -> Result<(), String> {
        let told = |error: std::io::Error| format!("the host's socket: {error}");
        self.accept().map_err(told)?;
        self.take().map_err(told)?;
        self.read()
    }

    /// Whether it is so now, or soon.
    fn soon(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let end = Instant::now() + Duration::from_millis(PATIENCE_MS);
        while !is_so(self) && Instant::now() < end {
            self.wait(1)?;
        }
        Ok(is_so(self))
    }

    fn act(&mut self, host: Host) -> std::io::Result<()> {
        match (host, &mut self.stream) {
            (Host::Connects, _) => self.listen()?,
            (Host::Refuses, _) => self.listener = None,
            (Host::Takes(len), Some(_)) => self.room = self.room.saturating_add(len),
            (Host::Takes(len), None) => self.room = len,
            (Host::Sends(len), Some(stream)) => {
                let bytes: Vec<u8> = (self.sent..self.sent + len).map(byte).collect();
                self.sent += len;
                stream.write_all(&bytes)?;
            }
            (Host::Closes, Some(stream)) => {
                self.has_finished = true;
                stream.shutdown(Shutdown::Write)?;
            }
            (Host::Resets, stream) => {
                if let Some(stream) = stream.take() {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
                self.listener = None;
            }
            (Host::Sends(_) | Host::Closes, None) => return Err(ErrorKind::NotConnected.into()),
            (Host::Has(_) | Host::HasEnd | Host::WasReset | Host::HasClosed | Host::IsIdle, _) => {}
        }
        Ok(())
    }
}

fn reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

impl Peer for Kernel<'_> {
    const SLACK_MS: u64 = 150;
    const AT_ONCE_MS: u64 = 150;
    // Linux may be late with an acknowledgement by 40 ms.
    const QUIET_MS: u64 = 60;
    const GOES_ON: bool = true;

    fn send(&mut self, frames: &[Vec<u8>]) -> Result<(), String> {
        for frame in frames {
            let parts = [IoSlice::new(&[0; VNET_HEADER_BYTES]), IoSlice::new(frame)];
            rustix::io::writev(self.tap, &parts).map_err(|error| format!("the TAP: {error}"))?;
        }
        self.look()
    }

    fn wait(&mut self, ms: u64) -> Result<(), String> {
        let end = Instant::now() + Duration::from_millis(ms);
        loop {
            self.look()?;
            let left = end.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
            if left.is_zero() {
                return Ok(());
            }
            let left = Timespec::try_from(left).expect("because it is short");
            let mut waited = [PollFd::new(self.tap, PollFlags::IN)];
            match poll(&mut waited, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(format!("the TAP: {error}")),
            }
        }
    }

    fn inbox(&mut self) -> Result<Vec<Tcp>, String> {
        self.read()?;
        Ok(std::mem::take(&mut self.inbox))
    }

    fn host(&mut self, host: Host) -> Result<(), String> {
        if matches!(host, Host::Sends(_) | Host::Closes | Host::Resets) {
            self.soon(|kernel| kernel.stream.is_some())?;
        }
        self.act(host).map_err(|error| format!("the host's socket: {error}"))?;
        let holds = self.soon(|kernel| match host {
            Host::Has(len) => kernel.received.len() == len,
            Host::HasEnd => kernel.end == Some(End::Finished),
            Host::WasReset => kernel.end == Some(End::Reset),
            Host::HasClosed => kernel.end == Some(End::Finished) && kernel.has_finished,
            Host::IsIdle => kernel.stream.is_none(),
            Host::Connects | Host::Refuses | Host::Sends(_) | Host::Takes(_) => true,
            Host::Closes | Host::Resets => true,
        })?;
        let right = self.received.iter().enumerate().all(|(at, &found)| found == byte(at));
        if holds && right {
            return Ok(());
        }
        Err(format!("it has {} bytes, right: {right}; {:?}", self.received.len(), self.end))
    }
}
