//! Chains that are numbered by what is in them, and what names a filter's origin across restarts.
//!
//! Equal chains of one hook are one chain, and the same chain has the same number in every run, so
//! that after a restart a chain that is installed is recognised by its number alone; but for chains
//! whose filters rely on nothing ([`Chains::named`]). Not here: what is in the chains.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use netpolc_table::{Origins, TableId};

use crate::{
    filter::{Action, Cookie, Copies, Filter, Match, Side},
    lowered::Placed,
};

/// What a filter is for: the role in a [`Cookie`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// The one filter of chain 0: leads to everything else.
    Start = 1,
    /// Judges sources (S55).
    Guard = 2,
    /// Lets ARP and neighbour discovery through (S36).
    Neighbour = 3,
    /// Tells replies and related errors.
    State = 4,
    /// Lets the node's own packets through (S44).
    Node = 5,
    /// Judges a remote address, alone or together with ports.
    Remote = 6,
    /// Judges ports, behind a remote address.
    Port = 7,
    /// What holds for the rest of a chain.
    Rest = 8,
    /// Drops what hardware may drop by itself.
    Deny = 9,
    /// Forwards what hardware may forward by itself.
    Forward = 10,
    /// Hands to the host what hardware must not drop.
    Exempt = 11,
}

impl Role {
    /// Does the number of such filters depend on what policies say (and not just on whether there
    /// are any)?
    pub fn is_policy(byte: u8) -> bool {
        [Role::Remote, Role::Port, Role::Deny, Role::Forward].iter().any(|r| *r as u8 == byte)
    }

    /// A cookie for an entry of `table` with this meaning.
    pub fn cookie(self, table: TableId, meaning: &impl Hash) -> Cookie {
        Cookie::new(self as u8, table as u8, fingerprint(meaning))
    }
}

/// A filter without its hook and chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The prio within the chain; lower ones are asked first.
    pub prio: u16,
    /// The packets that it matches.
    pub matches: Match,
    /// What it does with them.
    pub action: Action,
    /// Whether it is in software, in hardware or in both.
    pub copies: Copies,
    /// What it is for, across restarts.
    pub cookie: Cookie,
    /// The policies and rules behind it.
    pub origins: Origins,
}

/// More different chains than there are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} chains are needed")]
pub struct Full {
    /// How many numbers there are.
    pub limit: u32,
}

/// The chains of one interface.
#[derive(Clone, Debug)]
pub struct Chains {
    limit: u32,
    chains: BTreeMap<(Side, u32), Vec<Rule>>,
}

impl Chains {
    /// No chains yet; numbers up to and with `limit` will be used.
    pub fn new(limit: u32) -> Self {
        Self { limit, chains: BTreeMap::new() }
    }

    /// The number of a chain with these filters, in any order. Numbers come from a hash of the
    /// content (matches, actions, copies); a chain whose number is taken by another gets the next
    /// free one, so build chains in a fixed order.
    ///
    /// # Errors
    /// All numbers are taken by other chains.
    pub fn number(&mut self, side: Side, mut rules: Vec<Rule>) -> Result<u32, Full> {
        sort(&mut rules);
        let full = Full { limit: self.limit };
        let content: Vec<_> = rules.iter().map(content).collect();
        let first = fingerprint(&content).checked_rem(self.limit.into()).ok_or(full)? as u32;
        for step in 0..self.limit {
            let number = 1 + (first + step) % self.limit;
            // Rules are compared, not hashes: two contents may meet in one number.
            match self.chains.get_mut(&(side, number)) {
                None => {
                    self.chains.insert((side, number), rules);
                    return Ok(number);
                }
                Some(taken) if taken.iter().map(self::content).eq(content.iter().copied()) => {
                    for (kept, new) in taken.iter_mut().zip(&rules) {
                        let both = kept.origins.as_slice().iter().chain(new.origins.as_slice());
                        kept.origins = both.cloned().collect();
                    }
                    return Ok(number);
                }
                Some(_) => {}
            }
        }
        Err(full)
    }

