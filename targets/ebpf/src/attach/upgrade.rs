//! Interfaces that carry filters get TCX links in their place: in a thread, since the kernel makes
//! whoever attaches a link wait for a grace period under the lock of all links.
//!
//! A link stands before its filter goes, so both judge the same packets for a moment, alike. Not
//! here: what is attached first (`attach`).

use netpolc_table::IfIndex;
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use netpolc_target::{Error, Hook};

use super::{
    Attachments, HOOKS, Held, Link, MARKERS, Programs, QDISC, Role, absent_is_fine, attach_patiently, call,
    filters_stand, gone, hook_name, mark, side, unpin,
};
use crate::{
    clsact::{self, Qdisc},
    loader::Loaded,
    pins::Pins,
    sys::{self, refused},
};

/// TCX links that are being made for interfaces that have filters.
#[derive(Debug)]
pub(super) struct Upgrade {
    thread: JoinHandle<Vec<Made>>,
    stop: Arc<AtomicBool>,
}

/// What came of an interface: its links, or why there are none.
#[derive(Debug)]
struct Made {
    ifindex: IfIndex,
    role: Role,
    links: io::Result<Vec<(Hook, OwnedFd)>>,
}

impl Upgrade {
    /// Begins, in the calling thread's network namespace.
    fn begin(list: Vec<(IfIndex, Role)>, programs: &Programs) -> io::Result<Self> {
        let dup = |(hook, program): &(Hook, Loaded)| Ok((*hook, program.fd().try_clone_to_owned()?));
        let programs: Vec<(Hook, OwnedFd)> = programs.iter().map(dup).collect::<io::Result<_>>()?;
        let links = move |role: Role, ifindex: IfIndex| {
            let mine = programs.iter().filter(|(hook, _)| role.hooks().contains(hook));
            let made = mine.map(|(hook, program)| {
                // Others want the lock that the kernel holds meanwhile.
                std::thread::sleep(BREATH);
                attach_patiently(program.as_fd(), ifindex, *hook).map(|link| (*hook, link))
            });
            made.collect()
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let make = move |(ifindex, role)| Made { ifindex, role, links: links(role, ifindex) };
        let work = move || list.into_iter().take_while(|_| !stopped.load(Relaxed)).map(make).collect();
        let thread = std::thread::Builder::new().name("links".into()).spawn(work)?;
        Ok(Self { thread, stop })
    }
}

/// Between two links that are made while nobody waits for them.
const BREATH: Duration = Duration::from_millis(20);
/// Links that are made before they are looked at again.
const AT_ONCE: usize = 8;

impl Attachments {
    /// Moves interfaces that have filters to TCX links, a few at a time, in a thread of its own;
    /// says how many have moved. To be called again and again.
    pub fn upgrade(&mut self, programs: &Programs, pins: Option<&Pins>) -> Result<usize, Error> {
        let Some(upgrade) = self.upgrade.take_if(|upgrade| upgrade.thread.is_finished()) else {
            return self.begin_upgrade(programs).map(|()| 0);
        };
        let done = upgrade.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (mut moved, mut failed) = (0, None);
        for Made { ifindex, role, links } in done {
            let Some(Held::Clsact(qdisc, now)) = self.held.get(&ifindex) else { continue };
            let (qdisc, now) = (*qdisc, *now);
            let links = match links {
                // It has become something else meanwhile, or another interface has its number.
                _ if now != role || sys::ifname(ifindex).is_err() => continue,
                Err(e) if gone(&e) => continue,
                Err(e) => {
                    self.stay.insert(ifindex);
                    failed.get_or_insert(refused(call("attach to", ifindex), e));
                    continue;
                }
                Ok(links) => links,
            };
            let held = self.follow(ifindex, role, links, programs, pins);
            let held = held.and_then(|held| {
                if qdisc == Qdisc::Made {
                    self.keep_qdisc(ifindex, pins)?;
                }
                Ok(held)
            });
            let detach = || role.hooks().iter().try_for_each(|hook| clsact::detach(ifindex, side(*hook)));
            let done = held.and_then(|held| detach().map(|()| self.held.insert(ifindex, Held::Tcx(held))).map(drop));
            // Last, so that whoever is killed before leaves a filter that is known.
            let done = done.and_then(|()| {
                let markers = MARKERS.iter().map(|(marker, ..)| format!("{ifindex}_{marker}"));
                let mut paths = pins.into_iter().flat_map(|pins| markers.clone().map(|name| pins.link(&name)));
                paths.try_for_each(|path| absent_is_fine(fs::remove_dir(path)))
            });
            match done {
                Err(e) if gone(&e) => self.forget(ifindex, pins)?,
                Err(e) => {
                    self.stay.insert(ifindex);
                    failed.get_or_insert(refused(call("move to TCX links:", ifindex), e));
                }
                Ok(()) => moved += 1,
            }
        }
        // One that stays as it is keeps none of the others back.
        self.begin_upgrade(programs)?;
        failed.map_or(Ok(moved), Err)
    }

