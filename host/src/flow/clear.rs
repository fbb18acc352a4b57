//! A connection in the clear of a network that has secrets: what its two sides say first tells what
//! becomes of it.
//!
//! ```text
//! the guest's first bytes:  TLS -> as it is     bytes -> looked at     HTTP, or the like -> a task
//! the server's, before it:                      bytes -> looked at     HTTP/2's          -> a task
//! ```
//!
//! So whoever waits for its server (SSH, SMTP, MySQL) is not kept waiting, and what is not HTTP
//! goes on as it would without secrets: from the engine's buffer to the socket, past whom it is
//! looked at with. Owns the decision, and how a socket is handed over; must not know what is looked
//! for (`intercept/watch`), nor what a task does.

use std::sync::Arc;

use sluicegate_core::{Beginning, Event, FlowId, Instant, Refusal};

use super::tcp::TcpFlow;
use super::{Flow, Flows, HostEngine, Slot};
use crate::intercept::{Call, First, Interceptor, Watch, first_of_guest, is_of_server_of_http};
use crate::metrics::since;

/// What becomes of what the guest says on a socket.
pub(super) enum Look {
    /// It passes.
    No,
    /// Neither side has spoken yet.
    First(Arc<Interceptor>),
    /// It passes as far as it may.
    At(Box<Watched>),
}

/// A connection that is looked at.
pub(super) struct Watched {
    watch: Watch,
    /// So many of the bytes that come next were looked at, and not written.
    seen: usize,
}

/// A placeholder was found.
pub(super) struct Found;

impl Look {
    /// Writes `bytes` with `write` as far as they may pass; it returns how many it wrote.
    pub(super) fn pass<E>(
        &mut self,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Result<Result<usize, E>, Found> {
        let Self::At(watched) = self else { return Ok(write(bytes)) };
        if !watched.watch.may_pass(bytes.get(watched.seen..).unwrap_or(&[])) {
            return Err(Found);
        }
        watched.seen = bytes.len();
        let written = write(bytes);
        watched.seen -= written.as_ref().copied().unwrap_or(0).min(bytes.len());
        Ok(written)
    }
}

impl Flows {
    /// What is to become of what the guest says on a connection that begins now.
    pub(super) fn look(&self) -> Look {
        let interceptor = self.tls.interceptor.as_ref().filter(|it| it.looks());
        interceptor.map_or(Look::No, |it| Look::First(Arc::clone(it)))
    }

    /// `flow`, if nobody has spoken on it yet, and what decides.
    fn undecided(&mut self, flow: FlowId) -> Option<(&mut TcpFlow, Arc<Interceptor>)> {
        let Slot { flow: Flow::Tcp(tcp), .. } = self.slot(flow)? else { return None };
        let Look::First(interceptor) = tcp.look() else { return None };
        let interceptor = Arc::clone(interceptor);
        Some((tcp, interceptor))
    }

    /// The guest has said something on `flow`: if it is the first that is said, decides.
    pub(super) fn hear_guest(&mut self, engine: &mut HostEngine<'_>, now: Instant, flow: FlowId) {
        let Some((_, interceptor)) = self.undecided(flow) else { return };
        let mut first = First::Bytes;
        let _ = engine.take_from_guest(now, flow, |bytes| {
            first = first_of_guest(bytes);
            0
        });
        self.decide((engine, now), (flow, &interceptor), first);
    }

    /// The outside has said something on `flow` before the guest did, or has ended.
    pub(super) fn hear_outside(&mut self, engine: &mut HostEngine<'_>, now: Instant, flow: FlowId) {
        let Some((tcp, interceptor)) = self.undecided(flow) else { return };
        let mut space = [0; 16];
        let Some(said) = tcp.peek(&mut space) else { return };
        let first = if is_of_server_of_http(said) { First::Http } else { First::Bytes };
        self.decide((engine, now), (flow, &interceptor), first);
    }

