//! Reads inputs for whoever answers questions about them: the cluster as for an agent, and beside
//! it what is gathered and made up. Not here: what such an input lacks (`missing`).

use std::{collections::BTreeSet, sync::Arc};

use netpolc_policy::{AddressBook, Frontends, Namespace, ObjectKey};

use crate::{
    Input, Lines, Loaded, MadeUpPods,
    gather::{Gathered, LintAllow},
    load::Loader,
    made_up,
    object::NAMESPACE_NAME_LABEL,
};

/// What becomes of pods and addresses that the input does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// They stay absent: the cluster is what an agent would enforce.
    Absent,
    /// A pod stands for each workload of which the input has none, and pods without addresses get
    /// some.
    MadeUp,
}

/// What inputs say, for whoever answers questions about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The cluster, what is wrong with the inputs, and where objects were found.
    pub loaded: Loaded,
    /// Which pods hold an address.
    pub book: AddressBook,
    /// The Services as their clients see them: [`netpolc_policy::frontend::backends`] says what is
    /// behind one.
    pub frontends: Frontends,
    /// The pods that are not in the input as they are in the cluster.
    pub made_up: MadeUpPods,
    /// Where the fields of policies and groups stand.
    pub lines: Lines,
    /// What objects say that lint need not report of them.
    pub lint_allow: LintAllow,
}

/// Reads all `inputs` as [`crate::load()`] does, and gathers what answers need. A namespace in
/// which the input has any object exists, with its name as a label, whether or not it is declared.
pub fn survey(inputs: impl IntoIterator<Item = Input>, absent: Absent) -> Survey {
    let mut loader = Loader::answering();
    for input in inputs {
        loader.input(input);
    }
    finish(loader, absent)
}

/// Completes what the loader has read.
pub(crate) fn finish(mut loader: Loader, absent: Absent) -> Survey {
    let mut gathered = loader.gathered.take().unwrap_or_default();
    gathered.join_slices();
    gathered.resolve_owners(&mut loader.cluster, &mut loader.interner);
    let mut interner = std::mem::take(&mut loader.interner);
    let mut loaded = loader.finish();
    let made_up = match absent {
        Absent::Absent => MadeUpPods::new(),
        Absent::MadeUp => {
            let Loaded { cluster, places, problems, .. } = &mut loaded;
            made_up::add(cluster, &gathered, places, &mut interner, problems)
        }
    };
    let cluster = &mut loaded.cluster;
    let keys: [Box<dyn Iterator<Item = &ObjectKey>>; 5] = [
        Box::new(cluster.pods.keys()),
        Box::new(cluster.policies.keys()),
        Box::new(cluster.services.keys()),
        Box::new(cluster.staged.keys()),
        Box::new(cluster.security.policies.keys()),
    ];
    let used: BTreeSet<&Arc<str>> = keys.into_iter().flatten().map(|key| &key.namespace).collect();
    let used = used.into_iter().filter(|name| !cluster.namespaces.contains_key(*name));
    let new: Vec<Arc<str>> = used.cloned().collect();
    for name in new {
        let labels = interner.labels([(NAMESPACE_NAME_LABEL, &*name)]);
        cluster.namespaces.insert(name, Namespace::from(labels));
    }
    let Gathered { frontends, lines, lint_allow, .. } = gathered;
    let book = AddressBook::of(&loaded.cluster);
    Survey { loaded, book, frontends, made_up, lines, lint_allow }
}
