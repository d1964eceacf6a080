//! The audit: whether the target really holds what the agent has written, and what to do where it
//! does not, because somebody else has changed it or a bug of netpolc has.
//!
//! Reading a large program takes long, so a thread of its own does that, from [`Agent::audit`]'s
//! reader. Its result counts only where the agent has changed nothing meanwhile. Not here: when an
//! audit is due, and whom its findings are told (`serve`).

use netpolc_policy::ObjectKey;
use netpolc_table::{IfIndex, Program, delta};
use netpolc_target::{Damage, NodeTarget, Reader};

use crate::{Agent, Error, Report, SyncState, network::Network};

/// How many entries that differ are named.
const NAMED: usize = 5;

/// Tells whether the agent has begun to change what its target holds. Another one with each update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(u64);

impl Version {
    /// The one that follows.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// What an audit has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audited {
    /// The agent has begun an update since the reading began, so that it says nothing.
    Outdated,
    /// The target holds what it should.
    Sound,
    /// The target holds another program.
    Differs(Differences),
    /// What the target holds cannot be decoded, for this reason.
    Unreadable(String),
}

/// The entries that differ from those that there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// How many there are.
    pub count: usize,
    /// The first of them, as text.
    pub first: Vec<String>,
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.first.join("; "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// Begins an audit: returns what reads the target, and the version to give to
    /// [`Agent::audited`] with what was read. None where there is nothing to compare yet, or the
    /// target cannot be read by another thread.
    pub fn audit(&self) -> Option<(Version, Reader)> {
        if !self.loaded || self.first {
            return None;
        }
        Some((self.version, self.host.reader()?))
    }

    /// Compares what was read with what there should be.
    pub fn audited(
        &self,
        version: Version,
        held: &Result<Program, netpolc_target::Error>,
    ) -> Audited {
        let held = match held {
            _ if version != self.version => return Audited::Outdated,
            Err(error) => return Audited::Unreadable(error.to_string()),
            Ok(held) => held,
        };
        let wanted = self.compiler.program();
        // The same program may stand there under other ids.
        let renamed = match self.sync {
            SyncState::InSync => None,
            SyncState::OutOfSync => delta::plan(held, wanted).ok().map(|(renamed, _)| renamed),
        };
        let mut differences = Differences::default();
        for difference in delta::differences(held, renamed.as_ref().unwrap_or(wanted)) {
            differences.count += 1;
            if differences.first.len() < NAMED {
                differences.first.push(difference.to_string());
            }
        }
        if differences.count == 0 { Audited::Sound } else { Audited::Differs(differences) }
    }

    /// The pods whose interfaces the target does not see, though it should.
    pub fn unattached(&self) -> Vec<(ObjectKey, IfIndex)> {
        let attached = self.host.attached();
        let all = self.interfaces.all().map(|(pod, interface)| (pod.clone(), interface.ifindex));
        all.filter(|(_, ifindex)| !attached.contains(ifindex)).collect()
    }

    /// Brings the target back to what it should hold, after an audit has found that it does not.
    ///
    /// # Errors
    /// As for [`Agent::update`].
    pub fn mend(&mut self, damage: Damage) -> Result<Report, Error> {
        self.version = self.version.next();
        self.sync = SyncState::OutOfSync;
        self.host.mend(damage, self.compiler.program())?;
        self.refresh()
    }
}
