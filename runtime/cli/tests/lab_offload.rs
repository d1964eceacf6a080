//! `netpolc offload` as a user meets it: on this machine, and on a simulated NIC in a kernel with
//! flower.

use std::process::{Command, Output};

use netpolc_testbed::lab;
use serde_json::Value;

fn offload(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolc")).arg("offload").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_machine_without_such_a_nic_is_told_so() {
    let output = offload(&[]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains("without hw-tc-offload: lo"), "{}", text(&output.stdout));
    let output = offload(&["--interface", "lo"]);
    let said = text(&output.stdout);
    assert!(
        said.ends_with(
            "No interface here offloads filters: eBPF enforces everything, in software.\n"
        ),
        "{said}"
    );
    let output = offload(&["--interface", "lo", "-o", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lo = &json["interfaces"][0];
    assert_eq!((lo["interface"].as_str(), &lo["mode"]), (Some("lo"), &Value::Null));
}

#[test]
fn a_wrong_name_is_one_line_with_the_right_ones() {
    let output = offload(&["--interface", "no-such"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("netpolc: --interface: no interface no-such; there are: lo"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn a_simulated_nic_is_shown_with_what_it_can_do_and_why_not_more() {
    if lab::outside(a_simulated_nic_is_shown_with_what_it_can_do_and_why_not_more) {
        return;
    }
    let nic = lab::simnic("sfc", 1, &[]);
    let output = offload(&["--interface", "simr0"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let said = text(&output.stdout);
    println!("{said}");
    for part in [
        "simr0: representor",
        "probe: refused: Operation not supported: sfc: Unsupported ct_state match",
        "no priority: drops that need exceptions, and established connections, stay with eBPF",
        "EFX_TC_PRIO_TC",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert!(!said.contains("No interface here offloads"));
    let json: Value = serde_json::from_slice(&offload(&["-o", "json"]).stdout).unwrap();
    let all = json["interfaces"].as_array().unwrap();
    let modes: Vec<_> =
        all.iter().map(|f| (f["interface"].as_str().unwrap(), f["mode"].as_str())).collect();
    assert!(
        modes.contains(&("simp0", Some("representor"))) && modes.contains(&("lo", None)),
        "{modes:?}"
    );
    assert_eq!(nic.counter("nic.rules"), 0);
}
