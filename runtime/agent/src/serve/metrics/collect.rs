//! Metrics that are read from the pinned tables when they are requested: entries, connections,
//! drops and memory.
//!
//! The maps are read while the agent writes them, so only values that are a single load are used.
//! Not here: decoded tables, since reading them could see half an update.

use std::path::PathBuf;

use netpolc_target_ebpf::Ebpf;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::super::record::Record;

/// Collects metrics from the tables that are pinned in a folder.
#[derive(Debug)]
pub struct Tables {
    pin_dir: PathBuf,
}

/// One metric with its values.
struct Metric<'a> {
    name: &'a str,
    help: &'a str,
    kind: MetricType,
    values: Vec<(Vec<(&'a str, String)>, u64)>,
}

impl Tables {
    /// A collector for the tables pinned in `pin_dir`.
    pub fn new(pin_dir: PathBuf) -> Self {
        Tables { pin_dir }
    }

    fn metrics(&self) -> Result<Vec<Metric<'static>>, netpolc_target::Error> {
        let Some(mut ebpf) = Ebpf::observe(&self.pin_dir)? else { return Ok(vec![]) };
        let record = Record::read(&self.pin_dir).unwrap_or_default();
        let pod = |name: &str| {
            let (namespace, pod) = name.split_once('/').unwrap_or(("", name));
            vec![("namespace", namespace.to_owned()), ("pod", pod.to_owned())]
        };
        let (mut drops, mut connections, mut room) = (vec![], vec![], vec![]);
        for known in &record.pods {
            // A pod whose table is just being resized or removed is counted the next time.
            let Ok((v4, v6)) = ebpf.occupancy(known.endpoint) else { continue };
            let places = ebpf.room(known.endpoint)?;
            for (family, count, places) in [("ipv4", v4, places.0), ("ipv6", v6, places.1)] {
                connections.push((with(pod(&known.pod), "family", family), u64::from(count)));
                room.push((with(pod(&known.pod), "family", family), u64::from(places)));
            }
            for (hook, why, count) in ebpf.drops(known.endpoint)? {
                drops.push((
                    with(with(pod(&known.pod), "hook", hook.name()), "reason", why.name()),
                    count,
                ));
            }
        }
        let maps = ebpf.maps();
        let used = maps.iter().filter_map(|m| Some((vec![("map", m.name.to_owned())], m.used?)));
        let bytes = maps.iter().map(|m| (vec![("map", m.name.to_owned())], m.bytes()));
        let offload = record.offload.iter();
        let filters = offload.map(|o| {
            let labels = vec![
                ("interface", o.interface.clone()),
                ("mode", o.mode.clone()),
                ("driver", o.driver.clone()),
            ];
            (labels, o.filters as u64)
        });
        let gauge = |name, help, values| Metric { name, help, kind: MetricType::Gauge, values };
        Ok(vec![
            gauge(
                "pods",
                "Pods of this node that are known",
                vec![(vec![], record.pods.len() as u64)],
            ),
            gauge(
                "policies",
                "Policies that apply to pods of this node",
                vec![(vec![], record.policies.len() as u64)],
            ),
            gauge("map_entries", "Entries of a kernel map in use", used.collect()),
            gauge("map_bytes", "Memory of a kernel map", bytes.collect()),
            gauge("connections", "Entries in a pod's connection table", connections),
            gauge(
                "connections_capacity",
                "Places in a pod's connection table now; it grows with what is used",
                room,
            ),
            gauge("offloaded_filters", "Flower filters that are installed", filters.collect()),
            Metric {
                name: "dropped_packets",
                help: "Packets dropped, by pod, hook and reason; permitted packets are not \
                    counted, to cost nothing",
                kind: MetricType::Counter,
                values: drops,
            },
        ])
    }
}

fn with(
    mut labels: Vec<(&'static str, String)>,
    key: &'static str,
    value: &str,
) -> Vec<(&'static str, String)> {
    labels.push((key, value.to_owned()));
    labels
}

impl Collector for Tables {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let metrics = match self.metrics() {
            Ok(metrics) => metrics,
            Err(error) => {
                // These metrics are missing then, which monitoring can see. An error of the agent
                // itself is counted by the agent.
                tracing::warn!(%error, "the metrics of the tables could not be read");
                return Ok(());
            }
        };
        for metric in metrics.into_iter().filter(|m| !m.values.is_empty()) {
            let mut family =
                encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (labels, value) in metric.values {
                let one = family.encode_family(&labels)?;
                match metric.kind {
                    MetricType::Counter => ConstCounter::new(value).encode(one)?,
                    _ => ConstGauge::new(value).encode(one)?,
                }
            }
        }
        Ok(())
    }
}
