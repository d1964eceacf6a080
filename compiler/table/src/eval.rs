//! The evaluator: lookups in one table, and the pipeline over all of them for one packet's facts.
//!
//! Here: what the tables say. Not here: what a hook does around them (parsing, state, fragments,
//! the node's own packets): that is each target's datapath.

use std::{
    net::IpAddr,
    ops::Bound::{Included, Unbounded},
};

use crate::{
    Class, EndpointId, Entry, Key, Match, Origin, Origins, PortClassId, Program, RowId, SetId,
    Table, TableId, TierAction, Value,
    schema::{
        Answer, Family, Leaf, Mac, MatchKind, PortKey, Scalar, SetMac, SetPortClass, Word,
        base_key, endpoint_key, own_mac_key, row_key, service_key, tried_key, tunnel_key,
        verdict_key,
    },
};

/// The hook a packet is seen at, from the tables' point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pipeline {
    /// Towards the pod: the remote is the source, the ingress set judges.
    ToPod,
    /// From the pod: the remote is the destination, the egress set judges.
    FromPod,
    /// Towards the pod, by a packet that is born on the node: the remote is the source, the born
    /// set judges.
    Born,
}

impl Pipeline {
    /// Those of packets from anywhere and to anywhere, the one to the pod first.
    pub const BOTH: [Pipeline; 2] = [Pipeline::ToPod, Pipeline::FromPod];

    /// All pipelines.
    pub const ALL: [Pipeline; 3] = [Pipeline::ToPod, Pipeline::FromPod, Pipeline::Born];

    /// The set that judges packets of this pipeline under `word`; None where the direction is not
    /// isolated, and where what is born on the node passes.
    pub fn set(self, word: Word) -> Option<SetId> {
        let (flag, set) = match self {
            Pipeline::ToPod => (Word::INGRESS, word.ingress_set),
            Pipeline::FromPod => (Word::EGRESS, word.egress_set),
            Pipeline::Born if word.born_set == SetId::default() => return None,
            Pipeline::Born => (Word::INGRESS, word.born_set),
        };
        (word.flags & flag != 0).then_some(set)
    }

    /// The set whose rows say what is only tried about packets of this pipeline under `word`; None
    /// where nothing is.
    pub fn tried(self, word: Word) -> Option<SetId> {
        let (flag, set) = match self {
            Pipeline::ToPod => (Word::TRIED_INGRESS, word.ingress_set),
            Pipeline::FromPod => (Word::TRIED_EGRESS, word.egress_set),
            // What is born on the node is compared with nothing.
            Pipeline::Born => return None,
        };
        (word.flags & flag != 0).then_some(set)
    }
}

/// What the tables say of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Policy permits the packet.
    Permit,
    /// Policy denies the packet. It passes all the same where state says that it is a reply.
    Deny,
    /// The packet's destination is a Service's: unless state says that it is a reply, it goes on
    /// and is judged after translation.
    Defer,
}

/// A lookup that took part in a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The table that was asked.
    pub table: TableId,
    /// The entry that matched. None is a miss: the table's default action holds.
    pub hit: Option<(Key, Entry)>,
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the tables say of the packet.
    pub verdict: Verdict,
    /// The table whose lookup, hit or miss, settled it.
    pub table: TableId,
    /// All lookups in pipeline order; the last one that could differ is `table`'s.
    pub steps: Vec<Step>,
    /// What to tell a user: for a denial the policies that isolate, for a permission the rules that
    /// give it. Empty where nothing isolates.
    pub origins: Origins,
}

/// Looks `values` up in a table, one value for each field of its key: exact fields by equality, an
/// LPM field by the longest prefix, a range field by the interval that holds it (intervals do not
/// overlap).
///
/// None is a miss: the table's default action holds. Costs a few descents of the ordered map,
/// whatever the number of entries; LPM one more for each shorter prefix that has to be tried.
///
/// # Panics
/// Where `values` has another length than the table's key.
pub fn lookup<'a>(table: &'a Table, values: &[Value]) -> Option<(&'a Key, &'a Entry)> {
    let fields = table.id.spec().fields;
    assert_eq!(
        values.len(),
        fields.len(),
        "table {}: one value for each field",
        table.id.spec().name
    );
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
            // The greatest key of the same exact fields whose range begins at or before the port.
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

/// The longest prefix of at most `length` bits that covers `value`, in a table keyed by one LPM
/// field.
///
/// Prefixes sort by value, then length, so the greatest one at or below `value/length` is either
/// the answer, or shares with `value` exactly the bits that the answer may still have.
pub(crate) fn longest(
    table: &Table,
    value: Value,
    length: u8,
    width: u8,
) -> Option<(&Key, &Entry)> {
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
        // Not the answer. A prefix longer than the bits that `found` shares with `value` would sort
        // behind `found`, so the answer is that long at most, and shorter than this try in any
        // case.
        let common = (found.get() ^ value.get()).leading_zeros() as u8 - (128 - width);
        length = common.min(length.checked_sub(1)?);
    }
}

