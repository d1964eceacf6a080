//! What tests of the agent share: its process, and what CNI says of a pod.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::process::{Child, Command, ExitStatus};

use netpolc_cni::protocol::Sandbox;

/// An agent's process; killed at the latest when this goes.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Running(command.spawn().unwrap())
    }

    /// Ends it by a signal.
    pub fn end(mut self, signal: i32) -> ExitStatus {
        // SAFETY: our own child's number, which is not reaped before the wait below.
        unsafe { libc::kill(self.0.id() as i32, signal) };
        self.0.wait().unwrap()
    }

    /// [`Running::end`], which must go well unless it is killed.
    pub fn stop(self, signal: i32) {
        let status = self.end(signal);
        assert!(signal == libc::SIGKILL || status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sandbox of a pod in the namespace shop.
pub fn sandbox(name: &str, uid: &str, addresses: &[&str]) -> Sandbox {
    Sandbox {
        container: format!("{name}-{uid}"),
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        netns: "/run/netns/x".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        host_interfaces: vec![],
    }
}
