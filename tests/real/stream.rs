//! `sluicegate serve`: a machine whose card is a Unix socket, here a test that speaks for it.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::guest::{ConfigFile, open_config, sluicegate};
use crate::process::{self, Process};
use crate::rates::{AT_LEAST, AT_MOST};
use crate::waiting::{PATIENCE, timed, until};

/// A folder of its own for a test's sockets.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("sluicegate-serve-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("net.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The engine at `path`, with `more` arguments.
fn serve(path: &Path, more: &[&str]) -> Process {
    let mut command = sluicegate();
    command.arg("serve").arg("--socket").arg(path).args(["--egress", "allow"]).args(more);
    let mut engine = Process::start(&mut command);
    engine.wait_for("ready\n");
    engine
}

/// A request for the MAC address of the gateway of slot 0, as its guest asks.
fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0x6d, 0x73, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0x6d, 0x73, 0, 0, 2, 100, 96, 0, 2, 0, 0, 0, 0, 0, 0, 100, 96, 0, 1]);
    frame
}

/// Whether `frame` says that the gateway is at its MAC address.
fn is_arp_answer(frame: &[u8]) -> bool {
    frame.get(12..22) == Some(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2])
        && frame.get(22..32) == Some(&[2, 0x6d, 0x73, 0, 0, 1, 100, 96, 0, 1])
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The next frame that is no advertisement of the gateway's own.
fn receive(mut stream: &UnixStream) -> Vec<u8> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).unwrap();
        if frame.get(12..14) == Some(&[8, 6]) {
            return frame;
        }
    }
}

/// Asks for the gateway and hears of it.
fn exchange(mut stream: &UnixStream) {
    stream.write_all(&framed(&arp_request())).unwrap();
    assert!(is_arp_answer(&receive(stream)));
}

fn is_closed(mut stream: &UnixStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn frames_cross_in_any_pieces_and_many_at_a_time() {
    let folder = Folder::new();
    let engine = serve(&folder.socket(), &[]);
    let mut stream = connect(&folder.socket());
    for byte in framed(&arp_request()) {
        stream.write_all(&[byte]).unwrap();
    }
    assert!(is_arp_answer(&receive(&stream)));
    stream.write_all(&framed(&arp_request()).repeat(500)).unwrap();
    assert!((0..500).all(|_| is_arp_answer(&receive(&stream))));
    engine.signal(Signal::TERM);
    assert_eq!(engine.finish().code, 0);
    assert!(!folder.socket().exists(), "the path goes with its owner");
}

#[test]
fn a_machine_that_is_limited_is_heard_as_fast_as_it_may() {
    let folder = Folder::new();
    // 100 frames a second: of 220 a full bucket at once.
    let bucket = json!({ "ops": { "size": 20, "refill_time_ms": 200 } });
    let config = ConfigFile::new(&open_config(json!({ "rate_limiter": { "egress": bucket } })));
    let path = config.path().to_str().unwrap();
    let _engine = serve(&folder.socket(), &["--config", path]);
    let mut stream = connect(&folder.socket());
    let ((), took) = timed(|| {
        stream.write_all(&framed(&arp_request()).repeat(220)).unwrap();
        assert!((0..220).all(|_| is_arp_answer(&receive(&stream))));
    });
    assert!((AT_LEAST..AT_MOST).contains(&took), "{took:?}");
}

#[test]
fn one_machine_at_a_time_and_the_next_when_it_has_gone() {
    let folder = Folder::new();
    let engine = serve(&folder.socket(), &[]);
    let first = connect(&folder.socket());
    exchange(&first);
    let second = connect(&folder.socket());
    assert!(is_closed(&second), "it is turned away");
    exchange(&first);
    for _ in 0..20 {
        let before = first.try_clone().unwrap();
        before.shutdown(std::net::Shutdown::Both).unwrap();
        let next = (0..).map(|_| connect(&folder.socket())).find(|stream| {
            let mut stream = stream;
            stream.write_all(&framed(&arp_request())).is_ok() && stream.peek_is_open()
        });
        exchange(&next.unwrap());
    }
    drop(engine);
}

/// Whether a stream stays open until something comes.
trait PeekIsOpen {
    fn peek_is_open(&self) -> bool;
}

impl PeekIsOpen for UnixStream {
    fn peek_is_open(&self) -> bool {
        let mut byte = [0; 1];
        let flags = rustix::net::RecvFlags::PEEK;
        matches!(rustix::net::recv(self.as_fd(), &mut byte, flags), Ok((1.., _)))
    }
}

#[test]
fn a_peer_that_lies_about_a_length_is_closed_and_the_next_is_served() {
    let folder = Folder::new();
    let engine = serve(&folder.socket(), &[]);
    for length in [0_u32, 13, 65_550, u32::MAX] {
        let mut liar = connect(&folder.socket());
        liar.write_all(&length.to_be_bytes()).unwrap();
        assert!(is_closed(&liar), "{length}");
    }
    exchange(&connect(&folder.socket()));
    // What it says is read by another thread.
    until("all four are told of", || engine.errors().matches("no such length").count() == 4);
}

#[test]
fn a_one_shot_ends_with_its_machine_and_so_does_a_descriptor() {
    let folder = Folder::new();
    let engine = serve(&folder.socket(), &["--one-shot"]);
    let stream = connect(&folder.socket());
    exchange(&stream);
    drop(stream);
    let finished = engine.finish();
    assert_eq!((finished.code, finished.output.as_str()), (0, "ready\n"), "{finished:?}");

    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&theirs).to_string();
    let mut command = sluicegate();
    let engine = Process::start(command.args(["serve", "--fd", &number, "--egress", "allow"]));
    drop(theirs);
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(&ours);
    drop(ours);
    assert_eq!(engine.finish().code, 0);
}

