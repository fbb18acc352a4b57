//! Fixed memory without rules: rings, tables, lists, timers.

pub(crate) mod account;
pub(crate) mod flows;
pub(crate) mod fragments;
pub(crate) mod list;
pub(crate) mod names;
pub(crate) mod pace;
pub(crate) mod ring;
pub(crate) mod slots;
pub(crate) mod timers;
