//! A connection whose TLS ends here, or whose HTTP is relayed: its bytes go to a task, and come
//! from one.
//!
//! Owns the driver's side of the pipe between them; must not know what the task does. Who calls
//! when the pipe has more puts the flow on a list, and wakes the driver.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use sluicegate_core::{Beginning, Event, FlowId, Instant, Outside, Refusal};
use tokio::runtime::Handle;

use super::names::{NameStream, Names, Way};
use super::{Flow, Flows, HostEngine, Served, dial, socket};
use crate::intercept::{Call, Interceptor, Pipe, Read, Write};
use crate::wake::DriverWake;

/// What the engine said of a flow that is intercepted.
pub(super) struct Said {
    pub(super) to: Outside,
    pub(super) guest_port: u16,
    pub(super) begins: Beginning,
    pub(super) name: Option<String>,
    pub(super) is_veiled: bool,
    pub(super) is_denied: bool,
}

/// What begins sessions.
pub(crate) struct Tls {
    /// Who ends TLS on connections that are new, if anybody.
    pub(crate) interceptor: Option<Arc<Interceptor>>,
    pub(crate) runtime: Handle,
    pub(crate) ready: Arc<ReadyList>,
}

/// The flows whose pipes have something.
pub(crate) struct ReadyList {
    flows: Mutex<Vec<u32>>,
    wake: Arc<DriverWake>,
}

impl ReadyList {
    pub(crate) fn new(wake: Arc<DriverWake>) -> Arc<Self> {
        Arc::new(Self { flows: Mutex::default(), wake })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One flow's place on the list.
pub(super) struct Bell {
    index: u32,
    is_listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut flows = self.list.lock();
        flows.push(self.index);
        let is_first = flows.len() == 1;
        drop(flows);
        if is_first {
            self.list.wake.ring();
        }
    }
}

/// One connection.
pub(super) struct TlsFlow {
    id: FlowId,
    pipe: Pipe,
    bell: Arc<Bell>,
    /// Bytes of the guest wait for the pipe to take more.
    is_blocked: bool,
    has_failed: bool,
    /// The task has finished.
    is_ended: bool,
    /// What is asked inside, where that is names.
    pub(super) names: Option<NameStream>,
}

impl TlsFlow {
    /// Gives the task what the guest has sent, as far as there is room. False: it hears no more.
    pub(super) fn send(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        self.is_blocked = false;
        loop {
            let pipe = &mut self.pipe;
            let mut said = Write::Full;
            let taken = engine.take_from_guest(now, self.id, |bytes| {
                said = pipe.write(bytes);
                match said {
                    Write::Some(taken) => taken,
                    Write::Full | Write::Broken => 0,
                }
            });
            match said {
                _ if taken.is_none() => return true,
                Write::Some(_) => {}
                Write::Full => {
                    self.is_blocked = true;
                    return true;
                }
                Write::Broken => {
                    self.has_failed = true;
                    return false;
                }
            }
        }
    }

    /// The guest has finished, and all of what it said was taken.
    pub(super) fn finish(&mut self) {
        self.pipe.finish();
    }

    /// Both ways have ended in order.
    pub(super) fn close(&mut self) {
        self.pipe.close();
    }

    /// Moves what can be moved both ways, within the flow's budget.
    pub(super) fn serve(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        names: &mut Names,
    ) -> Served {
        // Whoever calls from now on means something new.
        self.bell.is_listed.store(false, Ordering::Release);
        let mut is_behind = false;
        if let Some(stream) = &mut self.names {
            match stream.serve((engine, now), names) {
                Served::Waits => {}
                Served::Again => is_behind = true,
                served @ (Served::NoRoom | Served::Spoken | Served::Ended) => return served,
            }
        }
        if self.is_blocked {
            self.send(engine, now);
        }
        if !self.is_ended
            && let Some(served) = self.receive(engine, now)
        {
            return match served {
                Served::Waits if is_behind => Served::Again,
                Served::Waits | Served::Again | Served::NoRoom => served,
                Served::Spoken | Served::Ended => served,
            };
        }
        if self.is_ended && (self.has_failed || self.pipe.is_broken()) {
            engine.handle(now, Event::OutsideReset { flow: self.id });
            return Served::Ended;
        }
        if is_behind { Served::Again } else { Served::Waits }
    }

