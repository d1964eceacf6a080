//! Answers with the way to them: each side, the rule that decided with its place in a file, and
//! what comes nearest to allowing what is denied.
//!
//! Here: a story for each distinct answer to a question. Not here: which packets a question means
//! (`packets`), and how a story is told ([`super::tell`]).

mod packets;
mod reason;
mod samples;

use std::collections::HashSet;

use netpolc_analyze::{
    around::around,
    nearest::{self, Miss, Packet, RuleName},
};
use netpolc_kube_sync::{ObjectId, Survey, plain};
use netpolc_policy::{
    Cluster, Direction, Pod, audit,
    oracle::{self, Judgement, Question},
};
use serde::Serialize;

pub use self::packets::Asked;
use self::packets::Meant;
use super::{group_object, policy_object, tier_object};

/// How many of the nearest rules a story tells.
const NEAREST: usize = 4;
/// How many ends for which it holds it names.
const NAMED: usize = 8;

/// One answer, and for whom it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// Who opens the connection, in the words of the question or by name.
    pub source: String,
    /// Who answers it.
    pub destination: String,
    /// Protocol and port at the destination, such as `TCP 80`.
    pub traffic: String,
    /// The address and port of the Service that it is sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// For how many pairs of ends this is the answer.
    pub pairs: usize,
    /// May it be opened?
    pub allowed: bool,
    /// What the policies of both ends say: egress of the source, ingress of the destination.
    pub sides: [SideStory; 2],
    /// The rules that come nearest to allowing it, the nearest first. Empty where it is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<Near>,
    /// What would become of it if every policy that is only tried were enforced, where that is
    /// another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_tried_were_enforced: Option<String>,
    /// What becomes of replies.
    pub replies: &'static str,
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SideStory {
    /// Whether the end sends or receives.
    pub direction: Direction,
    /// The end.
    pub end: String,
    /// Does this side allow it?
    pub allowed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// What the other stages said of it, in the order in which they are asked: tiers,
    /// NetworkPolicies, security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub way: Vec<String>,
    /// The rules and objects that the reason is about, and before them those that passed it on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Quote>,
}

/// A part of an object, with its place in the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// The object and the field.
    pub what: String,
    /// File and line, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A rule that nearly allows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Near {
    /// The rule, and what keeps it from allowing the packet.
    #[serde(flatten)]
    pub miss: Miss,
    /// Where the rule stands.
    pub rule_at: Quote,
}

impl Quote {
    /// The field of an object; an empty path stands for the object itself.
    pub fn of(survey: &Survey, object: &ObjectId, path: &str) -> Self {
        let line = match path {
            "" => survey.lines.object(object),
            path => survey.lines.field(object, path),
        };
        let field = if path.is_empty() { String::new() } else { format!(" {path}") };
        Self {
            what: format!("{object}{field}"),
            at: line.map(|line| line.to_string()),
            text: line.map(|line| plain(line.text.trim()).into_owned()).filter(|t| !t.is_empty()),
        }
    }
}

/// The packets that a question means, each with the names of its ends and its traffic.
///
/// # Errors
/// The question means nothing in this input.
pub fn packets(
    survey: &Survey,
    asked: &Asked,
) -> anyhow::Result<Vec<(Question, String, String, String)>> {
    let packets = packets::meant(survey, asked)?.into_iter();
    Ok(packets
        .map(|meant| (meant.question, meant.source, meant.destination, meant.traffic))
        .collect())
}

/// What policies say of a packet.
pub fn judged(survey: &Survey, question: &Question) -> Judgement {
    oracle::judge(&around(&survey.loaded.cluster, &survey.book, question), question)
}

/// The distinct answers to a question, those about the most pairs first.
///
/// # Errors
/// The question means nothing in this input; the message says why.
pub fn stories(survey: &Survey, asked: &Asked) -> anyhow::Result<Vec<Story>> {
    let mut told: Vec<Told> = Vec::new();
    for meant in packets::meant(survey, asked)? {
        let cluster = around(&survey.loaded.cluster, &survey.book, &meant.question);
        let judged = oracle::judge(&cluster, &meant.question);
        let reasons = [judged.egress.reason.clone(), judged.ingress.reason.clone()];
        let is_same =
            |known: &&mut Told| known.reasons == reasons && known.story.traffic == meant.traffic;
        let ends = (meant.source.clone(), meant.destination.clone());
        match told.iter_mut().find(is_same) {
            // The same pair over the other family of addresses is no further pair.
            Some(known) if known.seen.contains(&ends) => {}
            Some(known) => {
                known.add(ends);
                known.story.pairs += meant.pairs;
            }
            None => {
                let story = story(survey, &cluster, &meant, &judged);
                let mut new = Told { reasons, story, ends: Vec::new(), seen: HashSet::new() };
                new.add(ends);
                told.push(new);
            }
        }
    }
    let mut stories: Vec<Story> = told.into_iter().map(Told::story).collect();
    stories.sort_by_key(|story| std::cmp::Reverse(story.pairs));
    Ok(stories)
}

