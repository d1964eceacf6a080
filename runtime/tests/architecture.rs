//! Keeps what ARCHITECTURE.md promises: the direction of dependencies, the purity of the compiler,
//! one place for netlink and for entering namespaces, module headers, file sizes, types for ids,
//! and nothing in the tree that is not about the software. Also keeps the lock file, deny.toml,
//! versions and workflows true. Not here: what the documents say (`documents.rs`).

mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use tree::{files, read, root, sources};

/// Crate folder -> the workspace crates it may depend on outside of tests.
const EDGES: &[(&str, &[&str])] = &[
    ("compiler/policy", &[]),
    ("compiler/table", &[]),
    ("compiler/lower", &["netpolc-policy", "netpolc-table"]),
    ("compiler/analyze", &["netpolc-policy", "netpolc-table"]),
    ("targets/host", &[]),
    ("targets/api", &["netpolc-host", "netpolc-table"]),
    ("targets/mem", &["netpolc-table", "netpolc-target"]),
    ("targets/ebpf", &["netpolc-host", "netpolc-table", "netpolc-target"]),
    ("targets/flower", &["netpolc-host", "netpolc-table", "netpolc-target"]),
    (
        "targets/offload",
        &[
            "netpolc-host",
            "netpolc-table",
            "netpolc-target",
            "netpolc-target-ebpf",
            "netpolc-target-flower",
        ],
    ),
    ("kube-sync", &["netpolc-policy"]),
    ("runtime/cni", &["netpolc-host"]),
    ("runtime/flow", &["netpolc-policy"]),
    ("runtime/export", &["netpolc-flow", "netpolc-kube-sync", "netpolc-policy"]),
    (
        "runtime/recommend",
        &["netpolc-analyze", "netpolc-flow", "netpolc-kube-sync", "netpolc-policy"],
    ),
    (
        "runtime/hubble",
        &[
            "netpolc-flow",
            "netpolc-host",
            // For text of others, as it may be shown.
            "netpolc-kube-sync",
            "netpolc-policy",
        ],
    ),
    (
        "runtime/agent",
        &[
            "netpolc-cni",
            "netpolc-export",
            "netpolc-flow",
            "netpolc-host",
            "netpolc-hubble",
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
            "netpolc-analyze",
            "netpolc-cni",
            "netpolc-export",
            "netpolc-flow",
            "netpolc-host",
            "netpolc-kube-sync",
            "netpolc-lower",
            "netpolc-policy",
            "netpolc-recommend",
            "netpolc-table",
            "netpolc-target",
            "netpolc-target-ebpf",
            "netpolc-target-flower",
            "netpolc-target-mem",
            "netpolc-target-offload",
        ],
    ),
    ("testbed", &["netpolc-host", "netpolc-kube-sync", "netpolc-policy"]),
    ("testbed/filetests", ANY),
    ("testbed/bench", ANY),
    ("testbed/demo", ANY),
];

/// The testbed's programs may use all there is; nothing may use them.
const ANY: &[&str] = &[
    "netpolc",
    "netpolc-agent",
    "netpolc-analyze",
    "netpolc-flow",
    "netpolc-host",
    "netpolc-kube-sync",
    "netpolc-lower",
    "netpolc-policy",
    "netpolc-recommend",
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

const CRATES_IO: &str = "https://github.com/rust-lang/crates.io-index";

fn read_toml(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn manifest(folder: &str) -> toml::Table {
    read_toml(&format!("{folder}/Cargo.toml"))
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
    let members: Vec<String> = manifest(".")["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap().into())
        .collect();
    let known: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    for member in &members {
        let allowed = known
            .get(member.as_str())
            .unwrap_or_else(|| panic!("{member}: say here what it may depend on"));
        for dependency in dependencies(member).iter().filter(|d| d.starts_with("netpolc")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{member} must not depend on {dependency}"
            );
        }
    }
    assert_eq!(members.len(), known.len(), "EDGES names a crate that is gone");
}

#[test]
fn no_shipped_program_reaches_the_testbed() {
    let folder_of: BTreeMap<String, &str> =
        EDGES.iter().map(|(folder, _)| (package(folder), *folder)).collect();
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
            assert!(
                !IMPURE.contains(&dependency.as_str()),
                "{folder} must not depend on {dependency}"
            );
        }
        for file in files(&root().join(folder).join("src"), &["rs"]) {
            let text = fs::read_to_string(&file).unwrap();
            for word in [
                "std::fs",
                "std::net::Tcp",
                "std::net::Udp",
                "std::time::Instant",
                "SystemTime",
                "std::process",
            ] {
                assert!(!text.contains(word), "{}: {word} in the compiler", file.display());
            }
        }
    }
}

