//! The evaluator: lookups in one table, and the pipeline over all of them for one packet's facts.
//!
//! Here: what the tables say. Not here: what a hook does around them (parsing, state, fragments, the
//! node's own packets): that is each target's datapath.

use std::{
    net::IpAddr,
    ops::Bound::{Excluded, Included, Unbounded},
};

use crate::{
    ActionId, Entry, Key, Match, Origin, Origins, Program, Table, TableId, Value,
    schema::{
        Family, Mac, MatchKind, Word, base_key, endpoint_key, mac_of, own_mac_key, row_key, service_key, tunnel_key,
        verdict_key, word_of,
    },
};

/// The hook a packet is seen at, from the tables' point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pipeline {
    /// Towards the pod: the remote is the source, the ingress set judges.
    ToPod,
    /// From the pod: the remote is the destination, the egress set judges.
    FromPod,
}

impl Pipeline {
    /// Both.
    pub const BOTH: [Pipeline; 2] = [Pipeline::ToPod, Pipeline::FromPod];

    /// The set that judges packets of this pipeline under `word`; None where the direction is not isolated.
    pub fn set(self, word: Word) -> Option<u16> {
        let (flag, set) = match self {
            Pipeline::ToPod => (Word::INGRESS, word.ingress_set),
            Pipeline::FromPod => (Word::EGRESS, word.egress_set),
        };
        (word.flags & flag != 0).then_some(set)
    }
}

/// What the tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The packet may pass.
    Permit,
    /// It may not, unless state says that it is a reply.
    Deny,
    /// Its address is a Service's: unless state says that it is a reply, it goes on and is judged after translation.
    Defer,
}

/// A lookup that took part in a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The table.
    pub table: TableId,
    /// The entry that matched; None: a miss, the table's default action.
    pub hit: Option<(Key, Entry)>,
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What holds.
    pub verdict: Verdict,
    /// The table whose lookup, hit or miss, settled it.
    pub table: TableId,
    /// All lookups in pipeline order; the last one that could differ is `table`'s.
    pub steps: Vec<Step>,
    /// What to tell a user: for a denial the policies that isolate, for a permission the rules that
    /// give it. Empty where nothing isolates.
    pub origins: Origins,
}

/// Looks `values` up in a table, one value for each field of its key: exact fields by equality, an LPM
/// field by the longest prefix, a range field by the interval that holds it (intervals do not overlap).
///
/// None is a miss: the table's default action holds. Costs a few descents of the ordered map, whatever
/// the number of entries; LPM one more for each shorter prefix that has to be tried.
///
/// # Panics
/// Where `values` has another length than the table's key.
pub fn lookup<'a>(table: &'a Table, values: &[Value]) -> Option<(&'a Key, &'a Entry)> {
    let fields = table.id.spec().fields;
    assert_eq!(values.len(), fields.len(), "table {}: one value for each field", table.id.spec().name);
    let (last, kind) = (values.len() - 1, fields[values.len() - 1].kind);
    let with = |m: Match| {
        let exact = values[..last].iter().map(|v| Match::Exact(*v));
        Key::new(exact.chain([m]))
    };
    match kind {
        MatchKind::Exact => table.entries.get_key_value(&with(Match::Exact(values[last]))),
        MatchKind::Lpm => longest(table, values[last], fields[last].width, fields[last].width),
        MatchKind::Range => {
            let port = u32::try_from(values[last].get()).ok()?;
            let below = with(Match::Range { low: port, high: u32::MAX });
            let (key, entry) = table.entries.range(..=&below).next_back()?;
            let same = key.fields()[..last] == below.fields()[..last];
            let within = matches!(key.fields()[last], Match::Range { high, .. } if high >= port);
            (same && within).then_some((key, entry))
        }
    }
}

/// The first `length` bits of a field of `width` bits.
pub(crate) fn masked(value: Value, length: u8, width: u8) -> Value {
    let host = u32::from(width.saturating_sub(length));
    let mask = u128::MAX.checked_shl(host).unwrap_or(0);
    Value::from(value.get() & mask)
}

/// The longest prefix of at most `length` bits that covers `value`, in a table keyed by one LPM field.
///
/// Prefixes sort by value, then length, so the greatest one at or below `value/length` is either the
/// answer, or shares with `value` exactly the bits that the answer may still have.
pub(crate) fn longest(table: &Table, value: Value, length: u8, width: u8) -> Option<(&Key, &Entry)> {
    longest_in(&table.entries, value, length, width)
}

/// [`longest`] in any map of prefixes.
pub(crate) fn longest_in<T>(
    entries: &std::collections::BTreeMap<Key, T>,
    value: Value,
    length: u8,
    width: u8,
) -> Option<(&Key, &T)> {
    let mut length = length;
    loop {
        let at = Key::new([Match::Lpm { value: masked(value, length, width), length }]);
        let (key, entry) = entries.range(..=at).next_back()?;
        let &Match::Lpm { value: found, length: l } = key.fields().first()? else { return None };
        if l <= length && masked(value, l, width) == found {
            return Some((key, entry));
        }
        let common = (found.get() ^ value.get()).leading_zeros() as u8 - (128 - width);
        length = common.min(length.checked_sub(1)?);
    }
}

