//! The eBPF target with NICs that do a part of its work: after each update the tables are lowered
//! to flower filters for the interfaces whose NIC can, and the difference is installed.
//!
//! eBPF decides alone whatever becomes of the filters: hardware only drops what the tables deny and
//! forwards what they permit. So nothing here fails an update; what a NIC refuses is said and stays
//! with eBPF. Not here: what NICs can do (`netpolc_target_flower::detect`), lowering.

use std::collections::{BTreeMap, BTreeSet};

use netpolc_host::Connection;
use netpolc_table::{EndpointId, IfIndex, Incarnation, Program, Write};
use netpolc_target::{
    Amendment, Capabilities, Compared, Damage, Error, NodeTarget, OffloadRecord, Origin, Reader,
    Recorder, Taken, Target,
};
use netpolc_target_ebpf::Ebpf;
use netpolc_target_flower::{
    Flower,
    detect::{self, Findings},
    lower::lower,
    lowered::{Lowered, Mode},
    node_links::NodeLinks,
};

/// eBPF, and filters where NICs take them.
pub struct Offload {
    ebpf: Ebpf,
    /// The filters in the kernel; None before the first update, and where the kernel has no flower.
    flower: Option<Flower>,
    /// What was found of interfaces, by index and name: an index may come back as another
    /// interface.
    found: BTreeMap<(IfIndex, String), Option<Findings>>,
    records: Vec<OffloadRecord>,
    /// The last error that was logged, so that it is logged once.
    said: Option<String>,
}

impl Offload {
    /// Around a target that is open. Nothing is installed before the first update.
    pub fn new(ebpf: Ebpf) -> Self {
        Offload { ebpf, flower: None, found: BTreeMap::new(), records: vec![], said: None }
    }

    /// Lowers the tables for the interfaces whose NIC takes filters, and installs the filters.
    fn accelerate(&mut self, program: &Program) -> Result<(), String> {
        let links = NodeLinks::read().map_err(|e| format!("cannot read the node's links: {e}"))?;
        let able = self.able(&links);
        if able.is_empty() && self.flower.is_none() {
            return Ok(());
        }
        let flower = match &mut self.flower {
            Some(flower) => flower,
            None => self.flower.insert(Flower::new().map_err(|e| e.to_string())?),
        };
        let mut records = Vec::new();
        let mut whole: Vec<Lowered> = Vec::new();
        for mode in [Mode::Representor, Mode::Prefilter] {
            let ports = able.iter().filter(|(_, f)| f.mode == Some(mode));
            let mut by_driver = BTreeMap::<String, (BTreeSet<IfIndex>, &Findings)>::new();
            for (index, findings) in ports {
                let group = by_driver
                    .entry(findings.capabilities.driver.clone())
                    .or_insert((BTreeSet::new(), findings));
                group.0.insert(*index);
            }
            for (driver, (ports, findings)) in by_driver {
                let can = &findings.capabilities;
                let mut topology = links.topology(program, &ports);
                if mode == Mode::Prefilter {
                    // Pods are behind ports that take no filters; the uplink takes them.
                    let all = links.links.keys().copied().collect();
                    topology.pods = links.topology(program, &all).pods;
                }
                let lowered = lower(program, &topology, mode, can).map_err(|e| e.to_string())?;
                records.extend(lowered.record(&driver));
                whole.push(lowered);
            }
        }
        let report = flower.sync_all(&whole).map_err(|e| e.to_string())?;
        for (interface, message, count) in report.refusals() {
            if self
                .records
                .iter()
                .all(|r| r.interface != interface || !r.refused.contains_key(&message))
            {
                tracing::warn!(
                    interface,
                    filters = count,
                    "the NIC refused filters, so eBPF does their work: {message}"
                );
            }
            if let Some(record) = records.iter_mut().find(|r| r.interface == interface) {
                record.filters -= count as usize;
                record.refused.insert(message, count);
            }
        }
        self.records = records;
        Ok(())
    }

