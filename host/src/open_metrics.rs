//! The counters as OpenMetrics text, which Prometheus and others scrape.

use core::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::histogram::Histogram;
use crate::metrics::{MetricsHandle, RingFill};

/// What a metric is about, by its name; the others say it themselves.
const HELP: &[(&str, &str)] = &[
    ("tx_bytes", "Ethernet bytes from the guest"),
    ("rx_bytes", "Ethernet bytes to the guest"),
    ("tcp_opened", "TCP flows that the guest opened"),
    ("tcp_refused", "TCP flows that the outside did not accept"),
    ("tcp_reset", "TCP flows that ended with a reset"),
    ("tcp_denied_heard", "TCP flows that were denied by what they said"),
    ("udp_evicted", "UDP flows that made room for newer ones"),
    ("inbound_opened", "flows that somebody outside opened at a published port"),
    ("icmp_errors_heeded", "ICMP errors of the guest's from which something followed"),
    ("deny_pages", "denied connections that were told so in the words of HTTP"),
    ("denials_left_out", "denials that were too many to be told"),
    ("host_exhausted", "sockets that the host would not open, by lack of descriptors or memory"),
    ("icmp_errors_left_out", "ICMP errors that the guest had had its share of"),
    ("answers_stray", "datagrams for the guest that answer nothing"),
    ("answers_refused", "answers of the guest to a peer of a UDP port that did not leave"),
    ("pieces_full", "datagrams in pieces that gave way to newer ones"),
    ("pieces_late", "datagrams of which a piece did not come in time"),
    ("capture_lost", "records that the reader of a capture was too slow for"),
    ("socket_full", "datagrams of the guest that this host's socket had no room for"),
    ("relay_full", "datagrams through the proxy that there was no room for"),
    ("relay_lost", "datagrams through the proxy that did not get there"),
    ("names_full", "queries in datagrams that were more than a turn takes"),
    ("names_busy", "queries that were not asked, as too many were under way"),
    ("names_too_long", "queries that were longer than any"),
    ("name_streams_full", "streams for names that gave way to newer ones"),
    ("http_streams_full", "streams of HTTP/2 that were refused, as there were too many"),
    ("driver_turns", "turns of the driver's loop"),
];

/// Counters that are one metric, told apart by labels.
struct Family {
    name: &'static str,
    /// What their names begin with; the values of the labels follow.
    prefix: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

const FAMILIES: [Family; 7] = [
    Family {
        name: "drops",
        prefix: "drop_",
        labels: &["reason"],
        help: "frames of the guest that went no further",
    },
    Family {
        name: "adapter_drops",
        prefix: "adapter_",
        labels: &["reason"],
        help: "frames that the front end dropped",
    },
    Family {
        name: "verdicts",
        prefix: "verdict_",
        labels: &["decision", "kind"],
        help: "verdicts on flows, names and who comes to a published port",
    },
    Family {
        name: "denials",
        prefix: "denial_",
        labels: &["reason"],
        help: "verdicts that denied",
    },
    Family {
        name: "refusals",
        prefix: "refusal_",
        labels: &["reason"],
        help: "flows that the outside or this host would not have, and datagrams",
    },
    Family {
        name: "name_refusals",
        prefix: "name_refusal_",
        labels: &["reason"],
        help: "queries whose answer was an error of the gateway's",
    },
    Family {
        name: "incidents",
        prefix: "incident_",
        labels: &["kind"],
        help: "what went no further on intercepted connections",
    },
];

impl MetricsHandle {
    /// Everything as OpenMetrics 1.0 text (`application/openmetrics-text; version=1.0.0`), which
    /// ends with `# EOF`. Counters are `sluicegate_NAME_total`, with `drops`, `adapter_drops`,
    /// `refusals`, `denials` and `name_refusals` by `reason`, `incidents` by `kind`, and `verdicts`
    /// by `decision` (`allow`, `deny`) and `kind`; and `rule_hits` by `rule` (its index, or
    /// `default`, `platform`, `gateway`), as they were
    /// [measured](crate::ControlHandle::measure) last. No label is the guest's. Gauges are
    /// `sluicegate_flows` by protocol, and by `way` (`from_guest`, `to_guest`)
    /// `sluicegate_ring_frames`, `sluicegate_ring_bytes`, `sluicegate_ring_capacity_bytes` and
    /// `sluicegate_tcp_buffered_bytes`, which is as it was
    /// [measured](crate::ControlHandle::measure) last; histograms are in seconds.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut registry = Registry::with_prefix("sluicegate");
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            // A string takes what is written to it.
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }

