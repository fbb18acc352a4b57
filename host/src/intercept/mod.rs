//! TLS that ends here: a task for each connection, between a guest that is shown a certificate of
//! the gateway's and the server that it wants.
//!
//! Owns the order of things: the guest's hello, whose name the engine has judged; the connection to
//! the server and its handshake; then the guest's, with the protocol that the server has chosen;
//! then HTTP, or bytes. Names that are asked over TLS go back to the driver instead, which has each
//! query judged; and of a connection in the clear that is relayed here there is no handshake. Must
//! not know the engine, nor sockets of flows: what comes from the guest comes through a [`Pipe`],
//! whose other end the driver holds.
//!
//! What crosses: of the guest's hello its name and protocols go to the server; of the server's
//! failures what it failed of goes to the guest, as a TLS alert. Placeholders become values on the
//! way to the server, and values placeholders on the way back (`service/secrets`); no value is in
//! anything that this module tells or logs.
//!
//! Bounded: each handshake has ten seconds, each pipe 64 KiB a way, a network so many connections,
//! and so many bytes of requests that wait to be whole. A task ends with its flow.

mod alert;
mod authority;
mod body;
mod forge;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handshake;
mod http;
mod pipe;
mod relay;
mod report;
mod sniff;
mod upstream;
mod watch;
mod welcome;

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use rustls::ServerConfig;
use sluicegate_core::Beginning;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::config::{HostPattern, HttpConfig, InterceptCaConfig, TlsConfig};
use crate::error::Error;
use crate::outbound::Outbound;
use crate::service::certs::{Authority, Identity, Leaves, Trust, provider};
use crate::service::proxy::{Proxy, Target};
use crate::service::secrets::Vault;
pub(crate) use forge::Forge;
use pipe::{Broken, TaskEnd};
pub(crate) use pipe::{End, Pipe, Read, Write};
pub(crate) use report::Reporter;
pub(crate) use sniff::{First, first_of_guest, is_of_server_of_http};
pub(crate) use watch::Watch;

/// Connections of one network that end here at a time, and of HTTP/2 as many that are wide and as
/// many streams (`http/streams`): a network holds so many times what one of them may.
const SESSIONS_MAX: usize = 512;
const WIDE_MAX: usize = 32;
const STREAMS_MAX: usize = 1024;
/// Bytes of requests that a network holds back until they are whole, and were looked at.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where the guest wants to be connected to, and what is known of that.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The guest's end.
    pub(crate) guest: SocketAddr,
    /// The server, as the guest addressed it.
    pub(crate) destination: SocketAddr,
    /// Where the host connects to, and where that fails.
    pub(crate) to: (SocketAddr, Option<SocketAddr>),
    /// Where the outbound proxy connects to in the host's place; `None`: it does so itself.
    pub(crate) through_proxy: Option<Target>,
    /// The name that the guest said, which policy was asked about.
    pub(crate) name: Option<String>,
    /// The gateway has told the guest that the name leads to the address.
    pub(crate) is_bound: bool,
    /// What was said so far.
    pub(crate) begins: Beginning,
    /// Nobody is connected to: the guest is told that policy denies it.
    pub(crate) is_denied: bool,
    /// Policy asked for no name, and each request is for whom it says: the names that the gateway
    /// has told the guest lead to the address. `None`: all are for the one name.
    pub(crate) open_to: Option<Arc<[String]>>,
}

impl Call {
    /// Who the server must be.
    fn identity(&self) -> Identity {
        match &self.name {
            Some(name) => Identity::Name(name.clone()),
            None => Identity::Address(self.destination.ip().to_canonical()),
        }
    }
}