    /// Interfaces whose NIC takes filters, with what was found.
    fn able(&mut self, links: &NodeLinks) -> BTreeMap<IfIndex, Findings> {
        self.found
            .retain(|(index, name), _| links.links.get(index).is_some_and(|l| l.name == *name));
        let new = links
            .links
            .iter()
            .filter(|(index, link)| !self.found.contains_key(&(**index, link.name.clone())));
        let new: BTreeMap<&str, IfIndex> =
            new.map(|(index, link)| (link.name.as_str(), *index)).collect();
        if !new.is_empty() {
            // All at once: each question lists all interfaces.
            let looked = detect::some(|name| new.contains_key(name)).unwrap_or_else(|error| {
                tracing::warn!(%error, "failed to find out what new interfaces can offload");
                vec![]
            });
            let mut looked: BTreeMap<IfIndex, _> = looked.into_iter().collect();
            for (interface, index) in new {
                let findings = looked.remove(&index).and_then(|found| match found {
                    Ok(findings) => {
                        tracing::debug!(interface, mode = ?findings.mode, reasons = ?findings.reasons, "found out what the interface can offload");
                        Some(findings)
                    }
                    Err(error) => {
                        tracing::warn!(interface, %error, "failed to find out what the interface \
                            can offload");
                        None
                    }
                });
                self.found.insert((index, interface.to_owned()), findings);
            }
        }
        let found = self.found.iter().filter_map(|((index, _), f)| Some((*index, f.clone()?)));
        found.filter(|(_, f)| f.mode.is_some()).collect()
    }
}

impl Target for Offload {
    fn name(&self) -> &'static str {
        self.ebpf.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.ebpf.capabilities()
    }

    fn read(&self) -> Result<Program, Error> {
        self.ebpf.read()
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.ebpf.write(write)
    }

    fn compared(&self) -> Result<Option<Compared>, Error> {
        self.ebpf.compared()
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.ebpf.settle()
    }
}

impl NodeTarget for Offload {
    fn attached(&self) -> BTreeSet<IfIndex> {
        NodeTarget::attached(&self.ebpf)
    }

    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        NodeTarget::attach(&mut self.ebpf, ifindex)
    }

    fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        NodeTarget::detach(&mut self.ebpf, ifindex)
    }

    fn make_room(&mut self, program: &Program) -> Result<(), Error> {
        self.ebpf.make_room(program)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        self.ebpf.prepare()
    }

    fn hold(&mut self) -> Result<(), Error> {
        NodeTarget::hold(&mut self.ebpf)
    }

    fn cover(&mut self) -> Result<(), Error> {
        self.ebpf.cover()
    }

    fn check(&mut self) -> Result<Vec<String>, Error> {
        NodeTarget::check(&mut self.ebpf)
    }

    fn under_way(&self) -> bool {
        self.ebpf.under_way()
    }

    /// Of what eBPF decides: a NIC records nothing.
    fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error> {
        NodeTarget::recorder(&mut self.ebpf)
    }

    /// Of eBPF's tables only: filters in NICs are compared whenever they are updated, and what one
    /// does not do eBPF does.
    fn reader(&self) -> Option<Reader> {
        self.ebpf.reader()
    }

    fn mend(&mut self, damage: Damage, program: &Program) -> Result<(), Error> {
        NodeTarget::mend(&mut self.ebpf, damage, program)
    }

    fn follow(&mut self, program: &Program) -> Result<(), Error> {
        match self.accelerate(program) {
            Ok(()) => self.said = None,
            Err(error) => {
                if self.said.as_ref() != Some(&error) {
                    tracing::warn!(
                        "failed to install filters in NICs, so eBPF does everything: {error}"
                    );
                }
                self.said = Some(error);
            }
        }
        Ok(())
    }

    fn look_ahead(&mut self, program: &Program) -> Result<(), Error> {
        NodeTarget::look_ahead(&mut self.ebpf, program)
    }

    fn offload(&self) -> Vec<OffloadRecord> {
        self.records.clone()
    }

    fn amend(
        &mut self,
        endpoint: EndpointId,
        amend: &dyn Fn(&Connection) -> Amendment,
    ) -> Result<(), Error> {
        NodeTarget::amend(&mut self.ebpf, endpoint, amend)
    }

    fn reserve(&mut self, endpoint: EndpointId, connections: [u32; 2]) -> Result<[u32; 2], Error> {
        NodeTarget::reserve(&mut self.ebpf, endpoint, connections)
    }

    fn adopt(
        &mut self,
        endpoint: EndpointId,
        incarnation: Incarnation,
        connection: &Connection,
        origin: Origin,
    ) -> Result<Taken, Error> {
        self.ebpf.adopt(endpoint, incarnation, connection, origin)
    }
}
