//! What a plan keeps, adds and removes, by hand-written tables of installed and wanted filters.

use netpolc_table::IfIndex;
use std::net::IpAddr;

use super::*;
use crate::{
    filter::{EtherType, Masked, Ports},
    sync::books,
};

fn filter(chain: u32, prio: u16, port: u16, action: Action) -> Filter {
    let ethertype = EtherType::Ipv4;
    let destination_port = Some(Ports::one(port));
    let pattern = Pattern { ethertype, protocol: Some(6), destination_port, ..Pattern::default() };
    let cookie = Cookie::new(1, 2, port.into());
    let (side, matches) = (Side::Ingress, Match::Flower(pattern));
    Filter { side, chain, prio, matches, action, copies: Copies::Hardware, cookie }
}

fn decoded((i, f): (usize, &Filter)) -> Decoded {
    let Filter { side, chain, prio, .. } = *f;
    let found = Found::Ours(f.clone());
    Decoded {
        ifindex: IfIndex::new(3),
        side,
        chain,
        prio,
        handle: i as u32 + 1,
        in_hardware: 1,
        found,
    }
}

fn installed(filters: &[Filter]) -> Books {
    books(filters.iter().enumerate().map(decoded))
}

fn step(way: Way, filter: &Filter, handle: u32) -> Step {
    Step { way, filter: filter.clone(), handle }
}

#[test]
fn what_is_there_is_not_touched() {
    let filters = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 80, Action::Drop)];
    let plan = plan(&installed(&filters), &filters).unwrap();
    assert!(plan.is_empty());
    assert_eq!((plan.kept, &plan.start[..]), (1, &[Slot::Keep(filters[0].clone())][..]));
}

#[test]
fn a_new_chain_is_made_before_the_filter_that_leads_to_it_is_replaced() {
    let old = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 80, Action::Drop)];
    let new = [filter(0, 1, 80, Action::Goto(8)), filter(8, 1, 81, Action::Drop)];
    let plan = plan(&installed(&old), &new).unwrap();
    assert_eq!(plan.prepare, [step(Way::Add, &new[1], 1)]);
    assert_eq!(plan.start, [Slot::Do(step(Way::Replace, &new[0], 1))]);
}

/// Numbers come from a hash: two contents may meet in one.
#[test]
fn a_chain_that_is_in_use_gets_another_number_and_keeps_it() {
    let old = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 80, Action::Drop)];
    let new = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 81, Action::Drop)];
    let first = plan(&installed(&old), &new).unwrap();
    let moved = [filter(0, 1, 80, Action::Goto(1)), filter(1, 1, 81, Action::Drop)];
    assert_eq!(first.prepare, [step(Way::Add, &moved[1], 1)]);
    assert_eq!(first.start, [Slot::Do(step(Way::Replace, &moved[0], 1))]);
    let again = plan(&installed(&moved), &new).unwrap();
    assert!(again.is_empty(), "{again:?}");
}

/// One more pod is one more filter for each that may talk to it.
#[test]
fn a_chain_that_only_redirects_by_destination_changes_in_place() {
    let to = |host: u8, prio, action| {
        let pattern = Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
        let pattern =
            if prio == 1 { pattern.to(IpAddr::from([10, 0, 0, host]).into()) } else { pattern };
        Filter {
            copies: Copies::Both,
            matches: Match::Flower(pattern),
            ..filter(7, prio, 80, action)
        }
    };
    let start = filter(0, 1, 80, Action::Track(7));
    let (one, rest) = (to(1, 1, Action::Redirect(IfIndex::new(5))), to(0, 2, Action::Pass));
    let old = [start.clone(), one.clone(), rest.clone()];
    let two = to(2, 1, Action::Redirect(IfIndex::new(6)));
    let new =
        plan(&installed(&old), &[start.clone(), one.clone(), two.clone(), rest.clone()]).unwrap();
    assert_eq!((new.prepare, &new.start[..]), (vec![], &[Slot::Keep(start.clone())][..]));
    assert_eq!(new.later, [step(Way::Add, &two, 3)]);
    let gone = plan(&installed(&old), &[start.clone(), rest.clone()]).unwrap();
    assert_eq!(gone.prepare, [step(Way::Remove, &one, 2)]);
    // Another port: first nowhere, then there.
    let other = to(1, 1, Action::Redirect(IfIndex::new(6)));
    let moved = plan(&installed(&old), &[start.clone(), other.clone(), rest.clone()]).unwrap();
    assert_eq!(
        (moved.prepare, moved.later),
        (vec![step(Way::Remove, &one, 2)], vec![step(Way::Add, &other, 2)])
    );
    // A drop, or a redirect behind what passes, needs a chain of its own.
    for other in [
        to(2, 1, Action::Drop),
        to(2, 3, Action::Redirect(IfIndex::new(6))),
        to(1, 1, Action::Redirect(IfIndex::new(6))),
    ] {
        let in_place =
            plan(&installed(&old), &[start.clone(), other.clone(), rest.clone()]).unwrap();
        let same = other.action == Action::Redirect(IfIndex::new(6)) && other.prio == 1;
        assert_eq!(in_place.start == [Slot::Keep(start.clone())], same, "{other:?}");
    }
}

