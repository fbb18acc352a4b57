//! The demonstration's secret: a server that asks for one, and a guest that has a placeholder.
//! Owns both ends of that TLS; must not know the engine.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
};
use sluicegate_host::config::{SecretConfig, SecretValue};

use crate::cli::failure::Failure;

/// The server that may have the secret, and one that may not; both are this host.
pub(super) const FRIEND: &str = "host.sluicegate.internal";
pub(super) const STRANGER: &str = "host.microsandbox.internal";
/// The value, which never enters the guest.
const VALUE: &str = "the-real-token-of-this-demo";

/// A server of HTTPS that remembers with what it was asked.
pub(super) struct Vendor {
    pub(super) port: u16,
    /// The authority that vouches for it; the file goes with the value.
    authority: PathBuf,
    asked_with: Arc<Mutex<Vec<String>>>,
}

/// The secret of the demonstration.
pub(super) fn secret() -> Result<SecretConfig, Failure> {
    let value = SecretValue::new(VALUE.to_owned());
    Ok(SecretConfig::new("DEMO_TOKEN", value, FRIEND.parse()?))
}

impl Vendor {
    pub(super) fn start() -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let names = vec![FRIEND.to_owned(), STRANGER.to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let path = std::env::temp_dir().join(format!("sluicegate-demo-{}.pem", std::process::id()));
        std::fs::write(&path, authority)?;
        let vendor = Self { port, authority: path, asked_with: Arc::default() };
        let (config, asked_with) = (Arc::new(config), Arc::clone(&vendor.asked_with));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is its own loss.
                let _ = serve(stream, Arc::clone(&config), &asked_with);
            }
        });
        Ok(vendor)
    }

    /// The file of the authority that vouches for it.
    pub(super) fn authority(&self) -> &Path {
        &self.authority
    }

    /// With what it was asked.
    pub(super) fn asked_with(&self) -> Vec<String> {
        self.asked_with.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        // It may be gone with all else that was temporary.
        let _ = std::fs::remove_file(&self.authority);
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn serve(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    asked_with: &Mutex<Vec<String>>,
) -> Result<(), Failure> {
    stream.set_read_timeout(Some(super::guest::WAIT_MAX))?;
    let mut session = ServerConnection::new(config)?;
    let mut tls = Stream::new(&mut session, &mut stream);
    for line in BufReader::new(&mut tls).take(8192).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(token) = line.strip_prefix("Authorization: ") {
            let mut asked_with = asked_with.lock().unwrap_or_else(PoisonError::into_inner);
            asked_with.push(token.to_owned());
        }
    }
    let body = "welcome\n";
    let len = body.len();
    write!(tls, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}")?;
    tls.conn.send_close_notify();
    Ok(tls.conn.complete_io(tls.sock).map(drop)?)
}

/// The guest's part: asks `name`, at `gateway`, with `token`; returns the answer's status and body.
pub(super) fn ask(
    (name, gateway): (&str, SocketAddr),
    token: &str,
    authority: &str,
) -> Result<(String, String), Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut stream = super::guest::connect(gateway)?;
    let mut session = ClientConnection::new(config.into(), ServerName::try_from(name.to_owned())?)?;
    let mut tls = Stream::new(&mut session, &mut stream);
    write!(tls, "GET / HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {token}\r\n")?;
    write!(tls, "Connection: close\r\n\r\n")?;
    let mut response = String::new();
    match tls.take(64 * 1024).read_to_string(&mut response) {
        Ok(_) => {}
        // What was said before an end that was not announced is what counts here.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.into()),
    }
    let (head, body) = response.split_once("\r\n\r\n").ok_or("the response has no end of head")?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.trim_end().to_owned()))
}
