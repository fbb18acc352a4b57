//! What a command in a network of its own must know of it: whom to trust, and what it has in place
//! of secrets; and what of this process's it must not have.

use std::ffi::OsString;
use std::hash::BuildHasher;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sluicegate_host::config::TlsConfig;
use sluicegate_host::{NetworkConfig, SmoltcpNetwork};

use super::config_file;
use super::failure::Failure;

/// By these programs are told whom to trust, instead of whom they would: OpenSSL and what is built
/// on it, curl, Python's requests, Node.js (beside its own), and, as they look at none of those,
/// git, pip, cargo, Deno, and the AWS tools.
const TRUST_VARIABLES: [&str; 9] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
];

/// What a command that shares this process's files and environment must not have of them.
#[derive(Default)]
pub(super) struct Withheld {
    /// Variables that hold credentials.
    pub(super) variables: Vec<String>,
    /// Files that hold them, the key of the authority, and the socket at which the network is
    /// changed.
    pub(super) files: Vec<PathBuf>,
}

impl Withheld {
    /// What `config` has, which was read from `file` if it was, of a network that is changed at
    /// `control`.
    pub(super) fn of(config: &NetworkConfig, file: Option<&Path>, control: Option<&Path>) -> Self {
        let variables = config.credential_variables().map(str::to_owned).collect();
        // What is no file, as a pipe, has been read to its end.
        let holds_values = |file: &PathBuf| !config.secrets.secrets.is_empty() && file.is_file();
        // Its own name, as `/dev/stdin` is another file within.
        let file = file.and_then(|file| config_file::path_of(file).canonicalize().ok());
        let others = control.map(Path::to_owned);
        Self { variables, files: file.filter(holds_values).into_iter().chain(others).collect() }
    }

    /// The key as well by which a network ends TLS that is as `tls`.
    pub(super) fn add_key(&mut self, tls: &TlsConfig) {
        // It is made by then, if it was not there.
        let key = tls.intercept_ca.key_path.clone().filter(|_| tls.enabled);
        self.files.extend(key);
    }
}

/// The environment of a command, and the folder of the file that it names, which goes with the
/// value.
pub(super) struct GuestEnv {
    pub(super) variables: Vec<(String, OsString)>,
    pub(super) folder: Option<PathBuf>,
}

/// The file of the authorities.
const BUNDLE: &str = "ca.pem";

impl GuestEnv {
    /// What a command on `network` must know: nothing, where nothing is intercepted.
    pub(super) fn of(network: &SmoltcpNetwork) -> Result<Self, Failure> {
        let Some(bundle) = network.trust_bundle_pem() else {
            return Ok(Self { variables: vec![], folder: None });
        };
        // A name that nobody knows before: who shares the folder could take any other.
        let nonce = std::hash::RandomState::new().hash_one(std::process::id());
        let folder = std::env::temp_dir().join(format!("sluicegate-{nonce:016x}"));
        let path = folder.join(BUNDLE);
        let made = std::fs::DirBuilder::new().mode(0o755).create(&folder);
        let mut options = std::fs::OpenOptions::new();
        let file = made.and_then(|()| options.write(true).create_new(true).mode(0o644).open(&path));
        file.and_then(|mut file| file.write_all(&bundle)).map_err(|error| {
            format!("the authorities for the command: {}: {error}", path.display())
        })?;
        let trusts = TRUST_VARIABLES.map(|name| (name.to_owned(), path.clone().into()));
        let secrets = network.guest_env_vars().into_iter().filter(|(name, _)| !is_address(name));
        let secrets = secrets.map(|(name, placeholder)| (name, placeholder.into()));
        Ok(Self { variables: trusts.into_iter().chain(secrets).collect(), folder: Some(folder) })
    }
}

/// The command's interface is configured already; these are for agents that do that.
fn is_address(name: &str) -> bool {
    matches!(name, "MSB_NET" | "MSB_NET_IPV4" | "MSB_NET_IPV6")
}

impl Drop for GuestEnv {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // It may be gone, with all else that was temporary.
            let _ = std::fs::remove_file(folder.join(BUNDLE));
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Writes the authority of `network` to `path`, for a guest's trust store.
pub(super) fn write_authority(network: &SmoltcpNetwork, path: &Path) -> Result<(), Failure> {
    let Some(pem) = network.ca_cert_pem() else {
        let why = "--ca-out: there is no authority, as tls.enabled is not true in the config";
        return Err(why.into());
    };
    std::fs::write(path, pem).map_err(|error| format!("{}: {error}", path.display()).into())
}