#[test]
fn where_no_number_is_left_chain_0_is_cleared_from_its_end() {
    let old = [
        filter(0, 1, 80, Action::Pass),
        filter(0, 2, 80, Action::Goto(1)),
        filter(1, 1, 80, Action::Drop),
    ];
    let new = [filter(0, 2, 80, Action::Goto(1)), filter(1, 1, 81, Action::Drop)];
    let blocked = plan(&installed(&old), &new).unwrap_err();
    assert_eq!(blocked.clear, [step(Way::Remove, &old[1], 2), step(Way::Remove, &old[0], 1)]);
    // Nothing leads there any more.
    let then = plan(&installed(&old[2..]), &new).unwrap();
    assert_eq!(then.prepare, [step(Way::Remove, &old[2], 1), step(Way::Add, &new[1], 2)]);
}

#[test]
fn leftovers_of_a_chain_that_nothing_leads_to_are_completed_or_removed() {
    let left = [filter(7, 1, 80, Action::Drop), filter(7, 1, 99, Action::Drop)];
    let new = [
        filter(0, 1, 80, Action::Goto(7)),
        filter(7, 1, 80, Action::Drop),
        filter(7, 1, 81, Action::Drop),
    ];
    let plan = plan(&installed(&left), &new).unwrap();
    assert_eq!(plan.prepare, [step(Way::Remove, &left[1], 2), step(Way::Add, &new[2], 3)]);
    assert_eq!((plan.kept, plan.start.len()), (1, 1));
}

#[test]
fn what_nothing_leads_to_is_not_made() {
    let plan = plan(&Books::new(), &[filter(7, 1, 80, Action::Drop)]).unwrap();
    assert_eq!(plan, Plan::default());
}

#[test]
fn others_keep_their_filters_handles_and_chains() {
    let theirs = [filter(0, 1, 80, Action::Drop), filter(7, 1, 80, Action::Drop)];
    let mut there = installed(&theirs);
    there.values_mut().for_each(|d| d.found = Found::Foreign);
    let new = [
        filter(0, 1, 81, Action::Goto(7)),
        filter(0, 9, 9, Action::Goto(8)),
        filter(7, 1, 81, Action::Drop),
    ];
    let planned = plan(&there, &new).unwrap();
    let moved = [
        filter(0, 1, 81, Action::Goto(1)),
        filter(0, 9, 9, Action::Goto(8)),
        filter(1, 1, 81, Action::Drop),
    ];
    assert_eq!(planned.prepare, [step(Way::Add, &moved[2], 1)]);
    let add = |f, handle| Slot::Do(step(Way::Add, f, handle));
    assert_eq!(planned.start, [add(&moved[0], 2), add(&moved[1], 1)]);
}

#[test]
fn a_filter_that_hardware_lost_is_not_kept() {
    let filters = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 80, Action::Drop)];
    let mut there = installed(&filters);
    there.values_mut().for_each(|d| d.in_hardware = 0);
    let plan = plan(&there, &filters).unwrap();
    assert_eq!((plan.kept, plan.prepare.len(), plan.is_empty()), (0, 1, false));
}

#[test]
fn what_somebody_changed_is_replaced_where_it_matches_the_same() {
    let wanted = filter(0, 1, 80, Action::Drop);
    let mut there = installed(std::slice::from_ref(&wanted));
    for (exact, way, handle) in [(true, Way::Replace, 1), (false, Way::Add, 2)] {
        there
            .values_mut()
            .for_each(|d| d.found = Found::Changed { matches: wanted.matches.clone(), exact });
        let plan = plan(&there, std::slice::from_ref(&wanted)).unwrap();
        assert_eq!(plan.start, [Slot::Do(step(way, &wanted, handle))]);
    }
}

/// Of one interface with 2,000 filters: a peer comes, and its filter is all that changes.
#[test]
fn one_more_peer_is_one_more_filter() {
    let peer = |n: u32| {
        let address = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 | n));
        let opening = Some(Masked::new(2, 0x12));
        let pattern = Pattern {
            ethertype: EtherType::Ipv4,
            protocol: Some(6),
            tcp_flags: opening,
            ..Pattern::default()
        };
        Filter {
            matches: Match::Flower(pattern.to(address.into())),
            ..filter(0, 3, 80, Action::Drop)
        }
    };
    let mut filters: Vec<Filter> = (0..2000).map(peer).collect();
    let there = installed(&filters);
    filters.push(peer(77_777));
    let plan = plan(&there, &filters).unwrap();
    let changes: Vec<&Slot> = plan.start.iter().filter(|s| matches!(s, Slot::Do(_))).collect();
    assert_eq!(changes, [&Slot::Do(step(Way::Add, &filters[2000], 2001))]);
}

#[test]
fn handles_are_found_above_the_highest_or_in_gaps() {
    assert_eq!(free(&BTreeSet::new()), 1);
    assert_eq!(free(&BTreeSet::from([1, 4])), 5);
    assert_eq!(free(&BTreeSet::from([1, u32::MAX])), 2);
}
