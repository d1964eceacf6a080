//! The big cluster: its numbers, that it is the same every time, and that its files say what the
//! model says.

use std::{collections::BTreeSet, fs};

use netpolc_kube_sync::{Input, load};
use netpolc_testbed::big::{Big, PODS_PER_NODE, Stack};

#[test]
fn the_default_has_the_advertised_size() {
    let big = Big::default();
    let cluster = big.cluster();
    assert_eq!(
        (cluster.namespaces.len(), cluster.pods.len(), cluster.policies.len()),
        (1_000, 100_000, 10_000)
    );
    assert_eq!(cluster.nodes.len(), 910);
    let addresses: BTreeSet<_> = cluster.pods.values().flat_map(|p| &p.addresses).collect();
    assert_eq!(addresses.len(), 200_000);
    let node = big.node_name(7);
    let there = cluster.pods.values().filter(|p| p.node.as_ref() == Some(&node)).count();
    assert!((PODS_PER_NODE - 1..=PODS_PER_NODE).contains(&there), "{there}");
    let templates: BTreeSet<_> =
        cluster.pods.values().map(|p| (&p.key.namespace, &p.labels)).collect();
    assert!((10_000..30_000).contains(&templates.len()), "{}", templates.len());
}

#[test]
fn the_files_decode_to_the_model() {
    let big = Big { namespaces: 20, pods: 500, policies: 200, stack: Stack::Dual, seed: 7 };
    assert_eq!(big.cluster(), big.cluster());
    assert_ne!(big.cluster(), Big { seed: 8, ..big }.cluster());
    let folder = std::env::temp_dir().join(format!("netpolc-big-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let written = big.write(&folder);
    let loaded = load([Input::Path(folder.clone())]);
    let bytes: u64 =
        written.iter().flatten().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum();
    fs::remove_dir_all(&folder).expect("removed");
    assert_eq!(written.expect("written").len(), 4);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.cluster, big.cluster());
    println!("{bytes} bytes");
    assert!(bytes > 500 * 2_500, "{bytes}");
}
