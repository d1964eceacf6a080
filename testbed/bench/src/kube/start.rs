//! From the start of an agent process to tables that enforce, with everything there already; and
//! what it weighs.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netpolc_testbed::{
    big::Big,
    kube::{Server, User, storage::Storage},
    manifest,
};

/// What starting the agent in a large cluster costs.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// How many pods are in the cluster.
    pub pods: usize,
    /// How many policies are in the cluster.
    pub policies: usize,
    /// The time from the start of the process to the last write.
    pub seconds: f64,
    /// The largest resident size, in MiB.
    pub peak_mib: f64,
    /// The resident size some seconds later, in MiB.
    pub resident_mib: f64,
}

/// Fills a server's storage with a cluster.
///
/// # Errors
/// etcd refuses an object.
pub async fn fill(server: &Server, big: &Big) -> Result<()> {
    let storage = Storage::of(server)?;
    let named = |n| {
        let (name, namespace) = big.namespace(n);
        manifest::namespace(&name, &namespace)
    };
    storage.put_all((0..big.namespaces).map(named)).await?;
    storage
        .put_all((0..big.nodes()).map(|n| manifest::node(&big.node_name(n), &big.node(n))))
        .await?;
    storage.put_all(big.pods().map(|pod| manifest::pod(&pod))).await?;
    storage.put_all(big.policies().map(|policy| manifest::policy(&policy))).await
}

/// Measures.
///
/// # Errors
/// There is no API server, or the agent does not come up within two minutes.
pub async fn run(progress: &mut impl FnMut(String)) -> Result<Start> {
    let big = Big::default();
    progress(format!("an API server with {} pods and {} policies", big.pods, big.policies));
    let server = Server::start().await?;
    fill(&server, &big).await?;
    // The server's own caches take a while to fill.
    tokio::time::sleep(Duration::from_secs(5)).await;
    progress("starting an agent".into());
    let pins = PathBuf::from(format!("/sys/fs/bpf/netpolc-bench-{}", std::process::id()));
    let program = netpolc::command::program::find("netpolc")?;
    let began = Instant::now();
    let mut agent = Command::new(&program);
    agent.args(["agent", "--kubernetes", "--node", &big.node_name(5), "--kubeconfig"]);
    agent.arg(server.kubeconfig(User::Admin)?).arg("--pin-dir").arg(&pins).env("RUST_LOG", "info");
    let mut agent = Agent { child: agent.stderr(Stdio::piped()).spawn()?, program, pins };
    let lines = BufReader::new(agent.child.stderr.take().context("its log")?).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    loop {
        let left = Duration::from_secs(120).saturating_sub(began.elapsed());
        let line =
            receiver.recv_timeout(left).context("the agent is not in step after two minutes")?;
        if line.contains("the kernel is in step") {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let id = agent.child.id();
    Ok(Start {
        pods: big.pods,
        policies: big.policies,
        seconds,
        peak_mib: memory(id, "VmHWM:")?,
        resident_mib: memory(id, "VmRSS:")?,
    })
}

/// A field of /proc/PID/status, in MiB.
fn memory(process: u32, field: &str) -> Result<f64> {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(field)).context("no such field")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// An agent process; it and its tables are gone when this is dropped.
struct Agent {
    child: Child,
    program: PathBuf,
    pins: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to remove.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new(&self.program)
            .arg("detach")
            .arg("--pin-dir")
            .arg(&self.pins)
            .stdout(Stdio::null())
            .status();
    }
}
