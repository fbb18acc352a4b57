//! Leaf services: what flows ask of the host besides sockets. Ignorant of flows and of each other.

pub(crate) mod addresses;
pub(crate) mod certs;
pub(crate) mod dns;
pub(crate) mod proxy;
pub(crate) mod secrets;
