//! The API as its clients see it, on a socket and on the network: certificates that count and those
//! that do not, streams, clients who do not read, and nodes that come and go. Flows are made up
//! here; `runtime/cli/tests/hubble.rs` has an agent with packets.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use netpolc_flow::{Flow, Peer, Verdict, line::Line};
use netpolc_hubble::{
    api::{
        flow::LostEventSource,
        health::{HealthCheckRequest, HealthCheckResponse},
        observer::{
            GetAgentEventsRequest, GetAgentEventsResponse, GetFlowsRequest, GetFlowsResponse,
            GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest, GetNodesResponse,
            ServerStatusRequest, ServerStatusResponse, get_flows_response::ResponseTypes,
        },
        peer::{ChangeNotification, ChangeNotificationType, NotifyRequest},
    },
    client::{Client, path},
    serve::{Files, Listen, MAX_STREAMS, Options, server_name},
    source::{Figures, Flows, Followed, Nodes, Told},
};
use netpolc_policy::Direction;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(30);

/// Flows that a test makes up.
#[derive(Default)]
struct Made {
    kept: Mutex<Vec<Arc<Line>>>,
    followers: Mutex<Vec<(mpsc::Sender<Told>, oneshot::Sender<()>)>>,
}

impl Flows for Made {
    fn kept(&self) -> Vec<Arc<Line>> {
        self.kept.lock().unwrap().clone()
    }

    fn follow(&self) -> (Vec<Arc<Line>>, Followed) {
        let ((sender, lines), (cut, is_cut)) = (mpsc::channel(4), oneshot::channel());
        self.followers.lock().unwrap().push((sender, cut));
        (self.kept(), Followed::new(lines, is_cut, ()))
    }

    fn figures(&self) -> Figures {
        let kept = self.kept.lock().unwrap().len();
        Figures { kept, most: 100, seen: 7, began: Instant::now() - Duration::from_secs(60) }
    }
}

fn flow(time: u64) -> Flow {
    let pod = |name: &str| Peer { pod: Some(name.into()), ..Peer::default() };
    Flow {
        time,
        node: "n1".into(),
        verdict: Verdict::Denied,
        reason: Some("policy".into()),
        direction: Direction::Ingress,
        pod: Some("shop/db".into()),
        source: pod("test/other"),
        destination: pod("shop/db"),
        protocol: "TCP".into(),
        tcp_flags: None,
        icmp: None,
        by: vec![],
        bytes: 60,
    }
}

fn now() -> u64 {
    Flow::nanos(std::time::SystemTime::now())
}

/// A server.
struct Served {
    folder: PathBuf,
    flows: Arc<Made>,
    nodes: watch::Sender<Arc<Nodes>>,
    address: Option<SocketAddr>,
}

impl Served {
    fn up(name: &str, files: Option<Files>) -> Self {
        let folder =
            std::env::temp_dir().join(format!("netpolc-hubble-{name}-{}", std::process::id()));
        let listen = files.map(|files| Listen { address: ([127, 0, 0, 1], 0).into(), files });
        let socket = Some(folder.join("hubble.sock"));
        let bound = Options { socket, listen, cluster: "default".into() }.bind().unwrap();
        let (flows, (nodes, receiver)) =
            (Arc::new(Made::default()), watch::channel(Arc::new(Nodes::new())));
        let address = bound.address();
        bound.serve("n1".into(), flows.clone(), receiver).unwrap();
        Self { folder, flows, nodes, address }
    }

