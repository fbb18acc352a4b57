//! The host side of a guest's network card.
//!
//! A VMM hands over the Ethernet frames of a microVM; they end here in user space, and what policy
//! allows goes on over ordinary host sockets. No TAP, root or bridge is needed.
//!
//! # The walk of one packet
//!
//! ```text
//! guest -> virtio queue -> VMM's worker -> adapter -> [from_guest ring]
//!   -> driver: engine.poll -> classify -> flow -> smoltcp -> Action::Send
//!   -> flow: write(2) from the engine's own buffer -> outside
//! outside -> readiness -> driver -> flow: read(2) into the engine's own buffer
//!   -> engine.poll -> smoltcp -> segments -> [to_guest ring] -> adapter -> VMM's worker -> guest
//! ```
//!
//! [`SmoltcpNetwork`] is all of it for one guest.

pub mod adapter;
mod capture;
mod clock;
pub mod config;
mod control;
mod driver;
mod error;
mod events;
mod flow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod histogram;
mod intercept;
mod memory;
mod metrics;
pub mod netns;
mod network;
mod open_metrics;
mod outbound;
pub mod replay;
mod rings;
mod service;
mod snapshot;
mod termination;
mod wake;

/// The engine's crate: what front ends are written with ([`adapter::GuestLink`]), and types of this
/// crate's signatures.
pub use sluicegate_core as core;

pub use capture::Capture;
pub use config::NetworkConfig;
pub use control::{ControlHandle, FlowRow};
pub use driver::pool::DriverPool;
pub use error::{AuthorityError, Error, LoadError};
pub use events::{
    Denied, EVENT_TEXT_BYTES_MAX, EVENTS_BEHIND_MAX, Events, Incident, Intercepted, NetworkEvent,
};
pub use flow::ports::PublishedPort;
pub use metrics::{MetricsHandle, RingFill};
pub use network::{ActivationHandle, SmoltcpNetwork};
pub use rings::{HeapRing, RingConsumer, RingProducer};
pub use service::secrets::SecretsHandle;
pub use sluicegate_core::addr::Addresses;
pub use sluicegate_core::{
    By, Cidr, ConfigError, DenialReason, Direction, FlowState, FrameBudget, Group, Permission,
    PortRange, Profile, Protocol,
};
pub use snapshot::Snapshot;
pub use termination::TerminationHandle;
