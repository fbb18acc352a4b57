//! The device behind its register interface, as a guest's driver finds it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::legacy::{IrqChipDevice, IrqChipT};
use devices::virtio::net::device::VirtioNetBackend;
use devices::virtio::{MmioTransport, Net};
use devices::{BusDevice, Error};
use msb_krun::backends::net::{EventFd, NetBackend};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::guest::{Receiver, Sender};
use crate::queue::{Place, Virtqueue};

/// Bytes of the guest's memory, from address 0.
pub(crate) const MEMORY_BYTES: usize = 32 << 20;
/// Entries of each queue: as many as the device has.
const QUEUE_SIZE: u16 = 1024;
const RECEIVE: u64 = 0;
const TRANSMIT: u64 = 1;
const FEATURES: [u32; 2] = [1 << 29 | 1 << 5, 1];

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SELECT: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SELECT: u64 = 0x24;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_LEN: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const STATUS: u64 = 0x70;
const QUEUE_DESCRIPTORS: u64 = 0x80;
const QUEUE_AVAILABLE: u64 = 0x90;
const QUEUE_USED: u64 = 0xa0;

const fn place(queue: u64) -> Place {
    Place::at(0x1000 + queue * 0x1_0000, QUEUE_SIZE)
}

/// An interrupt chip of one line.
struct Chip(Arc<OwnedFd>);

impl BusDevice for Chip {}

impl IrqChipT for Chip {
    fn get_mmio_addr(&self) -> u64 {
        0
    }

    fn get_mmio_size(&self) -> u64 {
        0
    }

    fn num_pins(&self) -> usize {
        1
    }

    fn set_irq(&self, _line: Option<u32>, _event: Option<&EventFd>) -> Result<(), Error> {
        let rung = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        rung.map(drop).map_err(|error| Error::FailedSignalingUsedQueue(error.into()))
    }
}

/// The device's interrupt line.
pub struct Interrupt(Arc<OwnedFd>);

impl Interrupt {
    /// Waits for an interrupt; false: there was none in time.
    pub fn wait(&self, longest: Duration) -> bool {
        let timeout = longest.try_into().expect("a short time");
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let is_there = poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready == 1);
        if is_there {
            rustix::io::read(&self.0, &mut [0; 8]).expect("it is readable");
        }
        is_there
    }
}

/// A virtio-net device that its driver has set up, with its worker running.
pub struct Device {
    transport: MmioTransport,
    memory: GuestMemoryMmap,
    line: Arc<OwnedFd>,
}

impl Device {
    /// The device over `backend`, brought up as Linux does.
    #[must_use]
    pub fn new(backend: Box<dyn NetBackend + Send>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
            .expect("memory for the guest");
        let line = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"));
        let mut device = Self::plugged(memory, line, backend);
        device.bring_up();
        device
    }

    /// The device as nobody has brought it up yet.
    fn plugged(
        memory: GuestMemoryMmap,
        line: Arc<OwnedFd>,
        backend: Box<dyn NetBackend + Send>,
    ) -> Self {
        let mac = [2, 0x6d, 0x73, 0, 0, 2];
        let net = Net::new("net0".into(), VirtioNetBackend::Custom(backend), mac, 0)
            .expect("nothing of it can fail");
        let chip = IrqChipDevice::new(Box::new(Chip(Arc::clone(&line))));
        let chip = Arc::new(Mutex::new(chip));
        let transport = MmioTransport::new(memory.clone(), chip, Arc::new(Mutex::new(net)))
            .expect("an eventfd");
        Self { transport, memory, line }
    }

    /// Another device over `backend` in the place of this, which was stopped: the guest's memory is
    /// the same, and so is where both are with its queues. Its worker runs from
    /// [`resume`](Self::resume) on.
    ///
    /// # Panics
    /// If this was not stopped.
    #[must_use]
    pub fn restored(&self, backend: Box<dyn NetBackend + Send>) -> Self {
        let state = self.transport.capture_state().expect("the worker was stopped");
        let mut next = Self::plugged(self.memory.clone(), Arc::clone(&self.line), backend);
        next.transport.restore_state(&state).expect("it is the same device");
        next
    }

    /// Lets the guest's halves tell this device of what they post, in the place of another.
    pub fn rewire(&self, sender: &mut Sender, receiver: &mut Receiver) {
        let [receive, transmit] = [RECEIVE, TRANSMIT].map(|queue| self.kick(queue));
        receiver.queue.rewire(receive);
        sender.queue.rewire(transmit);
    }

    fn bring_up(&mut self) {
        self.write(STATUS, ACKNOWLEDGE);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        for (page, features) in (0..).zip(FEATURES) {
            self.write(DEVICE_FEATURES_SELECT, page);
            assert_eq!(self.read(DEVICE_FEATURES), features, "the device's features have changed");
            self.write(DRIVER_FEATURES_SELECT, page);
            self.write(DRIVER_FEATURES, features);
        }
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for queue in [RECEIVE, TRANSMIT] {
            self.write(QUEUE_SELECT, u32::try_from(queue).expect("0 or 1"));
            self.write(QUEUE_LEN, QUEUE_SIZE.into());
            let Place { descriptors, available, used } = place(queue);
            let addresses = [
                (QUEUE_DESCRIPTORS, descriptors),
                (QUEUE_AVAILABLE, available),
                (QUEUE_USED, used),
            ];
            for (register, address) in addresses {
                self.write(register, u32::try_from(address).expect("low memory"));
            }
            self.write(QUEUE_READY, 1);
        }
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn write(&mut self, register: u64, value: u32) {
        self.transport.write(0, register, &value.to_le_bytes());
    }

    fn read(&mut self, register: u64) -> u32 {
        let mut value = [0; 4];
        self.transport.read(0, register, &mut value);
        u32::from_le_bytes(value)
    }

    fn queue(&self, queue: u64) -> Virtqueue {
        Virtqueue::new(self.memory.clone(), place(queue), QUEUE_SIZE, self.kick(queue))
    }

    fn kick(&self, queue: u64) -> Arc<EventFd> {
        let index = usize::try_from(queue).expect("0 or 1");
        Arc::clone(&self.transport.queue_evts()[index])
    }

    /// The guest's halves of both queues, which are empty, and the interrupt line. To be called
    /// once.
    #[must_use]
    pub fn guest(&self) -> (Sender, Receiver, Interrupt) {
        (
            Sender::new(self.memory.clone(), self.queue(TRANSMIT)),
            Receiver::new(self.memory.clone(), self.queue(RECEIVE)),
            Interrupt(Arc::clone(&self.line)),
        )
    }

    /// Stops the worker as a checkpoint does.
    pub fn quiesce(&mut self) {
        self.transport.quiesce().expect("the worker is alive");
        self.transport.capture_state().expect("no descriptor is held back");
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        self.transport.resume().expect("the worker starts");
    }
}

impl Drop for Device {
    /// A worker that is not stopped stays for ever.
    fn drop(&mut self) {
        let stopped = self.transport.quiesce();
        if !std::thread::panicking() {
            stopped.expect("the worker is alive");
        }
    }
}
