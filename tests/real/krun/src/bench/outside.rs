//! What the guest talks to: blocking servers on loopback, a thread a connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::STEP_MAX;
use super::times::OUTSIDE;

const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of a request, and of the answer to it.
pub(super) const REQUEST_BYTES: usize = 64;

/// Serves one connection to its end, which it may call an error; counts bytes of payload.
pub(super) type Serve = fn(&mut TcpStream, &AtomicU64) -> std::io::Result<()>;

/// The threads of one server.
pub(super) struct Outside {
    /// Where it listens.
    pub(super) port: u16,
    bytes: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Outside {
    /// A server of as many connections at a time as it has `threads`.
    pub(super) fn start(threads: usize, serve: Serve) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let (bytes, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let threads = (0..threads).map(|_| {
            let listener = listener.try_clone().expect("a descriptor");
            let (bytes, is_over) = (Arc::clone(&bytes), Arc::clone(&is_over));
            let work = move || accept(&listener, &is_over, |stream| serve(stream, &bytes));
            thread::Builder::new().name(OUTSIDE.into()).spawn(work).expect("a thread")
        });
        Self { port, threads: threads.collect(), bytes, is_over }
    }

    /// Bytes of payload that it has taken.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends it, once its connections have ended.
    pub(super) fn stop(self) {
        self.is_over.store(true, Ordering::Release);
        // One for each thread that waits for a connection.
        let last: Vec<_> = self
            .threads
            .iter()
            .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)))
            .collect();
        for thread in self.threads {
            thread.join().expect("the server is content");
        }
        drop(last);
    }
}

fn accept(
    listener: &TcpListener,
    is_over: &AtomicBool,
    serve: impl Fn(&mut TcpStream) -> std::io::Result<()>,
) {
    loop {
        let (mut stream, _) = listener.accept().expect("a connection");
        if is_over.load(Ordering::Acquire) {
            return;
        }
        stream.set_nodelay(true).expect("TCP");
        stream.set_read_timeout(Some(STEP_MAX)).expect("a timeout");
        stream.set_write_timeout(Some(STEP_MAX)).expect("a timeout");
        // How a connection ends is the guest's affair, which resets those that it is done with.
        let _ = serve(&mut stream);
    }
}

/// Takes all there is.
pub(super) fn sink(stream: &mut TcpStream, bytes: &AtomicU64) -> std::io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let len = stream.read(&mut block)?;
        if len == 0 {
            return Ok(());
        }
        bytes.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Gives without end.
pub(super) fn source(stream: &mut TcpStream, _bytes: &AtomicU64) -> std::io::Result<()> {
    let block = vec![1; BLOCK_BYTES];
    loop {
        stream.write_all(&block)?;
    }
}

/// Gives back each byte.
pub(super) fn echo(stream: &mut TcpStream, _bytes: &AtomicU64) -> std::io::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Answers one request and closes.
pub(super) fn answer(stream: &mut TcpStream, _bytes: &AtomicU64) -> std::io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    stream.read_exact(&mut request)?;
    stream.write_all(&request)
}
