//! Adoption: connections that are running when a pod is first isolated keep the verdict of the side
//! that opened them (S40).
//!
//! The order is record, dump, isolate. First the endpoint records the connections that open from
//! now on. Then the running ones are taken from the kernel's connection tracking, or, where that
//! knows nothing, from the pods' sockets. Only then does policy judge; unknown connections are
//! judged as new. A reply may be the first packet that is recorded, so the recorded entries are
//! corrected by what is known, before policy judges and once more after. Not here: the order of the
//! whole update ([`crate::Agent`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpolc_host::{Connection, Opener};
use netpolc_policy::{Direction, Pod};
use netpolc_table::{
    EndpointId, IfIndex, Program, SetId, TableId,
    delta::Changes,
    eval,
    schema::{EndpointKey, Word, endpoint_key, set_policy, word_of},
};
use netpolc_target::{Amendment, NodeTarget, Origin, Taken};

use super::{Error, network::Network};

/// A pod's connection table in each family has room for this many times the connections that may be
/// adopted into it.
const ROOM_FACTOR: u32 = 2;

/// The result of adopting one pod's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// How many connections were adopted.
    pub connections: usize,
    /// How many connections found no room, and are judged as new.
    pub no_room: usize,
}

/// Whether policy judges the endpoint in some direction.
pub fn isolates(word: Word) -> bool {
    isolation(word) != 0
}

/// The flags of the directions in which policy judges the endpoint.
pub fn isolation(word: Word) -> u8 {
    word.flags & (Word::INGRESS | Word::EGRESS)
}

/// Whether policy judges the endpoint in this direction.
pub fn isolates_in(word: Word, direction: Direction) -> bool {
    let flag = match direction {
        Direction::Ingress => Word::INGRESS,
        Direction::Egress => Word::EGRESS,
    };
    word.flags & flag != 0
}

/// The words of all endpoints, by endpoint id.
pub fn words(program: &Program) -> BTreeMap<EndpointId, Word> {
    let entries = &program.table(TableId::Endpoint).entries;
    entries.iter().map(|(key, entry)| (EndpointKey::of(key).endpoint, word_of(entry))).collect()
}

/// A copy of `program` in which these endpoints record, and are isolated only in the directions in
/// which they were `before`.
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
            born_set: set(Word::INGRESS, word.born_set),
            // Nothing is compared meanwhile, since sets are missing.
            flags: Word::RECORD | word.flags & !(isolation(word) & !stays | Word::TRIED),
        };
        entries.insert(endpoint_key(*endpoint), set_policy(word));
    }
    recording
}

/// A copy of `changes` in which the endpoints' words are those of `recording`.
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

/// The running connections of some pods, as far as nobody can have forged them.
///
/// Connection tracking is built from packets, and senders choose the addresses in them. So a TCP or
/// SCTP connection counts only with a complete handshake, and a UDP flow only if the *other* side
/// opened it, which permits nothing that the other side's next packet would not. A UDP flow that
/// the pod opened is known from a connected socket in the pod's own namespace.
pub struct ConnectionSnapshot {
    /// The connections by the pod's address, each as seen from that end.
    running: BTreeMap<IpAddr, BTreeMap<Tuple, Connection>>,
    node: BTreeSet<IpAddr>,
}

/// A connection's protocol, local address and port, and remote address and port.
type Tuple = (u8, IpAddr, u16, IpAddr, u16);

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const SCTP: u8 = libc::IPPROTO_SCTP as u8;

/// The protocols in which only a packet that asks for an answer creates an entry: SYN, INIT and
/// ICMP requests. The first packet of such an entry thus shows who opened the connection.
const HANDSHAKES: [u8; 4] = [TCP, SCTP, libc::IPPROTO_ICMP as u8, libc::IPPROTO_ICMPV6 as u8];

fn tuple(c: &Connection) -> Tuple {
    (c.protocol, c.local, c.local_port, c.remote, c.remote_port)
}

