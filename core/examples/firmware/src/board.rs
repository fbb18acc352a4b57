//! All that is of this machine: QEMU's microvm with one virtio network card. The entry, the few
//! symbols that a libc would have, the clock, the serial port under defmt, the card, and a loop
//! that runs the card and one task.
//!
//! Interrupts stay off for ever: everything is polled, and no code here may rely on the red zone
//! being kept by a handler. An exception has no handler either: the machine resets, which QEMU
//! (`-no-reboot`) ends.

use core::arch::{asm, global_asm};
use core::future::Future;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::pin::pin;
use core::ptr::NonNull;
use core::str::FromStr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use embassy_sync::waitqueue::AtomicWaker;
use sluicegate_core::addr::{self, Addresses, Family, Interface, Overrides, Value};
use sluicegate_core::{Consumer, Offload, Producer, RingHandle};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

global_asm!(include_str!("board.S"), options(att_syntax));

const SERIAL: u16 = 0x3f8;
const EXIT: u16 = 0xf4;
/// What QEMU's exit code says of a run: twice this and one.
const PASSED: u8 = 0x10;
const FAILED: u8 = 0x11;

fn out_byte(port: u16, byte: u8) {
    // SAFETY: a port write touches no memory; both ports are devices of this machine.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) }
}

fn in_byte(port: u16) -> u8 {
    let byte;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack)) }
    byte
}

fn exit(code: u8) -> ! {
    out_byte(EXIT, code);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    defmt::error!("{}", defmt::Display2Format(info));
    exit(FAILED)
}

#[defmt::global_logger]
struct Serial;

static mut ENCODER: defmt::Encoder = defmt::Encoder::new();

// SAFETY: there is one processor and no interrupt, so no two ever hold the logger.
unsafe impl defmt::Logger for Serial {
    fn acquire() {
        // SAFETY: as above.
        unsafe { (*Self::encoder()).start_frame(Self::put) }
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: as above.
        unsafe { (*Self::encoder()).end_frame(Self::put) }
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { (*Self::encoder()).write(bytes, Self::put) }
    }
}

impl Serial {
    fn encoder() -> *mut defmt::Encoder {
        &raw mut ENCODER
    }

    fn put(bytes: &[u8]) {
        bytes.iter().for_each(|byte| out_byte(SERIAL, *byte));
    }
}

defmt::timestamp!("{=u64:us}", now_us());

/// Critical sections: nothing here interrupts, but embassy-sync must be told so.
struct NoInterrupts;
critical_section::set_impl!(NoInterrupts);

// SAFETY: one processor, and interrupts are off for ever.
unsafe impl critical_section::Impl for NoInterrupts {
    unsafe fn acquire() -> bool {
        false
    }

    unsafe fn release(_: bool) {}
}

static TICKS_PER_MS: AtomicU64 = AtomicU64::new(0);

fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures the processor's counter on channel 0 of the PIT (1,193,182 Hz, counting down).
fn calibrate() {
    const PIT_PER_MS: u16 = 1193;
    let count = || {
        out_byte(0x43, 0);
        u16::from_le_bytes([in_byte(0x40), in_byte(0x40)])
    };
    out_byte(0x43, 0x34);
    out_byte(0x40, 0);
    out_byte(0x40, 0);
    let (from, began) = (count(), ticks());
    while from.wrapping_sub(count()) < 5 * PIT_PER_MS {}
    TICKS_PER_MS.store((ticks() - began) / 5, Ordering::Relaxed);
}

/// Microseconds of a clock that never goes back.
pub fn now_us() -> u64 {
    match TICKS_PER_MS.load(Ordering::Relaxed) {
        0 => 0,
        rate => ticks() / (rate / 1000).max(1),
    }
}

/// The one deadline that anybody waits for.
struct Alarm {
    at_us: AtomicU64,
    waker: AtomicWaker,
}

static ALARM: Alarm = Alarm { at_us: AtomicU64::new(u64::MAX), waker: AtomicWaker::new() };

/// Wakes `waker` once it is `at_us`; replaces what was asked before.
pub fn wake_at(at_us: u64, waker: &Waker) {
    ALARM.waker.register(waker);
    ALARM.at_us.store(at_us, Ordering::Relaxed);
}

/// The strings of the guest's environment: the link and both families.
pub type Told = (Interface, Family<Ipv4Addr>, Family<Ipv6Addr>);

