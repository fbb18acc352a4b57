//! A table whose members only wait: who is called when.

use std::sync::mpsc::RecvTimeoutError;
use std::thread;

use super::*;

/// Whatever takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(30);

fn end() -> (End, Receiver<Outcome>) {
    let (outcome, told) = sync_channel(1);
    (End { outcome, is_over: Arc::default(), networks: Arc::new(AtomicUsize::new(1)) }, told)
}

#[test]
fn a_network_whose_thread_has_died_is_over_and_takes_no_place() {
    for is_told in [false, true] {
        let (end, told) = end();
        let (is_over, networks) = (Arc::clone(&end.is_over), Arc::clone(&end.networks));
        let running = Running::Pooled(told, is_over);
        assert!(!running.is_over());
        if is_told {
            end.tell(Ok(()));
        } else {
            drop(end);
        }
        assert!(running.is_over());
        assert_eq!(networks.load(Ordering::Relaxed), 0);
        assert_eq!(running.wait().is_ok(), is_told);
    }
}

/// Runs a table at which those sit that `seat` seats, until they have gone; returns how the last
/// of them that `seat` returns ended, after all the others ended well.
fn serve(seat: impl FnOnce(&mut Table) -> Vec<Receiver<Outcome>> + Send + 'static) -> Outcome {
    let (tell, told) = channel();
    thread::spawn(move || {
        let poll = Poll::new().unwrap();
        let wake = DriverWake::new(mio::Waker::new(poll.registry(), WAKE).unwrap());
        // Nobody else comes.
        wake.ring();
        let mut table = Table::new(poll, (channel().1, wake));
        let mut ends = seat(&mut table);
        table.run();
        assert!(table.deadlines.is_empty() && table.queue.is_empty() && table.again.is_none());
        let last = ends.pop().unwrap().recv().unwrap();
        ends.iter().for_each(|end| end.recv().unwrap().unwrap());
        tell.send(last).unwrap();
    });
    match told.recv_timeout(PATIENCE) {
        Ok(last) => last,
        Err(RecvTimeoutError::Timeout) => panic!("somebody is not called"),
        Err(RecvTimeoutError::Disconnected) => panic!("the table or somebody there failed"),
    }
}

/// One that waits once for each of `millis`, and sees to it that it is not called too early.
fn sleeper(table: &mut Table, millis: &'static [u64]) -> Receiver<Outcome> {
    let (end, told) = end();
    let mut poll = Poll::new().unwrap();
    table.seat(poll.as_raw_fd(), end, |mut seat| {
        Box::pin(async move {
            let clock = Clock::new();
            for timeout in millis.iter().map(|millis| Duration::from_millis(*millis)) {
                let began = clock.now().as_micros();
                seat.wait(&mut poll, Some(timeout)).await?;
                let micros = u128::from(clock.now().as_micros() - began);
                assert!(micros >= timeout.as_micros(), "{micros} us of {timeout:?}");
            }
            Ok(())
        })
    });
    told
}

#[test]
fn those_that_wait_for_a_time_are_all_called_and_none_too_early() {
    serve(|table| {
        let all: [&[u64]; 5] = [&[30, 0, 1], &[1, 40], &[0, 0, 0, 20], &[7, 7, 7, 7, 7], &[]];
        all.map(|millis| sleeper(table, millis)).into()
    })
    .unwrap();
}

#[test]
fn one_that_is_called_before_its_time_is_called_once() {
    serve(|table| {
        let mut poll = Poll::new().unwrap();
        // Of both: one that is closed takes its last call with it.
        let waker = Rc::new(mio::Waker::new(poll.registry(), WAKE).unwrap());
        let of_called = Rc::clone(&waker);
        let (called, end_of_called) = end();
        table.seat(poll.as_raw_fd(), called, |mut seat| {
            Box::pin(async move {
                let events = seat.wait(&mut poll, Some(Duration::from_secs(3600))).await?;
                assert_eq!(events.iter().count(), 1);
                // Nothing has come meanwhile: whoever called twice would end this at once.
                let events = seat.wait(&mut poll, Some(Duration::from_millis(5))).await?;
                assert_eq!(events.iter().count(), 0);
                let events = seat.wait(&mut poll, None).await?;
                assert_eq!(events.iter().count(), 1);
                drop(of_called);
                Ok(())
            })
        });
        let (caller, end_of_caller) = end();
        let mut own = Poll::new().unwrap();
        table.seat(own.as_raw_fd(), caller, |mut seat| {
            Box::pin(async move {
                for _ in 0..2 {
                    seat.wait(&mut own, Some(Duration::from_millis(20))).await?;
                    waker.wake().unwrap();
                }
                Ok(())
            })
        });
        vec![end_of_called, end_of_caller]
    })
    .unwrap();
}

#[test]
fn events_that_one_turn_has_no_place_for_are_taken_in_the_next() {
    const SOURCES: usize = 2 * EVENTS_MAX + 1;
    serve(|table| {
        let mut poll = Poll::new().unwrap();
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let sources: Vec<_> =
            (0..SOURCES).map(|_| rustix::event::eventfd(1, flags).unwrap()).collect();
        for (number, source) in sources.iter().enumerate() {
            let fd = source.as_raw_fd();
            let registry = poll.registry();
            registry.register(&mut SourceFd(&fd), Token(number), Interest::READABLE).unwrap();
        }
        let (end, told) = end();
        table.seat(poll.as_raw_fd(), end, |mut seat| {
            Box::pin(async move {
                let mut seen = BTreeSet::new();
                while seen.len() < sources.len() {
                    let events = seat.wait(&mut poll, None).await?;
                    seen.extend(events.iter().map(mio::event::Event::token));
                }
                Ok(())
            })
        });
        vec![told]
    })
    .unwrap();
}

#[test]
fn one_that_panics_is_told_of_and_the_others_go_on() {
    let outcome = serve(|table| {
        let before = sleeper(table, &[20, 1]);
        let (end, told) = end();
        let poll = Poll::new().unwrap();
        table.seat(poll.as_raw_fd(), end, |_| Box::pin(async move { panic!("at once {poll:?}") }));
        vec![before, sleeper(table, &[20, 1]), told]
    });
    let bug = outcome.unwrap_err();
    assert!(matches!(&bug, Error::Bug(text) if text.starts_with("at once")), "{bug}");
}
