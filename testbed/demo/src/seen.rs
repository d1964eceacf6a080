//! The last act: everything is denied, but only tried, so that nothing breaks and all that the shop
//! does is seen. What was seen becomes policies, and these are enforced.
//!
//! Not here: how policies follow from flows (`netpolc-recommend`).

use anyhow::ensure;
use netpolc::output::Outcome;
use netpolc_policy::{Cluster, Frontends};
use netpolc_recommend::{Evidence, Known, Options, recommend, start};
use netpolc_testbed::{
    netns::Net,
    probe::{PATIENCE, Question, ask_until},
    shop,
};

use crate::{Show, addresses, agents::Agents, look};

/// The policy that is shown as it is printed.
const SHOWN: &str = "name: postgres-seen";

/// Plays it.
pub fn act(show: &mut Show, net: &Net, agents: &mut Agents) -> anyhow::Result<Outcome> {
    let namespaces: Vec<String> = shop::NAMESPACES.map(str::to_owned).into();
    let watched = shop::with_policies(&start(&namespaces));
    show.title("No policy but one for each namespace, which is only tried", &watched)?;
    agents.update(&watched)?;
    // What was seen in earlier acts is not this act's.
    agents.flows()?;
    let worked = work(net, &watched)?;
    show.line(&format!("{worked} connections that the shop needs were opened; nothing is denied"))?;

    let mut evidence = Evidence::default();
    agents.flows()?.iter().for_each(|flow| evidence.flow(flow));
    let known = Known { cluster: &watched, frontends: &Frontends::default() };
    let found = recommend(&evidence, Some(known), &Options::default())?;
    ensure!(found.uncovered.is_empty(), "{} were seen and have no rule", found.uncovered.len());
    let yaml = found.yaml();
    let enforced = shop::with_policies(&yaml);
    show.title("What was seen becomes policies, and these are enforced", &enforced)?;
    show.line(&format!("          from {} flows of both nodes; one of them:", evidence.flows()))?;
    let shown = yaml.split("---\n").find(|document| document.contains(SHOWN));
    for line in shown.into_iter().flat_map(str::lines) {
        show.line(&format!("          {line}"))?;
    }
    let reports = agents.update(&enforced)?;
    show.reports(&reports)?;
    let seen = look(net, &enforced)?;
    let outcome = show.compare(&seen)?;
    show.needed(&seen, &[])?;
    let needed = |talk| shop::NEEDED.contains(&talk);
    let broken = seen.iter().filter(|s| needed(s.talk) && !s.passed).count();
    let others = || seen.iter().filter(|s| !needed(s.talk) && shop::is_of_shop(&s.talk));
    let blocked = others().filter(|s| !s.passed).count();
    show.line(&format!("{blocked} of {} others with the shop are blocked", others().count()))?;
    Ok(outcome.and(Outcome::of_problems(broken + (others().count() - blocked))))
}

/// Opens every connection that the shop needs, over both families. Returns how many passed, which
/// must be all.
fn work(net: &Net, cluster: &Cluster) -> anyhow::Result<usize> {
    let mut questions = Vec::new();
    for talk in shop::NEEDED {
        for to in addresses(cluster, talk.to) {
            questions.push(Question::new(talk.from.site(net)?, to, talk.ask));
        }
    }
    let answers = ask_until(&questions, &vec![true; questions.len()], PATIENCE)?;
    let passed = answers.into_iter().filter(|answer| answer.passed()).count();
    ensure!(passed == questions.len(), "{passed} of {} connections passed", questions.len());
    Ok(passed)
}
