//! The interfaces that carry the programs: attached, listed, swept, detached.
//!
//! `to_pod` sits at the egress hook of a pod's host-side interface, `from_pod` at its ingress hook; `translated` at the egress hook of
//! the node's other layer-3 interfaces (its *uplinks*). Interfaces are those of
//! the calling thread's network namespace. With pins each attachment is on the BPF file system and outlives the
//! process; without, it ends with it. Not here: which interfaces are pods' (the runtime knows).

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use netpolc_target::{Error, Hook};

use crate::{
    clsact::{self, Qdisc},
    loader::Loaded,
    pins::Pins,
    sys::{self, TcxHook, refused},
    tables::Access,
};

/// How programs get to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// TCX links where the kernel has them, clsact otherwise.
    #[default]
    Best,
    /// clsact, always.
    Clsact,
}

/// How programs got to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// TCX links.
    Tcx,
    /// Filters in a clsact qdisc.
    Clsact,
}

/// What an interface is to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A pod's host-side end.
    Pod,
    /// Another one, by which packets leave.
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
    /// Its index.
    pub ifindex: u32,
    /// Its name; None where it has vanished, or is not in this network namespace.
    pub name: Option<String>,
    /// How.
    pub way: Way,
    /// Whose programs.
    pub role: Role,
}

/// One interface's links.
#[derive(Debug)]
enum Held {
    Tcx(BTreeMap<Hook, OwnedFd>),
    Clsact(Qdisc, Role),
}

impl Held {
    fn role(&self) -> Role {
        match self {
            Held::Tcx(links) => links.keys().next().map_or(Role::Pod, |hook| Role::of(*hook)),
            Held::Clsact(_, role) => *role,
        }
    }
}

/// All programs.
pub(crate) type Programs = [(Hook, Loaded); 3];

/// All hooks.
const HOOKS: [Hook; 3] = [Hook::ToPod, Hook::FromPod, Hook::Translated];

/// Pins that say that an interface has filters in a clsact qdisc: found or made, of a pod or an uplink.
const MARKERS: [(&str, Qdisc, Role); 4] = [
    // in this order; both of a role are there where somebody else's qdisc went and we made one
    ("clsact", Qdisc::Found, Role::Pod),
    ("clsact_q", Qdisc::Made, Role::Pod),
    ("uplink", Qdisc::Found, Role::Uplink),
    ("uplink_q", Qdisc::Made, Role::Uplink),
];

fn marker(qdisc: Qdisc, role: Role) -> &'static str {
    MARKERS.iter().find(|m| (m.1, m.2) == (qdisc, role)).expect("all are listed").0
}

/// All attachments.
#[derive(Debug, Default)]
pub(crate) struct Attachments(BTreeMap<u32, Held>);

/// Which side of the interface a hook is.
fn side(hook: Hook) -> TcxHook {
    match hook {
        Hook::ToPod | Hook::Translated => TcxHook::Egress,
        Hook::FromPod => TcxHook::Ingress,
    }
}

/// As pins are named.
pub(crate) fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::ToPod => "to_pod",
        Hook::FromPod => "from_pod",
        Hook::Translated => "translated",
    }
}

fn call(what: &str, ifindex: u32) -> String {
    match sys::ifname(ifindex) {
        Ok(name) => format!("{what} interface {name} ({ifindex})"),
        Err(_) => format!("{what} interface {ifindex}"),
    }
}

fn gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

