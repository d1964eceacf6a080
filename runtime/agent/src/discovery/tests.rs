//! Discovery in invented networks. With real namespaces: `runtime/cli/tests/interfaces.rs`.

use super::*;

const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];

/// A bridge 5 with ports 12 and 13, whose other ends are number 2 in the namespaces 0 and 1; an
/// uplink 3.
fn host() -> HostView {
    let link = |index, name: &str, kind: &str| Link {
        index,
        name: name.into(),
        kind: Some(kind.into()),
        ..Link::default()
    };
    let port = |index, namespace| Link {
        master: Some(5),
        peer: Some(Peer { index: 2, namespace }),
        ..link(index, &format!("veth{index}"), "veth")
    };
    let links = vec![
        Link { loopback: true, ..link(1, "lo", "") },
        link(3, "eth0", "veth"),
        link(5, "cni0", "bridge"),
        port(12, 0),
        port(13, 1),
    ];
    HostView { links, ..HostView::default() }
}

fn wanted(address: [u8; 4]) -> PodFacts {
    PodFacts { addresses: vec![address.into()], ..PodFacts::default() }
}

fn inside(number: i32, addresses: &[[u8; 4]]) -> NamespaceView {
    let addresses = addresses
        .iter()
        .map(|a| (IpAddr::from(*a), 2, Some([2, 0, 0, 0, 0, a[3]]), End::Elsewhere));
    NamespaceView { number: Some(number), addresses: addresses.collect() }
}

fn results(host: &HostView, pods: &[PodFacts], views: &[NamespaceView]) -> Vec<Discovery> {
    let mut search = Search::new(host, pods);
    search.by_trusted_sources();
    search.by_namespace(views);
    search.results
}

fn at(index: u32, source: Source) -> Discovery {
    Discovery {
        interface: Some(HostInterface { ifindex: IfIndex::new(index), source }),
        ..Discovery::default()
    }
}

#[test]
fn the_namespace_that_has_the_address_tells() {
    let found = results(&host(), &[wanted(B), wanted(C)], &[inside(0, &[B]), inside(1, &[C])]);
    assert_eq!(found, [at(12, Source::Namespace), at(13, Source::Namespace)]);
}

/// A route exception or a mistake may name the bridge; nothing makes it a pod's.
#[test]
fn a_bridge_loopback_or_what_is_gone_is_nobodys() {
    let routes = vec![(B.into(), 5), (C.into(), 1), ([10, 0, 0, 4].into(), 99)];
    let pods = [wanted(B), wanted(C), wanted([10, 0, 0, 4])];
    let found = results(&HostView { routes, ..host() }, &pods, &[]);
    assert_eq!(found, vec![Discovery::default(); 3]);
}

/// c gives itself b's address: its namespace is c's, so it cannot be b's; nor the other way round.
#[test]
fn a_namespace_is_one_pods_only() {
    let found = results(&host(), &[wanted(B), wanted(C)], &[inside(1, &[C, B]), inside(0, &[B])]);
    assert_eq!(found, [at(12, Source::Namespace), at(13, Source::Namespace)]);
}

/// Without its own address c's namespace may be b's as well as b's own: then nobody says which.
#[test]
fn an_address_in_two_namespaces_is_in_neither() {
    let views = [inside(1, &[B]), inside(0, &[B])];
    let found = results(&host(), &[wanted(B), wanted(C)], &views);
    assert_eq!((found[0].interface, found[1].interface), (None, None));
    assert!(found[0].doubt.as_ref().unwrap().contains("2 network namespaces"), "{found:?}");
    // Where CNI said which, or it was known before, that stays.
    let before = PodFacts { previous: Some(IfIndex::new(12)), ..wanted(B) };
    assert_eq!(results(&host(), &[before], &views), [at(12, Source::Before)]);
    let place = Placement { netns: "/run/netns/b".into(), host_interfaces: vec![] };
    let places = BTreeMap::from([(place.netns.clone(), 0)]);
    let said = PodFacts { placement: Some(place), ..wanted(B) };
    assert_eq!(
        results(&HostView { named: places, ..host() }, &[said], &views),
        [at(12, Source::Cni)]
    );
}

/// Another node's pods, where nodes are namespaces of one machine.
#[test]
fn namespaces_to_which_no_link_leads_do_not_count() {
    let elsewhere = NamespaceView { number: None, ..inside(0, &[B]) };
    assert_eq!(
        results(&host(), &[wanted(B)], &[elsewhere, inside(0, &[B])]),
        [at(12, Source::Namespace)]
    );
}

