//! `--control PATH`: the network is asked and changed over a Unix socket, as HTTP with JSON.
//!
//! Owns the socket, who may connect to it, and how many do; what a request means is
//! `control/routes.rs`, what is shown of the configuration `control/document.rs`. The socket's file
//! is this user's alone, and a peer must be this user or root. Sixteen connections at a time, each
//! with ten seconds to send the head of a request, and to take some of an answer; twelve of them
//! may be for what has no end, so that who does not read that leaves room for who asks.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sluicegate_host::adapter::socket::{self, SocketPath};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::failure::Failure;
pub(super) use document::Document;
use patience::Impatient;
pub(super) use routes::Desk;

mod document;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod patience;
mod routes;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// Those of them that may be for events or a capture.
const ENDLESS_MAX: usize = 12;
/// How long a peer may take for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long nobody is accepted after this host could not.
const REST: Duration = Duration::from_millis(100);

/// The socket, before anybody is served.
pub(super) struct ControlSocket {
    listener: std::os::unix::net::UnixListener,
    path: SocketPath,
}

impl ControlSocket {
    /// Listens at `path`.
    pub(super) fn bind(path: &Path) -> Result<Self, Failure> {
        let (listener, path) =
            socket::listen(path).map_err(|error| format!("--control {error}"))?;
        Ok(Self { listener, path })
    }

    /// Serves whoever connects, on `runtime`, as long as that is there.
    pub(super) fn serve(self, runtime: &Handle, desk: Desk) -> Result<(), Failure> {
        let _entered = runtime.enter();
        let listener = UnixListener::from_std(self.listener)?;
        runtime.spawn(serve(listener, self.path, Arc::new(desk)));
        Ok(())
    }
}

async fn serve(listener: UnixListener, _path: SocketPath, desk: Arc<Desk>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // It is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket can't accept");
                // This host is out of something for now: there is no event for its return.
                sleep(REST).await;
                continue;
            }
        };
        if !is_trusted(&stream) {
            tracing::warn!("somebody else connected to the control socket, and was turned away");
            continue;
        }
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let _permit = permit;
            converse(stream, desk).await;
        });
    }
}

/// Answers what is asked on one connection, until it ends.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Desk>) {
    let (stream, is_endless) = Impatient::new(stream);
    let answer = service_fn(move |request| {
        let (desk, is_endless) = (Arc::clone(&desk), Arc::clone(&is_endless));
        async move {
            let response = routes::answer(&desk, request).await;
            is_endless.store(response.body().size_hint().exact().is_none(), Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the control socket");
    }
}

/// Whether the peer is this user, or root.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

#[cfg(test)]
mod tests {
    use sluicegate_host::{NetworkConfig, SmoltcpNetwork};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Asks `desk` once; returns the answer.
    async fn ask(desk: &Arc<Desk>, request: &str) -> String {
        let (near, mut far) = duplex(64 * 1024);
        let serving = tokio::spawn(converse(near, Arc::clone(desk)));
        far.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.unwrap();
        serving.await.unwrap();
        answer
    }

    /// A network that has not begun, and its desk.
    fn desk() -> (SmoltcpNetwork, Arc<Desk>) {
        let config = NetworkConfig::default();
        let mut network = SmoltcpNetwork::try_new(config.clone(), 0).unwrap();
        let document = Document::first("{}", &config).unwrap();
        let desk = Desk::new(network.control_handle(), |config| config, document);
        (network, Arc::new(desk))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_an_answer_has_no_connection_for_ever_but_for_what_has_no_end() {
        let (_network, desk) = desk();
        for (path, is_left) in [("config", false), ("ports", false), ("events", true)] {
            // It takes less than the head of an answer.
            let (near, mut far) = duplex(64);
            let mut serving = tokio::spawn(converse(near, Arc::clone(&desk)));
            let request = format!("GET /v1/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
            far.write_all(request.as_bytes()).await.unwrap();
            let ended = tokio::time::timeout(HOUR, &mut serving).await;
            assert_eq!(ended.is_err(), is_left, "{path}");
            // Whoever takes a little from time to time is waited for.
            if is_left {
                continue;
            }
            let (near, mut far) = duplex(64);
            let mut serving = tokio::spawn(converse(near, Arc::clone(&desk)));
            let request = request.replace("Host: a", "Host: a\r\nConnection: close");
            far.write_all(request.as_bytes()).await.unwrap();
            let (mut answer, mut space) = (vec![], [0; 32]);
            while let Ok(len @ 1..) = far.read(&mut space).await {
                answer.extend_from_slice(&space[..len]);
                sleep(patience::STALLED_MAX * 9 / 10).await;
            }
            assert!(answer.ends_with(b"}\n"), "{path}: {}", String::from_utf8_lossy(&answer));
            tokio::time::timeout(HOUR, &mut serving).await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_no_more_has_no_connection_for_ever_either() {
        let (_network, desk) = desk();
        let (near, mut far) = duplex(64 * 1024);
        let mut serving = tokio::spawn(converse(near, Arc::clone(&desk)));
        for _ in 0..3 {
            far.write_all(b"GET /v1/ports HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = vec![];
            while !answer.ends_with(b"}\n") {
                answer.push(far.read_u8().await.unwrap());
            }
            sleep(HEAD_MAX * 9 / 10).await;
        }
        tokio::time::timeout(HOUR, &mut serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_has_no_end_leaves_connections_for_the_rest() {
        let (_network, desk) = desk();
        let ask = async || {
            let (near, mut far) = duplex(64 * 1024);
            let serving = tokio::spawn(converse(near, Arc::clone(&desk)));
            far.write_all(b"GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut status = [0; 12];
            far.read_exact(&mut status).await.unwrap();
            (far, serving, String::from_utf8_lossy(&status[9..]).into_owned())
        };
        let mut open = vec![];
        for _ in 0..ENDLESS_MAX {
            let (far, serving, status) = ask().await;
            assert_eq!(status, "200");
            open.push((far, serving));
        }
        assert_eq!(ask().await.2, "503");
        let (far, serving) = open.pop().unwrap();
        drop(far);
        serving.await.unwrap();
        assert_eq!(ask().await.2, "200");
    }

    #[test]
    fn a_change_whose_asker_has_gone_is_shown_once_it_holds() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let config = NetworkConfig::default();
        let mut network = SmoltcpNetwork::try_new(config.clone(), 0).unwrap();
        network.try_start(runtime.handle().clone()).unwrap();
        let document = Document::first("{}", &config).unwrap();
        let desk = Arc::new(Desk::new(network.control_handle(), |config| config, document));
        let put = |more: &str| {
            format!(
                "PUT /v1/config HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\
                 Content-Length: 2\r\n\r\n{{}}"
            )
        };
        runtime.block_on(async {
            for _ in 0..20 {
                let (near, mut far) = duplex(64 * 1024);
                let serving = tokio::spawn(converse(near, Arc::clone(&desk)));
                far.write_all(put("").as_bytes()).await.unwrap();
                drop(far);
                serving.await.unwrap();
                // It may not have begun yet, so that the first word for it comes too early.
                let mut is_shown = false;
                for _ in 0..10 {
                    let get = "GET /v1/config HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                    let shown = ask(&desk, get).await;
                    let tag = shown.split("etag: ").nth(1).unwrap().split("\r\n").next().unwrap();
                    let answer = ask(&desk, &put(&format!("If-Match: {tag}\r\n"))).await;
                    is_shown |= answer.starts_with("HTTP/1.1 200");
                }
                assert!(is_shown, "what is shown is not what holds");
            }
        });
        network.shutdown().unwrap();
    }
}
