//! Security groups: the output of `aws ec2`, and objects of the AWS Controllers for Kubernetes;
//! what is an error, where, and that nothing is opened by one. Not here: who has them
//! (`grouping.rs`).

use netpolc_kube_sync::{Input, Loaded, load};
use netpolc_policy::{
    GroupPeer, GroupRule, IcmpVersion, InterfaceId, NetworkInterface, PrefixListId, Protocol,
    SecurityGroup, SecurityGroupId, Traffic,
};

fn text(name: &str, text: impl Into<Vec<u8>>) -> Loaded {
    load([Input::bytes(name, text)])
}

fn messages(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

fn group<'l>(loaded: &'l Loaded, id: &str) -> &'l SecurityGroup {
    let groups = &loaded.cluster.security.groups;
    groups.get(&SecurityGroupId::from(id)).unwrap_or_else(|| panic!("{groups:?}"))
}

fn networks(list: &[&str]) -> Vec<GroupPeer> {
    list.iter().map(|n| GroupPeer::Network(n.parse().unwrap())).collect()
}

fn tcp(first: u16, last: u16) -> Traffic {
    Traffic::Ports { protocol: Protocol::Tcp, first, last }
}

/// A group sg-a with these permissions for what comes in.
fn permissions(list: &str) -> Loaded {
    text(
        "groups.json",
        format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-a", "GroupName": "a", "VpcId": "vpc-1", "OwnerId": "1",
            "SecurityGroupArn": "arn", "Tags": [], "Description": "d", "IpPermissions": [{list}],
            "IpPermissionsEgress": []}}]}}"#
        ),
    )
}

#[test]
fn s77_groups_as_ec2_describes_them() {
    let loaded = permissions(
        r#"{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 444,
            "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "x"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            "PrefixListIds": [{"PrefixListId": "pl-1"}],
            "UserIdGroupPairs": [{"GroupId": "sg-b", "UserId": "1", "PeeringStatus": "active"}, {"GroupId": "sg-a"}]},
        {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}"#,
    );
    assert_eq!(loaded.problems, []);
    let mut peers = networks(&["10.0.0.0/8", "::/0"]);
    peers.push(GroupPeer::PrefixList("pl-1".into()));
    peers.extend(["sg-b", "sg-a"].map(|id| GroupPeer::Group(id.into())));
    let expected = SecurityGroup {
        name: Some("a".into()),
        ingress: vec![
            GroupRule { id: None, traffic: tcp(443, 444), peers },
            GroupRule { id: None, traffic: Traffic::Everything, peers: networks(&["0.0.0.0/0"]) },
        ],
        egress: vec![],
    };
    assert_eq!(*group(&loaded, "sg-a"), expected);
}

