//! The outside: listeners on this host's loopback, one of which does as it is told.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::PATIENCE;

/// Bytes of one read or write.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the server does with its connection.
pub(crate) enum Task {
    /// Read so many bytes.
    Take(u64),
    /// Write so many.
    Give(u64),
    /// Read a byte and write one, so many times.
    Echo(u64),
}

/// Accepts one connection and does its tasks, saying so after each; returns its port. It ends with
/// `tasks`.
pub(crate) fn obedient(tasks: Receiver<Task>, done: Sender<()>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        prepared.expect("because the connection is new");
        while let Ok(task) = tasks.recv() {
            // Whoever waits notices that nothing comes.
            let is_done = perform(&mut stream, task).is_ok();
            if !is_done || done.send(()).is_err() {
                return;
            }
        }
    });
    Ok(port)
}

fn perform(stream: &mut TcpStream, task: Task) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let piece = |left: u64| usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
    match task {
        Task::Take(mut left) => {
            while left > 0 {
                let read = stream.read(&mut chunk[..piece(left)])?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left -= read as u64;
            }
        }
        Task::Give(mut left) => {
            while left > 0 {
                left -= stream.write(&chunk[..piece(left)])? as u64;
            }
        }
        Task::Echo(count) => {
            for _ in 0..count {
                stream.read_exact(&mut chunk[..1])?;
                stream.write_all(&chunk[..1])?;
            }
        }
    }
    Ok(())
}

/// Takes what comes on its first connection, until that ends; returns its port.
pub(crate) fn sink() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut chunk = vec![0; CHUNK_BYTES];
        while stream.read(&mut chunk).is_ok_and(|read| read > 0) {}
    });
    Ok(port)
}

/// Accepts whatever comes and holds it until this is dropped.
pub(crate) struct Idle {
    pub(crate) port: u16,
    held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Idle {
    pub(crate) fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let held = Arc::<Mutex<Vec<TcpStream>>>::default();
        let holder = Arc::clone(&held);
        // It waits for as long as the process lives.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                holder.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        });
        Ok(Self { port, held })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
