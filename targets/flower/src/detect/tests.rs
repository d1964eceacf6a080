//! Findings of NICs that are values: each answers filters as one kind of driver does.

use netpolc_host::links::Device;

use super::{
    facts::Eswitch,
    probe::{Ability, Answer, Place, Probe},
    *,
};
use crate::filter::{Action, Filter, Match, Ports};

const PLACE: Place = Place { prio: 1, chain: 1 };

/// A port of a NIC in switchdev mode, with others beside it.
fn representor(driver: &str) -> Facts {
    Facts {
        interface: "rep0".into(),
        ifindex: IfIndex::new(7),
        driver: Some(driver.into()),
        hw_tc_offload: HwTc::On,
        switch_id: Some("0a".into()),
        port_name: Some("pf0vf0".into()),
        device: Some(Device { bus: "pci".into(), name: "0000:03:00.0".into() }),
        eswitch: Eswitch::Switchdev,
        sibling: Some(IfIndex::new(8)),
    }
}

/// A physical function without switchdev.
fn physical(driver: &str) -> Facts {
    Facts {
        interface: "eth0".into(),
        switch_id: None,
        port_name: Some("p0".into()),
        eswitch: Eswitch::Legacy,
        sibling: None,
        ..representor(driver)
    }
}

/// Refuses filters by a rule, in a driver's words.
struct Nic<F>(F);

impl<F: Fn(&Filter) -> Option<&'static str>> Probe for Nic<F> {
    fn attempt(&mut self, filters: &[Filter]) -> Result<(), Refusal> {
        match filters.iter().find_map(&self.0) {
            Some(text) => Err(Refusal { errno: libc::EOPNOTSUPP, text: Some(text.into()) }),
            None => Ok(()),
        }
    }
}

fn seen(facts: Facts, refuses: impl Fn(&Filter) -> Option<&'static str>) -> Findings {
    find(facts, |facts, known| {
        Ok(probe::run(&mut Nic(refuses), PLACE, facts.sibling, known.chains))
    })
    .unwrap()
}

fn pattern(filter: &Filter) -> &crate::filter::Pattern {
    match &filter.matches {
        Match::Flower(pattern) => pattern,
        Match::Local => panic!("software only: {filter:?}"),
    }
}

fn takes_all(_: &Filter) -> Option<&'static str> {
    None
}

fn evidence(findings: &Findings, ability: Ability) -> &Evidence {
    findings.evidence.iter().find(|e| e.ability == ability).unwrap()
}

#[test]
fn a_driver_that_forwards_gets_the_mode_of_representors() {
    let found = seen(representor("mlx5e_rep"), takes_all);
    assert_eq!((found.mode, found.driver_known), (Some(Mode::Representor), Known::Driver));
    let can = &found.capabilities;
    assert!(can.ct && can.ct_reply && can.redirect && can.tcp_flags && can.chains > 0, "{can:?}");
}

#[test]
fn what_the_driver_takes_but_is_not_known_to_honour_does_not_count() {
    let found = seen(representor("bnxt_en"), takes_all);
    let flags = evidence(&found, Ability::TcpFlags);
    assert_eq!((&flags.probe, flags.honoured, flags.able), (&Answer::Accepted, false, false));
    // It passes over the flags: a drop of openings would drop replies as well.
    assert_eq!(found.mode, None);
    assert!(found.reasons[0].contains("TCP flags"), "{:?}", found.reasons);
}

#[test]
fn what_the_driver_refuses_does_not_count_and_its_words_are_kept() {
    let found =
        seen(representor("mlx5_core"), |f| pattern(f).ct_state.map(|_| "ct is not configured"));
    assert_eq!(found.mode, Some(Mode::Representor));
    let can = &found.capabilities;
    assert_eq!((can.ct, can.ct_reply, can.redirect), (false, false, true));
    let ct = evidence(&found, Ability::Ct);
    assert!(
        ct.describe(found.driver_known)
            .starts_with("probe: refused: Operation not supported: ct is not configured")
    );
    assert!(
        found.reasons.iter().any(|r| r.starts_with("no connection tracking")),
        "{:?}",
        found.reasons
    );
}

#[test]
fn of_an_unknown_driver_nothing_is_relied_on_whatever_it_takes() {
    let found = seen(representor("brand_new"), takes_all);
    assert_eq!((found.driver_known, found.mode), (Known::Unknown, None));
    assert_eq!(found.capabilities, verdict::nothing("brand_new"));
    assert!(
        evidence(&found, Ability::Priority).describe(found.driver_known).contains("not relied on")
    );
    assert!(found.reasons[0].contains("not in the table of drivers"), "{:?}", found.reasons);
}

