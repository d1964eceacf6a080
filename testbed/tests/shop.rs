//! The shop's stages: what breaks, what is repaired, what one typo cuts.

use netpolc_testbed::{
    netns::Net,
    probe::{Ask, Question, Servers, ask},
    shop::{self, Family, NEEDED, Stage, Talk, Who},
};

/// The needed connections that fail at `stage`.
fn broken(stage: Stage) -> Vec<Talk> {
    let fails = |t: &Talk| [Family::V4, Family::V6].map(|f| !stage.allows(t, f));
    NEEDED
        .into_iter()
        .filter(|t| fails(t) != [false; 2])
        .inspect(|t| assert_eq!(fails(t), [true; 2], "{t:?}"))
        .collect()
}

#[test]
fn each_stage_breaks_what_its_name_says() {
    let ui = Who::Pod("ui", "ui");
    assert_eq!(broken(Stage::Open), []);
    let around_ui: Vec<Talk> = NEEDED.into_iter().filter(|t| t.from == ui || t.to == ui).collect();
    assert_eq!(around_ui.len(), 7);
    assert_eq!(broken(Stage::DenyUi), around_ui);
    assert_eq!(broken(Stage::Repaired), []);
    let cut = Talk {
        from: Who::Pod("checkout", "checkout"),
        to: Who::Pod("orders", "orders"),
        ask: Ask::Tcp(8080),
    };
    assert_eq!(broken(Stage::Wrong), [cut]);
}

#[test]
fn the_repair_opens_no_more_than_needed() {
    let ui = Who::Pod("ui", "ui");
    for talk in shop::matrix().into_iter().filter(|t| t.from == ui || t.to == ui) {
        let needed = NEEDED.contains(&talk);
        assert_eq!(Stage::Repaired.allows(&talk, Family::V4), needed, "{talk:?}");
        // S34: policies with ports leave pings out.
        let ping = Talk { ask: Ask::Ping, ..talk };
        assert!(!Stage::Repaired.allows(&ping, Family::V6), "{ping:?}");
    }
    assert_eq!(shop::matrix().len(), 12 * 11 - 11);
}

/// Without any enforcement, so everything passes: this proves the stage set, not the policies.
#[test]
fn the_shop_runs_in_namespaces() {
    let net = Net::up(&shop::spec()).expect("a cluster");
    let cluster = Stage::Open.cluster();
    let servers = cluster.pods.values().map(|p| (net.pod(&p.key).expect("a pod"), shop::serves(p)));
    let _servers = Servers::start(servers).expect("servers");
    let talks = shop::matrix();
    let questions: Vec<Question> = talks
        .iter()
        .flat_map(|t| {
            let (from, to) = (t.from.site(&net).expect("a site"), t.to.site(&net).expect("a site"));
            to.addresses.iter().map(move |a| Question::new(from, *a, t.ask))
        })
        .collect();
    assert_eq!(questions.len(), 2 * talks.len());
    for (question, answer) in
        questions.iter().zip(ask(&questions, std::time::Duration::from_secs(2)).expect("answers"))
    {
        assert!(
            answer.passed(),
            "{} -> {} {}: {answer:?}",
            question.from.name,
            question.to,
            question.ask
        );
    }
}
