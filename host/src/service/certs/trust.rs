//! Whom the gateway believes to be the server that the guest wants.
//!
//! By default whoever this host's trust store vouches for; the configuration adds authorities and
//! makes exceptions, for all servers or for some. Sessions are kept, so that the next connection to
//! a server takes fewer round trips.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Identity, provider};
use crate::config::host::HostPattern;
use crate::config::tls::{TlsConfig, read_pem};
use crate::error::AuthorityError;

/// A client that believes this host's authorities, and those of `files`.
pub(crate) fn client_of(files: &[PathBuf]) -> Result<ClientConfig, AuthorityError> {
    let mut roots = host_roots().store.clone();
    files.iter().try_for_each(|path| add(&mut roots, path))?;
    verified(roots)
}

/// How servers are checked.
pub(crate) struct Trust {
    /// For those without an authority of their own.
    verified: ClientConfig,
    unverified: ClientConfig,
    /// For those with; the narrowest first.
    scoped: Vec<(HostPattern, ClientConfig)>,
    verifies: bool,
    /// The exceptions; the narrowest first.
    exceptions: Vec<(HostPattern, bool)>,
}

/// A client's side of a handshake, and what it proves.
pub(crate) struct Checked {
    pub(crate) config: ClientConfig,
    /// The server must prove that the name is its own.
    pub(crate) is_verified: bool,
}

impl Trust {
    /// As `config` has it.
    ///
    /// # Errors
    /// A file that can't be read, or is none of certificates.
    pub(crate) fn new(config: &TlsConfig) -> Result<Self, AuthorityError> {
        let mut roots = host_roots().store.clone();
        for path in &config.upstream_ca_cert {
            add(&mut roots, path)?;
        }
        let mut patterns: Vec<&HostPattern> =
            config.scoped_upstream_ca_cert.iter().map(|scoped| &scoped.pattern).collect();
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.rank()));
        patterns.dedup();
        let mut scoped = vec![];
        for pattern in patterns {
            let mut roots = roots.clone();
            // A narrow pattern has the authorities of those that are wider, too.
            for wider in &config.scoped_upstream_ca_cert {
                if covers(&wider.pattern, pattern) {
                    add(&mut roots, &wider.path)?;
                }
            }
            scoped.push((pattern.clone(), verified(roots)?));
        }
        let mut exceptions: Vec<_> = config
            .scoped_verify_upstream
            .iter()
            .map(|scoped| (scoped.pattern.clone(), scoped.verify))
            .collect();
        exceptions.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.rank()));
        Ok(Self {
            verified: verified(roots)?,
            unverified: client(Arc::new(Blind { provider: provider(), believes: true }))?,
            scoped,
            verifies: config.verify_upstream,
            exceptions,
        })
    }

    /// How the server `identity` is spoken to.
    pub(crate) fn of(&self, identity: &Identity) -> Checked {
        let text = match identity {
            Identity::Name(name) => name.clone(),
            Identity::Address(address) => address.to_string(),
        };
        let exception = self.exceptions.iter().find(|(pattern, _)| pattern.matches(&text));
        let is_verified = exception.map_or(self.verifies, |(_, verify)| *verify);
        if !is_verified {
            return Checked { config: self.unverified.clone(), is_verified };
        }
        let scoped = self.scoped.iter().find(|(pattern, _)| pattern.matches(&text));
        let config = scoped.map_or(&self.verified, |(_, config)| config).clone();
        Checked { config, is_verified }
    }
}

/// Whether every name that `narrow` means is meant by `wide`.
fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Any, _) => true,
        (_, HostPattern::Exact(name) | HostPattern::Wildcard(name)) => {
            wide == narrow || (matches!(wide, HostPattern::Wildcard(_)) && wide.matches(name))
        }
        (HostPattern::Exact(_) | HostPattern::Wildcard(_), HostPattern::Any) => false,
    }
}

/// What this host trusts, as certificates and as what they are checked with.
struct HostRoots {
    certificates: Vec<CertificateDer<'static>>,
    store: RootCertStore,
}

/// The authorities that this host trusts, as one text of PEM, each once.
pub(crate) fn host_roots_pem() -> String {
    let certificates: BTreeSet<&[u8]> =
        host_roots().certificates.iter().map(|certificate| certificate.as_ref()).collect();
    certificates.into_iter().fold(String::new(), |mut text, certificate| {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in BASE64_STANDARD.encode(certificate).as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
        text
    })
}

/// What this host trusts; read once by a process, as it takes milliseconds.
fn host_roots() -> &'static HostRoots {
    static ROOTS: OnceLock<HostRoots> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::warn!(%error, "a part of this host's trust store can't be read");
        }
        let mut store = RootCertStore::empty();
        let (_, unfit) = store.add_parsable_certificates(found.certs.iter().cloned());
        if unfit > 0 {
            tracing::debug!(unfit, "certificates of this host's trust store are not understood");
        }
        if store.is_empty() {
            tracing::warn!("this host trusts no authority, so no server can prove its name");
        }
        HostRoots { certificates: found.certs, store }
    })
}

/// Adds the certificates of `path`.
fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), AuthorityError> {
    let wrong = |problem: String| AuthorityError::Content { path: path.to_owned(), problem };
    let pem =
        read_pem(path).map_err(|source| AuthorityError::File { path: path.to_owned(), source })?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(wrong("no certificate in PEM".to_owned())) } else { Ok(()) }
}

fn verified(roots: RootCertStore) -> Result<ClientConfig, AuthorityError> {
    if roots.is_empty() {
        // The builder takes no empty store; whoever trusts nobody believes nobody.
        return client(Arc::new(Blind { provider: provider(), believes: false }));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    client(verifier.map_err(|error| AuthorityError::Signing(error.to_string()))?)
}

fn client(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, AuthorityError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| AuthorityError::Signing(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Looks at no certificate: believes everybody who has the key of the one it shows, or nobody.
#[derive(Debug)]
struct Blind {
    provider: Arc<CryptoProvider>,
    believes: bool,
}

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.believes {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
