//! The chart, rendered, for tests of the manifests. Not here: what is expected of it.

use std::{path::Path, process::Command};

use netpolc_testbed::feed::feed;
use serde_json::Value;

/// The workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace")
}

/// Runs a program with `input` on its standard input, and gives its output.
pub fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = feed(command, input).unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A script of testbed/kube.
pub fn tool(name: &str) -> Command {
    Command::new(root().join("testbed/kube").join(name))
}

/// The objects of a YAML stream in order of their kinds and names, without what only the chart has:
/// the hash that makes new pods when the configuration changes.
pub fn objects(yaml: &[u8]) -> Vec<Value> {
    let json = run(tool("render.sh").arg("-json"), yaml);
    let mut objects: Vec<Value> = serde_json::from_slice(&json).unwrap();
    for object in &mut objects {
        if let Some(annotations) = object.pointer_mut("/spec/template/metadata/annotations") {
            annotations.as_object_mut().unwrap().remove("checksum/config");
        }
    }
    objects.sort_by_key(|o| (o["kind"].to_string(), o["metadata"]["name"].to_string()));
    objects
}

/// What the chart renders to.
pub fn chart(arguments: &[&str]) -> Vec<Value> {
    let chart = root().join("runtime/deploy/helm/netpolc");
    objects(&run(tool("render.sh").arg(chart).args(["-n", "kube-system"]).args(arguments), b""))
}

/// The first object of a kind.
#[allow(dead_code, reason = "each test file uses its own part")]
pub fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|o| o["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}
