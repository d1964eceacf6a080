//! Rules and policies that change nothing: what is reported may be removed, all of it at once.

use netpolc_analyze::{
    Analysis,
    lint::{Check, Facts, Finding, Object, Severity, findings},
};
use netpolc_policy::{Cluster, Direction, Isolation};
use netpolc_testbed::random::{self, Claims, Rng, Shape};

use crate::{finds, finds_nothing, input::Objects, only_notes};

fn shop() -> Objects {
    Objects::of(&["shop"])
        .pod("shop/web", "app: web, tier: front")
        .pod("shop/api", "app: api, tier: front")
        .pod("shop/db", "app: db, tier: back")
}

fn from(name: &str, label: &str, ports: &str) -> String {
    format!(
        "podSelector: {{matchLabels: {{app: {name}}}}}, ingress: [{{from: [{{podSelector: \
         {{matchLabels: {{{label}}}}}}}]{ports}}}]"
    )
}

#[test]
fn a_rule_that_another_one_covers() {
    let check = Check::RuleChangesNothing;
    let spec = "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: \
                {app: web}}}], ports: [{port: 5432}]}, {from: [{podSelector: {matchLabels: {tier: \
                front}}}]}]";
    let head = "warning NetworkPolicy shop/p spec.ingress[0]";
    let what = "spec.ingress[1] of the same policy already allows what it allows";
    finds(check, shop().policy("shop/p", spec).yaml(), head, what, "Remove the rule");
    // A third peer is what makes the first rule worth something.
    let wider = spec.replacen("{app: web}", "{app: db}", 1);
    finds_nothing(check, shop().policy("shop/p", &wider).yaml());
    // Of two that are equal only one may go.
    let twice = "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: \
                 {matchLabels: {app: web}}}]}, {from: [{podSelector: {matchLabels: {app: web}}}]}]";
    let head = "warning NetworkPolicy shop/p spec.ingress[1]";
    finds(check, shop().policy("shop/p", twice).yaml(), head, "spec.ingress[0]", "Remove");
}

#[test]
fn a_rule_that_is_covered_for_some_pods_only() {
    // The second policy selects the database alone, so the first one's rule is needed for the api.
    let both = shop()
        .policy("shop/a", &from("db", "app: web", ""))
        .policy("shop/b", &from("db", "app: web", "").replace("{matchLabels: {app: db}}", "{}"));
    let check = Check::PolicyChangesNothing;
    let head = "warning NetworkPolicy shop/a";
    finds(check, both.yaml(), head, "other policies isolate 1 pod that it selects", "Remove it");
    finds_nothing(Check::RuleChangesNothing, both.yaml());
    let needed = shop()
        .policy("shop/a", &from("db", "app: web", ""))
        .policy("shop/b", &from("api", "app: web", ""));
    finds_nothing(check, needed.yaml());
}

#[test]
fn a_policy_that_isolates_is_needed_where_no_other_one_does() {
    let check = Check::PolicyChangesNothing;
    let deny = "podSelector: {}, policyTypes: [Ingress]";
    let allow = from("db", "app: web", "");
    let needed = shop().policy("shop/allow", &allow).policy("shop/deny", deny);
    finds_nothing(check, needed.yaml());
    // Where all pods are isolated anyway it is there for others to come.
    let all = needed.policy("shop/web", &from("web", "app: db", ""));
    let all = all.policy("shop/api", &from("api", "app: db", ""));
    let head = "note NetworkPolicy shop/deny";
    finds(check, all.yaml(), head, "other policies isolate 3 pods", "pods to come");
    // Of two that isolate the same pods one is needed.
    let twice = shop().policy("shop/deny", deny).policy("shop/too", deny);
    finds(check, twice.yaml(), "note NetworkPolicy shop/too", "other policies isolate 3 pods", "");
    // Without an isolation that closes something a policy changes nothing either, if it opens all.
    let open = shop().policy("shop/open", "podSelector: {}, ingress: [{}]");
    finds(check, open.yaml(), "warning NetworkPolicy shop/open", "", "");
}

#[test]
fn a_rule_that_a_tier_decides() {
    let tier = "tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: \
                [{namespaces: {}}]}]";
    let spec = "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: \
                {app: web}}}]}, {from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]";
    let both = shop().policy("shop/p", spec).tier("t", tier);
    let head = "warning NetworkPolicy shop/p spec.ingress[0]";
    let what = "ClusterNetworkPolicies or security groups decide all that it would allow";
    finds(Check::RuleChangesNothing, both.yaml(), head, what, "change what decides");
    finds_nothing(Check::RuleChangesNothing, shop().policy("shop/p", spec).yaml());
}

#[test]
fn a_rule_of_a_tier_that_an_earlier_one_decides() {
    let check = Check::RuleChangesNothing;
    let with = |first: &str, second: &str| {
        let spec = format!(
            "tier: Admin, priority: 10, subject: {{namespaces: {{}}}}, ingress: [{first}, {second}]"
        );
        shop().tier("t", &spec)
    };
    let wide = "{action: Deny, from: [{namespaces: {}}]}";
    let narrow = "{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: \
                  {app: web}}}}]}";
    let head = "warning ClusterNetworkPolicy t spec.ingress[1]";
    let what = "earlier rules of the tier Admin decide all that it would accept";
    finds(check, with(wide, narrow).yaml(), head, what, "move it before");
    finds_nothing(check, with(narrow, wide).yaml());
}

