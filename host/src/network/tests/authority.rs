//! Files of an authority that is new: they are there once a change that names them holds.

use std::path::{Path, PathBuf};

use super::orders::HeldUp;
use super::*;
use crate::snapshot::Snapshot;

/// A folder of its own for a test's files.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("sluicegate-authority-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// What lies in it.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    /// A configuration with an authority whose certificate is at `cert` here, and the key beside.
    fn config(&self, cert: impl AsRef<Path>) -> NetworkConfig {
        let mut config = config(Permission::Allow);
        config.tls.enabled = true;
        config.tls.intercept_ca.cert_path = Some(self.0.join(cert));
        config.tls.intercept_ca.key_path = Some(self.0.join("key"));
        config
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_change_that_is_refused_leaves_no_file_behind_and_one_that_holds_leaves_both() {
    let folder = Folder::new("refused");
    let (mut network, control, runtime) = network(config(Permission::Allow));
    network.try_start(runtime.handle().clone()).unwrap();
    // By the engine, which is asked last.
    let mut large = folder.config("cert");
    large.max_connections = Some(5000);
    let refused = control.replace(large.clone(), None).unwrap_err();
    assert!(refused.to_string().contains("max_connections"), "{refused}");
    assert_eq!(folder.files(), NOTHING);
    // By a file that is not there.
    let mut distrusting = folder.config("cert");
    distrusting.tls.upstream_ca_cert = vec![folder.0.join("nowhere")];
    assert!(matches!(control.replace(distrusting, None), Err(Error::Authority(_))));
    assert_eq!(folder.files(), NOTHING);
    // By the second of the files, which has no place.
    let homeless = control.replace(folder.config("nowhere/cert"), None);
    assert!(matches!(homeless, Err(Error::Authority(_))), "{homeless:?}");
    assert_eq!(folder.files(), NOTHING);
    assert_eq!((control.config().1, network.ca_cert_pem()), (1, None));

    control.replace(folder.config("cert"), None).unwrap();
    assert_eq!(folder.files(), ["cert", "key"]);
    let signs = network.ca_cert_pem().unwrap();
    assert_eq!(std::fs::read(folder.0.join("cert")).unwrap(), signs);
    // What is there belongs to no change that is refused.
    control.replace(large, None).unwrap_err();
    assert_eq!(folder.files(), ["cert", "key"]);
    // Nor where another network finds it.
    let (_other, control, _runtime) = super::network(config(Permission::Allow));
    let nobody = control.replace(folder.config("cert"), None);
    assert!(matches!(nobody, Err(Error::NotRunning)), "{nobody:?}");
    assert_eq!(std::fs::read(folder.0.join("cert")).unwrap(), signs);
}

#[test]
fn a_change_that_was_given_up_leaves_no_file_behind() {
    let folder = Folder::new("given-up");
    let mut held = HeldUp::new();
    held.hold();
    let given_up = held.control.replace_within(Duration::ZERO, folder.config("cert"), None);
    assert!(matches!(given_up, Err(Error::Busy)), "{given_up:?}");
    assert_eq!(folder.files(), NOTHING);
    held.let_go();
    assert_eq!(held.control.flows().unwrap(), []);
    assert_eq!((held.network.ca_cert_pem(), folder.files()), (None, vec![]));
}

#[test]
fn a_network_that_can_not_be_made_leaves_no_file_behind() {
    let folder = Folder::new("unmade");
    let mut distrusting = folder.config("cert");
    distrusting.tls.upstream_ca_cert = vec![folder.0.join("nowhere")];
    let unmade = SmoltcpNetwork::try_new(distrusting, 0).map(drop);
    assert!(matches!(unmade, Err(Error::Authority(_))), "{unmade:?}");
    assert_eq!(folder.files(), NOTHING);
    SmoltcpNetwork::try_new(folder.config("cert"), 0).unwrap();
    assert_eq!(folder.files(), ["cert", "key"]);
}

#[test]
fn a_guest_that_trusts_an_authority_is_restored_with_it_or_without_interception() {
    let [one, another] = ["one", "another"].map(Folder::new);
    let in_memory = || NetworkConfig::from_json(r#"{"tls": {"enabled": true}}"#).unwrap();
    let snapshot = |config: NetworkConfig| {
        let (mut network, control, runtime) = network(config);
        network.try_start(runtime.handle().clone()).unwrap();
        let snapshot = control.snapshot().unwrap();
        assert!(!snapshot.to_json().contains("KEY"), "keys stay where they are");
        Snapshot::from_json(&snapshot.to_json()).unwrap()
    };
    let restored = |config: NetworkConfig, snapshot: &Snapshot| {
        let restored = SmoltcpNetwork::try_restore(config, 0, snapshot.clone());
        restored.map(drop).map_err(|error| error.to_string())
    };
    let kept = snapshot(one.config("cert"));
    restored(one.config("cert"), &kept).unwrap();
    restored(config(Permission::Allow), &kept).unwrap();
    let error = restored(another.config("cert"), &kept).unwrap_err();
    assert!(error.contains(" is not the authority that the guest trusts"), "{error}");
    assert_eq!((one.files(), another.files()), (vec!["cert".into(), "key".into()], vec![]));
    let lost = snapshot(in_memory());
    let error = restored(in_memory(), &lost).unwrap_err();
    assert!(error.contains("tls.intercept_ca: one made in memory is not the"), "{error}");
    // Whose guest trusts none yet may be told of one.
    restored(in_memory(), &snapshot(config(Permission::Allow))).unwrap();
}
