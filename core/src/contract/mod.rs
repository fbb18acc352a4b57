//! All that host and engine say to each other: events go in, actions come out.

mod action;
mod autoconf;
mod captured;
mod config;
mod counters;
mod denial;
mod event;
mod flow;
mod id;
mod offload;
mod outcome;
mod page;
mod policy;
mod rate;
mod time;

pub use action::{Action, Beginning, DatagramKind, Outside, WaitReason};
pub use autoconf::Autoconf;
pub(crate) use captured::HEADER_BYTES;
pub use captured::{Captured, CapturedKind};
pub use config::{Config, Link};
pub(crate) use counters::Hits;
pub use counters::{Counters, Matter};
pub use denial::{By, Denial, DenialReason};
pub use event::Event;
pub use flow::{FlowInfo, FlowState};
pub use id::FlowId;
pub use offload::{Offload, TransportChecksum};
pub use outcome::{ConfigError, Drop, NameRefusal, Refusal};
pub use page::{DenyFormat, DenyPage};
pub use policy::{
    Cidr, Destination, Direction, Group, Permission, Policy, PortRange, Profile, Protocol,
    Protocols, Rule,
};
pub use rate::{Bucket, Rate};
pub use time::Instant;
