//! The command `sluicegate` among real programs: guests are network namespaces, their traffic comes
//! from the kernel's own stack, and the outside is this host's loopback or a namespace beside it.
//!
//! One promise of the wire or of the command line a test, in a sentence. Everything a test makes is
//! its own (namespaces, ports, processes) and goes with it, so tests run side by side. They need
//! root; where that or a program is missing they say so and do nothing, unless `CI` is `true`: then
//! they fail.
//!
//! Waits are for events, or are polls with a deadline; nothing here sleeps and hopes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod card;
mod frames;
mod guest;
mod held;
mod machine;
mod namespace;
mod needs;
mod pattern;
mod process;
mod servers;
mod waiting;

mod autoconf;
mod back_pressure;
mod callers;
mod command;
mod control;
mod datagrams;
mod denials;
mod endings;
mod faults;
mod firmware;
mod hostile;
mod idle;
mod joined_names;
mod limits;
mod memory;
mod metrics;
mod names;
mod neighbours;
mod offload;
mod outbound;
mod pings;
mod policy;
mod pool;
mod prior_knowledge;
mod proxies;
mod published;
mod qemu;
mod rates;
mod refusals;
mod replaced;
mod rows;
mod run;
mod sandbox;
mod secure_names;
mod snapshot;
mod soak;
mod stream;
mod tls;
mod transfers;
#[cfg(feature = "krun")]
mod vm;
