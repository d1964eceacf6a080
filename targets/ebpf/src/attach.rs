//! The interfaces that carry the programs: attached, listed, swept, detached.
//!
//! `to_pod` sits at the egress hook of a pod's host-side interface, `from_pod` at its ingress hook,
//! and `translated` at the egress hook of the node's other layer-3 interfaces, which this crate
//! calls uplinks. Interfaces are those of the calling thread's network namespace. With pins, each
//! attachment is on the BPF file system and outlives the process; without pins it ends with the
//! process. Not here: which interfaces belong to pods (the runtime knows).

mod check;
mod upgrade;

use netpolc_table::IfIndex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::PathBuf,
    time::Duration,
};

use netpolc_target::{Error, Hook};

use crate::{
    clsact::{self, Qdisc},
    loader::Loaded,
    pins::Pins,
    sys::{self, TcxHook, refused},
    tables::Access,
};
use check::filters_stand;
use upgrade::Upgrade;

/// How programs are to be attached to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By TCX links where the kernel has them, by filters in clsact otherwise.
    #[default]
    Best,
    /// As `Best` in the end, but pods get filters in clsact first, which takes microseconds: the
    /// kernel makes whoever attaches a TCX link wait for a grace period. [`crate::Ebpf::upgrade`]
    /// moves them to links later.
    Quick,
    /// By filters in clsact, on every kernel.
    Clsact,
}

/// How an interface's programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By TCX links.
    Tcx,
    /// By filters in a clsact qdisc.
    Clsact,
}

/// What an interface is to the node, which decides the programs that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The host's end of a pod's interface: carries `to_pod` and `from_pod`.
    Pod,
    /// Another interface, by which packets leave the node: carries `translated`.
    Uplink,
}

impl Role {
    fn hooks(self) -> &'static [Hook] {
        match self {
            Role::Pod => &[Hook::ToPod, Hook::FromPod],
            Role::Uplink => &[Hook::Translated],
        }
    }

    fn of(hook: Hook) -> Self {
        if hook == Hook::Translated { Role::Uplink } else { Role::Pod }
    }
}

/// An interface that carries the programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's index.
    pub ifindex: IfIndex,
    /// The interface's name; None where the interface is gone, or is not in this network namespace.
    pub name: Option<String>,
    /// How the programs are attached.
    pub way: Way,
    /// Which programs the interface carries.
    pub role: Role,
}

/// A TCX link, as far as this process holds it.
#[derive(Debug)]
enum Link {
    /// The descriptor is open: the link lives as long as it, or its pin.
    Open(OwnedFd),
    /// Only the pin holds the link, which is opened when it is needed: descriptors are scarce where
    /// there are many interfaces.
    Pinned,
}

impl Link {
    /// Keeps the descriptor where that has a use: without pins, and for pods, whose links then
    /// survive the loss of their pins. Those of pods take no more than a share of what the process
    /// may open; `open` is how many it has already.
    fn new(link: OwnedFd, role: Role, open: usize, pins: Option<&Pins>) -> Self {
        let few = || open < sys::descriptor_limit() / DESCRIPTOR_SHARE;
        if pins.is_none() || (role == Role::Pod && few()) { Link::Open(link) } else { Link::Pinned }
    }

