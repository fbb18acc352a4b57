//! Child processes that die with their value, and what they said.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal};

use crate::waiting::{PATIENCE, now, until};

/// A running program. It is killed when the value goes.
pub(crate) struct Process {
    child: Child,
    output: Arc<Said>,
    errors: Arc<Said>,
    readers: Vec<JoinHandle<()>>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its exit status; 128 + N if signal N killed it, as a shell has it.
    pub(crate) code: i32,
    /// All it wrote to its standard output.
    pub(crate) output: String,
    /// All it wrote to its standard error.
    pub(crate) errors: String,
}

/// What a program has written so far.
#[derive(Default)]
struct Said {
    text: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Said {
    fn listen(self: &Arc<Self>, mut to: impl Read + Send + 'static) -> JoinHandle<()> {
        let said = Arc::clone(self);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = to.read(&mut bytes).unwrap_or(0);
                let mut text = said.text.lock().unwrap();
                text.0.extend_from_slice(&bytes[..read]);
                text.1 = read == 0;
                said.more.notify_all();
                if read == 0 {
                    return;
                }
            }
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap().0).into_owned()
    }

    /// Waits until `needle` was said; false: the program ended first, or takes too long.
    fn wait_for(&self, needle: &str) -> bool {
        let end = now() + PATIENCE;
        let mut text = self.text.lock().unwrap();
        loop {
            if String::from_utf8_lossy(&text.0).contains(needle) {
                return true;
            }
            let left = end.saturating_duration_since(now());
            if text.1 || left.is_zero() {
                return false;
            }
            text = self.more.wait_timeout(text, left).unwrap().0;
        }
    }
}

impl Process {
    /// Starts `command`, without an input unless it was given one.
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut process =
            Self { child, output: Arc::default(), errors: Arc::default(), readers: Vec::new() };
        let output = process.child.stdout.take().unwrap();
        let errors = process.child.stderr.take().unwrap();
        process.readers = vec![process.output.listen(output), process.errors.listen(errors)];
        process
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if that was piped; once.
    pub(crate) fn take_input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Waits until it has written `needle` to its standard output.
    ///
    /// # Panics
    /// If it ends before, or takes too long.
    pub(crate) fn wait_for(&mut self, needle: &str) {
        if !self.output.wait_for(needle) {
            let status = self.child.try_wait();
            panic!(
                "{needle:?} was not said ({status:?}); output {:?}, errors {:?}",
                self.output.text(),
                self.errors.text()
            );
        }
    }

    /// What it has written to its standard output so far.
    pub(crate) fn output(&self) -> String {
        self.output.text()
    }

    /// What it has written to its standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.text()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that takes too long.
    pub(crate) fn finish(mut self) -> Finished {
        let mut status = None;
        until("the end of a program", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Finished {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            output: self.output.text(),
            errors: self.errors.text(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end.
pub(crate) fn run(command: &mut Command) -> Finished {
    Process::start(command.stdin(Stdio::null())).finish()
}

/// Runs `command` to its end; returns what it wrote.
///
/// # Panics
/// If it fails.
pub(crate) fn succeed(command: &mut Command) -> String {
    let finished = run(command);
    assert_eq!(finished.code, 0, "{command:?}: {finished:?}");
    finished.output
}