/// Netlink sockets and entering namespaces: each is done in one place of netpolc-host, in tests and
/// benches too. Mount namespaces are `netpolc mount-bpffs` alone, which runs on the node by itself.
#[test]
fn only_the_host_crate_opens_netlink_and_enters_namespaces() {
    for (word, homes) in [
        ("libc::AF_NETLINK", &["targets/host/src/netlink/socket.rs"][..]),
        ("libc::setns", &["targets/host/src/netns.rs", "runtime/cli/src/command/bpffs.rs"]),
    ] {
        let mut found: Vec<String> = Vec::new();
        for file in sources().iter().filter(|file| !file.ends_with("runtime/tests/architecture.rs"))
        {
            if fs::read_to_string(file).unwrap().contains(word) {
                found.push(file.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
        let mut homes = homes.to_vec();
        homes.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, homes, "{word} stands elsewhere, or is gone");
    }
}

#[test]
fn modules_have_headers_and_stay_readable() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 640, "{}: {lines} lines; split it by meaning", file.display());
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

#[test]
fn every_dependency_comes_from_crates_io() {
    let source = format!("registry+{CRATES_IO}");
    for package in read_toml("Cargo.lock")["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        match package.get("source").and_then(|s| s.as_str()) {
            None => {
                assert!(name.starts_with("netpolc"), "{name} is neither ours nor from a registry")
            }
            Some(from) => {
                assert_eq!(from, source, "{name}");
                assert!(package.get("checksum").is_some(), "{name} has no checksum");
            }
        }
    }
    let sources = &read_toml("deny.toml")["sources"];
    assert_eq!(sources["allow-registry"].as_array().unwrap(), &[CRATES_IO.into()]);
    assert_eq!(sources["allow-git"].as_array().unwrap().len(), 0);
    assert_eq!(
        (sources["unknown-registry"].as_str(), sources["unknown-git"].as_str()),
        (Some("deny"), Some("deny"))
    );
}

/// Of a crate that stands in Cargo.lock in several versions, deny.toml lists all but the newest,
/// and it lists nothing else.
#[test]
fn duplicate_versions_are_those_that_deny_toml_explains() {
    let mut versions: BTreeMap<String, BTreeSet<Vec<u64>>> = BTreeMap::new();
    for package in read_toml("Cargo.lock")["package"].as_array().unwrap() {
        let (name, version) =
            (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        let number = version.split(['-', '+']).next().unwrap_or_default();
        let number = number
            .split('.')
            .map(|n| n.parse().unwrap_or_else(|e| panic!("{name} {version}: {e}")));
        versions.entry(name.into()).or_default().insert(number.collect());
    }
    let mut duplicates = BTreeSet::new();
    for (name, versions) in &versions {
        for version in versions.iter().rev().skip(1) {
            let version: Vec<String> = version.iter().map(u64::to_string).collect();
            duplicates.insert(format!("{name}@{}", version.join(".")));
        }
    }
    let deny = read_toml("deny.toml");
    assert_eq!(deny["bans"]["multiple-versions"].as_str(), Some("deny"));
    let skipped = deny["bans"]["skip"].as_array().unwrap();
    for entry in skipped {
        assert!(entry["reason"].as_str().is_some_and(|r| r.len() > 20), "{entry}: no reason");
    }
    let skipped: BTreeSet<String> =
        skipped.iter().map(|e| e["crate"].as_str().unwrap().into()).collect();
    assert_eq!(duplicates, skipped, "left: Cargo.lock, right: deny.toml");
}

/// The versions of Rust and of netpolc that other files repeat are those of Cargo.toml.
#[test]
fn versions_are_the_same_everywhere() {
    let package = &manifest(".")["workspace"]["package"];
    let (rust, version) =
        (package["rust-version"].as_str().unwrap(), package["version"].as_str().unwrap());
    for (file, words) in [
        ("runtime/deploy/Dockerfile", format!("rust:{rust}-")),
        ("README.md", format!("({rust} or newer)")),
        ("CONTRIBUTING.md", format!("Rust {rust}")),
        ("CHANGELOG.md", format!("## {version} (")),
        ("runtime/deploy/helm/netpolc/Chart.yaml", format!("\nversion: {version}\n")),
        ("runtime/deploy/helm/netpolc/Chart.yaml", format!("\nappVersion: {version}\n")),
        (
            "runtime/deploy/kustomize/base/daemonset.yaml",
            format!("image: ghcr.io/netpolc/netpolc:{version}\n"),
        ),
        (
            "runtime/deploy/kustomize/remove/daemonset.yaml",
            format!("image: ghcr.io/netpolc/netpolc:{version}\n"),
        ),
    ] {
        assert!(read(file).contains(&words), "{file} does not say {words:?}");
    }
}

#[test]
fn workflows_are_yaml_and_call_what_exists() {
    for file in files(&root().join(".github"), &["yml"]) {
        let text = fs::read_to_string(&file).unwrap();
        for event in granit_parser::Parser::new_from_str(&text) {
            if let Err(e) = event {
                panic!("{}: {e}", file.display());
            }
        }
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            let line = line.split_once(" #").map_or(line, |(line, _)| line);
            if line.trim_start().starts_with('#') {
                continue;
            }
            // By the commit's hash, since a tag can be moved.
            if let Some((_, action)) = line.split_once("uses: ") {
                let commit = action.split_once('@').map_or("", |(_, commit)| commit.trim());
                assert!(
                    commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()),
                    "{place}: {action}"
                );
            }
            for word in line.split(|c: char| c.is_whitespace() || "'\"(){},:;".contains(c)) {
                let ours = [
                    ".ci/",
                    "testbed/",
                    "runtime/",
                    "compiler/",
                    "targets/",
                    "kube-sync/",
                    "docs/",
                ];
                if ours.iter().any(|folder| word.starts_with(folder)) {
                    assert!(root().join(word).exists(), "{place}: no {word}");
                }
            }
        }
    }
}

