//! The same policies as the best rules that others write: nftables with a verdict map per pod and
//! interval sets, and iptables with ipset. Both as text for their own tools.

use std::{fmt::Write as _, net::Ipv4Addr};

use ipnetwork::Ipv4Network;

/// One pod with its ingress policy, as far as this measurement needs it.
#[derive(Clone, Debug)]
pub struct PodPolicy {
    /// The address of the pod that is policed.
    pub pod: Ipv4Addr,
    /// The blocks that may open connections to it.
    pub peers: Vec<Ipv4Network>,
    /// TCP, to which ports; inclusive, disjoint.
    pub ports: Vec<(u16, u16)>,
}

/// For `nft -f`: established first, then one map lookup finds the pod's chain, then two set
/// lookups.
pub fn nft(policies: &[PodPolicy]) -> String {
    let mut text = String::from("table inet netpolc_bench {\n");
    let list = |items: Vec<String>| items.join(", ");
    for (i, policy) in policies.iter().enumerate() {
        let peers = list(policy.peers.iter().map(|p| p.to_string()).collect());
        let ports = list(
            policy
                .ports
                .iter()
                .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
                .collect(),
        );
        let _ = writeln!(
            text,
            "set peers{i} {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {peers} }} \
             }}"
        );
        let _ = writeln!(
            text,
            "set ports{i} {{ type inet_service; flags interval; auto-merge; elements = {{ {ports} \
             }} }}"
        );
        let _ = writeln!(
            text,
            "chain pod{i} {{ ip saddr @peers{i} tcp dport @ports{i} accept; drop; }}"
        );
    }
    let jumps = list(
        policies.iter().enumerate().map(|(i, p)| format!("{} : jump pod{i}", p.pod)).collect(),
    );
    let _ = writeln!(text, "map pods {{ type ipv4_addr : verdict; elements = {{ {jumps} }} }}");
    text.push_str("chain forward { type filter hook forward priority 0; policy accept;\n");
    text.push_str("ct state established,related accept\nip daddr vmap @pods\n}\n}\n");
    text
}

/// For `ipset restore`: every (pod, port, peer) in one set, and the pods that are policed in
/// another.
pub fn ipset(policies: &[PodPolicy]) -> String {
    let ports = |p: &PodPolicy| p.ports.iter().map(|(a, b)| usize::from(b - a) + 1).sum::<usize>();
    let entries: usize = policies.iter().map(|p| p.peers.len() * ports(p)).sum();
    let mut text = format!(
        "create allowed hash:ip,port,net maxelem {}\ncreate policed hash:ip maxelem 65536\n",
        entries + 1
    );
    for policy in policies {
        let _ = writeln!(text, "add policed {}", policy.pod);
        for peer in &policy.peers {
            for (first, last) in &policy.ports {
                let _ = writeln!(text, "add allowed {},tcp:{first}-{last},{peer}", policy.pod);
            }
        }
    }
    text
}

/// For `iptables-restore`, after [`ipset`]: no connection tracking; replies pass since only ingress
/// is policed.
pub const IPTABLES: &str = "*filter\n:FORWARD ACCEPT\n\
    -A FORWARD -m set --match-set allowed dst,dst,src -j ACCEPT\n\
    -A FORWARD -m set --match-set policed dst -j DROP\nCOMMIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_every_pod_once() {
        let policy = PodPolicy {
            pod: Ipv4Addr::new(10, 0, 0, 1),
            peers: vec!["10.9.0.0/24".parse().unwrap()],
            ports: vec![(80, 80), (90, 99)],
        };
        let text = nft(std::slice::from_ref(&policy));
        assert!(text.contains("10.0.0.1 : jump pod0") && text.contains("{ 80, 90-99 }"), "{text}");
        let text = ipset(&[policy]);
        assert!(
            text.contains("maxelem 12\n")
                && text.contains("add allowed 10.0.0.1,tcp:90-99,10.9.0.0/24"),
            "{text}"
        );
    }
}
