//! A TAP interface as a guest's link, served by the driver thread itself.
//!
//! Owns the descriptor of one TAP interface and moves frames between it and the two rings:
//! `readv(2)` straight into reserved ring space, `writev(2)` straight from the ring's bytes,
//! nothing copied or allocated here. With offload, segments of up to 64 KiB cross at one call each,
//! whatever the interface's MTU, and nobody computes their checksums; without, long segments are
//! cut at the ring's end, headers made here, payloads where they are. Must not know addresses,
//! namespaces or the engine: the interface is made in the network namespace of the calling thread
//! (see [`crate::netns::within`]) and configured by others.
//!
//! The interface is not persistent: it vanishes, with its addresses and routes, when the
//! descriptor is closed, however the process ends.
//!
//! Two ioctls are all that a TAP needs, so they are made here with rustix instead of taking a crate
//! that brings its own set-up of interfaces and its own copies of frames.
//! `IFF_NAPI` was tried: a third less from host to guest, as each write is a poll of its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use sluicegate_core::limits::{ETHERNET_HEADER_BYTES, FRAME_BYTES_MAX};
use sluicegate_core::{Cut, FrameBudget, Offload, Record};

use super::vnet::{self, VNET_HEADER_BYTES};
use super::{GuestLink, LostFrames};
use crate::rings::{RingConsumer, RingProducer};

/// Bytes of an interface name, the terminating zero included (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;

/// `IFF_TAP`: whole Ethernet frames.
const TAP: u16 = 0x0002;
/// `IFF_NO_PI`: no four bytes of packet information in front.
const NO_PACKET_INFORMATION: u16 = 0x1000;
/// `IFF_VNET_HDR`: each frame follows a `struct virtio_net_hdr`.
const VNET_HEADER: u16 = 0x4000;
/// `IFF_TUN_EXCL`: make a new interface, never take over an existing one of the name.
const EXCLUSIVE: u16 = 0x8000;
const NEW_TAP: u16 = TAP | NO_PACKET_INFORMATION | VNET_HEADER | EXCLUSIVE;

/// What the interface may be told to leave unfinished (`TUN_F_*`): checksums, TCP segmentation
/// with and without congestion marks; and rows of UDP datagrams, which older kernels don't know.
const OFFLOAD_TCP: u32 = 0x01 | 0x02 | 0x04 | 0x08;
const OFFLOAD_UDP: u32 = 0x20 | 0x40;

/// A TAP interface.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    /// Bytes that frames have at most without offload: one more than the link allows, so that a
    /// frame that is too long is seen to be, not cut to size.
    frame_bytes_max: usize,
    offload: TapOffload,
    /// A frame of the ring to the guest that was read there, and what of it the kernel has yet to
    /// take.
    unsent: Option<(Record, Cut)>,
    lost: LostFrames,
}

/// What crosses an interface unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapOffload {
    /// Nothing: every frame is a finished one.
    Off,
    /// Checksums, and TCP segments of up to 64 KiB.
    Tcp,
    /// The same, and rows of UDP datagrams.
    TcpAndUdp,
}

/// What became of a frame that was written.
enum Written {
    /// The kernel has it.
    Whole,
    /// It is gone: the interface is down, or the kernel would not have it.
    Dropped,
    /// The kernel can take no frame now.
    NotNow,
}

