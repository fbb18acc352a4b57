//! What an operator is told of intercepted connections, within a budget.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use sluicegate_core::Instant;

use super::Call;
use crate::clock::Clock;
use crate::events::{Audience, Incident, Intercepted, NetworkEvent};
use crate::metrics::{Published, since};
use crate::service::secrets::{Violation, ViolationAction};
use crate::termination::TerminationHandle;

/// Events of a second that are told; a guest must not fill anybody's log.
const PER_SECOND_MAX: u32 = 100;

/// Tells of what was refused.
pub(crate) struct Reporter {
    audience: Arc<Audience>,
    clock: Clock,
    termination: TerminationHandle,
    pub(super) published: Arc<Published>,
    budget: Mutex<Budget>,
}

#[derive(Default)]
struct Budget {
    second: u64,
    told: u32,
    left_out: u64,
}

impl Budget {
    /// How many were left out before the next that is told; `None`: it is left out, too.
    fn take(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= PER_SECOND_MAX {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(core::mem::take(&mut self.left_out))
    }
}

impl Reporter {
    pub(crate) fn new(
        audience: Arc<Audience>,
        clock: Clock,
        termination: TerminationHandle,
        published: Arc<Published>,
    ) -> Self {
        Self { audience, clock, termination, published, budget: Mutex::default() }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Counts how long the handshakes took that began at `began`.
    pub(super) fn note_handshakes(&self, began: Instant) {
        self.published.times.tls.note(since(began, self.now()));
    }

    /// Counts a stream of HTTP/2 that was refused, as the network had as many as it may.
    pub(super) fn note_stream_refused(&self) {
        self.published.http_streams_full.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, incident: &Incident) {
        let counted = &self.published.incidents;
        let counter = match incident {
            Incident::Secret { .. } => &counted.secret,
            Incident::Authority { .. } => &counted.authority,
            Incident::Server { .. } => &counted.server,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and tells what there was on `call`.
    pub(super) fn tell(&self, call: &Call, incident: Incident) {
        self.count(&incident);
        let second = self.clock.now().as_millis() / 1000;
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = budget.take(second) else { return };
        drop(budget);
        let incident = incident.shortened();
        self.audience.tell(|| {
            NetworkEvent::Intercepted(Intercepted {
                time: Clock::time_of_day(),
                guest: call.guest,
                destination: call.destination,
                name: call.name.clone(),
                incident,
                left_out,
            })
        });
    }

    /// Tells of a placeholder that was to go where it may not, as its secret wants that told.
    pub(super) fn violation(&self, call: &Call, violation: &Violation) {
        let Violation { env_var, place, .. } = violation;
        let incident = Incident::Secret { env_var: env_var.clone(), place };
        if violation.action == ViolationAction::Block {
            self.count(&incident);
        } else {
            self.tell(call, incident);
        }
        if violation.action == ViolationAction::BlockAndTerminate {
            self.termination.fire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::call;
    use super::*;
    use crate::events::EVENT_TEXT_BYTES_MAX;

    #[test]
    fn an_event_is_no_longer_than_a_line_whatever_was_said() {
        let audience = Arc::<Audience>::default();
        let mut events = audience.subscribe();
        let reporter = Reporter::new(audience, Clock::new(), Default::default(), Arc::default());
        for incident in [
            Incident::Authority { said: "a".repeat(200_000) },
            Incident::Server { problem: "b".repeat(200_000) },
        ] {
            reporter.tell(&call("good.test"), incident);
            let Some(NetworkEvent::Intercepted(told)) = events.try_next() else {
                unreachable!("it was told");
            };
            let len = told.to_string().len();
            assert!((EVENT_TEXT_BYTES_MAX..2 * EVENT_TEXT_BYTES_MAX).contains(&len), "{len} bytes");
        }
    }
}