    /// `None`: there is no more for now.
    fn receive(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> Option<Served> {
        let mut budget = engine.turn_max().flow_bytes;
        loop {
            let pipe = &mut self.pipe;
            let mut got = Read::Nothing;
            let given = engine.give_to_guest(self.id, |space| {
                got = pipe.read(space);
                match got {
                    Read::Some(len) => len,
                    Read::Nothing | Read::Finished | Read::Broken => 0,
                }
            });
            if given.is_none() {
                return Some(Served::Waits); // the engine says when there is room
            }
            match got {
                Read::Some(len) => {
                    budget = budget.saturating_sub(len);
                    if budget == 0 {
                        return Some(Served::Again);
                    }
                }
                Read::Nothing => return None,
                Read::Finished => {
                    self.is_ended = true;
                    engine.handle(now, Event::OutsideFinished { flow: self.id });
                    return None;
                }
                Read::Broken => {
                    engine.handle(now, Event::OutsideReset { flow: self.id });
                    return Some(Served::Ended);
                }
            }
        }
    }
}

impl Flows {
    /// Begins a flow that is intercepted, unless its name is one that passes untouched.
    pub(super) fn intercept(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        flow: FlowId,
        call: &Said,
    ) {
        let asks = matches!(call.to, Outside::Names(_));
        let passes = !call.is_veiled && !call.is_denied && !asks;
        let tls = &self.tls;
        let interceptor = tls.interceptor.as_ref();
        // What the guest says to a welcome of ours is no server's, whatever its name.
        let is_welcomed = call.begins == Beginning::Welcomed;
        let destination = match call.to {
            Outside::HostLoopback(to) | Outside::Remote(to) | Outside::Names(to) => to,
        };
        let name = call.name.as_deref();
        let is_bound = name.is_some_and(|name| engine.is_bound(now, destination.ip(), name));
        let ends = |it: &&Arc<Interceptor>| !passes || is_welcomed || !it.bypasses(name, is_bound);
        let Some(interceptor) = interceptor.filter(ends) else {
            assert!(!asks, "because names over TLS are asked only of who ends TLS");
            assert!(!is_welcomed, "because who relays welcomes");
            return self.connect(engine, now, flow, call.to);
        };
        let proxied = self.dialler.as_ref().zip(dial::remote(call.to));
        let through_proxy =
            proxied.and_then(|(dialler, address)| dialler.target((engine, now), flow, address));
        let call = Call {
            guest: SocketAddr::new(engine.guest(destination.ip()), call.guest_port),
            destination,
            to: socket::addresses(call.to),
            through_proxy,
            name: call.name.clone(),
            is_bound,
            begins: call.begins,
            is_denied: call.is_denied,
            open_to: None,
        };
        let (bell, waker) = self.bell(flow);
        let begun = if asks {
            let begun = interceptor.begin_names(call, &tls.runtime, waker);
            begun.map(|(pipe, end)| (pipe, Some(end)))
        } else {
            interceptor.begin(call, &tls.runtime, waker).map(|pipe| (pipe, None))
        };
        let Some((pipe, end)) = begun else {
            let refusal = Refusal::Exhausted;
            self.count(refusal);
            return engine.handle(now, Event::ConnectFailed { flow, refusal });
        };
        let names = end.map(|end| self.begin_stream((engine, now), flow, Way::Tls(end)));
        self.begin_pipe(flow, (pipe, bell), names);
        engine.handle(now, Event::Connected { flow });
    }

    /// What a task of `flow` calls by.
    pub(super) fn bell(&self, flow: FlowId) -> (Arc<Bell>, Waker) {
        let (is_listed, list) = (AtomicBool::new(false), Arc::clone(&self.tls.ready));
        let bell = Arc::new(Bell { index: flow.index, is_listed, list });
        let waker = Waker::from(Arc::clone(&bell));
        (bell, waker)
    }

    /// Serves `flow` by a pipe from now on.
    pub(super) fn begin_pipe(
        &mut self,
        flow: FlowId,
        (pipe, bell): (Pipe, Arc<Bell>),
        names: Option<NameStream>,
    ) {
        let (is_blocked, has_failed, is_ended) = (false, false, false);
        let begun = TlsFlow { id: flow, pipe, bell, is_blocked, has_failed, is_ended, names };
        self.insert(flow, Flow::Tls(Box::new(begun)));
        // What the task has to say may come before any edge.
        self.enqueue(flow.index);
    }

    /// Ends TLS by `interceptor` on connections that are new; the others keep theirs.
    pub(crate) fn replace_interceptor(&mut self, interceptor: Option<Arc<Interceptor>>) {
        self.tls.interceptor = interceptor;
    }

    /// Queues the flows whose pipes have something.
    pub(super) fn serve_pipes(&mut self) {
        let listed = core::mem::take(&mut *self.tls.ready.lock());
        for index in listed {
            self.enqueue(index);
        }
    }
}
