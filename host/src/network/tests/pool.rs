//! Networks that share their threads, without a guest: who is served when, and who dies of what.

use std::collections::HashMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;
use crate::adapter::GuestLink;
use crate::driver::pool::DriverPool;
use crate::rings::{RingConsumer, RingProducer};

fn pool(threads: usize) -> DriverPool {
    DriverPool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// A link that has no frames: what it does when it is asked for some.
struct Asked<F>(UnixStream, F);

impl<F: FnMut(bool) -> bool + Send> GuestLink for Asked<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(
        &mut self,
        _: &mut RingProducer,
        _: sluicegate_core::FrameBudget,
    ) -> std::io::Result<bool> {
        let is_called = std::io::Read::read(&mut &self.0, &mut [0; 64]).is_ok();
        Ok((self.1)(is_called))
    }

    fn send(&mut self, _: &mut RingConsumer) -> std::io::Result<bool> {
        Ok(false)
    }
}

/// A network that does `asked` each time that its link is asked for frames, with whether somebody
/// had called it at the end that is returned; `true` asks for another turn.
pub(super) fn asked(
    asked: impl FnMut(bool) -> bool + Send + 'static,
) -> (SmoltcpNetwork, UnixStream) {
    let (caller, link) = UnixStream::pair().unwrap();
    link.set_nonblocking(true).unwrap();
    let mut network = SmoltcpNetwork::try_new(config(Permission::Allow), 0).unwrap();
    network.attach_link(Box::new(Asked(link, asked))).unwrap();
    (network, caller)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Greedy(usize),
    /// The quiet one was called; it is the first greedy one that does so, in its turn.
    Call,
    Quiet,
}

const GREEDY: usize = 4;
const CALLS: usize = 100;

#[test]
fn who_is_called_waits_for_one_turn_at_most_of_each_who_always_has_more() {
    let runtime = runtime();
    let pool = pool(1);
    let turns = Arc::new(Mutex::new(vec![]));
    let (done, is_done) = channel();
    let all_are_there = Arc::<AtomicBool>::default();
    let log = Arc::clone(&turns);
    let mut calls = 0;
    let (mut quiet, caller) = asked(move |is_called| {
        if is_called {
            log.lock().unwrap().push(Turn::Quiet);
            calls += 1;
            if calls == CALLS {
                done.send(()).unwrap();
            }
        }
        false
    });
    quiet.try_start_on(&pool, runtime.handle().clone()).unwrap();
    let mut greedy = vec![];
    let mut caller = Some(caller);
    for number in 0..GREEDY {
        let (log, caller) = (Arc::clone(&turns), caller.take());
        let may_call = Arc::clone(&all_are_there);
        let (mut count, mut calls) = (0, 0);
        let (mut network, end) = asked(move |_| {
            let mut log = log.lock().unwrap();
            log.push(Turn::Greedy(number));
            count += 1;
            if count % 7 == 0
                && calls < CALLS
                && may_call.load(Ordering::Relaxed)
                && let Some(mut caller) = caller.as_ref()
            {
                calls += 1;
                log.push(Turn::Call);
                caller.write_all(b".").unwrap();
            }
            true
        });
        network.try_start_on(&pool, runtime.handle().clone()).unwrap();
        greedy.push((network, end));
    }
    all_are_there.store(true, Ordering::Relaxed);
    is_done.recv_timeout(PATIENCE).unwrap();
    // Whoever is stopped has its turn too.
    quiet.shutdown().unwrap();
    greedy.iter_mut().for_each(|(network, _)| network.shutdown().unwrap());
    let turns = turns.lock().unwrap();
    let calls: Vec<_> = (0..turns.len()).filter(|at| turns[*at] == Turn::Call).collect();
    assert_eq!(calls.len(), CALLS);
    for at in &calls {
        let waited = turns[at + 1..].iter().take_while(|turn| **turn != Turn::Quiet);
        let mut of_each = [0; GREEDY];
        for turn in waited {
            if let Turn::Greedy(number) = turn {
                of_each[*number] += 1;
            }
        }
        assert_eq!(of_each[0], 0, "who called had its turn before");
        assert!(of_each.iter().all(|turns| *turns <= 1), "{of_each:?}");
    }
    // The greedy ones are as fair to each other.
    let numbers = turns[calls[0]..calls[CALLS - 1]].iter().filter_map(|turn| match turn {
        Turn::Greedy(number) => Some(*number),
        Turn::Call | Turn::Quiet => None,
    });
    let mut last = [0; GREEDY];
    for (at, number) in numbers.enumerate() {
        let since = at - core::mem::replace(&mut last[number], at);
        assert!(at < GREEDY || since == GREEDY, "{number} again after {since} turns");
    }
}

