//! The lines that `ip -batch` gets, and running them. Everybody hangs on its router the same way,
//! pods on their node, nodes and outside hosts on the fabric, as with the AWS VPC CNI and Calico:
//!
//! ```text
//! router: veth7 (ee:ee:ee:ee:ee:ee)  --  guest: eth0 (02:00:00:00:00:07), addresses as /32 and /128
//! guest:  default via 169.254.1.1 (a permanent neighbour), default via the router's link-local address
//! router: guest's address dev veth7, found by ARP and neighbour discovery
//!         what lies behind a guest (a node's pods): via 169.254.1.2 and the guest's link-local address
//! ```

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    process::{Child, Stdio},
};

use super::{Error, namespace::Namespace};

/// The router's link-local address, by EUI-64 from its MAC.
const ROUTER_V6: &str = "fe80::ecee:eeff:feee:eeee";

/// One veth pair between a router and its guest.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Unique in the whole cluster: names the router's end and makes the guest's MAC.
    pub number: u16,
    /// Shown by `ip link` at the router's end.
    pub alias: String,
    /// Name of the guest's namespace.
    pub guest: String,
    /// The addresses of the guest's end.
    pub addresses: Vec<IpAddr>,
}

impl Link {
    /// The name of the interface at the router's end.
    pub fn interface(&self) -> String {
        format!("veth{}", self.number)
    }

    fn guest_mac(&self) -> String {
        let [high, low] = self.number.to_be_bytes();
        format!("02:00:00:00:{high:02x}:{low:02x}")
    }

    fn guest_v6(&self) -> String {
        format!("fe80::ff:fe00:{:x}", self.number)
    }

    /// Lines for the router's namespace: they make the pair and the routes to the guest's own
    /// addresses.
    pub fn router_lines(&self, to: &mut String) {
        let (name, guest) = (self.interface(), &self.guest);
        let mac = self.guest_mac();
        line(
            to,
            format_args!(
                "link add {name} address ee:ee:ee:ee:ee:ee type veth peer name eth0 address {mac} \
                 netns {guest}"
            ),
        );
        line(to, format_args!("link set dev {name} up alias {}", self.alias));
        for address in &self.addresses {
            line(to, format_args!("route replace {} dev {name}", host_route(*address)));
        }
    }

    /// To run in the router's namespace, once the guest's end is up. The router's end, up first,
    /// notices its carrier later, in a work queue, and drops what it should send until then; being
    /// asked for makes the kernel catch up (linkwatch_sync_dev in rtnl_getlink,
    /// net/core/rtnetlink.c).
    pub fn settle_line(&self, to: &mut String) {
        line(to, format_args!("link show dev {}", self.interface()));
    }

    /// A line for the router's namespace: it routes `address`, which lies behind the guest.
    pub fn behind_line(&self, address: IpAddr, to: &mut String) {
        let name = self.interface();
        match address {
            IpAddr::V4(_) => {
                line(
                    to,
                    format_args!(
                        "neigh replace 169.254.1.2 lladdr {} dev {name} nud permanent",
                        self.guest_mac()
                    ),
                );
                line(to, format_args!("route replace {address} via 169.254.1.2 dev {name} onlink"));
            }
            IpAddr::V6(_) => line(
                to,
                format_args!("route replace {address}/128 via {} dev {name}", self.guest_v6()),
            ),
        }
    }

    /// Lines for the guest's namespace, once the router has made the pair.
    pub fn guest_lines(&self, to: &mut String) {
        line(to, format_args!("link set dev lo up"));
        line(to, format_args!("link set dev eth0 up"));
        for address in &self.addresses {
            match address {
                IpAddr::V4(_) => line(to, format_args!("addr add {address}/32 dev eth0")),
                IpAddr::V6(_) => line(to, format_args!("addr add {address}/128 dev eth0 nodad")),
            }
        }
        line(
            to,
            format_args!(
                "neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent"
            ),
        );
        line(to, format_args!("route add 169.254.1.1 dev eth0 scope link"));
        // A router without an address of the family forwards all the same, but has nothing to ask
        // by ARP with.
        if self.addresses.iter().any(IpAddr::is_ipv4) {
            line(to, format_args!("route add default via 169.254.1.1 dev eth0"));
        }
        line(to, format_args!("route add ::/0 via {ROUTER_V6} dev eth0"));
    }
}

/// The address as a prefix.
pub(super) fn host_route(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn line(to: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(to, "{text}").expect("a string takes all");
}

/// Runs each batch in its namespace, all at once, waits for all and gives the first failure.
pub(super) fn run<'a>(
    batches: impl IntoIterator<Item = (&'a Namespace, String)>,
) -> Result<(), Error> {
    let started: Vec<_> =
        batches.into_iter().map(|(ns, lines)| (ns, start(ns, &lines), lines)).collect();
    let results: Vec<_> = started
        .into_iter()
        .map(|(namespace, child, lines)| {
            let child =
                child.map_err(|e| Error::system("run `ip` (package iproute2)".into(), e))?;
            finish(namespace, &lines, child)
        })
        .collect();
    results.into_iter().collect()
}

fn start(namespace: &Namespace, lines: &str) -> std::io::Result<Child> {
    let mut command = namespace.command("ip");
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // It may have stopped at a bad line already; then its own message says more than a broken pipe.
    match child.stdin.take().expect("piped above").write_all(lines.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(child),
    }
}

fn finish(namespace: &Namespace, lines: &str, child: Child) -> Result<(), Error> {
    let output = child.wait_with_output().map_err(|e| Error::system("wait for `ip`".into(), e))?;
    if output.status.success() {
        return Ok(());
    }
    // "Command failed -:12": the line, counted from 1.
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let number = said.rsplit(':').next().and_then(|n| n.trim().parse::<usize>().ok());
    let refused = number.and_then(|n| lines.lines().nth(n.saturating_sub(1))).unwrap_or("?");
    Err(Error::Refused {
        namespace: namespace.name().to_owned(),
        message: format!("`ip {refused}`: {said}"),
    })
}
