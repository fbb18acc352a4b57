//! What the host tells the engine.

use super::FlowId;
use super::outcome::Refusal;

/// One thing that happened outside. An event of an ended flow is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The socket of an [`Action::Connect`](super::Action::Connect) is connected.
    Connected {
        /// The flow.
        flow: FlowId,
    },
    /// It could not be connected (or not even be opened).
    ConnectFailed {
        /// The flow; its id is free afterwards, and no further action names it.
        flow: FlowId,
        /// Why, which decides what the guest sees.
        refusal: Refusal,
    },
    /// The outside peer has finished sending; every byte before it has been given.
    OutsideFinished {
        /// The flow.
        flow: FlowId,
    },
    /// The outside peer reset the connection, or the socket failed.
    OutsideReset {
        /// The flow; its id is free afterwards, and no further action names it.
        flow: FlowId,
    },
    /// A datagram could not be sent, or an ICMP error came back for one.
    DatagramFailed {
        /// The flow; it lives on.
        flow: FlowId,
        /// Why.
        refusal: Refusal,
    },
}
