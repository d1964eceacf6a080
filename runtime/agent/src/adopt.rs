//! Adoption: connections that run when a pod is isolated first keep the verdict of whoever opened them (S40).
//!
//! The order is record, dump, isolate: first the endpoint records what opens, then what runs already is
//! taken from the kernel's connection tracking, or where that knows nothing from the pods' sockets, and
//! only then policy judges. Unknown connections are judged as new. What was recorded is amended by what is known, before policy
//! judges and once more after: a reply may be the first packet that is recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpolc_host::{Connection, Opener};
use netpolc_policy::Pod;
use netpolc_table::{
    EndpointId, IfIndex, Program, SetId, TableId,
    delta::Changes,
    eval,
    schema::{EndpointKey, Word, endpoint_key, set_policy, word_of},
};
use netpolc_target::{Amendment, NodeTarget, Origin, Taken};

use super::{Error, network::Network};

/// Of the connections that a pod may have in each family, one in so many may be taken over.
const SHARE: u32 = 2;

/// What was taken over for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Connections that are known now.
    pub connections: usize,
    /// Connections for which there was no room: judged as new.
    pub no_room: usize,
}

/// Does policy judge some direction?
pub fn isolates(word: Word) -> bool {
    isolation(word) != 0
}

/// The flags of the directions that policy judges.
pub fn isolation(word: Word) -> u8 {
    word.flags & (Word::INGRESS | Word::EGRESS)
}

/// The words of all endpoints.
pub fn words(program: &Program) -> BTreeMap<EndpointId, Word> {
    let entries = &program.table(TableId::Endpoint).entries;
    entries.iter().map(|(key, entry)| (EndpointKey::of(key).endpoint, word_of(entry))).collect()
}

/// `program` with these endpoints recording, and isolated only in directions in which they were `before`.
pub fn recording<'a>(
    program: &Program,
    before: &BTreeMap<EndpointId, Word>,
    endpoints: impl IntoIterator<Item = &'a EndpointId>,
) -> Program {
    let mut recording = program.clone();
    let entries = &mut recording.table_mut(TableId::Endpoint).entries;
    for endpoint in endpoints {
        let word = entries.get(&endpoint_key(*endpoint)).map(word_of).unwrap_or_default();
        let stays = before.get(endpoint).map_or(0, |word| isolation(*word));
        let set = |flag, set| if stays & word.flags & flag != 0 { set } else { SetId::default() };
        let word = Word {
            ingress_set: set(Word::INGRESS, word.ingress_set),
            egress_set: set(Word::EGRESS, word.egress_set),
            flags: Word::RECORD | word.flags & !(isolation(word) & !stays),
        };
        entries.insert(endpoint_key(*endpoint), set_policy(word));
    }
    recording
}

/// `changes`, with the endpoints' words as they are in `recording`.
pub fn while_recording(changes: &Changes, recording: &Program) -> Changes {
    let mut first = Changes::default();
    for ((table, key), (before, after)) in &changes.entries {
        let after = match table {
            TableId::Endpoint => recording.get(*table, key).cloned(),
            _ => after.clone(),
        };
        first.note(*table, key.clone(), before.clone(), after);
    }
    first
}

/// What the kernel knows about the running connections of some pods, as far as nobody else could have made it up.
///
/// Connection tracking sees packets, and whoever sends them chooses their addresses. So of TCP and SCTP only what has a complete
/// handshake counts, and of UDP only that *others* opened it, which opens nothing that their next packet would not. That
/// the pod opened UDP is what a connected socket in its own namespace says.
pub struct Survey {
    /// By address; those of each end seen from it.
    running: BTreeMap<IpAddr, BTreeMap<Tuple, Connection>>,
    node: BTreeSet<IpAddr>,
}

/// Protocol, local address and port, remote address and port.
type Tuple = (u8, IpAddr, u16, IpAddr, u16);

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const SCTP: u8 = libc::IPPROTO_SCTP as u8;

/// Protocols whose entries only what asks for an answer makes: SYN, INIT, ICMP requests.
const HANDSHAKES: [u8; 4] = [TCP, SCTP, libc::IPPROTO_ICMP as u8, libc::IPPROTO_ICMPV6 as u8];

fn tuple(c: &Connection) -> Tuple {
    (c.protocol, c.local, c.local_port, c.remote, c.remote_port)
}