#[test]
fn the_socket_is_this_user_s_and_what_is_left_of_one_gives_way() {
    let folder = Folder::new();
    let path = folder.socket();
    let engine = serve(&path, &[]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = process::run(sluicegate().arg("serve").arg("--socket").arg(&path));
    assert_eq!(second.code, 1);
    assert!(second.errors.contains("another program listens there"), "{second:?}");
    // The first is still there: it was only asked.
    exchange(&connect(&path));
    engine.signal(Signal::KILL);
    engine.finish();
    assert!(path.exists(), "a killed program leaves it");
    let engine = serve(&path, &[]);
    exchange(&connect(&path));
    drop(engine);
    let file = folder.0.join("file");
    std::fs::write(&file, "kept").unwrap();
    let refused = process::run(sluicegate().arg("serve").arg("--socket").arg(&file));
    assert!(refused.errors.contains("something else than a socket is there"), "{refused:?}");
    let long = folder.0.join("x".repeat(107));
    let refused = process::run(sluicegate().arg("serve").arg("--socket").arg(long));
    assert!(refused.errors.contains("107 bytes at most"), "{refused:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}

#[test]
fn arguments_that_say_no_machine_are_refused() {
    for (arguments, expected) in [
        (&["serve"][..], "--socket"),
        (&["serve", "--fd", "99"], "--fd 99 is not an open socket"),
        (&["serve", "--fd", "1"], "--fd 1 is not an open socket"),
        (&["serve", "--socket", "/nowhere/x"], "/nowhere/x"),
    ] {
        let finished = process::run(sluicegate().args(arguments));
        assert_ne!(finished.code, 0);
        assert!(finished.errors.contains(expected), "{finished:?}");
    }
}

#[test]
fn a_datagram_is_a_frame() {
    let folder = Folder::new();
    let engine = serve(&folder.socket(), &["--datagram"]);
    let ours = folder.0.join("vm.sock");
    for _ in 0..3 {
        // A machine that comes again is another socket at the same path.
        let socket = UnixDatagram::bind(&ours).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(&arp_request(), folder.socket()).unwrap();
        let mut frame = [0; 2000];
        loop {
            let len = socket.recv(&mut frame).unwrap();
            if is_arp_answer(&frame[..len]) {
                break;
            }
        }
        std::fs::remove_file(&ours).unwrap();
    }
    engine.signal(Signal::INT);
    assert_eq!(engine.finish().code, 0);
    until("the path is gone", || !folder.socket().exists());
}

/// A datagram of the guest to the gateway's port 9, from `port`; without a UDP checksum.
fn datagram_from(port: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 100, 96, 0, 2, 100, 96, 0, 1];
    let words = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let ethernet = [2, 0x6d, 0x73, 0, 0, 1, 2, 0x6d, 0x73, 0, 0, 2, 8, 0];
    let [high, low] = port.to_be_bytes();
    [&ethernet[..], &ip, &[high, low, 0, 9, 0, 9, 0, 0, b'!']].concat()
}

#[allow(clippy::cast_possible_truncation, reason = "frames are short")]
#[test]
fn the_next_machine_is_let_in_though_flows_have_taken_every_descriptor() {
    let folder = Folder::new();
    let limited = format!("ulimit -n 48 && exec {}", sluicegate().get_program().display());
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(format!("{limited} \"$@\"")).args(["sh", "serve", "--socket"]);
    let mut engine = Process::start(command.arg(folder.socket()).args(["--egress", "allow"]));
    engine.wait_for("ready\n");
    let first = connect(&folder.socket());
    exchange(&first);
    let framed = |frame: Vec<u8>| [&(frame.len() as u32).to_be_bytes()[..], &frame].concat();
    let flows: Vec<u8> = (1000..1100).flat_map(|port| framed(datagram_from(port))).collect();
    // It goes with its last words, so that its own descriptor is free when flows still want one.
    (&first).write_all(&flows).unwrap();
    drop(first);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", engine.id())).unwrap().count();
    until("there is no descriptor left", || open() >= 48);
    let second = connect(&folder.socket());
    exchange(&second);
}

#[test]
fn a_second_engine_that_asks_for_the_path_is_no_machine() {
    let folder = Folder::new();
    let engine = serve(&folder.socket(), &["--one-shot"]);
    let second = process::run(sluicegate().arg("serve").arg("--socket").arg(folder.socket()));
    assert!(second.errors.contains("another program listens there"), "{second:?}");
    // The first still waits for its one machine.
    let stream = connect(&folder.socket());
    exchange(&stream);
    drop(stream);
    assert_eq!(engine.finish().code, 0);
}

#[test]
fn as_many_as_knock_at_once_are_turned_away() {
    let folder = Folder::new();
    let _engine = serve(&folder.socket(), &[]);
    let first = connect(&folder.socket());
    exchange(&first);
    let others: Vec<UnixStream> = (0..100).map(|_| connect(&folder.socket())).collect();
    assert!(others.iter().all(is_closed));
    exchange(&first);
}
