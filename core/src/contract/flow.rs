//! What is told of a flow to who asks for all of them.

use core::net::SocketAddr;

use super::{By, Direction, FlowId, Instant, Protocol};

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FlowState {
    /// One side has yet to accept it.
    Connecting,
    /// What the guest says first is waited for, as policy turns on it.
    Hearing,
    /// Bytes and datagrams pass.
    Open,
    /// One side has finished, or both.
    Closing,
}

impl FlowState {
    /// The name in lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Hearing => "hearing",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

/// One flow, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowInfo<'e> {
    /// Which it is; the same for as long as it lives.
    pub id: FlowId,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who opened it.
    pub direction: Direction,
    /// The guest's end; of a ping the port is its identifier.
    pub guest: SocketAddr,
    /// The other end as the guest sees it, which is the gateway where somebody outside opened it;
    /// of a ping the port is 0.
    pub outside: SocketAddr,
    /// Who came, where somebody outside opened it.
    pub peer: Option<SocketAddr>,
    /// What its other end is called, as far as the guest said that, or had resolved it.
    pub name: Option<&'e str>,
    /// How far it is.
    pub state: FlowState,
    /// What allowed it, in the policy that holds now.
    pub by: By,
    /// When it was opened.
    pub opened: Instant,
    /// Bytes of payload that the guest sent and the host took.
    pub from_guest_bytes: u64,
    /// Bytes of payload that the host gave for the guest.
    pub to_guest_bytes: u64,
}
