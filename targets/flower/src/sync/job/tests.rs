//! A kernel of paper that refuses at random, and the interpreter as judge: after every single
//! message each packet meets what it met before, or what is wanted, or (hardware only) nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use netpolc_testbed::random::Rng;

use super::*;
use crate::{
    capability::Capabilities,
    eval::{Born, Fragment, Outcome, Packet, Semantics, run},
    filter::{Action, Cookie, EtherType, Pattern},
    sync::{Place, books},
};

/// A kernel with one interface.
#[derive(Clone, Default)]
struct Paper {
    filters: BTreeMap<Place, (Filter, u32)>,
    /// How many filters fit.
    room: usize,
    /// How many additions and replacements are refused, in percent.
    refuses: usize,
}

impl Paper {
    fn apply(&mut self, step: &Step, rng: &mut Rng) -> Result<Applied, Refusal> {
        let refuse = |errno| Err(Refusal { errno, text: None });
        let place = step.place();
        let like = |(p, (f, _)): (&Place, &(Filter, u32))| {
            *p != place
                && (f.side, f.chain, f.prio, &f.matches)
                    == (place.side, place.chain, place.prio, &step.filter.matches)
        };
        match step.way {
            Way::Remove => {
                return self
                    .filters
                    .remove(&place)
                    .map(|_| Applied::default())
                    .ok_or(Refusal { errno: libc::ENOENT, text: None });
            }
            Way::Add if self.filters.contains_key(&place) => return refuse(libc::EEXIST),
            Way::Add if self.filters.len() >= self.room => return refuse(libc::ENOSPC),
            Way::Replace => {
                let old = self.filters.get(&place).map(|(f, _)| &f.matches);
                assert_eq!(old, Some(&step.filter.matches), "the kernel refuses another mask");
            }
            Way::Add => {}
        }
        if self.filters.iter().any(like) {
            return refuse(libc::EEXIST);
        }
        if rng.chance(self.refuses) {
            if step.filter.copies == Copies::Both {
                self.filters.insert(place, (step.filter.clone(), 0));
                return Ok(Applied { in_hardware: 0, text: Some("no".into()) });
            }
            return refuse(libc::EOPNOTSUPP);
        }
        let in_hardware = u32::from(step.filter.copies != Copies::Software);
        self.filters.insert(place, (step.filter.clone(), in_hardware));
        Ok(Applied { in_hardware, text: None })
    }

    fn dump(&self) -> Books {
        books(self.filters.iter().map(
            |(&Place { side, chain, prio, handle }, (filter, in_hardware))| Decoded {
                ifindex: IfIndex::new(1),
                side,
                chain,
                prio,
                handle,
                in_hardware: *in_hardware,
                found: Found::Ours(filter.clone()),
            },
        ))
    }

    /// What hardware, or software, has.
    fn view(&self, copies: Copies) -> Vec<Filter> {
        let there = |(f, in_hardware): &(Filter, u32)| {
            (copies == Copies::Software || *in_hardware > 0).then(|| f.clone())
        };
        let mut list: Vec<Filter> = self.filters.values().filter_map(there).collect();
        list.sort();
        list
    }
}

/// What becomes of every packet.
fn answers(filters: &[Filter], copies: Copies) -> Vec<Vec<Outcome>> {
    let how = match copies {
        Copies::Software => Semantics::SOFTWARE,
        _ => Semantics::hardware(&Capabilities::software()),
    };
    let packets = (0..16u8).flat_map(|host| [6, 17].map(|protocol| (host, protocol)));
    packets
        .map(|(host, protocol)| {
            let packet = Packet {
                ethertype: 0x0800,
                source: Ipv4Addr::new(10, 9, 9, 9).into(),
                destination: Ipv4Addr::new(10, 0, 0, host).into(),
                protocol,
                source_port: Some(1),
                destination_port: Some(2),
                tcp_flags: 0x002,
                icmp_type: None,
                hop_limit: 64,
                mac: [0; 6],
                fragment: Fragment::No,
                ct: 0,
                born: Born::Elsewhere,
            };
            let found = run(filters, Side::Ingress, &packet, how);
            found.into_iter().map(|o| if o == Outcome::Next { Outcome::Pass } else { o }).collect()
        })
        .collect()
}

