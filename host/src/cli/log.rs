//! `--log`: what policy denied, a line each, on the standard error.
//!
//! Owns the forms of a line and the thread that writes them; must not know where events come from.
//! A line of text is for people, beside what the command itself writes. A line of JSON is for
//! programs: its fields are always there, and more may be added.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use serde_json::json;
use sluicegate_host::{Denied, Events, Incident, Intercepted, NetworkEvent};

/// How a denial is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// In words: `sluicegate: denied tcp 100.96.0.2:4711 -> 10.0.0.1:80 (private) by default`
    Text,
    /// One JSON object a line, with the time
    Json,
}

/// A log that is being written.
pub(super) struct Log {
    /// Has nothing more to say, and nobody who could, once it is written.
    written: Receiver<()>,
}

/// How long whoever reads what is written may keep the command from ending.
const FINISH_MAX: Duration = Duration::from_secs(2);

impl Log {
    /// Writes `events` until the network ends.
    pub(super) fn start(mut events: Events, format: LogFormat) -> std::io::Result<Self> {
        let (writes, written) = channel();
        let write = move || {
            let _writes: Sender<()> = writes;
            let mut lost = 0;
            while let Some(event) = events.next() {
                let gone = events.lost() - core::mem::replace(&mut lost, events.lost());
                // In one piece, as the command writes there too. If the standard error is closed,
                // nobody wants to know.
                let _ = std::io::stderr().write_all(line(&event, format, gone).as_bytes());
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(write)?;
        Ok(Self { written })
    }

    /// Waits until all is written of a network that has ended, unless nobody reads it.
    pub(super) fn finish(self) {
        // Either way it is over.
        let _ = self.written.recv_timeout(FINISH_MAX);
    }
}

/// The line of `event`, before which this log lost `gone` others.
pub(super) fn line(event: &NetworkEvent, format: LogFormat, gone: u64) -> String {
    let (text, object) = match event {
        NetworkEvent::Denied(denied) => {
            let mut denied = denied.clone();
            denied.left_out += gone;
            (denied.to_string(), object(&denied))
        }
        NetworkEvent::Intercepted(refused) => {
            let mut refused = refused.clone();
            refused.left_out += gone;
            (refused.to_string(), refusal(&refused))
        }
        _ => return String::new(),
    };
    match format {
        LogFormat::Text => format!("sluicegate: {text}\n"),
        LogFormat::Json => format!("{object}\n"),
    }
}

fn refusal(refused: &Intercepted) -> serde_json::Value {
    let secret = if let Incident::Secret { env_var, place } = &refused.incident {
        Some((env_var.as_deref(), *place))
    } else {
        None
    };
    json!({
        "event": "refused",
        "time": rfc_3339(refused.time),
        "guest": refused.guest.ip(),
        "guest_port": refused.guest.port(),
        "destination": refused.destination.ip(),
        "destination_port": refused.destination.port(),
        "name": refused.name,
        "reason": refused.incident.name(),
        "secret": secret.and_then(|(env_var, _)| env_var),
        "place": secret.map(|(_, place)| place),
        "text": refused.incident.to_string(),
        "left_out": refused.left_out,
    })
}

fn object(denied: &Denied) -> serde_json::Value {
    let port = |port: u16| denied.protocol.has_ports().then_some(port);
    json!({
        "event": "denied",
        "time": rfc_3339(denied.time),
        "protocol": denied.protocol.name(),
        "guest": denied.guest.ip(),
        "guest_port": port(denied.guest.port()),
        "direction": denied.direction.name(),
        "destination": denied.destination.ip(),
        "destination_port": port(denied.destination.port()),
        "group": denied.group.map(|group| group.name()),
        "name": denied.name,
        "by": denied.by.name(),
        "rule": denied.by.rule(),
        "reason": denied.reason.name(),
        "left_out": denied.left_out,
    })
}

/// `time` in UTC, to the microsecond (RFC 3339 5.6).
fn rfc_3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March end with their leap day; 400 of them have 146,097 days, and five
    // months in a row 153. Day 0 is 1 March of year 0.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + month / 10, (month + 2) % 12 + 1);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_has_it() {
        for (seconds, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000Z"),
            (1_767_225_599, 0, "2025-12-31T23:59:59.000000Z"),
            (1_767_225_600, 0, "2026-01-01T00:00:00.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            let time = Duration::from_secs(seconds) + Duration::from_micros(micros);
            assert_eq!(rfc_3339(SystemTime::UNIX_EPOCH + time), expected);
        }
    }
}
