//! What is kept of a flow beside its ends: for lists, and to judge it once more.

use core::net::SocketAddr;

use crate::contract::{By, Instant};

/// What is told of a flow while it lives, and what it is judged by once more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    /// When it was opened.
    pub(crate) opened: Instant,
    /// What allowed it.
    pub(crate) by: By,
    /// Who came, where somebody outside opened it.
    pub(crate) peer: Option<SocketAddr>,
    /// Bytes of payload.
    pub(crate) from_guest_bytes: u64,
    pub(crate) to_guest_bytes: u64,
    pub(super) name_bytes: u8,
    /// The guest said its name to the server.
    pub(crate) is_said: bool,
    /// The resolver had said that its name leads there.
    pub(crate) is_bound: bool,
}

impl Account {
    pub(super) const NEW: Self = Self {
        opened: Instant::ZERO,
        by: By::Gateway,
        peer: None,
        from_guest_bytes: 0,
        to_guest_bytes: 0,
        name_bytes: 0,
        is_said: false,
        is_bound: false,
    };
}