/// Nested and disjoint prefixes, some with a protocol; each with a prio of its own.
fn universe() -> Vec<(u16, Match)> {
    let mut list = Vec::new();
    for (length, step) in [(32u8, 3u8), (30, 4), (29, 8), (28, 16)] {
        for host in (0..16).step_by(step.into()) {
            for protocol in [Some(6), None] {
                let pattern =
                    Pattern { ethertype: EtherType::Ipv4, protocol, ..Pattern::default() };
                let to = ipnetwork::IpNetwork::new(IpAddr::from([10, 0, 0, host]), length).unwrap();
                list.push((list.len() as u16 + 1, Match::Flower(pattern.to(to))));
            }
        }
    }
    list
}

/// Redirects by destination, the rest being the host's.
fn loose(rng: &mut Rng, chain: u32, copies: Copies) -> Vec<Filter> {
    let cookie = Cookie::new(1, 1, 0);
    let filter = |prio, matches, action| Filter {
        side: Side::Ingress,
        chain,
        prio,
        matches,
        action,
        copies,
        cookie,
    };
    let ports: Vec<u32> = (0..16).map(|_| 7 + rng.below(2) as u32).collect();
    let mut filters = Vec::new();
    for (at, (_, matches)) in universe().into_iter().enumerate().take(12) {
        if rng.chance(60) {
            filters.push(filter(1, matches, Action::Redirect(IfIndex::new(ports[at / 2]))));
        }
    }
    let all = Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
    filters.push(filter(2, Match::Flower(all), Action::Pass));
    filters
}

/// Chain 0 and up to three more, each leading to later ones only; now and then the last is one that
/// changes in place.
fn random(rng: &mut Rng, copies: Copies) -> Vec<Filter> {
    let universe = universe();
    let cookie = Cookie::new(1, 1, rng.below(3) as u64);
    let mut filters = Vec::new();
    for chain in 0..4u32 {
        if chain == 3 && copies != Copies::Software && rng.chance(60) {
            filters.extend(loose(rng, chain, copies));
            break;
        }
        let many = rng.below(8);
        for _ in 0..many {
            let (prio, matches) = rng.pick(&universe).clone();
            let later = (chain < 3).then(|| chain + 1 + rng.below(3 - chain as usize) as u32);
            let action = match (rng.below(5), later) {
                (0, _) => Action::Pass,
                (1, _) => Action::Drop,
                (2, _) => Action::Redirect(IfIndex::new(7 + rng.below(2) as u32)),
                (_, Some(later)) => Action::Goto(later),
                (_, None) => Action::Drop,
            };
            let filter =
                Filter { side: Side::Ingress, chain, prio, matches, action, copies, cookie };
            let twice =
                |f: &Filter| (f.chain, f.prio, &f.matches) == (chain, filter.prio, &filter.matches);
            if !filters.iter().any(twice) {
                filters.push(filter);
            }
        }
    }
    filters.sort();
    filters
}

struct Trial {
    paper: Paper,
    rng: Rng,
    copies: Copies,
}

impl Trial {
    /// Until it is done, or until `crash` messages were sent. Gives the job's books and counts
    /// where it came to its end.
    fn bring(&mut self, wanted: &[Filter], crash: usize) -> Option<(Books, Counts)> {
        let (before, after) =
            (answers(&self.paper.view(self.copies), self.copies), answers(wanted, self.copies));
        let mut job = Job::new(IfIndex::new(1), self.paper.dump(), wanted.to_vec());
        let (mut next, mut sent) = (job.advance(), 0);
        loop {
            match next {
                Next::Done => break,
                Next::Settle => next = job.settled(),
                Next::Steps(steps) => {
                    for step in steps {
                        if sent == crash {
                            return None;
                        }
                        sent += 1;
                        let answer = self.paper.apply(&step, &mut self.rng);
                        let view = self.paper.view(self.copies);
                        for (i, now) in answers(&view, self.copies).iter().enumerate() {
                            let host = self.copies != Copies::Software && *now == [Outcome::Pass];
                            assert!(
                                host || *now == before[i] || *now == after[i],
                                "packet {i} meets {now:?}, not {:?} or {:?}, after {step:?}: \
                                 {answer:?}",
                                before[i],
                                after[i]
                            );
                        }
                        job.answer(&step, answer);
                    }
                    next = job.advance();
                }
            }
        }
        let (books, _, counts) = job.finish();
        assert_eq!(books, self.paper.dump(), "the books are wrong");
        Some((books, counts))
    }
}