impl Survey {
    /// Asks about pods with their interfaces. Where the host tracks nothing, the pods' sockets alone have to do.
    pub fn of<'a>(network: &mut impl Network, pods: impl IntoIterator<Item = (&'a Pod, IfIndex)>) -> Self {
        let pods: Vec<(&Pod, IfIndex)> = pods.into_iter().collect();
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|(pod, _)| pod.addresses.iter().copied()).collect();
        let tracked = network.tracked(&addresses).unwrap_or_else(|error| {
            tracing::info!(%error, "the host tracks no connections; asking the pods' sockets");
            vec![]
        });
        let node = network.own_addresses().unwrap_or_else(|error| {
            tracing::warn!(%error, "the node's addresses");
            BTreeSet::new()
        });
        let sockets = network.sockets(&pods.iter().map(|(_, ifindex)| *ifindex).collect());
        let mut sockets = sockets.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pods' sockets");
            BTreeMap::new()
        });
        let sockets = pods.iter().flat_map(|(pod, ifindex)| {
            let own = sockets.remove(ifindex).unwrap_or_default();
            own.into_iter().filter(|c| pod.addresses.contains(&c.local)).collect::<Vec<_>>()
        });
        let ends = tracked.iter().flat_map(|t| [(t, t.original.source), (t, t.reply.source)]);
        let ends = ends.filter(|(_, address)| addresses.contains(address)).filter_map(|(t, a)| t.seen_by(a));
        let ends = ends.filter(|c| match (c.protocol, c.opener) {
            (TCP | SCTP, _) | (UDP, Opener::Remote) => c.answered,
            _ => false,
        });
        let mut running: BTreeMap<IpAddr, BTreeMap<Tuple, Connection>> = BTreeMap::new();
        for c in ends.chain(sockets) {
            running.entry(c.local).or_default().entry(tuple(&c)).or_insert(c);
        }
        Self { running, node }
    }

    /// The running connections of one of the pods, each with whether the node opened it.
    pub fn running(&self, pod: &Pod) -> Vec<(Connection, Origin)> {
        // A source address alone proves nothing; a handshake does.
        let origin = |c: &Connection| match self.node.contains(&c.origin) && c.protocol != UDP {
            true => Origin::Node,
            false => Origin::Elsewhere,
        };
        let all = pod.addresses.iter().filter_map(|a| self.running.get(a)).flat_map(BTreeMap::values);
        all.map(|c| (*c, origin(c))).collect()
    }

    /// What is to become of an entry that was made while its endpoint recorded. Its first packet then
    /// may have been a reply, so where no handshake tells, it does not say who opened the flow.
    pub fn amend(&self, recorded: &Connection) -> Amendment {
        if HANDSHAKES.contains(&recorded.protocol) {
            return Amendment::Keep;
        }
        let known = self.running.get(&recorded.local).and_then(|of_it| of_it.get(&tuple(recorded)));
        match known.map(|c| c.opener) {
            Some(opener) if opener == recorded.opener => Amendment::Keep,
            Some(opener) => Amendment::Opener(opener),
            // Said to be the pod's, it would let the other side in; said to be the other side's, it
            // would let the pod go on after its egress was closed. So the next packet tells (S40).
            None if recorded.opener == Opener::Pod => Amendment::Forget,
            // The other side's packet was let in, and would be again.
            None => Amendment::Keep,
        }
    }
}

/// Puts connections into the endpoint's state.
///
/// # Errors
/// The target refuses.
pub fn insert(
    host: &mut impl NodeTarget,
    program: &Program,
    endpoint: EndpointId,
    running: Vec<(Connection, Origin)>,
) -> Result<Adoption, Error> {
    let mut adoption = Adoption::default();
    // Whoever can make connections must not be able to take all the places that later ones need.
    let family = |c: &Connection| usize::from(c.local.is_ipv6());
    let mut wanted = [0u32; 2];
    running.iter().for_each(|(c, _)| wanted[family(c)] += SHARE);
    let room = host.reserve(endpoint, wanted)?;
    let mut counts = [0; 2];
    for (connection, origin) in running {
        let (count, most) = (&mut counts[family(&connection)], room[family(&connection)] / SHARE);
        *count += 1;
        if *count > most {
            adoption.no_room += 1;
            continue;
        }
        let incarnation = eval::remote(program, connection.remote).incarnation;
        match host.adopt(endpoint, incarnation, &connection, origin)? {
            Taken::Known => adoption.connections += 1,
            Taken::NoRoom => adoption.no_room += 1,
        }
    }
    Ok(adoption)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S40, S41: a running flow that nobody vouches for is nobody's, so a pod whose egress is closed does
    /// not go on with it, whoever may reach the pod.
    #[test]
    fn s40_what_a_pod_seems_to_have_opened_is_judged_as_new() {
        let (local, remote): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let recorded = |protocol, opener| Connection {
            opener,
            protocol,
            local,
            local_port: 40_002,
            remote,
            remote_port: 4789,
            answered: false,
            origin: local,
        };
        let mut survey = Survey { running: BTreeMap::new(), node: BTreeSet::new() };
        for protocol in [UDP, 47] {
            assert_eq!(survey.amend(&recorded(protocol, Opener::Pod)), Amendment::Forget);
            assert_eq!(survey.amend(&recorded(protocol, Opener::Remote)), Amendment::Keep);
        }
        for protocol in HANDSHAKES {
            assert_eq!(survey.amend(&recorded(protocol, Opener::Pod)), Amendment::Keep);
        }
        let known = recorded(UDP, Opener::Remote);
        survey.running.entry(local).or_default().insert(tuple(&known), known);
        let opener = Amendment::Opener(Opener::Remote);
        assert_eq!(survey.amend(&recorded(UDP, Opener::Pod)), opener);
    }
}
