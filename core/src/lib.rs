#![no_std]
//! The `no_std` engine of Sluicegate: Ethernet frames of one guest in, socket work for the host
//! out.
//!
//! **The contract.** The caller lends memory ([`Memory`]) and two frame rings ([`FrameRing`]),
//! tells what happened outside ([`Engine::handle`]), and does what it is asked ([`Engine::poll`]
//! until [`Action::Wait`]). Bytes of a connection are not in actions: the caller borrows them
//! ([`Engine::take_from_guest`], [`Engine::give_to_guest`]), so that it can read and write its
//! sockets without a copy. What the guest asks of names ([`Outside::Names`]) goes over no socket of
//! its own: the host shows each query and each answer to the engine, which judges both
//! ([`Engine::judge_query`], [`Engine::judge_answer`]). What is known of names by then outlives an
//! engine, if the host carries it to the next ([`Engine::bindings`], [`Engine::bind_name`]). A
//! guest that asks the link for its addresses is answered by the engine alone
//! ([`Config::autoconf`]). Datagrams from outside go in whole ([`Engine::can_deliver`],
//! [`Engine::deliver`]), and who comes to a published port is announced
//! ([`Engine::open_inbound`]). The engine has no clock, socket, thread, global, log line or
//! randomness of its own, and allocates nothing after [`Engine::new`]. `examples/gateway.rs` is
//! one at work.
//!
//! **This host's own addresses** are the caller's to tell ([`Config::own_addresses`],
//! [`Engine::replace_own_addresses`], and again whenever they change): the engine can't see them,
//! and believes an empty list. A host that has a public address and does not tell it lets guests
//! reach it, and what listens there, by any rule for [`Group::Public`].
//!
//! **The floors**, lowest first; each uses only lower ones: `addr` and `limits` (the guest's
//! addresses, every number); `contract` (what both sides say); `wire` (bytes and their meaning);
//! `store` (memory without rules); `rule` (verdicts without memory); `stack` (one machine a
//! protocol); `engine` (which packet goes where, and when).

pub mod addr;
mod contract;
mod engine;
pub mod limits;
mod rule;
mod stack;
mod store;
mod wire;

pub use contract::{
    Action, Autoconf, Beginning, Bucket, By, Captured, CapturedKind, Cidr, Config, ConfigError,
    Counters, DatagramKind, Denial, DenialReason, DenyFormat, DenyPage, Destination, Direction,
    Drop, Event, FlowId, FlowInfo, FlowState, Group, Instant, Link, Matter, NameRefusal, Offload,
    Outside, Permission, Policy, PortRange, Profile, Protocol, Protocols, Rate, Refusal, Rule,
    TransportChecksum, WaitReason,
};
pub use engine::{Engine, FrameBudget, Inbound, Memory, MemoryLen, QueryStep, TurnMax};
pub use rule::name::{NameQuestion, evaluate_name, may_be_answer};
pub use rule::place::{Place, Site};
pub use rule::policy::{Decision, Names, Question, Said, Verdict, evaluate};
pub use stack::datagram::DatagramSlot;
pub use stack::tcp::{SocketCell, TcpSlot};
pub use store::flows::FlowSlot;
pub use store::fragments::FragmentSet;
pub use store::names::{NameBucket, NameSlot, NameText};
pub use store::ring::{Consumer, FrameRing, Producer, Record, RingBytes, RingHandle};
pub use store::slots::{SLOTS_PER_PAGE, SlotMemory, SlotPage, SlotPlace};
pub use store::timers::Timer;
pub use wire::dns::{age, is_answer_to, is_truncated, lifetime_seconds};
pub use wire::said::{FirstLine, first_line};
pub use wire::segment::{Cut, PIECE_HEADER_BYTES_MAX, Piece};
