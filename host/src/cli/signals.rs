//! Signals as something to wait for. Owns which signals a running sub-command takes over and how
//! it hears of them; must not know what they lead to.
//!
//! The signals are blocked and read from a descriptor, so that no code runs inside a signal
//! handler. Threads inherit what is blocked, so [`Signals::block`] comes before the first thread.
//! What is blocked stays so through exec, in programs that are started: [`unblock`] is for them.

use std::io;
use std::sync::mpsc::Sender;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

/// `si_code` of a signal that the kernel made, a terminal's Ctrl-C for one: it went to the whole
/// foreground process group already.
const FROM_KERNEL: i32 = 0x80;

/// The signals that ask a program to do something.
const REQUESTS: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What a running sub-command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occurrence {
    /// A child process changed its state.
    ChildChanged,
    /// Somebody asks this process for `signal`.
    Asked {
        /// The signal.
        signal: Signal,
        /// The processes that share our terminal have it already.
        group_has_it: bool,
    },
    /// The network ended by itself.
    NetworkEnded,
}

/// The signals that were taken over.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Takes over the signals that ask for something, and SIGCHLD.
    pub(super) fn block() -> io::Result<Self> {
        let set = taken_over();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Tells `to` of every signal from now on, those that came since [`Signals::block`] first.
    pub(super) fn tell(self, to: Sender<Occurrence>) -> io::Result<()> {
        let listen = move || {
            while let Ok(Some(information)) = self.0.read_signal() {
                if to.send(occurrence(&information)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(())
    }
}

/// Gives the signals back to the calling thread and what it executes.
pub(super) fn unblock() -> io::Result<()> {
    Ok(taken_over().thread_unblock()?)
}

fn taken_over() -> SigSet {
    let mut set: SigSet = REQUESTS.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set
}

fn occurrence(information: &siginfo) -> Occurrence {
    let number = i32::try_from(information.ssi_signo).unwrap_or(0);
    match Signal::try_from(number) {
        Ok(signal) if REQUESTS.contains(&signal) => {
            Occurrence::Asked { signal, group_has_it: information.ssi_code == FROM_KERNEL }
        }
        _ => Occurrence::ChildChanged,
    }
}
