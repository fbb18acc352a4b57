//! Connections that stop being HTTP: WebSocket (RFC 6455, RFC 8441) and whatever else a server
//! switches to. They live in the session that they began in, and end with it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::Exchange;
use crate::intercept::pipe::Broken;
use crate::intercept::relay;

/// The tunnels of one connection.
#[derive(Default)]
pub(super) struct Tunnels(Mutex<JoinSet<Result<(), Broken>>>);

impl Tunnels {
    /// Begins one between two sides that switch.
    pub(super) fn begin(exchange: &Arc<Exchange>, guest: OnUpgrade, server: OnUpgrade) {
        let session = Arc::clone(exchange);
        let tunnel = async move {
            let (guest, server) = tokio::try_join!(guest, server)?;
            relay::run(&session, TokioIo::new(guest), TokioIo::new(server)).await
        };
        let mut tunnels = exchange.tunnels.0.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.spawn(tunnel);
        // Those that have ended are not kept.
        while tunnels.try_join_next().is_some() {}
    }

    /// Waits until all have ended.
    pub(super) async fn end(&self) -> Result<(), Broken> {
        let mut tunnels =
            core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tunnels.join_next().await {
            ended.map_err(|_| Broken)??;
        }
        Ok(())
    }
}
