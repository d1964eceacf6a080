//! Ways on made-up ground. With real namespaces: `runtime/tests/interfaces.rs`.

use super::*;

const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];

/// A bridge 5 with ports 12 and 13, whose other ends are number 2 in the namespaces 0 and 1; an uplink 3.
fn ground() -> Ground {
    let link =
        |index, name: &str, kind: &str| Link { index, name: name.into(), kind: Some(kind.into()), ..Link::default() };
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
    Ground { links, ..Ground::default() }
}

fn wanted(address: [u8; 4]) -> Wanted {
    Wanted { addresses: vec![address.into()], ..Wanted::default() }
}

fn inside(number: i32, addresses: &[[u8; 4]]) -> Inside {
    let addresses = addresses.iter().map(|a| (IpAddr::from(*a), 2, Some([2, 0, 0, 0, 0, a[3]]), End::Elsewhere));
    Inside { number: Some(number), addresses: addresses.collect() }
}

fn answers(ground: &Ground, pods: &[Wanted], insides: &[Inside]) -> Vec<Answer> {
    let mut search = Search::new(ground, pods);
    search.firm();
    search.by_namespace(insides);
    search.answers
}

fn way(index: u32, by: By) -> Answer {
    Answer { way: Some(Way { ifindex: IfIndex::new(index), by }), ..Answer::default() }
}

#[test]
fn the_namespace_that_has_the_address_tells() {
    let found = answers(&ground(), &[wanted(B), wanted(C)], &[inside(0, &[B]), inside(1, &[C])]);
    assert_eq!(found, [way(12, By::Namespace), way(13, By::Namespace)]);
}

/// A route exception or a mistake may name the bridge; nothing makes it a pod's.
#[test]
fn a_bridge_loopback_or_what_is_gone_is_nobodys() {
    let routes = vec![(B.into(), 5), (C.into(), 1), ([10, 0, 0, 4].into(), 99)];
    let pods = [wanted(B), wanted(C), wanted([10, 0, 0, 4])];
    let found = answers(&Ground { routes, ..ground() }, &pods, &[]);
    assert_eq!(found, vec![Answer::default(); 3]);
}

/// c gives itself b's address: its namespace is c's, so it cannot be b's; nor the other way round.
#[test]
fn a_namespace_is_one_pods_only() {
    let found = answers(&ground(), &[wanted(B), wanted(C)], &[inside(1, &[C, B]), inside(0, &[B])]);
    assert_eq!(found, [way(12, By::Namespace), way(13, By::Namespace)]);
}

/// Without its own address c's namespace may be b's as well as b's own: then nobody says which.
#[test]
fn an_address_in_two_namespaces_is_in_neither() {
    let insides = [inside(1, &[B]), inside(0, &[B])];
    let found = answers(&ground(), &[wanted(B), wanted(C)], &insides);
    assert_eq!((found[0].way, found[1].way), (None, None));
    assert!(found[0].doubt.as_ref().unwrap().contains("2 network namespaces"), "{found:?}");
    // Where CNI said which, or it was known before, that stays.
    let before = Wanted { before: Some(IfIndex::new(12)), ..wanted(B) };
    assert_eq!(answers(&ground(), &[before], &insides), [way(12, By::Before)]);
    let place = Place { netns: "/run/netns/b".into(), host_interfaces: vec![] };
    let places = BTreeMap::from([(place.netns.clone(), 0)]);
    let said = Wanted { place: Some(place), ..wanted(B) };
    assert_eq!(answers(&Ground { places, ..ground() }, &[said], &insides), [way(12, By::Cni)]);
}

/// Another node's pods, where nodes are namespaces of one machine.
#[test]
fn namespaces_to_which_no_link_leads_do_not_count() {
    let elsewhere = Inside { number: None, ..inside(0, &[B]) };
    assert_eq!(answers(&ground(), &[wanted(B)], &[elsewhere, inside(0, &[B])]), [way(12, By::Namespace)]);
}

