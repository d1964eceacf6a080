//! `netpolc bench compile`: decoding, compiling and pod events of the big cluster (100,000 pods,
//! 1,000 namespaces, 10,000 policies), seen by one of its nodes. Not here: how fast a target takes
//! the writes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use netpolc_kube_sync::{Input, load};
use netpolc_lower::{Compiler, Event, Scope};
use netpolc_policy::{Cluster, Labels, Pod};
use netpolc_table::delta;
use netpolc_testbed::{
    big::{Big, Ordered},
    random::Rng,
};
use serde::Serialize;

/// What compiling a large cluster costs.
#[derive(Debug, Serialize)]
pub struct CompileReport {
    /// How many bytes of JSON the cluster is.
    pub bytes: u64,
    /// Megabytes (10^6) of JSON decoded a second, on one core.
    pub decode_mb_per_s: f64,
    /// How many pods are on the node that is compiled for.
    pub local_pods: usize,
    /// The time from model to tables in milliseconds; the minimum of all rounds.
    pub compile_ms: f64,
    /// The largest resident size so far, in MiB, decoded cluster included.
    pub peak_mib: f64,
    /// How many entries each table has.
    pub entries: BTreeMap<&'static str, usize>,
    /// A pod event, compiled and ordered: median, in microseconds.
    pub event_us_p50: f64,
    /// The 99th percentile of the time of one event, in microseconds.
    pub event_us_p99: f64,
    /// Entries that an event changed, in the mean.
    pub event_entries: f64,
    /// The same cluster with 100 ClusterNetworkPolicies and 200 security groups of 60 rules, in
    /// turn with it: its time from model to tables, as a ratio.
    pub ordered_ratio: f64,
    /// How many entries there are then.
    pub ordered_entries: usize,
    /// A pod event in that cluster: median, in microseconds.
    pub ordered_event_us_p50: f64,
}

impl CompileReport {
    /// Rows of a table: what, and how much.
    pub fn rows(&self) -> Vec<[String; 2]> {
        let entries: usize = self.entries.values().sum();
        vec![
            [
                "decode JSON".into(),
                format!("{:.0} MB/s ({:.0} MB)", self.decode_mb_per_s, self.bytes as f64 / 1e6),
            ],
            [
                format!("compile for a node with {} pods", self.local_pods),
                format!("{:.0} ms, {entries} entries", self.compile_ms),
            ],
            ["memory at its peak".into(), format!("{:.0} MiB", self.peak_mib)],
            [
                "pod event, median".into(),
                format!("{:.1} µs, {:.1} entries", self.event_us_p50, self.event_entries),
            ],
            ["pod event, 99th percentile".into(), format!("{:.1} µs", self.event_us_p99)],
            [
                "with 100 ClusterNetworkPolicies and 200 security groups".into(),
                format!("{:.2} of the time, {} entries", self.ordered_ratio, self.ordered_entries),
            ],
            ["pod event with them, median".into(), format!("{:.1} µs", self.ordered_event_us_p50)],
        ]
    }
}