/// A story that is told once for all ends with these reasons, and those ends.
struct Told {
    reasons: [oracle::Reason; 2],
    story: Story,
    ends: Vec<(String, String)>,
    /// The same, to find them by.
    seen: HashSet<(String, String)>,
}

impl Told {
    fn add(&mut self, ends: (String, String)) {
        self.seen.insert(ends.clone());
        self.ends.push(ends);
    }

    fn story(self) -> Story {
        let source = named(self.ends.iter().map(|(source, _)| source.as_str()));
        let destination = named(self.ends.iter().map(|(_, destination)| destination.as_str()));
        Story { source, destination, ..self.story }
    }
}

/// The distinct ones of these names, in order, as far as a story names them.
fn named<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for name in names {
        if distinct.contains(&name) {
            continue;
        }
        if distinct.len() == NAMED {
            distinct.push("...");
            break;
        }
        distinct.push(name);
    }
    distinct.join(", ")
}

/// The story of one packet. The cluster is as much of the survey's as the packet depends on.
fn story(survey: &Survey, cluster: &Cluster, meant: &Meant, judged: &Judgement) -> Story {
    let question = &meant.question;
    let sides = [
        (Direction::Egress, &judged.egress, &meant.source),
        (Direction::Ingress, &judged.ingress, &meant.destination),
    ];
    let nearest = sides.iter().flat_map(|(direction, side, _)| {
        near(survey, cluster, &meant.question, (*direction, side))
    });
    let nearest = if judged.allowed { Vec::new() } else { nearest.collect() };
    let then = audit::shadow(cluster).map(|shadow| oracle::judge(&shadow, question));
    let then = then.filter(|then| then.allowed != judged.allowed);
    let tried = then.map(|then| {
        let side = if then.egress.reason.allows() { &then.ingress } else { &then.egress };
        let verdict = if then.allowed { "allowed" } else { "denied" };
        format!("it would be {verdict}: {}", side.reason)
    });
    Story {
        source: meant.source.clone(),
        destination: meant.destination.clone(),
        traffic: meant.traffic.clone(),
        via: question
            .via
            .map(|(address, port)| std::net::SocketAddr::new(address, port).to_string()),
        pairs: meant.pairs,
        allowed: judged.allowed,
        sides: sides.map(|(direction, side, end)| SideStory {
            direction,
            end: end.clone(),
            allowed: side.reason.allows(),
            reason: reason::sentence(cluster, question, direction, side),
            way: reason::way(cluster, direction, side),
            rules: reason::quotes(survey, direction, side),
        }),
        nearest,
        if_tried_were_enforced: tried,
        replies: match judged.allowed {
            true => "Replies pass without a rule of their own: connections are tracked.",
            false => {
                "No packet of the connection passes. What the other end opens is judged by itself."
            }
        },
    }
}

fn near(
    survey: &Survey,
    cluster: &Cluster,
    question: &Question,
    (direction, side): (Direction, &oracle::Side),
) -> Vec<Near> {
    let Some(pod) = side.pod.as_ref().and_then(|key| cluster.pods.get(key)) else {
        return Vec::new();
    };
    let packet = packet(pod, direction, question);
    let misses = nearest::misses(cluster, &packet, &side.reason, NEAREST);
    let near = misses.into_iter().map(|miss| {
        let object = object_of(&miss.rule);
        let path = match &miss.rule {
            RuleName::SecurityGroup { .. } => String::new(),
            rule => rule.field(),
        };
        Near { rule_at: Quote::of(survey, &object, &path), miss }
    });
    near.collect()
}

fn packet<'a>(pod: &'a Pod, direction: Direction, question: &Question) -> Packet<'a> {
    let remote = match direction {
        Direction::Ingress => question.source.address(),
        Direction::Egress => question.destination.address(),
    };
    Packet { pod, direction, remote, protocol: question.protocol.number(), port: question.port }
}

fn object_of(rule: &RuleName) -> ObjectId {
    match rule {
        RuleName::NetworkPolicy { policy, .. } => policy_object(policy),
        RuleName::ClusterNetworkPolicy { policy, .. } => tier_object(policy),
        RuleName::SecurityGroup { group, .. } => group_object(group.as_str()),
    }
}
