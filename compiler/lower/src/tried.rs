//! Where a set would answer otherwise if everything that is only tried were enforced (S85), and
//! because of whom.
//!
//! Both answers are worked out as sets of ports, the one that decides and the one that would, and
//! compared. What goes to a Service's port is left out: it is judged behind its translation (S48).
//!
//! Not here: what becomes of the difference ([`crate::rows`]).

use std::sync::Arc;

use netpolc_policy::Direction;
use netpolc_table::{Origin, TierAction, schema::Family};

use crate::{
    deciding::Blame,
    grants::{self, Difference, Form, Grant, Granted, Outcome},
    index::AtomId,
    interval::{self, Lane, Piece, PortRange, PortSet},
    membership::Atoms,
    order,
    set::Set,
};

/// What a set says about addresses of a family that are members of these atoms: for no members,
/// what it says about those that no peer of it names.
pub(crate) fn outcome(
    set: &Set,
    family: Family,
    members: &[AtomId],
    atoms: &Atoms,
    form: Form,
) -> Outcome {
    if set.key.is_ordered() {
        order::outcome(set, family, members, atoms, form)
    } else {
        grants::sum(set, family, members, atoms, form)
    }
}

/// Where what is only tried would answer otherwise than `enforced` does about these addresses.
pub(crate) fn differences(
    set: &Set,
    enforced: &Granted,
    (family, members): (Family, &[AtomId]),
    atoms: &Atoms,
) -> Vec<Difference> {
    let Some(tried) = &set.tried else { return Vec::new() };
    let (shadow, blame) = &**tried;
    let would = outcome(shadow, family, members, atoms, Form::Short);
    let closed = grants::service_ports(set, members, atoms);
    let closed = ranges(closed.iter());
    let now = ports(set, enforced).minus(&closed);
    let then = ports(shadow, &would.grant).minus(&closed);
    let mut list = Vec::new();
    let [denied_then, permitted_then] =
        [now.minus(&then), then.minus(&now)].map(|ports| whole(&ports));
    let denied = denying(&would.origins, blame);
    for piece in denied_then {
        list.extend(denied.iter().map(|policy| Difference { piece, policy: policy.clone() }));
    }
    for piece in permitted_then {
        let permitting = permitting(shadow, &would.grant, piece, blame);
        list.extend(permitting.into_iter().map(|policy| Difference { piece, policy }));
    }
    list.sort();
    list.dedup();
    list
}

/// The ports that a grant consists of. A tunnel's port is granted only by a rule that names it
/// (S45), so a grant of everything leaves it out.
fn ports(set: &Set, granted: &Granted) -> PortSet {
    match granted {
        Granted::Nothing => PortSet::default(),
        Granted::Ports(grants) => {
            // Who permits all protocols without ports need not list those that are told apart.
            let all = grants.iter().any(|grant| grant.lane == Lane::Others);
            let apart = interval::portless(&set.apart).filter(|_| all);
            PortSet::of(grants.iter().map(Grant::piece).chain(apart))
        }
        Granted::Everything => {
            let tunnels = match set.key.direction {
                Direction::Ingress => PortSet::default(),
                Direction::Egress => ranges(set.key.tunnels.iter()),
            };
            PortSet::everything(&set.apart).minus(&tunnels)
        }
    }
}

fn ranges<'a>(ranges: impl Iterator<Item = &'a PortRange>) -> PortSet {
    PortSet::of(ranges.map(|(protocol, first, last)| (Lane::Ports(*protocol), *first, *last)))
}

/// The pieces of a difference. Behind security groups as before them, policies treat all protocols
/// without ports alike: where all differ, none has to be told apart.
fn whole(ports: &PortSet) -> Vec<Piece> {
    let all = ports.pieces().any(|(lane, ..)| lane == Lane::Others);
    ports.pieces().filter(|(lane, ..)| !all || !matches!(lane, Lane::Apart(_))).collect()
}

/// Who would deny: the rules of tried tiers that do, and the tried policies that isolate.
fn denying(origins: &[Origin], blame: &Blame) -> Vec<Arc<str>> {
    let tiers = origins.iter().filter_map(|origin| match origin {
        Origin::Tier { policy, action: TierAction::Deny, .. } => Some(policy),
        _ => None,
    });
    let tiers = tiers.filter(|policy| blame.all.contains(policy));
    let found: Vec<Arc<str>> = tiers.chain(&blame.isolating).cloned().collect();
    if found.is_empty() { blame.all.clone() } else { found }
}

/// Who would permit these ports: the tried policies whose rules do, or else whoever would take away
/// what denies them.
fn permitting(shadow: &Set, granted: &Granted, piece: Piece, blame: &Blame) -> Vec<Arc<str>> {
    let Granted::Ports(grants) = granted else { return blame.all.clone() };
    let here = PortSet::of([piece]);
    let meets = |grant: &&Grant| {
        let all = grant.lane == Lane::Others && !matches!(piece.0, Lane::Ports(_));
        all || !PortSet::of([grant.piece()]).intersection(&here).is_empty()
    };
    let grants = grants.iter().filter(meets);
    let policies = grants.filter_map(|grant| shadow.policy_of_source(grant.source));
    let found: Vec<Arc<str>> = policies.filter(|policy| blame.all.contains(policy)).collect();
    if found.is_empty() { blame.all.clone() } else { found }
}