    /// The number of a chain that is named and not numbered by its content, since no filter of it
    /// relies on another: it may change while something leads to it.
    ///
    /// # Errors
    /// All numbers are taken by other chains.
    pub fn named(
        &mut self,
        side: Side,
        name: &impl Hash,
        mut rules: Vec<Rule>,
    ) -> Result<u32, Full> {
        sort(&mut rules);
        let full = Full { limit: self.limit };
        let first = fingerprint(name).checked_rem(self.limit.into()).ok_or(full)? as u32;
        let mut numbers = (0..self.limit).map(|step| 1 + (first + step) % self.limit);
        let number = numbers.find(|n| !self.chains.contains_key(&(side, *n))).ok_or(full)?;
        self.chains.insert((side, number), rules);
        Ok(number)
    }

    /// Makes these filters chain 0 of a hook.
    pub fn start(&mut self, side: Side, mut rules: Vec<Rule>) {
        sort(&mut rules);
        self.chains.insert((side, 0), rules);
    }

    /// The filters of all chains, sorted by hook, chain, prio and match.
    pub fn into_filters(self) -> Vec<Placed> {
        let place = |(side, chain): (Side, u32), r: Rule| {
            let Rule { prio, matches, action, copies, cookie, origins } = r;
            Placed {
                filter: Filter { side, chain, prio, matches, action, copies, cookie },
                origins,
            }
        };
        self.chains
            .into_iter()
            .flat_map(|(at, rules)| rules.into_iter().map(move |r| place(at, r)))
            .collect()
    }
}

/// What a rule does, without what only explains it.
fn content(rule: &Rule) -> (u16, &Match, &Action, Copies) {
    (rule.prio, &rule.matches, &rule.action, rule.copies)
}

/// Puts rules into an order that depends on their content alone.
fn sort(rules: &mut [Rule]) {
    rules.sort_by(|a, b| (content(a), a.cookie).cmp(&(content(b), b.cookie)));
}

/// 64 bits that stand for a value: the same in every run of one build.
pub fn fingerprint(value: &impl Hash) -> u64 {
    let mut state = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut state);
    state.finish()
}

/// FNV-1a (Fowler, Noll, Vo), with MurmurHash3's last step, so that low bits are as good as high
/// ones.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use netpolc_table::Origin;

    use super::*;
    use crate::filter::Pattern;

    fn rule(prio: u16, policy: &str) -> Rule {
        let origins = [Origin::Isolates { policy: policy.into() }].into_iter().collect();
        let cookie = Role::Rest.cookie(TableId::Endpoint, &prio);
        let matches = Match::Flower(Pattern::default());
        Rule { prio, matches, action: Action::Drop, copies: Copies::Software, cookie, origins }
    }

    #[test]
    fn equal_chains_are_one_with_the_origins_of_both() {
        let mut chains = Chains::new(1000);
        let a = chains.number(Side::Ingress, vec![rule(1, "a"), rule(2, "a")]).unwrap();
        let b = chains.number(Side::Ingress, vec![rule(2, "b"), rule(1, "b")]).unwrap();
        let c = chains.number(Side::Ingress, vec![rule(1, "a")]).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, c);
        let filters = chains.into_filters();
        assert_eq!(filters.len(), 3);
        assert!(
            filters.iter().filter(|p| p.filter.chain == a).all(|p| p.origins.as_slice().len() == 2)
        );
    }

    #[test]
    fn numbers_do_not_depend_on_other_chains_until_they_meet() {
        let alone = Chains::new(1 << 20).number(Side::Ingress, vec![rule(7, "")]).unwrap();
        let mut many = Chains::new(1 << 20);
        for prio in 8..100 {
            many.number(Side::Ingress, vec![rule(prio, "")]).unwrap();
        }
        assert_eq!(many.number(Side::Ingress, vec![rule(7, "")]), Ok(alone));
    }

    #[test]
    fn numbers_stay_within_the_limit_and_then_run_out() {
        let mut chains = Chains::new(3);
        let mut numbers: Vec<u32> = (1..=3)
            .map(|prio| chains.number(Side::Ingress, vec![rule(prio, "")]).unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(chains.number(Side::Ingress, vec![rule(4, "")]), Err(Full { limit: 3 }));
        assert!(chains.number(Side::Ingress, vec![rule(3, "")]).is_ok());
        assert_eq!(Chains::new(0).number(Side::Ingress, vec![]), Err(Full { limit: 0 }));
    }
}
