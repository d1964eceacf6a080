//! How the cluster's kinds are watched, as it is when somebody asks. Empty where the cluster comes
//! from files.

use std::sync::{Arc, OnceLock};

use netpolc_kube_sync::watch::Contacts;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Shows what [`Watched::set`] gave.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<OnceLock<Contacts>>);

impl Watched {
    /// What is shown from now on; an agent has one watch.
    pub fn set(&self, contacts: Contacts) {
        // A second watch of one process would be another agent's.
        let _ = self.0.set(contacts);
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(contacts) = self.0.get() else { return Ok(()) };
        let help = "1 while the resource is watched and its first list was complete, else 0";
        let mut family = encoder.encode_descriptor("watch_up", help, None, MetricType::Gauge)?;
        for (resource, contact) in contacts.all() {
            let labels = [("resource", resource.plural())];
            let one = family.encode_family(&labels)?;
            ConstGauge::new(i64::from(contact.up)).encode(one)?;
        }
        let help =
            "Since anything about the resource came from the API server, which sends a sign of life each minute or so";
        let mut family = encoder.encode_descriptor("watch_last_contact_seconds", help, None, MetricType::Gauge)?;
        for (resource, contact) in contacts.all() {
            let Some(silent) = contact.silent else { continue };
            let labels = [("resource", resource.plural())];
            let one = family.encode_family(&labels)?;
            ConstGauge::new(silent.as_secs_f64()).encode(one)?;
        }
        Ok(())
    }
}
