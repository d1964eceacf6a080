//! What is behind the ports of Services.

use super::*;
use crate::{ContainerPort, Phase, PodNetwork, Service};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn labels(app: &str) -> Labels {
    [("app", app), ("tier", "x")].into_iter().collect()
}

fn pod(name: &str, app: &str, address: &str, http: Option<u16>) -> Pod {
    let port = |number| ContainerPort {
        name: Some("http".into()),
        protocol: Protocol::Tcp,
        number,
        host_port: None,
    };
    Pod {
        key: key(name),
        uid: None,
        node: None,
        labels: labels(app),
        addresses: vec![address.parse().unwrap()],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: http.into_iter().map(port).collect(),
        grouping: Default::default(),
        owner: None,
    }
}

fn port(name: &str, number: u16, target: Target) -> FrontendPort {
    FrontendPort { name: Some(name.into()), protocol: Protocol::Tcp, number, target }
}

fn world() -> (Cluster, Frontends) {
    let pods = [
        pod("api-1", "api", "10.0.0.1", Some(8080)),
        pod("api-2", "api", "10.0.0.2", Some(9090)),
        pod("api-3", "api", "fd00::3", None),
        Pod { phase: Phase::Finished, ..pod("api-4", "api", "10.0.0.4", Some(8080)) },
        pod("web", "web", "10.0.0.5", Some(8080)),
        Pod { key: ObjectKey::new("other", "api"), ..pod("", "api", "10.0.0.6", Some(8080)) },
    ];
    let address = "10.96.0.1".parse().unwrap();
    let cluster = Cluster {
        pods: pods.into_iter().map(|pod| (pod.key.clone(), pod)).collect(),
        services: [(key("api"), Service { addresses: vec![address], ..Service::default() })].into(),
        ..Cluster::default()
    };
    let api = Frontend {
        selector: Some([("app", "api")].into_iter().collect()),
        ports: vec![
            port("http", 80, Target::Name("http".into())),
            port("metrics", 9100, Target::Number(9100)),
        ],
        ..Frontend::default()
    };
    (cluster, [(key("api"), api)].into())
}

fn found(frontends: &Frontends, choice: &str) -> Result<Vec<(String, u16)>, NoBackends> {
    let choice = if choice.is_empty() { PortChoice::All } else { PortChoice::named(choice) };
    let found = backends(&world().0, frontends, &key("api"), &choice)?;
    Ok(found.into_iter().map(|b| (b.address.to_string(), b.port)).collect())
}

fn pairs(expected: &[(&str, u16)]) -> Vec<(String, u16)> {
    expected.iter().map(|(address, port)| (address.to_string(), *port)).collect()
}

#[test]
fn a_port_name_is_resolved_on_each_pod_behind_the_service() {
    let (cluster, frontends) = world();
    let http = pairs(&[("10.0.0.1", 8080), ("10.0.0.2", 9090)]);
    assert_eq!(found(&frontends, "http").unwrap(), http);
    assert_eq!(found(&frontends, "80").unwrap(), http);
    let metrics = pairs(&[("10.0.0.1", 9100), ("10.0.0.2", 9100), ("fd00::3", 9100)]);
    assert_eq!(found(&frontends, "metrics").unwrap(), metrics);
    assert_eq!(found(&frontends, "").unwrap().len(), 5);
    let all = backends(&cluster, &frontends, &key("api"), &PortChoice::Number(9100)).unwrap();
    let via = |at: usize| all[at].via.map(|(address, port)| (address.to_string(), port));
    assert_eq!(via(0), Some(("10.96.0.1".into(), 9100)));
    assert_eq!(via(2), None, "the Service has no address of IPv6");
    assert_eq!(all[0].pod, Some(key("api-1")));
}

#[test]
fn a_service_leads_to_pods_of_its_families_only() {
    let (_, mut frontends) = world();
    frontends.get_mut(&key("api")).unwrap().families = vec![IpFamily::V6];
    assert_eq!(found(&frontends, "9100").unwrap(), pairs(&[("fd00::3", 9100)]));
}

#[test]
fn slices_count_instead_of_the_selector() {
    let (cluster, mut frontends) = world();
    let endpoint = |address: &str, pod: Option<&str>| SliceEndpoint {
        addresses: vec![address.parse().unwrap()],
        pod: pod.map(key),
    };
    let slice = Slice {
        ports: vec![SlicePort { name: Some("http".into()), protocol: Protocol::Tcp, number: 8443 }],
        endpoints: vec![endpoint("10.0.0.1", Some("api-1")), endpoint("192.0.2.1", None)],
    };
    frontends.get_mut(&key("api")).unwrap().slices = vec![slice];
    let found = backends(&cluster, &frontends, &key("api"), &PortChoice::named("http")).unwrap();
    let shown: Vec<_> = found.iter().map(|b| (b.pod.clone(), b.port)).collect();
    assert_eq!(shown, [(None, 8443), (Some(key("api-1")), 8443)]);
}

#[test]
fn nothing_behind_a_service_is_an_error_that_says_why() {
    let (_, base) = world();
    let with = |change: fn(&mut Frontend)| {
        let mut frontends = base.clone();
        change(frontends.get_mut(&key("api")).unwrap());
        frontends
    };
    let external = with(|f| f.reach = Reach::External("db.example.com".into()));
    let nobody = with(|f| f.selector = Some([("app", "none")].into_iter().collect()));
    let unnamed = with(|f| f.ports[0].target = Target::Name("grpc".into()));
    for (frontends, choice, part) in [
        (Frontends::new(), "http", "there is no Service shop/api"),
        (base.clone(), "https", "its ports are http (TCP 80), metrics (TCP 9100)"),
        (external, "http", "db.example.com"),
        (with(|f| f.selector = None), "http", "kubectl get endpointslices -n shop"),
        (with(|f| f.ports.clear()), "", "has no ports"),
        (nobody, "http", "no pod with an address is behind"),
        (unnamed, "http", "no pod behind Service shop/api has a container port"),
    ] {
        let error = found(&frontends, choice).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