    fn decide(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        (flow, interceptor): (FlowId, &Arc<Interceptor>),
        first: First,
    ) {
        let call = match first {
            First::Tls => None,
            First::Bytes | First::Http => call((engine, now), flow),
        };
        let look = match (first, call) {
            (First::Http, Some(call)) => {
                return self.hand_over((engine, now), (flow, call), interceptor);
            }
            (_, call) => call
                .and_then(|call| interceptor.watch(call))
                .map_or(Look::No, |watch| Look::At(Box::new(Watched { watch, seen: 0 }))),
        };
        if let Some(Slot { flow: Flow::Tcp(tcp), .. }) = self.slot(flow) {
            tcp.set_look(look);
        }
    }

    /// Gives the socket of `flow` to a task of `interceptor`.
    fn hand_over(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        (flow, call): (FlowId, Call),
        interceptor: &Arc<Interceptor>,
    ) {
        let index = flow.index as usize;
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        let Flow::Tcp(mut tcp) = slot.flow else { return };
        if let Some(dialled) = tcp.take_dialled() {
            self.published.times.connect.note(since(dialled, now));
        }
        let (bell, waker) = self.bell(flow);
        let (runtime, connection) = (&self.tls.runtime, tcp.into_stream(&self.registry));
        let Some(pipe) = interceptor.begin_clear((call, runtime), connection, waker) else {
            self.count(Refusal::Exhausted);
            return engine.handle(now, Event::OutsideReset { flow });
        };
        self.begin_pipe(flow, (pipe, bell), None);
    }
}

/// What is known of `flow`.
fn call((engine, now): (&HostEngine<'_>, Instant), flow: FlowId) -> Option<Call> {
    let known = engine.flow(flow)?;
    let names = engine.bound_names(now, known.outside.ip()).map(str::to_owned);
    Some(Call {
        guest: known.guest,
        destination: known.outside,
        to: (known.outside, None),
        through_proxy: None,
        name: known.name.map(str::to_owned),
        // It may have what passes by its name, but no value.
        is_bound: false,
        begins: Beginning::Clear,
        is_denied: false,
        open_to: Some(names.collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SecretConfig, SecretValue, SecretsConfig};
    use crate::intercept::fuzz;
    use crate::service::secrets::{SecretsHandle, Vault};

    fn vault() -> Arc<Vault> {
        let value = SecretValue::new("a value".to_owned());
        let secret = SecretConfig::new("KEY", value, "good.test".parse().unwrap());
        let config = SecretsConfig { secrets: vec![secret], ..SecretsConfig::default() };
        Arc::new(Vault::new(config).unwrap())
    }

    fn look(vault: &Arc<Vault>) -> Look {
        let interceptor = fuzz::interceptor(Arc::clone(vault));
        let watch = interceptor.watch(fuzz::call("evil.test")).unwrap();
        Look::At(Box::new(Watched { watch, seen: 0 }))
    }

    #[test]
    fn what_a_full_socket_did_not_take_is_looked_at_once() {
        let mut look = look(&vault());
        let mut pass = |bytes: &[u8], taken| look.pass(bytes, |_| taken).ok();
        // Looked at twice its end and its beginning would be one.
        assert_eq!(pass(b"_KEY $MSB", Err("full")), Some(Err("full")));
        assert_eq!(pass(b"_KEY $MSB", Ok(5)), Some(Ok(5)));
        assert_eq!(pass(b"$MSB_KE", Ok(7)), Some(Ok(7)));
        assert_eq!(pass(b"Y", Ok(1)), None);
    }

    #[test]
    fn the_placeholder_of_a_secret_that_was_removed_is_a_text_like_any_other() {
        let vault = vault();
        let [mut before, mut after] = [look(&vault), look(&vault)];
        let pass = |look: &mut Look| look.pass(b"$MSB_KEY", |all| Ok::<_, ()>(all.len())).is_ok();
        assert!(!pass(&mut before));
        SecretsHandle(vault).remove("KEY").unwrap();
        assert!(pass(&mut after));
    }
}
