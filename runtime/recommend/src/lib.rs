//! Makes least-privilege NetworkPolicies from flows: workloads and labels rather than addresses,
//! ports by name where there is one, and nothing that was not seen.
//!
//! [`Evidence`] gathers flows; [`recommend`] turns them into policies, with the cluster where it is
//! known, and proves them before anybody sees them. An input passes through these modules:
//! `evidence` (contacts) -> `world` (pods and units) -> `meaning` (who is meant) -> `need` (who is
//! to reach whom) -> `draft` (policies; `selector` and `merge` help) -> `manifest` (YAML) ->
//! `prove` (read back, and judged by the oracle). No clock, no IO.
//!
//! Not here: where flows and clusters are read, and what is printed (`netpolc recommend`).

mod draft;
mod evidence;
mod expect;
mod manifest;
mod meaning;
mod merge;
mod need;
mod prove;
mod scope;
mod selector;
mod world;

use std::fmt;

use netpolc_kube_sync::plain;
use netpolc_policy::{Cluster, Direction, Frontends, Mode, Policy};
use serde::Serialize;
use serde_json::Value;

use crate::{
    draft::{Source, counted, named, period, times},
    need::{Needs, Told as Lines},
    prove::{Court, Verdict},
    world::World,
};
pub use crate::{
    evidence::Evidence,
    scope::{Name, Scope},
    world::Workload,
};

/// The cluster as it is known beside the flows.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its objects.
    pub cluster: &'a Cluster,
    /// What is behind its Services.
    pub frontends: &'a Frontends,
}

/// What becomes of packets that policies have denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// They were denied rightly, and are denied again.
    Refused,
    /// They are needed like what has passed.
    Needed,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the policies are enforced or only tried.
    pub mode: Mode,
    /// What becomes of what was denied.
    pub drops: Drops,
    /// For whom policies are wanted.
    pub scope: Scope,
    /// How many blocks of addresses a rule has before they are merged.
    pub most_blocks: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Enforced,
            drops: Drops::Refused,
            scope: Scope::default(),
            most_blocks: 32,
        }
    }
}

/// Why there is no recommendation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There are no flows.
    #[error("there is no flow")]
    NoFlows,
    /// No flow is of a pod that policies are about and that is wanted.
    #[error("no flow is about a pod that is asked for and that a policy isolates or tries")]
    NothingPoliced,
    /// The policies are not read as they were written, which is a mistake of this program.
    #[error("the recommended policies are not read as they are meant, which is a bug: {0}")]
    Unread(String),
    /// The policies deny what was seen, which is a mistake of this program.
    #[error("NetworkPolicy {0} denies what it was made for, which is a bug: {1}")]
    Denies(String, String),
}

/// Policies, and all that is to be said about them.
#[derive(Clone, Debug)]
pub struct Recommendation {
    /// The policies, ordered by namespace and name.
    pub policies: Vec<Recommended>,
    /// What was seen to pass and is not permitted by the policies.
    pub uncovered: Vec<Told>,
    /// What was denied and stays so.
    pub denied: Vec<Told>,
    /// What whoever applies the policies should know.
    pub notes: Vec<String>,
    /// What it was made of, in a sentence or two.
    pub about: Vec<String>,
    expectations: String,
}

/// A policy for a workload, or for several that no labels tell apart.
#[derive(Clone, Debug)]
pub struct Recommended {
    /// The policy.
    pub policy: Policy,
    /// The workloads that it is for.
    pub workloads: Vec<Workload>,
    /// What it was made of.
    pub comments: Vec<String>,
    /// Ingress, and egress.
    pub halves: [Half; 2],
}

/// What is said of a direction.
#[derive(Clone, Debug, Default)]
pub struct Half {
    /// What is said of it as a whole.
    pub notes: Vec<String>,
    /// What each rule was seen for, in the order of the rules.
    pub rules: Vec<RuleSeen>,
}

/// What a rule was seen for.
#[derive(Clone, Debug, Serialize)]
pub struct RuleSeen {
    /// The other end.
    pub other: String,
    /// The same with counts, times and examples, in sentences.
    #[serde(skip)]
    pub comments: Vec<String>,
    /// How often it was seen.
    pub count: u64,
    /// When it was seen first, in nanoseconds since 1970.
    pub first: u64,
    /// When it was seen last.
    pub last: u64,
}

/// Something that was seen, and that no policy permits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Told {
    /// Whose policy it is about.
    pub whose: String,
    /// Whether they received or sent it.
    pub direction: Direction,
    /// The other end.
    pub other: String,
    /// Protocol and port.
    pub traffic: String,
    /// Why there is no rule; of what was denied, the policies that did.
    pub why: String,
    /// How often it was seen.
    pub count: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whose, direction, other, traffic, why, count } = self;
        let (from, to) = match direction {
            Direction::Ingress => (other, whose),
            Direction::Egress => (whose, other),
        };
        write!(f, "{from} to {to}, {traffic}, seen {}: {why}", times(*count))
    }
}

/// How many lines of one kind are written as comments.
const MAX_LINES: usize = 50;

