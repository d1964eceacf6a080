//! Collects what is enforced on this node: from the tables and filters themselves, with names from
//! the agent's record.
//!
//! Not here: how it is printed ([`crate::command::status`]).

use std::{collections::BTreeMap, path::Path};

use netpolc_agent::serve::record::{Alive, PodRecord, Record};
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
    /// Whether tables are pinned, or filters are installed.
    pub enforcing: bool,
    /// What the agent has recorded; None where no agent has ever run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// The endpoints, in order of their ids.
    pub endpoints: Vec<Endpoint>,
    /// The number of entries in each table.
    pub tables: BTreeMap<&'static str, usize>,
    /// The number of distinct policy sets.
    pub policy_sets: usize,
    /// The maps in the kernel.
    pub maps: Vec<MapStatus>,
    /// The interfaces that have flower filters of netpolc.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterStatus>,
}

/// The flower filters of one interface, as the kernel has them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterStatus {
    /// The name of the interface.
    pub interface: String,
    /// The number of netpolc's filters.
    pub filters: usize,
    /// The number of those that are in the NIC's hardware.
    pub in_hardware: usize,
}

/// The state of the agent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Whether the agent's process is alive, in whatever container.
    pub running: bool,
    /// The agent's record.
    #[serde(flatten)]
    pub record: Record,
}

/// What is enforced for one pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The endpoint id of the pod.
    pub endpoint: EndpointId,
    /// The pod, as `namespace/name`; None where the record does not contain it.
    pub pod: Option<String>,
    /// The name of the pod's host-side interface; None where the tables have none.
    pub interface: Option<String>,
    /// The set that judges packets to the pod; None where it is not isolated for ingress.
    pub ingress_set: Option<SetId>,
    /// The set that judges packets from the pod; None where it is not isolated for egress.
    pub egress_set: Option<SetId>,
    /// Whether the source addresses of the pod's packets are checked (S55).
    pub guarded: bool,
    /// The number of entries in the pod's connection tables of both families. Ended connections
    /// count until their entries are reused.
    pub connections: u32,
    /// The current capacity of these tables, both families together.
    pub connections_capacity: u32,
    /// The number of connections that were adopted when the pod was first isolated.
    pub adopted: usize,
    /// The number of packets dropped since the pod's programs were first attached, by `hook
    /// reason`.
    pub drops: BTreeMap<String, u64>,
}

/// A map in the kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    /// The map's name, as the kernel shows it.
    pub name: &'static str,
    /// The map's type, as the kernel names it.
    pub kind: &'static str,
    /// The number of entries in use; None where that is not known.
    pub used: Option<u64>,
    /// The memory of the map, in bytes.
    pub bytes: u64,
}

/// Collects the status of what is pinned in `pin_dir`; it is empty where nothing is.
///
/// # Errors
/// The pinned tables cannot be read.
pub fn collect(pin_dir: &Path) -> Result<Status, netpolc_target::Error> {
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
        maps: maps
            .iter()
            .map(|m| MapStatus { name: m.name, kind: m.kind, used: m.used, bytes: m.bytes() })
            .collect(),
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
        let mut mine = entries
            .filter(|(_, e)| SetEndpoint::of(e).endpoint == endpoint)
            .map(|(k, _)| InterfaceKey::of(k).ifindex);
        mine.next().map(|i| {
            attached.get(&i).cloned().flatten().unwrap_or_else(|| format!("interface {i}"))
        })
    };
    let mut list = Vec::new();
    for key in program.table(TableId::Endpoint).entries.keys() {
        let EndpointKey { endpoint } = EndpointKey::of(key);
        let word = eval::word(program, endpoint);
        // The table may just be being replaced by one of another size; then the second attempt
        // succeeds.
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

/// Netpolc's filters in the kernel; empty where it has no flower.
fn filters() -> Vec<FilterStatus> {
    let installed = Flower::new().and_then(|mut flower| flower.installed());
    let names = links::by_index().unwrap_or_default();
    let status = |(index, list): (IfIndex, Vec<Decoded>)| FilterStatus {
        interface: names
            .get(&index.get())
            .map_or_else(|| format!("interface {index}"), |link| link.name.clone()),
        filters: list.len(),
        in_hardware: list.iter().filter(|d| d.in_hardware > 0).count(),
    };
    installed.map(|i| i.into_iter().map(status).collect()).unwrap_or_else(|error| {
        tracing::debug!(%error, "flower filters could not be listed");
        vec![]
    })
}
