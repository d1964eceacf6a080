//! Finds which policies a node's tables come from, and how many pods and entries each has, from the
//! origins of the entries.
//!
//! Not here: what the policies say, and what is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_kube_sync::PolicyState;
use netpolc_lower::Compiler;
use netpolc_table::{
    Origin, SetId, TableId, eval,
    schema::{BaseKey, Word},
};

/// The tables that hold the entries of policy sets.
const TABLES: [TableId; 3] = [TableId::Base, TableId::Row, TableId::Verdict];

/// The policies and security groups that decide about a local pod, in order of their names, with
/// their pods and entries.
pub fn policy_status(compiler: &Compiler) -> Vec<PolicyState> {
    let program = compiler.program();
    let mut isolating: BTreeMap<SetId, BTreeSet<&Arc<str>>> = BTreeMap::new();
    let mut states: BTreeMap<&Arc<str>, PolicyState> = BTreeMap::new();
    for table in TABLES {
        for (key, entry) in &program.table(table).entries {
            let mut named = BTreeSet::new();
            for origin in entry.origins.as_slice() {
                match origin {
                    Origin::Isolates { policy } => {
                        named.insert(policy);
                        isolating.entry(BaseKey::of(key).set).or_default().insert(policy);
                    }
                    Origin::Rule { policy, .. } => drop(named.insert(policy)),
                    // Tiers and groups isolate nothing by themselves; they count for the pods of
                    // each set in which one of their rules decides.
                    Origin::Tier { policy, .. } | Origin::Group { group: policy, .. } => {
                        named.insert(policy);
                        if table != TableId::Verdict {
                            isolating.entry(BaseKey::of(key).set).or_default().insert(policy);
                        }
                    }
                    _ => {}
                }
            }
            for policy in named {
                states.entry(policy).or_default().entries += 1;
            }
        }
    }
    for (_, endpoint) in compiler.endpoints() {
        let word = eval::word(program, endpoint);
        let sets = [(Word::INGRESS, word.ingress_set), (Word::EGRESS, word.egress_set)];
        let sets = sets.into_iter().filter(|(flag, _)| word.flags & flag != 0);
        let policies: BTreeSet<&Arc<str>> =
            sets.filter_map(|(_, set)| isolating.get(&set)).flatten().copied().collect();
        for policy in policies {
            states.entry(policy).or_default().pods += 1;
        }
    }
    let named = states.into_iter().filter(|(_, state)| state.pods > 0);
    named.map(|(policy, state)| PolicyState { policy: policy.to_string(), ..state }).collect()
}
