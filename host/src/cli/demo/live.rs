//! What the demonstration changes, and looks at, while its guest is online.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;

use indicatif::BinaryBytes;
use sluicegate_core::{PortRange, Protocol};
use sluicegate_host::config::{DestinationConfig, RuleConfig};
use sluicegate_host::{Capture, ControlHandle, Direction, FlowRow, Group, Permission};

use crate::cli::failure::Failure;

/// Bytes of the guest's first frames that are kept.
const CAPTURE_BYTES_MAX: usize = 200_000;

/// The handle of the network, and what was seen by it.
pub(super) struct Live {
    control: ControlHandle,
    /// The port that a new policy denies.
    port: u16,
    /// The flows when the policy changed, a line each.
    pub(super) flows: Vec<String>,
}

impl Live {
    pub(super) fn new(control: ControlHandle, port: u16) -> Self {
        Self { control, port, flows: vec![] }
    }

    /// Lists the flows, and denies the guest a port that it is connected to.
    pub(super) fn change(&mut self) -> Result<(), Failure> {
        self.flows = self.control.flows()?.iter().map(line).collect();
        let (mut config, version) = self.control.config();
        let rule = RuleConfig {
            direction: Some(Direction::Egress),
            destination: DestinationConfig::Group(Group::Host),
            protocols: vec![Protocol::Tcp],
            ports: vec![PortRange::single(self.port)],
            action: Permission::Deny,
            strict: None,
        };
        config.policy.rules.insert(0, rule);
        self.control.replace(config, Some(version))?;
        Ok(())
    }

    /// Writes the guest's first frames to a file; returns where that is, and who writes.
    pub(super) fn record(&self) -> Result<(PathBuf, JoinHandle<()>), Failure> {
        let path = std::env::temp_dir().join("sluicegate-demo.pcapng");
        // Whoever left a file or a link there decides nothing.
        let _ = std::fs::remove_file(&path);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let capture = self.control.capture()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let writer = std::thread::spawn(move || {
            // A full disk is no reason to end the demonstration.
            let _ = runtime.block_on(write(capture, &mut file));
        });
        Ok((path, writer))
    }
}

async fn write(mut capture: Capture, file: &mut impl Write) -> std::io::Result<()> {
    let mut written = 0;
    while written < CAPTURE_BYTES_MAX
        && let Some(piece) = capture.next_piece().await
    {
        file.write_all(&piece)?;
        written += piece.len();
    }
    Ok(())
}

fn line(flow: &FlowRow) -> String {
    let way = if flow.direction == Direction::Ingress { "<-" } else { "->" };
    let (up, down) = (BinaryBytes(flow.from_guest_bytes), BinaryBytes(flow.to_guest_bytes));
    let name = flow.name.as_deref().map_or_else(String::new, |name| format!(" {name}"));
    format!(
        "{} {} {way} {}{name} {} by {}, {up} up, {down} down",
        flow.protocol.name(),
        flow.guest,
        flow.peer,
        flow.state.name(),
        flow.by,
    )
}
