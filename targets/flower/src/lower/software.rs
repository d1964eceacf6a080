//! Everything by the kernel's own flower: both directions, both families, replies by connection
//! tracking.
//!
//! Every packet of a connection is judged by policy, by the policy of the direction that the
//! connection was opened in: connection tracking only says which one that is. So a change of policy
//! holds for running connections too (S41).
//!
//! ```text
//! from the pod, ingress hook               to the pod, egress hook
//! 0: all -> sources                        0: all -> policy
//! sources: ARP, own source -> ct, policy   (the host has tracked the packet already)
//!          fe80::/10, :: -> link-local
//! link-local: ND; own -> ct, policy; MLD, DHCPv6
//! policy: related errors; openings of the other side of a live connection: drop;
//!         replies (by the other direction's set, backwards), the set; rest: drop
//!                                          rest: born here, from a node address -> pass, else drop
//! ```
//!
//! Chain 0 has one filter and all other chains are named by their content: a change of an endpoint
//! is one replacement. Tracking is in zone 0 without commit, on the ingress hook only: the action
//! reassembles fragments, and the pod's end would not take the result. A Service's address is
//! judged as it is: there is no hook behind the translation. Not here: prefixes and ports
//! ([`super::answers`]), netlink.

use std::{collections::BTreeSet, net::IpAddr};

use netpolc_table::{
    ActionId, EndpointId, Origin, Origins, PortClassId, Program, RowId, SetId, TableId,
    eval::{self, Pipeline},
    schema::{
        self, BaseKey, Family, OwnKey, PortKey, RowKey, SetPortClass, Word, base_key, verdict_key,
    },
};

use super::{
    answers::{Denied, End, PRIOS, Plan, View, rest},
    chains::{Chains, Full, Role, Rule},
    common::implied,
    fixed,
    region::{Answer, PORTED, Region, region},
};
use crate::{
    capability::Capabilities,
    filter::{Action, Copies, EtherType, Masked, Match, Pattern, Side, ct, host},
    lowered::{Lowered, Mode, Reason, Refused, Spilled},
    topology::{PodPort, Topology},
};

/// Prios of a policy chain: fixed filters, replies, the set, the rest.
const STATE: u16 = 20;
const REPLIES: u16 = 1000;
const ERRORS: u16 = 1900;
const SET: u16 = 2000;
const REST: u16 = 3000;
const _: () = assert!(REPLIES + PRIOS <= ERRORS && SET + PRIOS <= REST);

/// The filters of a node.
///
/// # Errors
/// Two endpoints are behind one interface, which flower cannot tell apart; or a port needs more
/// different chains than there are numbers.
pub fn lower(program: &Program, topology: &Topology) -> Result<Lowered, Refused> {
    let limit = Capabilities::software().chains;
    let mut lowered = Lowered { mode: Mode::Software, ports: Default::default(), spilled: vec![] };
    let services =
        Family::BOTH.iter().any(|f| !program.table(TableId::service(*f)).entries.is_empty());
    for (&endpoint, PodPort { port, .. }) in &topology.pods {
        let mut chains = Chains::new(limit);
        let pod = Pod::new(program, topology, endpoint);
        if let (Direction::Set(_, isolates), true) = (&pod.egress, services) {
            lowered.spilled.push(Spilled {
                port: port.clone(),
                what: "egress through Services".into(),
                reason: Reason::Service,
                filters: 0,
                origins: isolates.clone(),
            });
        }
        let apart = told_apart(program, pod.word);
        if !apart.as_slice().is_empty() {
            lowered.spilled.push(Spilled {
                port: port.clone(),
                what: "ICMP and other protocols without ports".into(),
                reason: Reason::Apart,
                filters: 0,
                origins: apart,
            });
        }
        if pod.judges_node() && pod.word.born_set != pod.word.ingress_set {
            lowered.spilled.push(Spilled {
                port: port.clone(),
                what: "ingress from the node itself".into(),
                reason: Reason::Born,
                filters: 0,
                origins: pod.gates.clone(),
            });
        }
        pod.lower(&mut chains)
            .map_err(|Full { limit }| Refused::Chains { port: port.name.clone(), limit })?;
        let filters = chains.into_filters();
        if filters.is_empty() {
            continue;
        }
        if lowered.ports.insert(port.clone(), filters).is_some() {
            return Err(Refused::Incomplete {
                what: format!(
                    "interface {} has two pods behind it, which flower cannot tell apart",
                    port.name
                ),
                remedy: "give each pod an interface of its own, or use the ebpf target".into(),
            });
        }
    }
    Ok(lowered)
}