    fn encode_family(&self, encoder: &mut DescriptorEncoder<'_>, of: &Family) -> fmt::Result {
        let mut family = encoder.encode_descriptor(of.name, of.help, None, MetricType::Counter)?;
        for (name, count) in self.counters() {
            if let Some(values) = name.strip_prefix(of.prefix) {
                let values = values.splitn(of.labels.len(), '_');
                let labels: Vec<_> = of.labels.iter().copied().zip(values).collect();
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn encode_hits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "verdicts of this policy, by the rule that decided";
        let kind = MetricType::Counter;
        let mut family = encoder.encode_descriptor("rule_hits", help, None, kind)?;
        for (by, count) in self.rule_hits() {
            let rule = by.rule().map_or_else(|| by.name().to_owned(), |index| index.to_string());
            family
                .encode_family(&[("rule", rule)])?
                .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_fill(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let fill = self.ring_fill();
        let bytes = Some(&Unit::Bytes);
        let frames = ("ring_frames", "frames that wait in the ring");
        encode_ways(encoder, frames, None, fill.map(|(way, ring)| (way, ring.frames)))?;
        let of = |(way, ring): (_, RingFill)| (way, ring.bytes as u64);
        encode_ways(encoder, ("ring", "what they take of it"), bytes, fill.map(of))?;
        let of = |(way, ring): (_, RingFill)| (way, ring.capacity_bytes as u64);
        let capacity = ("ring_capacity", "what the ring has");
        encode_ways(encoder, capacity, bytes, fill.map(of))?;
        let buffered = ("tcp_buffered", "what waits in the buffers of TCP flows");
        encode_ways(encoder, buffered, bytes, self.buffered_bytes())
    }

    fn encode_flows(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "flows that are open";
        let mut flows = encoder.encode_descriptor("flows", help, None, MetricType::Gauge)?;
        for (protocol, count) in self.flow_counts() {
            flows.encode_family(&[("protocol", protocol)])?.encode_gauge(&i64::from(count))?;
        }
        Ok(())
    }
}

/// A gauge, of each way of the frames.
fn encode_ways(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    unit: Option<&Unit>,
    ways: [(&str, u64); 2],
) -> fmt::Result {
    let mut gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (way, number) in ways {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        gauge.encode_family(&[("way", way)])?.encode_gauge(&number)?;
    }
    Ok(())
}

fn encode_times(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    times: &Histogram,
) -> fmt::Result {
    let unit = Some(&Unit::Seconds);
    let counted = times.read();
    encoder
        .encode_descriptor(name, help, unit, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(counted.sum_s, counted.count, &counted.buckets, None)
}

impl Collector for MetricsHandle {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &FAMILIES {
            self.encode_family(&mut encoder, family)?;
        }
        for (name, count) in self.counters() {
            if FAMILIES.iter().any(|family| name.starts_with(family.prefix)) {
                continue;
            }
            let help = HELP.iter().find(|(known, _)| *known == name).map(|(_, help)| *help);
            let words = name.replace('_', " ");
            encoder
                .encode_descriptor(name, help.unwrap_or(&words), None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        self.encode_hits(&mut encoder)?;
        self.encode_flows(&mut encoder)?;
        self.encode_fill(&mut encoder)?;
        let times = &self.published.times;
        let connect = ("connect", "time until the outside accepted a TCP flow");
        encode_times(&mut encoder, connect, &times.connect)?;
        let names = ("dns", "time until a name server had answered");
        encode_times(&mut encoder, names, &times.names)?;
        let tls = ("tls_handshake", "time of the handshakes of an intercepted connection, both");
        encode_times(&mut encoder, tls, &times.tls)
    }
}

impl fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.counters()).finish()
    }
}