    /// Does `work` with the link's descriptor, which is opened from the pin at `path` if need be.
    fn with<T>(
        &self,
        path: Option<PathBuf>,
        work: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match (self, path) {
            (Link::Open(link), _) => work(link.as_fd()),
            (Link::Pinned, Some(path)) => work(sys::pinned(&path)?.as_fd()),
            (Link::Pinned, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Links of pods take at most one in so many of the descriptors that the process may open.
const DESCRIPTOR_SHARE: usize = 4;

/// What one interface carries.
#[derive(Debug)]
enum Held {
    /// A TCX link for each hook.
    Tcx(BTreeMap<Hook, Link>),
    /// Filters in a clsact qdisc, for all hooks of the role.
    Clsact(Qdisc, Role),
}

impl Held {
    fn role(&self) -> Role {
        match self {
            // While an interface changes its role it has links of both for a moment.
            Held::Tcx(links)
                if links.contains_key(&Hook::ToPod) || links.contains_key(&Hook::FromPod) =>
            {
                Role::Pod
            }
            Held::Tcx(_) => Role::Uplink,
            Held::Clsact(_, role) => *role,
        }
    }
}

/// The programs of a generation, in the order of [`HOOKS`].
pub(crate) type Programs = [(Hook, Loaded); 3];

/// All hooks, in the order in which their programs are kept.
const HOOKS: [Hook; 3] = [Hook::ToPod, Hook::FromPod, Hook::Translated];

/// The pins that say that an interface has filters in a clsact qdisc, with what each says: who made
/// the qdisc, and the interface's role.
const MARKERS: [(&str, Qdisc, Role); 4] = [
    // The order matters: where somebody removed a foreign qdisc and netpolc made another, both pins
    // of a role exist, and the later one counts.
    ("clsact", Qdisc::Found, Role::Pod),
    ("clsact_q", Qdisc::Made, Role::Pod),
    ("uplink", Qdisc::Found, Role::Uplink),
    ("uplink_q", Qdisc::Made, Role::Uplink),
];

/// The pin that says that netpolc made the clsact qdisc beside an interface's links, and has to
/// remove it.
const QDISC: &str = "qdisc";

fn marker(qdisc: Qdisc, role: Role) -> &'static str {
    MARKERS.iter().find(|m| (m.1, m.2) == (qdisc, role)).expect("MARKERS has every pair").0
}

/// What a target has attached, and what it left at interfaces on the way.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    held: BTreeMap<IfIndex, Held>,
    /// Interfaces whose links took the place of filters in a qdisc that netpolc made. The qdisc
    /// stays as long as the links do, since the kernel loses packets where one comes or goes
    /// (sch_api.c, qdisc_graft).
    qdiscs: BTreeSet<IfIndex>,
    /// The links that a thread is making.
    upgrade: Option<Upgrade>,
    /// Interfaces that keep their filters, because the kernel refused links.
    stay: BTreeSet<IfIndex>,
}

/// The side of the interface that a hook is at.
fn side(hook: Hook) -> TcxHook {
    match hook {
        Hook::ToPod | Hook::Translated => TcxHook::Egress,
        Hook::FromPod => TcxHook::Ingress,
    }
}

/// The name of a hook in the names of pins.
pub(crate) fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::ToPod => "to_pod",
        Hook::FromPod => "from_pod",
        Hook::Translated => "translated",
    }
}

fn call(what: &str, ifindex: IfIndex) -> String {
    match sys::ifname(ifindex) {
        Ok(name) => format!("{what} interface {name} ({ifindex})"),
        Err(_) => format!("{what} interface {ifindex}"),
    }
}

fn gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

