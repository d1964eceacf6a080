//! What a collector of OpenTelemetry gets, and what a bad one does not do to an agent: a small
//! collector decodes every request, and answers as it is told or not at all.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode, body::Bytes, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use netpolc_export::otlp::{self, Config, Counts, QUEUE, Timing};
use netpolc_flow::{
    Decider, Flow, Kind, Peer, Verdict,
    line::{Line, Unrecorded},
};
use netpolc_policy::{Direction, Labels};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::ExportMetricsServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use prost::Message as _;
use tokio::sync::mpsc;

const METRICS: &str = "# HELP netpolc_in_step 1 while.\n# TYPE netpolc_in_step gauge\n\
    netpolc_in_step 1\n# EOF\n";

/// How the collector answers.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Takes,
    /// It reads the request, and says nothing.
    Hangs,
    Says(StatusCode),
    /// 429, with a Retry-After of a second.
    Asks,
    /// All but so many records.
    Rejects(i64),
}

#[derive(Default)]
struct Got {
    logs: Vec<ExportLogsServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    /// The headers of the last request.
    headers: hyper::HeaderMap,
    requests: usize,
}

#[derive(Clone)]
struct Collector {
    url: String,
    mood: Arc<Mutex<Mood>>,
    got: Arc<Mutex<Got>>,
}

impl Collector {
    fn start(mood: Mood) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mood = Arc::new(Mutex::new(mood));
        let collector = Self { url, mood, got: Arc::default() };
        let served = collector.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let served = served.clone();
                    let service = service_fn(move |request| served.clone().answer(request));
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(async move { drop(connection.await) });
                }
            });
        });
        collector
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return Ok(Response::default()) };
        let (body, mood) = (body.to_bytes(), *self.mood.lock().unwrap());
        if head.uri.path() == "/v1/metrics" {
            let metrics = ExportMetricsServiceRequest::decode(body).unwrap();
            self.got.lock().unwrap().metrics.push(metrics);
            return Ok(Response::default());
        }
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/logs"));
        let logs = ExportLogsServiceRequest::decode(body).unwrap();
        {
            let mut got = self.got.lock().unwrap();
            (got.headers, got.requests) = (head.headers, got.requests + 1);
        }
        let mut answer = ExportLogsServiceResponse::default();
        match mood {
            Mood::Takes => {}
            Mood::Hangs => std::future::pending().await,
            Mood::Says(status) => {
                let mut response = Response::new(Full::new(Bytes::from_static(b"no")));
                *response.status_mut() = status;
                return Ok(response);
            }
            Mood::Asks => {
                let mut response = Response::default();
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response.headers_mut().insert("retry-after", "1".parse().unwrap());
                return Ok(response);
            }
            Mood::Rejects(rejected_log_records) => {
                let error_message = "some are too old".into();
                answer.partial_success =
                    Some(ExportLogsPartialSuccess { rejected_log_records, error_message });
            }
        }
        self.got.lock().unwrap().logs.push(logs);
        Ok(Response::new(Full::new(Bytes::from(answer.encode_to_vec()))))
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The records of all requests that were taken.
    fn records(&self) -> Vec<LogRecord> {
        let got = self.got.lock().unwrap();
        let resources = got.logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.flat_map(|scope| scope.log_records.clone()).collect()
    }
}

struct Scene {
    collector: Collector,
    sender: mpsc::Sender<Vec<Arc<Line>>>,
    counts: Arc<Counts>,
}

fn quick() -> Timing {
    let millis = Duration::from_millis;
    Timing {
        linger: millis(20),
        timeout: millis(500),
        backoff: millis(20),
        backoff_most: millis(50),
        patience: Duration::from_secs(60),
        metrics: millis(100),
    }
}

impl Scene {
    fn start(mood: Mood, timing: Timing) -> Self {
        let (collector, counts) = (Collector::start(mood), Arc::new(Counts::default()));
        let mut config = Config::read(&collector.url, "authorization=Bearer%20x").unwrap();
        config.timing = timing;
        let metrics = Box::new(|| METRICS.to_owned());
        let sender = otlp::start(config, "n1", metrics, counts.clone()).unwrap();
        Self { collector, sender, counts }
    }

    fn send(&self, lines: Vec<Line>) {
        let batch = lines.into_iter().map(Arc::new).collect();
        self.sender.try_send(batch).unwrap();
    }

    fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            let counts = &self.counts;
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: {counts:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn flow(verdict: Verdict, port: u16) -> Flow {
    let rule = Decider {
        rule: Some("ingress[0]".into()),
        ..Decider::whole(Kind::NetworkPolicy, "data/db")
    };
    Flow {
        time: 1_796_090_400_123_456_789,
        node: "n1".into(),
        verdict,
        reason: (verdict == Verdict::Denied).then(|| "policy".into()),
        direction: Direction::Ingress,
        pod: Some("data/db-0".into()),
        source: Peer {
            address: Some("10.7.0.2".parse().unwrap()),
            port: Some(40312),
            pod: Some("shop/ui-6d5f".into()),
            workload: Some("Deployment ui".into()),
            ..Peer::default()
        },
        destination: Peer {
            address: Some("10.7.0.1".parse().unwrap()),
            port: Some(port),
            pod: Some("data/db-0".into()),
            workload: Some("StatefulSet db".into()),
            labels: Labels::from_iter([("app", "db")]),
            ..Peer::default()
        },
        protocol: "TCP".into(),
        tcp_flags: Some("SYN".into()),
        icmp: None,
        by: match verdict {
            Verdict::Allowed => vec![rule],
            _ => vec![Decider::whole(Kind::NetworkPolicy, "data/db")],
        },
        bytes: 74,
    }
}

fn line(verdict: Verdict, port: u16) -> Line {
    Line::Flow(Box::new(flow(verdict, port)))
}

/// The attributes as text.
fn said(attributes: &[KeyValue]) -> Vec<String> {
    let text = |value: &Option<Value>| match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::ArrayValue(list)) => {
            let all = list.values.iter().map(|value| match &value.value {
                Some(Value::StringValue(text)) => text.clone(),
                other => panic!("{other:?}"),
            });
            format!("[{}]", all.collect::<Vec<_>>().join(" | "))
        }
        other => panic!("{other:?}"),
    };
    let one =
        |pair: &KeyValue| format!("{}={}", pair.key, text(&pair.value.as_ref().unwrap().value));
    attributes.iter().map(one).collect()
}

#[test]
fn a_collector_gets_flows_as_logs_and_the_metrics() {
    let scene = Scene::start(Mood::Takes, quick());
    let unrecorded = Unrecorded {
        pod: Some("data/db-0".into()),
        direction: Direction::Ingress,
        reason: "policy".into(),
        packets: 7,
    };
    scene.send(vec![line(Verdict::Denied, 5432), line(Verdict::Allowed, 5432)]);
    scene.send(vec![Line::Unrecorded(vec![unrecorded]), Line::Lost(3), Line::Live(true)]);
    scene.until("four records", |scene| scene.collector.records().len() == 4 && scene.sent() == 4);
    let records = scene.collector.records();
    let body = |record: &LogRecord| match record.body.clone().unwrap().value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    let denied = &records[0];
    assert_eq!(
        body(denied),
        "denied ingress shop/ui-6d5f:40312 -> data/db-0:5432 TCP SYN (policy: isolated by data/db)"
    );
    assert_eq!((denied.severity_number, &*denied.severity_text), (13, "WARN"));
    assert_eq!(denied.time_unix_nano, 1_796_090_400_123_456_789);
    assert!(denied.observed_time_unix_nano > 0);
    assert_eq!(denied.event_name, "netpolc.flow");
    assert_eq!(
        said(&denied.attributes),
        [
            "k8s.namespace.name=data",
            "k8s.pod.name=db-0",
            "k8s.statefulset.name=db",
            "k8s.pod.label.app=db",
            "source.address=10.7.0.2",
            "source.port=40312",
            "netpolc.source.namespace=shop",
            "netpolc.source.pod=ui-6d5f",
            "netpolc.source.workload=Deployment ui",
            "destination.address=10.7.0.1",
            "destination.port=5432",
            "netpolc.destination.namespace=data",
            "netpolc.destination.pod=db-0",
            "netpolc.destination.workload=StatefulSet db",
            "network.transport=tcp",
            "network.type=ipv4",
            "network.io.direction=receive",
            "netpolc.verdict=denied",
            "netpolc.direction=ingress",
            "netpolc.reason=policy",
            "netpolc.policy=[data/db]",
            "netpolc.tcp.flags=SYN",
            "netpolc.bytes=74",
        ]
    );
    let allowed = &records[1];
    assert_eq!((allowed.severity_number, &*allowed.severity_text), (9, "INFO"));
    assert!(said(&allowed.attributes).contains(&"netpolc.rule=[data/db ingress[0]]".to_owned()));
    assert!(body(&records[2]).starts_with("7 more packets of data/db-0 (ingress, policy)"));
    assert!(body(&records[3]).starts_with("3 flows are missing"));
    scene.until("metrics", |scene| !scene.collector.got.lock().unwrap().metrics.is_empty());
    let got = scene.collector.got.lock().unwrap();
    assert_eq!(got.headers["authorization"], "Bearer x");
    assert_eq!(got.headers["content-type"], "application/x-protobuf");
    let resource = got.logs[0].resource_logs[0].resource.clone().unwrap();
    assert!(said(&resource.attributes).contains(&"service.name=netpolc".to_owned()));
    assert!(said(&resource.attributes).contains(&"k8s.node.name=n1".to_owned()));
    let metrics = &got.metrics[0].resource_metrics[0];
    assert_eq!(metrics.resource, Some(resource));
    assert_eq!(metrics.scope_metrics[0].metrics[0].name, "netpolc_in_step");
    drop(got);
    assert_eq!(scene.dropped(), 0);
}