/// Code and comments keep to 100 columns. Tables and drawings in comments may be wider, and so may
/// a line with a string, which rustfmt does not break.
#[test]
fn code_stays_within_100_columns() {
    for file in sources() {
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//");
            let comment = comment.map(|text| text.trim_start_matches(['/', '!']));
            let wide = match comment {
                Some(text) => text.starts_with(" |") || text.contains("  "),
                None => line.contains('"'),
            };
            let columns = line.chars().count();
            assert!(wide || columns <= 100, "{}:{}: {columns} columns", file.display(), number + 1);
        }
    }
}

/// What is an id, and so has a type of its own, whatever code calls it.
const IDS: &[&str] = &[
    "endpoint",
    "set",
    "ingress_set",
    "egress_set",
    "class",
    "row",
    "port_class",
    "pc",
    "incarnation",
    "atom",
    "group",
    "ifindex",
    "ingress_ifindex",
    "interface",
];

/// Where an id is a bare number all the same: path, name, why.
const BARE_IDS: &[(&str, &str, &str)] = &[
    (
        "targets/host/src/tc.rs",
        "ifindex",
        "goes into a netlink message as it is, and host does not know the tables, where the type is",
    ),
    (
        "testbed/src/lab/wire.rs",
        "ifindex",
        "goes to the kernel as it is, and testbed does not know the tables, where the type is",
    ),
];

/// Around a type: what may stand before the number that it holds.
const AROUND: &[&str] = &["&", "mut ", "Option<", "Vec<", "BTreeSet<", "HashSet<", "["];

/// The names that a line declares with a bare number as their type: `class: u16`, `sets: &[u16]`.
fn bare_numbers(line: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let code = line.split("//").next().unwrap_or_default();
    let places = code.match_indices(": ").filter_map(|(at, colon)| {
        let name = code[..at].rsplit(|c| !is_word(c)).next()?;
        let mut of = code[at + colon.len()..].trim_start();
        while let Some(rest) = AROUND.iter().find_map(|around| of.strip_prefix(around)) {
            of = rest;
        }
        let rest = ["u16", "u32"].iter().find_map(|number| of.strip_prefix(number))?;
        (!rest.starts_with(is_word)).then_some(name)
    });
    places.collect()
}

#[test]
fn ids_have_types_of_their_own() {
    assert_eq!(
        bare_numbers("fn put(set: u16, class: Option<u16>, row: RowId) // port: u16"),
        ["set", "class"]
    );
    let mut excused = Vec::new();
    for file in sources() {
        let path =
            file.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for name in bare_numbers(line).into_iter().filter(|name| IDS.contains(name)) {
                let known = BARE_IDS.iter().position(|(at, what, _)| *at == path && *what == name);
                assert!(
                    known.is_some() || file.ends_with("runtime/tests/architecture.rs"),
                    "{path}:{}: {name} is an id: give it its type (netpolc_table::id), or say in \
                     BARE_IDS why not",
                    number + 1
                );
                excused.extend(known);
            }
            // The schema's views know at which place of a key or entry something stands; nothing
            // else does.
            let by_place = [".params()[", ".fields()["].iter().any(|place| line.contains(place));
            let may = path.starts_with("compiler/table/")
                || file.ends_with("runtime/tests/architecture.rs");
            assert!(
                may || !by_place,
                "{path}:{}: read it through a view of netpolc_table::schema",
                number + 1
            );
        }
    }
    for (i, (path, name, _)) in BARE_IDS.iter().enumerate() {
        assert!(excused.contains(&i), "BARE_IDS: {path} has no bare {name} any more");
    }
}
