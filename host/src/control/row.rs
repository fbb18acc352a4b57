//! A flow as it is listed.

use std::net::SocketAddr;
use std::time::Duration;

use sluicegate_core::{By, Direction, FlowId, FlowInfo, FlowState, Protocol};

use crate::clock::Clock;
use crate::flow::HostEngine;

/// One flow, as it was when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowRow {
    /// Its number: no other flow of the network has had it lately, nor will have it soon.
    pub id: u64,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who opened it: the guest (`Egress`), or somebody outside.
    pub direction: Direction,
    /// The guest's end; of a ping the port is its identifier.
    pub guest: SocketAddr,
    /// The other end: where the guest's flow goes, or who came; of a ping the port is 0.
    pub peer: SocketAddr,
    /// What the other end is called, as far as the guest said that, or had resolved it.
    pub name: Option<String>,
    /// How far it is.
    pub state: FlowState,
    /// What allowed it; a rule by its index, from 0.
    pub by: By,
    /// How long ago it was opened.
    pub age: Duration,
    /// Bytes of payload that the guest sent.
    pub from_guest_bytes: u64,
    /// Bytes of payload that came for the guest.
    pub to_guest_bytes: u64,
}

/// All flows of `engine`.
pub(super) fn rows(engine: &HostEngine<'_>, clock: Clock) -> Vec<FlowRow> {
    let now = clock.now();
    let row = |flow: FlowInfo<'_>| FlowRow {
        id: u64::from(flow.id.index) << 32 | u64::from(flow.id.generation),
        protocol: flow.protocol,
        direction: flow.direction,
        guest: flow.guest,
        peer: flow.peer.unwrap_or(flow.outside),
        name: flow.name.map(str::to_owned),
        state: flow.state,
        by: flow.by,
        age: Duration::from_micros(now.as_micros().saturating_sub(flow.opened.as_micros())),
        from_guest_bytes: flow.from_guest_bytes,
        to_guest_bytes: flow.to_guest_bytes,
    };
    engine.flows().map(row).collect()
}

/// The flow with the number `id`.
#[allow(clippy::cast_possible_truncation, reason = "the two halves of the number")]
pub(super) fn flow_id(id: u64) -> FlowId {
    FlowId { index: (id >> 32) as u32, generation: id as u32 }
}
