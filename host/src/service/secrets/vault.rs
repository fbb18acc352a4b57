//! The secrets of a network as they are now, and who changes them.
//!
//! Owns that one snapshot takes the place of another, and is told so; must not know what is in one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use sluicegate_core::ConfigError;

use super::{Current, Secret, Snapshot, read};
use crate::config::secrets::{SecretConfig, SecretsConfig, check_value};
use crate::config::{HostPattern, SecretValue};

/// The secrets of a network, which may change while it runs.
pub(crate) struct Vault {
    current: Arc<Current>,
    /// Held by who changes them.
    changes: Mutex<()>,
}

impl Vault {
    /// The secrets of `config`.
    ///
    /// # Errors
    /// A field that is out of its range, or a value that is not to be had.
    pub(crate) fn new(config: SecretsConfig) -> Result<Self, ConfigError> {
        let config = config.resolve()?;
        let current = Arc::new_cyclic(|current| {
            RwLock::new(Arc::new(Snapshot::new(config, None, Weak::clone(current))))
        });
        Ok(Self { current, changes: Mutex::default() })
    }

    /// The secrets as they are now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        read(&self.current)
    }

    /// What the guest's environment has of them: variable and placeholder.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let current = self.current();
        let pair = |secret: &Arc<Secret>| (secret.env_var.clone(), secret.placeholder.clone());
        current.secrets.iter().map(pair).collect()
    }

    /// Keeps everybody else from changing them meanwhile.
    pub(crate) fn hold(&self) -> Held<'_> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        Held { vault: self, _changes: changes }
    }

    /// Lets `snapshot` hold; whoever made it [holds](Self::hold) the secrets.
    pub(crate) fn set(&self, snapshot: Arc<Snapshot>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, &snapshot) {
            return;
        }
        let old = core::mem::replace(&mut *current, snapshot);
        old.is_old.store(true, Ordering::Release);
    }

    fn change(
        &self,
        change: impl FnOnce(&mut SecretsConfig) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let held = self.hold();
        let mut config = self.current().config.clone();
        change(&mut config)?;
        self.set(held.prepare(config)?);
        Ok(())
    }
}

/// The secrets, which nobody else changes.
pub(crate) struct Held<'v> {
    vault: &'v Vault,
    _changes: MutexGuard<'v, ()>,
}

impl Held<'_> {
    /// What `config` will be; the snapshot there is, if nothing changes. A secret without a value
    /// and without a source keeps the value that the secret of that variable has.
    ///
    /// # Errors
    /// A field that is out of its range, or a value that is not to be had.
    pub(crate) fn prepare(&self, mut config: SecretsConfig) -> Result<Arc<Snapshot>, ConfigError> {
        let current = self.vault.current();
        for secret in &mut config.secrets {
            if secret.source.is_none() && secret.value.reveal().is_empty() {
                let mut known = current.config.secrets.iter();
                let known = known.find(|known| known.env_var == secret.env_var);
                secret.value = known.map_or(SecretValue::default(), |known| known.value.clone());
            }
        }
        let config = config.resolve()?;
        if config == current.config {
            return Ok(current);
        }
        let place = Arc::downgrade(&self.vault.current);
        Ok(Arc::new(Snapshot::new(config, Some(&current), place)))
    }
}

/// Changes the secrets of a network while it runs. Requests whose heads leave afterwards have the
/// new ones, also on connections that are open already; and of one whose body is under way the rest
/// has none any more of those that changed: such a placeholder there is a violation. In responses
/// the values that were are looked for beside those that are, the last 64 of them.
#[derive(Clone)]
pub struct SecretsHandle(pub(crate) Arc<Vault>);

impl SecretsHandle {
    /// Gives the secret of `env_var` a new value.
    ///
    /// # Errors
    /// There is no such secret, or the value can't be one.
    pub fn rotate(&self, env_var: &str, value: String) -> Result<(), ConfigError> {
        let value = crate::config::SecretValue::new(value);
        self.0.change(|config| {
            let secret = find(config, env_var)?;
            check_value(env_var, value.reveal(), secret.substitution.headers)?;
            secret.value = value;
            Ok(())
        })
    }

    /// Removes the secret of `env_var`; its placeholder is a text like any other from now on.
    ///
    /// # Errors
    /// There is no such secret.
    pub fn remove(&self, env_var: &str) -> Result<(), ConfigError> {
        self.0.change(|config| {
            find(config, env_var)?;
            config.secrets.retain(|secret| secret.env_var != env_var);
            Ok(())
        })
    }

    /// Lets these hosts have the secret of `env_var`, and no others.
    ///
    /// # Errors
    /// There is no such secret, or no host.
    pub fn set_allowed_hosts(
        &self,
        env_var: &str,
        hosts: Vec<HostPattern>,
    ) -> Result<(), ConfigError> {
        self.0.change(|config| {
            find(config, env_var)?.allowed_hosts = hosts;
            Ok(())
        })
    }
}

fn find<'c>(
    config: &'c mut SecretsConfig,
    env_var: &str,
) -> Result<&'c mut SecretConfig, ConfigError> {
    let found = config.secrets.iter_mut().find(|secret| secret.env_var == env_var);
    found.ok_or_else(|| ConfigError::new("env_var", env_var, "that of a secret"))
}