/// Nobody waits for a collector that hangs, what waits for it is bounded, and what was dropped is
/// counted to the flow.
#[test]
fn a_collector_that_hangs_holds_up_nobody_and_fills_no_memory() {
    let scene = Scene::start(Mood::Hangs, quick());
    let (batch, batches) = (1000, 40);
    let began = Instant::now();
    for _ in 0..batches {
        scene.send((0..batch).map(|port| line(Verdict::Denied, port)).collect());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let all = u64::from(batch) * batches;
    // At most the queue and one request are kept.
    scene.until("drops are counted", |scene| scene.dropped() >= all - QUEUE as u64 - 512);
    assert!(scene.dropped() <= all - QUEUE as u64, "{}", scene.dropped());
    assert_eq!(scene.sent(), 0);
    scene.until("it is tried again", |scene| scene.counts.failed.load(Ordering::Relaxed) >= 2);
    scene.collector.becomes(Mood::Takes);
    scene.until("the rest is sent", |scene| scene.sent() + scene.dropped() == all);
    assert_eq!(scene.collector.records().len() as u64, scene.sent());
    assert!(scene.sent() >= QUEUE as u64);
}

#[test]
fn what_may_work_later_is_tried_again_and_what_is_refused_is_not() {
    let scene = Scene::start(Mood::Says(StatusCode::TOO_MANY_REQUESTS), quick());
    let failed = |scene: &Scene| scene.counts.failed.load(Ordering::Relaxed);
    scene.send(vec![line(Verdict::Denied, 1)]);
    scene.until("it was told to wait", |scene| failed(scene) >= 3);
    scene.collector.becomes(Mood::Says(StatusCode::SERVICE_UNAVAILABLE));
    let before = failed(&scene);
    scene.until("it is told again", |scene| failed(scene) >= before + 2);
    assert_eq!((scene.sent(), scene.dropped()), (0, 0));
    scene.collector.becomes(Mood::Takes);
    scene.until("it is sent once", |scene| scene.sent() == 1);
    assert_eq!(scene.collector.records().len(), 1);

    scene.collector.becomes(Mood::Says(StatusCode::BAD_REQUEST));
    let before = scene.collector.got.lock().unwrap().requests;
    scene.send(vec![line(Verdict::Denied, 2); 2]);
    scene.until("it is dropped", |scene| scene.dropped() == 2);
    assert_eq!(scene.collector.got.lock().unwrap().requests, before + 1);

    // Where the collector says how long, no attempt comes before.
    scene.collector.becomes(Mood::Asks);
    scene.send(vec![line(Verdict::Denied, 4)]);
    let before = failed(&scene);
    scene.until("it is asked to wait", |scene| failed(scene) > before);
    let asked = Instant::now();
    scene.until("it comes again", |scene| failed(scene) > before + 1);
    assert!(asked.elapsed() > Duration::from_millis(900), "{:?}", asked.elapsed());
    scene.collector.becomes(Mood::Takes);
    scene.until("it is sent", |scene| scene.sent() == 2);

    scene.collector.becomes(Mood::Rejects(2));
    scene.send(vec![line(Verdict::Denied, 3); 5]);
    scene.until("a part is taken", |scene| scene.sent() == 2 + 3);
    assert_eq!(scene.dropped(), 2 + 2);
}

/// A request is not tried for ever, and one that nobody hears neither.
#[test]
fn patience_ends() {
    let timing = Timing { patience: Duration::from_millis(300), ..quick() };
    let scene = Scene::start(Mood::Takes, timing);
    let mut nobody = Config::read("http://127.0.0.1:1", "").unwrap();
    nobody.timing = timing;
    let counts = Arc::new(Counts::default());
    let sender =
        otlp::start(nobody, "n1", Box::new(|| METRICS.to_owned()), counts.clone()).unwrap();
    sender.try_send(vec![Arc::new(line(Verdict::Denied, 1))]).unwrap();
    scene.until("it is dropped", |_| counts.dropped.load(Ordering::Relaxed) == 1);
    assert!(counts.failed.load(Ordering::Relaxed) >= 2);
    scene.collector.becomes(Mood::Hangs);
    scene.send(vec![line(Verdict::Denied, 1)]);
    scene.until("it is dropped too", |scene| scene.dropped() == 1);
}