/// Makes policies from what was seen, and proves them.
///
/// # Errors
/// Nothing was seen that policies could be made of, or the proof has failed.
pub fn recommend(
    evidence: &Evidence,
    known: Option<Known<'_>>,
    options: &Options,
) -> Result<Recommendation, Error> {
    if evidence.flows == 0 {
        return Err(Error::NoFlows);
    }
    let world = World::new(evidence, known);
    let needs = Needs::of(evidence, &world, options.drops);
    let source = Source { world: &world, evidence, needs: &needs, options };
    let mut drafts = source.drafts();
    if drafts.policies.is_empty() && drafts.notes.is_empty() {
        return Err(Error::NothingPoliced);
    }
    let told = |lines: &Lines| -> Vec<Told> {
        let wanted = lines.iter().filter(|((unit, ..), _)| source.is_wanted(*unit));
        let told = wanted.map(|((unit, direction, other, traffic, why), count)| Told {
            whose: world.unit(*unit).to_string(),
            direction: *direction,
            other: other.clone(),
            traffic: traffic.clone(),
            why: why.clone(),
            count: *count,
        });
        told.collect()
    };
    let mut uncovered = told(&needs.uncovered);
    uncovered.append(&mut drafts.uncovered);
    uncovered.sort();
    let court = Court::new(&world, &drafts.policies);
    let is_covered =
        |need: &need::Need| drafts.units.contains(&need.unit) && !drafts.left.contains(need);
    let wanted: Vec<_> = needs.needs.iter().filter(|(need, _)| is_covered(need)).collect();
    let mut unknown = 0;
    for (need, seen) in &wanted {
        match court.judge(need, seen) {
            Verdict::Permitted => {}
            Verdict::Denied(why) => {
                return Err(Error::Denies(world.unit(need.unit).to_string(), why));
            }
            Verdict::Unknown => unknown += 1,
        }
    }
    if unknown > 0 {
        drafts.notes.push(format!(
            "{} could not be judged again, since pods of theirs have no address",
            counted(unknown, "rule and port", "rules and ports")
        ));
    }
    let expectations = expect::lines(&world, wanted);
    let mut policies = drafts.policies;
    policies.sort_by(|a, b| a.policy.key.cmp(&b.policy.key));
    let mut recommendation = Recommendation {
        policies,
        uncovered,
        denied: told(&needs.denied),
        notes: drafts.notes,
        about: about(evidence),
        expectations,
    };
    recommendation.notes.extend(missing(evidence));
    if !recommendation.policies.is_empty() {
        prove::read_back(&recommendation.yaml(), &recommendation.policies)?;
    }
    Ok(recommendation)
}

/// What the flows are.
fn about(evidence: &Evidence) -> Vec<String> {
    vec![format!(
        "Made by netpolc recommend from {} of {}, {}.",
        counted(evidence.flows as usize, "flow", "flows"),
        named("node", evidence.nodes.iter().map(|node| node.to_string())),
        period(evidence.first.unwrap_or_default(), evidence.last)
    )]
}

/// What is missing among the flows.
fn missing(evidence: &Evidence) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |count: u64, text: &str| {
        if count > 0 {
            notes.push(format!("{} {text}", counted(count as usize, "flow", "flows")));
        }
    };
    note(evidence.lost, "are missing, since they were not read fast enough; rules may be missing");
    note(evidence.unusable, "say nothing here: they name no pod, or nobody at the other end");
    note(evidence.crowded, "were left out, since they are about too many different connections");
    notes
}

impl Recommendation {
    /// The policies as YAML documents, with comments on what each rule was seen for.
    pub fn yaml(&self) -> String {
        let mut out = String::new();
        manifest::comments(&mut out, &self.about, 0);
        self.lines(&mut out, "Seen, and not permitted by these policies:", &self.uncovered);
        self.lines(&mut out, "Denied when it was seen, and not permitted either:", &self.denied);
        for recommended in &self.policies {
            out.push_str("---\n");
            manifest::comments(&mut out, &recommended.comments, 0);
            manifest::yaml(&mut out, &manifest::object(recommended));
        }
        out
    }

    fn lines(&self, out: &mut String, head: &str, told: &[Told]) {
        if told.is_empty() {
            return;
        }
        let lines = told.iter().take(MAX_LINES).map(|told| format!("  {told}"));
        let more = told.len().saturating_sub(MAX_LINES);
        let rest = (more > 0).then(|| format!("  and {more} more"));
        let all: Vec<String> = [head.to_owned()].into_iter().chain(lines).chain(rest).collect();
        manifest::comments(out, &["".to_owned()], 0);
        manifest::comments(out, &all, 0);
    }

    /// Everything as a value for programs.
    ///
    /// # Errors
    /// A value cannot be written.
    pub fn json(&self) -> Result<Value, serde_json::Error> {
        let policies = self.policies.iter().map(|recommended| {
            let Recommended { policy, workloads, comments, halves } = recommended;
            let [ingress, egress] = halves;
            Ok(serde_json::json!({
                "policy": serde_json::to_value(manifest::object(recommended))?,
                "name": policy.key.to_string(),
                "workloads": workloads.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "comments": comments,
                "ingress": {"seen": ingress.rules, "notes": ingress.notes},
                "egress": {"seen": egress.rules, "notes": egress.notes},
            }))
        });
        Ok(safe(serde_json::json!({
            "about": self.about,
            "policies": policies.collect::<Result<Vec<_>, serde_json::Error>>()?,
            "uncovered": self.uncovered,
            "denied": self.denied,
            "notes": self.notes,
        })))
    }

    /// What was seen, and is permitted, as expectations for `netpolc test`.
    pub fn expectations(&self) -> &str {
        &self.expectations
    }
}

/// The value with texts that control no terminal.
fn safe(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain(&text).into_owned()),
        Value::Array(all) => all.into_iter().map(safe).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, safe(value))).collect(),
        other => other,
    }
}

/// Policies that deny these namespaces everything and are only tried, as YAML, to begin with:
/// whatever happens from then on is seen.
pub fn start(namespaces: &[String]) -> String {
    let mut out = String::new();
    let said = "Denies every pod of the namespace everything, and is only tried: nothing is \
                dropped, and whatever would be is recorded.";
    for namespace in namespaces {
        out.push_str("---\n");
        manifest::comments(&mut out, &[plain(said).into_owned()], 0);
        manifest::yaml(&mut out, &manifest::default_deny(namespace));
    }
    out
}
