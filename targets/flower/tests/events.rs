//! What an event changes on a node: a pod that comes is one filter more where a policy names it,
//! and nothing elsewhere.

mod common;

use netpolc_table::IfIndex;
use std::collections::{BTreeMap, BTreeSet};

use common::{cluster, compiled};
use netpolc_target_flower::{
    filter::{Copies, Filter},
    kernel::Applied,
    lower::{representor, software},
    netlink::{Decoded, Found, Way},
    quirks::capabilities,
    sync::{Job, Next, Step, books},
    topology::{Forwarding, Topology},
};

/// Filters by port of three pods: web lets peers in, db lets web in. `late` are further peers, on
/// other nodes.
fn filters(late: &[&str]) -> BTreeMap<String, Vec<Filter>> {
    let pod = |name: &str, address: u8, role: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: \
             {{role: {role}}}}}\n\
             spec: {{nodeName: here}}\nstatus: {{podIP: 10.0.0.{address}, podIPs: [{{ip: \
             10.0.0.{address}}}], phase: Running}}\n"
        )
    };
    let policy = |name: &str, role: &str, from: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, \
             namespace: shop}}\n\
             spec:\n  podSelector: {{matchLabels: {{role: {role}}}}}\n  policyTypes: [Ingress]\n\
             \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {from}}}}}}}], ports: \
             [{{port: 80}}]}}]\n"
        )
    };
    let mut text = vec![
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned(),
        pod("web", 1, "web"),
        pod("db", 2, "db"),
        pod("peer", 3, "peer"),
        policy("web", "web", "peer"),
        policy("db", "db", "web"),
    ];
    text.extend((9..).zip(late).map(|(address, name)| pod(name, address, "peer")));
    let (compiler, topology) = compiled(&cluster(&text.concat()));
    let pods = topology
        .pods
        .into_iter()
        .filter(|(_, pod)| !late.contains(&pod.port.name.as_str()))
        .collect();
    let lowered = software::lower(compiler.program(), &Topology { pods, ..topology }).unwrap();
    let ports = lowered.ports.into_iter();
    ports
        .map(|(port, placed)| (port.name, placed.into_iter().map(|p| p.filter).collect()))
        .collect()
}

fn decoded((at, f): (usize, &Filter)) -> Decoded {
    let Filter { side, chain, prio, .. } = *f;
    let found = Found::Ours(f.clone());
    let in_hardware = u32::from(f.copies != Copies::Software);
    Decoded {
        ifindex: IfIndex::new(1),
        side,
        chain,
        prio,
        handle: at as u32 + 1,
        in_hardware,
        found,
    }
}

/// All steps from one list of filters to another.
fn steps(old: &[Filter], new: &[Filter]) -> Vec<Step> {
    let mut job =
        Job::new(IfIndex::new(1), books(old.iter().enumerate().map(decoded)), new.to_vec());
    let (mut all, mut next) = (Vec::new(), job.advance());
    loop {
        next = match next {
            Next::Done => return all,
            Next::Settle => job.settled(),
            Next::Steps(some) => {
                some.iter()
                    .for_each(|step| job.answer(step, Ok(Applied { in_hardware: 1, text: None })));
                all.extend(some);
                job.advance()
            }
        };
    }
}

#[test]
fn a_pod_event_changes_only_what_differs() {
    let (old, new) = (filters(&[]), filters(&["late"]));
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    let mut touched = Vec::new();
    for (port, old) in &old {
        let new = &new[port];
        let steps = steps(old, new);
        let (before, after): (BTreeSet<&Filter>, BTreeSet<&Filter>) =
            (old.iter().collect(), new.iter().collect());
        for Step { way, filter, .. } in &steps {
            let differs = match way {
                Way::Remove => before.contains(filter) && !after.contains(filter),
                Way::Add | Way::Replace => after.contains(filter) && !before.contains(filter),
            };
            assert!(differs, "{port}: {way:?} {filter:?}");
        }
        let different = before.symmetric_difference(&after).count();
        let replaced = steps.iter().filter(|s| s.way == Way::Replace).count();
        assert_eq!(steps.len() + replaced, different, "{port}");
        if !steps.is_empty() {
            touched.push((port.as_str(), steps.len()));
        }
    }
    let names: Vec<&str> = touched.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["web"], "only web's policy names the new pod: {touched:?}");
    println!("{touched:?}");
}

/// Forwarding: a pod that comes is one filter more for each pod of its node, in place, and its own
/// filters.
#[test]
fn a_pod_of_the_node_is_one_filter_more_for_each_other() {
    let pod = |name: &str, address: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{nodeName: here}}\nstatus: {{podIP: 10.0.0.{address}, podIPs: [{{ip: \
             10.0.0.{address}}}], phase: Running}}\n"
        )
    };
    let filters = |pods: &[&str]| -> BTreeMap<String, Vec<Filter>> {
        let pods = (1..).zip(pods).map(|(address, name)| pod(name, address));
        let text = [
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned(),
            pods.collect(),
        ]
        .concat();
        let (compiler, mut topology) = compiled(&cluster(&text));
        for (endpoint, pod) in &mut topology.pods {
            pod.mac = Some([2, 0, 0, 0, 0, endpoint.get() as u8]);
        }
        let topology = Topology { forwarding: Forwarding::Translating, ..topology };
        let lowered = representor::lower(compiler.program(), &topology, &capabilities("mlx5_core"));
        let ports = lowered.ports.into_iter();
        ports
            .map(|(port, placed)| (port.name, placed.into_iter().map(|p| p.filter).collect()))
            .collect()
    };
    let (old, new) = (filters(&["a", "b", "c"]), filters(&["a", "b", "c", "late"]));
    assert_eq!(old.len() + 1, new.len(), "{:?}", new.keys());
    for (port, old) in &old {
        let steps = steps(old, &new[port]);
        assert!(matches!(&steps[..], [Step { way: Way::Add, .. }]), "{port}: {steps:?}");
    }
}
