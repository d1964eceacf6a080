//! The adversary's node in network namespaces, made by one script in each.
//!
//! Not here: clusters of several nodes with honest traffic ([`crate::netns::Net`]).

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Stdio,
};

use super::{
    Place, Shape, World,
    wire::Wire,
    world::{
        BRIDGE_MAC, FAR_OVERLAY_MAC, Mac, OUTSIDE_MAC, OVERLAY_MAC, OVERLAY_PORT, ROUTER_MAC,
        UPLINK_MAC,
    },
};
use crate::netns::{Error, Guard, Namespace, interface_index};

/// What a pod's and the outside's kernel does with what arrives: nothing, after packet sockets have
/// seen it.
const QUIET: &str = "echo 8 > /proc/sys/net/ipv4/conf/all/arp_ignore
nft add table inet quiet
nft add chain inet quiet everything '{ type filter hook prerouting priority raw; policy drop; }'
";

/// The node forwards, takes source routes (off by default, and the worst there may be), answers
/// errors at any rate, and has room for the fragments of packets that are never completed, beside
/// those of honest ones.
const ROUTER: &str = "ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
for f in ipv4/ipfrag_ ipv6/ip6frag_ netfilter/nf_conntrack_frag6_; do
  [ ! -e /proc/sys/net/${f}high_thresh ] || echo 268435456 > /proc/sys/net/${f}high_thresh
  for t in time timeout; do [ ! -e /proc/sys/net/$f$t ] || echo 2 > /proc/sys/net/$f$t; done
done
for i in all default; do
  echo 1 > /proc/sys/net/ipv4/conf/$i/accept_source_route
  echo 1 > /proc/sys/net/ipv6/conf/$i/accept_source_route
  [ ! -e /proc/sys/net/ipv6/conf/$i/seg6_enabled ] || echo 1 > \
    /proc/sys/net/ipv6/conf/$i/seg6_enabled
  [ ! -e /proc/sys/net/ipv6/conf/$i/rpl_seg_enabled ] || echo 1 > \
    /proc/sys/net/ipv6/conf/$i/rpl_seg_enabled
done
";

/// Does the node track connections, and so put fragments together?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Connections are tracked everywhere, on bridges too.
    On,
    /// No connection is tracked.
    Off,
}

/// A running node with its pods and the outside. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    /// The parties with their addresses.
    pub world: World,
    node: Namespace,
    pods: Vec<Namespace>,
    outside: Namespace,
    _guard: Guard,
}

impl Lab {
    /// Makes it.
    ///
    /// # Errors
    /// The caller is not root, or `ip` or `nft` is missing or refuses a command.
    pub fn up() -> Result<Self, Error> {
        let guard = Guard::claim()?;
        let world = World::default();
        let create = |name: &str| Namespace::create(&guard.namespace(name));
        let node = create("adversary.node")?;
        let outside = create("adversary.outside")?;
        let pods = (0..world.pods.len())
            .map(|n| create(&format!("adversary.p{n}")))
            .collect::<Result<Vec<_>, _>>()?;
        let lab = Lab { world, node, pods, outside, _guard: guard };
        shell(&lab.node, &lab.node_lines())?;
        shell(&lab.outside, &lab.outside_lines())?;
        for n in 0..lab.pods.len() {
            shell(&lab.pods[n], &lab.pod_lines(n))?;
        }
        // Bridged frames meet conntrack, too, as on every node that kube-proxy has prepared.
        shell(
            &lab.node,
            "for f in ip iptables ip6tables; do
  [ ! -e /proc/sys/net/bridge/bridge-nf-call-$f ] || echo 1 > \
             /proc/sys/net/bridge/bridge-nf-call-$f; done",
        )?;
        Ok(lab)
    }

    /// The node's namespace.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// The index of a pod's interface on the node.
    ///
    /// # Errors
    /// The pod's interface is gone.
    pub fn host_end(&self, pod: usize) -> Result<u32, Error> {
        let name = host_end(pod);
        let index = self.node.run(|| interface_index(&name))?;
        index.map_err(|e| Error::system(format!("find interface {name}"), e))
    }

    /// A packet socket for each place but the node, in the order of [`World::places`].
    ///
    /// # Errors
    /// An interface is gone, or a raw socket is refused.
    pub fn wires(&self) -> Result<Vec<Wire>, Error> {
        let open = |namespace: &Namespace| {
            let wire = namespace.run(|| Wire::open("eth0"))?;
            wire.map_err(|e| {
                Error::system(format!("open a packet socket in {}", namespace.name()), e)
            })
        };
        self.pods.iter().chain([&self.outside]).map(open).collect()
    }

