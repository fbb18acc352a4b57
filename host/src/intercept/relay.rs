//! Bytes that are not HTTP: each way as they come, and what the guest says is looked at for
//! placeholders.
//!
//! An end of data that nobody announced (no close_notify, RFC 8446 6.1) is no end: it breaks the
//! connection for the other side, too.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::http::Exchange;
use super::pipe::Broken;
use crate::service::secrets::StreamScan;

/// Bytes that are read at a time: a record of TLS.
const PIECE_BYTES: usize = 16 * 1024;

/// Relays until both ways have ended.
pub(super) async fn run<G, S>(exchange: &Exchange, guest: G, server: S) -> Result<(), Broken>
where
    G: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (from_guest, to_guest) = split(guest);
    let (from_server, to_server) = split(server);
    let scan = exchange.scope().stream();
    tokio::try_join!(
        copy(from_guest, to_server, Some((exchange, scan))),
        copy(from_server, to_guest, None),
    )?;
    Ok(())
}

async fn copy<R, W>(
    mut from: R,
    mut to: W,
    mut scan: Option<(&Exchange, StreamScan)>,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let len = from.read(&mut piece).await?;
        let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
        if let Some((exchange, scan)) = &mut scan
            && let Err(violation) = scan.push(bytes)
        {
            exchange.report(&violation);
            return Err(Broken);
        }
        to.write_all(bytes).await?;
        // What was read may be all there is for now.
        to.flush().await?;
    }
    to.shutdown().await?;
    Ok(())
}
