//! Whom a guest is to trust, where this network ends its TLS.

use super::SmoltcpNetwork;
use crate::service::certs::host_roots_pem;

impl SmoltcpNetwork {
    /// The certificate of the authority that intercepts TLS now, as PEM, for the guest's trust
    /// store; `None`: nothing does. The authority's key never crosses.
    #[must_use]
    pub fn ca_cert_pem(&self) -> Option<Vec<u8>> {
        self.forge.authority_pem().map(String::into_bytes)
    }

    /// The authorities that this host trusts, as PEM, for a guest that is to trust them as well;
    /// `None`: the configuration does not say that it is (`trust_host_cas`).
    #[must_use]
    pub fn host_cas_cert_pem(&self) -> Option<Vec<u8>> {
        self.trust_host_cas.then(|| host_roots_pem().into_bytes())
    }

    /// What a program that runs beside this host's others is to trust: the authorities of this
    /// host, and the one that intercepts; as PEM. `None`: nothing is intercepted.
    #[must_use]
    pub fn trust_bundle_pem(&self) -> Option<Vec<u8>> {
        let own = self.forge.authority_pem()?;
        Some([host_roots_pem().as_bytes(), own.as_bytes()].concat())
    }
}
