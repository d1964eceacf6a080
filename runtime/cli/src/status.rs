//! What is enforced on this node, as a value: from the tables themselves, with names from the agent's record.
//!
//! Not here: how it is shown (`netpolc status`, metrics).

use std::{collections::BTreeMap, path::Path};

use netpolc_agent::record::{Alive, PodRecord, Record};
use netpolc_host::links;
use netpolc_table::{
    EndpointId, IfIndex, Program, SetId, TableId, eval,
    schema::{BaseKey, EndpointKey, InterfaceKey, SetEndpoint, Word},
};
use netpolc_target::Target;
use netpolc_target_ebpf::Ebpf;
use netpolc_target_flower::{Flower, netlink::Decoded};
use serde::Serialize;

/// Everything that `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Tables are pinned.
    pub enforcing: bool,
    /// What the agent left; None where none ever ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// In order of their ids.
    pub endpoints: Vec<Endpoint>,
    /// Entries of each table.
    pub tables: BTreeMap<&'static str, usize>,
    /// Distinct policy sets.
    pub policy_sets: usize,
    /// The kernel's maps.
    pub maps: Vec<MapStatus>,
    /// Interfaces that carry flower filters of ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterStatus>,
}

/// The flower filters of one interface, as the kernel has them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterStatus {
    /// Its name.
    pub interface: String,
    /// Filters of ours.
    pub filters: usize,
    /// Those that a NIC has.
    pub in_hardware: usize,
}

/// What the agent knows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Its process lives, in whatever container.
    pub running: bool,
    /// Its record.
    #[serde(flatten)]
    pub record: Record,
}

/// One pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its id.
    pub endpoint: EndpointId,
    /// `namespace/name`; None where the record does not know it.
    pub pod: Option<String>,
    /// Its host-side interface.
    pub interface: Option<String>,
    /// The set that judges packets to it; None where it is not isolated.
    pub ingress_set: Option<SetId>,
    /// The set that judges packets from it; None where it is not isolated.
    pub egress_set: Option<SetId>,
    /// Its source addresses are checked (S55).
    pub guarded: bool,
    /// Entries in its state tables, both families, ended ones included until they are reused.
    pub connections: u32,
    /// Of one family.
    pub connections_capacity: u32,
    /// Connections taken over when it was isolated first.
    pub adopted: usize,
    /// Packets dropped since its programs were first attached, by `hook reason`.
    pub drops: BTreeMap<String, u64>,
}

/// One map.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    /// As the kernel shows it.
    pub name: &'static str,
    /// The kernel's type of it.
    pub kind: &'static str,
    /// Entries in use, where that can be told.
    pub used: Option<u64>,
    /// Memory.
    pub bytes: u64,
}

/// Looks at what is pinned in `pin_dir`; nothing there is an empty status.
///
/// # Errors
/// What is pinned cannot be read.
pub fn look(pin_dir: &Path) -> Result<Status, netpolc_target::Error> {
    let record = Record::read(pin_dir);
    let agent = record.map(|record| AgentStatus { running: Alive::is_shown(pin_dir), record });
    let Some(mut ebpf) = Ebpf::observe(pin_dir)? else {
        let (endpoints, tables, maps, filters) = (vec![], BTreeMap::new(), vec![], filters());
        let enforcing = !filters.is_empty();
        return Ok(Status { enforcing, agent, endpoints, tables, policy_sets: 0, maps, filters });
    };
    let program = ebpf.read()?;
    let names = agent.iter().flat_map(|a| &a.record.pods).map(|p| (p.endpoint, p)).collect();
    let endpoints = endpoints(&mut ebpf, &program, &names)?;
    let tables = program.tables().filter(|t| t.id != TableId::Directory);
    let sets: std::collections::BTreeSet<SetId> =
        program.table(TableId::Base).entries.keys().map(|key| BaseKey::of(key).set).collect();
    let maps = ebpf.maps();
    Ok(Status {
        enforcing: true,
        tables: tables.map(|t| (t.id.spec().name, t.entries.len())).collect(),
        policy_sets: sets.len(),
        maps: maps.iter().map(|m| MapStatus { name: m.name, kind: m.kind, used: m.used, bytes: m.bytes() }).collect(),
        endpoints,
        agent,
        filters: filters(),
    })
}

fn endpoints(
    ebpf: &mut Ebpf,
    program: &Program,
    names: &BTreeMap<EndpointId, &PodRecord>,
) -> Result<Vec<Endpoint>, netpolc_target::Error> {
    let attached: BTreeMap<IfIndex, Option<String>> =
        ebpf.attachments().into_iter().map(|a| (a.ifindex, a.name)).collect();
    let interface = |endpoint: EndpointId| {
        let entries = program.table(TableId::Interface).entries.iter();
        let mut mine =
            entries.filter(|(_, e)| SetEndpoint::of(e).endpoint == endpoint).map(|(k, _)| InterfaceKey::of(k).ifindex);
        mine.next().map(|i| attached.get(&i).cloned().flatten().unwrap_or_else(|| format!("interface {i}")))
    };
    let mut list = Vec::new();
    for key in program.table(TableId::Endpoint).entries.keys() {
        let EndpointKey { endpoint } = EndpointKey::of(key);
        let word = eval::word(program, endpoint);
        // Its table may be moving just now.
        let counted = ebpf.occupancy(endpoint).or_else(|_| ebpf.occupancy(endpoint));
        let (v4, v6) = counted.unwrap_or_default();
        let room = ebpf.room(endpoint)?;
        let drops = ebpf.drops(endpoint)?;
        list.push(Endpoint {
            endpoint,
            pod: names.get(&endpoint).map(|p| p.pod.clone()),
            interface: interface(endpoint),
            ingress_set: (word.flags & Word::INGRESS != 0).then_some(word.ingress_set),
            egress_set: (word.flags & Word::EGRESS != 0).then_some(word.egress_set),
            guarded: word.flags & (Word::GUARD | Word::EGRESS) != 0,
            connections: v4 + v6,
            connections_capacity: room.0 + room.1,
            adopted: names.get(&endpoint).map_or(0, |p| p.adopted),
            drops: drops
                .into_iter()
                .map(|(hook, why, count)| (format!("{} {}", hook.name(), why.name()), count))
                .collect(),
        });
    }
    Ok(list)
}

/// What the kernel has of ours; nothing where it has no flower.
fn filters() -> Vec<FilterStatus> {
    let installed = Flower::new().and_then(|mut flower| flower.installed());
    let names = links::by_index().unwrap_or_default();
    let status = |(index, list): (IfIndex, Vec<Decoded>)| FilterStatus {
        interface: names.get(&index.get()).map_or_else(|| format!("interface {index}"), |link| link.name.clone()),
        filters: list.len(),
        in_hardware: list.iter().filter(|d| d.in_hardware > 0).count(),
    };
    installed.map(|i| i.into_iter().map(status).collect()).unwrap_or_else(|error| {
        tracing::debug!(%error, "filters");
        vec![]
    })
}