/// Measures.
///
/// # Errors
/// The files cannot be written, or the generated cluster is refused.
pub fn run(rounds: u32, mut progress: impl FnMut(String)) -> Result<CompileReport> {
    let big = Big::default();
    progress(format!("writing {} pods and {} policies as JSON", big.pods, big.policies));
    let folder = Folder::new()?;
    let files = big.write(&folder.0)?;
    let bytes: u64 =
        files.iter().map(|f| std::fs::metadata(f).map(|m| m.len())).sum::<Result<u64, _>>()?;
    progress(format!("decoding {:.0} MB", bytes as f64 / 1e6));
    let began = Instant::now();
    let loaded = load(files.into_iter().map(Input::Path));
    let decoding = began.elapsed();
    anyhow::ensure!(
        !loaded.has_errors(),
        "the generated cluster is refused: {}",
        loaded.problems[0]
    );
    drop(folder);
    let cluster = loaded.cluster;

    let scope = Scope::Node(big.node_name(5));
    progress("compiling".into());
    let mut best = Duration::MAX;
    let mut compiler = Compiler::new(scope.clone());
    let compile = |cluster: &Cluster, best: &mut Duration| -> Result<Compiler> {
        let mut compiler = Compiler::new(scope.clone());
        let began = Instant::now();
        compiler.load(cluster)?;
        *best = (*best).min(began.elapsed());
        Ok(compiler)
    };
    for _ in 0..rounds.min(3) {
        // The old one goes first: two at once are not what a node needs.
        drop(std::mem::replace(&mut compiler, Compiler::new(scope.clone())));
        compiler = compile(&cluster, &mut best)?;
    }
    let peak_mib = peak_mib()?;

    progress("pod events".into());
    let times = events(&cluster, &mut compiler)?;
    let us = |q: f64| times.us(q);
    let entries_by_table =
        compiler.program().tables().map(|t| (t.id.spec().name, t.entries.len())).collect();
    let local_pods = compiler.endpoints().count();

    progress("with tiers and security groups".into());
    let mut ordered = cluster.clone();
    Ordered::default().add(&big, &mut ordered);
    let (mut without, mut with) = (Duration::MAX, Duration::MAX);
    for _ in 0..rounds.min(7) {
        drop(compile(&cluster, &mut without)?);
        compiler = compile(&ordered, &mut with)?;
    }
    let ordered_times = events(&ordered, &mut compiler)?;
    Ok(CompileReport {
        bytes,
        decode_mb_per_s: bytes as f64 / 1e6 / decoding.as_secs_f64(),
        local_pods,
        compile_ms: best.as_secs_f64() * 1e3,
        peak_mib,
        entries: entries_by_table,
        event_us_p50: us(0.5),
        event_us_p99: us(0.99),
        event_entries: times.entries as f64 / EVENTS as f64,
        ordered_ratio: with.as_secs_f64() / without.as_secs_f64(),
        ordered_entries: compiler.program().tables().map(|t| t.entries.len()).sum(),
        ordered_event_us_p50: ordered_times.us(0.5),
    })
}

const EVENTS: usize = 20_000;

/// What pod events took, in order.
struct Times {
    sorted: Vec<Duration>,
    /// Entries that they changed.
    entries: usize,
}

impl Times {
    /// The time below which this part of all is, in microseconds.
    fn us(&self, part: f64) -> f64 {
        self.sorted[(self.sorted.len() as f64 * part) as usize].as_secs_f64() * 1e6
    }
}

/// Changes pods at random, compiling and ordering each change.
fn events(cluster: &Cluster, compiler: &mut Compiler) -> Result<Times> {
    let pods: Vec<&Pod> = cluster.pods.values().collect();
    let mut rng = Rng::new(7);
    let mut times = Vec::new();
    let mut entries = 0;
    for i in 0..EVENTS {
        let mut pod = (*rng.pick(&pods)).clone();
        match i % 4 {
            // Other labels: those of any pod of its namespace's size.
            0 => pod.labels = rng.pick(&pods).labels.clone(),
            1 => pod.labels = Labels::default(),
            // Another address.
            2 => pod.addresses = vec![std::net::Ipv4Addr::from_bits(0x0b00_0000 + i as u32).into()],
            // As it was.
            _ => {}
        }
        let key = pod.key.clone();
        let event = if i % 16 == 15 { None } else { Some(pod) };
        let began = Instant::now();
        let changes = compiler.apply(Event::Pod { key, pod: event })?;
        let plan = delta::order(compiler.program(), &changes)?;
        times.push(began.elapsed());
        entries += plan.steps.iter().map(|(_, w)| w.put.len() + w.remove.len()).sum::<usize>();
    }
    times.sort();
    Ok(Times { sorted: times, entries })
}

/// The most memory that this process has had (VmHWM), in MiB.
pub(crate) fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(f64::NAN);
    Ok(kib / 1024.0)
}

/// A folder that goes with this value.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("netpolc-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
