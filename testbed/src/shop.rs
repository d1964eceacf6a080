//! The web shop of the demonstration: its objects, its policies stage by stage, and who has to talk
//! to whom for it to work.
//!
//! Here: the texts under `testbed/shop/`, embedded, and the connections. Not here: the agent or any
//! output.

use std::net::IpAddr;

use netpolc_kube_sync::{Input, load};
use netpolc_policy::{
    Cluster, ObjectKey, Pod, Protocol,
    oracle::{self, Party, Transport},
};

use crate::{netns, probe::Ask};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/shop.rs"));
}

/// The name of the customer's namespace: see [`netns::Net::outside`].
pub const CUSTOMER: &str = "customer";

/// The customer's addresses, outside of the cluster.
pub const CUSTOMER_ADDRESSES: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// The acts of the demonstration. Each has the policies of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// There is no policy.
    Open,
    /// A policy denies ui everything by default.
    DenyUi,
    /// Policies that let ui work again.
    Repaired,
    /// One more policy, with a mistake in it.
    Wrong,
}

impl Stage {
    /// Every stage, in the order in which the story goes.
    pub const ALL: [Stage; 4] = [Stage::Open, Stage::DenyUi, Stage::Repaired, Stage::Wrong];

    /// Names and texts of the policies that this stage adds.
    pub fn adds(self) -> Vec<(&'static str, &'static str)> {
        let prefix = match self {
            Stage::Open => "00-",
            Stage::DenyUi => "10-",
            Stage::Repaired => "20-",
            Stage::Wrong => "30-",
        };
        embedded::SHOP.iter().copied().filter(|(name, _)| name.starts_with(prefix)).collect()
    }

    /// Names and texts of all policies that hold at this stage.
    pub fn policies(self) -> Vec<(&'static str, &'static str)> {
        Stage::ALL.into_iter().filter(|s| *s <= self).flat_map(Stage::adds).collect()
    }

    /// The shop with the policies of this stage.
    ///
    /// # Panics
    /// Where the embedded objects are broken; a test says so first.
    pub fn cluster(self) -> Cluster {
        cluster(self.policies())
    }

    /// Whether policy lets `talk` through at this stage, by the oracle, over the family of `to`.
    pub fn allows(self, talk: &Talk, family: Family) -> bool {
        let cluster = self.cluster();
        let (source, destination) =
            (talk.from.party(&cluster, family), talk.to.party(&cluster, family));
        let (protocol, port) = match talk.ask {
            Ask::Tcp(port) => (Transport::Tcp, Some(port)),
            Ask::Udp(port) => (Transport::Udp, Some(port)),
            Ask::Ping => (Transport::Other(if family == Family::V4 { 1 } else { 58 }), None),
        };
        oracle::judge(
            &cluster,
            &oracle::Question { source, destination, protocol, port, via: None },
        )
        .allowed
    }
}

/// The shop with these policies, and no others.
///
/// # Panics
/// Where the policies are broken.
pub fn with_policies(text: &str) -> Cluster {
    cluster([("policies.yaml", text)])
}

fn cluster<'t>(policies: impl IntoIterator<Item = (&'t str, &'t str)>) -> Cluster {
    let files = std::iter::once(("shop.yaml", objects())).chain(policies);
    let loaded = load(files.map(|(name, text)| Input::bytes(name, text)));
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    loaded.cluster
}

/// The namespaces of the shop itself, which kube-system is not.
pub const NAMESPACES: [&str; 6] = ["assets", "carts", "catalog", "checkout", "orders", "ui"];

/// Is a pod of the shop at either end?
pub fn is_of_shop(talk: &Talk) -> bool {
    let is_shop = |who: Who| match who {
        Who::Pod(namespace, _) => NAMESPACES.contains(&namespace),
        Who::Customer => false,
    };
    is_shop(talk.from) || is_shop(talk.to)
}

/// The shop's namespaces, nodes and pods, as YAML.
pub fn objects() -> &'static str {
    embedded::SHOP.iter().find(|(name, _)| *name == "shop.yaml").expect("it is in the folder").1
}

/// Which of the two addresses that everybody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Somebody in or at the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A pod: namespace and name.
    Pod(&'static str, &'static str),
    /// The customer, outside the cluster.
    Customer,
}