impl Attachments {
    /// Opens the pinned attachments. A writer forgets those whose interface is gone.
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        let (mut this, gone) = Self::find(pins)?;
        if access == Access::Write {
            gone.iter().try_for_each(|ifindex| this.forget(*ifindex, Some(pins)))?;
            this.sweep(Some(pins))?;
        }
        Ok(this)
    }

    /// Finds the pinned attachments, and the interfaces among them that are gone.
    fn find(pins: &Pins) -> Result<(Self, BTreeSet<IfIndex>), Error> {
        let (mut this, mut gone) = (Attachments::default(), BTreeSet::new());
        let names = pins.links()?;
        // Where an interface has pins of both kinds, a process was killed before the filter made
        // way for the link: the filter counts.
        let filtered = |ifindex: IfIndex| {
            MARKERS.iter().any(|(kind, ..)| names.contains(&format!("{ifindex}_{kind}")))
        };
        for name in &names {
            let Some((ifindex, kind)) =
                name.split_once('_').and_then(|(i, k)| Some((IfIndex::new(i.parse().ok()?), k)))
            else {
                continue;
            };
            let path = pins.link(name);
            if let Some((_, qdisc, role)) = MARKERS.iter().find(|m| m.0 == kind) {
                this.held.insert(ifindex, Held::Clsact(*qdisc, *role));
            } else if kind == QDISC {
                this.qdiscs.insert(ifindex);
            } else if let Some(hook) = HOOKS.into_iter().find(|h| hook_name(*h) == kind)
                && !filtered(ifindex)
            {
                let link = sys::pinned(&path)
                    .map_err(|e| refused(format!("open {}", path.display()), e))?;
                if sys::link_facts(link.as_fd()).is_ok_and(|facts| facts.ifindex != Some(ifindex)) {
                    gone.insert(ifindex);
                }
                let link = Link::new(link, Role::of(hook), this.open_links(), Some(pins));
                let entry = this.held.entry(ifindex).or_insert_with(|| Held::Tcx(BTreeMap::new()));
                if let Held::Tcx(links) = entry {
                    links.insert(hook, link);
                }
            }
        }
        Ok((this, gone))
    }

    fn open_links(&self) -> usize {
        let links = self.held.values().filter_map(|held| match held {
            Held::Tcx(links) => Some(links),
            Held::Clsact(..) => None,
        });
        links.flat_map(BTreeMap::values).filter(|link| matches!(link, Link::Open(_))).count()
    }

    /// Forgets attachments whose interface is gone and returns these.
    pub fn sweep(&mut self, pins: Option<&Pins>) -> Result<Vec<IfIndex>, Error> {
        let list: Vec<IfIndex> =
            self.held.iter().filter(|(i, h)| vanished(**i, h, pins)).map(|(i, _)| *i).collect();
        for &ifindex in &list {
            self.forget(ifindex, pins)?;
        }
        Ok(list)
    }

    /// Removes an interface's pins and descriptors. That detaches its TCX links, but not its
    /// filters.
    fn forget(&mut self, ifindex: IfIndex, pins: Option<&Pins>) -> Result<(), Error> {
        if let Some(pins) = pins {
            for hook in HOOKS {
                unpin(pins, &format!("{ifindex}_{}", hook_name(hook)))?;
            }
            for marker in MARKERS.iter().map(|m| m.0).chain([QDISC]) {
                unpin(pins, &format!("{ifindex}_{marker}"))?;
            }
        }
        self.held.remove(&ifindex);
        self.qdiscs.remove(&ifindex);
        Ok(())
    }

    /// Makes an interface carry the programs of a role, whatever it carried before.
    pub fn attach(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        programs: &Programs,
        mode: Mode,
        pins: Option<&Pins>,
    ) -> Result<Way, Error> {
        // Only this interface is checked: a sweep for each one that is attached would take
        // quadratic time.
        if self.held.get(&ifindex).is_some_and(|held| vanished(ifindex, held, pins)) {
            self.forget(ifindex, pins)?;
        }
        // Quick is right only for a pod without links. TCX programs of others would run before
        // filters, and the making of a qdisc loses packets, which on an uplink are those of the
        // whole node.
        let quick = (mode, role) == (Mode::Quick, Role::Pod)
            && !matches!(self.held.get(&ifindex), Some(Held::Tcx(_)))
            && [TcxHook::Ingress, TcxHook::Egress]
                .iter()
                .all(|hook| sys::tcx_programs(ifindex, *hook) == 0);
        if matches!(self.held.get(&ifindex), Some(held) if held.role() != role) {
            self.stop_upgrade();
        }
        if mode != Mode::Clsact
            && !quick
            && !matches!(self.held.get(&ifindex), Some(Held::Clsact(..)))
        {
            match self.attach_tcx(ifindex, role, programs, pins) {
                Ok(()) => return Ok(Way::Tcx),
                // A kernel without TCX knows neither the attach type nor the kind of link.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                    self.forget(ifindex, pins)?;
                }
                Err(e) => return Err(refused(call("attach to", ifindex), e)),
            }
        }
        self.attach_clsact(ifindex, role, programs, pins)
            .map_err(|e| refused(call("attach by clsact to", ifindex), e))?;
        Ok(Way::Clsact)
    }

    fn attach_tcx(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        programs: &Programs,
        pins: Option<&Pins>,
    ) -> io::Result<()> {
        let name = |hook: Hook| format!("{ifindex}_{}", hook_name(hook));
        let path = |hook: Hook| pins.map(|pins| pins.link(&name(hook)));
        for (hook, program) in programs.iter().filter(|(hook, _)| role.hooks().contains(hook)) {
            if let Some(Held::Tcx(links)) = self.held.get(&ifindex)
                && let Some(link) = links.get(hook)
            {
                let update = |link: BorrowedFd<'_>| {
                    let facts = sys::link_facts(link)?;
                    if facts.ifindex != Some(ifindex) {
                        // The link belonged to an interface that is gone, whose index another one
                        // has now.
                        return Err(io::ErrorKind::NotFound.into());
                    }
                    if facts.program != program.id {
                        sys::link_update(link, program.fd())?;
                    }
                    Ok(())
                };
                match link.with(path(*hook), update) {
                    // Somebody removed the pin, and with it the link: it is made again below.
                    Err(e)
                        if matches!(link, Link::Pinned) && e.kind() == io::ErrorKind::NotFound =>
                    {
                        absent_is_fine(path(*hook).map_or(Ok(()), fs::remove_file))?;
                    }
                    done => {
                        done?;
                        continue;
                    }
                }
            }
            let link = attach_with_retries(program.fd(), ifindex, *hook)?;
            if let Some(path) = path(*hook) {
                sys::pin(link.as_fd(), &path)?;
            }
            let link = Link::new(link, role, self.open_links(), pins);
            let entry = self.held.entry(ifindex).or_insert_with(|| Held::Tcx(BTreeMap::new()));
            if let Held::Tcx(links) = entry {
                links.insert(*hook, link);
            }
        }
        // Links of another role go only now that those of the new role are in place.
        if let Some(Held::Tcx(links)) = self.held.get_mut(&ifindex) {
            for (hook, _) in links.extract_if(.., |hook, _| !role.hooks().contains(hook)) {
                if let Some(path) = path(hook) {
                    absent_is_fine(fs::remove_file(path))?;
                }
            }
        }
        Ok(())
    }

    fn attach_clsact(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        programs: &Programs,
        pins: Option<&Pins>,
    ) -> io::Result<()> {
        // Whatever is remembered, the qdisc may be missing: another interface may have the index
        // now.
        let found = clsact::ensure_qdisc(ifindex)?;
        let qdisc = match self.held.get(&ifindex) {
            Some(Held::Clsact(Qdisc::Made, _)) => Qdisc::Made,
            _ if self.qdiscs.contains(&ifindex) => Qdisc::Made,
            _ => found,
        };
        // Pinned before the filters are put, so that whoever is killed in between leaves no unknown
        // ones.
        if let Some(pins) = pins {
            mark(pins, &format!("{ifindex}_{}", marker(qdisc, role)))?;
        }
        for (hook, program) in programs.iter().filter(|(hook, _)| role.hooks().contains(hook)) {
            clsact::attach(program.fd(), ifindex, side(*hook))?;
        }
        match (self.held.insert(ifindex, Held::Clsact(qdisc, role)), pins) {
            (Some(Held::Tcx(links)), Some(pins)) => {
                for hook in links.keys() {
                    fs::remove_file(pins.link(&format!("{ifindex}_{}", hook_name(*hook))))?;
                }
            }
            // Where both roles have a program at one side, the new one took the old one's place.
            (Some(Held::Clsact(_, before)), pins) if before != role => {
                let sides = |role: Role| role.hooks().iter().map(|hook| side(*hook));
                for old in sides(before).filter(|old| !sides(role).any(|new| new == *old)) {
                    clsact::detach(ifindex, old)?;
                }
                for (marker, ..) in MARKERS.iter().filter(|m| m.2 == before) {
                    if let Some(pins) = pins {
                        absent_is_fine(fs::remove_dir(pins.link(&format!("{ifindex}_{marker}"))))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Replaces the programs of every interface by these.
    pub fn replace(&mut self, programs: &Programs, pins: Option<&Pins>) -> Result<(), Error> {
        self.stop_upgrade();
        self.sweep(pins)?;
        let facts = |(i, h): (&IfIndex, &Held)| (*i, matches!(h, Held::Tcx(_)), h.role());
        let mut list: Vec<(IfIndex, bool, Role)> = self.held.iter().map(facts).collect();
        // Uplinks come first: a new `from_pod` may defer packets that an old `translated` would not
        // judge.
        list.sort_by_key(|(ifindex, _, role)| (*role == Role::Pod, *ifindex));
        for (ifindex, tcx, role) in list {
            let done = if tcx {
                self.attach_tcx(ifindex, role, programs, pins)
            } else {
                self.attach_clsact(ifindex, role, programs, pins)
            };
            match done {
                Err(e) if !gone(&e) => {
                    return Err(refused(call("replace the programs of", ifindex), e));
                }
                Err(_) => self.forget(ifindex, pins)?,
                Ok(()) => {}
            }
        }
        pins.map_or(Ok(()), |pins| self.drop_stray_links(pins))
    }

    /// Takes the programs off an interface. Does nothing where it carries none.
    pub fn detach(&mut self, ifindex: IfIndex, pins: Option<&Pins>) -> Result<(), Error> {
        self.stop_upgrade();
        let mut made = self.qdiscs.contains(&ifindex);
        if let Some(Held::Clsact(qdisc, role)) = self.held.get(&ifindex) {
            let done = role.hooks().iter().try_for_each(|h| clsact::detach(ifindex, side(*h)));
            done.map_err(|e| refused(call("detach from", ifindex), e))?;
            made |= *qdisc == Qdisc::Made;
        }
        if made {
            clsact::remove_qdisc(ifindex)
                .map_err(|e| refused(call("remove the qdisc of", ifindex), e))?;
        }
        self.forget(ifindex, pins)
    }

    /// Takes the programs off all interfaces.
    pub fn detach_all(&mut self, pins: Option<&Pins>) -> Result<(), Error> {
        let list: BTreeSet<IfIndex> = self.held.keys().chain(&self.qdiscs).copied().collect();
        list.into_iter().try_for_each(|ifindex| self.detach(ifindex, pins))
    }

    /// All attachments, ordered by the interfaces' indices.
    pub fn list(&self) -> Vec<Attachment> {
        let way = |h: &Held| if matches!(h, Held::Tcx(_)) { Way::Tcx } else { Way::Clsact };
        self.held
            .iter()
            .map(|(&ifindex, h)| Attachment {
                ifindex,
                name: sys::ifname(ifindex).ok(),
                way: way(h),
                role: h.role(),
            })
            .collect()
    }
}

/// Attaches a program by TCX, and tries again while it counts as attached. The kernel frees a link
/// some time after its last pin or descriptor is gone, and refuses to attach a program twice.
fn attach_with_retries(
    program: BorrowedFd<'_>,
    ifindex: IfIndex,
    hook: Hook,
) -> io::Result<OwnedFd> {
    const RETRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..RETRIES {
        match sys::tcx_attach(program, ifindex, side(hook)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    sys::tcx_attach(program, ifindex, side(hook))
}

/// Whether the interface is gone, or somebody detached a link from it. Its index may be another
/// one's by now, which its links tell.
fn vanished(ifindex: IfIndex, held: &Held, pins: Option<&Pins>) -> bool {
    let other = |(hook, link): (&Hook, &Link)| {
        let pin = pins.map(|pins| pins.link(&format!("{ifindex}_{}", hook_name(*hook))));
        link.with(pin, sys::link_facts).is_ok_and(|facts| facts.ifindex != Some(ifindex))
    };
    match held {
        Held::Tcx(links) if links.iter().any(other) => true,
        _ => sys::ifname(ifindex).is_err(),
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes a directory among the pins whose name is all that it says.
fn mark(pins: &Pins, name: &str) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(pins.link(name)) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn unpin(pins: &Pins, name: &str) -> Result<(), Error> {
    let path = pins.link(name);
    let done = match fs::symlink_metadata(&path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir(&path),
        Ok(_) => fs::remove_file(&path),
        Err(e) => Err(e),
    };
    match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(refused(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
