//! `netpolc detach`: stops enforcement, and removes links, pins, filters, the record and the CNI
//! socket. Not here: the network configuration (`netpolc cni remove`).

use std::path::Path;

use anyhow::Context;
use netpolc_agent::serve::record::Record;
use netpolc_cni::{protocol::SOCKET, server};
use netpolc_target_ebpf::Ebpf;
use netpolc_target_flower::Flower;

use crate::output::{self, Outcome};

/// Runs `netpolc detach`. It succeeds where there is nothing to remove.
///
/// # Errors
/// The user is not root, an agent is still running, or something cannot be removed.
pub fn run(pin_dir: &Path) -> anyhow::Result<Outcome> {
    output::needs_root("detach")?;
    Ebpf::remove(pin_dir).with_context(|| {
        format!("{} could not be detached; stop the agent first", pin_dir.display())
    })?;
    // netpolc's filters carry a mark, so they are found without a record.
    match Flower::new() {
        Ok(mut flower) => drop(flower.remove_all().context("flower filters could not be removed")?),
        Err(error) => tracing::debug!(%error, "this kernel has no flower filters"),
    }
    server::remove_abandoned(Path::new(SOCKET)).context("the CNI socket could not be removed")?;
    Record::remove(pin_dir).context("the agent's record could not be removed")?;
    Ok(Outcome::Fine)
}