#[test]
fn s77_protocols_and_their_ports() {
    let icmp = |version, kind, code| Traffic::Icmp { version, kind, code };
    for (fields, expected) in [
        (r#""IpProtocol": "-1", "FromPort": -1, "ToPort": -1"#, Traffic::Everything),
        (r#""IpProtocol": "6", "FromPort": 0, "ToPort": 65535"#, tcp(0, 65535)),
        (
            r#""IpProtocol": "udp", "FromPort": 53, "ToPort": 53"#,
            Traffic::Ports { protocol: Protocol::Udp, first: 53, last: 53 },
        ),
        (
            r#""IpProtocol": "icmp", "FromPort": 8, "ToPort": 0"#,
            icmp(IcmpVersion::V4, Some(8), Some(0)),
        ),
        (
            r#""IpProtocol": "icmp", "FromPort": 3, "ToPort": -1"#,
            icmp(IcmpVersion::V4, Some(3), None),
        ),
        (
            r#""IpProtocol": "icmp", "FromPort": -1, "ToPort": -1"#,
            icmp(IcmpVersion::V4, None, None),
        ),
        (r#""IpProtocol": "icmpv6""#, icmp(IcmpVersion::V6, None, None)),
        (
            r#""IpProtocol": "58", "FromPort": 128, "ToPort": -1"#,
            icmp(IcmpVersion::V6, Some(128), None),
        ),
        (r#""IpProtocol": "132", "FromPort": 5, "ToPort": 6"#, Traffic::Protocol(132)),
        (r#""IpProtocol": 50"#, Traffic::Protocol(50)),
    ] {
        let loaded =
            permissions(&format!(r#"{{{fields}, "IpRanges": [{{"CidrIp": "10.0.0.0/8"}}]}}"#));
        assert_eq!(loaded.problems, [], "{fields}");
        assert_eq!(group(&loaded, "sg-a").ingress[0].traffic, expected, "{fields}");
    }
}

/// A broken permission permits nothing; those beside it hold.
#[test]
fn s77_a_broken_permission_is_said_and_left_out() {
    let ranges = r#""IpRanges": [{"CidrIp": "10.0.0.0/8"}]"#;
    for (fields, message) in [
        (ranges, "IpPermissions[0].IpProtocol: the field is required but missing"),
        (&format!(r#""IpProtocol": "esp", {ranges}"#), "`esp` is not a protocol"),
        (&format!(r#""IpProtocol": "256", {ranges}"#), "`256` is not a protocol"),
        (
            &format!(r#""IpProtocol": "06", "FromPort": 443, "ToPort": 443, {ranges}"#),
            "`06` is not a protocol",
        ),
        (&format!(r#""IpProtocol": "0058", {ranges}"#), "`0058` is not a protocol"),
        (&format!(r#""IpProtocol": "icmp", {ranges}"#), "write -1 for every type and code"),
        (
            &format!(r#""IpProtocol": "icmpv6", "FromPort": 128, {ranges}"#),
            "ToPort: the field is required but missing",
        ),
        (&format!(r#""IpProtocol": true, {ranges}"#), "IpProtocol: must be a string"),
        (&format!(r#""IpProtocol": "tcp", {ranges}"#), "write 0 to 65535 for every port"),
        (
            &format!(r#""IpProtocol": "tcp", "FromPort": -1, "ToPort": -1, {ranges}"#),
            "FromPort: -1 is not an integer from 0 to 65535",
        ),
        (
            &format!(r#""IpProtocol": "tcp", "FromPort": 9, "ToPort": 8, {ranges}"#),
            "ToPort: 8 is less than FromPort 9",
        ),
        (
            &format!(r#""IpProtocol": "icmp", "FromPort": -1, "ToPort": 3, {ranges}"#),
            "a code needs a type",
        ),
        (
            &format!(r#""IpProtocol": "icmp", "FromPort": 256, "ToPort": 3, {ranges}"#),
            "256 is not an integer from -1 to 255",
        ),
    ] {
        let loaded = permissions(&format!(r#"{{{fields}}}, {{"IpProtocol": "-1", {ranges}}}"#));
        assert!(messages(&loaded)[0].contains(message), "{fields} {:?}", loaded.problems);
        assert!(messages(&loaded)[0].contains("SecurityGroup sg-a: IpPermissions[0]"));
        assert!(loaded.has_errors() && loaded.incomplete.is_empty());
        assert_eq!(group(&loaded, "sg-a").ingress.len(), 1, "{fields}");
    }
    for fields in [
        r#""IpProtocol": "tcp", "IpProtocol": "-1", "FromPort": 1, "ToPort": 2"#,
        r#""IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "ToPort": 65535"#,
    ] {
        let loaded = permissions(&format!("{{{fields}, {ranges}}}"));
        assert!(messages(&loaded)[0].contains("given twice"), "{fields} {:?}", loaded.problems);
        assert_eq!(group(&loaded, "sg-a").ingress, [], "{fields}");
    }
    for (peers, message) in [
        (r#""IpRanges": [{"CidrIp": "10.0.0.0/33"}]"#, "IpRanges[0].CidrIp: `10.0.0.0/33` is not"),
        (r#""IpRanges": [{"CidrIp": "::/0"}]"#, "::/0 is of the other family"),
        (r#""IpRanges": [{"CidrIpv6": "::/0"}]"#, "IpRanges[0].CidrIp: the field is missing"),
        (r#""IpRanges": {}"#, "IpRanges: must be a list"),
        (r#""UserIdGroupPairs": [{"GroupName": "b"}]"#, "UserIdGroupPairs[0].GroupId: the field"),
        (r#""UserIdGroupPairs": [{"GroupId": ""}]"#, "`` is not an id"),
        (
            r#""UserIdGroupPairs": [{"GroupId": "sg-b", "PeeringStatus": "deleted"}]"#,
            "the peering is `deleted`",
        ),
        (r#""PrefixListIds": [5]"#, "PrefixListIds[0]: must be an object"),
    ] {
        let loaded = permissions(&format!(r#"{{"IpProtocol": "-1", {peers}}}"#));
        assert!(messages(&loaded)[0].contains(message), "{peers} {:?}", loaded.problems);
        assert_eq!(group(&loaded, "sg-a").ingress[0].peers, [], "{peers}");
    }
}

/// Bits beyond the prefix are masked, as for policies (S17).
#[test]
fn s17_s77_host_bits_are_masked() {
    let loaded = permissions(r#"{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.1.2.3/8"}]}"#);
    assert!(!loaded.has_errors() && messages(&loaded)[0].contains("it is read as 10.0.0.0/8"));
    assert_eq!(group(&loaded, "sg-a").ingress[0].peers, networks(&["10.0.0.0/8"]));
}

const RULES: &str = r#"{"SecurityGroupRules": [
    {"SecurityGroupRuleId": "sgr-2", "GroupId": "sg-a", "GroupOwnerId": "1", "IsEgress": false, "IpProtocol": "tcp",
     "FromPort": 80, "ToPort": 80, "CidrIpv4": "10.0.0.0/8", "Tags": []},
    {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", "IsEgress": false, "IpProtocol": "-1", "FromPort": -1, "ToPort": -1,
     "ReferencedGroupInfo": {"GroupId": "sg-b", "UserId": "1"}},
    {"SecurityGroupRuleId": "sgr-3", "GroupId": "sg-a", "IsEgress": true, "IpProtocol": "-1", "FromPort": -1, "ToPort": -1,
     "CidrIpv6": "::/0"},
    {"SecurityGroupRuleId": "sgr-4", "GroupId": "sg-c", "IsEgress": true, "IpProtocol": "-1", "PrefixListId": "pl-1"}]}"#;

/// The rules of a group are there once, with their ids, whichever file is read first.
#[test]
fn s77_single_rules_count_instead_of_those_of_the_description() {
    let groups = r#"{"SecurityGroups": [
        {"GroupId": "sg-a", "GroupName": "a", "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
         "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}], "IpPermissionsEgress": [{"IpProtocol": "-1"}]},
        {"GroupId": "sg-d", "IpPermissions": [], "IpPermissionsEgress": [{"IpProtocol": "-1"}]}]}"#;
    let inputs = [Input::bytes("rules.json", RULES), Input::bytes("groups.json", groups)];
    let forwards = load(inputs.clone());
    let backwards = load(inputs.into_iter().rev());
    assert_eq!((&*forwards.problems, &*backwards.problems), (&[][..], &[][..]));
    assert_eq!(forwards.cluster, backwards.cluster);
    let ids = |rules: &[GroupRule]| {
        rules.iter().map(|rule| rule.id.as_deref().unwrap_or("none").to_owned()).collect::<Vec<_>>()
    };
    let known = group(&forwards, "sg-a");
    assert_eq!(
        (ids(&known.ingress), ids(&known.egress)),
        (vec!["sgr-1".into(), "sgr-2".into()], vec!["sgr-3".into()])
    );
    assert_eq!(known.name.as_deref(), Some("a"));
    assert_eq!(known.ingress[0].peers, [GroupPeer::Group("sg-b".into())]);
    assert_eq!(known.ingress[1].traffic, tcp(80, 80));
    assert_eq!(group(&forwards, "sg-c").egress[0].peers, [GroupPeer::PrefixList("pl-1".into())]);
    assert_eq!(ids(&group(&forwards, "sg-d").egress), ["none"], "it has no rule with an id");
}

#[test]
fn s77_a_broken_single_rule_is_said_and_permits_nothing() {
    let sound = r#""IsEgress": false, "IpProtocol": "-1""#;
    for (fields, message, lost) in [
        (format!(r#""GroupId": "sg-a", {sound}, "CidrIpv4": "10.0.0.0/8""#), "SecurityGroupRuleId: the field is", true),
        (format!(r#""SecurityGroupRuleId": "sgr-1", {sound}, "CidrIpv4": "10.0.0.0/8""#), "GroupId: the field", true),
        (r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", "IpProtocol": "-1", "CidrIpv4": "10.0.0.0/8""#.into(), "IsEgress: the field", false),
        (r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", "IsEgress": "no", "IpProtocol": "-1", "CidrIpv4": "10.0.0.0/8""#.into(), "IsEgress: must be a boolean", false),
        (format!(r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", {sound}"#), "exactly one of CidrIpv4", false),
        (format!(r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", {sound}, "CidrIpv4": "10.0.0.0/8", "CidrIpv6": "::/0""#), "exactly one of", false),
        (format!(r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", {sound}, "CidrIpv4": "x""#), "`x` is not a valid CIDR", false),
        (format!(r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", {sound}, "ReferencedGroupInfo": {{}}"#), "ReferencedGroupInfo.GroupId: the field", false),
    ] {
        let loaded = text("rules.json", format!(r#"{{"SecurityGroupRules": [{{{fields}}}]}}"#));
        assert!(messages(&loaded)[0].contains(message), "{fields} {:?}", loaded.problems);
        let groups = loaded.cluster.security.groups.values();
        let mut rules = groups.flat_map(|group| group.ingress.iter().chain(&group.egress));
        assert!(rules.all(|rule| rule.peers.is_empty()), "{fields}");
        assert_eq!(!loaded.incomplete.is_empty(), lost, "{fields}");
    }
}

/// A group has single rules where one of them is given, whatever is wrong with that one: what the
/// group's description permits does not count then, whichever is read first.
#[test]
fn s79_a_broken_single_rule_does_not_bring_back_what_the_description_permits() {
    let whole = r#"{"SecurityGroups": [{"GroupId": "sg-a", "GroupName": "a",
        "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
        "IpPermissionsEgress": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}]}"#;
    let sound = r#""SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", "IsEgress": false, "IpProtocol": "-1""#;
    for rule in [
        format!(r#"{{{sound}, "CidrIpv4": "10.0.0.0/33"}}"#),
        format!(r#"{{{sound}}}"#),
        format!(r#"{{{sound}, "ReferencedGroupInfo": {{"GroupId": "sg-b", "PeeringStatus": "deleted"}}}}"#),
        r#"{"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", "IpProtocol": "-1", "CidrIpv4": "0.0.0.0/0"}"#.into(),
        r#"{"GroupId": "sg-a", "IsEgress": false, "IpProtocol": "-1", "CidrIpv4": "0.0.0.0/0"}"#.into(),
    ] {
        let rules = format!(r#"{{"SecurityGroupRules": [{rule}]}}"#);
        let inputs = [Input::bytes("rules.json", rules), Input::bytes("groups.json", whole)];
        let (forwards, backwards) = (load(inputs.clone()), load(inputs.into_iter().rev()));
        assert_eq!(forwards.cluster, backwards.cluster, "{rule}");
        let known = group(&forwards, "sg-a");
        assert_eq!(known.name.as_deref(), Some("a"));
        let mut all = known.ingress.iter().chain(&known.egress);
        assert!(all.all(|rule| rule.peers.is_empty()), "{rule}: {known:?}");
        assert!(!forwards.problems.is_empty(), "{rule}");
    }
}

#[test]
fn s78_interfaces_with_all_their_addresses() {
    let loaded = text(
        "interfaces.json",
        r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "InterfaceType": "branch", "Status": "in-use",
            "Groups": [{"GroupId": "sg-a", "GroupName": "a"}], "PrivateIpAddress": "10.0.0.5",
            "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.0.5", "Primary": true}, {"PrivateIpAddress": "10.0.0.6"}],
            "Ipv6Addresses": [{"Ipv6Address": "fd00::5"}], "Ipv4Prefixes": [{"Ipv4Prefix": "10.0.1.0/28"}],
            "Ipv6Prefixes": [{"Ipv6Prefix": "fd00:1::/80"}]}], "NextToken": null}"#,
    );
    assert_eq!(loaded.problems, []);
    let addresses = ["10.0.0.5/32", "10.0.0.6/32", "fd00::5/128", "10.0.1.0/28", "fd00:1::/80"];
    let expected = NetworkInterface {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        groups: vec!["sg-a".into()],
    };
    assert_eq!(loaded.cluster.security.interfaces[&InterfaceId::from("eni-1")], expected);
    for (fields, message) in [
        (r#""Groups": 5"#, "Groups: must be a list"),
        (r#""Groups": [{"GroupName": "a"}]"#, "Groups[0].GroupId: the field is required"),
        (r#""Groups": [{"GroupId": "sg a"}]"#, "`sg a` is not an id"),
    ] {
        let text = text(
            "f.json",
            format!(r#"{{"NetworkInterfaces": [{{"NetworkInterfaceId": "eni-1", {fields}}}]}}"#),
        );
        assert!(messages(&text)[0].contains(message), "{:?}", text.problems);
        let groups = &text.cluster.security.interfaces[&InterfaceId::from("eni-1")].groups;
        assert_eq!(groups, &["unreadable".into()], "one that permits nothing, and not none");
    }
}

#[test]
fn s79_prefix_lists_are_named_by_their_file_or_beside_their_entries() {
    let entries =
        r#""Entries": [{"Cidr": "10.0.0.0/8", "Description": "x"}, {"Cidr": "fd00::/8"}]"#;
    let id = PrefixListId::from("pl-0a1b");
    let expected: Vec<_> = ["10.0.0.0/8", "fd00::/8"].map(|c| c.parse().unwrap()).into();
    for (name, document) in [
        ("dir/pl-0a1b.json", format!("{{{entries}}}")),
        ("pl-0a1b.entries.json", format!("{{{entries}}}")),
        ("f.json", format!(r#"{{"PrefixListId": "pl-0a1b", {entries}}}"#)),
        ("pl-9.json", format!(r#"{{"PrefixListId": "pl-0a1b", {entries}}}"#)),
        (
            "services.json",
            r#"{"PrefixLists": [{"PrefixListId": "pl-0a1b", "PrefixListName": "s3", "Cidrs": ["10.0.0.0/8", "fd00::/8"]}]}"#.into(),
        ),
    ] {
        let loaded = text(name, document);
        assert_eq!(loaded.problems, [], "{name}");
        assert_eq!(loaded.cluster.security.prefix_lists[&id], expected, "{name}");
    }
    let loaded = text("entries.json", format!("{{{entries}}}"));
    assert!(messages(&loaded)[0].contains("name the file after it (pl-0a1b.json)"));
    assert_eq!(*loaded.incomplete, ["entries.json".into()]);
    // The names of lists are no entries: such a list stays unknown.
    let names = r#"{"PrefixLists": [{"PrefixListId": "pl-0a1b", "PrefixListName": "own", "State": "create-complete"}]}"#;
    let loaded = text("lists.json", names);
    assert_eq!((&*loaded.problems, loaded.cluster.security.prefix_lists.len()), (&[][..], 0));
    let loaded = text("pl-1.json", r#"{"Entries": [{"Cidr": "x"}, {"Cidr": "10.0.0.0/8"}, {}]}"#);
    assert_eq!(loaded.cluster.security.prefix_lists[&"pl-1".into()].len(), 1);
    assert!(messages(&loaded)[0].contains("PrefixList pl-1: Entries[0].Cidr"), "{loaded:?}");
    assert!(messages(&loaded)[1].contains("Entries[2].Cidr: the field is required"));
}

#[test]
fn s79_outputs_are_recognized_in_every_form() {
    let output = r#"{"SecurityGroups": [{"GroupId": "sg-a"}], "NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "Groups": []}]}"#;
    for document in [
        output.to_owned(),
        format!("# yaml\n{output}"),
        format!("{output}\n{}", RULES),
        format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{output}]}}"#),
        "SecurityGroups:\n- GroupId: sg-a\nNetworkInterfaces:\n- NetworkInterfaceId: eni-1\n"
            .into(),
    ] {
        let loaded = text("f", document.as_str());
        assert_eq!((&*loaded.problems, loaded.incomplete.len()), (&[][..], 0), "{document}");
        let security = &loaded.cluster.security;
        assert!(security.groups.contains_key(&"sg-a".into()) && security.interfaces.len() == 1);
    }
    let page = r#"{"SecurityGroups": [], "NextToken": "abc"}"#;
    assert!(messages(&text("f", page))[0].contains("only a page"));
    let odd = text("f", r#"{"SecurityGroups": [], "SecurityGroupRule": []}"#);
    assert!(messages(&odd)[0].contains("unknown field; did you mean `SecurityGroupRules`?"));
    assert_eq!(odd.incomplete.len(), 1);
    let cut = text("f", r#"{"SecurityGroups": [{"GroupId": "sg-a"}, {"Gro"#);
    assert!(cut.has_errors() && cut.incomplete.len() == 1);
}

/// Of two groups of one id the first counts; nothing is added up.
#[test]
fn s61_groups_that_contradict_one_another_are_said() {
    let group = |port: u16| {
        format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-a", "IpPermissions": [{{"IpProtocol": "tcp", "FromPort": {port},
            "ToPort": {port}, "IpRanges": [{{"CidrIp": "10.0.0.0/8"}}]}}]}}]}}"#
        )
    };
    let loaded = load([
        Input::bytes("a.json", group(1)),
        Input::bytes("b.json", group(2)),
        Input::bytes("c.json", group(1)),
    ]);
    let messages = messages(&loaded);
    assert!(
        messages[0].contains("SecurityGroup sg-a: this object contradicts the one at a.json:1")
    );
    assert!(messages[1].contains("already given at a.json:1"), "{messages:?}");
    assert_eq!(self::group(&loaded, "sg-a").ingress[0].traffic, tcp(1, 1));
}

#[test]
fn s77_groups_of_the_aws_controllers() {
    let object = |status: &str, rule: &str| {
        text(
            "f.yaml",
            format!(
                "apiVersion: ec2.services.k8s.aws/v1alpha1\nkind: SecurityGroup\nmetadata: {{name: \
                 g, namespace: shop}}\nspec:\n  name: web\n  vpcID: vpc-1\n  ingressRules:\n  - \
                 {rule}\nstatus: {status}\n"
            ),
        )
    };
    let rule = "{ipProtocol: tcp, fromPort: 80, toPort: 81, ipRanges: [{cidrIP: 10.0.0.0/8}], \
        ipv6Ranges: [{cidrIPv6: '::/0'}], prefixListIDs: [{prefixListID: pl-1}], userIDGroupPairs: \
        [{groupID: sg-b}]}";
    let loaded = object("{id: sg-a}", rule);
    assert_eq!(loaded.problems, []);
    let known = group(&loaded, "sg-a");
    assert_eq!((known.name.as_deref(), known.egress.len()), (Some("web"), 0));
    assert_eq!((known.ingress[0].traffic, known.ingress[0].peers.len()), (tcp(80, 81), 4));
    for status in ["{}", "null"] {
        let loaded = object(status, rule);
        assert!(!loaded.has_errors() && loaded.cluster.security.groups.is_empty());
        assert!(messages(&loaded)[0].contains("has no id yet") && loaded.incomplete.is_empty());
    }
    let reference = "{ipProtocol: '-1', userIDGroupPairs: [{groupRef: {from: {name: b}}}]}";
    let loaded = object("{id: sg-a}", reference);
    assert!(messages(&loaded)[0].contains("groupID: the field is missing"), "{loaded:?}");
    assert_eq!(group(&loaded, "sg-a").ingress[0].peers, []);
}