#[test]
fn without_switchdev_filters_come_before_the_host_only() {
    let found = seen(physical("mlx5_core"), takes_all);
    assert_eq!(found.mode, Some(Mode::Prefilter));
    assert!(found.reasons.iter().any(|r| r.contains("legacy mode")), "{:?}", found.reasons);
    let command = "devlink dev eswitch set pci/0000:03:00.0 mode switchdev";
    assert!(found.reasons.iter().any(|r| r.contains(command)), "{:?}", found.reasons);
}

#[test]
fn a_port_of_an_ordinary_switch_is_no_representor() {
    let absent = Eswitch::Absent("pci/0000:03:00.0 has no embedded switch".into());
    let port = Facts { switch_id: Some("01".into()), eswitch: absent, ..physical("mlx5_core") };
    assert_eq!(seen(port, takes_all).mode, Some(Mode::Prefilter));
}

#[test]
fn exceptions_that_cannot_pass_take_the_priority_along() {
    let found = seen(representor("mlx5_core"), |f| (f.action == Action::Pass).then_some("no pass"));
    assert!(!found.capabilities.priority && !evidence(&found, Ability::Pass).able);
    assert!(found.reasons.iter().any(|r| r.starts_with("no priority")), "{:?}", found.reasons);
}

#[test]
fn ranges_and_chains_are_lost_one_by_one() {
    let found = seen(representor("mlx5_core"), |f| match pattern(f).destination_port {
        Some(Ports::Range { .. }) => Some("Unsupported key"),
        _ => (f.chain > 0).then_some("only chain 0"),
    });
    let can = &found.capabilities;
    assert_eq!((can.port_ranges, can.chains, can.ct, can.tcp_flags), (false, 0, false, true));
    assert!(found.reasons.iter().any(|r| r.starts_with("no chains")), "{:?}", found.reasons);
}

#[test]
fn an_old_firmware_has_as_many_chains_as_it_takes() {
    let found = seen(representor("mlx5_core"), |f| {
        (f.chain > 3).then_some("Requested chain is out of supported range")
    });
    assert_eq!((found.capabilities.chains, found.capabilities.ct), (3, true));
}

#[test]
fn nothing_is_tried_where_offload_is_off_or_missing() {
    for (state, part) in
        [(HwTc::Off, "ethtool -K eth0 hw-tc-offload on"), (HwTc::Missing, "has no hw-tc-offload")]
    {
        let facts = Facts { hw_tc_offload: state, ..physical("mlx5_core") };
        let found = find(facts, |_, _| panic!("probed")).unwrap();
        assert_eq!((found.mode, found.evidence.len(), found.capabilities.filters), (None, 0, 0));
        assert!(found.reasons[0].contains(part), "{:?}", found.reasons);
    }
}

#[test]
fn a_kernel_without_flower_is_a_finding() {
    let found = seen(physical("mlx5_core"), |_| Some("TC classifier not found"));
    assert_eq!((found.mode, found.capabilities.filters), (None, 0));
    assert!(found.reasons[0].contains("TC classifier not found"), "{:?}", found.reasons);
}

#[test]
fn a_full_nic_keeps_what_its_driver_is_known_for() {
    struct Full;
    impl Probe for Full {
        fn attempt(&mut self, _: &[Filter]) -> Result<(), Refusal> {
            Err(Refusal { errno: libc::ENOSPC, text: None })
        }
    }
    let found = find(representor("mlx5_core"), |f, k| {
        Ok(probe::run(&mut Full, PLACE, f.sibling, k.chains))
    })
    .unwrap();
    assert_eq!(found.mode, Some(Mode::Representor));
    assert!(found.capabilities.ct && found.capabilities.filters > 0);
}

#[test]
fn findings_are_json_for_others() {
    let found = seen(representor("mlx5_core"), takes_all);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["interface"], "rep0");
    assert_eq!(json["hw-tc-offload"], "on");
    assert_eq!(json["device"], "pci/0000:03:00.0");
    assert_eq!(json["mode"], "representor");
    assert_eq!(json["evidence"][0]["probe"], "accepted");
    assert_eq!(json["capabilities"]["driver"], "mlx5_core");
}
