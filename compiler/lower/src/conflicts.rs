//! ClusterNetworkPolicies of one priority that answer differently (S64), each pair once, with a
//! packet of a pod of this node.
//!
//! Not here: how a conflict is found ([`crate::order`]).

use std::collections::BTreeMap;

use netpolc_table::Program;

use crate::{
    endpoints::Endpoints, leaves, matrix::Matrix, membership::Membership, overflow::Diagnostic,
};

/// What users should know of the sets of these endpoints, in order.
pub(crate) fn diagnostics(
    endpoints: &Endpoints,
    membership: &Membership,
    matrix: &Matrix,
    program: &Program,
) -> impl Iterator<Item = Diagnostic> {
    let mut pairs = BTreeMap::new();
    for (key, _) in endpoints.iter() {
        // A pod's own addresses are judged by no tier (S73).
        let own = membership.pod(key).map_or(&[][..], |pod| &pod.addresses);
        for (conflict, class) in endpoints.sets(key).flat_map(|set| matrix.conflicts(set)) {
            let pair = (conflict.wins.clone(), conflict.loses.clone());
            let remote = match class {
                None => None,
                Some(class) => match leaves::example(class, own, program) {
                    Some(remote) => Some(remote),
                    None => continue,
                },
            };
            pairs.entry(pair).or_insert_with(|| conflict.packet(key, remote));
        }
    }
    pairs.into_iter().map(|((wins, loses), example)| {
        let example = example.into();
        Diagnostic::TierConflict { wins, loses, example }
    })
}
