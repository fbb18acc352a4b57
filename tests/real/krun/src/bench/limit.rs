//! What the device's worker carries where nobody does anything with it: the most that any backend
//! can make of it, on this machine and with this guest's driver.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use msb_krun::backends::net::{NetBackend, ReadError, WriteError};
use rustix::event::{EventfdFlags, eventfd};

use super::bulk::Way;
use super::times::{Rate, Times};
use super::{MTU, STEP_MAX, WARM_UP};
use crate::{Card, Device, now};

const FRAME_BYTES: usize = 1514;
/// Bytes of payload in such a frame: what headers of Ethernet, IPv4 and TCP leave.
const PAYLOAD_BYTES: u64 = 1460;
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// Frames that the guest is owed at most: fewer than it has buffers for.
const OWED_MAX: u64 = 768;
/// Frames after which the guest is told of them, so that it works while more are made for it.
const PASS_FRAMES: u32 = 64;

/// What guest and backend have in common.
struct Account {
    bell: OwnedFd,
    /// Frames that the guest may still get.
    credit: AtomicU64,
    /// Frames that came from the guest.
    taken: AtomicU64,
}

impl Account {
    fn ring(&self) {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).expect("an eventfd takes it");
    }
}

/// A backend that copies each frame once.
struct Copier {
    account: Arc<Account>,
    frame: [u8; FRAME_BYTES],
    /// Frames that the guest got in this pass.
    taken: u32,
}

impl NetBackend for Copier {
    fn read_frame(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        if self.account.credit.load(Ordering::Acquire) == 0 {
            self.taken = 0;
            return Err(ReadError::NothingRead);
        }
        if self.taken == PASS_FRAMES {
            self.taken = 0;
            self.account.ring();
            return Err(ReadError::NothingRead);
        }
        self.taken += 1;
        self.account.credit.fetch_sub(1, Ordering::Relaxed);
        let (header, frame) = buf.split_at_mut(HEADER.len());
        header.copy_from_slice(&HEADER);
        frame[..FRAME_BYTES].copy_from_slice(&self.frame);
        Ok(HEADER.len() + FRAME_BYTES)
    }

    fn write_frame(&mut self, hdr_len: usize, buf: &mut [u8]) -> Result<(), WriteError> {
        self.frame.copy_from_slice(&buf[hdr_len..]);
        self.account.taken.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn has_unfinished_write(&self) -> bool {
        false
    }

    fn try_finish_write(&mut self, _hdr_len: usize, _buf: &[u8]) -> Result<(), WriteError> {
        Ok(())
    }

    fn raw_socket_fd(&self) -> RawFd {
        self.account.bell.as_raw_fd()
    }
}

/// The rate of frames as a bulk transfer fills them.
pub(super) fn measure(way: Way, duration: Duration) -> Rate {
    let bell = eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
    let (credit, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    let account = Arc::new(Account { bell, credit, taken });
    let backend = Copier { account: Arc::clone(&account), frame: [1; FRAME_BYTES], taken: 0 };
    let device = Device::new(Box::new(backend));
    let mut card = Card::new(device.guest(), MTU);
    let (mut received, mut owed) = (0, 0);
    let mut phase = |longest| {
        let frames = account.taken.load(Ordering::Relaxed) + received;
        let (start, times) = (now(), Times::now());
        while start.elapsed() < longest {
            match way {
                Way::Up => send(&mut card),
                Way::Down => received += receive(&mut card, &account, &mut owed),
            }
        }
        let frames = account.taken.load(Ordering::Relaxed) + received - frames;
        let (wall, times) = (start.elapsed(), Times::now().since(&times));
        Rate { bytes: frames * PAYLOAD_BYTES, wall, times }
    };
    phase(WARM_UP);
    phase(duration)
}

/// Fills the queue and waits for room.
fn send(card: &mut Card) {
    while card.has_room() {
        card.sender.send_with(FRAME_BYTES, |_| ()).expect("there is room");
        card.kick_often();
    }
    card.kick();
    card.wait_for_room(STEP_MAX);
}

/// Takes what there is and asks for more when half of it has come, or waits.
fn receive(card: &mut Card, account: &Account, owed: &mut u64) -> u64 {
    let mut frames = 0;
    while card.receiver.receive().is_some() {
        frames += 1;
    }
    card.kick();
    *owed -= frames;
    if *owed < OWED_MAX / 2 {
        *owed += OWED_MAX / 2;
        account.credit.fetch_add(OWED_MAX / 2, Ordering::Release);
        account.ring();
    }
    card.wait(STEP_MAX);
    frames
}
