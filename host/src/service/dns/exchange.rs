//! One query to one name server, and its answer.
//!
//! Each query has a socket of its own, connected, so that the kernel picks its port and hands over
//! nothing from elsewhere; with the number and the question that makes an answer hard to forge (RFC
//! 5452 4). What is not the answer is passed over. An answer that was cut is asked for again over
//! TCP (RFC 7766 5, RFC 2181 9).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sluicegate_core::{is_answer_to, is_truncated};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::secure::Secure;

/// A datagram may get lost: after this time the query is said again.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// Bytes of the longest datagram that is taken: more than queries ask for.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Asks `server`, for as long as it takes.
///
/// # Errors
/// It can't be reached, or does not speak DNS over TCP.
pub(super) async fn ask(
    server: SocketAddr,
    secure: Option<&Secure>,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    if let Some(secure) = secure {
        // Nobody can forge an answer there, so its number may stay what it is (RFC 8484 4.1).
        return secure.ask(server, query).await;
    }
    let mut query = query.to_vec();
    let mut number = [0; 2];
    getrandom::fill(&mut number)?;
    if let Some(own) = query.first_chunk_mut() {
        *own = number;
    }
    let answer = by_datagram(server, &query).await?;
    if is_truncated(&answer) { by_stream(server, &query).await } else { Ok(answer) }
}

async fn by_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut answer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        socket.send(query).await?;
        let heard = async {
            loop {
                let len = socket.recv(&mut answer).await?;
                if is_answer_to(query, answer.get(..len).unwrap_or(&[])) {
                    return io::Result::Ok(len);
                }
            }
        };
        if let Ok(len) = tokio::time::timeout(REPEAT_AFTER, heard).await {
            answer.truncate(len?);
            return Ok(answer);
        }
    }
}

/// RFC 1035 4.2.2.
async fn by_stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    if is_answer_to(query, &answer) {
        return Ok(answer);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "another question was answered"))
}
