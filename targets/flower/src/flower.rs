//! All filters of a node: what was lowered against what is installed. Interfaces go their ways
//! together ([`Job`]), so that messages are sent in full batches and packets under way are waited
//! for once.
//!
//! Not here: what changes and in which order ([`crate::sync`]), messages ([`crate::kernel`]).

use netpolc_table::IfIndex;
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use crate::{
    filter::Filter,
    kernel::{Change, Error, Kernel},
    lowered::Lowered,
    netlink::{Decoded, Found},
    sync::{Books, Job, Next, Step, books, job::Counts},
    topology::Port,
};

/// The filters of the network namespace that it was made in.
#[derive(Debug)]
pub struct Flower {
    kernel: Kernel,
    /// What is installed, as far as it is known; an interface that is not in it is dumped first.
    known: BTreeMap<IfIndex, Known>,
    /// The interfaces that may carry filters of netpolc; None before the first look.
    carrying: Option<BTreeSet<IfIndex>>,
}

#[derive(Debug)]
struct Known {
    books: Books,
    wanted: Vec<Filter>,
}

/// What a sync did on all interfaces together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many filters are new.
    pub added: usize,
    /// How many filters do something else now, or name another entry.
    pub replaced: usize,
    /// How many filters were removed.
    pub removed: usize,
    /// How many filters were installed already and stay as they are.
    pub kept: usize,
    /// Filters that the kernel or a NIC refused, and those that were left out because of that.
    pub refused: Vec<Refused>,
}

/// A filter that is not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The name of the interface, or `interface N` where only its index is known.
    pub interface: String,
    /// The filter that was wanted.
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

    fn take(&mut self, interface: &str, counts: Counts) {
        self.added += counts.added;
        self.replaced += counts.replaced;
        self.removed += counts.removed;
        self.kept += counts.kept;
        let refused = counts.refused.into_iter();
        self.refused.extend(refused.map(|(filter, why)| Refused {
            interface: interface.into(),
            filter,
            why,
        }));
    }
}

