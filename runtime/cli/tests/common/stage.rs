//! A node with an agent inside this process, for frames that no honest stack sends: the adversary's
//! lab, and what of the frames arrives.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use netpolc_agent::{Agent, network::Kernel};
use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::{
    adversary::{Lab, Place, Tracking, wire::Wire},
    random::Rng,
};

/// After the last arrival, before nothing more is expected: the sender's system call delivers, so
/// this is much.
const QUIET: Duration = Duration::from_millis(15);
/// How long what must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// An agent whose tables are pinned under a name of their own and go with it.
pub struct Enforced {
    pub agent: Agent<Ebpf, Kernel>,
    _pins: Pins,
}

/// Removes what is pinned, once its agent is gone.
struct Pins(PathBuf);

impl Enforced {
    /// To be called in the node's network namespace.
    pub fn open(node: &str, config: Config) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pins =
            PathBuf::from(format!("/sys/fs/bpf/netpolc-stage-{}-{number}", std::process::id()));
        let ebpf = Ebpf::open(&pins, config).expect("needs root and BPF");
        let agent = Agent::new(node.into(), ebpf, Kernel::new()).expect("a fresh target");
        Self { agent, _pins: Pins(pins) }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // A command that another test starts holds a copy of every descriptor, the lock's too,
        // until it executes.
        let began = Instant::now();
        let mut removed = Ebpf::remove(&self.0);
        while removed.is_err() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
            removed = Ebpf::remove(&self.0);
        }
        if !std::thread::panicking() {
            removed.expect("pins removed");
        }
    }
}

/// The lab with an agent that enforces some policies.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    wires: Vec<Wire>,
    enforced: Enforced,
    cluster: Cluster,
}

/// Does `work` on the node. Pods have the label `id: p0` and so on; those up to p2 are routed, the
/// others bridged.
pub fn on_stage(tracking: Tracking, policies: &str, work: impl FnOnce(&mut Stage<'_>) + Send) {
    let lab = Lab::up().expect("network namespaces (this needs root)");
    if tracking == Tracking::On {
        lab.track(Tracking::On).expect("nft");
    }
    let play = || {
        // Labels and ports besides `id` are the same in every run.
        let cluster = lab.world.cluster(&mut Rng::new(1));
        let wires = lab.wires().expect("packet sockets");
        let mut stage =
            Stage { lab: &lab, wires, enforced: Enforced::open("node1", Config::small()), cluster };
        stage.enforce(policies);
        work(&mut stage);
    };
    lab.node().run(play).expect("the node's namespace");
}

impl Stage<'_> {
    /// Replaces all policies.
    pub fn enforce(&mut self, policies: &str) {
        let policies =
            if policies.is_empty() { "{apiVersion: v1, kind: List, items: []}" } else { policies };
        let loaded =
            netpolc_kube_sync::load([netpolc_kube_sync::Input::bytes("policies.yaml", policies)]);
        assert_eq!(loaded.problems, []);
        self.cluster.policies = loaded.cluster.policies;
        self.enforced.agent.update(self.cluster.clone()).expect("an update");
    }

    /// Sends the frames, and counts those that arrive at `at` with `mark` in them. Fewer than
    /// `wanted` are waited for.
    pub fn arrive(
        &mut self,
        from: Place,
        at: Place,
        frames: &[Vec<u8>],
        mark: &[u8],
        wanted: usize,
    ) -> usize {
        let places: Vec<Place> = self.lab.world.places().collect();
        let index = |place| places.iter().position(|p| *p == place);
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        if let Some(sender) = index(from) {
            assert_eq!(
                self.wires[sender].send(&frames).expect("sent"),
                0,
                "the kernel refused a frame"
            );
        }
        let receiver = index(at).expect("a place with a packet socket");
        let began = Instant::now();
        let (mut count, mut last) = (0, began);
        while last.elapsed() < QUIET || (count < wanted && began.elapsed() < PATIENCE) {
            let mut seen =
                |frame: &[u8]| count += usize::from(frame.windows(mark.len()).any(|w| w == mark));
            if self.wires[receiver].receive(&mut seen).expect("received") > 0 {
                last = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        count
    }
}
