//! A network that takes the place of another.

use sluicegate_core::ConfigError;

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
    /// As [`try_new`](Self::try_new), an address in `config` that is another than the guest's, and
    /// TLS that another authority would intercept than the one that the guest trusts.
    pub fn try_restore(
        config: NetworkConfig,
        slot: u64,
        mut snapshot: Snapshot,
    ) -> Result<Self, Error> {
        let trusted = snapshot.ca_cert.take();
        let (config, ports, names) = snapshot.apply(config)?;
        let files = config.tls.intercept_ca.cert_path.clone();
        let (mut network, made_files) = Self::make(config, slot)?;
        let signs = network.forge.authority_pem();
        if signs.is_some() && trusted.is_some() && signs != trusted {
            let expected = "the authority that the guest trusts, whose cert_path and key_path \
                            belong here, unless tls.enabled is to be false";
            let made = || "one made in memory".to_owned();
            let signs = files.map_or_else(made, |path| path.display().to_string());
            return Err(ConfigError::new("tls.intercept_ca", signs, expected).into());
        }
        made_files.keep();
        network.desk.expect_ports(ports);
        network.known_names = names;
        Ok(network)
    }
}
