//! Security groups as `aws ec2` shows them, and the SecurityGroupPolicies and ServiceAccounts that
//! give them to pods.

use netpolc_policy::{
    Direction, GroupPeer, GroupRule, IcmpVersion, Labels, NetworkInterface, ObjectKey,
    SecurityGroup, SecurityGroupPolicy, SecurityGroups, Traffic,
};
use serde_json::{Value, json};

use super::{insert, selector};

/// All of it: outputs of the EC2 API, one of each kind that is needed, and objects of the cluster.
pub fn security(security: &SecurityGroups) -> Vec<Value> {
    let SecurityGroups {
        groups,
        prefix_lists,
        interfaces,
        policies,
        accounts,
        resolvers: _,
        enforcement: _,
    } = security;
    let (mut described, mut rules) = (Vec::new(), Vec::new());
    for (id, group) in groups {
        for direction in Direction::BOTH {
            let single = group.rules(direction).iter().filter(|rule| rule.id.is_some());
            rules.extend(single.map(|rule| single_rule(id.as_str(), direction, rule)));
        }
        let has_ids = group.ingress.iter().chain(&group.egress).any(|rule| rule.id.is_some());
        if group.name.is_some() || !has_ids {
            described.push(description(id.as_str(), group));
        }
    }
    let mut documents: Vec<Value> = prefix_lists
        .iter()
        .map(|(id, entries)| {
            let entries: Vec<Value> =
                entries.iter().map(|e| json!({"Cidr": e.to_string()})).collect();
            json!({"PrefixListId": id, "Entries": entries})
        })
        .collect();
    let interfaces: Vec<Value> =
        interfaces.iter().map(|(id, i)| interface(id.as_str(), i)).collect();
    for (name, items) in [
        ("SecurityGroups", described),
        ("SecurityGroupRules", rules),
        ("NetworkInterfaces", interfaces),
    ] {
        if !items.is_empty() {
            documents.push(json!({name: items}));
        }
    }
    documents.extend(accounts.iter().map(|(key, labels)| account(key, labels)));
    documents.extend(policies.values().map(group_policy));
    documents
}

/// A ServiceAccount as the API server takes it.
pub fn account(key: &ObjectKey, labels: &Labels) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace, "labels": labels},
    })
}

/// A SecurityGroupPolicy as the API server takes it.
pub fn group_policy(policy: &SecurityGroupPolicy) -> Value {
    let mut spec = json!({"securityGroups": {"groupIds": policy.groups}});
    insert(&mut spec, "podSelector", policy.pods.as_ref().map(selector));
    insert(&mut spec, "serviceAccountSelector", policy.accounts.as_ref().map(selector));
    json!({
        "apiVersion": "vpcresources.k8s.aws/v1beta1",
        "kind": "SecurityGroupPolicy",
        "metadata": {"name": &*policy.key.name, "namespace": &*policy.key.namespace},
        "spec": spec,
    })
}

fn description(id: &str, group: &SecurityGroup) -> Value {
    let permissions = |rules: &[GroupRule]| -> Vec<Value> {
        rules.iter().filter(|rule| rule.id.is_none()).map(permission).collect()
    };
    let mut object = json!({
        "GroupId": id, "VpcId": "vpc-1",
        "IpPermissions": permissions(&group.ingress),
        "IpPermissionsEgress": permissions(&group.egress),
    });
    insert(&mut object, "GroupName", group.name.as_deref());
    object
}

/// The fields that say what kind of traffic it is.
fn traffic(traffic: Traffic) -> Value {
    let any = |part: Option<u8>| part.map_or(-1, i32::from);
    match traffic {
        Traffic::Everything => json!({"IpProtocol": "-1"}),
        Traffic::Ports { protocol, first, last } => {
            let name = protocol.to_string().to_lowercase();
            json!({"IpProtocol": name, "FromPort": first, "ToPort": last})
        }
        Traffic::Icmp { version, kind, code } => {
            let name = if version == IcmpVersion::V4 { "icmp" } else { "icmpv6" };
            json!({"IpProtocol": name, "FromPort": any(kind), "ToPort": any(code)})
        }
        Traffic::Protocol(number) => json!({"IpProtocol": number.to_string()}),
    }
}

fn permission(rule: &GroupRule) -> Value {
    let mut object = traffic(rule.traffic);
    for field in ["IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs"] {
        object[field] = json!([]);
    }
    for peer in &rule.peers {
        let (field, item) = match peer {
            GroupPeer::Network(network) if network.is_ipv4() => {
                ("IpRanges", json!({"CidrIp": network.to_string()}))
            }
            GroupPeer::Network(network) => ("Ipv6Ranges", json!({"CidrIpv6": network.to_string()})),
            GroupPeer::PrefixList(id) => ("PrefixListIds", json!({"PrefixListId": id})),
            GroupPeer::Group(id) => ("UserIdGroupPairs", json!({"GroupId": id})),
        };
        object[field].as_array_mut().expect("a list").push(item);
    }
    object
}

fn single_rule(group: &str, direction: Direction, rule: &GroupRule) -> Value {
    let mut object = traffic(rule.traffic);
    object["SecurityGroupRuleId"] = json!(rule.id);
    object["GroupId"] = json!(group);
    object["IsEgress"] = json!(direction == Direction::Egress);
    for peer in &rule.peers {
        match peer {
            GroupPeer::Network(network) => {
                let field = if network.is_ipv4() { "CidrIpv4" } else { "CidrIpv6" };
                object[field] = json!(network.to_string());
            }
            GroupPeer::PrefixList(id) => object["PrefixListId"] = json!(id),
            GroupPeer::Group(id) => object["ReferencedGroupInfo"] = json!({"GroupId": id}),
        }
    }
    object
}

fn interface(id: &str, interface: &NetworkInterface) -> Value {
    let groups: Vec<Value> = interface.groups.iter().map(|id| json!({"GroupId": id})).collect();
    let mut object = json!({"NetworkInterfaceId": id, "Status": "in-use", "Groups": groups});
    for (list, field, v4, whole) in [
        ("PrivateIpAddresses", "PrivateIpAddress", true, true),
        ("Ipv6Addresses", "Ipv6Address", false, true),
        ("Ipv4Prefixes", "Ipv4Prefix", true, false),
        ("Ipv6Prefixes", "Ipv6Prefix", false, false),
    ] {
        let of_kind = interface.addresses.iter().filter(|network| {
            let bits = if network.is_ipv4() { 32 } else { 128 };
            (network.is_ipv4(), network.prefix() == bits) == (v4, whole)
        });
        let items = of_kind.map(|network| {
            let text = if whole { network.ip().to_string() } else { network.to_string() };
            json!({field: text})
        });
        object[list] = items.collect();
    }
    object
}
