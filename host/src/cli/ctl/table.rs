//! Flows as a table for people.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Deserialize;

use crate::cli::failure::Failure;

#[derive(Deserialize)]
struct Flows {
    flows: Vec<Flow>,
}

/// What is shown of a flow; there may be more.
#[derive(Deserialize)]
struct Flow {
    id: u64,
    protocol: String,
    direction: String,
    guest: String,
    peer: String,
    name: Option<String>,
    state: String,
    by: String,
    rule: Option<u16>,
    age_ms: u64,
    from_guest_bytes: u64,
    to_guest_bytes: u64,
}

const HEAD: [&str; 9] = ["ID", "PROTO", "FLOW", "NAME", "STATE", "BY", "AGE", "UP", "DOWN"];
const UP: usize = 7;
const DOWN: usize = 8;

/// The table of `json`, the answer to `GET /v1/flows`.
pub(super) fn flows(json: &[u8]) -> Result<String, Failure> {
    let Flows { flows } = serde_json::from_slice(json)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEAD);
    for flow in flows {
        let way = if flow.direction == "ingress" { "<-" } else { "->" };
        table.add_row([
            flow.id.to_string(),
            flow.protocol,
            format!("{} {way} {}", flow.guest, flow.peer),
            flow.name.unwrap_or_default(),
            flow.state,
            flow.rule.map_or(flow.by, |rule| format!("rule {rule}")),
            HumanDuration(Duration::from_millis(flow.age_ms)).to_string(),
            BinaryBytes(flow.from_guest_bytes).to_string(),
            BinaryBytes(flow.to_guest_bytes).to_string(),
        ]);
    }
    for column in [UP, DOWN] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Ok(format!("{}\n", table.trim_fmt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_a_line() {
        let json = br#"{"flows": [{"id": 1, "protocol": "tcp", "direction": "egress", "new": 1,
            "guest": "100.96.0.2:4711", "peer": "1.1.1.1:443", "name": "one.test", "state": "open",
            "by": "rule", "rule": 3, "age_ms": 61000, "from_guest_bytes": 2048,
            "to_guest_bytes": 5}, {"id": 2, "protocol": "udp", "direction": "ingress",
            "guest": "100.96.0.2:53", "peer": "203.0.113.9:1", "name": null, "state": "open",
            "by": "default", "rule": null, "age_ms": 1, "from_guest_bytes": 0,
            "to_guest_bytes": 0}]}"#;
        let text = flows(json).unwrap();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], HEAD);
        let flow =
            "1 tcp 100.96.0.2:4711 -> 1.1.1.1:443 one.test open rule 3 61 seconds 2.00 KiB 5 B";
        assert_eq!(lines[1].join(" "), flow);
        let flow = "2 udp 100.96.0.2:53 <- 203.0.113.9:1 open default 0 seconds 0 B 0 B";
        assert_eq!(lines[2].join(" "), flow);
    }
}
