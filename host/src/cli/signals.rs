//! Signals as something to wait for. Owns which signals a running sub-command takes over and how
//! it hears of them; must not know what they lead to.
//!
//! The signals are blocked and read from a descriptor, so that no code runs inside a signal
//! handler. Threads inherit what is blocked, so [`Signals::block`] comes before the first thread.
//! What is blocked stays so through exec, in programs that are started: [`unblock`] is for them.
//!
//! What whoever started us ignores (nohup SIGHUP, a shell SIGINT for what runs behind it) stays
//! ignored, here and in programs that are started. A signal that is blocked would come all the
//! same. SIGCHLD alone is never ignored: the kernel would tell of no child's end.

use std::io;
use std::sync::mpsc::Sender;

use nix::sys::signal::{self, SigHandler, SigSet, Signal};
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
    /// The network wants the guest to end (`block-and-terminate`).
    GuestMustEnd,
}

/// The signals that were taken over.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Takes over the signals that ask for something, unless they are ignored, and SIGCHLD.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = taken_over();
        // First, as their dispositions are changed for a moment.
        set.thread_block()?;
        let mut ignored = SigSet::empty();
        for signal in set.iter() {
            if signal != Signal::SIGCHLD && is_ignored(signal)? {
                ignored.add(signal);
            }
        }
        set_disposition(Signal::SIGCHLD, SigHandler::SigDfl)?;
        for signal in ignored.iter() {
            set.remove(signal);
        }
        ignored.thread_unblock()?;
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

/// Whether whoever started us ignores `signal`, which is blocked. There is no way to ask that does
/// not set it too.
fn is_ignored(signal: Signal) -> io::Result<bool> {
    let before = set_disposition(signal, SigHandler::SigDfl)?;
    set_disposition(signal, before)?;
    Ok(matches!(before, SigHandler::SigIgn))
}

/// Sets what `signal` does; returns what it did.
fn set_disposition(signal: Signal, disposition: SigHandler) -> io::Result<SigHandler> {
    // SAFETY: what is set is the default, or what was there before: no new code runs by it.
    #[allow(unsafe_code, reason = "a disposition may be a function of any kind")]
    Ok(unsafe { signal::signal(signal, disposition) }?)
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
