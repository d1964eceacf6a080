//! Detection on the simulated NIC, in a kernel with flower: what it finds agrees with the
//! personality that the NIC has, and nothing of it stays.

use std::{collections::BTreeSet, fs, process::Command, time::Instant};

use netpolc_target_flower::{
    detect::{
        self, Findings,
        facts::{Eswitch, HwTc},
        probe::{Ability, Answer},
        verdict::Known,
    },
    lowered::Mode,
};
use netpolc_testbed::lab;

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{line}: {text}");
    text
}

fn refused(found: &Findings) -> BTreeSet<Ability> {
    found
        .evidence
        .iter()
        .filter(|e| matches!(e.probe, Answer::Refused(_)))
        .map(|e| e.ability)
        .collect()
}

fn able(found: &Findings) -> BTreeSet<Ability> {
    found.evidence.iter().filter(|e| e.able).map(|e| e.ability).collect()
}

/// What the personality refuses when asked (testbed/lab/simnic/drivers.c), what may be relied on,
/// and the mode.
struct Expected {
    driver: &'static str,
    refused: &'static [Ability],
    able: &'static [Ability],
    mode: Option<Mode>,
}

const EXPECTED: &[Expected] = {
    use Ability::*;
    &[
        Expected {
            driver: "simnic",
            refused: &[PortRanges],
            able: &[
                Flower, Pass, TcpFlags, Ipv6, PortMasks, SctpPorts, ZeroKeys, Priority, Chains,
                Redirect, Ct, CtReply,
            ],
            mode: Some(Mode::Representor),
        },
        Expected {
            driver: "mlx5_core",
            refused: &[PortRanges, SctpPorts],
            able: &[
                Flower, Pass, TcpFlags, Ipv6, PortMasks, ZeroKeys, Priority, Chains, Redirect, Ct,
                CtReply,
            ],
            mode: Some(Mode::Representor),
        },
        // Without TCP flags nothing may be dropped.
        Expected {
            driver: "ice",
            refused: &[Pass, TcpFlags, PortRanges, SctpPorts, Chains, Ct, CtReply],
            able: &[Flower, Ipv6, PortMasks, Redirect],
            mode: None,
        },
        // It takes flags and loses ACK from their mask; it takes rpl and does not look at it.
        Expected {
            driver: "nfp",
            refused: &[Pass, PortRanges, Chains],
            able: &[Flower, Ipv6, PortMasks, SctpPorts, ZeroKeys, Redirect, Ct],
            mode: None,
        },
        // It takes flags and ranges, and passes over them.
        Expected {
            driver: "bnxt_en",
            refused: &[SctpPorts, Chains, Ct, CtReply],
            able: &[Flower, Ipv6, PortMasks, ZeroKeys, Redirect],
            mode: None,
        },
        Expected {
            driver: "sfc",
            refused: &[Pass, PortMasks, PortRanges, SctpPorts, CtReply],
            able: &[Flower, TcpFlags, Ipv6, ZeroKeys, Chains, Redirect, Ct],
            mode: Some(Mode::Representor),
        },
        Expected {
            driver: "rvu_nicpf",
            refused: &[PortRanges, Chains, Redirect, Ct, CtReply],
            able: &[Flower, Pass, TcpFlags, Ipv6, PortMasks, SctpPorts, ZeroKeys, Priority],
            mode: Some(Mode::Representor),
        },
        // It neither drops nor redirects.
        Expected { driver: "i40e", refused: &[Flower], able: &[], mode: None },
    ]
};