impl Tap {
    /// Creates the interface `name` in the network namespace of the calling thread. `mtu` is the
    /// largest IP packet, in bytes, that the guest will send; setting it on the interface is the
    /// caller's part. Offload is off.
    ///
    /// # Errors
    /// `name` is no interface name or is in use, there is no `/dev/net/tun`, or the caller may not.
    pub fn create(name: &str, mtu: u16) -> io::Result<Self> {
        let mut request = InterfaceRequest::new(name, NEW_TAP)?;
        let device = rustix::fs::open(
            "/dev/net/tun",
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(explain_open)?;
        set_interface(device.as_fd(), &mut request).map_err(|error| explain_create(name, error))?;
        Ok(Self::from_device(device, mtu))
    }

    /// Takes over the descriptor of a TAP interface made elsewhere as [`Tap::create`] does; `mtu`
    /// as there.
    #[must_use]
    pub fn from_device(device: OwnedFd, mtu: u16) -> Self {
        Self {
            device,
            frame_bytes_max: ETHERNET_HEADER_BYTES + usize::from(mtu) + 1,
            offload: TapOffload::Off,
            unsent: None,
            lost: LostFrames::default(),
        }
    }

    /// Turns offload on, as far as the kernel has it: 64 KiB segments cross in one piece while the
    /// interface's MTU stays what it is, and checksums are not computed where nothing can be
    /// damaged on the way. Returns how far that is.
    pub fn turn_offload_on(&mut self) -> TapOffload {
        let kinds =
            [(OFFLOAD_TCP | OFFLOAD_UDP, TapOffload::TcpAndUdp), (OFFLOAD_TCP, TapOffload::Tcp)];
        let taken = kinds.into_iter().find(|(flags, _)| set_offload(&self.device, *flags).is_ok());
        self.offload = taken.map_or(TapOffload::Off, |(_, offload)| offload);
        self.offload
    }

    /// Bytes that a frame from the guest may have.
    fn read_bytes_max(&self) -> usize {
        match self.offload {
            TapOffload::Off => self.frame_bytes_max,
            TapOffload::Tcp | TapOffload::TcpAndUdp => FRAME_BYTES_MAX,
        }
    }

    /// Reads one frame: how many bytes it has, and what the guest says of it, if that is anything
    /// that was offered. `None`: none waits.
    fn read(&self, space: &mut [u8]) -> io::Result<Option<(usize, Option<Offload>)>> {
        let mut header = [0; VNET_HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(space)];
        match retry_on_intr(|| rustix::io::readv(&self.device, &mut parts)) {
            Ok(0) | Err(Errno::AGAIN | Errno::IO | Errno::NETDOWN) => Ok(None),
            Ok(bytes) => {
                let len = bytes.checked_sub(VNET_HEADER_BYTES);
                let offload = len.and_then(|_| vnet::read(&header).ok());
                Ok(Some((len.unwrap_or(0), offload)))
            }
            Err(error) => Err(explain_gone(error)),
        }
    }

    /// Whether a frame with `offload` goes as it is.
    fn passes(&self, frame: &[u8], offload: Offload) -> bool {
        match self.offload {
            TapOffload::Off => offload == Offload::NONE,
            TapOffload::Tcp => offload.segment_bytes == 0 || !vnet::is_udp(frame),
            TapOffload::TcpAndUdp => true,
        }
    }

    /// Writes what is left of a frame; `NotNow` leaves what the kernel did not take.
    fn send_rest(&self, frame: &[u8], offload: Offload, cut: &mut Cut) -> io::Result<Written> {
        if self.passes(frame, offload) {
            return self.write([&vnet::write(frame, offload), &[], frame]);
        }
        let mut whole = Written::Whole;
        let mut ahead = *cut;
        while let Some(piece) = ahead.next(frame) {
            match self.write([&[0; VNET_HEADER_BYTES], piece.headers(), piece.payload])? {
                Written::Whole => {}
                Written::Dropped => whole = Written::Dropped,
                Written::NotNow => return Ok(Written::NotNow),
            }
            *cut = ahead;
        }
        Ok(whole)
    }

    /// Writes one frame.
    fn write(&self, parts: [&[u8]; 3]) -> io::Result<Written> {
        let parts = parts.map(IoSlice::new);
        match retry_on_intr(|| rustix::io::writev(&self.device, &parts)) {
            Ok(_) => Ok(Written::Whole),
            Err(Errno::AGAIN) => Ok(Written::NotNow),
            // Down; out of memory; no frame that the kernel takes. Whoever needs it sends it again.
            Err(
                Errno::IO
                | Errno::NETDOWN
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::INVAL
                | Errno::MSGSIZE
                | Errno::TOOBIG,
            ) => Ok(Written::Dropped),
            Err(error) => Err(explain_gone(error)),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl GuestLink for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// # Cost
    /// One `readv(2)` a frame, and one that finds nothing.
    fn receive(
        &mut self,
        from_guest: &mut RingProducer,
        mut budget: FrameBudget,
    ) -> io::Result<bool> {
        while !budget.is_spent() {
            let Some(space) = from_guest.reserve(self.read_bytes_max()) else {
                return Ok(true);
            };
            let Some((bytes, offload)) = self.read(space)? else {
                return Ok(false);
            };
            budget.take(bytes);
            match offload {
                Some(offload) => from_guest.commit(bytes, offload),
                None => self.lost.short += 1,
            }
        }
        Ok(true)
    }

    /// # Cost
    /// One `writev(2)` a frame, in which the guest's kernel does its receive work.
    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        let next = |to_guest: &mut RingConsumer| {
            to_guest.read().map(|record| (record, Cut::new(record.len(), record.offload)))
        };
        while let Some((record, mut cut)) = self.unsent.take().or_else(|| next(to_guest)) {
            match self.send_rest(to_guest.bytes(&record), record.offload, &mut cut)? {
                Written::Whole => {}
                Written::Dropped => {
                    self.lost.link_full += 1;
                }
                Written::NotNow => {
                    self.unsent = Some((record, cut));
                    return Ok(true);
                }
            }
            to_guest.release();
        }
        Ok(false)
    }

    fn lost_frames(&self) -> LostFrames {
        self.lost
    }
}

/// `struct ifreq` as `TUNSETIFF` reads it: a name, flags, and the rest of the union.
#[repr(C)]
#[derive(Debug)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

impl InterfaceRequest {
    fn new(name: &str, flags: u16) -> io::Result<Self> {
        check_name(name)?;
        let mut request = Self { name: [0; NAME_BYTES], flags, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }
}

/// Checks that `name` can name an interface and is taken literally: the kernel expands a `%`.
///
/// # Errors
/// It is not; the message says what is.
pub fn check_name(name: &str) -> io::Result<()> {
    let literal = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    if (1..NAME_BYTES).contains(&name.len())
        && name.bytes().all(literal)
        && !matches!(name, "." | "..")
    {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?} is not an interface name: 1 to 15 visible ASCII characters but / : %"),
    ))
}

/// `TUNSETIFF`: binds the descriptor to a new interface.
fn set_interface(device: BorrowedFd<'_>, request: &mut InterfaceRequest) -> rustix::io::Result<()> {
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    // SAFETY: TUNSETIFF reads a `struct ifreq` and writes the name back into it. The request is at
    // least as large as one (40 bytes where pointers have 64 bits, 32 elsewhere), has its layout up
    // to the flags, and holds no bit pattern that the kernel could make invalid.
    #[allow(unsafe_code, reason = "the ioctl has no safe wrapper")]
    unsafe {
        let update = rustix::ioctl::Updater::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(device, update)
    }
}

/// `TUNSETOFFLOAD`: what the interface may leave unfinished.
fn set_offload(device: &OwnedFd, flags: u32) -> rustix::io::Result<()> {
    const TUNSETOFFLOAD: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u32>(b'T', 208);
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself, and writes nothing.
    #[allow(unsafe_code, reason = "the ioctl has no safe wrapper")]
    unsafe {
        let flags = usize::try_from(flags).unwrap_or(0);
        let setter = rustix::ioctl::IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags);
        rustix::ioctl::ioctl(device, setter)
    }
}

fn explain_open(error: Errno) -> io::Error {
    let advice = match error {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            "no TUN/TAP driver here: `modprobe tun`, or pass /dev/net/tun into the container"
        }
        Errno::ACCESS | Errno::PERM => {
            "this user may not open it: run as root, or `chmod 0666 /dev/net/tun`"
        }
        _ => "it cannot be opened",
    };
    explain(error, format!("/dev/net/tun: {advice}"))
}

fn explain_create(name: &str, error: Errno) -> io::Error {
    let what = match error {
        Errno::BUSY => format!("the network namespace already has an interface {name}"),
        Errno::PERM => {
            format!("this user may not make the interface {name}: it takes CAP_NET_ADMIN")
        }
        _ => format!("making the interface {name}"),
    };
    explain(error, what)
}

fn explain_gone(error: Errno) -> io::Error {
    match error {
        Errno::BADFD | Errno::NXIO | Errno::NODEV => {
            explain(error, "the guest's interface was deleted".to_owned())
        }
        _ => explain(error, "the guest's interface failed".to_owned()),
    }
}

/// An error of `error`'s kind that says more.
fn explain(error: Errno, what: String) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{what} ({error})"))
}

#[cfg(test)]
mod tests;