/// The words that the VMM passed on.
pub struct CommandLine(&'static str);

impl CommandLine {
    /// The value of the first word `name=value` that can be read.
    pub fn value<T: FromStr>(&self, name: &str) -> Option<T> {
        let mut words = self.0.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        words.find_map(|(key, value)| (key == name).then(|| value.parse().ok())?)
    }

    /// What the gateway has told this guest, in the strings of its environment.
    pub fn told(&self) -> Option<Told> {
        let interface = self.value(addr::ENV_INTERFACE)?;
        Some((interface, self.value(addr::ENV_IPV4)?, self.value(addr::ENV_IPV6)?))
    }
}

/// Whether `told` is what follows from the guest's slot.
pub fn is_of_slot(slot: u16, (interface, ipv4, ipv6): &Told) -> bool {
    let told = [Value::Interface(interface.clone()), Value::Ipv4(*ipv4), Value::Ipv6(*ipv6)];
    Addresses::of_slot(slot, &Overrides::default())
        .is_ok_and(|derived| derived.environment().map(|(_, value)| value) == told)
}

/// Where `start` finds the command line in `hvm_start_info`.
const COMMAND_LINE_AT: usize = 24;

// SAFETY: the name is known to `board.S` alone, which calls it once, and nothing else has it.
/// Entered once, in long mode, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn start(info: *const u8) -> ! {
    calibrate();
    // SAFETY: the PVH boot protocol puts the structure and the text, which ends with a zero, below
    // 4 GiB, where nothing writes.
    let text = unsafe {
        let at = info.add(COMMAND_LINE_AT).cast::<u64>().read_unaligned();
        core::ffi::CStr::from_ptr(at as *const core::ffi::c_char)
    };
    let command_line = CommandLine(text.to_str().unwrap_or(""));
    let Some(card) = Card::find(&command_line) else {
        defmt::error!("there is no network card");
        exit(FAILED)
    };
    crate::main(command_line, card)
}