#[test]
fn a_tier_that_another_one_decides() {
    let check = Check::PolicyChangesNothing;
    let deny = |priority: u16, subject: &str| {
        format!(
            "tier: Admin, priority: {priority}, subject: {{namespaces: {{{subject}}}}}, egress: \
             [{{action: Deny, to: [{{networks: [192.0.2.0/24]}}]}}]"
        )
    };
    let both = shop().tier("all", &deny(1, "")).tier("some", &deny(2, "matchLabels: {team: shop}"));
    let head = "warning ClusterNetworkPolicy some";
    finds(check, both.yaml(), head, "others of the tier Admin decide all", "lower number");
    // A guard rail that no NetworkPolicy would need today is one all the same.
    let isolated = shop()
        .tier("all", &deny(1, ""))
        .policy("shop/deny", "podSelector: {}, policyTypes: [Egress]");
    only_notes(check, isolated.yaml());
}

/// Does the finding say that something may be removed? So does a note about a NetworkPolicy that
/// only isolates.
fn may_go(finding: &Finding) -> bool {
    match finding.check {
        Check::PolicyChangesNothing => {
            finding.severity > Severity::Note || matches!(finding.object, Object::NetworkPolicy(_))
        }
        Check::RuleChangesNothing => finding.severity > Severity::Note,
        _ => false,
    }
}

/// What is left of a cluster where everything is removed that findings say changes nothing.
fn without(cluster: &Cluster, found: &[Finding]) -> Cluster {
    let mut left = cluster.clone();
    let mut rules: Vec<(&Object, &str)> = Vec::new();
    for finding in found.iter().filter(|finding| may_go(finding)) {
        match (finding.check, &finding.object) {
            (Check::PolicyChangesNothing, Object::NetworkPolicy(key)) => {
                left.policies.remove(key);
            }
            (Check::PolicyChangesNothing, Object::ClusterNetworkPolicy(key)) => {
                left.tiers.remove(key);
            }
            (Check::RuleChangesNothing, object) => rules.push((object, &finding.field)),
            _ => {}
        }
    }
    for direction in Direction::BOTH {
        for (object, field) in &rules {
            let (of, index) = field.trim_end_matches(']').split_once('[').unwrap();
            if of != format!("spec.{direction}") {
                continue;
            }
            let index: usize = index.parse().unwrap();
            match object {
                Object::NetworkPolicy(key) => {
                    let policy = left.policies.get_mut(key).unwrap();
                    let isolation = match direction {
                        Direction::Ingress => &mut policy.ingress,
                        Direction::Egress => &mut policy.egress,
                    };
                    let Isolation::Isolated(rules) = isolation else { panic!("{field}") };
                    // An empty list of ports that is not absent allows nothing.
                    rules[index].ports = netpolc_policy::Ports::Listed(Vec::new());
                }
                Object::ClusterNetworkPolicy(key) => {
                    let policy = left.tiers.get_mut(key).unwrap();
                    let rules = match direction {
                        Direction::Ingress => &mut policy.ingress,
                        Direction::Egress => &mut policy.egress,
                    };
                    rules[index].peers.clear();
                }
                other => panic!("{other}"),
            }
        }
    }
    left
}

#[test]
fn what_changes_nothing_may_all_be_removed_at_once() {
    let (mut removed, mut of_tiers, mut answers) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(4000 + seed);
        let claims = if seed % 3 == 0 { Claims::Contested } else { Claims::Unique };
        let cluster = random::cluster(&mut rng, &Shape { claims, ..Shape::default() });
        let mut before = Analysis::new(&cluster);
        let found = findings(&mut before, &Facts::default());
        let idle = found.iter().filter(|finding| may_go(finding));
        let idle: Vec<&Finding> = idle.collect();
        removed += idle.len();
        let is_tier = |f: &&&Finding| matches!(f.object, Object::ClusterNetworkPolicy(_));
        of_tiers += idle.iter().filter(is_tier).count();
        let left = without(&cluster, &found);
        let both = [&cluster, &left];
        let universe = |of| netpolc_analyze::universe::Universe::asked(of, &both);
        let mut before = Analysis::in_universe(&cluster, universe(&cluster));
        let mut after = Analysis::in_universe(&left, universe(&left));
        let profiles: Vec<_> = before.universe().profiles().map(|(id, _)| id).collect();
        for profile in profiles {
            for direction in Direction::BOTH {
                let remotes: Vec<_> = before.universe().remotes().map(|(id, _)| id).collect();
                let (was, is) = (before.row(profile, direction), after.row(profile, direction));
                for remote in remotes {
                    let was = before.traffic(was.with(remote));
                    let is = after.traffic(is.with(remote));
                    assert_eq!(was, is, "seed {seed}: {direction} of {profile:?}: {idle:?}");
                    answers += 1;
                }
            }
        }
    }
    assert!(removed > 100 && of_tiers > 10, "{removed} findings, {of_tiers} of tiers");
    assert!(answers > 10_000, "only {answers} answers were compared");
}
