//! Bytes and their meaning, without state: what a frame is, and how the frames that we compose
//! look.

#![warn(clippy::indexing_slicing)]

pub(crate) mod advert;
pub(crate) mod checksum;
pub(crate) mod classify;
pub(crate) mod complaint;
pub(crate) mod dhcp;
pub(crate) mod dhcpv6;
pub(crate) mod dns;
pub(crate) mod extensions;
pub(crate) mod page;
pub(crate) mod problem;
pub(crate) mod reply;
pub(crate) mod said;
pub(crate) mod segment;
pub(crate) mod write;
