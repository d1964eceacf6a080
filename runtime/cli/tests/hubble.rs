//! Hubble's API of an agent with real packets, as the hubble command and Hubble Relay speak it:
//! flows, filters, following, nodes, certificates, and clients who do not read. Needs root.

mod common;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Node, Running, UI_TO_DB};
use netpolc_hubble::{
    api::{
        flow::{DropReason, Flow, FlowFilter, TrafficDirection, Verdict, layer4::Protocol},
        observer::{
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
            ServerStatusRequest, ServerStatusResponse, get_flows_response::ResponseTypes,
        },
        peer::{ChangeNotification, ChangeNotificationType, NotifyRequest},
    },
    client::{Client, path},
    serve::server_name,
};
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::UnixStream, time::timeout};
use tonic::{Code, Streaming};

const REDIS: Ask = Ask::Tcp(6379);
/// How long what must happen may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Where the API is on the network of the node.
const ADDRESS: &str = "127.0.0.1:4244";

/// A node that comes later.
const N2: &str = "
kind: Node
metadata: {name: n2}
status:
  addresses:
  - {type: ExternalIP, address: 203.0.113.2}
  - {type: InternalIP, address: 192.168.7.2}
";

/// A certificate with its key.
type Shown = (String, String);

/// A node whose agent serves the API.
struct Served {
    _agent: Running,
    node: Node,
    /// Private, with the socket, the certificates and the agent's log.
    own: PathBuf,
    authority: String,
    relay: Shown,
}