impl Attachments {
    /// Finds the pinned ones; a writer drops those whose interface has vanished.
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        let mut this = Self::find(pins)?;
        if access == Access::Write {
            this.sweep(Some(pins))?;
        }
        Ok(this)
    }

    fn find(pins: &Pins) -> Result<Self, Error> {
        let mut this = Attachments::default();
        for name in pins.links()? {
            let Some((ifindex, kind)) = name.split_once('_').and_then(|(i, k)| Some((i.parse().ok()?, k))) else {
                continue;
            };
            let path = pins.link(&name);
            if let Some((_, qdisc, role)) = MARKERS.iter().find(|m| m.0 == kind) {
                this.0.insert(ifindex, Held::Clsact(*qdisc, *role));
            } else if let Some(hook) = HOOKS.into_iter().find(|h| hook_name(*h) == kind) {
                let link = sys::pinned(&path).map_err(|e| refused(format!("open {}", path.display()), e))?;
                let entry = this.0.entry(ifindex).or_insert_with(|| Held::Tcx(BTreeMap::new()));
                if let Held::Tcx(links) = entry {
                    links.insert(hook, link);
                }
            }
        }
        Ok(this)
    }

    /// Drops attachments whose interface has vanished; answers which.
    pub fn sweep(&mut self, pins: Option<&Pins>) -> Result<Vec<u32>, Error> {
        let vanished = |ifindex: u32, held: &Held| match held {
            Held::Tcx(links) => {
                links.values().any(|link| sys::link_facts(link.as_fd()).is_ok_and(|f| f.ifindex != Some(ifindex)))
            }
            Held::Clsact(..) => sys::ifname(ifindex).is_err(),
        };
        let list: Vec<u32> = self.0.iter().filter(|(i, h)| vanished(**i, h)).map(|(i, _)| *i).collect();
        for &ifindex in &list {
            self.forget(ifindex, pins)?;
        }
        Ok(list)
    }

    /// Removes pins and descriptors; a TCX link detaches by that.
    fn forget(&mut self, ifindex: u32, pins: Option<&Pins>) -> Result<(), Error> {
        if let Some(pins) = pins {
            for hook in HOOKS {
                unpin(pins, &format!("{ifindex}_{}", hook_name(hook)))?;
            }
            for (marker, ..) in MARKERS {
                unpin(pins, &format!("{ifindex}_{marker}"))?;
            }
        }
        self.0.remove(&ifindex);
        Ok(())
    }

    /// Makes the interface carry these programs, whatever it carried before.
    pub fn attach(
        &mut self,
        ifindex: u32,
        role: Role,
        programs: &Programs,
        mode: Mode,
        pins: Option<&Pins>,
    ) -> Result<Way, Error> {
        self.sweep(pins)?;
        if self.0.get(&ifindex).is_some_and(|held| held.role() != role) {
            self.detach(ifindex, pins)?;
        }
        if mode == Mode::Best && !matches!(self.0.get(&ifindex), Some(Held::Clsact(..))) {
            match self.attach_tcx(ifindex, role, programs, pins) {
                Ok(()) => return Ok(Way::Tcx),
                // kernels without TCX know neither the attach type nor the link
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

    fn attach_tcx(&mut self, ifindex: u32, role: Role, programs: &Programs, pins: Option<&Pins>) -> io::Result<()> {
        for (hook, program) in programs.iter().filter(|(hook, _)| role.hooks().contains(hook)) {
            if let Some(Held::Tcx(links)) = self.0.get(&ifindex)
                && let Some(link) = links.get(hook)
            {
                if sys::link_facts(link.as_fd())?.program != program.id {
                    sys::link_update(link.as_fd(), program.fd())?;
                }
                continue;
            }
            let link = sys::tcx_attach(program.fd(), ifindex, side(*hook))?;
            if let Some(pins) = pins {
                sys::pin(link.as_fd(), &pins.link(&format!("{ifindex}_{}", hook_name(*hook))))?;
            }
            let entry = self.0.entry(ifindex).or_insert_with(|| Held::Tcx(BTreeMap::new()));
            if let Held::Tcx(links) = entry {
                links.insert(*hook, link);
            }
        }
        Ok(())
    }

    fn attach_clsact(&mut self, ifindex: u32, role: Role, programs: &Programs, pins: Option<&Pins>) -> io::Result<()> {
        // always looked for: an interface may have come back under the same index
        let found = clsact::ensure_qdisc(ifindex)?;
        let qdisc = match self.0.get(&ifindex) {
            Some(Held::Clsact(Qdisc::Made, _)) => Qdisc::Made,
            _ => found,
        };
        if let Some(pins) = pins {
            match fs::create_dir(pins.link(&format!("{ifindex}_{}", marker(qdisc, role)))) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        for (hook, program) in programs.iter().filter(|(hook, _)| role.hooks().contains(hook)) {
            clsact::attach(program.fd(), ifindex, side(*hook))?;
        }
        if let Some(Held::Tcx(links)) = self.0.insert(ifindex, Held::Clsact(qdisc, role))
            && let Some(pins) = pins
        {
            for hook in links.keys() {
                fs::remove_file(pins.link(&format!("{ifindex}_{}", hook_name(*hook))))?;
            }
        }
        Ok(())
    }

    /// Makes every interface carry these programs, by replacing what it carries.
    pub fn replace(&mut self, programs: &Programs, pins: Option<&Pins>) -> Result<(), Error> {
        self.sweep(pins)?;
        let facts = |(i, h): (&u32, &Held)| (*i, matches!(h, Held::Tcx(_)), h.role());
        let mut list: Vec<(u32, bool, Role)> = self.0.iter().map(facts).collect();
        // What judges first, then what leaves packets to it.
        list.sort_by_key(|(ifindex, _, role)| (*role == Role::Pod, *ifindex));
        for (ifindex, tcx, role) in list {
            let done = if tcx {
                self.attach_tcx(ifindex, role, programs, pins)
            } else {
                self.attach_clsact(ifindex, role, programs, pins)
            };
            match done {
                Err(e) if !gone(&e) => return Err(refused(call("replace the programs of", ifindex), e)),
                Err(_) => self.forget(ifindex, pins)?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Takes the programs off an interface; none there is fine.
    pub fn detach(&mut self, ifindex: u32, pins: Option<&Pins>) -> Result<(), Error> {
        if let Some(Held::Clsact(qdisc, role)) = self.0.get(&ifindex) {
            let done = role.hooks().iter().try_for_each(|h| clsact::detach(ifindex, side(*h)));
            let done = done.and_then(|()| if *qdisc == Qdisc::Made { clsact::remove_qdisc(ifindex) } else { Ok(()) });
            done.map_err(|e| refused(call("detach from", ifindex), e))?;
        }
        self.forget(ifindex, pins)
    }

    /// Takes them off all.
    pub fn detach_all(&mut self, pins: Option<&Pins>) -> Result<(), Error> {
        let list: Vec<u32> = self.0.keys().copied().collect();
        list.into_iter().try_for_each(|ifindex| self.detach(ifindex, pins))
    }

    /// All, by index.
    pub fn list(&self) -> Vec<Attachment> {
        let way = |h: &Held| if matches!(h, Held::Tcx(_)) { Way::Tcx } else { Way::Clsact };
        self.0
            .iter()
            .map(|(&ifindex, h)| Attachment { ifindex, name: sys::ifname(ifindex).ok(), way: way(h), role: h.role() })
            .collect()
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
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(refused(format!("remove {}", path.display()), e)),
        _ => Ok(()),
    }
}