#[test]
fn detection_agrees_with_every_personality_and_leaves_nothing_behind() {
    if lab::outside(detection_agrees_with_every_personality_and_leaves_nothing_behind) {
        return;
    }
    for expected in EXPECTED {
        let driver = expected.driver;
        let nic = lab::simnic(driver, 2, &[]);
        let before = sh("tc qdisc show");
        let started = Instant::now();
        let found = detect::interface("simr0").unwrap();
        println!("{driver}: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        let facts = &found.facts;
        assert_eq!((facts.driver.as_deref(), &facts.hw_tc_offload), (Some(driver), &HwTc::On));
        assert_eq!(
            (&facts.eswitch, facts.port_name.as_deref()),
            (&Eswitch::Switchdev, Some("pf0vf0"))
        );
        assert!(facts.switch_id.is_some() && facts.is_switchdev_port());
        assert_eq!(found.driver_known, Known::Driver);
        let set = |list: &[Ability]| list.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(refused(&found), set(expected.refused), "{driver}: {:#?}", found.evidence);
        assert_eq!(able(&found), set(expected.able), "{driver}: {:#?}", found.evidence);
        assert_eq!(found.mode, expected.mode, "{driver}: {:?}", found.reasons);
        if driver == "mlx5_core" {
            let ranges = found.evidence.iter().find(|e| e.ability == Ability::PortRanges).unwrap();
            assert!(
                ranges.describe(found.driver_known).contains("mlx5_core: Unsupported key"),
                "{ranges:?}"
            );
        }
        assert_eq!((nic.counter("nic.rules"), nic.counter("nic.tables")), (0, 0), "{driver}");
        assert_eq!(sh("tc qdisc show"), before, "{driver}");
        nic.unload();
    }
    lab::assert_kernel_is_quiet();
}

#[test]
fn the_uplink_of_a_nic_without_switchdev_gets_the_prefilter() {
    if lab::outside(the_uplink_of_a_nic_without_switchdev_gets_the_prefilter) {
        return;
    }
    let _nic = lab::simnic("mlx5_core", 1, &[("eswitch", "legacy")]);
    let found = detect::interface("simp0").unwrap();
    assert_eq!((&found.facts.eswitch, &found.facts.switch_id), (&Eswitch::Legacy, &None));
    assert_eq!(found.mode, Some(Mode::Prefilter));
    assert!(
        found.reasons.iter().any(|r| r.contains("devlink dev eswitch set platform/simnic")),
        "{:?}",
        found.reasons
    );
    assert!(!able(&found).contains(&Ability::Redirect));
}

#[test]
fn others_filters_and_qdiscs_stay_as_they_are() {
    if lab::outside(others_filters_and_qdiscs_stay_as_they_are) {
        return;
    }
    let nic = lab::simnic("mlx5_core", 2, &[]);
    sh("tc qdisc add dev simr0 clsact
        tc filter add dev simr0 ingress prio 1 protocol ip flower dst_ip 10.0.0.1 action drop
        tc filter add dev simr0 ingress prio 2 protocol ipv6 flower ip_proto tcp action pass
        tc filter add dev simr0 ingress chain 1 prio 1 protocol ip flower dst_ip 10.0.0.2 action \
        drop
        tc filter add dev simr0 egress prio 1 protocol ip flower dst_ip 10.0.0.3 action drop
        tc qdisc add dev simr1 ingress");
    let show = "tc filter show dev simr0 ingress; tc filter show dev simr0 egress; tc qdisc show";
    let before = sh(show);
    for name in ["simr0", "simr1"] {
        let found = detect::interface(name).unwrap();
        assert_eq!(
            refused(&found),
            [Ability::PortRanges, Ability::SctpPorts].into(),
            "{:#?}",
            found.evidence
        );
    }
    assert_eq!(sh(show), before);
    assert_eq!(nic.counter("nic.rules"), 3);
}

#[test]
fn a_full_nic_is_not_taken_for_one_that_cannot() {
    if lab::outside(a_full_nic_is_not_taken_for_one_that_cannot) {
        return;
    }
    let _nic = lab::simnic("mlx5_core", 2, &[("rules", "1")]);
    sh("tc qdisc add dev simr0 clsact
        tc filter add dev simr0 ingress prio 1 protocol ip flower dst_ip 10.0.0.1 action drop");
    let found = detect::interface("simr0").unwrap();
    assert!(matches!(&found.evidence[0].probe, Answer::Full(_)), "{:?}", found.evidence[0]);
    assert_eq!(found.mode, Some(Mode::Representor));
    assert!(found.capabilities.ct && found.capabilities.tcp_flags);
}

#[test]
fn what_cannot_offload_is_left_alone() {
    if lab::outside(what_cannot_offload_is_left_alone) {
        return;
    }
    sh("ip link add veth0 type veth peer name veth1");
    let before = sh("tc qdisc show");
    let found = detect::interface("veth0").unwrap();
    assert_eq!(
        (found.facts.driver.as_deref(), &found.facts.hw_tc_offload),
        (Some("veth"), &HwTc::Missing)
    );
    assert_eq!((found.mode, found.evidence.len(), found.capabilities.filters), (None, 0, 0));
    assert_eq!(found.reasons, ["veth has no hw-tc-offload"]);
    assert!(detect::interfaces().unwrap().iter().all(|f| f.mode.is_none()));
    assert_eq!(sh("tc qdisc show"), before);
    // Offloading is a property of the interface, not of a name in the table.
    assert!(fs::metadata("/sys/class/net/simr0").is_err());
    let error = detect::interface("simr0").unwrap_err().to_string();
    assert!(error.contains("no interface simr0") && error.contains("veth0"), "{error}");
}