    /// Two sockets of the node, one for each family.
    ///
    /// # Errors
    /// The kernel refuses a socket in the node's namespace.
    pub fn node_sockets(&self) -> Result<[UdpSocket; 2], Error> {
        let open = |address: IpAddr| {
            let socket = self.node.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))?;
            socket.map_err(|e| Error::system("open a socket on the node".into(), e))
        };
        let [v4, v6] = self.world.node;
        Ok([open(v4)?, open(v6)?])
    }

    /// Switches connection tracking on the node, which is off at first. What was tracked is
    /// forgotten after ten seconds without a packet: long enough for the next policies, too short
    /// for a million frames to fill the kernel's table.
    ///
    /// # Errors
    /// `nft` refuses the rules.
    pub fn track(&self, tracking: Tracking) -> Result<(), Error> {
        let script = match tracking {
            Tracking::On => {
                "for t in /proc/sys/net/netfilter/nf_conntrack_*timeout*; do [ $(cat $t) -le 10 ] \
                 || echo 10 > $t; done
nft add table inet tracked
nft add chain inet tracked everything '{ type filter hook prerouting priority 0; }'
nft add rule inet tracked everything ct state new counter"
            }
            Tracking::Off => "nft delete table inet tracked",
        };
        shell(&self.node, script)
    }

    fn node_lines(&self) -> String {
        let World { node, bridge, far_node, far, overlaid, stranger, pods, .. } = &self.world;
        let mut lines = ROUTER.to_owned();
        let mut add =
            |line: std::fmt::Arguments<'_>| writeln!(lines, "{line}").expect("a string takes all");
        let (up, out) = (mac(UPLINK_MAC), mac(OUTSIDE_MAC));
        let outside = self.outside.name();
        add(format_args!(
            "ip link add up0 address {up} type veth peer name eth0 address {out} netns {outside}"
        ));
        add(format_args!(
            "ip link set up0 up; ip addr add {}/24 dev up0; ip addr add {}/64 dev up0 nodad",
            node[0], node[1]
        ));
        for address in far_node {
            add(format_args!("ip neigh replace {address} lladdr {out} dev up0 nud permanent"));
        }
        add(format_args!(
            "ip link add cni0 address {} type bridge; ip link set cni0 up",
            mac(BRIDGE_MAC)
        ));
        add(format_args!(
            "ip addr add {}/24 dev cni0; ip addr add {}/112 dev cni0 nodad",
            bridge[0], bridge[1]
        ));
        for (n, pod) in pods.iter().enumerate() {
            let (name, netns, own) = (host_end(n), self.pods[n].name(), mac(pod.mac));
            let (ours, device) = match pod.shape {
                Shape::Routed => (format!("address {}", mac(ROUTER_MAC)), name.as_str()),
                Shape::Bridged => (String::new(), "cni0"),
            };
            add(format_args!(
                "ip link add {name} {ours} type veth peer name eth0 address {own} netns {netns}"
            ));
            if pod.shape == Shape::Bridged {
                add(format_args!("ip link set {name} master cni0"));
            }
            add(format_args!("ip link set {name} up"));
            for address in &pod.addresses {
                if pod.shape == Shape::Routed {
                    add(format_args!("ip route add {address} dev {name}"));
                }
                add(format_args!(
                    "ip neigh replace {address} lladdr {own} dev {device} nud permanent"
                ));
            }
        }
        add(format_args!(
            "ip link add flannel.1 address {} type vxlan id 1 dev up0 dstport {OVERLAY_PORT} local \
             {} nolearning",
            mac(OVERLAY_MAC),
            node[0]
        ));
        add(format_args!("ip addr add 10.0.1.0/32 dev flannel.1; ip link set flannel.1 up"));
        add(format_args!(
            "bridge fdb append {} dev flannel.1 dst {}",
            mac(FAR_OVERLAY_MAC),
            far_node[0]
        ));
        for (address, via) in overlaid.iter().zip(["10.0.3.0", "fd00::3:0"]) {
            let far = mac(FAR_OVERLAY_MAC);
            add(format_args!("ip neigh replace {via} lladdr {far} dev flannel.1 nud permanent"));
            add(format_args!("ip route add {address} via {via} dev flannel.1 onlink"));
        }
        for address in far.iter().chain(stranger) {
            let via = far_node[usize::from(address.is_ipv6())];
            add(format_args!("ip route add {address} via {via} dev up0"));
        }
        add(format_args!(
            "ip route add default via {}; ip -6 route add default via {}",
            far_node[0], far_node[1]
        ));
        lines
    }

    fn outside_lines(&self) -> String {
        let World { far_node, .. } = &self.world;
        let [v4, v6] = far_node;
        format!(
            "ip link set lo up; ip link set eth0 up\nip addr add {v4}/24 dev eth0; ip addr add \
             {v6}/64 dev eth0 nodad\n{QUIET}"
        )
    }

    fn pod_lines(&self, n: usize) -> String {
        let pod = &self.world.pods[n];
        let (v4, v6) = match pod.shape {
            Shape::Routed => (32, 128),
            Shape::Bridged => (24, 112),
        };
        let [a, b] = pod.addresses;
        format!(
            "ip link set lo up; ip link set eth0 up\nip addr add {a}/{v4} dev eth0; ip addr add \
             {b}/{v6} dev eth0 nodad\n{QUIET}"
        )
    }
}

/// The name of a pod's interface on the node.
fn host_end(pod: usize) -> String {
    format!("pod{pod}")
}

fn mac(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Runs a script in a namespace.
fn shell(namespace: &Namespace, script: &str) -> Result<(), Error> {
    let mut command = namespace.command("sh");
    command
        .args(["-ec", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = command.output().map_err(|e: io::Error| Error::system("run `sh`".into(), e))?;
    if done.status.success() {
        return Ok(());
    }
    let message = format!("{script}\n{}", String::from_utf8_lossy(&done.stderr));
    Err(Error::Refused { namespace: namespace.name().to_owned(), message })
}

/// The number of a place in lists that are in the order of [`World::places`].
pub(super) fn index(place: Place, pods: usize) -> Option<usize> {
    match place {
        Place::Pod(n) => Some(n),
        Place::Outside => Some(pods),
        Place::Node => None,
    }
}