    /// Whether links are being made.
    pub fn upgrading(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Begins to make links, where there are interfaces that want some and none are being made.
    fn begin_upgrade(&mut self, programs: &Programs) -> Result<(), Error> {
        if self.upgrade.is_some() || !has_tcx(programs) {
            return Ok(());
        }
        // Where somebody took a filter away it comes back first.
        let may = |ifindex: &IfIndex, role| !self.stay.contains(ifindex) && filters_stand(*ifindex, role, programs);
        let filtered = self.held.iter().filter_map(|(ifindex, held)| match held {
            Held::Clsact(_, role) if may(ifindex, *role) => Some((*ifindex, *role)),
            Held::Clsact(..) | Held::Tcx(_) => None,
        });
        let list: Vec<(IfIndex, Role)> = filtered.take(AT_ONCE).collect();
        if !list.is_empty() {
            self.upgrade = Some(Upgrade::begin(list, programs).map_err(|e| refused("make TCX links", e))?);
        }
        Ok(())
    }

    /// Notes that the qdisc is ours, for when the links go.
    fn keep_qdisc(&mut self, ifindex: IfIndex, pins: Option<&Pins>) -> io::Result<()> {
        pins.map_or(Ok(()), |pins| mark(pins, &format!("{ifindex}_{QDISC}")))?;
        self.qdiscs.insert(ifindex);
        Ok(())
    }

    /// Ends what is under way: links in the making judge by the programs of when they were begun.
    pub fn stop_upgrade(&mut self) {
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.stop.store(true, Relaxed);
            drop(upgrade.thread.join());
        }
    }

    /// Makes links that stand beside an interface's filters carry the present programs, and pins
    /// them.
    fn follow(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        links: Vec<(Hook, OwnedFd)>,
        programs: &Programs,
        pins: Option<&Pins>,
    ) -> io::Result<BTreeMap<Hook, Link>> {
        let mut held = BTreeMap::new();
        for (hook, link) in links {
            // The index may be another interface's by now, and the programs those of an earlier
            // generation.
            if sys::link_facts(link.as_fd())?.ifindex != Some(ifindex) {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            let program = programs.iter().find(|(of, _)| *of == hook).ok_or(io::ErrorKind::NotFound)?;
            sys::link_update(link.as_fd(), program.1.fd())?;
            if let Some(pins) = pins {
                let path = pins.link(&format!("{ifindex}_{}", hook_name(hook)));
                absent_is_fine(fs::remove_file(&path))?;
                sys::pin(link.as_fd(), &path)?;
            }
            held.insert(hook, Link::new(link, role, self.open_links(), pins));
        }
        Ok(held)
    }

    /// Takes away links that a killed process pinned beside filters, which are what counts and
    /// stand by now.
    pub fn drop_stray_links(&self, pins: &Pins) -> Result<(), Error> {
        let filtered = self.held.iter().filter(|(_, held)| matches!(held, Held::Clsact(..)));
        let mut names = filtered.flat_map(|(i, _)| HOOKS.map(|hook| format!("{i}_{}", hook_name(hook))));
        names.try_for_each(|name| unpin(pins, &name))
    }
}

/// Does the kernel have TCX links? Asked by an interface that there never is.
fn has_tcx(programs: &Programs) -> bool {
    const NONE: u32 = i32::MAX as u32;
    let asked =
        programs.iter().take(1).map(|(hook, program)| sys::tcx_attach(program.fd(), IfIndex::new(NONE), side(*hook)));
    asked.into_iter().any(|done| done.is_err_and(|e| e.raw_os_error() == Some(libc::ENODEV)))
}
