//! Which TCP openings are allowed, by prefix of one end: what a NIC can decide without state.
//!
//! Not here: filters ([`super::layers`], [`super::flat`]), the other protocols (a UDP or SCTP
//! packet may be a reply).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netpolc_table::{Origins, schema::Family};

use super::{
    ports::PortSet,
    region::{Region, covers, whole},
};

/// The allowed openings of one direction of an endpoint, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Openings {
    /// The family of all prefixes.
    pub family: Family,
    /// By (address, length); the longest prefix that holds an address decides. The first is the
    /// whole family, and each of the others differs from the one that covers it.
    parts: Vec<Opening>,
}

/// One prefix with the ports that may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The remote addresses.
    pub prefix: IpNetwork,
    /// TCP ports that may be opened.
    pub allowed: PortSet,
    /// Policies and rules behind it.
    pub origins: Origins,
}

impl Openings {
    /// What a set's answer says about TCP.
    pub fn of(region: &Region) -> Self {
        let part = |p: &super::region::Part| Opening {
            prefix: p.prefix,
            allowed: p.answer.ports(6).into_owned(),
            origins: p.origins.clone(),
        };
        let mut all =
            Self { family: region.family, parts: region.parts.iter().map(part).collect() };
        all.settle();
        all
    }

    /// Openings that allow the same ports to every remote.
    pub fn everywhere(family: Family, allowed: PortSet, origins: Origins) -> Self {
        Self { family, parts: vec![Opening { prefix: whole(family), allowed, origins }] }
    }

    /// Openings of which only one part is of interest: `at` answers nothing outside of it.
    pub fn alone(family: Family, part: Opening) -> Self {
        Self { family, parts: vec![part] }
    }

    /// The parts, sorted by (address, length).
    pub fn parts(&self) -> &[Opening] {
        &self.parts
    }

    /// What holds for one address of this family.
    pub fn at(&self, address: IpAddr) -> &Opening {
        let covering = self.parts.iter().filter(|p| p.prefix.contains(address));
        covering.max_by_key(|p| p.prefix.prefix()).unwrap_or(&self.parts[0])
    }

    /// Is every opening allowed?
    pub fn allows_all(&self) -> bool {
        self.parts.iter().all(|p| p.allowed.is_all())
    }

    /// Is there an address in `prefix` to which something is denied?
    pub fn denies_within(&self, prefix: IpNetwork) -> bool {
        let inner = self.parts.iter().filter(|p| covers(prefix, p.prefix));
        inner.chain([self.at(prefix.network())]).any(|p| !p.allowed.is_all())
    }

    /// Says something else about some prefixes; what was said about longer ones stays.
    pub fn set(&mut self, parts: impl IntoIterator<Item = Opening>) {
        for part in parts {
            self.parts.retain(|p| p.prefix != part.prefix);
            self.parts.push(part);
        }
        self.settle();
    }

    /// Says nothing of its own about some prefixes: what covers them holds there.
    pub fn forget(&mut self, of: impl Fn(IpNetwork) -> bool) {
        self.parts.retain(|p| p.prefix.prefix() == 0 || !of(p.prefix));
        self.settle();
    }

    /// Allows everything for a prefix and all that is in it.
    pub fn pass(&mut self, prefix: IpNetwork, origins: Origins) {
        self.parts.retain(|p| !covers(prefix, p.prefix));
        self.set([Opening { prefix, allowed: PortSet::all(), origins }]);
    }

    /// Sorts the parts, and leaves out those that say what their cover says.
    fn settle(&mut self) {
        self.parts.sort_by_key(|p| (p.prefix.network(), p.prefix.prefix()));
        let mut kept: Vec<Opening> = Vec::with_capacity(self.parts.len());
        let mut open: Vec<usize> = Vec::new();
        for part in self.parts.drain(..) {
            while open.last().is_some_and(|&at| !covers(kept[at].prefix, part.prefix)) {
                open.pop();
            }
            if open.last().is_some_and(|&at| kept[at].allowed == part.allowed) {
                continue;
            }
            open.push(kept.len());
            kept.push(part);
        }
        self.parts = kept;
    }
}

/// For each prefix of a list sorted by (address, length) the nearest one that covers it.
pub fn covering(prefixes: &[IpNetwork]) -> Vec<Option<usize>> {
    let mut open: Vec<usize> = Vec::new();
    let mut of = Vec::with_capacity(prefixes.len());
    for (at, prefix) in prefixes.iter().enumerate() {
        while open.last().is_some_and(|&o| !covers(prefixes[o], *prefix)) {
            open.pop();
        }
        of.push(open.last().copied());
        open.push(at);
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(prefix: &str, allowed: PortSet) -> Opening {
        Opening { prefix: prefix.parse().unwrap(), allowed, origins: Origins::default() }
    }

    fn deny() -> Openings {
        Openings { family: Family::V4, parts: vec![part("0.0.0.0/0", PortSet::none())] }
    }

    #[test]
    fn longer_prefixes_stay_unless_everything_in_a_prefix_passes() {
        let web = PortSet::of([(80, 80)]);
        let mut all = deny();
        all.set([
            part("10.0.0.0/8", web.clone()),
            part("10.1.0.0/16", PortSet::none()),
            part("10.1.2.0/24", PortSet::none()),
        ]);
        assert_eq!(all.parts().len(), 3);
        assert_eq!(all.at([10, 1, 2, 3].into()).allowed, PortSet::none());
        assert_eq!(all.at([10, 2, 0, 1].into()).allowed, web);
        assert!(all.denies_within("10.0.0.0/8".parse().unwrap()));
        all.pass("10.0.0.0/9".parse().unwrap(), Origins::default());
        assert!(!all.denies_within("10.1.0.0/16".parse().unwrap()));
        assert_eq!(all.parts().len(), 3);
        all.pass("0.0.0.0/0".parse().unwrap(), Origins::default());
        assert!(all.allows_all() && all.parts().len() == 1);
    }
}
