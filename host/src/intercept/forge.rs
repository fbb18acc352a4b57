//! A network's interceptors, one after another as its configuration changes.
//!
//! Owns what outlasts each: who signs, which the guest trusts, and the bounds of all connections
//! that end here, whichever configuration they began under. An authority stays where its files are
//! named as before, and so does the one in memory, also while nothing is intercepted, or one of
//! files signs; what the files hold meanwhile is not looked at.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Interceptor, Lasting, Reporter};
use crate::config::{HttpConfig, InterceptCaConfig, TlsConfig};
use crate::error::{AuthorityError, Error};
use crate::outbound::Outbound;
use crate::service::certs::{Authority, NewFiles};
use crate::service::proxy::Proxy;
use crate::service::secrets::Vault;

/// Where interceptors are made, and the one that holds.
pub(crate) struct Forge {
    lasting: Lasting,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    interceptor: Option<Arc<Interceptor>>,
    /// The authorities that have signed: one in memory at most, and the last with files.
    known: Vec<(InterceptCaConfig, Arc<Authority>)>,
}

impl Forge {
    /// Nothing is intercepted yet.
    pub(crate) fn new(held: (Arc<Vault>, Option<Arc<Proxy>>), reporter: Reporter) -> Self {
        Self { lasting: Lasting::new(held, reporter), now: Mutex::default() }
    }

    /// The same, where servers are called from `outbound`.
    pub(crate) fn calling_from(mut self, outbound: Outbound) -> Self {
        self.lasting.outbound = outbound;
        self
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An interceptor as `tls` has it, which does not hold yet, and the files that were made for
    /// it; reads those that are there. `None`: there is to be none.
    ///
    /// # Errors
    /// A file of it, or no certificate can be made.
    pub(crate) fn make(
        &self,
        tls: &TlsConfig,
        page: &HttpConfig,
    ) -> Result<(Option<Arc<Interceptor>>, NewFiles), Error> {
        if !tls.enabled {
            return Ok((None, NewFiles::default()));
        }
        let (authority, files) = self.authority(&tls.intercept_ca)?;
        let made = Interceptor::new(tls, page.clone(), authority, self.lasting.clone())?;
        Ok((Some(Arc::new(made)), files))
    }

    fn authority(
        &self,
        ca: &InterceptCaConfig,
    ) -> Result<(Arc<Authority>, NewFiles), AuthorityError> {
        if let Some((_, authority)) = self.now().known.iter().find(|(known, _)| known == ca) {
            return Ok((Arc::clone(authority), NewFiles::default()));
        }
        let (authority, files) = match (&ca.cert_path, &ca.key_path) {
            (Some(cert_path), Some(key_path)) => Authority::of_files(cert_path, key_path)?,
            (_, None) | (None, _) => (Authority::make()?, NewFiles::default()),
        };
        Ok((Arc::new(authority), files))
    }

    /// Lets `interceptor`, which was [made](Self::make) here, hold from now on.
    pub(crate) fn set(&self, interceptor: Option<Arc<Interceptor>>) {
        let mut now = self.now();
        if let Some(made) = &interceptor {
            let has_files = |ca: &InterceptCaConfig| ca.cert_path.is_some();
            now.known.retain(|(known, _)| has_files(known) != has_files(&made.ca));
            now.known.push((made.ca.clone(), Arc::clone(made.leaves.authority())));
        }
        now.interceptor = interceptor;
    }

    /// The one that holds.
    pub(crate) fn interceptor(&self) -> Option<Arc<Interceptor>> {
        self.now().interceptor.clone()
    }

    /// The certificate of who signs now, as PEM.
    pub(crate) fn authority_pem(&self) -> Option<String> {
        let interceptor = self.interceptor()?;
        Some(interceptor.leaves.authority().pem().to_owned())
    }
}
