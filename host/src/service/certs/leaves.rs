//! The certificates that the guest is shown, one for each server.
//!
//! They are made when they are needed, one at a time, by whoever needs one (some 100 µs; never the
//! driver's thread), and the last that were used are kept. All of a network have one key.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::sign::CertifiedKey;

use super::Authority;
use super::authority::{CLOCK_SLACK, LeafKey};
use crate::clock::Clock;
use crate::config::tls::LeafCacheConfig;
use crate::error::AuthorityError;

/// A certificate that ends sooner is made anew.
const REST: Duration = Duration::from_secs(300);

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// A name; in lower case, without a dot at its end.
    Name(String),
    /// An address, where the guest said no name.
    Address(IpAddr),
}

/// The certificates of one network.
pub(crate) struct Leaves {
    authority: Arc<Authority>,
    key: LeafKey,
    validity: Duration,
    made: Mutex<LruCache<Identity, Leaf>>,
}

struct Leaf {
    certified: Arc<CertifiedKey>,
    not_after: SystemTime,
}

impl Leaves {
    pub(crate) fn new(
        authority: Arc<Authority>,
        cache: LeafCacheConfig,
    ) -> Result<Self, AuthorityError> {
        let capacity = NonZeroUsize::new(cache.capacity).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            authority,
            key: LeafKey::make()?,
            validity: Duration::from_secs(cache.validity_hours * 3600),
            made: Mutex::new(LruCache::new(capacity)),
        })
    }

    /// Who signs them.
    pub(crate) const fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The certificate of `identity`, with its chain and key.
    pub(crate) fn of(&self, identity: &Identity) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let now = Clock::time_of_day();
        // Under the lock: a guest that asks for a thousand names has one made at a time.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = made.get(identity)
            && leaf.not_after > now + REST
        {
            return Ok(Arc::clone(&leaf.certified));
        }
        let leaf = self.make(identity, now)?;
        let certified = Arc::clone(&leaf.certified);
        made.put(identity.clone(), leaf);
        Ok(certified)
    }

    fn make(&self, identity: &Identity, now: SystemTime) -> Result<Leaf, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        let san = match identity {
            Identity::Name(name) => {
                let text = Ia5String::try_from(name.as_str());
                let text = text.map_err(|error| AuthorityError::Signing(error.to_string()))?;
                SanType::DnsName(text)
            }
            Identity::Address(address) => SanType::IpAddress(*address),
        };
        // There must be a subject (RFC 5280 4.1.2.6; kdig gives up without one), whose name holds
        // 64 characters at most (appendix A). Whom it is for is not read there.
        let text = match identity {
            Identity::Name(name) if name.len() <= 64 => name.clone(),
            Identity::Name(_) => "a name of more than 64 characters".to_owned(),
            Identity::Address(address) => address.to_string(),
        };
        params.distinguished_name.push(DnType::CommonName, text);
        params.subject_alt_names = vec![san];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let not_after = now + self.validity;
        params.not_before = (now - CLOCK_SLACK).into();
        params.not_after = not_after.into();
        let leaf = params.signed_by(&self.key.pair, &self.authority.issuer)?;
        let chain = vec![leaf.der().clone(), self.authority.certificate.clone()];
        let certified = CertifiedKey::new(chain, Arc::clone(&self.key.signing));
        Ok(Leaf { certified: Arc::new(certified), not_after })
    }
}
