//! Keeps what ARCHITECTURE.md promises: the direction of dependencies, the purity of the compiler,
//! module headers, file sizes, and nothing in the tree that is not about the software.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace")
}

/// Crate folder -> the workspace crates it may depend on outside of tests.
const EDGES: &[(&str, &[&str])] = &[
    ("compiler/policy", &[]),
    ("compiler/table", &[]),
    ("compiler/lower", &["netpolc-policy", "netpolc-table"]),
    ("targets/host", &[]),
    ("targets/api", &["netpolc-host", "netpolc-table"]),
    ("targets/mem", &["netpolc-table", "netpolc-target"]),
    ("targets/ebpf", &["netpolc-host", "netpolc-table", "netpolc-target"]),
    ("targets/flower", &["netpolc-host", "netpolc-table", "netpolc-target"]),
    (
        "targets/offload",
        &["netpolc-host", "netpolc-table", "netpolc-target", "netpolc-target-ebpf", "netpolc-target-flower"],
    ),
    ("kube-sync", &["netpolc-policy"]),
    ("runtime/cni", &["netpolc-host"]),
    (
        "runtime/agent",
        &[
            "netpolc-cni",
            "netpolc-host",
            "netpolc-kube-sync",
            "netpolc-lower",
            "netpolc-policy",
            "netpolc-table",
            "netpolc-target",
            // For the counters that monitoring shows.
            "netpolc-target-ebpf",
        ],
    ),
    (
        "runtime/cli",
        &[
            "netpolc-agent",
            "netpolc-cni",
            "netpolc-host",
            "netpolc-kube-sync",
            "netpolc-lower",
            "netpolc-policy",
            "netpolc-table",
            "netpolc-target",
            "netpolc-target-ebpf",
            "netpolc-target-flower",
            "netpolc-target-mem",
            "netpolc-target-offload",
        ],
    ),
    ("testbed", &["netpolc-kube-sync", "netpolc-policy"]),
    ("testbed/bench", ANY),
    ("testbed/demo", ANY),
];

/// The testbed's programs may use all there is; nothing may use them.
const ANY: &[&str] = &[
    "netpolc",
    "netpolc-agent",
    "netpolc-host",
    "netpolc-kube-sync",
    "netpolc-lower",
    "netpolc-policy",
    "netpolc-table",
    "netpolc-target",
    "netpolc-target-ebpf",
    "netpolc-target-flower",
    "netpolc-target-mem",
    "netpolc-testbed",
];

/// Packages whose programs go to nodes: nothing of the testbed may be in them, not even behind a
/// feature or another crate.
const SHIPPED: &[&str] = &["runtime/cli", "runtime/cni"];

/// What the compiler must not see: IO, clocks, runtimes, the kernel.
const IMPURE: &[&str] = &["tokio", "kube", "aya", "libc", "tracing"];

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn package(folder: &str) -> String {
    manifest(folder)["package"]["name"].as_str().unwrap().to_owned()
}

fn dependencies(folder: &str) -> Vec<String> {
    let manifest = manifest(folder);
    let list = manifest.get("dependencies").and_then(|d| d.as_table());
    list.map(|d| d.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn dependencies_point_one_way() {
    let members: Vec<String> =
        manifest(".")["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().into()).collect();
    let known: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    for member in &members {
        let allowed = known.get(member.as_str()).unwrap_or_else(|| panic!("{member}: say here what it may depend on"));
        for dependency in dependencies(member).iter().filter(|d| d.starts_with("netpolc")) {
            assert!(allowed.contains(&dependency.as_str()), "{member} must not depend on {dependency}");
        }
    }
    assert_eq!(members.len(), known.len(), "EDGES names a crate that is gone");
}

#[test]
fn no_shipped_program_reaches_the_testbed() {
    let folder_of: BTreeMap<String, &str> = EDGES.iter().map(|(folder, _)| (package(folder), *folder)).collect();
    for shipped in SHIPPED {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![*shipped]);
        while let Some(folder) = todo.pop() {
            assert!(!folder.starts_with("testbed"), "{shipped} reaches {folder}");
            if seen.insert(folder) {
                let all = dependencies(folder);
                todo.extend(all.iter().filter_map(|name| folder_of.get(name.as_str())));
            }
        }
        assert!(seen.len() > 1, "{shipped}: the walk found nothing");
    }
}

#[test]
fn the_compiler_is_pure() {
    for folder in ["compiler/policy", "compiler/table", "compiler/lower"] {
        for dependency in dependencies(folder) {
            assert!(!IMPURE.contains(&dependency.as_str()), "{folder} must not depend on {dependency}");
        }
        for file in files(&root().join(folder).join("src"), &["rs"]) {
            let text = fs::read_to_string(&file).unwrap();
            for word in
                ["std::fs", "std::net::Tcp", "std::net::Udp", "std::time::Instant", "SystemTime", "std::process"]
            {
                assert!(!text.contains(word), "{}: {word} in the compiler", file.display());
            }
        }
    }
}

#[test]
fn modules_have_headers_and_stay_readable() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 600, "{}: {lines} lines; split it by meaning", file.display());
        assert!(text.starts_with("//!"), "{}: no module header", file.display());
    }
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    for file in sources() {
        // This file names what it forbids.
        if file.ends_with("runtime/tests/architecture.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for word in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let folders = ["compiler", "targets", "kube-sync", "runtime", "testbed"];
    folders.iter().flat_map(|f| files(&root().join(f), &["rs"])).collect()
}

/// Files below `folder` with one of these endings, build output left out, in order.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| endings.iter().any(|x| e == *x)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