/// A pod that takes its address off, or gives it to an accomplice, stays where it is.
#[test]
fn what_is_said_in_namespaces_moves_no_pod() {
    let pods = [
        PodFacts { previous: Some(IfIndex::new(12)), ..wanted(B) },
        PodFacts { previous: Some(IfIndex::new(13)), ..wanted(C) },
    ];
    let stay = [at(12, Source::Before), at(13, Source::Before)];
    assert_eq!(results(&host(), &pods, &[]), stay);
    assert_eq!(results(&host(), &pods, &[inside(0, &[C]), inside(1, &[B])]), stay);
    // Unless its interface is gone.
    let pods = [PodFacts { previous: Some(IfIndex::new(99)), ..wanted(B) }];
    assert_eq!(results(&host(), &pods, &[inside(0, &[B])]), [at(12, Source::Namespace)]);
}

#[test]
fn routes_tell_more_than_namespaces_and_cni_more_than_routes() {
    let routes = vec![(B.into(), 13), (C.into(), 12)];
    let host = HostView { routes, named: BTreeMap::from([("x".into(), 1)]), ..host() };
    let views = [inside(0, &[B]), inside(1, &[C])];
    let pods = [PodFacts { previous: Some(IfIndex::new(12)), ..wanted(B) }, wanted(C)];
    assert_eq!(results(&host, &pods, &views), [at(13, Source::Route), at(12, Source::Route)]);
    let place =
        Placement { netns: "x".into(), host_interfaces: vec!["cni0".into(), "veth13".into()] };
    let pods = [wanted(B), PodFacts { placement: Some(place), ..wanted(C) }];
    let found = results(&host, &pods, &views);
    assert_eq!(found[1], at(13, Source::Cni));
    assert_eq!(
        found[0].interface,
        Some(HostInterface { ifindex: IfIndex::new(12), source: Source::Namespace })
    );
    assert!(
        found[0].doubt.as_ref().unwrap().contains("veth13 (13) belongs to another pod"),
        "{found:?}"
    );
}

#[test]
fn routes_that_disagree_leave_a_pod_where_it_was() {
    let routes = vec![(B.into(), 13), (B.into(), 12)];
    let host = HostView { routes, ..host() };
    let found = results(&host, &[PodFacts { previous: Some(IfIndex::new(12)), ..wanted(B) }], &[]);
    assert_eq!(
        found[0].interface,
        Some(HostInterface { ifindex: IfIndex::new(12), source: Source::Before })
    );
    assert!(found[0].doubt.is_some());
}

/// CNI's names alone will do where the namespace is out of sight; a bridge among them is none.
#[test]
fn cni_names_the_interface_where_its_namespace_is_out_of_sight() {
    let place = Placement {
        netns: "/proc/7/ns/net".into(),
        host_interfaces: vec!["cni0".into(), "veth13".into()],
    };
    let pods = [PodFacts { placement: Some(place), ..PodFacts::default() }];
    assert_eq!(results(&host(), &pods, &[]), [at(13, Source::Cni)]);
    assert_eq!(local_path("/proc/7/ns/net"), None);
    assert_eq!(local_path("/var/run/netns/x"), Some("/run/netns/x".into()));
    assert_eq!(local_path("/run/netns/../../x"), None);
}

/// A virtual function has no other end; the bridge tells its representor, which is no pod's
/// interface.
#[test]
fn a_bridge_tells_only_of_what_has_no_other_end() {
    let mut host = host();
    host.links.push(Link { index: 20, name: "rep0".into(), master: Some(5), ..Link::default() });
    let mac = [2, 0, 0, 0, 0, 9];
    let vf = NamespaceView { number: None, addresses: vec![(B.into(), 7, Some(mac), End::None)] };
    let pods = [wanted(B)];
    let at = |port| {
        let mut search = Search::new(&host, &pods);
        search.by_trusted_sources();
        search.by_namespace(std::slice::from_ref(&vf));
        search.by_bridge(std::slice::from_ref(&vf), &BTreeMap::from([(mac, port)]));
        search.results[0].interface
    };
    assert_eq!(at(20), Some(HostInterface { ifindex: IfIndex::new(20), source: Source::Bridge }));
    // Another pod sends with that hardware address.
    assert_eq!(at(13), None);
}
