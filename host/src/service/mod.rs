//! Leaf services: what flows ask of the host besides sockets. Ignorant of flows and of each other.

pub(crate) mod addresses;
pub(crate) mod dns;