/// What of a network's interceptions is the same whatever its configuration becomes.
#[derive(Clone)]
struct Lasting {
    vault: Arc<Vault>,
    proxy: Option<Arc<Proxy>>,
    /// From where servers are called.
    outbound: Outbound,
    reporter: Arc<Reporter>,
    held: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    /// Of HTTP/2: connections that are wide, and streams.
    wide: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Lasting {
    fn new((vault, proxy): (Arc<Vault>, Option<Arc<Proxy>>), reporter: Reporter) -> Self {
        Self {
            vault,
            proxy,
            outbound: Outbound::default(),
            reporter: Arc::new(reporter),
            held: Arc::new(Semaphore::new(HELD_BYTES_MAX)),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            wide: Arc::new(Semaphore::new(WIDE_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

/// Ends TLS for one network, as one configuration has it: connections keep theirs.
pub(crate) struct Interceptor {
    ca: InterceptCaConfig,
    leaves: Leaves,
    trust: Trust,
    bypass: Vec<HostPattern>,
    /// The guest's side of a handshake, but for certificate and protocol.
    server: ServerConfig,
    page: HttpConfig,
    lasting: Lasting,
}

impl Interceptor {
    /// As `tls` has it, but that `authority` signs; reads the other files.
    fn new(
        tls: &TlsConfig,
        page: HttpConfig,
        authority: Arc<Authority>,
        lasting: Lasting,
    ) -> Result<Self, Error> {
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Bug(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        Ok(Self {
            ca: tls.intercept_ca.clone(),
            leaves: Leaves::new(authority, tls.cache)?,
            trust: Trust::new(tls)?,
            bypass: tls.bypass.clone(),
            server,
            page,
            lasting,
        })
    }

    /// Whether the handshake with `name` passes untouched, where it leads to the server's address
    /// or not: a name that is said anywhere else would be any server's way past.
    pub(crate) fn bypasses(&self, name: Option<&str>, is_bound: bool) -> bool {
        let is_listed = |name| self.bypass.iter().any(|pattern| pattern.matches(name));
        is_bound && name.is_some_and(is_listed)
    }

    /// Begins to serve `call` on `runtime`; `waker` is called when the pipe has, or takes, more.
    /// `None`: as many are served as can be.
    pub(crate) fn begin(
        self: &Arc<Self>,
        call: Call,
        runtime: &Handle,
        waker: Waker,
    ) -> Option<Pipe> {
        self.serve(runtime, waker, |it, guest| handshake::run(it, call, guest))
    }

    /// Begins to relay HTTP, or what may yet be that, between a guest who speaks in the clear and
    /// `stream`, the host's connection for it, on which `early` was heard.
    pub(crate) fn begin_clear(
        self: &Arc<Self>,
        (call, runtime): (Call, &Handle),
        (stream, early): (std::net::TcpStream, Bytes),
        waker: Waker,
    ) -> Option<Pipe> {
        self.serve(runtime, waker, |it, guest| async move {
            let server = TcpStream::from_std(stream)?;
            handshake::relay(it, call, guest, (server, early)).await
        })
    }

    /// What is said on `call` is bytes: what it is looked at with; `None`: with nothing.
    pub(crate) fn watch(self: &Arc<Self>, call: Call) -> Option<Watch> {
        Watch::new(Arc::clone(self), call)
    }

    /// Whether there are placeholders to be looked for.
    pub(crate) fn looks(&self) -> bool {
        !self.lasting.vault.current().is_empty()
    }

    /// Begins to end the TLS of a guest who asks for names; what it asks comes by the other end,
    /// and its answers go there.
    pub(crate) fn begin_names(
        self: &Arc<Self>,
        call: Call,
        runtime: &Handle,
        waker: Waker,
    ) -> Option<(Pipe, End)> {
        let (end, names) = End::pair(waker.clone());
        let pipe =
            self.serve(runtime, waker, |it, guest| handshake::ask(it, call, (guest, names)))?;
        Some((pipe, end))
    }

    /// Serves a connection by `session`, which is given the guest's end of the pipe; `None`: as
    /// many are served as can be.
    fn serve<F>(
        self: &Arc<Self>,
        runtime: &Handle,
        waker: Waker,
        session: impl FnOnce(Arc<Self>, TaskEnd) -> F,
    ) -> Option<Pipe>
    where
        F: Future<Output = Result<(), Broken>> + Send + 'static,
    {
        let permit = Arc::clone(&self.lasting.sessions).try_acquire_owned().ok()?;
        let interceptor = Arc::clone(self);
        Some(Pipe::new(runtime, waker, |guest| {
            let session = session(interceptor, guest);
            async move {
                let _permit = permit;
                session.await
            }
        }))
    }
}
