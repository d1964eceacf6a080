//! `netpolc bench kube`: what an agent costs beside a real API server, and how soon it does what
//! that says.
//!
//! The latencies are those of kubernetes/perf-tests
//! (network/tools/network-policy-enforcement-latency), without the test client's own pauses: *pod
//! creation reachability latency* runs from the moment at which a pod's address is known to the API
//! to the moment from which packets get the verdict that it brings; *policy creation enforcement
//! latency* from the policy's creation to the same. The beginning is when the API server has
//! answered the request that made the change (its watchers hear of it about then), and, as an upper
//! bound, when the request was sent. The end is the write that switches the verdict: a leaf for an
//! address, a word for an endpoint. What an update removes afterwards changes no verdict and does
//! not count.
//!
//! Interfaces are made up and no packets flow; the tables are the kernel's. [`crate::probe`] sees
//! the writes, [`events`] makes changes, [`start`] measures a whole agent process.

pub mod events;
pub mod start;

use std::time::Duration;

use anyhow::Result;

use super::Section;

/// The median, the 99th percentile and the maximum of some times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    /// The spread of these times.
    ///
    /// # Errors
    /// There is no time to take percentiles of.
    pub fn of(mut times: Vec<Duration>) -> Result<Self> {
        anyhow::ensure!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        let at =
            |q: f64| times[((times.len() - 1) as f64 * q).round() as usize].as_secs_f64() * 1e3;
        Ok(Self { p50: at(0.5), p99: at(0.99), max: at(1.0) })
    }
}

/// Measures.
///
/// # Errors
/// The caller is not root, there is no API server, or the agent does not keep up.
pub fn run(mut progress: impl FnMut(String)) -> Result<Section> {
    let mut section = Section::new("Beside a real API server", &["what", "median", "p99", "max"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let latency = runtime.block_on(events::run(&mut progress))?;
    let mut row = |what: &str, spread: Spread| {
        let cell = |ms: f64| format!("{ms:.2} ms");
        section.rows.push(vec![what.into(), cell(spread.p50), cell(spread.p99), cell(spread.max)]);
    };
    row("pod's address to enforced, from the server's answer", latency.pods.since_answer);
    row("pod's address to enforced, from the request", latency.pods.since_request);
    row("policy to enforced, from the server's answer", latency.policies.since_answer);
    row("policy to enforced, from the request", latency.policies.since_request);
    row("under load, from the write into etcd", latency.load.latency);
    row("after the load", latency.load.afterwards);
    section.notes.push(format!(
        "load: {} pod events in {:.1} s, {:.0} a second, {} lost",
        latency.load.events, latency.load.seconds, latency.load.rate, latency.load.lost
    ));
    for (what, spread) in
        [("pod", latency.pods.since_answer), ("policy", latency.policies.since_answer)]
    {
        section.at_most(&format!("{what} event, median, ms"), spread.p50, 5.0);
        section.at_most(&format!("{what} event, 99th percentile, ms"), spread.p99, 50.0);
    }
    section.at_most("events lost", latency.load.lost as f64, 0.0);
    section.at_most("99th percentile after the load, ms", latency.load.afterwards.p99, 50.0);
    let start = runtime.block_on(start::run(&mut progress))?;
    section.notes.push(format!(
        "start with {} pods, {} policies: {:.1} s to enforced, {:.0} MiB resident at most, {:.0} \
         MiB afterwards",
        start.pods, start.policies, start.seconds, start.peak_mib, start.resident_mib
    ));
    section.at_most("start with 100,000 pods, s", start.seconds, 10.0);
    section.at_most("resident with 100,000 pods, MiB", start.peak_mib, 350.0);
    Ok(section)
}
