//! One query to one name server, and its answer.
//!
//! While it is under way a query has a socket of its own, connected, so that the kernel picks its
//! port and hands over nothing from elsewhere; with the number and the question that makes an
//! answer hard to forge (RFC 5452 4). What is not the answer is passed over. An answer that was cut
//! is asked for again over TCP (RFC 7766 5, RFC 2181 9).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sluicegate_core::{is_answer_to, is_truncated};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::ports::Ports;
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
    ports: &Ports,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    if let Some(secure) = secure {
        // Nobody can forge an answer there, so its number may stay what it is (RFC 8484 4.1).
        return checked(query, Box::pin(secure.ask(ports.outbound(), server, query)).await?);
    }
    let mut query = query.to_vec();
    let mut number = [0; 2];
    getrandom::fill(&mut number)?;
    if let Some(own) = query.first_chunk_mut() {
        *own = number;
    }
    let answer = by_datagram(server, ports, &query).await?;
    if !is_truncated(&answer) {
        return Ok(answer);
    }
    let by_stream = async { framed(&mut ports.outbound().connect(server).await?, &query).await };
    // In a box: what is seldom needed would make every query's task as large as it is.
    checked(&query, Box::pin(by_stream).await?)
}

/// `answer`, if it is one to `query`.
fn checked(query: &[u8], answer: Vec<u8>) -> io::Result<Vec<u8>> {
    if is_answer_to(query, &answer) {
        return Ok(answer);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "another question was answered"))
}

async fn by_datagram(server: SocketAddr, ports: &Ports, query: &[u8]) -> io::Result<Vec<u8>> {
    // One that was used may have failed since.
    if let Some(port) = ports.take(server)
        && let Ok(answer) = say(&port.socket, query).await
    {
        ports.keep(port);
        return Ok(answer);
    }
    let port = ports.open(server)?;
    let answer = say(&port.socket, query).await?;
    ports.keep(port);
    Ok(answer)
}

async fn say(socket: &UdpSocket, query: &[u8]) -> io::Result<Vec<u8>> {
    loop {
        socket.send(query).await?;
        let heard = async {
            loop {
                socket.readable().await?;
                match receive(socket) {
                    Ok(answer) if is_answer_to(query, &answer) => return Ok(answer),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    Ok(_) | Err(_) => {}
                }
            }
        };
        if let Ok(heard) = tokio::time::timeout(REPEAT_AFTER, heard).await {
            return heard;
        }
    }
}

/// What has come, in as much memory as it needs.
fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut bytes = [0; DATAGRAM_BYTES_MAX];
    let len = socket.try_recv(&mut bytes)?;
    Ok(bytes.get(..len).unwrap_or(&[]).to_vec())
}

/// One query and what comes back on a stream that nobody else uses, each behind its length
/// (RFC 1035 4.2.2, RFC 7858 3.3).
pub(super) async fn framed(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    query: &[u8],
) -> io::Result<Vec<u8>> {
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], query].concat()).await?;
    stream.flush().await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const QUERIES: usize = 10_000;

    /// A name server that answers everything, and tells the number and the port of each query.
    async fn server(socket: UdpSocket) -> Vec<(u16, u16)> {
        let mut seen = vec![];
        while seen.len() < QUERIES {
            let mut message = [0; 512];
            let (len, from) = socket.recv_from(&mut message).await.unwrap();
            seen.push((u16::from_be_bytes([message[0], message[1]]), from.port()));
            message[2] |= 0x80;
            socket.send_to(&message[..len], from).await.unwrap();
        }
        seen
    }

    #[tokio::test]
    async fn the_numbers_of_queries_and_the_ports_that_they_leave_from_tell_nothing_of_the_next() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let server = tokio::spawn(server(socket));
        let ports = Ports::default();
        // The guest's own number is always the same.
        let query = sim::dns::query("good.test", 1);
        for _ in 0..QUERIES {
            ask(at, None, &ports, &query).await.unwrap();
        }
        let seen = server.await.unwrap();
        let distinct = |numbers: &[u16]| numbers.iter().collect::<BTreeSet<_>>().len();
        // Of so many out of 65,536 chance leaves 9274 distinct, give or take 25; a counter all.
        let numbers: Vec<u16> = seen.iter().map(|(number, _)| *number).collect();
        let steps: Vec<u16> = numbers.windows(2).map(|two| two[1].wrapping_sub(two[0])).collect();
        for drawn in [distinct(&numbers), distinct(&steps)] {
            assert!((9100..9450).contains(&drawn), "{drawn} are distinct");
        }
        for bit in 0..16 {
            let set = numbers.iter().filter(|number| *number >> bit & 1 == 1).count();
            assert!(set.abs_diff(QUERIES / 2) < 250, "bit {bit} is set {set} times");
        }
        // No port serves more than a few queries, and the next does not follow from the last.
        let leaves: Vec<u16> = seen.iter().map(|(_, port)| *port).collect();
        let mut uses = BTreeMap::new();
        leaves.chunks(16).for_each(|few| *uses.entry(few[0]).or_insert(0) += 1);
        assert!(leaves.chunks(16).all(|few| distinct(few) <= 2));
        assert!(uses.len() > QUERIES / 16 * 8 / 10, "{} ports", uses.len());
        let firsts: Vec<u16> = leaves.chunks(16).map(|few| few[0]).collect();
        let followers = firsts.windows(2).filter(|two| two[1].wrapping_sub(two[0]) <= 2).count();
        assert!(followers < firsts.len() / 10, "{followers} ports are the last one's next");
    }
}
