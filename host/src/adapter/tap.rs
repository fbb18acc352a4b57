//! A TAP interface as a guest's link, served by the driver thread itself.
//!
//! Owns the descriptor of one TAP interface and moves frames between it and the two rings:
//! `read(2)` straight into reserved ring space, `write(2)` straight from the ring's bytes, nothing
//! copied or allocated here. Must not know addresses, namespaces or the engine: the interface is
//! made in the network namespace of the calling thread (see [`crate::netns::within`]) and
//! configured by others.
//!
//! The interface is not persistent: it vanishes, with its addresses and routes, when the
//! descriptor is closed, however the process ends.
//!
//! One ioctl is all that a TAP needs, so it is made here with rustix instead of taking a crate that
//! brings its own set-up of interfaces and its own copies of frames. Offloads (`IFF_VNET_HDR`)
//! would change three places: the flags in `create`, and `read` and `write`.
//! `IFF_NAPI` was tried: a third less from host to guest, as each write is a poll of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use sluicegate_core::limits::ETHERNET_HEADER_BYTES;
use sluicegate_core::{Offload, Record};

use super::GuestLink;
use crate::rings::{RingConsumer, RingProducer};

/// Bytes of an interface name, the terminating zero included (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;

/// `IFF_TAP`: whole Ethernet frames.
const TAP: u16 = 0x0002;
/// `IFF_NO_PI`: no four bytes of packet information in front.
const NO_PACKET_INFORMATION: u16 = 0x1000;
/// `IFF_TUN_EXCL`: make a new interface, never take over an existing one of the name.
const EXCLUSIVE: u16 = 0x8000;

