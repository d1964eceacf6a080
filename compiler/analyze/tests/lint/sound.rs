//! Clusters in which everything is as it should be give no warning, and one with a known mistake
//! gives that one.

use netpolc_analyze::lint::{Check, Finding, Severity};
use netpolc_kube_sync::{Absent, Input, survey};
use netpolc_testbed::shop::{self, Stage};

fn of_shop(stage: Stage) -> Vec<Finding> {
    let files = std::iter::once(("shop.yaml", shop::objects())).chain(stage.policies());
    let read = survey(files.map(|(name, text)| Input::bytes(name, text)), Absent::MadeUp);
    crate::lint_of(&read)
}

fn warnings(found: Vec<Finding>) -> Vec<Finding> {
    found.into_iter().filter(|f| f.severity > Severity::Note).collect()
}

#[test]
fn the_web_shop_gives_no_warning() {
    assert_eq!(warnings(of_shop(Stage::Repaired)), []);
}

#[test]
fn the_mistake_of_the_web_shop_is_named() {
    let found = warnings(of_shop(Stage::Wrong));
    let checks: Vec<Check> = found.iter().map(|f| f.check).collect();
    assert!(checks.contains(&Check::PeerMeansNobody), "{found:?}");
    let mistake = found.iter().find(|f| f.check == Check::PeerMeansNobody).unwrap();
    assert_eq!(mistake.field, "spec.ingress[0].from[0]");
    assert!(mistake.what.contains("app=chekout"), "{}", mistake.what);
    assert!(mistake.change.contains("app=checkout"), "{}", mistake.change);
}
