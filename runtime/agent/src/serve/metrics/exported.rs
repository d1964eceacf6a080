//! Metrics about what is sent to a collector of OpenTelemetry, read when they are requested. There
//! are none where nothing is sent.

use std::sync::{Arc, OnceLock, atomic::Ordering};

use netpolc_export::otlp::Counts;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// Collects the counts that [`Exported::set`] has given.
#[derive(Clone, Debug, Default)]
pub(super) struct Exported(Arc<OnceLock<Arc<Counts>>>);

impl Exported {
    /// Sets whose counts are shown. An agent has one collector, so only the first call counts.
    pub fn set(&self, counts: Arc<Counts>) {
        // A second one in one process would belong to another agent.
        let _ = self.0.set(counts);
    }
}

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(counts) = self.0.get() else { return Ok(()) };
        for (name, help, count) in [
            (
                "otlp_sent_flows",
                "Flows that the collector of OpenTelemetry has taken",
                &counts.sent,
            ),
            (
                "otlp_dropped_flows",
                "Flows that were dropped, since the collector of OpenTelemetry was too slow, did \
                 not answer or refused them",
                &counts.dropped,
            ),
            (
                "otlp_failed_requests",
                "Requests to the collector of OpenTelemetry that failed, each attempt by itself",
                &counts.failed,
            ),
        ] {
            let one = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(one)?;
        }
        Ok(())
    }
}
