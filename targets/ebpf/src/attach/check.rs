//! Restores what somebody else took away from interfaces: pins of links, programs of links,
//! filters.
//!
//! Not here: pins of maps and programs (`target`).

use std::{collections::BTreeMap, io};

use netpolc_table::IfIndex;
use netpolc_target::{Error, Hook};

use super::{Attachments, Held, Link, Programs, QDISC, Role, call, gone, hook_name, mark, side};
use crate::{
    clsact,
    loader::Loaded,
    pins::Pins,
    sys::{self, refused},
};

impl Attachments {
    /// Checks that every interface still carries its programs and has its pins, and restores what
    /// is missing. Returns a line for each. `before` is the directory of pins that was in use
    /// before it had to be made anew.
    pub fn check(
        &mut self,
        programs: &Programs,
        pins: Option<&Pins>,
        before: Option<&Pins>,
    ) -> Result<Vec<String>, Error> {
        // Links that somebody detached look like those of an interface that is gone. Where another
        // one got its index, it carries the programs for nothing until the agent sees that.
        let roles: BTreeMap<IfIndex, Role> =
            self.held.iter().map(|(ifindex, held)| (*ifindex, held.role())).collect();
        let swept = self.sweep(pins)?.into_iter().filter(|i| sys::ifname(*i).is_ok());
        let detached: Vec<IfIndex> = swept.collect();
        let mut found = Vec::new();
        for ifindex in detached {
            match self.attach_tcx(ifindex, roles[&ifindex], programs, pins) {
                Err(e) if gone(&e) => {}
                Err(e) => return Err(refused(call("bring back the TCX links of", ifindex), e)),
                Ok(()) => {
                    found.push(call("a TCX link was detached and has been restored:", ifindex))
                }
            }
        }
        let mut missing = Vec::new();
        for (&ifindex, held) in &self.held {
            let what = match held {
                Held::Tcx(links) => {
                    let pin = |hook: &Hook| {
                        pins.is_none_or(|p| {
                            p.link(&format!("{ifindex}_{}", hook_name(*hook))).exists()
                        })
                    };
                    let other = |(hook, link): (&Hook, &Link)| {
                        let mine = programs
                            .iter()
                            .find(|(of, _)| of == hook)
                            .map(|(_, program)| program.id);
                        let pin = pins.map(|p| p.link(&format!("{ifindex}_{}", hook_name(*hook))));
                        link.with(pin, sys::link_facts)
                            .is_ok_and(|facts| Some(facts.program) != mine)
                    };
                    let gone =
                        links.keys().any(|hook| !pin(hook)).then_some("the pin of its TCX link");
                    gone.or_else(|| {
                        links.iter().any(other).then_some("the program of its TCX link")
                    })
                }
                Held::Clsact(_, role) => {
                    (!filters_stand(ifindex, *role, programs)).then_some("its filter in clsact")
                }
            };
            missing.extend(what.map(|what| (ifindex, what)));
        }
        for (ifindex, what) in missing {
            let role = self.held.get(&ifindex).map_or(Role::Uplink, Held::role);
            let done = match self.held.get(&ifindex) {
                Some(Held::Clsact(..)) => self.attach_clsact(ifindex, role, programs, pins),
                _ => self.repin(ifindex, role, programs, pins, before),
            };
            match done {
                Err(e) if gone(&e) => self.forget(ifindex, pins)?,
                Err(e) => return Err(refused(call(&format!("bring back {what} of"), ifindex), e)),
                Ok(()) => {
                    found.push(call(&format!("{what} was removed and has been restored:"), ifindex))
                }
            }
        }
        Ok(found)
    }

    /// The interfaces from which somebody took the programs, or that carry others.
    pub fn loose(&self, programs: &Programs, pins: Option<&Pins>) -> Vec<IfIndex> {
        let carries = |ifindex: IfIndex, hook: Hook, link: &Link| {
            let pin = pins.map(|pins| pins.link(&format!("{ifindex}_{}", hook_name(hook))));
            let mine = programs.iter().find(|(of, _)| *of == hook).map(|(_, program)| program.id);
            link.with(pin, sys::link_facts)
                .is_ok_and(|facts| facts.ifindex == Some(ifindex) && Some(facts.program) == mine)
        };
        let loose = |(ifindex, held): &(&IfIndex, &Held)| match held {
            Held::Tcx(links) => {
                links.iter().any(|(hook, link)| !carries(**ifindex, *hook, link))
                    || !held.role().hooks().iter().all(|hook| links.contains_key(hook))
            }
            Held::Clsact(_, role) => !filters_stand(**ifindex, *role, programs),
        };
        self.held.iter().filter(loose).map(|(ifindex, _)| *ifindex).collect()
    }

    /// Pins the links of an interface again where they still exist, and attaches anew where they do
    /// not.
    fn repin(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        programs: &Programs,
        pins: Option<&Pins>,
        before: Option<&Pins>,
    ) -> io::Result<()> {
        if let (Some(Held::Tcx(links)), Some(pins)) = (self.held.get_mut(&ifindex), pins) {
            if self.qdiscs.contains(&ifindex) {
                mark(pins, &format!("{ifindex}_{QDISC}"))?;
            }
            links.retain(|hook, link| {
                let name = format!("{ifindex}_{}", hook_name(*hook));
                let path = pins.link(&name);
                let old = before.and_then(|before| before.locked_link(&name));
                path.exists() || link.with(old, |link| sys::pin(link, &path)).is_ok()
            });
        }
        self.attach_tcx(ifindex, role, programs, pins)
    }
}

/// Whether the interface carries exactly these programs by filters.
pub(super) fn filters_stand(ifindex: IfIndex, role: Role, programs: &Programs) -> bool {
    let stands = |(hook, program): &(Hook, Loaded)| {
        clsact::program(ifindex, side(*hook)).is_ok_and(|id| id == Some(program.id))
    };
    programs.iter().filter(|(hook, _)| role.hooks().contains(hook)).all(stands)
}
