//! All filters of a node: what was lowered against what is installed.
//!
//! Not here: the order of changes ([`crate::sync`]), messages ([`crate::kernel`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    filter::{Filter, Side},
    kernel::{Change, Error, Kernel},
    lowered::Lowered,
    netlink::{Decoded, Found, Way},
    sync::{self, Step},
    topology::Port,
};

/// The filters of the network namespace that it was made in.
#[derive(Debug)]
pub struct Flower {
    kernel: Kernel,
    /// What is installed, as far as it is known; an interface that is not in it is dumped first.
    known: BTreeMap<u32, Vec<Decoded>>,
    /// Interfaces that may carry filters of ours; None before the first look.
    carrying: Option<BTreeSet<u32>>,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// New filters.
    pub added: usize,
    /// Filters that do something else now.
    pub replaced: usize,
    /// Filters that went.
    pub removed: usize,
    /// Filters that were there and stay.
    pub kept: usize,
    /// What was refused, and filters left out because of it.
    pub refused: Vec<Refused>,
}

/// A filter that is not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The interface's name.
    pub interface: String,
    /// The filter.
    pub filter: Filter,
    /// What the kernel said, or which refusal it was left out for.
    pub why: String,
}

impl Report {
    /// Refusals by interface and message, with how many.
    pub fn refusals(&self) -> Vec<(String, String, u32)> {
        let mut counts = BTreeMap::new();
        for refused in &self.refused {
            *counts.entry((refused.interface.clone(), refused.why.clone())).or_insert(0) += 1;
        }
        counts.into_iter().map(|((interface, why), count)| (interface, why, count)).collect()
    }
}

