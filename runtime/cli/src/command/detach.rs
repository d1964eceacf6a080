//! `netpolc detach`: removes links, pins, the record and the CNI socket.

use std::path::Path;

use anyhow::Context;
use netpolc_agent::record::Record;
use netpolc_cni::{protocol::SOCKET, server};
use netpolc_target_ebpf::Ebpf;
use netpolc_target_flower::Flower;

use crate::output::{self, Outcome};

/// Runs the command. Nothing there is fine.
///
/// # Errors
/// No root, an agent that still runs, or a kernel that refuses.
pub fn run(pin_dir: &Path) -> anyhow::Result<Outcome> {
    output::needs_root("detach")?;
    Ebpf::remove(pin_dir).with_context(|| format!("detach {} (stop the agent first)", pin_dir.display()))?;
    // Filters carry our mark, so they are found without any record.
    match Flower::new() {
        Ok(mut flower) => drop(flower.remove_all().context("remove flower filters")?),
        Err(error) => tracing::debug!(%error, "no flower filters here"),
    }
    server::remove_abandoned(Path::new(SOCKET)).context("remove the CNI socket")?;
    Record::remove(pin_dir).context("remove the agent's record")?;
    Ok(Outcome::Fine)
}
