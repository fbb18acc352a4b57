//! The authority that signs in the servers' place.
//!
//! By default one is made for each network, in memory: nobody else's guest trusts it, and it ends
//! with the process. One with files is as they say; where neither file is there they are made, the
//! key readable by its owner only, each in place at once or not at all, and both go again where
//! what they were made for comes to nothing. A pair that does not fit is an error, and never
//! replaced: somebody trusts it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::provider;
use crate::clock::Clock;
use crate::config::tls::read_pem;
use crate::error::AuthorityError;

/// Guests may have a clock that is slow by this.
pub(super) const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);
/// An authority is valid for ten years: images keep it.
const VALIDITY: Duration = Duration::from_secs(3653 * 24 * 3600);
/// Who it says it is.
const NAME: &str = "Sluicegate interception authority";

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing(error.to_string())
    }
}

/// A certificate that may sign others, and its key.
pub(crate) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// A new one, in memory.
    pub(crate) fn make() -> Result<Self, AuthorityError> {
        Ok(Self::new()?.0)
    }

    /// A new one, and its key as PEM.
    fn new() -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = Clock::time_of_day();
        params.not_before = (now - CLOCK_SLACK).into();
        params.not_after = (now + VALIDITY).into();
        let certificate = params.self_signed(&key)?;
        let made = Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        };
        Ok((made, key_pem))
    }

    /// The one of these files, and those of them that were made, as neither was there.
    pub(crate) fn of_files(
        cert_path: &Path,
        key_path: &Path,
    ) -> Result<(Self, NewFiles), AuthorityError> {
        let mut files = NewFiles::default();
        let half = |there: &Path, missing: &Path| AuthorityError::Half {
            there: there.to_owned(),
            missing: missing.to_owned(),
        };
        match (cert_path.exists(), key_path.exists()) {
            (true, true) => Ok((Self::load(cert_path, key_path)?, files)),
            (true, false) => Err(half(cert_path, key_path)),
            (false, true) => Err(half(key_path, cert_path)),
            (false, false) => {
                let (made, key_pem) = Self::new()?;
                // The key first: a certificate without one is of no use to anybody.
                files.write(key_path, key_pem.as_bytes(), 0o600)?;
                files.write(cert_path, made.pem.as_bytes(), 0o644)?;
                Ok((made, files))
            }
        }
    }

    fn load(cert_path: &Path, key_path: &Path) -> Result<Self, AuthorityError> {
        let read = |path: &Path| {
            let file = |source| AuthorityError::File { path: path.to_owned(), source };
            read_pem(path).map_err(file)
        };
        let wrong = |path: &Path, problem: String| AuthorityError::Content {
            path: path.to_owned(),
            problem,
        };
        let cert_pem = read(cert_path)?;
        let key_pem = Zeroizing::new(read(key_path)?);
        let certificate = CertificateDer::from_pem_slice(&cert_pem)
            .map_err(|error| wrong(cert_path, format!("no certificate in PEM: {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(&key_pem)
            .map_err(|error| wrong(key_path, format!("no private key in PEM: {error}")))?;
        check(&certificate).map_err(|problem| wrong(cert_path, problem))?;
        let pair = CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider());
        pair.map_err(|error| {
            let problem = format!("not the key of {}: {error}", cert_path.display());
            wrong(key_path, problem)
        })?;
        let key = KeyPair::try_from(&key).map_err(|error| wrong(key_path, error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| wrong(cert_path, error.to_string()))?;
        let pem =
            String::from_utf8(cert_pem).map_err(|_| wrong(cert_path, "not a text".to_owned()))?;
        Ok(Self { issuer, certificate, pem })
    }

    /// The certificate, for the guest's trust store.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }
}

/// Files that are new, which go again unless they are kept.
#[derive(Default)]
#[must_use]
pub(crate) struct NewFiles(Vec<PathBuf>);

impl NewFiles {
    fn write(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
        write_new(path, content, mode)?;
        self.0.push(path.to_owned());
        Ok(())
    }

    /// They are there to stay.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a file of an authority stays");
            }
        }
    }
}

/// Whether `certificate` may sign others now.
fn check(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    let (_, parsed) = parsed.map_err(|error| format!("no X.509 certificate: {error}"))?;
    if !parsed.is_ca() {
        return Err("not an authority's: its basic constraints don't say CA".to_owned());
    }
    let signs = parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if !signs {
        return Err("not an authority's: its key usage does not let it sign".to_owned());
    }
    if !parsed.validity().is_valid() {
        return Err(format!("valid until {} only", parsed.validity().not_after));
    }
    Ok(())
}

/// Writes a file that is not there yet: all of it, or nothing.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let file = |source| AuthorityError::File { path: path.to_owned(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        // Unlike a rename this fails where somebody else has made the file meanwhile.
        std::fs::hard_link(&partial, path)
    };
    let written = write();
    // It is a second name of the file by now, or was never one.
    let _ = std::fs::remove_file(&partial);
    written.map_err(file)
}

/// A key for leaves, which is made for each network and kept in memory only.
pub(super) struct LeafKey {
    pub(super) pair: KeyPair,
    pub(super) signing: Arc<dyn rustls::sign::SigningKey>,
}

impl LeafKey {
    pub(super) fn make() -> Result<Self, AuthorityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signing = provider().key_provider.load_private_key(der);
        let signing = signing.map_err(|error| AuthorityError::Signing(error.to_string()))?;
        Ok(Self { pair, signing })
    }
}