impl Flower {
    /// Opens netlink; nothing is changed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Self, Error> {
        Ok(Flower { kernel: Kernel::open()?, known: BTreeMap::new(), carrying: None })
    }

    /// Filters of ours on all interfaces, as the kernel has them now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn installed(&mut self) -> Result<BTreeMap<u32, Vec<Decoded>>, Error> {
        let mut all = BTreeMap::new();
        for ifindex in self.kernel.with_clsact()? {
            let mut list = self.kernel.dump(ifindex)?;
            list.retain(|d| d.found != Found::Foreign);
            if !list.is_empty() {
                all.insert(ifindex, list);
            }
        }
        Ok(all)
    }

    /// Brings the kernel in step with one lowering; ports that it does not name lose their filters.
    ///
    /// # Errors
    /// A failed call. What was installed before is still sound, and the next call finds it.
    pub fn sync(&mut self, lowered: &Lowered) -> Result<Report, Error> {
        self.sync_all(std::slice::from_ref(lowered))
    }

    /// [`Flower::sync`] with several lowerings, for ports of their own or together.
    ///
    /// # Errors
    /// As [`Flower::sync`].
    pub fn sync_all(&mut self, lowered: &[Lowered]) -> Result<Report, Error> {
        let mut wanted = BTreeMap::<&Port, Vec<Filter>>::new();
        for (port, filters) in lowered.iter().flat_map(|l| &l.ports) {
            wanted.entry(port).or_default().extend(filters.iter().map(|p| p.filter.clone()));
        }
        let done = self.bring(&wanted);
        if done.is_err() {
            // Unknown how far it came.
            self.known.clear();
            self.carrying = None;
        }
        done
    }

    fn bring(&mut self, wanted: &BTreeMap<&Port, Vec<Filter>>) -> Result<Report, Error> {
        let mut report = Report::default();
        let carrying = match self.carrying.take() {
            Some(carrying) => carrying,
            None => self.installed()?.into_keys().collect(),
        };
        for (port, filters) in wanted.iter().filter(|(_, f)| !f.is_empty()) {
            self.port(port, filters, &mut report)?;
        }
        let now: BTreeSet<u32> = wanted.iter().filter(|(_, f)| !f.is_empty()).map(|(p, _)| p.ifindex).collect();
        for &ifindex in carrying.difference(&now) {
            let port = Port { ifindex, name: format!("interface {ifindex}") };
            self.port(&port, &[], &mut report)?;
            self.kernel.drop_empty_qdisc(ifindex)?;
            self.known.remove(&ifindex);
        }
        self.carrying = Some(now);
        Ok(report)
    }

    fn port(&mut self, port: &Port, wanted: &[Filter], report: &mut Report) -> Result<(), Error> {
        let ifindex = port.ifindex;
        let installed = match self.known.remove(&ifindex) {
            Some(known) => known,
            None => {
                if !wanted.is_empty() {
                    self.kernel.ensure_qdisc(ifindex)?;
                }
                self.kernel.dump(ifindex)?
            }
        };
        let plan = sync::plan(&installed, wanted);
        report.kept += plan.kept;
        let mut now = Tally { port, installed, report };
        let refused = self.prepare(&plan.prepare, &mut now)?;
        let spoilt = sync::spoilt(&plan.prepare, &refused);
        let switched = self.switch(&plan.switch, &spoilt, &mut now)?;
        // A new chain that nothing reaches after all goes again.
        let unused = plan
            .prepare
            .iter()
            .enumerate()
            .filter(|(i, s)| !refused.contains(i) && spoilt.contains(&(s.filter.side, s.filter.chain)));
        let mut remove: Vec<Step> = unused.map(|(_, s)| Step { way: Way::Remove, ..s.clone() }).collect();
        match switched {
            Switched::All => remove.extend(plan.remove),
            Switched::InPart { behind } => {
                // A NIC must not go on with what is not wanted any more, nor with what stands behind an exception that it did
                // not take; eBPF decides instead. In software what was enforced stays.
                let stale = sync::stale(&now.installed, wanted, &behind);
                self.each(&stale, &mut now)?;
                let needed = reached(&now.installed);
                let idle = |s: &Step| s.filter.chain != 0 && !needed.contains(&(s.filter.side, s.filter.chain));
                remove.extend(sync::all_of(&now.installed).filter(idle));
            }
        }
        remove.sort_by(|a, b| (&a.filter, a.handle).cmp(&(&b.filter, b.handle)));
        remove.dedup();
        self.each(&remove, &mut now)?;
        let installed = now.installed;
        self.known.insert(ifindex, installed);
        Ok(())
    }

    /// Indices of the refused ones.
    fn prepare(&mut self, steps: &[Step], now: &mut Tally<'_>) -> Result<Vec<usize>, Error> {
        self.each(steps, now)
    }

    /// Chain 0, run by run of filters of one kind, as long as none is refused that others depend on.
    fn switch(
        &mut self,
        steps: &[Step],
        spoilt: &BTreeSet<(Side, u32)>,
        now: &mut Tally<'_>,
    ) -> Result<Switched, Error> {
        let (mut whole, mut behind) = (true, BTreeMap::<Side, u16>::new());
        for run in
            steps.chunk_by(|a, b| (a.filter.side, sync::spares(&a.filter)) == (b.filter.side, sync::spares(&b.filter)))
        {
            let side = run[0].filter.side;
            // Filters that others depend on go one by one: the next may rest on the one before.
            let size = if sync::spares(&run[0].filter) { run.len() } else { 1 };
            for part in run.chunks(size) {
                if behind.contains_key(&side) {
                    part.iter().for_each(|s| now.leave_out(s, "a filter in front of it was refused"));
                    continue;
                }
                let leads = |s: &Step| sync::leads_to(&s.filter).is_some_and(|c| spoilt.contains(&(side, c)));
                let (off, on): (Vec<Step>, Vec<Step>) = part.iter().cloned().partition(leads);
                off.iter().for_each(|s| now.leave_out(s, "what it leads to was refused"));
                let refused = self.each(&on, now)?;
                let lost = off.iter().chain(refused.iter().map(|&i| &on[i]));
                for step in lost {
                    whole = false;
                    if !sync::spares(&step.filter) {
                        behind.entry(side).or_insert(step.filter.prio);
                    }
                }
            }
        }
        Ok(if whole { Switched::All } else { Switched::InPart { behind } })
    }

    /// Does steps, keeps the books, and gives the indices of the refused ones.
    fn each(&mut self, steps: &[Step], now: &mut Tally<'_>) -> Result<Vec<usize>, Error> {
        let ifindex = now.port.ifindex;
        let changes: Vec<Change<'_>> =
            steps.iter().map(|s| Change { way: s.way, ifindex, filter: &s.filter, handle: s.handle }).collect();
        let mut refused = Vec::new();
        let mut gone = BTreeSet::new();
        for (i, answer) in self.kernel.apply(&changes)?.into_iter().enumerate() {
            let step = &steps[i];
            match answer {
                Ok(()) => {}
                // It went before us, or with its interface.
                Err(r) if step.way == Way::Remove && matches!(r.errno, libc::ENOENT | libc::ENODEV | libc::EINVAL) => {}
                Err(refusal) => {
                    now.leave_out(step, &refusal.to_string());
                    refused.push(i);
                    continue;
                }
            }
            if step.way != Way::Add {
                gone.insert((step.filter.side, step.filter.chain, step.filter.prio, step.handle));
            }
        }
        // The books once for all: a pass for each step would cost the square of their number.
        if !gone.is_empty() {
            now.installed.retain(|d| !gone.contains(&(d.side, d.chain, d.prio, d.handle)));
        }
        for (_, step) in steps.iter().enumerate().filter(|(i, _)| refused.binary_search(i).is_err()) {
            now.done(step);
        }
        Ok(refused)
    }

    /// Removes every filter of ours, and clsact where nothing is left in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_all(&mut self) -> Result<Report, Error> {
        self.known.clear();
        self.carrying = None;
        self.bring(&BTreeMap::new())
    }
}

