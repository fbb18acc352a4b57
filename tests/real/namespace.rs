//! A network namespace that lives as long as its value.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process;

/// A network namespace of `ip netns`, with a name that no other has.
pub(crate) struct Namespace {
    name: String,
    descriptor: OwnedFd,
}

impl Namespace {
    /// A new one. Its loopback interface is up.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluicegate-{}-{count}", std::process::id());
        process::succeed(Command::new("ip").args(["netns", "add", &name]));
        let descriptor = sluicegate_host::netns::open(&name).unwrap();
        let namespace = Self { name, descriptor };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `inside` in it, on another thread. Sockets that are made there stay there.
    pub(crate) fn inside<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        sluicegate_host::netns::within(self.descriptor.as_fd(), inside).unwrap()
    }

    /// A command that will run in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Configures it: `ip` with `arguments`, which are split at blanks.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut command = Command::new("ip");
        process::succeed(command.args(["-n", &self.name]).args(arguments.split_whitespace()));
    }

    /// Writes `value` to a file below /proc/sys/net of the namespace.
    pub(crate) fn set(&self, file: &str, value: &str) {
        self.inside(|| std::fs::write(format!("/proc/sys/net/{file}"), value)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing is left to be done where this fails.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