/// A pod that takes its address off, or gives it to an accomplice, stays where it is.
#[test]
fn what_is_said_in_namespaces_moves_no_pod() {
    let pods = [
        Wanted { before: Some(IfIndex::new(12)), ..wanted(B) },
        Wanted { before: Some(IfIndex::new(13)), ..wanted(C) },
    ];
    let stay = [way(12, By::Before), way(13, By::Before)];
    assert_eq!(answers(&ground(), &pods, &[]), stay);
    assert_eq!(answers(&ground(), &pods, &[inside(0, &[C]), inside(1, &[B])]), stay);
    // Unless its interface is gone.
    let pods = [Wanted { before: Some(IfIndex::new(99)), ..wanted(B) }];
    assert_eq!(answers(&ground(), &pods, &[inside(0, &[B])]), [way(12, By::Namespace)]);
}

#[test]
fn routes_tell_more_than_namespaces_and_cni_more_than_routes() {
    let routes = vec![(B.into(), 13), (C.into(), 12)];
    let ground = Ground { routes, places: BTreeMap::from([("x".into(), 1)]), ..ground() };
    let insides = [inside(0, &[B]), inside(1, &[C])];
    let pods = [Wanted { before: Some(IfIndex::new(12)), ..wanted(B) }, wanted(C)];
    assert_eq!(answers(&ground, &pods, &insides), [way(13, By::Route), way(12, By::Route)]);
    let place = Place { netns: "x".into(), host_interfaces: vec!["cni0".into(), "veth13".into()] };
    let pods = [wanted(B), Wanted { place: Some(place), ..wanted(C) }];
    let found = answers(&ground, &pods, &insides);
    assert_eq!(found[1], way(13, By::Cni));
    assert_eq!(found[0].way, Some(Way { ifindex: IfIndex::new(12), by: By::Namespace }));
    assert!(found[0].doubt.as_ref().unwrap().contains("veth13 (13) is another pod's"), "{found:?}");
}

#[test]
fn routes_that_disagree_leave_a_pod_where_it_was() {
    let routes = vec![(B.into(), 13), (B.into(), 12)];
    let ground = Ground { routes, ..ground() };
    let found = answers(&ground, &[Wanted { before: Some(IfIndex::new(12)), ..wanted(B) }], &[]);
    assert_eq!(found[0].way, Some(Way { ifindex: IfIndex::new(12), by: By::Before }));
    assert!(found[0].doubt.is_some());
}

/// CNI's names alone will do where the namespace is out of sight; a bridge among them is none.
#[test]
fn cni_names_the_interface_where_its_namespace_is_out_of_sight() {
    let place = Place { netns: "/proc/7/ns/net".into(), host_interfaces: vec!["cni0".into(), "veth13".into()] };
    let pods = [Wanted { place: Some(place), ..Wanted::default() }];
    assert_eq!(answers(&ground(), &pods, &[]), [way(13, By::Cni)]);
    assert_eq!(path_here("/proc/7/ns/net"), None);
    assert_eq!(path_here("/var/run/netns/x"), Some("/run/netns/x".into()));
    assert_eq!(path_here("/run/netns/../../x"), None);
}

/// A virtual function has no other end; the bridge tells its representor, which is no pod's interface.
#[test]
fn a_bridge_tells_only_of_what_has_no_other_end() {
    let mut ground = ground();
    ground.links.push(Link { index: 20, name: "rep0".into(), master: Some(5), ..Link::default() });
    let mac = [2, 0, 0, 0, 0, 9];
    let vf = Inside { number: None, addresses: vec![(B.into(), 7, Some(mac), End::None)] };
    let pods = [wanted(B)];
    let at = |port| {
        let mut search = Search::new(&ground, &pods);
        search.firm();
        search.by_namespace(std::slice::from_ref(&vf));
        search.by_bridge(std::slice::from_ref(&vf), &BTreeMap::from([(mac, port)]));
        search.answers[0].way
    };
    assert_eq!(at(20), Some(Way { ifindex: IfIndex::new(20), by: By::Bridge }));
    // Another pod sends with that hardware address.
    assert_eq!(at(13), None);
}