/// The rules that permit some protocols without ports, or some messages of ICMP, where not all of
/// them are permitted (S77): no filter does that.
fn told_apart(program: &Program, word: Word) -> Origins {
    let sets: Vec<SetId> = Pipeline::BOTH.into_iter().filter_map(|p| p.set(word)).collect();
    let bases = program.table(TableId::Base).entries.iter();
    let bases = bases.filter(|(key, _)| sets.contains(&BaseKey::of(key).set));
    let rows = program.table(TableId::Row).entries.iter();
    let rows = rows.filter(|(key, _)| sets.contains(&RowKey::of(key).set));
    let rows: BTreeSet<RowId> =
        bases.chain(rows).filter_map(|(_, entry)| schema::Answer::of(Some(entry)).row()).collect();
    let mut origins = Vec::new();
    for row in rows {
        let permit = |class| program.get(TableId::Verdict, &verdict_key(row, class));
        if permit(PortClassId::default()).is_some() {
            continue;
        }
        let apart = program.table(TableId::Port).entries.iter();
        let apart = apart.filter(|(key, _)| !PORTED.contains(&PortKey::of(key).protocol));
        let verdicts = apart.filter_map(|(_, port)| permit(SetPortClass::of(port).port_class));
        origins.extend(verdicts.flat_map(|verdict| verdict.origins.as_slice()).cloned());
    }
    origins.into_iter().collect()
}

/// What policy says in one direction of an endpoint.
enum Direction {
    /// Everything may pass: not isolated, or the set permits all.
    Open,
    /// What its set says, for both families, and what isolates.
    Set([Region; 2], Origins),
}

struct Pod<'a> {
    topology: &'a Topology,
    word: Word,
    own: Vec<(IpAddr, Origins)>,
    egress: Direction,
    ingress: Direction,
    /// The security groups that judge what the node sends.
    gates: Origins,
}

impl<'a> Pod<'a> {
    fn new(program: &Program, topology: &'a Topology, endpoint: EndpointId) -> Self {
        let word = eval::word(program, endpoint);
        let own = own(program, endpoint);
        let direction = |pipeline: Pipeline| {
            let Some(set) = pipeline.set(word) else { return Direction::Open };
            let mut regions = Family::BOTH.map(|family| region(program, Some(set), family));
            if regions.iter().all(|r| r.parts.len() == 1 && r.parts[0].answer == Answer::Permit) {
                return Direction::Open;
            }
            // What comes to a pod from its own address is forged (S47); what it sends there never
            // leaves it.
            for (address, origins) in own.iter().filter(|_| pipeline == Pipeline::FromPod) {
                regions[usize::from(address.is_ipv6())].permit(host(*address), origins);
            }
            let isolates =
                Family::BOTH.iter().filter_map(|f| program.get(TableId::Base, &base_key(set, *f)));
            let isolates = isolates.flat_map(|e| e.origins.as_slice());
            Direction::Set(
                regions,
                isolates
                    .filter(|o| matches!(o, Origin::Isolates { .. } | Origin::ByDefault))
                    .cloned()
                    .collect(),
            )
        };
        let (egress, ingress) = (direction(Pipeline::FromPod), direction(Pipeline::ToPod));
        let born = Pipeline::Born.set(word);
        let bases = Family::BOTH.into_iter().zip(born.into_iter().cycle());
        let bases = bases.filter_map(|(f, set)| program.get(TableId::Base, &base_key(set, f)));
        let gates = bases.flat_map(|entry| entry.origins.as_slice());
        let gates = gates.filter(|o| matches!(o, Origin::Group { rule: None, .. })).cloned();
        Self { topology, word, own, egress, ingress, gates: gates.collect() }
    }

    /// Whether what the node sends is judged (S82). No filter tells it apart from the rest: a
    /// socket may also be on what another pod has sent. So it is judged by the ingress set, which
    /// permits nothing that the born set does not.
    fn judges_node(&self) -> bool {
        Pipeline::Born.set(self.word).is_some()
    }

    /// The addresses under which the node sends what nobody judges (S44).
    fn exempt(&self) -> &[IpAddr] {
        if self.judges_node() { &[] } else { &self.topology.node_addresses }
    }