impl ConnectionSnapshot {
    /// Takes a snapshot for the given pods, each with its interface index. Where the host tracks
    /// nothing, it consists of the pods' sockets alone.
    pub fn take<'a>(
        network: &mut impl Network,
        pods: impl IntoIterator<Item = (&'a Pod, IfIndex)>,
    ) -> Self {
        let pods: Vec<(&Pod, IfIndex)> = pods.into_iter().collect();
        let addresses: BTreeSet<IpAddr> =
            pods.iter().flat_map(|(pod, _)| pod.addresses.iter().copied()).collect();
        let tracked = network.tracked(&addresses).unwrap_or_else(|error| {
            tracing::info!(%error, "the host's connection tracking could not be read; the pods' \
                sockets are used instead");
            vec![]
        });
        let node = network.own_addresses().unwrap_or_else(|error| {
            tracing::warn!(%error, "the node's addresses could not be read; no connection is \
                known as the node's own");
            BTreeSet::new()
        });
        let sockets = network.sockets(&pods.iter().map(|(_, ifindex)| *ifindex).collect());
        let mut sockets = sockets.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pods' sockets could not be read; UDP flows that pods \
                opened are judged as new");
            BTreeMap::new()
        });
        // A pod may give its sockets any address; only those with one of its own addresses count.
        let sockets = pods.iter().flat_map(|(pod, ifindex)| {
            let own = sockets.remove(ifindex).unwrap_or_default();
            own.into_iter().filter(|c| pod.addresses.contains(&c.local)).collect::<Vec<_>>()
        });
        // A tracked connection may be between two pods of this node: each end is looked at by
        // itself.
        let ends = tracked.iter().flat_map(|t| [(t, t.original.source), (t, t.reply.source)]);
        let ends = ends
            .filter(|(_, address)| addresses.contains(address))
            .filter_map(|(t, a)| t.seen_by(a));
        let ends = ends.filter(|c| match (c.protocol, c.opener) {
            (TCP | SCTP, _) | (UDP, Opener::Remote) => c.answered,
            _ => false,
        });
        // Where both sources know a connection, connection tracking counts, since it comes first.
        let mut running: BTreeMap<IpAddr, BTreeMap<Tuple, Connection>> = BTreeMap::new();
        for c in ends.chain(sockets) {
            running.entry(c.local).or_default().entry(tuple(&c)).or_insert(c);
        }
        Self { running, node }
    }

    /// The running connections of one pod, each with whether the node opened it.
    pub fn running(&self, pod: &Pod) -> Vec<(Connection, Origin)> {
        // A UDP packet's source address proves nothing, but a completed handshake does.
        let origin = |c: &Connection| match self.node.contains(&c.origin) && c.protocol != UDP {
            true => Origin::Node,
            false => Origin::Elsewhere,
        };
        let all =
            pod.addresses.iter().filter_map(|a| self.running.get(a)).flat_map(BTreeMap::values);
        all.map(|c| (*c, origin(c))).collect()
    }

    /// What is to become of an entry that was created while its endpoint recorded. Its first packet
    /// may have been a reply, so without a handshake it does not show who opened the flow.
    pub fn amend(&self, recorded: &Connection) -> Amendment {
        if HANDSHAKES.contains(&recorded.protocol) {
            return Amendment::Keep;
        }
        let known = self.running.get(&recorded.local).and_then(|of_it| of_it.get(&tuple(recorded)));
        match known.map(|c| c.opener) {
            Some(opener) if opener == recorded.opener => Amendment::Keep,
            Some(opener) => Amendment::Opener(opener),
            // Nobody knows who opened the flow. Recorded as the pod's, it would let the other side
            // in; recorded as the other side's, it would let the pod go on after its egress was
            // closed. So the entry is dropped, and the next packet decides (S40).
            None if recorded.opener == Opener::Pod => Amendment::Forget,
            // The other side's packet was permitted, and would be again.
            None => Amendment::Keep,
        }
    }
}

/// Puts connections into the endpoint's state table.
///
/// # Errors
/// The target fails to reserve room or to store an entry.
pub fn insert(
    host: &mut impl NodeTarget,
    program: &Program,
    endpoint: EndpointId,
    running: Vec<(Connection, Origin)>,
) -> Result<Adoption, Error> {
    let mut adoption = Adoption::default();
    // Whoever can open connections must not be able to take up all the room that later ones need.
    let family = |c: &Connection| usize::from(c.local.is_ipv6());
    let mut wanted = [0u32; 2];
    running.iter().for_each(|(c, _)| wanted[family(c)] += ROOM_FACTOR);
    let room = host.reserve(endpoint, wanted)?;
    let mut counts = [0; 2];
    for (connection, origin) in running {
        let (count, most) =
            (&mut counts[family(&connection)], room[family(&connection)] / ROOM_FACTOR);
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

    /// S40, S41: a running flow that nobody vouches for is nobody's, so a pod whose egress is
    /// closed does not go on with it, whoever may reach the pod.
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
        let mut survey = ConnectionSnapshot { running: BTreeMap::new(), node: BTreeSet::new() };
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
