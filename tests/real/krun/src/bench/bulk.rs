//! As much as goes through, one way.

use std::fmt;

use smoltcp::socket::tcp;

use super::outside::{self, Outside};
use super::times::{Rate, Times};
use super::{Bench, STEP_MAX, WARM_UP};
use crate::now;

/// The guest's buffers, each way: no window of this size is what anybody waits for.
const BUFFER_BYTES: usize = 1 << 20;

/// The way of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// What `streams` connections at a time carry.
pub(super) fn measure(bench: &mut Bench, way: Way, streams: usize) -> Rate {
    let server = match way {
        Way::Up => Outside::start(streams, outside::sink),
        Way::Down => Outside::start(streams, outside::source),
    };
    let to = bench.to(server.port);
    let mut handles = Vec::new();
    for _ in 0..streams {
        let port = bench.next_port();
        let handle = bench.stack.open(to, port, BUFFER_BYTES);
        bench.stack.connect(handle, STEP_MAX);
        handles.push(handle);
    }
    let mut received = 0;
    let mut phase = |bench: &mut Bench, longest| {
        let (start, bytes, times) = (now(), server.bytes() + received, Times::now());
        bench.stack.run("bulk", longest + STEP_MAX, |_, sockets| {
            for handle in &handles {
                match way {
                    Way::Up => fill(sockets.get_mut::<tcp::Socket>(*handle)),
                    Way::Down => received += empty(sockets.get_mut::<tcp::Socket>(*handle)),
                }
            }
            (start.elapsed() >= longest).then_some(())
        });
        let (wall, times) = (start.elapsed(), Times::now().since(&times));
        Rate { bytes: server.bytes() + received - bytes, wall, times }
    };
    phase(bench, WARM_UP);
    let duration = bench.duration;
    let rate = phase(bench, duration);
    for handle in handles {
        bench.stack.close(handle);
    }
    server.stop();
    rate
}

/// Sends whatever lies in the buffer.
fn fill(socket: &mut tcp::Socket<'_>) {
    while socket.can_send() {
        socket.send(|space| (space.len(), ())).expect("open");
    }
    assert!(socket.may_send(), "the stream ended");
}

/// Takes what there is, unread.
fn empty(socket: &mut tcp::Socket<'_>) -> u64 {
    let mut bytes = 0;
    while socket.can_recv() {
        bytes += socket.recv(|piece| (piece.len(), piece.len())).expect("open") as u64;
    }
    assert!(socket.may_recv(), "the stream ended");
    bytes
}
