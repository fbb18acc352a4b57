//! Machines under QEMU's emulation (there is no hardware to rely on), whose card is the socket of
//! `sluicegate serve`. Owns how they are started, and what they run; a machine's words come over
//! its serial port.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::guest::{ConfigFile, open_config, sluicegate};
use crate::process::Process;

/// What machines with a Linux kernel boot; made once.
struct Linux {
    kernel: PathBuf,
    initrd: PathBuf,
}

fn linux() -> &'static Linux {
    static MADE: OnceLock<Linux> = OnceLock::new();
    MADE.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/real/machine");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine");
        let mut script = Command::new(here.join("prepare.sh"));
        make(script.arg(&folder).arg(&here));
        Linux { kernel: folder.join("kernel"), initrd: folder.join("initrd") }
    })
}

/// Runs what makes something, and may take minutes for it.
pub(crate) fn make(command: &mut Command) {
    let made = command.output().unwrap();
    assert!(made.status.success(), "{command:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// An engine at a socket, and the folder that it is in.
pub(crate) struct Gateway {
    engine: Process,
    folder: PathBuf,
    _config: ConfigFile,
}

impl Gateway {
    /// The engine of slot 0, with `more` arguments; everything may leave.
    pub(crate) fn new(config: serde_json::Value, more: &[&str]) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("sluicegate-machine-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut config = open_config(config);
        config["policy"]["default_ingress"] = "allow".into();
        let config = ConfigFile::new(&config);
        let mut command = sluicegate();
        command.arg("serve").arg("--socket").arg(folder.join("net.sock"));
        let mut engine = Process::start(command.arg("--config").arg(config.path()).args(more));
        engine.wait_for("ready\n");
        Self { engine, folder, _config: config }
    }

    /// Where the one port that is published is reached.
    pub(crate) fn published(&self) -> SocketAddr {
        let errors = self.engine.errors();
        let place = errors.split_once("published ").and_then(|(_, rest)| rest.split_once(" -> "));
        place.expect("a port is published").0.parse().unwrap()
    }

    /// The socket that a machine's card connects to, as QEMU is told of it.
    pub(crate) fn netdev(&self) -> String {
        let path = self.folder.join("net.sock");
        format!("stream,id=n0,server=off,addr.type=unix,addr.path={}", path.display())
    }

    /// The same, where a frame is a datagram.
    fn netdev_of_datagrams(&self) -> String {
        let (theirs, ours) = (self.folder.join("vm.sock"), self.folder.join("net.sock"));
        let (theirs, ours) = (theirs.display(), ours.display());
        let local = format!("local.type=unix,local.path={theirs}");
        format!("dgram,id=n0,{local},remote.type=unix,remote.path={ours}")
    }

    /// A Linux machine that runs `script` and turns itself off.
    pub(crate) fn boot(&self, script: &str) -> Process {
        self.start(script, (&self.netdev(), false))
    }

    /// The same, whose card speaks datagrams.
    pub(crate) fn boot_with_datagrams(&self, script: &str) -> Process {
        self.start(script, (&self.netdev_of_datagrams(), false))
    }

    /// The same, which may start anew by itself.
    pub(crate) fn boot_that_reboots(&self, script: &str) -> Process {
        self.start(script, (&self.netdev(), true))
    }

    fn start(&self, script: &str, (netdev, reboots): (&str, bool)) -> Process {
        let linux = linux();
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let initrd = self.folder.join(format!("initrd-{number}"));
        let mut archive = std::fs::read(&linux.initrd).unwrap();
        archive.extend(archive_of("test.sh", script.as_bytes()));
        std::fs::write(&initrd, archive).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        // Copies by `rep movsb` are emulated byte by byte: whoever thinks they are fast is slow.
        qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,erms=off", "-m", "128"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
        if !reboots {
            qemu.arg("-no-reboot");
        }
        qemu.arg("-append");
        qemu.arg("console=ttyS0 reboot=t panic=-1 quiet mitigations=off nokaslr cryptomgr.notests");
        qemu.arg("-kernel").arg(&linux.kernel).arg("-initrd").arg(&initrd);
        qemu.args(["-netdev", netdev]);
        qemu.args(["-device", "virtio-net-pci,netdev=n0,romfile=,mac=02:6d:73:00:00:02"]);
        Process::start(&mut qemu)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A cpio archive ("newc") of one executable file, which the kernel unpacks behind another.
fn archive_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = vec![];
    for (name, mode, bytes) in [(name, 0o100_755, bytes), ("TRAILER!!!", 0, &[][..])] {
        let mut fields = [0; 13];
        (fields[1], fields[4], fields[6], fields[11]) = (mode, 1, bytes.len(), name.len() + 1);
        archive.extend(b"070701");
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
