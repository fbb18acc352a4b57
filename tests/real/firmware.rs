//! A firmware without an operating system (`core/examples/firmware`) under QEMU: it finds its
//! addresses, fetches a page over the engine, and says so through defmt.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use defmt_decoder::{DecodeError, Table};
use serde_json::json;

use crate::guest::sluicegate;
use crate::machine::{Gateway, make};
use crate::needs;
use crate::process::{self, Process};
use crate::servers::{self, Family};
use crate::waiting::{PATIENCE, until};

/// What the firmware's exit makes of QEMU's: twice 0x10, and one.
const PASSED: i32 = 33;

fn cargo(verb: &str, more: &[&str]) -> Command {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/examples/firmware");
    let mut cargo = Command::new(env!("CARGO"));
    // It has settings of its own beside its manifest.
    cargo.current_dir(&manifest).arg(verb).args(["--locked", "--target-dir"]);
    cargo.arg(target()).args(more);
    cargo
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("firmware")
}

/// The lines that the firmware logged.
fn log(image: &[u8], bytes: &[u8]) -> Vec<String> {
    let table = Table::parse(image).unwrap().expect("the image has a table of messages");
    let mut decoder = table.new_stream_decoder();
    decoder.received(bytes);
    let mut lines = vec![];
    loop {
        match decoder.decode() {
            Ok(frame) => lines.push(frame.display_message().to_string()),
            Err(DecodeError::UnexpectedEof) => return lines,
            Err(DecodeError::Malformed) => panic!("what is logged is malformed: {bytes:?}"),
        }
    }
}

#[test]
fn a_firmware_finds_its_addresses_fetches_a_page_and_answers_one() {
    if !needs::are_met(&["qemu-system-x86_64"]) {
        return;
    }
    make(&mut cargo("build", &[]));
    let image = target().join("debug/firmware");
    for family in [Family::V4, Family::V6] {
        let bind = if family == Family::V4 { "127.0.0.1:0:80" } else { "[::1]:0:80" };
        let gateway = Gateway::new(json!({}), &["--publish", bind]);
        let port = servers::http(servers::listener(family));
        let told = process::succeed(sluicegate().args(["env", "--slot", "0"]));
        let host = if family == Family::V4 { "100.96.0.1" } else { "[fd42:6d73:62::1]" };
        let words = format!("{} slot=0 fetch={host}:{port} answer=80", told.replace('\n', " "));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "microvm,acpi=off,rtc=off,pic=off", "-accel", "tcg", "-cpu", "qemu64"]);
        qemu.args(["-m", "32", "-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-no-reboot", "-global", "virtio-mmio.force-legacy=false"]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-netdev", &gateway.netdev()]);
        qemu.args(["-device", "virtio-net-device,netdev=n0,mac=02:6d:73:00:00:02"]);
        let serial = target().join(format!("serial-{port}"));
        qemu.arg("-serial").arg(format!("file:{}", serial.display()));
        let machine = Process::start(qemu.arg("-kernel").arg(&image).args(["-append", &words]));
        let table = std::fs::read(&image).unwrap();
        let log = || log(&table, &std::fs::read(&serial).unwrap_or_default());
        until("it listens", || log().iter().any(|line| line == "listening on 80"));
        let mut stream = TcpStream::connect(gateway.published()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.ends_with("\r\n\r\nfrom the firmware\n"), "{heard}");
        let finished = machine.finish();
        let log = log();
        assert_eq!(finished.code, PASSED, "{log:?} {finished:?}");
        assert_eq!(log[0], "slot 0, mtu 1500", "{log:?}");
        assert_eq!(log.last().unwrap(), "answered", "{log:?}");
        // The page is empty but for its head.
        assert!(log[1].starts_with("fetched ") && log[1].contains(" bytes, sum "), "{log:?}");
        std::fs::remove_file(&serial).unwrap();
    }
}

/// A binary without an allocator links only if nothing in it, core and all it uses included, needs
/// one; that this is so is shown by one thing that does.
#[test]
fn the_core_links_without_std_and_without_an_allocator_and_what_needs_one_does_not() {
    make(&mut cargo("check", &[]));
    let refused = cargo("check", &["--features", "virtio-drivers/alloc"]).output().unwrap();
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("no global memory allocator found"), "{errors}");
    assert!(!refused.status.success());
}