/// Did all of chain 0 come through?
#[derive(Clone, Debug, PartialEq, Eq)]
enum Switched {
    All,
    /// No: on these sides a filter of this prio was refused that others depend on.
    InPart {
        behind: BTreeMap<Side, u16>,
    },
}

/// The books of one port while it changes.
struct Tally<'a> {
    port: &'a Port,
    installed: Vec<Decoded>,
    report: &'a mut Report,
}

impl Tally<'_> {
    fn done(&mut self, step: &Step) {
        let Step { way, filter, handle } = step;
        let count = match way {
            Way::Add => &mut self.report.added,
            Way::Replace => &mut self.report.replaced,
            Way::Remove => &mut self.report.removed,
        };
        *count += 1;
        if *way != Way::Remove {
            self.installed.push(Decoded {
                ifindex: self.port.ifindex,
                side: filter.side,
                chain: filter.chain,
                prio: filter.prio,
                handle: *handle,
                in_hardware: 0,
                found: Found::Ours(filter.clone()),
            });
        }
    }

    fn leave_out(&mut self, step: &Step, why: &str) {
        let (interface, filter) = (self.port.name.clone(), step.filter.clone());
        self.report.refused.push(Refused { interface, filter, why: why.into() });
    }
}

/// Chains that packets can come to.
fn reached(installed: &[Decoded]) -> BTreeSet<(Side, u32)> {
    let ours = || installed.iter().filter_map(|d| if let Found::Ours(f) = &d.found { Some(f) } else { None });
    let mut found: BTreeSet<_> =
        ours().filter(|f| f.chain == 0).filter_map(|f| Some((f.side, sync::leads_to(f)?))).collect();
    loop {
        let more =
            ours().filter(|f| found.contains(&(f.side, f.chain))).filter_map(|f| Some((f.side, sync::leads_to(f)?)));
        let more: Vec<_> = more.filter(|c| !found.contains(c)).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}
