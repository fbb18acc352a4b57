//! Flows as a table for people.

use core::ops::Range;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Deserialize;

use crate::cli::failure::Failure;

/// The answer to `GET /v1/flows`.
#[derive(Deserialize)]
pub(in crate::cli) struct Flows {
    flows: Vec<Flow>,
}

impl Flows {
    /// Reads `json`.
    pub(in crate::cli) fn read(json: &[u8]) -> Result<Self, Failure> {
        Ok(serde_json::from_slice(json)?)
    }

    /// What there is to show of each.
    pub(in crate::cli) fn rows(&self) -> Vec<Row> {
        let row = |flow: &Flow| Row {
            id: flow.id,
            moved: [flow.from_guest_bytes, flow.to_guest_bytes],
            age_ms: flow.age_ms,
            cells: flow.cells(),
        };
        self.flows.iter().map(row).collect()
    }
}

/// One flow, as it is shown.
pub(in crate::cli) struct Row {
    pub(in crate::cli) id: u64,
    /// The bytes that it has moved: up and down.
    pub(in crate::cli) moved: [u64; 2],
    pub(in crate::cli) age_ms: u64,
    /// Under [`HEAD`].
    pub(in crate::cli) cells: [String; HEAD.len()],
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

/// The heads of the columns.
pub(in crate::cli) const HEAD: [&str; 9] =
    ["ID", "PROTO", "FLOW", "NAME", "STATE", "BY", "AGE", "UP", "DOWN"];
/// Columns from here on are numbers.
pub(in crate::cli) const UP: usize = 7;

/// The table of `flows`.
pub(super) fn flows(flows: &Flows) -> String {
    let cells = flows.flows.iter().map(Flow::cells);
    table(HEAD.to_vec(), UP..HEAD.len(), cells.map(|cells| cells.to_vec()))
}

/// The answer to `GET /v1/rules`.
#[derive(Deserialize)]
struct Rules {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    by: String,
    rule: Option<u16>,
    does: Option<String>,
    hits: u64,
}

/// The table of the rules in `json`.
pub(super) fn rules(json: &[u8]) -> Result<String, Failure> {
    let Rules { rules } = serde_json::from_slice(json)?;
    let rows = rules.into_iter().map(|rule| {
        let by = shown(&rule.by, rule.rule);
        vec![rule.hits.to_string(), by, rule.does.unwrap_or_default()]
    });
    Ok(table(vec!["HITS", "BY", "DOES"], 0..1, rows))
}

/// What decided, in words.
fn shown(by: &str, rule: Option<u16>) -> String {
    rule.map_or_else(|| by.to_owned(), |rule| format!("rule {rule}"))
}

impl Flow {
    fn cells(&self) -> [String; HEAD.len()] {
        let flow = self;
        let way = if flow.direction == "ingress" { "<-" } else { "->" };
        [
            flow.id.to_string(),
            flow.protocol.clone(),
            format!("{} {way} {}", flow.guest, flow.peer),
            flow.name.clone().unwrap_or_default(),
            flow.state.clone(),
            shown(&flow.by, flow.rule),
            HumanDuration(Duration::from_millis(flow.age_ms)).to_string(),
            BinaryBytes(flow.from_guest_bytes).to_string(),
            BinaryBytes(flow.to_guest_bytes).to_string(),
        ]
    }
}

fn table(
    head: Vec<&str>,
    numbers: Range<usize>,
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    rows.for_each(|row| {
        table.add_row(row);
    });
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_line_with_its_hits_first() {
        let json =
            br#"{"rules": [{"by": "rule", "rule": 0, "does": "allow tcp to any", "hits": 12},
            {"by": "default", "rule": null, "does": null, "hits": 3}]}"#;
        let expected = "HITS  BY       DOES\n   12  rule 0   allow tcp to any\n    3  default\n";
        let shown = rules(json).unwrap();
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        let expected: Vec<&str> = expected.lines().map(str::trim).collect();
        assert_eq!(lines, expected, "{shown}");
    }

    #[test]
    fn a_flow_is_a_line() {
        let json = br#"{"flows": [{"id": 1, "protocol": "tcp", "direction": "egress", "new": 1,
            "guest": "100.96.0.2:4711", "peer": "1.1.1.1:443", "name": "one.test", "state": "open",
            "by": "rule", "rule": 3, "age_ms": 61000, "from_guest_bytes": 2048,
            "to_guest_bytes": 5}, {"id": 2, "protocol": "udp", "direction": "ingress",
            "guest": "100.96.0.2:53", "peer": "203.0.113.9:1", "name": null, "state": "open",
            "by": "default", "rule": null, "age_ms": 1, "from_guest_bytes": 0,
            "to_guest_bytes": 0}]}"#;
        let text = flows(&Flows::read(json).unwrap());
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