impl Flower {
    /// Opens netlink; nothing is changed.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub fn new() -> Result<Self, Error> {
        Ok(Flower { kernel: Kernel::open()?, known: BTreeMap::new(), carrying: None })
    }

    /// Netpolc's filters on all interfaces, as the kernel has them now.
    ///
    /// # Errors
    /// The kernel refuses to list the qdiscs or the filters of an interface.
    pub fn installed(&mut self) -> Result<BTreeMap<IfIndex, Vec<Decoded>>, Error> {
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

    /// Forgets what it knows: the next sync reads what is installed, and mends what somebody else
    /// changed.
    pub fn forget(&mut self) {
        self.known.clear();
        self.carrying = None;
    }

    /// Brings the kernel in step with one lowering; ports that it does not name lose their filters.
    ///
    /// # Errors
    /// A netlink call fails. What was installed before is still sound, and the next call finds it.
    /// That a filter is refused is no error: see [`Report::refused`].
    pub fn sync(&mut self, lowered: &Lowered) -> Result<Report, Error> {
        self.sync_all(std::slice::from_ref(lowered))
    }

    /// [`Flower::sync`] with several lowerings, for ports of their own or together.
    ///
    /// # Errors
    /// A netlink call fails, as in [`Flower::sync`].
    pub fn sync_all(&mut self, lowered: &[Lowered]) -> Result<Report, Error> {
        let mut wanted = BTreeMap::<&Port, Vec<Filter>>::new();
        for (port, filters) in
            lowered.iter().flat_map(|l| &l.ports).filter(|(_, filters)| !filters.is_empty())
        {
            wanted.entry(port).or_default().extend(filters.iter().map(|p| p.filter.clone()));
        }
        let done = self.bring(wanted);
        if done.is_err() {
            // Unknown how far it came.
            self.forget();
        }
        done
    }

    /// Removes all of netpolc's filters, and clsact where nothing is left in it.
    ///
    /// # Errors
    /// A netlink call fails, as in [`Flower::sync`].
    pub fn remove_all(&mut self) -> Result<Report, Error> {
        self.forget();
        self.sync_all(&[])
    }

    fn bring(&mut self, wanted: BTreeMap<&Port, Vec<Filter>>) -> Result<Report, Error> {
        let mut report = Report::default();
        let carrying = match self.carrying.take() {
            Some(carrying) => carrying,
            None => self.installed()?.into_keys().collect(),
        };
        let now: BTreeSet<IfIndex> = wanted.keys().map(|port| port.ifindex).collect();
        let mut jobs = Vec::new();
        let mut names = BTreeMap::new();
        for (port, mut filters) in wanted {
            filters.sort();
            filters.dedup();
            names.insert(port.ifindex, port.name.clone());
            let known = match self.known.remove(&port.ifindex) {
                Some(known) if known.wanted == filters => {
                    report.kept += filters.len();
                    self.known.insert(port.ifindex, known);
                    continue;
                }
                Some(known) => known.books,
                None => match self.kernel.ensure_qdisc(port.ifindex) {
                    Ok(()) => books(self.kernel.dump(port.ifindex)?),
                    Err(Error::Qdisc { refusal, .. }) => {
                        let why = format!("the interface takes no clsact qdisc: {refusal}");
                        let refused = filters.into_iter().map(|f| (f, why.clone())).collect();
                        report.take(&port.name, Counts { refused, ..Counts::default() });
                        continue;
                    }
                    Err(other) => return Err(other),
                },
            };
            jobs.push(Job::new(port.ifindex, known, filters));
        }
        let gone: Vec<IfIndex> = carrying.difference(&now).copied().collect();
        for &ifindex in &gone {
            let known = match self.known.remove(&ifindex) {
                Some(known) => known.books,
                None => books(self.kernel.dump(ifindex)?),
            };
            jobs.push(Job::new(ifindex, known, vec![]));
        }
        self.work(&mut jobs)?;
        let mut still = now;
        for job in jobs {
            let ifindex = job.ifindex();
            let (books, wanted, counts) = job.finish();
            // After a refusal the kernel is asked again what it has.
            if !counts.refused.is_empty() {
                still.insert(ifindex);
            } else if still.contains(&ifindex) {
                self.known.insert(ifindex, Known { books, wanted });
            }
            let unnamed = || format!("interface {ifindex}");
            report.take(&names.remove(&ifindex).unwrap_or_else(unnamed), counts);
        }
        for ifindex in gone {
            self.kernel.drop_empty_qdisc(ifindex)?;
        }
        self.carrying = Some(still);
        Ok(report)
    }

    /// All jobs side by side.
    fn work(&mut self, jobs: &mut [Job]) -> Result<(), Error> {
        let mut next: Vec<Next> = jobs.iter_mut().map(Job::advance).collect();
        while next.iter().any(|n| *n != Next::Done) {
            let mut steps: Vec<(usize, Step)> = Vec::new();
            for (at, next) in next.iter_mut().enumerate() {
                if let Next::Steps(some) = next {
                    steps.extend(mem::take(some).into_iter().map(|step| (at, step)));
                }
            }
            if steps.is_empty() {
                self.kernel.settle()?;
                for (job, next) in
                    jobs.iter_mut().zip(&mut next).filter(|(_, n)| **n == Next::Settle)
                {
                    *next = job.settled();
                }
                continue;
            }
            let changes: Vec<Change<'_>> = steps
                .iter()
                .map(|(at, Step { way, filter, handle })| Change {
                    way: *way,
                    ifindex: jobs[*at].ifindex(),
                    filter,
                    handle: *handle,
                })
                .collect();
            let answers = self.kernel.apply(&changes)?;
            for ((at, step), answer) in steps.iter().zip(answers) {
                jobs[*at].answer(step, answer);
            }
            let asked: BTreeSet<usize> = steps.iter().map(|(at, _)| *at).collect();
            for at in asked {
                next[at] = jobs[at].advance();
            }
        }
        Ok(())
    }
}
