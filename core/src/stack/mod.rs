//! One machine per protocol: each turns guest packets into facts for the host, and back.

pub(crate) mod autoconf;
pub(crate) mod capture;
pub(crate) mod datagram;
pub(crate) mod device;
pub(crate) mod tcp;
pub(crate) mod turns;
pub(crate) mod watch;
pub(crate) mod window;
