//! `netpolc bench ask`: what answers about a cluster cost: a list, a difference, an explanation and
//! a proof. Not here: reading the cluster (`netpolc bench compile`).

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use netpolc_analyze::{
    Analysis,
    around::around,
    compare::compare,
    diff::differences,
    list::{Filter, connections},
    nearest::{Packet, misses},
    unit::units,
};
use netpolc_lower::{Compiler, Scope};
use netpolc_policy::{
    AddressBook, Cluster, Direction, Isolation, Pod,
    oracle::{self, Party, Question, Transport},
};
use netpolc_testbed::big::Big;

use crate::{Section, compile::peak_mib};

/// The name of a pod's application: its namespace and the label that all its pods have.
fn application(pod: &Pod) -> Arc<str> {
    let app = pod.labels.get("app").unwrap_or_default();
    format!("{}/{app}", pod.key.namespace).into()
}

/// Measures.
///
/// # Errors
/// The generated cluster does not compile, or tables and policies disagree.
pub fn run(mut progress: impl FnMut(String)) -> Result<Section> {
    let mut section = Section::new("Answers about a cluster", &["what", "how much", "bound"]);
    progress("a list of 10,000 pods and 1,000 policies".into());
    let some = Big { namespaces: 100, pods: 10_000, policies: 1_000, ..Big::default() }.cluster();
    let began = Instant::now();
    let mut analysis = Analysis::new(&some);
    let classes = analysis.universe().classes().count();
    let all = units(analysis.universe(), &application);
    let found = connections(&mut analysis, &all, &Filter::default()).len();
    let seconds = began.elapsed().as_secs_f64();
    let bound = section.at_most("list, s", seconds, 1.0);
    let how = format!("{seconds:.2} s ({classes} classes, {} units, {found} rows)", all.len());
    section.rows.push(vec!["list 10,000 pods, 1,000 policies".into(), how, bound]);
    drop(analysis);
    drop(some);

    progress("a difference of 100,000 pods and 10,000 policies".into());
    let big = Big::default();
    let old = big.cluster();
    let new = changed(&old);
    let began = Instant::now();
    let found = differences(&old, &new, &application);
    let seconds = began.elapsed().as_secs_f64();
    let bound = section.at_most("difference, s", seconds, 5.0);
    let how = format!("{seconds:.2} s ({} connections differ)", found.changed.len());
    section.rows.push(vec!["diff 100,000 pods, one policy changed".into(), how, bound]);
    let peak = peak_mib()?;
    let bound = section.at_most("memory, MiB", peak, 600.0);
    section.rows.push(vec![
        "memory at its peak, both states".into(),
        format!("{peak:.0} MiB"),
        bound,
    ]);
    drop(new);

    progress("an explanation in 100,000 pods".into());
    let (question, pod) = denied(&old)?;
    let began = Instant::now();
    let book = AddressBook::of(&old);
    let indexed = began.elapsed().as_secs_f64() * 1e3;
    let mut best = f64::MAX;
    for _ in 0..9 {
        let began = Instant::now();
        let near_by = around(&old, &book, &question);
        let judged = oracle::judge(&near_by, &question);
        let packet = Packet {
            pod,
            direction: Direction::Ingress,
            remote: question.source.address(),
            protocol: question.protocol.number(),
            port: question.port,
        };
        let near = misses(&near_by, &packet, &judged.ingress.reason, 4);
        anyhow::ensure!(!near.is_empty(), "nothing comes near to {}", judged.ingress.reason);
        best = best.min(began.elapsed().as_secs_f64() * 1e3);
    }
    let bound = section.at_most("explanation, ms", best, 5.0);
    section.rows.push(vec![
        "explain a denial, after loading".into(),
        format!("{best:.1} ms; the index of addresses, a part of loading, {indexed:.1} ms"),
        bound,
    ]);

    progress("a proof for a node of 100,000 pods".into());
    let scope = Scope::Node(big.node_name(5));
    let mut compiler = Compiler::new(scope);
    compiler.load(&old)?;
    let endpoints: Vec<_> = compiler.endpoints().map(|(key, id)| (key.clone(), id)).collect();
    let began = Instant::now();
    let mut analysis = Analysis::new(&old);
    let found = compare(&mut analysis, compiler.program(), &endpoints, 1);
    let seconds = began.elapsed().as_secs_f64();
    anyhow::ensure!(found.disagreements.is_empty(), "{}", found.disagreements[0]);
    let bound = section.at_most("proof, s", seconds, 60.0);
    let how = format!("{seconds:.1} s ({} answers, each for every port)", found.compared);
    section.rows.push(vec![format!("verify {} pods", endpoints.len()), how, bound]);
    Ok(section)
}

/// The cluster with one policy that allows nothing any more.
fn changed(cluster: &Cluster) -> Cluster {
    let mut new = cluster.clone();
    let ingress = new.policies.values_mut().map(|policy| &mut policy.ingress);
    let nothing = Isolation::Isolated(Vec::new());
    let mut rules = ingress.filter(|ingress| !matches!(ingress, Isolation::Open));
    if let Some(ingress) = rules.find(|ingress| **ingress != nothing) {
        *ingress = nothing;
    }
    new
}

/// A question that NetworkPolicies answer with a denial, and its destination.
fn denied(cluster: &Cluster) -> Result<(Question, &Pod)> {
    let source = cluster.pods.values().next().expect("there are pods");
    for pod in cluster.pods.values().rev().take(2_000) {
        let question = Question {
            source: Party::Pod(source.key.clone(), source.addresses[0]),
            destination: Party::Pod(pod.key.clone(), pod.addresses[0]),
            protocol: Transport::Tcp,
            port: Some(9),
            via: None,
        };
        if let oracle::Reason::Denied(_) = oracle::judge(cluster, &question).ingress.reason {
            return Ok((question, pod));
        }
    }
    anyhow::bail!("no pod is isolated")
}
