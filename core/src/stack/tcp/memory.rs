//! The memory that TCP flows are lent.

use core::mem::{ManuallyDrop, MaybeUninit};

use smoltcp::iface::SocketStorage;

use super::{SlotMemory, TcpSlot};

/// Memory for one flow's socket.
pub struct SocketCell<'a>(pub(super) ManuallyDrop<SocketStorage<'a>>);

impl SocketCell<'_> {
    pub(super) const EMPTY: Self = Self(ManuallyDrop::new(SocketStorage::EMPTY));
}

/// Memory for all TCP flows.
pub(crate) struct TcpMemory<'a> {
    pub(crate) slots: SlotMemory<'a, TcpSlot<'a>>,
    pub(crate) cells: &'a mut [MaybeUninit<SocketCell<'a>>],
    pub(crate) buffers: &'a mut [u8],
    pub(crate) receive_bytes: usize,
    pub(crate) send_bytes: usize,
}