#[test]
fn a_network_that_dies_of_a_bug_on_a_shared_thread_leaves_the_others_there() {
    let pool = pool(1);
    one_dies_and_its_neighbour_goes_on(|network, runtime| {
        network.try_start_on(&pool, runtime.handle().clone()).unwrap();
    });
}

#[test]
fn networks_come_and_go_beside_one_that_stays() {
    let (runtime, pool) = (runtime(), pool(1));
    let start = |network: &mut SmoltcpNetwork| {
        network.try_start_on(&pool, runtime.handle().clone()).unwrap();
    };
    let (mut stays, machine) = with_machine();
    start(&mut stays);
    thread::scope(|scope| {
        let come_and_go = || {
            for _ in 0..20 {
                let (mut network, machine) = with_machine();
                start(&mut network);
                exchange(&machine);
                network.shutdown().unwrap();
                assert!(!network.is_running());
            }
        };
        let others: Vec<_> = (0..3).map(|_| scope.spawn(come_and_go)).collect();
        while !others.iter().all(thread::ScopedJoinHandle::is_finished) {
            exchange(&machine);
        }
    });
    exchange(&machine);
    stays.shutdown().unwrap();
}

#[test]
fn a_network_goes_to_the_thread_that_has_the_fewest() {
    let (runtime, pool) = (runtime(), pool(3));
    let start = || {
        let (tell, told) = channel();
        let (mut network, caller) = asked(move |_| {
            tell.send(thread::current().id()).unwrap();
            false
        });
        network.try_start_on(&pool, runtime.handle().clone()).unwrap();
        (told.recv_timeout(PATIENCE).unwrap(), network, caller)
    };
    let mut networks: HashMap<_, Vec<_>> = HashMap::new();
    for _ in 0..6 {
        let (thread, network, caller) = start();
        networks.entry(thread).or_default().push((network, caller));
    }
    let counts: Vec<_> = networks.values().map(Vec::len).collect();
    assert_eq!(counts, [2, 2, 2]);
    let one = *networks.keys().next().unwrap();
    networks.remove(&one);
    let again = [start(), start()];
    assert!(again.iter().all(|(thread, ..)| *thread == one));
}

#[test]
fn a_start_on_a_pool_fails_as_one_alone_and_what_is_held_back_holds_nobody_back() {
    let (runtime, pool) = (runtime(), pool(1));
    let start =
        |network: &mut SmoltcpNetwork| network.try_start_on(&pool, runtime.handle().clone());
    let (config, taken) = published();
    let port = config.ports[0].host();
    let mut refused = SmoltcpNetwork::try_new(config.clone(), 0).unwrap();
    let error = start(&mut refused).unwrap_err();
    assert!(matches!(error, Error::Publish { port: named, .. } if named == port), "{error}");
    // What the engine refuses comes from the thread of the pool.
    let mut refused = SmoltcpNetwork::try_new(NetworkConfig::default(), 0).unwrap();
    refused.config.link.receive_frame_bytes = 1;
    let error = start(&mut refused).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert!(!refused.is_running());
    assert!(matches!(start(&mut refused), Err(Error::AlreadyStarted)));

    let mut held = SmoltcpNetwork::try_new(config, 0).unwrap();
    let activation = held.defer_activation();
    start(&mut held).unwrap();
    assert!(held.is_running());
    activation.activate().unwrap_err();
    let (mut other, machine) = with_machine();
    start(&mut other).unwrap();
    exchange(&machine);
    drop(taken);
    activation.activate().unwrap();
    std::net::TcpStream::connect(port).unwrap();
    assert!(matches!(start(&mut held), Err(Error::AlreadyStarted)));
    held.shutdown().unwrap();
    let mut never = SmoltcpNetwork::try_new(NetworkConfig::default(), 0).unwrap();
    let _activation = never.defer_activation();
    start(&mut never).unwrap();
    never.shutdown().unwrap();
    exchange(&machine);
}
