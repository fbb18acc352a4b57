//! Pure verdicts, without memory: whether a flow may be, and what an address is.

pub(crate) mod name;
pub(crate) mod place;
mod platform;
pub(crate) mod policy;