impl std::fmt::Display for Who {
    /// `ui`, or `orders/postgres` where the pod is not called like its namespace.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Customer => f.write_str(CUSTOMER),
            Who::Pod(namespace, name) if namespace == name => f.write_str(name),
            Who::Pod(namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl Who {
    /// The pod's key, where it is one.
    pub fn key(self) -> Option<ObjectKey> {
        match self {
            Who::Pod(namespace, name) => Some(ObjectKey::new(namespace, name)),
            Who::Customer => None,
        }
    }

    /// Where it is in a running cluster that was made from [`spec`].
    ///
    /// # Errors
    /// The cluster was not made from [`spec`].
    pub fn site(self, net: &netns::Net) -> Result<&netns::Site, netns::Error> {
        match self.key() {
            Some(key) => net.pod(&key),
            None => net.outside(CUSTOMER),
        }
    }

    fn party(self, cluster: &Cluster, family: Family) -> Party {
        let pick = |all: &[IpAddr]| {
            *all.iter().find(|a| a.is_ipv4() == (family == Family::V4)).expect("all are dual stack")
        };
        match self.key() {
            Some(key) => {
                let address = pick(&cluster.pods[&key].addresses);
                Party::Pod(key, address)
            }
            None => Party::Address(pick(&customer_addresses())),
        }
    }
}

/// A connection that the shop needs, or that a matrix shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Talk {
    /// Who opens the connection.
    pub from: Who,
    /// Who it is opened to.
    pub to: Who,
    /// Which protocol and port are asked.
    pub ask: Ask,
}

const fn talk(from: Who, to: Who, ask: Ask) -> Talk {
    Talk { from, to, ask }
}

const UI: Who = Who::Pod("ui", "ui");
const CATALOG: Who = Who::Pod("catalog", "catalog");
const CARTS: Who = Who::Pod("carts", "carts");
const CHECKOUT: Who = Who::Pod("checkout", "checkout");
const ORDERS: Who = Who::Pod("orders", "orders");
const ASSETS: Who = Who::Pod("assets", "assets");
const DNS: Who = Who::Pod("kube-system", "dns");
const HTTP: Ask = Ask::Tcp(8080);
const LOOKUP: Ask = Ask::Udp(53);

/// What has to work for the shop to work.
pub const NEEDED: [Talk; 17] = [
    talk(Who::Customer, UI, HTTP),
    talk(UI, CATALOG, HTTP),
    talk(UI, CARTS, HTTP),
    talk(UI, CHECKOUT, HTTP),
    talk(UI, ORDERS, HTTP),
    talk(UI, ASSETS, HTTP),
    talk(CHECKOUT, ORDERS, HTTP),
    talk(CATALOG, Who::Pod("catalog", "mysql"), Ask::Tcp(3306)),
    talk(CARTS, Who::Pod("carts", "dynamodb"), Ask::Tcp(8000)),
    talk(CHECKOUT, Who::Pod("checkout", "redis"), Ask::Tcp(6379)),
    talk(ORDERS, Who::Pod("orders", "postgres"), Ask::Tcp(5432)),
    talk(UI, DNS, LOOKUP),
    talk(CATALOG, DNS, LOOKUP),
    talk(CARTS, DNS, LOOKUP),
    talk(CHECKOUT, DNS, LOOKUP),
    talk(ORDERS, DNS, LOOKUP),
    talk(ASSETS, DNS, LOOKUP),
];

/// All parties of the shop, those that offer something first.
pub const EVERYBODY: [Who; 12] = [
    Who::Customer,
    UI,
    CATALOG,
    CARTS,
    CHECKOUT,
    ORDERS,
    ASSETS,
    Who::Pod("catalog", "mysql"),
    Who::Pod("carts", "dynamodb"),
    Who::Pod("checkout", "redis"),
    Who::Pod("orders", "postgres"),
    DNS,
];

/// From everybody to everybody else who serves something: each on its first port.
pub fn matrix() -> Vec<Talk> {
    let cluster = Stage::Open.cluster();
    let service =
        |who: Who| who.key().and_then(|key| serves(&cluster.pods[&key]).into_iter().next());
    let pairs =
        EVERYBODY.into_iter().flat_map(|from| EVERYBODY.into_iter().map(move |to| (from, to)));
    pairs
        .filter(|(from, to)| from != to)
        .filter_map(|(from, to)| Some(talk(from, to, service(to)?)))
        .collect()
}

/// What a pod listens on: its container ports, for [`crate::probe::Servers`].
pub fn serves(pod: &Pod) -> Vec<Ask> {
    let ask = |protocol, number| match protocol {
        Protocol::Tcp => Some(Ask::Tcp(number)),
        Protocol::Udp => Some(Ask::Udp(number)),
        Protocol::Sctp => None,
    };
    pod.ports.iter().filter_map(|p| ask(p.protocol, p.number)).collect()
}

/// The shop and its customer as network namespaces.
pub fn spec() -> netns::Spec {
    netns::Spec::of(&Stage::Open.cluster()).with_outside(CUSTOMER, customer_addresses())
}

fn customer_addresses() -> Vec<IpAddr> {
    CUSTOMER_ADDRESSES.iter().map(|a| a.parse().expect("the list holds addresses")).collect()
}
