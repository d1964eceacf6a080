//! `netpolc compile` for tools that speak P4: what it prints is read by P4Runtime's own bindings
//! for Python, and says what the text form says.
//!
//! Not here: the P4 program, which `compiler/table/tests/p4_source.rs` reads.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::folder::Folder;
use netpolc_table::{ActionId, Match, Program, TableId, p4, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace")
}

/// Runs a program and gives its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn compile(files: &[PathBuf], arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    run(command.arg("compile").arg("-f").args(files).args(arguments))
}

/// What the bindings read of a P4Info and a WriteRequest, as the lines that read.py prints.
fn read(folder: &Folder, info: &str, entries: &str) -> Result<BTreeSet<String>, String> {
    let site = run(&mut Command::new(root().join("testbed/p4/bindings.sh")));
    let (info_file, entries_file) = (folder.0.join("p4info.txtpb"), folder.0.join("write.txtpb"));
    fs::write(&info_file, info).unwrap();
    fs::write(&entries_file, entries).unwrap();
    let mut python = Command::new("python3");
    python.arg(root().join("testbed/p4/read.py")).args([&info_file, &entries_file]);
    // The published bindings are of a form that only the Python implementation still reads.
    python.env("PYTHONPATH", site.trim()).env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python");
    let output = python.output().expect("python3 (testbed/scripts/install.sh p4)");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The same lines of a program.
fn lines(program: &Program) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for spec in p4::tables() {
        for (key, entry) in &program.table(spec.id).entries {
            let mut line = spec.name.to_owned();
            for found in key.fields() {
                line += &match *found {
                    Match::Exact(value) => format!(" {}", value.get()),
                    Match::Lpm { value, length } => format!(" {}/{length}", value.get()),
                    Match::Range { low, high } => format!(" {low}-{high}"),
                };
            }
            let hit = if entry.action == ActionId::Tunnel { "_hit" } else { "" };
            line += &format!(" -> {}{hit}", entry.action.spec().name);
            let params = entry.params().iter().take(entry.action.spec().params.len());
            params.for_each(|value| line += &format!(" {value}"));
            lines.insert(line);
        }
    }
    lines
}

#[test]
fn p4runtimes_bindings_read_the_tables_and_their_entries() {
    let folder = Folder::new("p4");
    let clusters = ["dual.yaml", "nodes.yaml", "shop.yaml"];
    let policies = folder.0.join("policies.yaml");
    fs::write(&policies, POLICIES).unwrap();
    let mut refused = BTreeSet::new();
    for cluster in clusters {
        let cluster = root().join("testbed/filetests/clusters").join(cluster);
        let files = [cluster.clone(), policies.clone()];
        let program = text::parse(&compile(&files, &[])).unwrap();
        let (info, entries) =
            (compile(&files, &["-o", "p4info"]), compile(&files, &["-o", "p4runtime"]));
        assert_eq!(info, compile(&files, &["--target", "p4", "-o", "p4info"]));
        let found = read(&folder, &info, &entries).unwrap();
        assert_eq!(found, lines(&program), "{}", cluster.display());
        let kinds = [TableId::RemoteV4, TableId::Port, TableId::Verdict, TableId::Endpoint];
        for table in kinds {
            assert!(!program.table(table).entries.is_empty(), "{cluster:?} tests no {table:?}");
        }

        // The reader refuses what is not so.
        for (number, (right, wrong)) in [
            ("prefix_len: 32", "prefix_len: 33"),
            ("priority: 1", "priority: 0"),
            ("exact { value: \"\\001", "exact { value: \"\\000\\001"),
            ("table_id: 33554", "table_id: 33654"),
            ("field_id: 1 lpm", "field_id: 2 lpm"),
            ("param_id: 1", "param_id: 9"),
            ("updates", "update"),
        ]
        .into_iter()
        .enumerate()
        {
            if entries.contains(right) {
                let broken = entries.replacen(right, wrong, 1);
                assert!(read(&folder, &info, &broken).is_err(), "{wrong} is taken");
                refused.insert(number);
            }
        }
        let broken = info.replacen("bitwidth: 16", "bitwidth: 1", 1);
        assert!(read(&folder, &broken, &entries).is_err(), "the widths of P4Info are not used");
    }
    assert_eq!(refused.len(), 7, "each kind of mistake was made");
}

/// Blocks with excepts, a range of ports, and both directions.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}, {podSelector: {}}]
    ports: [{port: 80, endPort: 90}, {port: 53, protocol: UDP}]
  egress:
  - to: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}, {ipBlock: {cidr: '2001:db8::/32'}}]
";
