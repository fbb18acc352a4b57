//! Bytes over QUIC, to and from a guest.
//!
//!     quic serve 127.0.0.1:4433 cert.der            # outside: writes its certificate, and serves
//!     quic fetch 100.96.0.1:4433 cert.der 1000      # in the guest: a thousand megabytes down
//!     quic put 100.96.0.1:4433 cert.der 1000        # and up
//!
//! Both ends check every byte. The client says how long it took.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig,
    VarInt,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the certificate is for.
const NAME: &str = "localhost";
/// Bytes that are written and compared at a time. A prime, so that no packet looks like the next.
const CHUNK_BYTES: usize = 65_521;
/// Bytes that may be on their way.
const WINDOW_BYTES: u32 = 16 << 20;

const USAGE: &str = "quic serve ADDRESS CERTIFICATE | quic fetch|put ADDRESS CERTIFICATE MEGABYTES";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["serve", address, certificate] => serve(address.parse()?, certificate).await,
        [what @ ("fetch" | "put"), address, certificate, megabytes] => {
            let bytes = megabytes.parse::<u64>()? * 1_000_000;
            ask(what == "put", address.parse()?, certificate, bytes).await
        }
        _ => Err(USAGE.into()),
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(WINDOW_BYTES.into());
    Arc::new(transport)
}

async fn serve(address: SocketAddr, certificate: &str) -> Outcome<()> {
    let signed = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(certificate, signed.cert.der())?;
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![signed.cert.der().clone()], key.into())?;
    config.transport_config(transport());
    let endpoint = Endpoint::server(config, address)?;
    println!("ready");
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let served = async { serve_one(&incoming.await?).await };
            if let Err(error) = served.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
    Ok(())
}

/// Answers requests: eight bytes of length for a download; the same with the highest bit for an
/// upload, which is answered with one byte.
async fn serve_one(connection: &Connection) -> Outcome<()> {
    // An error is the client's farewell.
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let mut request = [0; 8];
        receive.read_exact(&mut request).await?;
        let request = u64::from_be_bytes(request);
        let bytes = request & !UPLOAD;
        if request & UPLOAD == 0 {
            write(&mut send, bytes).await?;
        } else {
            check(&mut receive, bytes).await?;
            send.write_all(&[1]).await?;
        }
        send.finish()?;
    }
    Ok(())
}

const UPLOAD: u64 = 1 << 63;

async fn ask(is_put: bool, to: SocketAddr, certificate: &str, bytes: u64) -> Outcome<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate)?))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport());
    let any = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut endpoint = Endpoint::client(any)?;
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(to, NAME)?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let began = Instant::now();
    if is_put {
        send.write_all(&(bytes | UPLOAD).to_be_bytes()).await?;
        write(&mut send, bytes).await?;
        send.finish()?;
        receive.read_exact(&mut [0]).await?;
    } else {
        send.write_all(&bytes.to_be_bytes()).await?;
        send.finish()?;
        check(&mut receive, bytes).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let path = connection.stats().path;
    println!(
        "{:.2} Gbit/s, {bytes} bytes in {seconds:.2} s, {} of {} packets sent were lost, MTU {}",
        bytes as f64 * 8e-9 / seconds,
        path.lost_packets,
        path.sent_packets,
        path.current_mtu
    );
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// The bytes of every chunk.
fn chunk() -> Vec<u8> {
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state.to_be_bytes()[0])
    };
    let mut state = 1;
    core::iter::from_fn(|| next(&mut state)).take(CHUNK_BYTES).collect()
}

async fn write(to: &mut SendStream, bytes: u64) -> Outcome<()> {
    let chunk = chunk();
    let mut left = bytes;
    while left > 0 {
        let len = CHUNK_BYTES.min(usize::try_from(left)?);
        to.write_all(&chunk[..len]).await?;
        left -= len as u64;
    }
    Ok(())
}

/// Reads to the end, and compares.
async fn check(from: &mut RecvStream, bytes: u64) -> Outcome<()> {
    let chunk = chunk();
    let mut read = vec![0; CHUNK_BYTES];
    let mut seen = 0;
    while let Some(len) = from.read(&mut read).await? {
        let at = usize::try_from(seen % CHUNK_BYTES as u64)?;
        let head = len.min(CHUNK_BYTES - at);
        if read[..head] != chunk[at..at + head] || read[head..len] != chunk[..len - head] {
            return Err(format!("other bytes than were sent, after {seen}").into());
        }
        seen += len as u64;
    }
    if seen == bytes { Ok(()) } else { Err(format!("{seen} bytes of {bytes}").into()) }
}