    async fn client(&self) -> Client {
        let stream = UnixStream::connect(self.folder.join("hubble.sock")).await.unwrap();
        Client::over(stream).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn flows(client: &mut Client, request: GetFlowsRequest) -> Streaming<GetFlowsResponse> {
    client.stream(path::GET_FLOWS, request).await.unwrap()
}

/// The next answer, which has to come in time.
async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(DEADLINE, stream.message()).await.expect("an answer in time")
}

async fn status(client: &mut Client) -> Result<ServerStatusResponse, Status> {
    client.call(path::SERVER_STATUS, ServerStatusRequest {}).await
}

#[tokio::test]
async fn all_services_answer_on_the_socket() {
    let served = Served::up("answers", None);
    let lines = (0..3).map(|n| Arc::new(Line::Flow(Box::new(flow(now() + n)))));
    *served.flows.kept.lock().unwrap() = lines.collect();
    let mut client = served.client().await;
    let said = status(&mut client).await.unwrap();
    assert_eq!((said.num_flows, said.max_flows, said.seen_flows), (3, 100, 7));
    assert!(said.uptime_ns >= 60_000_000_000 && said.flows_rate > 0.0, "{said:?}");
    assert!(said.version.starts_with("netpolc v"), "{said:?}");

    let said: GetNamespacesResponse =
        client.call(path::GET_NAMESPACES, GetNamespacesRequest {}).await.unwrap();
    let names: Vec<&str> = said.namespaces.iter().map(|one| &*one.namespace).collect();
    assert_eq!(names, ["shop", "test"]);
    let said: GetNodesResponse = client.call(path::GET_NODES, GetNodesRequest {}).await.unwrap();
    let address = format!("unix://{}/hubble.sock", served.folder.display());
    assert_eq!((&*said.nodes[0].name, &*said.nodes[0].address), ("n1", &*address));

    let mut stream = flows(&mut client, GetFlowsRequest { number: 2, ..Default::default() }).await;
    for _ in 0..2 {
        let said = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(said.node_name, "default/n1");
        assert!(matches!(said.response_types, Some(ResponseTypes::Flow(_))));
    }
    assert_eq!(next(&mut stream).await.unwrap(), None);

    let check = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "hubble.server.Observer"] {
        let said: HealthCheckResponse = client.call(path::CHECK, check(service)).await.unwrap();
        assert_eq!(said.status().as_str_name(), "SERVING");
    }
    let refused = client.call::<_, HealthCheckResponse>(path::CHECK, check("else")).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    let refused = client
        .stream::<_, GetAgentEventsResponse>(path::GET_AGENT_EVENTS, GetAgentEventsRequest {})
        .await
        .unwrap_err();
    assert!(refused.code() == Code::Unimplemented && refused.message().contains("netpolc status"));
    let refused = client.call::<_, GetNodesResponse>("/else.Else/Do", GetNodesRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn requests_that_make_no_sense_or_are_too_large_are_refused() {
    let served = Served::up("refuses", None);
    let mut client = served.client().await;
    let mut refused = async |request: GetFlowsRequest| {
        let answer = client.stream::<_, GetFlowsResponse>(path::GET_FLOWS, request).await;
        answer.map(drop).unwrap_err()
    };
    let filter = |filter| GetFlowsRequest { whitelist: vec![filter], ..Default::default() };
    let said = refused(filter(netpolc_hubble::api::flow::FlowFilter {
        http_method: vec!["GET".into()],
        ..Default::default()
    }))
    .await;
    assert_eq!(said.code(), Code::InvalidArgument);
    assert!(said.message().contains("netpolc does not know http_method"), "{said}");
    let said = refused(GetFlowsRequest { first: true, follow: true, ..Default::default() }).await;
    assert_eq!(said.code(), Code::InvalidArgument);
    let large = filter(netpolc_hubble::api::flow::FlowFilter {
        source_pod: vec!["x".repeat(100_000)],
        ..Default::default()
    });
    assert_eq!(refused(large).await.code(), Code::OutOfRange);
}

#[tokio::test]
async fn there_is_room_for_so_many_streams_and_no_more() {
    let served = Served::up("many", None);
    let mut client = served.client().await;
    let follow = || GetFlowsRequest { follow: true, ..Default::default() };
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(flows(&mut client, follow()).await);
    }
    let mut another = served.client().await;
    let refused = another.stream::<_, GetFlowsResponse>(path::GET_FLOWS, follow()).await;
    let refused = refused.map(drop).unwrap_err();
    assert!(refused.message().contains("32 streams of flows already"), "{refused}");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Other calls have places of their own.
    status(&mut another).await.unwrap();
    drop(streams);
    let began = Instant::now();
    while another.stream::<_, GetFlowsResponse>(path::GET_FLOWS, follow()).await.is_err() {
        assert!(began.elapsed() < DEADLINE, "nobody leaves");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A client who does not read is told so when it does, and others are served meanwhile.
#[tokio::test]
async fn a_client_who_does_not_read_is_cut_off_and_told() {
    let served = Served::up("slow", None);
    let mut client = served.client().await;
    let mut slow = flows(&mut client, GetFlowsRequest { follow: true, ..Default::default() }).await;
    let (lines, cut) = served.flows.followers.lock().unwrap().pop().unwrap();
    let missed = Told::Missed(Line::Lost(9));
    lines.send(missed).await.unwrap();
    let said = next(&mut slow).await.unwrap().unwrap();
    let Some(ResponseTypes::LostEvents(lost)) = said.response_types else { panic!("{said:?}") };
    assert_eq!((lost.source(), lost.num_events_lost), (LostEventSource::HubbleRingBuffer, 9));
    // As much as fits into all the queues on the way, and more.
    let mut sent = 0;
    while let Ok(Ok(())) = timeout(
        Duration::from_secs(2),
        lines.send(Told::All(Arc::new(Line::Flow(Box::new(flow(sent)))))),
    )
    .await
    {
        sent += 1;
        assert!(sent < 100_000, "nothing is ever full");
    }
    let mut other = served.client().await;
    status(&mut other).await.unwrap();
    drop(cut);
    let mut got = 0;
    let end = loop {
        match next(&mut slow).await {
            Ok(Some(_)) => got += 1,
            Ok(None) => panic!("the end says nothing"),
            Err(status) => break status,
        }
    };
    assert!(got <= sent && got > 0, "{got} of {sent}");
    assert!(end.code() == Code::ResourceExhausted && end.message().contains("has not read"));
}

fn nodes(list: &[(&str, &str)]) -> Arc<Nodes> {
    Arc::new(list.iter().map(|(name, ip)| ((*name).into(), ip.parse().ok())).collect())
}

fn said(change: &ChangeNotification) -> (ChangeNotificationType, &str, &str) {
    (change.r#type(), &change.name, &change.address)
}

/// An authority, and what it issues.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// A certificate and its key, which end in this year.
    fn issue(&self, name: &str, year: i32) -> (String, String) {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Files in a folder of their own.
fn files(name: &str) -> (PathBuf, Files) {
    let folder = std::env::temp_dir().join(format!("netpolc-tls-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name);
    let files = Files {
        certificate: file("tls.crt"),
        key: file("tls.key"),
        client_authority: file("ca.crt"),
    };
    (folder, files)
}

fn write(files: &Files, authority: &Authority, (certificate, key): &(String, String)) {
    let put = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    put(&files.certificate, certificate);
    put(&files.key, key);
    put(&files.client_authority, &authority.certificate);
}

/// What a client with this certificate, who trusts this authority, is answered.
async fn over_tls(
    address: SocketAddr,
    trusted: &Authority,
    shown: Option<&(String, String)>,
) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.certificate.as_bytes())?)?;
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
    let mut config = match shown {
        Some((certificate, key)) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(server_name("n1", "default"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut client = Client::over(stream).await?;
    // With TLS 1.3 a client learns only now whether it was accepted.
    let answered = timeout(DEADLINE, status(&mut client)).await.map_err(io::Error::other)?;
    answered?;
    Ok(client)
}

#[tokio::test]
async fn only_clients_with_a_certificate_that_counts_are_served() {
    let (folder, files) = files("clients");
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let server = ours.issue(&server_name("n1", "default"), 2050);
    write(&files, &ours, &server);
    let served = Served::up("clients", Some(files.clone()));
    let address = served.address.unwrap();
    let relay = ours.issue("relay", 2050);
    for (shown, is_served) in [
        (Some(&relay), true),
        (None, false),
        (Some(&others.issue("relay", 2050)), false),
        (Some(&ours.issue("relay", 2021)), false),
    ] {
        let answer = over_tls(address, &ours, shown).await;
        assert_eq!(answer.is_ok(), is_served, "{:?}", answer.err());
    }
    // Neither without TLS.
    let plain = TcpStream::connect(address).await.unwrap();
    if let Ok(mut client) = Client::over(plain).await {
        status(&mut client).await.unwrap_err();
    }

    // Relay learns of all nodes, and of changes.
    served.nodes.send_replace(nodes(&[("n1", "10.0.0.1"), ("n2", "10.0.0.2")]));
    let mut client = over_tls(address, &ours, Some(&relay)).await.unwrap();
    let mut stream: Streaming<ChangeNotification> =
        client.stream(path::NOTIFY, NotifyRequest {}).await.unwrap();
    let port = address.port();
    for (name, ip) in [("n1", "10.0.0.1"), ("n2", "10.0.0.2")] {
        let change = next(&mut stream).await.unwrap().unwrap();
        let at = format!("{ip}:{port}");
        assert_eq!(said(&change), (ChangeNotificationType::PeerAdded, name, &*at));
        assert_eq!(change.tls.unwrap().server_name, server_name(name, "default"));
    }
    served.nodes.send_replace(nodes(&[("n1", "10.0.0.1"), ("n2", "10.0.0.9"), ("n3", "::1")]));
    let changed = [
        (ChangeNotificationType::PeerUpdated, "n2", format!("10.0.0.9:{port}")),
        (ChangeNotificationType::PeerAdded, "n3", format!("[::1]:{port}")),
    ];
    for (kind, name, at) in &changed {
        let change = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(said(&change), (*kind, *name, &**at));
    }
    served.nodes.send_replace(nodes(&[("n1", "10.0.0.1"), ("n3", "::1")]));
    let change = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(said(&change).0, ChangeNotificationType::PeerDeleted);
    assert_eq!(change.name, "n2");
    let _ = std::fs::remove_dir_all(folder);
}

/// Files may come later than the agent, and be renewed while it runs; what cannot be used meanwhile
/// takes nothing away.
#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let (folder, files) = files("renewed");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (old_client, new_client) = (old.issue("relay", 2050), new.issue("relay", 2050));
    let served = Served::up("renewed", Some(files.clone()));
    let address = served.address.unwrap();
    over_tls(address, &old, Some(&old_client)).await.err().expect("there are no files yet");
    write(&files, &old, &old.issue(&server_name("n1", "default"), 2050));
    let mut kept = over_tls(address, &old, Some(&old_client)).await.unwrap();
    std::fs::write(&files.key, "nonsense").unwrap();
    over_tls(address, &old, Some(&old_client)).await.unwrap();
    write(&files, &new, &new.issue(&server_name("n1", "default"), 2050));
    over_tls(address, &new, Some(&new_client)).await.unwrap();
    over_tls(address, &new, Some(&old_client)).await.err().expect("its authority counts no more");
    // What was accepted goes on.
    status(&mut kept).await.unwrap();
    let _ = std::fs::remove_dir_all(folder);
}

/// Those who shake no hands keep nobody out for long.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let (folder, files) = files("silent");
    let ours = Authority::new("ours");
    write(&files, &ours, &ours.issue(&server_name("n1", "default"), 2050));
    let served = Served::up("silent", Some(files));
    let address = served.address.unwrap();
    let mut silent = Vec::new();
    for _ in 0..48 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let began = Instant::now();
    over_tls(address, &ours, Some(&ours.issue("relay", 2050))).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_socket_is_made_where_only_root_looks() {
    let folder = std::env::temp_dir().join(format!("netpolc-hubble-open-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = |path: &Path| Options {
        socket: Some(path.to_owned()),
        listen: None,
        cluster: "default".into(),
    };
    let why = options(&folder.join("s")).bind().unwrap_err().to_string();
    assert!(why.contains("--hubble-socket") && why.contains("others may use"), "{why}");
    let path = folder.join("own/s");
    let _bound = options(&path).bind().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(folder.join("own")).unwrap().mode() & 0o777, 0o700);
    std::fs::remove_dir_all(folder).unwrap();
}
