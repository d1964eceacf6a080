//! An agent that watches an API server, on a thread of this process.
//!
//! Not here: the server, and the node that the agent enforces on (`stage`, the tests themselves).

use std::{path::PathBuf, sync::Arc, thread::JoinHandle};

use netpolc_agent::{
    network::Kernel,
    serve::{Options, cluster_loop, metrics::Metrics},
};
use netpolc_kube_sync::{
    Families,
    watch::{self, Access, Lists},
};
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::netns::Site;
use tokio::sync::oneshot;

/// The agent of node n1, which runs until it is stopped.
pub struct Watching {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watching {
    /// Starts the agent of n1, in the namespace of `site`, with a CNI socket.
    pub fn start(
        site: Site,
        access: Access,
        pins: PathBuf,
        socket: PathBuf,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let options = Options { cni_socket: Some(socket), ..Options::new("n1", pins) };
        let work = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let source = watch::Options {
                access,
                node: Some("n1".into()),
                lists: Lists::Pages,
                families: Families::default(),
            };
            let host = Ebpf::open(&options.pin_dir, Config::default()).unwrap();
            let until = async { drop(stopped.await) };
            let kernel = Kernel::new();
            runtime
                .block_on(cluster_loop::serve(&options, source, metrics, host, kernel, until))
                .unwrap();
        };
        Self { stop, thread: std::thread::spawn(move || site.run(work).unwrap()) }
    }

    /// Has the agent end, and waits until it has.
    pub fn stop(self) {
        let _ = self.stop.send(());
        assert!(self.thread.join().is_ok() || std::thread::panicking());
    }
}
