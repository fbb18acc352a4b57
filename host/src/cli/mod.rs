//! The `sluicegate` command: one file a sub-command, each thin.

pub(crate) mod attach;
mod channel;
pub(crate) mod check;
mod config_file;
mod control;
pub(crate) mod ctl;
pub(crate) mod demo;
pub(crate) mod env;
mod failure;
mod foreground;
mod guest_env;
pub(crate) mod inside;
mod link;
mod log;
mod mounts;
mod online;
pub(crate) mod replay;
mod resolv;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod serve;
mod signals;
pub(crate) mod top;
#[cfg(feature = "krun")]
pub(crate) mod vm;
