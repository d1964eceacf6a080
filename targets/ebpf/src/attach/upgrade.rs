//! Moves interfaces from filters to TCX links. A thread makes the links, since the kernel makes
//! whoever attaches one wait for a grace period, under the lock of all links.
//!
//! A link is in place before its filter goes, so that for a moment both judge the same packets,
//! with the same answers. Not here: how an interface is attached first (`attach`).

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
    Attachments, HOOKS, Held, Link, MARKERS, Programs, QDISC, Role, absent_is_fine,
    attach_with_retries, call, filters_stand, gone, hook_name, mark, side, unpin,
};
use crate::{
    clsact::{self, Qdisc},
    loader::Loaded,
    pins::Pins,
    sys::{self, refused},
};

/// The thread that makes TCX links for interfaces that have filters.
#[derive(Debug)]
pub(super) struct Upgrade {
    thread: JoinHandle<Vec<Made>>,
    /// Set to end the thread after the interface that it works on.
    stop: Arc<AtomicBool>,
}

/// The thread's result for one interface: its links, or why there are none.
#[derive(Debug)]
struct Made {
    ifindex: IfIndex,
    role: Role,
    links: io::Result<Vec<(Hook, OwnedFd)>>,
}

impl Upgrade {
    /// Starts the thread, which works in the calling thread's network namespace.
    fn begin(list: Vec<(IfIndex, Role)>, programs: &Programs) -> io::Result<Self> {
        let dup =
            |(hook, program): &(Hook, Loaded)| Ok((*hook, program.fd().try_clone_to_owned()?));
        let programs: Vec<(Hook, OwnedFd)> = programs.iter().map(dup).collect::<io::Result<_>>()?;
        let links = move |role: Role, ifindex: IfIndex| {
            let mine = programs.iter().filter(|(hook, _)| role.hooks().contains(hook));
            let made = mine.map(|(hook, program)| {
                // The kernel holds a lock meanwhile that whoever attaches a new pod needs too.
                std::thread::sleep(PAUSE_BETWEEN_LINKS);
                attach_with_retries(program.as_fd(), ifindex, *hook).map(|link| (*hook, link))
            });
            made.collect()
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let make = move |(ifindex, role)| Made { ifindex, role, links: links(role, ifindex) };
        let work =
            move || list.into_iter().take_while(|_| !stopped.load(Relaxed)).map(make).collect();
        let thread = std::thread::Builder::new().name("links".into()).spawn(work)?;
        Ok(Self { thread, stop })
    }
}

/// How long the thread waits before each link, so that others get the kernel's lock.
const PAUSE_BETWEEN_LINKS: Duration = Duration::from_millis(20);
/// For how many interfaces the thread makes links before [`Attachments::upgrade`] takes them over.
const BATCH: usize = 8;

impl Attachments {
    /// Takes over the links that the thread has made and starts it for further interfaces. Returns
    /// how many interfaces have moved. To be called again and again.
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
                // Its role has changed since, or another interface has its index now.
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
            let detach =
                || role.hooks().iter().try_for_each(|hook| clsact::detach(ifindex, side(*hook)));
            let done = held.and_then(|held| {
                detach().map(|()| self.held.insert(ifindex, Held::Tcx(held))).map(drop)
            });
            // The pins of the filters go last, so that whoever is killed before leaves none that is
            // unknown.
            let done = done.and_then(|()| {
                let markers = MARKERS.iter().map(|(marker, ..)| format!("{ifindex}_{marker}"));
                let mut paths =
                    pins.into_iter().flat_map(|pins| markers.clone().map(|name| pins.link(&name)));
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
        // An interface that keeps its filters must not keep the others from moving.
        self.begin_upgrade(programs)?;
        failed.map_or(Ok(moved), Err)
    }

    /// Whether the thread is making links, or has made some that nobody took over.
    pub fn upgrading(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Starts the thread, where it does not run and there are interfaces to move.
    fn begin_upgrade(&mut self, programs: &Programs) -> Result<(), Error> {
        if self.upgrade.is_some() || !has_tcx(programs) {
            return Ok(());
        }
        // Where somebody removed a filter, `check` has to restore it first.
        let may = |ifindex: &IfIndex, role| {
            !self.stay.contains(ifindex) && filters_stand(*ifindex, role, programs)
        };
        let filtered = self.held.iter().filter_map(|(ifindex, held)| match held {
            Held::Clsact(_, role) if may(ifindex, *role) => Some((*ifindex, *role)),
            Held::Clsact(..) | Held::Tcx(_) => None,
        });
        let list: Vec<(IfIndex, Role)> = filtered.take(BATCH).collect();
        if !list.is_empty() {
            self.upgrade =
                Some(Upgrade::begin(list, programs).map_err(|e| refused("make TCX links", e))?);
        }
        Ok(())
    }

    /// Notes that netpolc made the interface's qdisc, so that it goes when the links go.
    fn keep_qdisc(&mut self, ifindex: IfIndex, pins: Option<&Pins>) -> io::Result<()> {
        pins.map_or(Ok(()), |pins| mark(pins, &format!("{ifindex}_{QDISC}")))?;
        self.qdiscs.insert(ifindex);
        Ok(())
    }

    /// Ends the thread and drops its links: they carry the programs of the time when it was
    /// started.
    pub fn stop_upgrade(&mut self) {
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.stop.store(true, Relaxed);
            drop(upgrade.thread.join());
        }
    }

    /// Gives the thread's links, which exist beside the interface's filters, the present programs,
    /// and pins them.
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
            // The index may belong to another interface by now, and the programs to an earlier
            // generation.
            if sys::link_facts(link.as_fd())?.ifindex != Some(ifindex) {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            let program =
                programs.iter().find(|(of, _)| *of == hook).ok_or(io::ErrorKind::NotFound)?;
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

    /// Removes links that a killed process pinned beside filters. The filters count, and are in
    /// place by now.
    pub fn drop_stray_links(&self, pins: &Pins) -> Result<(), Error> {
        let filtered = self.held.iter().filter(|(_, held)| matches!(held, Held::Clsact(..)));
        let mut names =
            filtered.flat_map(|(i, _)| HOOKS.map(|hook| format!("{i}_{}", hook_name(hook))));
        names.try_for_each(|name| unpin(pins, &name))
    }
}

/// Whether the kernel has TCX links. Asked with an interface that never exists: a kernel with TCX
/// answers that there is no such device.
fn has_tcx(programs: &Programs) -> bool {
    const NONE: u32 = i32::MAX as u32;
    let asked = programs
        .iter()
        .take(1)
        .map(|(hook, program)| sys::tcx_attach(program.fd(), IfIndex::new(NONE), side(*hook)));
    asked.into_iter().any(|done| done.is_err_and(|e| e.raw_os_error() == Some(libc::ENODEV)))
}
