//! Names for flows: what the host keys its sockets by.

/// One flow (a TCP connection, a UDP or an echo association) of one engine.
///
/// `index` is a slot, reused after the flow ends; `generation` tells the uses of a slot apart, so
/// that an event of an ended flow never reaches its successor. Indices are dense: TCP flows have
/// `0..tcp_flows_max`, as that was at the start, then the guest's UDP flows, then echo, then UDP
/// flows from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FlowId {
    /// The slot.
    pub index: u32,
    /// The use of the slot, counted up at each reuse (wraps after 2^32).
    pub generation: u32,
}