    fn lower(&self, chains: &mut Chains) -> Result<(), Full> {
        if self.word.flags & (Word::GUARD | Word::EGRESS) != 0 {
            self.leaving(chains)?;
        }
        if let Direction::Set(set, isolates) = &self.ingress {
            self.reaching(chains, set, isolates)?;
        }
        Ok(())
    }

    /// The ingress hook: what the pod sends. Sources are judged first, since only a pod's own
    /// source may be tracked; then the egress set.
    fn leaving(&self, chains: &mut Chains) -> Result<(), Full> {
        let side = Side::Ingress;
        let (proven, unproven, regions) = match &self.egress {
            Direction::Open => (Action::Pass, Action::Pass, None),
            Direction::Set(regions, isolates) => {
                let view = View { remote: End::Destination, port: End::Destination };
                // Packets of the node that nobody judges reach the pod whatever policy says (S44),
                // so their replies pass too.
                let replies = self.reversed(&self.ingress, self.exempt());
                let hook = Hook {
                    side,
                    view,
                    denied: Action::Drop,
                    head: vec![],
                    isolates: isolates.clone(),
                };
                let policy = hook.policy(chains, regions, &replies)?;
                (Action::Track(policy), Action::Goto(policy), Some(regions))
            }
        };
        let link_local = fixed::link_local(&self.own, &proven, &unproven, regions.map(|r| &r[1]));
        let link_local = chains.number(side, link_local)?;
        let sources =
            fixed::sources(&self.own, &proven, &unproven, link_local, regions.map(|r| &r[0]));
        let sources = chains.number(side, sources)?;
        chains.start(side, vec![fixed::start(sources)]);
        Ok(())
    }

    /// The egress hook: what comes to the pod. Connection tracking of the host has seen it already,
    /// so nothing is tracked here. What the set denies may still come from the node itself, where
    /// nobody judges that (S44).
    fn reaching(
        &self,
        chains: &mut Chains,
        set: &[Region; 2],
        isolates: &Origins,
    ) -> Result<(), Full> {
        let side = Side::Egress;
        let denied = match self.exempt() {
            [] => Action::Drop,
            nodes => {
                let node = chains.number(side, fixed::node(nodes, isolates))?;
                Action::Goto(chains.number(side, fixed::born_here(node, isolates))?)
            }
        };
        let view = View { remote: End::Source, port: End::Destination };
        let mut head = fixed::neighbours();
        head.extend(fixed::forged(&self.own, &denied));
        let hook = Hook { side, view, denied, head, isolates: isolates.clone() };
        let policy = hook.policy(chains, set, &self.reversed(&self.egress, &[]))?;
        chains.start(side, vec![fixed::start(policy)]);
        Ok(())
    }

    /// What judges replies at the other hook.
    fn reversed(&self, direction: &Direction, permitted: &[IpAddr]) -> Replies {
        match direction {
            Direction::Open => Replies::All,
            Direction::Set(regions, _) => {
                let mut regions = regions.clone();
                for address in permitted {
                    let origins = implied("own node (S44)");
                    regions[usize::from(address.is_ipv6())].permit(host(*address), &origins);
                }
                Replies::By(Box::new(regions))
            }
        }
    }
}

/// An endpoint's own addresses, sorted.
fn own(program: &Program, endpoint: EndpointId) -> Vec<(IpAddr, Origins)> {
    let tables = Family::BOTH.map(|f| (f, program.table(TableId::own(f))));
    let entries =
        tables.into_iter().flat_map(|(f, t)| t.entries.iter().map(move |(k, e)| (f, k, e)));
    entries
        .filter(|(.., entry)| entry.action == ActionId::Own)
        .map(|(family, key, entry)| (OwnKey::of(family, key), entry))
        .filter(|(own, _)| own.endpoint == endpoint)
        .map(|(own, entry)| (own.address, entry.origins.clone()))
        .collect()
}

/// What judges replies at a hook: the other direction, in which their connection was opened.
enum Replies {
    /// The other direction permits everything.
    All,
    /// The other direction's set judges them.
    By(Box<[Region; 2]>),
}

/// One hook of an isolated endpoint.
struct Hook {
    side: Side,
    view: View,
    /// What becomes of what policy denies.
    denied: Action,
    /// Filters that are asked before policy.
    head: Vec<Rule>,
    isolates: Origins,
}