#[test]
fn every_packet_meets_the_old_or_the_new_at_any_moment() {
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let copies = *rng.pick(&[Copies::Software, Copies::Hardware, Copies::Both]);
        let paper = Paper { room: 1000, ..Paper::default() };
        let mut trial = Trial { paper, rng: Rng::new(seed), copies };
        for _ in 0..5 {
            let wanted = random(&mut rng, copies);
            // Some starts are cut short.
            let crash = if rng.chance(30) { rng.below(12) } else { usize::MAX };
            let Some((_, counts)) = trial.bring(&wanted, crash) else { continue };
            assert_eq!(counts.refused, [], "seed {seed}");
            assert_eq!(
                answers(&trial.paper.view(copies), copies),
                answers(&wanted, copies),
                "seed {seed}"
            );
            let (_, again) = trial.bring(&wanted, usize::MAX).unwrap();
            assert_eq!((again.added, again.replaced, again.removed), (0, 0, 0), "seed {seed}");
            assert_eq!(again.kept, trial.paper.filters.len(), "seed {seed}");
        }
    }
}

#[test]
fn what_is_refused_leaves_nothing_wider() {
    let mut refusals = 0;
    for seed in 0..900 {
        let mut rng = Rng::new(seed);
        let copies = *rng.pick(&[Copies::Software, Copies::Hardware, Copies::Both]);
        let mut trial =
            Trial { paper: Paper { room: 1000, ..Paper::default() }, rng: Rng::new(seed), copies };
        trial.bring(&random(&mut rng, copies), usize::MAX).unwrap();
        let wanted = random(&mut rng, copies);
        trial.paper.refuses = 15;
        trial.paper.room = rng.within(3, 30);
        let before = answers(&trial.paper.view(copies), copies);
        let (_, counts) = trial.bring(&wanted, usize::MAX).unwrap();
        let after = answers(&wanted, copies);
        for (i, now) in answers(&trial.paper.view(copies), copies).iter().enumerate() {
            let old = copies == Copies::Software && *now == before[i];
            let host = copies != Copies::Software && *now == [Outcome::Pass];
            assert!(old || host || *now == after[i], "seed {seed}: packet {i} meets {now:?}");
        }
        refusals += usize::from(!counts.refused.is_empty());
        // And the way on is found when nothing is refused any more.
        (trial.paper.refuses, trial.paper.room) = (0, 1000);
        let (_, counts) = trial.bring(&wanted, usize::MAX).unwrap();
        assert_eq!(counts.refused, [], "seed {seed}");
        assert_eq!(answers(&trial.paper.view(copies), copies), after, "seed {seed}");
    }
    assert!(refusals > 300, "only {refusals} of these were refused anything");
}

/// Make before break needs room for both; what does not fit at first fits when the old is gone.
#[test]
fn a_full_nic_takes_the_new_in_place_of_the_old() {
    let drop = |host: u8| {
        let pattern = Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
        let matches = Match::Flower(pattern.to(IpAddr::from([10, 0, 0, host]).into()));
        let (side, action, copies) = (Side::Ingress, Action::Drop, Copies::Hardware);
        Filter { side, chain: 0, prio: 1, matches, action, copies, cookie: Cookie::new(1, 1, 1) }
    };
    let (old, new): (Vec<Filter>, Vec<Filter>) =
        ((0..4).map(drop).collect(), (4..8).map(drop).collect());
    let mut trial = Trial {
        paper: Paper { room: 4, ..Paper::default() },
        rng: Rng::new(1),
        copies: Copies::Hardware,
    };
    assert_eq!(trial.bring(&old, usize::MAX).unwrap().1.refused, []);
    assert_eq!(trial.bring(&new, usize::MAX).unwrap().1.refused, []);
    assert_eq!(trial.paper.view(Copies::Hardware), new);
}
