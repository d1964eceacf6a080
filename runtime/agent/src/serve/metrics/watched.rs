//! Metrics about the watches of the cluster's kinds, read when they are requested. There are none
//! where the cluster comes from files.

use std::sync::{Arc, OnceLock};

use netpolc_kube_sync::watch::WatchStates;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Collects the state of the watches that [`Watched::set`] has given.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<OnceLock<WatchStates>>);

impl Watched {
    /// Sets the watches whose state is shown. An agent has one watch, so only the first call
    /// counts.
    pub fn set(&self, states: WatchStates) {
        // A second watch in one process would belong to another agent.
        let _ = self.0.set(states);
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(states) = self.0.get() else { return Ok(()) };
        let help = "1 while the resource is watched and its first list was complete, else 0";
        let mut family = encoder.encode_descriptor("watch_up", help, None, MetricType::Gauge)?;
        for (resource, state) in states.all() {
            let labels = [("resource", resource.label())];
            let one = family.encode_family(&labels)?;
            ConstGauge::new(i64::from(state.up)).encode(one)?;
        }
        let help = "Since anything about the resource came from the API server, which sends a sign \
            of life each minute or so";
        let mut family = encoder.encode_descriptor(
            "watch_last_contact_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        for (resource, state) in states.all() {
            let Some(silent) = state.silent else { continue };
            let labels = [("resource", resource.label())];
            let one = family.encode_family(&labels)?;
            ConstGauge::new(silent.as_secs_f64()).encode(one)?;
        }
        Ok(())
    }
}