/// The class and incarnation of a remote address.
pub fn remote(program: &Program, address: IpAddr) -> (u16, u16) {
    let table = program.table(TableId::remote(Family::of(address)));
    lookup(table, &[address.into()]).map_or((0, 0), |(_, e)| (e.params[0] as u16, e.params[1] as u16))
}

/// The port class of a destination port; 0 where the protocol has no ports.
pub fn port_class(program: &Program, protocol: u8, port: Option<u16>) -> u16 {
    let hit = port.and_then(|p| lookup(program.table(TableId::Port), &[protocol.into(), p.into()]));
    hit.map_or(0, |(_, e)| e.params[0] as u16)
}

/// The word of an endpoint; the default (nothing isolated) where it has none.
pub fn word(program: &Program, endpoint: u16) -> Word {
    program.get(TableId::Endpoint, &endpoint_key(endpoint)).map(word_of).unwrap_or_default()
}

/// Judges one packet: see [`crate::schema`]. `port` is the destination port; None for protocols without.
/// Not here: the guard on sources (S55), self traffic (S47) and packets born on the node (S44).
pub fn decide(
    program: &Program,
    pipeline: Pipeline,
    endpoint: u16,
    remote: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Decision {
    let mut steps = Vec::with_capacity(6);
    let mut look = |table: TableId, values: &[Value]| {
        let hit = lookup(program.table(table), values);
        steps.push(Step { table, hit: hit.map(|(k, e)| (k.clone(), e.clone())) });
        hit.map(|(_, e)| e)
    };
    let word = look(TableId::Endpoint, &[endpoint.into()]).map(word_of).unwrap_or_default();
    let Some(set) = pipeline.set(word) else {
        return Decision { verdict: Verdict::Permit, table: TableId::Endpoint, steps, origins: Origins::default() };
    };
    let family = Family::of(remote);
    let class = look(TableId::remote(family), &[remote.into()]).map_or(0, |e| e.params[0] as u16);
    let pc = match port {
        Some(port) => look(TableId::Port, &[protocol.into(), port.into()]).map_or(0, |e| e.params[0] as u16),
        None => 0,
    };
    let base = look(TableId::Base, &[set.into(), family.number().into()]);
    let isolating = base.map(|e| e.origins.clone()).unwrap_or_default();
    let (found, mut table) = match look(TableId::Row, &[set.into(), family.number().into(), class.into()]) {
        Some(entry) => (Some(entry), TableId::Row),
        None => (base, TableId::Base),
    };
    let mut reasons = Vec::new();
    let verdict = match found.map(|e| e.action) {
        Some(ActionId::Permit) => Verdict::Permit,
        Some(ActionId::SetRow) => {
            table = TableId::Verdict;
            let row = found.map_or(0, |e| e.params[0]);
            match look(TableId::Verdict, &[row.into(), pc.into()]) {
                Some(entry) => {
                    reasons.push(entry.origins.clone());
                    Verdict::Permit
                }
                None => Verdict::Deny,
            }
        }
        _ => Verdict::Deny,
    };
    let service = port.filter(|_| verdict == Verdict::Deny && pipeline == Pipeline::FromPod);
    let deferring = service.and_then(|p| look(TableId::service(family), &[remote.into(), protocol.into(), p.into()]));
    if let Some(entry) = deferring {
        let origins = entry.origins.clone();
        return Decision { verdict: Verdict::Defer, table: TableId::service(family), steps, origins };
    }
    let origins = match verdict {
        Verdict::Deny | Verdict::Defer => preferring(&[isolating], isolates),
        Verdict::Permit => {
            // Of the rules for the peer only those that permit the port.
            let permits = |peer: &&Origin| {
                reasons.first().is_none_or(|ports| ports.as_slice().iter().any(|p| same_rule(p, peer)))
            };
            let peers: Option<Origins> = found.map(|e| e.origins.as_slice().iter().filter(permits).cloned().collect());
            reasons.extend(peers);
            preferring(&reasons, |origin| !isolates(origin))
        }
    };
    Decision { verdict, table, steps, origins }
}

/// Do both speak of one rule, or of one implied reason?
fn same_rule(a: &Origin, b: &Origin) -> bool {
    match (a, b) {
        (Origin::Rule { policy: p, rule: r, .. }, Origin::Rule { policy: q, rule: s, .. }) => p == q && r == s,
        (Origin::Rule { .. }, _) | (_, Origin::Rule { .. }) => false,
        _ => a == b,
    }
}

fn isolates(origin: &Origin) -> bool {
    matches!(origin, Origin::Isolates { .. })
}

/// Those origins that `explain` the verdict: what isolates for a denial, all else for a permission.
/// All where there are none.
fn preferring(lists: &[Origins], explain: impl Fn(&Origin) -> bool) -> Origins {
    let all = || lists.iter().flat_map(|o| o.as_slice()).cloned();
    let chosen: Origins = all().filter(|origin| explain(origin)).collect();
    if chosen.as_slice().is_empty() { all().collect() } else { chosen }
}

/// [`decide`]'s verdict without the reasons.
pub fn verdict(
    program: &Program,
    pipeline: Pipeline,
    endpoint: u16,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Verdict {
    let Some(set) = pipeline.set(word(program, endpoint)) else { return Verdict::Permit };
    let (class, _) = remote(program, address);
    let permitted = match answer(program, set, Family::of(address), class) {
        Some(e) if e.action == ActionId::Permit => true,
        Some(e) if e.action == ActionId::SetRow => {
            let key = verdict_key(e.params[0] as u16, port_class(program, protocol, port));
            program.get(TableId::Verdict, &key).is_some()
        }
        _ => false,
    };
    match permitted {
        true => Verdict::Permit,
        false if pipeline == Pipeline::FromPod && is_service(program, address, protocol, port) => Verdict::Defer,
        false => Verdict::Deny,
    }
}

/// Is this an address and port of a Service?
pub fn is_service(program: &Program, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
    let table = TableId::service(Family::of(address));
    port.is_some_and(|p| program.get(table, &service_key(address, protocol, p)).is_some())
}

/// Does the egress set permit this packet by a rule that names its port? What may go into a tunnel has to (S45).
pub fn names_port(program: &Program, endpoint: u16, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
    let Some(set) = Pipeline::FromPod.set(word(program, endpoint)) else { return false };
    let (class, _) = remote(program, address);
    let row = answer(program, set, Family::of(address), class).filter(|e| e.action == ActionId::SetRow);
    row.is_some_and(|e| {
        let key = verdict_key(e.params[0] as u16, port_class(program, protocol, port));
        program.get(TableId::Verdict, &key).is_some()
    })
}

/// Does a packet of this protocol to this port lead into a tunnel?
pub fn is_tunnel(program: &Program, protocol: u8, port: Option<u16>) -> bool {
    program.get(TableId::Tunnel, &tunnel_key(protocol, port.unwrap_or(0))).is_some()
}

/// Is the address on the link of this node's pods?
pub fn is_on_link(program: &Program, address: std::net::Ipv6Addr) -> bool {
    lookup(program.table(TableId::OnLinkV6), &[IpAddr::from(address).into()]).is_some()
}

/// The hardware address that an endpoint's frames must have, where that is known.
pub fn own_mac(program: &Program, endpoint: u16) -> Option<Mac> {
    program.get(TableId::OwnMac, &own_mac_key(endpoint)).map(mac_of)
}

/// What a class is answered by in a set: its row entry, else the set's base; None: the default, deny.
pub fn answer(program: &Program, set: u16, family: Family, class: u16) -> Option<&Entry> {
    program
        .get(TableId::Row, &row_key(set, family, class))
        .or_else(|| program.get(TableId::Base, &base_key(set, family)))
}

/// The verdict that holds for every port of `protocol` under a row; None where it depends on the port.
/// For protocols without ports there is one verdict, so it always is one.
pub fn row_alike(program: &Program, row: u16, protocol: u8) -> Option<Verdict> {
    let verdict = |pc: u16| match program.get(TableId::Verdict, &verdict_key(row, pc)) {
        Some(_) => Verdict::Permit,
        None => Verdict::Deny,
    };
    let ports = &program.table(TableId::Port).entries;
    let (from, to) = (Key::new([Match::exact(protocol)]), Key::new([Match::exact(u16::from(protocol) + 1)]));
    let mut classes: Vec<u16> = vec![];
    let mut covered = 0;
    for (key, entry) in ports.range((Included(from), Excluded(to))) {
        classes.push(entry.params[0] as u16);
        if let Some(&Match::Range { low, high }) = key.fields().last() {
            covered += high - low + 1;
        }
    }
    if covered < 1 << 16 {
        classes.push(0);
    }
    let first = verdict(classes[0]);
    classes.iter().all(|&pc| verdict(pc) == first).then_some(first)
}

/// The verdict that holds for every port of `protocol`, for fragments that come before their first one
/// (S50); None where it depends on the port.
pub fn alike(program: &Program, pipeline: Pipeline, endpoint: u16, address: IpAddr, protocol: u8) -> Option<Verdict> {
    let Some(set) = pipeline.set(word(program, endpoint)) else { return Some(Verdict::Permit) };
    let (class, _) = remote(program, address);
    match answer(program, set, Family::of(address), class) {
        Some(e) if e.action == ActionId::Permit => Some(Verdict::Permit),
        Some(e) if e.action == ActionId::SetRow => row_alike(program, e.params[0] as u16, protocol),
        _ => Some(Verdict::Deny),
    }
}

/// The entries whose keys start with this exact field, in order.
pub(crate) fn under(table: &Table, first: Value) -> impl Iterator<Item = (&Key, &Entry)> {
    let start = Key::new([Match::Exact(first)]);
    table
        .entries
        .range((Included(start), Unbounded))
        .take_while(move |(key, _)| key.fields().first() == Some(&Match::Exact(first)))
}