/// A TAP interface.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    /// Bytes read at most: one more than the link allows, so that a frame that is too long is seen
    /// to be, not cut to size.
    read_bytes_max: usize,
    /// A frame of the ring to the guest that was read there and not yet taken by the kernel.
    unsent: Option<Record>,
    dropped: Arc<AtomicU64>,
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
    /// caller's part.
    ///
    /// # Errors
    /// `name` is no interface name or is in use, there is no `/dev/net/tun`, or the caller may not.
    pub fn create(name: &str, mtu: u16) -> io::Result<Self> {
        let mut request = InterfaceRequest::new(name, TAP | NO_PACKET_INFORMATION | EXCLUSIVE)?;
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
            read_bytes_max: ETHERNET_HEADER_BYTES + usize::from(mtu) + 1,
            unsent: None,
            dropped: Arc::default(),
        }
    }

    /// The count of frames to the guest that the kernel would not take, kept up while the driver
    /// owns the link.
    #[must_use]
    pub fn dropped_frames(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Reads one frame; `None`: none waits.
    fn read(&self, space: &mut [u8]) -> io::Result<Option<usize>> {
        match retry_on_intr(|| rustix::io::read(&self.device, &mut *space)) {
            Ok(0) | Err(Errno::AGAIN | Errno::IO | Errno::NETDOWN) => Ok(None),
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(explain_gone(error)),
        }
    }

    /// Writes one frame.
    fn write(&self, frame: &[u8]) -> io::Result<Written> {
        match retry_on_intr(|| rustix::io::write(&self.device, frame)) {
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
    /// One `read(2)` a frame, and one that finds nothing.
    fn receive(&mut self, from_guest: &mut RingProducer, frames_max: u32) -> io::Result<bool> {
        for _ in 0..frames_max {
            let Some(space) = from_guest.reserve(self.read_bytes_max) else {
                return Ok(true);
            };
            let Some(bytes) = self.read(space)? else {
                return Ok(false);
            };
            from_guest.commit(bytes, Offload::NONE);
        }
        Ok(true)
    }

    /// # Cost
    /// One `write(2)` a frame, in which the guest's kernel does its receive work.
    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        while let Some(record) = self.unsent.take().or_else(|| to_guest.read()) {
            match self.write(to_guest.bytes(&record))? {
                Written::Whole => {}
                Written::Dropped => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Written::NotNow => {
                    self.unsent = Some(record);
                    return Ok(true);
                }
            }
            to_guest.release();
        }
        Ok(false)
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
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use sluicegate_core::FrameRing;

    use super::*;

    /// A link whose device is one end of a socket pair that keeps frames apart, and the other end.
    fn tap(mtu: u16) -> (Tap, OwnedFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (device, guest) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Tap::from_device(device, mtu), guest)
    }

    fn ring(bytes: usize) -> (RingProducer, RingConsumer) {
        FrameRing::split(Arc::new(FrameRing::with_frame_max(vec![0; bytes].into(), 2000)))
    }

    fn frame(number: usize) -> Vec<u8> {
        (0..60 + number % 1000).map(|at| (at + number).to_le_bytes()[0]).collect()
    }

    fn take(ring: &mut RingConsumer) -> Option<Vec<u8>> {
        let record = ring.read()?;
        let bytes = ring.bytes(&record).to_vec();
        ring.release();
        Some(bytes)
    }

    #[test]
    fn frames_of_the_guest_come_whole_and_in_order_up_to_the_budget() {
        let (mut tap, guest) = tap(1500);
        let (mut producer, mut consumer) = ring(65_536);
        for number in 0..5 {
            rustix::io::write(&guest, &frame(number)).unwrap();
        }
        assert!(tap.receive(&mut producer, 3).unwrap(), "the budget is spent");
        assert!(!tap.receive(&mut producer, 3).unwrap(), "all are there");
        for number in 0..5 {
            assert_eq!(take(&mut consumer), Some(frame(number)));
        }
        assert_eq!(take(&mut consumer), None);
    }

    #[test]
    fn a_full_ring_leaves_frames_where_they_are() {
        let (mut tap, guest) = tap(1500);
        let (mut producer, mut consumer) = ring(4096);
        for number in 0..20 {
            rustix::io::write(&guest, &frame(number)).unwrap();
        }
        let mut seen = 0;
        loop {
            let more = tap.receive(&mut producer, 100).unwrap();
            while let Some(bytes) = take(&mut consumer) {
                assert_eq!(bytes, frame(seen));
                seen += 1;
            }
            if !more {
                break;
            }
        }
        assert_eq!(seen, 20);
    }

    #[test]
    fn a_frame_beyond_the_mtu_shows_itself() {
        let (mut tap, guest) = tap(1500);
        let (mut producer, mut consumer) = ring(65_536);
        rustix::io::write(&guest, &[7; 1514]).unwrap();
        rustix::io::write(&guest, &[7; 1800]).unwrap();
        tap.receive(&mut producer, 10).unwrap();
        assert_eq!(take(&mut consumer).unwrap().len(), 1514);
        assert_eq!(take(&mut consumer).unwrap().len(), 1515, "one more than the link allows");
    }

    #[test]
    fn a_link_that_takes_no_more_gets_the_rest_later_in_order() {
        let (mut tap, guest) = tap(1500);
        let (mut producer, mut consumer) = ring(65_536);
        let (mut sent, mut seen, mut refusals) = (0, 0, 0);
        let mut bytes = [0; 2000];
        while seen < 2000 {
            while sent < 2000 && producer.push(&frame(sent), Offload::NONE) {
                sent += 1;
            }
            refusals += usize::from(tap.send(&mut consumer).unwrap());
            while let Ok(len) = rustix::io::read(&guest, &mut bytes) {
                assert_eq!(bytes[..len], frame(seen), "frame {seen}");
                seen += 1;
            }
        }
        assert!(refusals > 0, "the pair never filled up, so this tested nothing");
        assert!(consumer.is_empty());
        assert_eq!(tap.dropped_frames().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_frame_that_the_kernel_refuses_is_dropped_and_counted() {
        let (mut tap, guest) = tap(1500);
        // The kernel doubles it; a longer message never fits: EMSGSIZE.
        rustix::net::sockopt::set_socket_send_buffer_size(&tap.device, 4608).unwrap();
        let ring = FrameRing::with_frame_max(vec![0; 65_536].into(), 20_000);
        let (mut producer, mut consumer) = FrameRing::split(Arc::new(ring));
        assert!(producer.push(&[1; 20_000], Offload::NONE));
        assert!(producer.push(&frame(1), Offload::NONE));
        assert!(!tap.send(&mut consumer).unwrap());
        let mut bytes = [0; 2000];
        let first = rustix::io::read(&guest, &mut bytes).unwrap();
        assert_eq!(bytes[..first], frame(1), "the next frame is not held up");
        assert_eq!(tap.dropped_frames().load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_link_that_is_gone_is_an_error() {
        let (mut tap, guest) = tap(1500);
        drop(guest);
        let (mut producer, mut consumer) = ring(65_536);
        assert!(producer.push(&frame(1), Offload::NONE));
        assert!(tap.send(&mut consumer).is_err());
    }

    #[test]
    fn names_that_the_kernel_would_refuse_or_expand_are_refused() {
        for name in ["", ".", "..", "eth%d", "a/b", "a:b", "a b", "ü", "sixteen-letters-"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["eth0", "e", "fifteen-letters"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
