//! The engine between a guest and an outside that are both models, on one virtual clock.
//!
//! Owns everything around the engine that a test needs: time, memory, the guest's end of the link,
//! the sockets outside, and the rules that hold whatever happens. Knows the engine by its public
//! contract only. Nothing here sleeps, reads a clock or draws a random number that the seed does
//! not decide: a run is a function of its seed.
//!
//! [`World`] is the middle: frames go in, and until the engine has nothing left to do for now, the
//! outside answers what it is asked. [`Oracle`] looks at each frame for the guest and each action.
//! [`load`] is the engine without all that, for what is measured.

#![allow(
    clippy::cast_possible_truncation,
    reason = "test code cuts small numbers that it made itself"
)]

mod clock;
mod dice;
pub mod dns;
pub mod frame;
pub mod fuzz;
pub mod guest;
pub mod link;
pub mod load;
mod oracle;
mod outside;
mod pattern;
mod pcap;
mod room;
mod seen;
pub mod tls;
mod world;

pub use clock::Clock;
pub use dice::Dice;
pub use oracle::Oracle;
pub use outside::{Answer, Datagrams, Did, End, Peers, Stream};
pub use pattern::Pattern;
pub use pcap::Pcap;
pub use room::{Room, default_config};
pub use seen::{Icmp, Message, Piece, Seen, Tcp, reassemble};
pub use world::World;

pub use sluicegate_core as core;
