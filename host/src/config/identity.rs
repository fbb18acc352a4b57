//! Who the guest has known so far: of a guest that is restored, in place of what follows from its
//! slot.

use core::fmt::Display;

use sluicegate_core::ConfigError;
use sluicegate_core::addr::{Addresses, Mac};

use super::NetworkConfig;

/// A link as a guest knows it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) addresses: Addresses,
    /// The longest frame that its buffers take.
    pub(crate) receive_frame_bytes: u32,
}

impl NetworkConfig {
    /// The same for a guest that knows `identity`. That wins over the slot, whose numbers may be
    /// others on this host: the guest's kernel has the addresses on its interface and the gateway's
    /// MAC address in its cache, and nobody tells it others.
    ///
    /// # Errors
    /// An address that this configuration says itself, and that is another.
    pub(crate) fn with_identity(mut self, identity: Identity) -> Result<Self, ConfigError> {
        let (said, known) = (&self.interface, &identity.addresses);
        fits("interface.mac", said.mac.map(Mac), Mac(known.guest_mac))?;
        fits("interface.mtu", said.mtu, known.mtu)?;
        fits("interface.ipv4_address", said.ipv4_address, known.guest_ipv4)?;
        fits("interface.ipv6_address", said.ipv6_address, known.guest_ipv6)?;
        let (field, bound) = ("interface.receive_frame_bytes", said.receive_frame_bytes);
        fits(field, bound, identity.receive_frame_bytes)?;
        self.identity = Some(identity);
        Ok(self)
    }
}

fn fits<T: PartialEq + Display>(
    field: &'static str,
    said: Option<T>,
    known: T,
) -> Result<(), ConfigError> {
    let expected = "that of the snapshot; leave it out, as the guest knows the snapshot's";
    said.filter(|said| *said != known)
        .map_or(Ok(()), |said| Err(ConfigError::new(field, said, expected)))
}
