//! `netpolc flows --nearest`: under what policies have denied, the rules that come nearest to
//! allowing it, by the policies of a cluster as they are now.
//!
//! Not here: how near a rule comes ([`netpolc_analyze::nearest`]), and questions that somebody
//! writes himself ([`crate::command::explain`]).

use std::collections::BTreeMap;

use netpolc_flow::{Flow, Peer, Verdict};
use netpolc_kube_sync::{Survey, plain};

use crate::ask::{question, story, tell};

/// How many questions are remembered with their answers.
const REMEMBERED: usize = 4096;

/// Answers questions about denied flows.
pub struct Nearest {
    survey: Survey,
    /// By source and destination.
    known: BTreeMap<(String, String), String>,
}

impl Nearest {
    /// By the policies of this cluster.
    pub fn of(survey: Survey) -> Self {
        Self { survey, known: BTreeMap::new() }
    }

    /// What to print under a flow: nothing, or lines that end with a line break.
    pub fn under(&mut self, flow: &Flow) -> String {
        let is_asked = flow.verdict == Verdict::Denied && flow.reason.as_deref() == Some("policy");
        let Some(question) = question_of(flow).filter(|_| is_asked) else { return String::new() };
        if let Some(answer) = self.known.get(&question) {
            return answer.clone();
        }
        let answer = self.answer(&question);
        if self.known.len() == REMEMBERED {
            self.known.pop_first();
        }
        self.known.insert(question, answer.clone());
        answer
    }

    fn answer(&self, (source, destination): &(String, String)) -> String {
        let stories = question::read(&self.survey, source, destination)
            .and_then(|reading| story::stories(&self.survey, &reading.asked));
        let stories = match stories {
            Ok(stories) => stories,
            Err(why) => return line(&format!("the cluster that was given cannot tell: {why:#}")),
        };
        let Some(denied) = stories.iter().find(|story| !story.allowed) else {
            return line("the cluster that was given allows it");
        };
        if denied.nearest.is_empty() {
            return line("no rule comes near to allowing it");
        }
        denied.nearest.iter().map(|near| line(&tell::near(near).join(" "))).collect()
    }
}

fn line(text: &str) -> String {
    format!("    {}\n", plain(text))
}

/// The ends of a flow as a question has them.
fn question_of(flow: &Flow) -> Option<(String, String)> {
    let end = |peer: &Peer| {
        let pod = peer.pod.as_ref().map(ToString::to_string);
        let service = peer.service.as_ref().map(|service| format!("svc/{service}"));
        pod.or(service).or(peer.address.map(|address| address.to_string()))
    };
    let (source, destination) = (end(&flow.source)?, end(&flow.destination)?);
    let protocol = flow.protocol.to_lowercase();
    Some(match flow.destination.port {
        Some(port) if destination.contains(':') => {
            (source, format!("[{destination}]:{port}/{protocol}"))
        }
        Some(port) => (source, format!("{destination}:{port}/{protocol}")),
        None => (source, format!("{destination}/{protocol}")),
    })
}

#[cfg(test)]
mod tests {
    use netpolc_kube_sync::{Absent, Input};

    use super::{super::example, *};

    const CLUSTER: &str = "
kind: Pod
apiVersion: v1
metadata: {name: ui-6d5f, namespace: shop, labels: {role: ui}}
spec: {containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.7.0.2}]}
---
kind: Pod
apiVersion: v1
metadata: {name: db-0, namespace: data, labels: {role: db}}
spec: {containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.7.0.1}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: data}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 5433}]}]
";

    #[test]
    fn a_denial_has_the_nearest_rule_under_it_and_nothing_else_has() {
        let input = [Input::bytes("cluster.yaml", CLUSTER)];
        let survey = netpolc_kube_sync::survey(input, Absent::MadeUp);
        let mut nearest = Nearest::of(survey);
        let mut flow = example::denied();
        let text = nearest.under(&flow);
        assert!(text.contains("data/db") && text.contains("5433"), "{text}");
        assert!(text.starts_with("    ") && text.ends_with('\n'), "{text:?}");
        assert_eq!(nearest.under(&flow), text, "from memory");
        flow.verdict = Verdict::Allowed;
        assert_eq!(nearest.under(&flow), "");
        let mut unknown = example::denied();
        unknown.source.pod = Some("shop/gone".into());
        assert!(nearest.under(&unknown).contains("cannot tell"), "{}", nearest.under(&unknown));
    }
}