/// The leaf that covers a remote address.
fn leaf(program: &Program, address: IpAddr) -> Option<(&Key, &Entry)> {
    lookup(program.table(TableId::remote(Family::of(address))), &[address.into()])
}

/// The interval that a destination port is in, or what stands in its place ([`asked`]).
fn interval(program: &Program, protocol: u8, port: u16) -> Option<(&Key, &Entry)> {
    lookup(program.table(TableId::Port), &[protocol.into(), port.into()])
}

/// The class and incarnation of a remote address.
pub fn remote(program: &Program, address: IpAddr) -> Leaf {
    let family = Family::of(address);
    leaf(program, address).map_or(Leaf::unnamed(family), |(_, e)| Leaf::of(family, e))
}

/// The protocols that have ports in NetworkPolicy.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// The message of ICMP, and that of ICMPv6, that is meant where nobody says which: an echo request.
const ECHO: [u16; 2] = [8 << 8, 128 << 8];

/// What the table `port` is asked about a packet, beside its protocol: its destination port; of
/// ICMP over IPv4, and of ICMPv6 over IPv6, type << 8 | code; 0 of any other protocol without
/// ports. None: nothing, and its port class is 0. The one ICMP over the other's family has no types
/// that anybody would read.
pub fn asked(family: Family, protocol: u8, port: Option<u16>) -> Option<u16> {
    match (protocol, family) {
        _ if WITH_PORTS.contains(&protocol) => port,
        (1, Family::V4) | (58, Family::V6) => Some(port.unwrap_or(ECHO[family as usize])),
        (1 | 58, _) => None,
        _ => Some(0),
    }
}

/// May the table `port` have several intervals of this protocol? It has all of any other one.
pub fn has_intervals(protocol: u8) -> bool {
    WITH_PORTS.contains(&protocol) || matches!(protocol, 1 | 58)
}

/// The port class of what was [`asked`]; 0 where that is nothing, and where no interval has it.
pub fn port_class(program: &Program, protocol: u8, port: Option<u16>) -> PortClassId {
    let hit = port.and_then(|p| interval(program, protocol, p));
    hit.map_or(PortClassId::default(), |(_, e)| SetPortClass::of(e).port_class)
}

