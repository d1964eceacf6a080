//! The resources that objects take of a node's tables, and how much there is of each.

/// Something that policies take of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Ports at which some range begins or has just ended: each makes a port class.
    Ports,
    /// Distinct IPv4 prefixes, excepts included: each is an entry and may be a class.
    BlocksV4,
    /// The same of IPv6.
    BlocksV6,
    /// Steps of the trie over IPv6 prefixes.
    TrieV6,
    /// Pairs of a prefix and a rule's block that covers it.
    Members,
    /// Distinct selectors of peers.
    Selectors,
    /// Rules, once for each set of policies that they are part of.
    Rows,
    /// Permitted port classes of all rows.
    Verdicts,
    /// Addresses x ports of Services.
    Services,
    /// Rules, peers, excepts and ports as they are written: what measuring itself takes.
    Parts,
    /// About a microsecond each of compiling and writing everything: the sum of the others, each by
    /// its weight.
    Work,
    /// Sets of pods and address blocks that addresses are in; only counted where they have run out.
    Classes,
    /// Distinct sets of policies that isolate pods; only counted where they have run out.
    Sets,
}

/// Those that are measured beforehand.
pub const RESOURCES: [Resource; 11] = [
    Resource::Ports,
    Resource::BlocksV4,
    Resource::BlocksV6,
    Resource::TrieV6,
    Resource::Members,
    Resource::Selectors,
    Resource::Rows,
    Resource::Verdicts,
    Resource::Services,
    Resource::Parts,
    Resource::Work,
];

/// How much of each, by the order of [`RESOURCES`].
pub type Usage = [u64; RESOURCES.len()];

impl Resource {
    /// As users know it, behind a number.
    pub fn what(self) -> &'static str {
        match self {
            Resource::Ports => "edges of port ranges",
            Resource::BlocksV4 => "IPv4 prefixes",
            Resource::BlocksV6 => "IPv6 prefixes",
            Resource::TrieV6 => "steps of IPv6 prefixes",
            Resource::Members => "overlaps of address blocks",
            Resource::Selectors => "selectors of peers",
            Resource::Rows => "rules",
            Resource::Verdicts => "pairs of rule and port range",
            Resource::Services => "pairs of address and port",
            Resource::Parts => "rules, peers, excepts and ports",
            Resource::Work => "units of work",
            Resource::Classes => "classes of addresses",
            Resource::Sets => "sets of policies",
        }
    }

    /// What its owner can do.
    pub fn advice(self) -> &'static str {
        match self {
            Resource::Ports | Resource::Verdicts => {
                "write ranges (`endPort`) for neighbouring ports"
            }
            Resource::BlocksV4 | Resource::BlocksV6 | Resource::TrieV6 | Resource::Members => {
                "write fewer, larger address blocks, or let pods that need few of them have \
                 policies of their own"
            }
            Resource::Selectors | Resource::Classes | Resource::Sets => {
                "give the peers a label that they share"
            }
            Resource::Rows => "join rules that have the same ports",
            Resource::Services => "use fewer external addresses, or split the Service",
            Resource::Parts => "write fewer, larger address blocks and ranges of ports (`endPort`)",
            Resource::Work => {
                "write fewer, larger address blocks, ranges of ports (`endPort`) and fewer rules, \
                 or spread the pods over more namespaces"
            }
        }
    }
}

/// How many microseconds it takes at most to compile such policies from nothing and to write their
/// entries, on a machine on which `netpolc bench tenants` was measured. Ports weigh most, because
/// they split the rows of all others as well.
pub fn work(usage: &Usage) -> u64 {
    let of = |resource: Resource| usage[resource as usize];
    let prefixes = of(Resource::BlocksV4).saturating_add(of(Resource::BlocksV6));
    [
        of(Resource::Ports).saturating_mul(60),
        prefixes.saturating_mul(18),
        of(Resource::TrieV6),
        of(Resource::Members) / 2,
        of(Resource::Selectors).saturating_mul(25),
        of(Resource::Rows).saturating_mul(20),
        of(Resource::Verdicts).saturating_mul(5),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the whole node.
    pub node: Usage,
    /// For one namespace, however empty the node is.
    pub namespace: Usage,
    /// Addresses x ports of one Service.
    pub service: u64,
    /// [`Resource::Verdicts`] of one namespace as they turn out: see
    /// [`Compiler::bounded`](crate::Compiler::bounded).
    pub cells: u64,
}

/// How many ids a target has of each kind; ids are below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Endpoints.
    pub endpoints: u32,
    /// Policy sets.
    pub sets: u32,
    /// Classes by family.
    pub classes: [u32; 2],
    /// Rows.
    pub rows: u32,
    /// Port classes.
    pub port_classes: u32,
}

impl Default for Room {
    /// What ids of 16 bits can name.
    fn default() -> Self {
        let all = u32::from(u16::MAX);
        Self { endpoints: all, sets: all, classes: [all; 2], rows: all, port_classes: all }
    }
}

impl Limits {
    /// For a target with so many ids. A change needs old and new ids at once, so half of them are
    /// for what changes; and however many ids there are, what all namespaces take together stays
    /// within what a node can load and rewrite in a fraction of a second.
    pub fn of(room: &Room) -> Self {
        let half = |ids: u32, most: u64| (u64::from(ids) / 2).min(most);
        let mut node = [0; RESOURCES.len()];
        node[Resource::Ports as usize] = half(room.port_classes, 4_000);
        node[Resource::BlocksV4 as usize] = half(room.classes[0], 12_000);
        node[Resource::BlocksV6 as usize] = half(room.classes[1], 12_000);
        node[Resource::TrieV6 as usize] = 32_000;
        node[Resource::Members as usize] = 2_000_000;
        node[Resource::Selectors as usize] = 8_000;
        node[Resource::Rows as usize] = half(room.rows, 32_000);
        node[Resource::Verdicts as usize] = 250_000;
        node[Resource::Services as usize] = 128_000;
        node[Resource::Parts as usize] = 1_000_000;
        node[Resource::Work as usize] = 2_000_000;
        // A quarter is always left to others, so that what comes next finds room without anybody
        // giving any up.
        let mut namespace = node.map(|all| all / 4 * 3);
        let mut most = |resource: Resource, most: u64| {
            let limit = &mut namespace[resource as usize];
            *limit = most.min(*limit);
        };
        // Others' updates wait for what is compiled and written for one namespace at once, and that
        // is all of it in the worst case. The others are what takes all of that work, or a good
        // part of it, alone.
        most(Resource::Work, 80_000);
        most(Resource::Ports, 1_300);
        most(Resource::BlocksV4, 4_400);
        most(Resource::BlocksV6, 4_400);
        most(Resource::Members, 150_000);
        most(Resource::Selectors, 1_000);
        most(Resource::Rows, 4_000);
        most(Resource::Verdicts, 16_000);
        most(Resource::Services, 2_000);
        most(Resource::Parts, 40_000);
        Self { node, namespace, service: 2_000, cells: 8_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&Room::default())
    }
}
