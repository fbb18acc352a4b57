//! A network that takes the place of another.

use super::SmoltcpNetwork;
use crate::config::NetworkConfig;
use crate::control::ControlHandle;
use crate::error::Error;
use crate::snapshot::Snapshot;

impl SmoltcpNetwork {
    /// What the guest knows of this network, while it runs, so that another can take its place.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Busy`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        ControlHandle(self.desk.clone()).snapshot()
    }

    /// A network for a guest that knows that of `snapshot`: it goes on with the same MAC and IP
    /// addresses of both ends, whatever `slot` says, as nobody tells a guest that runs of others.
    /// The start publishes the ports of `config`; those with host port 0 where they were in the
    /// snapshot. Names that the guest had resolved allow what they did, where an answer with them
    /// would be let through now. Connections of old are reset when somebody says something on them.
    ///
    /// # Errors
    /// As [`try_new`](Self::try_new), and an address in `config` that is another than the guest's.
    pub fn try_restore(
        config: NetworkConfig,
        slot: u64,
        snapshot: Snapshot,
    ) -> Result<Self, Error> {
        let (config, ports, names) = snapshot.apply(config)?;
        let mut network = Self::try_new(config, slot)?;
        network.desk.expect_ports(ports);
        network.known_names = names;
        Ok(network)
    }
}
