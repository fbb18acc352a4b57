//! How a network asks its VMM to end the guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What runs when the network decides that the guest must end.
type Hook = Arc<dyn Fn() + Send + Sync>;

/// Sets what runs when the network decides that the guest must end, as a violation of policy may
/// ask for.
#[derive(Clone, Default)]
pub struct TerminationHandle {
    hook: Arc<Mutex<Option<Hook>>>,
    has_fired: Arc<AtomicBool>,
}

impl TerminationHandle {
    /// Sets the hook, in place of an earlier one. It must not block. It is called once in a
    /// network's life, by one of the embedder's runtime threads.
    pub fn set_hook(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// The guest must end.
    pub(crate) fn fire(&self) {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook
            && !self.has_fired.swap(true, Ordering::AcqRel)
        {
            hook();
        }
    }
}
