//! `netpolc status`: what is enforced here, from the tables themselves; names from the agent's record.

use std::{collections::BTreeMap, path::Path};

use netpolc_table::{Program, TableId, eval, schema::Word};
use netpolc_target::Target;
use netpolc_target_ebpf::Ebpf;
use serde::Serialize;

use super::ebpf::{name, size};
use crate::{
    agent::record::Record,
    cli::raw::Report,
    output::{self, Colour, Outcome},
};

/// Everything that `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    enforcing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentStatus>,
    endpoints: Vec<Endpoint>,
    tables: BTreeMap<&'static str, usize>,
    policy_sets: usize,
    maps: Vec<MapStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentStatus {
    running: bool,
    #[serde(flatten)]
    record: Record,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    endpoint: u16,
    pod: Option<String>,
    interface: Option<String>,
    ingress_set: Option<u16>,
    egress_set: Option<u16>,
    guarded: bool,
    connections: u32,
    connections_capacity: u32,
    adopted: usize,
    drops: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MapStatus {
    name: &'static str,
    kind: &'static str,
    used: Option<u64>,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// No root, or what is pinned cannot be read.
pub fn run(pin_dir: &Path, report: Report) -> anyhow::Result<Outcome> {
    super::needs_root("status")?;
    let status = look(pin_dir)?;
    match report {
        Report::Json => output::print_json(&status)?,
        Report::Table => {
            use std::io::Write;
            let mut out = output::stdout();
            out.write_all(text(&status, Colour::of_stdout()).as_bytes())?;
            out.flush()?;
        }
    }
    let behind = status.agent.as_ref().is_some_and(|a| a.record.behind.is_some());
    Ok(if behind { Outcome::Problems } else { Outcome::Fine })
}

fn look(pin_dir: &Path) -> anyhow::Result<Status> {
    let record = Record::read(pin_dir);
    let agent = record.map(|record| AgentStatus { running: runs(record.pid), record });
    let Some(mut ebpf) = Ebpf::observe(pin_dir)? else {
        let (endpoints, tables, maps) = (vec![], BTreeMap::new(), vec![]);
        return Ok(Status { enforcing: false, agent, endpoints, tables, policy_sets: 0, maps });
    };
    let program = ebpf.read()?;
    let names = agent.iter().flat_map(|a| &a.record.pods).map(|p| (p.endpoint, p)).collect();
    let endpoints = endpoints(&mut ebpf, &program, &names)?;
    let tables = program.tables().filter(|t| t.id != TableId::Directory);
    let sets: std::collections::BTreeSet<u64> =
        program.table(TableId::Base).entries.keys().map(|key| key.value(0).low()).collect();
    let maps = ebpf.maps();
    Ok(Status {
        enforcing: true,
        tables: tables.map(|t| (t.id.spec().name, t.entries.len())).collect(),
        policy_sets: sets.len(),
        maps: maps.iter().map(|m| MapStatus { name: m.name, kind: m.kind, used: m.used, bytes: m.bytes() }).collect(),
        endpoints,
        agent,
    })
}

fn endpoints(
    ebpf: &mut Ebpf,
    program: &Program,
    names: &BTreeMap<u16, &crate::agent::record::PodRecord>,
) -> anyhow::Result<Vec<Endpoint>> {
    let attached: BTreeMap<u32, Option<String>> = ebpf.attachments().into_iter().map(|a| (a.ifindex, a.name)).collect();
    let interface = |endpoint: u16| {
        let entries = program.table(TableId::Interface).entries.iter();
        let mut mine =
            entries.filter(|(_, e)| e.params[0] == u64::from(endpoint)).map(|(k, _)| k.value(0).low() as u32);
        mine.next().map(|i| attached.get(&i).cloned().flatten().unwrap_or_else(|| format!("interface {i}")))
    };
    let capacity = ebpf.capabilities().connections;
    let mut list = Vec::new();
    for key in program.table(TableId::Endpoint).entries.keys() {
        let endpoint = key.value(0).low() as u16;
        let word = eval::word(program, endpoint);
        let (v4, v6) = ebpf.occupancy(endpoint)?;
        let drops = ebpf.drops(endpoint)?;
        list.push(Endpoint {
            endpoint,
            pod: names.get(&endpoint).map(|p| p.pod.clone()),
            interface: interface(endpoint),
            ingress_set: (word.flags & Word::INGRESS != 0).then_some(word.ingress_set),
            egress_set: (word.flags & Word::EGRESS != 0).then_some(word.egress_set),
            guarded: word.flags & (Word::GUARD | Word::EGRESS) != 0,
            connections: v4 + v6,
            connections_capacity: capacity,
            adopted: names.get(&endpoint).map_or(0, |p| p.adopted),
            drops: drops
                .into_iter()
                .map(|(hook, why, count)| (format!("{} {}", name(hook), why.name()), count))
                .collect(),
        });
    }
    Ok(list)
}

/// Is there such a process?
fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn text(status: &Status, colour: Colour) -> String {
    let mut text = String::new();
    match &status.agent {
        Some(agent) => {
            let Record { node, pid, policies, problems, behind, .. } = &agent.record;
            let state = if agent.running { colour.good("running") } else { colour.bad("not running") };
            text += &format!("node {node}: agent {state} (process {pid}), {} policies apply here\n", policies.len());
            if let Some(behind) = behind {
                text += &format!("{} {behind}\n", colour.bad("not in step:"));
            }
            for problem in problems {
                text += &format!("{} {problem}\n", colour.bad("problem:"));
            }
        }
        None => text += "no agent has left a record; endpoints have no names\n",
    }
    if !status.enforcing {
        text += "nothing is enforced here\n";
        return text;
    }
    let set = |set: Option<u16>| set.map_or("open".to_owned(), |s| format!("set {s}"));
    let rows = status.endpoints.iter().map(|e| {
        let drops: Vec<String> = e.drops.iter().map(|(why, count)| format!("{why}: {count}")).collect();
        [
            e.endpoint.to_string(),
            e.pod.clone().unwrap_or_else(|| "?".into()),
            e.interface.clone().unwrap_or_else(|| "none".into()),
            set(e.ingress_set),
            set(e.egress_set),
            format!("{}/{}", e.connections, e.connections_capacity),
            drops.join("\n"),
        ]
    });
    text += "\n";
    text += &output::table(&["id", "pod", "interface", "ingress", "egress", "connections", "drops"], rows);
    let rows = status.tables.iter().map(|(name, entries)| [(*name).to_owned(), entries.to_string()]);
    text += "\n\n";
    text += &output::table(&["table", "entries"], rows);
    let rows = status.maps.iter().map(|m| {
        [m.name.to_owned(), m.kind.to_owned(), m.used.map_or("".to_owned(), |u| u.to_string()), size(m.bytes)]
    });
    text += &format!("\n\n{} policy sets\n\n", status.policy_sets);
    text += &output::table(&["map", "kind", "used", "memory"], rows);
    text += "\n";
    text
}