impl Served {
    fn up(name: &str) -> Self {
        let node = Node::up(name, &[REDIS]);
        node.apply(Some(UI_TO_DB));
        let own = node.folder.with_extension("hubble");
        netpolc_host::private::folder(&own).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = parameters.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(parameters, key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (parameters.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (certificate, key) = issue(&server_name("*", "default"));
        let relay = issue("relay");
        let file = |name: &str, text: &str| {
            let path = own.join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let socket = own.join("hubble.sock");
        let arguments = [
            "agent",
            "--node=n1",
            "--from",
            node.folder.to_str().unwrap(),
            "--hubble-socket",
            socket.to_str().unwrap(),
            "--hubble-listen",
            ADDRESS,
            "--hubble-tls-cert",
            &file("tls.crt", &certificate),
            "--hubble-tls-key",
            &file("tls.key", &key),
            "--hubble-tls-client-ca",
            &file("ca.crt", &authority),
        ];
        let log = File::create(own.join("log")).unwrap();
        let agent = Running::start(node.command(&arguments).stderr(log));
        Self { _agent: agent, node, own, authority, relay }
    }

    fn passes(&self, from: &str, to: &str) -> bool {
        let question = Question::new(self.node.pod(from), to.parse().unwrap(), REDIS);
        ask(&[question], PATIENCE).unwrap()[0].passed()
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds().await {
            let said = fs::read_to_string(self.own.join("log")).unwrap();
            assert!(Instant::now() < deadline, "never: {what}\n{said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A client on the socket.
    async fn client(&self) -> Client {
        let path = self.own.join("hubble.sock");
        self.until("the socket is there", async || path.exists()).await;
        Client::over(UnixStream::connect(path).await.unwrap()).await.unwrap()
    }

    /// A client on the network, with this certificate.
    async fn over_tls(&self, shown: Option<&Shown>) -> Result<Client, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connect = || std::net::TcpStream::connect(ADDRESS);
        let stream = self.node.net.node("n1").unwrap().run(connect).unwrap();
        let stream = stream.map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let name = ServerName::try_from(server_name("n1", "default")).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let mut client = Client::over(stream).await.map_err(|error| error.to_string())?;
        let answer =
            client.call::<_, ServerStatusResponse>(path::SERVER_STATUS, ServerStatusRequest {});
        answer.await.map(|_| client).map_err(|status| status.to_string())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.own);
    }
}

/// All flows that this request gives.
async fn all(client: &mut Client, request: GetFlowsRequest) -> Vec<Flow> {
    let mut stream = client.stream(path::GET_FLOWS, request).await.unwrap();
    let mut flows = Vec::new();
    while let Some(answer) = timeout(DEADLINE, stream.message()).await.unwrap().unwrap() {
        flows.extend(flow(answer));
    }
    flows
}

fn flow(answer: GetFlowsResponse) -> Option<Flow> {
    match answer.response_types {
        Some(ResponseTypes::Flow(flow)) => Some(flow),
        _ => None,
    }
}

fn only(filter: FlowFilter) -> GetFlowsRequest {
    GetFlowsRequest { whitelist: vec![filter], ..GetFlowsRequest::default() }
}

fn between(from: &str, to: &str) -> FlowFilter {
    FlowFilter {
        source_pod: vec![from.into()],
        destination_pod: vec![to.into()],
        ..FlowFilter::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hubbles_clients_see_what_an_agent_decides() {
    let served = Served::up("hubble");
    let mut client = served.client().await;
    let denied = || FlowFilter {
        verdict: vec![Verdict::Dropped.into()],
        destination_ip: vec!["10.7.0.0/24".into()],
        ..between("default/other", "default/db")
    };
    let mut asking = client.clone();
    served
        .until("a denial is seen", async || {
            !served.passes("other", "10.7.0.1")
                && !all(&mut asking, only(denied())).await.is_empty()
        })
        .await;
    let one =
        all(&mut client, GetFlowsRequest { number: 1, ..only(denied()) }).await.pop().unwrap();
    let (source, destination) = (one.source.clone().unwrap(), one.destination.clone().unwrap());
    assert_eq!((&*source.namespace, &*source.pod_name), ("default", "other"));
    assert!(source.labels.contains(&"k8s:role=other".into()), "{source:?}");
    assert!(source.identity >= 256 && source.identity != destination.identity);
    assert_eq!(
        (&*one.node_name, one.traffic_direction()),
        ("default/n1", TrafficDirection::Ingress)
    );
    assert_eq!(one.drop_reason_desc(), DropReason::PolicyDenied);
    assert_eq!((&*one.ingress_denied_by[0].name, one.is_reply), ("db", None));
    assert_eq!(one.summary, "TCP Flags: SYN; isolated by default/db");
    let Some(Protocol::Tcp(tcp)) = one.l4.unwrap().protocol else { panic!("{one:?}") };
    assert!(tcp.destination_port == 6379 && tcp.flags.unwrap().syn, "{tcp:?}");

    assert!(served.passes("ui", "10.7.0.1"));
    let allowed = || FlowFilter {
        verdict: vec![Verdict::Forwarded.into()],
        destination_port: vec!["6379".into()],
        source_label: vec!["role=ui".into()],
        protocol: vec!["tcp".into()],
        ..FlowFilter::default()
    };
    let mut asking = client.clone();
    served
        .until("an opening is seen", async || !all(&mut asking, only(allowed())).await.is_empty())
        .await;
    let opened = all(&mut client, only(allowed())).await;
    let by = &opened[0].ingress_allowed_by;
    assert_eq!((&*by[0].namespace, &*by[0].kind), ("default", "NetworkPolicy"), "{opened:#?}");
    assert_eq!(by[0].labels[0], "netpolc:rule=ingress[0]");
    // The same flow has the same id for everybody, by which it is found again.
    let by_id = FlowFilter { uuid: vec![one.uuid.clone()], ..FlowFilter::default() };
    assert_eq!(all(&mut served.client().await, only(by_id)).await, std::slice::from_ref(&one));
    let both = GetFlowsRequest { blacklist: vec![allowed(), denied()], ..only(denied()) };
    assert_eq!(all(&mut client, both).await, []);
    let since = GetFlowsRequest { since: one.time, ..only(denied()) };
    assert_eq!(all(&mut client, since).await.first().map(|flow| &*flow.uuid), Some(&*one.uuid));
    let foreign = FlowFilter { dns_query: vec![".*".into()], ..FlowFilter::default() };
    let refused = client.stream::<_, GetFlowsResponse>(path::GET_FLOWS, only(foreign)).await;
    assert_eq!(refused.map(drop).unwrap_err().code(), Code::InvalidArgument);

    // What happens from now on, and nothing that was before.
    let follow = GetFlowsRequest { follow: true, ..only(denied()) };
    let mut stream: Streaming<GetFlowsResponse> =
        client.stream(path::GET_FLOWS, follow).await.unwrap();
    assert!(!served.passes("other", "10.7.0.1"));
    let next = timeout(DEADLINE, stream.message()).await.unwrap().unwrap();
    let next = next.and_then(flow).unwrap();
    assert!(next.uuid != one.uuid && next.summary == one.summary, "{next:?}");

    let status: ServerStatusResponse =
        client.call(path::SERVER_STATUS, ServerStatusRequest {}).await.unwrap();
    assert!(status.num_flows > 0 && status.seen_flows >= status.num_flows, "{status:?}");
    assert_eq!(status.max_flows, 16_384);
    let said: GetNamespacesResponse =
        client.call(path::GET_NAMESPACES, GetNamespacesRequest {}).await.unwrap();
    assert_eq!(said.namespaces.len(), 1);
    assert_eq!(said.namespaces[0].namespace, "default");
}

/// Relay's side: a certificate, and nodes that come and go.
#[tokio::test(flavor = "multi_thread")]
async fn relay_is_told_of_nodes_that_come_and_go() {
    let served = Served::up("hubble-relay");
    // The agent serves the API once it enforces.
    let mut client = served.client().await;
    served.until("it enforces", async || !served.passes("other", "10.7.0.1")).await;
    client
        .call::<_, ServerStatusResponse>(path::SERVER_STATUS, ServerStatusRequest {})
        .await
        .unwrap();
    let why = served.over_tls(None).await.err().expect("it has no certificate");
    assert!(!why.is_empty());
    let mut relay = served.over_tls(Some(&served.relay)).await.unwrap();
    let mut stream: Streaming<ChangeNotification> =
        relay.stream(path::NOTIFY, NotifyRequest {}).await.unwrap();
    let mut next = async || timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
    let first = next().await;
    assert_eq!((&*first.name, first.r#type()), ("n1", ChangeNotificationType::PeerAdded));
    assert_eq!(first.address, "192.168.7.1:4244");
    assert_eq!(first.tls.unwrap().server_name, "n1.default.hubble-grpc.cilium.io");
    let file = served.node.folder.join("n2.yaml");
    fs::write(&file, N2).unwrap();
    let added = next().await;
    assert_eq!((&*added.name, added.r#type()), ("n2", ChangeNotificationType::PeerAdded));
    assert_eq!(added.address, "192.168.7.2:4244");
    fs::remove_file(&file).unwrap();
    let gone = next().await;
    assert_eq!((&*gone.name, gone.r#type()), ("n2", ChangeNotificationType::PeerDeleted));
    // A second Relay is told what there is now.
    let mut other = served.over_tls(Some(&served.relay)).await.unwrap();
    let mut again: Streaming<ChangeNotification> =
        other.stream(path::NOTIFY, NotifyRequest {}).await.unwrap();
    let only = timeout(DEADLINE, again.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(only.name, "n1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_who_does_not_read_holds_up_nobody() {
    let served = Served::up("hubble-slow");
    let mut client = served.client().await;
    served.until("it enforces", async || !served.passes("other", "10.7.0.1")).await;
    let follow = || GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let slow: Streaming<GetFlowsResponse> = client.stream(path::GET_FLOWS, follow()).await.unwrap();
    let to = "10.7.0.1".parse().unwrap();
    let many = vec![Question::new(served.node.pod("other"), to, REDIS); 500];
    assert!(ask(&many, PATIENCE).unwrap().iter().all(|answer| !answer.passed()));
    let began = Instant::now();
    assert!(!served.passes("other", "fd07::1"));
    let v6 = FlowFilter { destination_ip: vec!["fd07::1".into()], ..FlowFilter::default() };
    let mut other = served.client().await;
    served
        .until("others see what happens", async || {
            !all(&mut other, only(v6.clone())).await.is_empty()
        })
        .await;
    let shown = served.node.netpolc(&["flows", "--ip", "fd07::1"]);
    assert!(!shown.stdout.is_empty(), "{shown:?}");
    served.node.apply(None);
    served.until("the policy is gone", async || served.passes("other", "10.7.0.1")).await;
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    drop(slow);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (more, why) in [
        (&["--hubble-listen=0.0.0.0:4244"][..], "--hubble-tls-cert"),
        (
            &["--hubble-listen=0.0.0.0:4244", "--hubble-tls-cert=c", "--hubble-tls-key=k"],
            "--hubble-tls-client-ca",
        ),
        (&["--hubble-tls-cert=c"], "--hubble-listen"),
        (&["--hubble-socket=/run/netpolc/hubble.sock", "--once"], "--once"),
        (&["--hubble-cluster=a/b"], "--hubble-cluster"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
        let output = command.args(["agent", "--node=n1", "--from=/nowhere"]).args(more).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(why), "{more:?}: {said}");
    }
}