/// Pages for the card's queues; paging maps every address to itself.
#[repr(align(4096))]
struct Pool(#[allow(dead_code, reason = "the card's")] [u8; PAGES * PAGE_SIZE]);

const PAGES: usize = 16;
static mut POOL: Pool = Pool([0; PAGES * PAGE_SIZE]);
static PAGES_TAKEN: AtomicUsize = AtomicUsize::new(0);

struct Machine;

// SAFETY: pages are handed out once; physical and virtual addresses are the same below 4 GiB.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = PAGES_TAKEN.fetch_add(pages, Ordering::Relaxed);
        if first + pages > PAGES {
            return (0, NonNull::dangling()); // an error to the driver
        }
        // SAFETY: inside of the pool.
        let at = unsafe { (&raw mut POOL).cast::<u8>().add(first * PAGE_SIZE) };
        (at as PhysAddr, NonNull::new(at).unwrap_or(NonNull::dangling()))
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(at: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(at as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Frames that the card holds each way at a time.
const QUEUE: usize = 32;
/// Bytes of the longest frame.
pub const FRAME_BYTES_MAX: usize = 1514;
/// A virtio header and the longest frame, rounded up.
const BUFFER_BYTES: usize = 1536;

type Buffers = [[u8; BUFFER_BYTES]; QUEUE];

static mut RECEIVE: Buffers = [[0; BUFFER_BYTES]; QUEUE];
static mut TRANSMIT: Buffers = [[0; BUFFER_BYTES]; QUEUE];

/// The network card and the buffers that it fills and empties.
pub struct Card {
    driver: VirtIONetRaw<Machine, MmioTransport<'static>, QUEUE>,
    receive: &'static mut Buffers,
    transmit: &'static mut Buffers,
    /// Which buffer the card has under each token of the driver's.
    receiving: [usize; QUEUE],
    sending: [usize; QUEUE],
    idle: heapless::Vec<usize, QUEUE>,
}

impl Card {
    /// The first card among the devices that the command line lists.
    fn find(command_line: &CommandLine) -> Option<Self> {
        let words = command_line.0.split_ascii_whitespace();
        // "512@0xfeb00e00:12" is a window's size, address and interrupt.
        let places = words.filter_map(|word| word.strip_prefix("virtio_mmio.device=512@0x"));
        let mut drivers = places.filter_map(|place| {
            let (address, _) = place.split_once(':')?;
            let address = usize::from_str_radix(address, 16).ok()?;
            let header = NonNull::new(address as *mut VirtIOHeader)?;
            // SAFETY: the VMM says that a device's registers are there, and nobody else uses them.
            let transport = unsafe { MmioTransport::new(header, 512) }.ok()?;
            VirtIONetRaw::new(transport).ok()
        });
        let (receive, transmit) = (&raw mut RECEIVE, &raw mut TRANSMIT);
        // SAFETY: `start` runs once, and so does this: the only borrows there are.
        let (receive, transmit) = unsafe { (&mut *receive, &mut *transmit) };
        let mut card = Self {
            driver: drivers.next()?,
            receive,
            transmit,
            receiving: [0; QUEUE],
            sending: [0; QUEUE],
            idle: (0..QUEUE).collect(),
        };
        (0..QUEUE).try_for_each(|index| card.offer(index))?;
        Some(card)
    }

    /// Gives a buffer to the card to be filled.
    fn offer(&mut self, index: usize) -> Option<()> {
        // SAFETY: a static, untouched until the card gives the token back.
        let token = unsafe { self.driver.receive_begin(&mut self.receive[index]) }.ok()?;
        self.receiving[usize::from(token)] = index;
        Some(())
    }

    /// Moves what there is, as far as there is room: from the card into one ring, and from the
    /// other to the card.
    fn turn<R: RingHandle>(&mut self, received: &mut Producer<R>, sent: &mut Consumer<R>) {
        while received.room() >= FRAME_BYTES_MAX
            && let Some(token) = self.driver.poll_receive()
        {
            let index = self.receiving[usize::from(token)];
            let buffer = &mut self.receive[index];
            // SAFETY: the buffer that was offered under this token.
            if let Ok((header, len)) = unsafe { self.driver.receive_complete(token, buffer) } {
                let _ = received.push(&buffer[header..header + len], Offload::NONE); // has room
            }
            self.offer(index);
        }
        received.flush();
        while let Some(token) = self.driver.poll_transmit() {
            let index = self.sending[usize::from(token)];
            // SAFETY: the buffer that was sent under this token.
            let _ = unsafe { self.driver.transmit_complete(token, &self.transmit[index]) };
            let _ = self.idle.push(index); // as long as there are buffers
        }
        while let Some(index) = self.idle.pop() {
            let Some(record) = sent.read() else {
                let _ = self.idle.push(index);
                break;
            };
            let buffer = &mut self.transmit[index];
            let header = self.driver.fill_buffer_header(buffer).unwrap_or(0);
            let frame = sent.bytes(&record);
            buffer[header..header + frame.len()].copy_from_slice(frame);
            let len = header + frame.len();
            // SAFETY: a static, untouched until the card gives the token back.
            if let Ok(token) = unsafe { self.driver.transmit_begin(&self.transmit[index][..len]) } {
                self.sending[usize::from(token)] = index;
            }
        }
        sent.release();
    }
}

/// The task is to be polled.
static WOKEN: AtomicBool = AtomicBool::new(true);

const WAKES: RawWakerVTable = RawWakerVTable::new(
    |_| RawWaker::new(core::ptr::null(), &WAKES),
    |_| WOKEN.store(true, Ordering::Relaxed),
    |_| WOKEN.store(true, Ordering::Relaxed),
    |_| {},
);

/// Serves the card between two rings and polls `task` when a ring or the alarm wakes it, until it
/// ends; then the machine is turned off with a code that says how.
pub fn run<R: RingHandle>(
    mut card: Card,
    (mut received, mut sent): (Producer<R>, Consumer<R>),
    task: impl Future<Output = Result<(), &'static str>>,
) -> ! {
    let mut task = pin!(task);
    // SAFETY: the functions of the table touch a static alone.
    let waker = unsafe { Waker::from_raw(RawWaker::new(core::ptr::null(), &WAKES)) };
    loop {
        card.turn(&mut received, &mut sent);
        if now_us() >= ALARM.at_us.load(Ordering::Relaxed) {
            ALARM.at_us.store(u64::MAX, Ordering::Relaxed);
            ALARM.waker.wake();
        }
        if !WOKEN.swap(false, Ordering::Relaxed) {
            core::hint::spin_loop();
            continue;
        }
        match task.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                // What the task said last is still in the ring.
                card.turn(&mut received, &mut sent);
                exit(PASSED)
            }
            Poll::Ready(Err(why)) => {
                defmt::error!("{=str}", why);
                exit(FAILED)
            }
        }
    }
}
