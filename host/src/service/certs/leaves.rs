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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::UNIX_EPOCH;

    use x509_parser::extensions::GeneralName;

    use super::*;

    fn leaves(capacity: usize) -> Leaves {
        let authority = Arc::new(Authority::make().unwrap());
        Leaves::new(authority, LeafCacheConfig { capacity, validity_hours: 1 }).unwrap()
    }

    fn name(text: &str) -> Identity {
        Identity::Name(text.to_owned())
    }

    #[test]
    fn it_is_for_whom_it_was_asked_for_and_valid_as_long_as_the_configuration_says() {
        let leaves = leaves(9);
        let v4 = IpAddr::from([192, 0, 2, 7]);
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]);
        let bytes = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let (v4_bytes, v6_bytes) = (bytes(v4), bytes(v6));
        for (identity, expected) in [
            (name("good.test"), GeneralName::DNSName("good.test")),
            (Identity::Address(v4), GeneralName::IPAddress(&v4_bytes)),
            (Identity::Address(v6), GeneralName::IPAddress(&v6_bytes)),
        ] {
            let seconds = || Clock::time_of_day().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let before = seconds();
            let leaf = leaves.of(&identity).unwrap();
            let after = seconds();
            assert_eq!(leaf.cert[1..], [leaves.authority().certificate.clone()], "{identity:?}");
            let (_, parsed) = x509_parser::parse_x509_certificate(&leaf.cert[0]).unwrap();
            let names = parsed.subject_alternative_name().unwrap().unwrap();
            assert_eq!(names.value.general_names, [expected], "{identity:?}");
            let validity = parsed.validity();
            let [begin, end] = [validity.not_before, validity.not_after]
                .map(|time| u64::try_from(time.timestamp()).unwrap());
            // A guest's clock may be slow by a day.
            assert!((before..=after).contains(&(begin + 24 * 3600)), "{identity:?}: {begin}");
            assert_eq!(end - begin, (24 + 1) * 3600, "{identity:?}");
            assert!(!parsed.is_ca(), "{identity:?}");
        }
    }

    #[test]
    fn those_that_were_used_last_are_kept_as_many_as_may_be_and_as_long_as_they_are_valid() {
        let mut leaves = leaves(2);
        let first = leaves.of(&name("a.test")).unwrap();
        leaves.of(&name("b.test")).unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.of(&name("a.test")).unwrap()), "it is kept");
        let third = leaves.of(&name("c.test")).unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.of(&name("a.test")).unwrap()), "it was used");
        assert!(Arc::ptr_eq(&third, &leaves.of(&name("c.test")).unwrap()));
        leaves.of(&name("b.test")).unwrap();
        assert!(!Arc::ptr_eq(&first, &leaves.of(&name("a.test")).unwrap()), "it had to go");
        assert_eq!(leaves.made.lock().unwrap().len(), 2);
        // One that ends too soon to begin a connection with is no longer shown.
        leaves.validity = REST;
        let short = leaves.of(&name("d.test")).unwrap();
        assert!(!Arc::ptr_eq(&short, &leaves.of(&name("d.test")).unwrap()));
    }

    #[test]
    fn whoever_asks_at_a_time_gets_one_that_is_made_once() {
        const THREADS: usize = 8;
        let (leaves, start) = (leaves(9), Barrier::new(THREADS));
        let made: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                start.wait();
                leaves.of(&name("good.test")).unwrap()
            };
            let asking: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|leaf| Arc::ptr_eq(leaf, &made[0])));
    }
}