/// The port class of a packet from or to this address.
fn packet_class(
    program: &Program,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> PortClassId {
    port_class(program, protocol, asked(Family::of(address), protocol, port))
}

/// The word of an endpoint; the default (nothing isolated) where it has none.
pub fn word(program: &Program, endpoint: EndpointId) -> Word {
    program.get(TableId::Endpoint, &endpoint_key(endpoint)).map(Word::of).unwrap_or_default()
}

/// Judges one packet: see [`crate::schema`]. `port` is the destination port, and type << 8 | code
/// of the two ICMPs, where None is an echo request; None for protocols without. Not here: the guard
/// on sources (S55), self traffic (S47) and packets born on the node (S44).
pub fn decide(
    program: &Program,
    pipeline: Pipeline,
    endpoint: EndpointId,
    remote: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Decision {
    let mut steps = Vec::with_capacity(6);
    let mut note = |table: TableId, hit: Option<(&Key, &Entry)>| {
        steps.push(Step { table, hit: hit.map(|(k, e)| (k.clone(), e.clone())) });
    };
    let exactly = |table: TableId, key: Key| program.table(table).entries.get_key_value(&key);

    // Not isolated, or unknown: nothing else is asked.
    let hit = exactly(TableId::Endpoint, endpoint_key(endpoint));
    note(TableId::Endpoint, hit);
    let word = hit.map(|(_, e)| Word::of(e)).unwrap_or_default();
    let Some(set) = pipeline.set(word) else {
        return Decision {
            verdict: Verdict::Permit,
            table: TableId::Endpoint,
            steps,
            origins: Origins::default(),
        };
    };

    let family = Family::of(remote);
    let hit = leaf(program, remote);
    note(TableId::remote(family), hit);
    let class = hit.map_or(Leaf::unnamed(family), |(_, e)| Leaf::of(family, e)).class;

    // Protocols without ports have class 0, unless some security group tells them apart.
    let mut pc = PortClassId::default();
    if let Some(asked) = asked(family, protocol, port) {
        let hit = interval(program, protocol, asked);
        if hit.is_some() || WITH_PORTS.contains(&protocol) {
            note(TableId::Port, hit);
        }
        pc = hit.map_or(pc, |(_, e)| SetPortClass::of(e).port_class);
    }

    // The row of the class overrides the base. The base is noted in any case: its origins name the
    // policies that isolate.
    let base = exactly(TableId::Base, base_key(set, family));
    note(TableId::Base, base);
    let isolating = base.map(|(_, e)| e.origins.clone()).unwrap_or_default();
    let row = exactly(TableId::Row, row_key(set, class));
    note(TableId::Row, row);
    let mut table = if row.is_some() { TableId::Row } else { TableId::Base };
    let found = row.or(base).map(|(_, e)| e);
    let mut reasons = Vec::new();
    let verdict = match Answer::of(found) {
        Answer::Permit => Verdict::Permit,
        Answer::Row(row) => {
            table = TableId::Verdict;
            let hit = exactly(TableId::Verdict, verdict_key(row, pc));
            note(TableId::Verdict, hit);
            match hit {
                Some((_, entry)) => {
                    reasons.push(entry.origins.clone());
                    Verdict::Permit
                }
                None => Verdict::Deny,
            }
        }
        Answer::Deny => Verdict::Deny,
    };

    // Only what is denied is looked up among Services: what policy permits as an address needs no
    // second judgement behind translation.
    let denied = verdict == Verdict::Deny && pipeline == Pipeline::FromPod;
    let port = port.filter(|_| denied && WITH_PORTS.contains(&protocol));
    if let Some(port) = port {
        let table = TableId::service(family);
        let hit = exactly(table, service_key(remote, protocol, port));
        note(table, hit);
        if let Some((_, entry)) = hit {
            let origins = entry.origins.clone();
            return Decision { verdict: Verdict::Defer, table, steps, origins };
        }
    }
    let origins = match verdict {
        Verdict::Deny | Verdict::Defer => {
            let denying =
                |e: &Entry| e.origins.as_slice().iter().filter(|o| denies(o)).cloned().collect();
            let denying: Origins = found.map(denying).unwrap_or_default();
            preferring(&[isolating, denying], |origin| isolates(origin) || denies(origin))
        }
        Verdict::Permit => {
            // The entry of the class lists every rule that names the peer; only those explain the
            // verdict that permit the port, too.
            let permits = |peer: &&Origin| {
                reasons
                    .first()
                    .is_none_or(|ports| ports.as_slice().iter().any(|p| same_rule(p, peer)))
            };
            let peers: Option<Origins> =
                found.map(|e| e.origins.as_slice().iter().filter(permits).cloned().collect());
            reasons.extend(peers);
            preferring(&reasons, |origin| !isolates(origin) && !denies(origin))
        }
    };
    Decision { verdict, table, steps, origins }
}

/// Do both name the same rule of the same policy, or the same implied reason?
fn same_rule(a: &Origin, b: &Origin) -> bool {
    match (a, b) {
        (Origin::Rule { policy: p, rule: r, .. }, Origin::Rule { policy: q, rule: s, .. }) => {
            p == q && r == s
        }
        (Origin::Rule { .. }, _) | (_, Origin::Rule { .. }) => false,
        _ => a == b,
    }
}

/// Does this origin name a policy or the default for isolating, or a security group for being
/// there, and not for a rule?
fn isolates(origin: &Origin) -> bool {
    matches!(origin, Origin::Isolates { .. } | Origin::ByDefault | Origin::Group { rule: None, .. })
}

/// Is it a rule of a tier that denies?
fn denies(origin: &Origin) -> bool {
    matches!(origin, Origin::Tier { action: TierAction::Deny, .. })
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
    endpoint: EndpointId,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Verdict {
    let Some(set) = pipeline.set(word(program, endpoint)) else { return Verdict::Permit };
    match permits_in(program, set, address, protocol, port) {
        true => Verdict::Permit,
        false if pipeline == Pipeline::FromPod && is_service(program, address, protocol, port) => {
            Verdict::Defer
        }
        false => Verdict::Deny,
    }
}

/// Does a set permit a packet from or to this address?
pub fn permits_in(
    program: &Program,
    set: SetId,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> bool {
    match Answer::of(answer(program, set, remote(program, address).class)) {
        Answer::Permit => true,
        Answer::Row(row) => permits(program, row, packet_class(program, address, protocol, port)),
        Answer::Deny => false,
    }
}

/// The policies that are only tried and would turn [`verdict`] into the other one (S85); None where
/// its shadow is the same. What goes to a Service's port is not compared before its translation.
pub fn tried(
    program: &Program,
    pipeline: Pipeline,
    endpoint: EndpointId,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Option<Origins> {
    let (row, class) = difference(program, pipeline, endpoint, address, protocol, port)?;
    program.get(TableId::Tried, &tried_key(row, class)).map(|entry| entry.origins.clone())
}

/// Where [`tried`] finds them: the key of the entry in the table `tried`.
pub fn difference(
    program: &Program,
    pipeline: Pipeline,
    endpoint: EndpointId,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Option<(RowId, PortClassId)> {
    let set = pipeline.tried(word(program, endpoint))?;
    let row = Answer::of(answer(program, set, remote(program, address).class)).row()?;
    let class = packet_class(program, address, protocol, port);
    program.get(TableId::Tried, &tried_key(row, class)).map(|_| (row, class))
}

/// Does a row list this port class?
fn permits(program: &Program, row: RowId, class: PortClassId) -> bool {
    program.get(TableId::Verdict, &verdict_key(row, class)).is_some()
}

/// Is this an address and port of a Service?
pub fn is_service(program: &Program, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
    let table = TableId::service(Family::of(address));
    port.is_some_and(|p| program.get(table, &service_key(address, protocol, p)).is_some())
}

/// Does the egress set permit this packet by a rule that names its port? What may go into a tunnel
/// has to (S45). No rule of a policy names what has no ports: a row permits that by rules for
/// everything, which do not open a tunnel, and neither do those of security groups.
pub fn names_port(
    program: &Program,
    endpoint: EndpointId,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> bool {
    let set = Pipeline::FromPod.set(word(program, endpoint));
    let port = port.filter(|_| WITH_PORTS.contains(&protocol));
    let (Some(set), Some(port)) = (set, port) else { return false };
    let row = Answer::of(answer(program, set, remote(program, address).class)).row();
    row.is_some_and(|row| permits(program, row, port_class(program, protocol, Some(port))))
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
pub fn own_mac(program: &Program, endpoint: EndpointId) -> Option<Mac> {
    program.get(TableId::OwnMac, &own_mac_key(endpoint)).map(|e| SetMac::of(e).address)
}

/// What a class is answered by in a set: its row entry, else the set's base; None: the default,
/// deny.
pub fn answer(program: &Program, set: SetId, class: Class) -> Option<&Entry> {
    let row = program.get(TableId::Row, &row_key(set, class));
    row.or_else(|| program.get(TableId::Base, &base_key(set, class.family())))
}

/// The verdict that holds for every port of `protocol` under a row, or for every type and code of
/// it over `family`; None where it depends on them.
pub fn row_alike(program: &Program, row: RowId, family: Family, protocol: u8) -> Option<Verdict> {
    let verdict = |pc| if permits(program, row, pc) { Verdict::Permit } else { Verdict::Deny };
    let mut classes: Vec<PortClassId> = vec![];
    let mut covered = 0;
    let is_asked = asked(family, protocol, Some(0)).is_some();
    for (key, entry) in under(program.table(TableId::Port), protocol).filter(|_| is_asked) {
        classes.push(SetPortClass::of(entry).port_class);
        let range = PortKey::of(key).port;
        covered += range.high - range.low + 1;
    }
    if covered < 1 << 16 {
        classes.push(PortClassId::default());
    }
    let first = verdict(classes[0]);
    classes.iter().all(|&pc| verdict(pc) == first).then_some(first)
}

/// The verdict that holds for every port of `protocol`, or for every type and code, for fragments
/// that come before their first one (S50); None where it depends on them.
pub fn alike(
    program: &Program,
    pipeline: Pipeline,
    endpoint: EndpointId,
    address: IpAddr,
    protocol: u8,
) -> Option<Verdict> {
    let set = pipeline.set(word(program, endpoint));
    set.map_or(Some(Verdict::Permit), |set| alike_in(program, set, address, protocol))
}

/// The same of a set.
pub fn alike_in(program: &Program, set: SetId, address: IpAddr, protocol: u8) -> Option<Verdict> {
    match Answer::of(answer(program, set, remote(program, address).class)) {
        Answer::Permit => Some(Verdict::Permit),
        Answer::Row(row) => row_alike(program, row, Family::of(address), protocol),
        Answer::Deny => Some(Verdict::Deny),
    }
}

/// The entries whose keys start with this exact field, in order.
pub(crate) fn under(table: &Table, first: impl Scalar) -> impl Iterator<Item = (&Key, &Entry)> {
    let first = Match::Exact(first.value());
    let start = Key::new([first]);
    table
        .entries
        .range((Included(start), Unbounded))
        .take_while(move |(key, _)| key.fields().first() == Some(&first))
}