impl Hook {
    /// The number of the chain that judges tracked packets.
    fn policy(
        &self,
        chains: &mut Chains,
        set: &[Region; 2],
        replies: &Replies,
    ) -> Result<u32, Full> {
        let mut rules = self.head.clone();
        rules.extend(fixed::related(
            STATE,
            set,
            match replies {
                Replies::All => None,
                Replies::By(regions) => Some(regions),
            },
        ));
        // In front of replies: connection tracking takes an opening in the reply direction for a
        // reply.
        rules.extend(fixed::reopened(STATE + 3, &self.denied, &self.isolates));
        let (mut tail, at) = match replies {
            Replies::All => {
                rules.push(self.replies(Action::Pass));
                (self.set(chains, set)?, None)
            }
            Replies::By(regions) => self.judged(chains, set, regions, &mut rules)?,
        };
        match at {
            // The set has a chain of its own, since the replies' chain leads there too.
            Some(next) => rules.push(rest(REST, Action::Goto(next), self.isolates.clone())),
            None => rules.append(&mut tail),
        }
        chains.number(self.side, rules)
    }

    /// Adds what judges replies to `rules`; gives what comes after: the set's filters, or the chain
    /// they are in.
    fn judged(
        &self,
        chains: &mut Chains,
        set: &[Region; 2],
        replies: &[Region; 2],
        rules: &mut Vec<Rule>,
    ) -> Result<(Vec<Rule>, Option<u32>), Full> {
        // A reply has the policed port as its source.
        let view = View { port: End::Source, ..self.view };
        let state = Masked::new(ct::TRACKED | ct::REPLY, ct::TRACKED | ct::REPLY);
        let plans = |denied: &Denied, most: usize| {
            let plans: Vec<_> =
                replies.iter().filter_map(|r| Plan::new(r, view, denied, most)).collect();
            (plans.len() == replies.len()).then_some(plans)
        };
        let cost = |plans: &[Plan<'_>]| plans.iter().map(Plan::cost).sum::<usize>();
        // A chain of their own takes three filters more: to it, out of it, and past it.
        let measure = plans(&Denied::Meets(Action::Continue), usize::MAX)
            .map_or(usize::MAX, |p| cost(&p) + 3);
        let inline = plans(&Denied::GoesOn, measure);
        // What the other direction's set does not permit may still be permitted as an opening.
        let after = self.set(chains, set)?;
        if let Some(plans) = inline.filter(|p| cost(p) <= measure) {
            for plan in plans {
                rules.extend(plan.rules(
                    chains,
                    self.side,
                    REPLIES,
                    Some(state),
                    &Denied::GoesOn,
                )?);
            }
            return Ok((after, None));
        }
        let after = chains.number(self.side, after)?;
        let denied = Denied::Meets(Action::Goto(after));
        let mut own = vec![rest(REST, Action::Goto(after), self.isolates.clone())];
        for plan in plans(&denied, usize::MAX).unwrap_or_default() {
            own.extend(plan.rules(chains, self.side, REPLIES, None, &denied)?);
        }
        rules.push(self.replies(Action::Goto(chains.number(self.side, own)?)));
        Ok((vec![], Some(after)))
    }

    /// The set's own filters, with the rest.
    fn set(&self, chains: &mut Chains, set: &[Region; 2]) -> Result<Vec<Rule>, Full> {
        let denied = Denied::Meets(self.denied.clone());
        let mut rules = vec![rest(REST, self.denied.clone(), self.isolates.clone())];
        for region in set {
            if region.parts.iter().any(|p| p.answer.permits(fixed::icmp_of(region.family), None)) {
                rules.extend(fixed::errors(ERRORS, region.family, &self.denied, &self.isolates));
            }
            if let Some(plan) = Plan::new(region, self.view, &denied, usize::MAX) {
                rules.extend(plan.rules(chains, self.side, SET, None, &denied)?);
            }
        }
        Ok(rules)
    }

    fn replies(&self, action: Action) -> Rule {
        let state = ct::TRACKED | ct::REPLY;
        let pattern = Pattern { ct_state: Some(Masked::new(state, state)), ..Pattern::default() };
        debug_assert_eq!(pattern.ethertype, EtherType::All);
        Rule {
            prio: STATE + 5,
            matches: Match::Flower(pattern),
            action,
            copies: Copies::Software,
            cookie: Role::State.cookie(TableId::Endpoint, &state),
            origins: implied("replies"),
        }
    }
}
