//! An API server within the process, as far as the agent asks: lists, watches that resume, single
//! pods, with versions that all kinds share. It does on command what a real one does on bad days:
//! it is away, connections stall without a reset, a watch loses an event, the past is forgotten.
//!
//! Clients may write a Node's taints and the status of policies, and create Events; other writes
//! are only noted. Not here: rights for single objects, validation, pages. A real server:
//! [`super::Server`].

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use kube::{Client, client::Body};
use netpolc_kube_sync::watch::Access;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// An API server that does what a test tells it; see the module.
#[derive(Debug, Default)]
pub struct Fake(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest resourceVersion that was given out.
    version: u64,
    /// All objects, by collection, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    /// What happened, for watches that resume.
    log: Vec<(u64, String, String)>,
    /// The version up to which events are forgotten: a watch from before it gets 410 Gone.
    forgotten: u64,
    watchers: Vec<Watcher>,
    /// Collections that are installed, of those that need it.
    installed: BTreeSet<String>,
    /// Collections that nobody may list or watch.
    forbidden: BTreeSet<String>,
    /// Collections whose objects nobody may write.
    read_only: BTreeSet<String>,
    /// `path?query` of each request that arrived.
    asked: Vec<String>,
    /// What clients sent in order to write it, with its path: also what was refused.
    written: Vec<(String, Value)>,
    /// The namespaces and names of the Events that were created.
    events: BTreeSet<(String, String)>,
    clients: u64,
    /// What clients up to this one send does not arrive, and they hear nothing.
    stalled: u64,
    /// Whether every connection is refused.
    away: bool,
}

#[derive(Debug)]
struct Watcher {
    client: u64,
    collection: String,
    lines: mpsc::UnboundedSender<Bytes>,
}

/// The collection of a kind.
fn collection(kind: &str) -> &'static str {
    match kind {
        "Namespace" => "/api/v1/namespaces",
        "Node" => "/api/v1/nodes",
        "Pod" => "/api/v1/pods",
        "Service" => "/api/v1/services",
        "ServiceAccount" => "/api/v1/serviceaccounts",
        "NetworkPolicy" => "/apis/networking.k8s.io/v1/networkpolicies",
        "Deployment" => "/apis/apps/v1/deployments",
        "Job" => "/apis/batch/v1/jobs",
        "CronJob" => "/apis/batch/v1/cronjobs",
        "EndpointSlice" => "/apis/discovery.k8s.io/v1/endpointslices",
        "ClusterNetworkPolicy" => INSTALLED[0],
        "StagedKubernetesNetworkPolicy" => INSTALLED[2],
        "SecurityGroupPolicy" => INSTALLED[3],
        "SecurityGroup" => INSTALLED[4],
        "CiliumNetworkPolicy" => INSTALLED[5],
        "AdminNetworkPolicy" => INSTALLED[6],
        "ClusterNetworkPolicy of v1beta1" => INSTALLED[7],
        other => panic!("no collection is known for {other}"),
    }
}

/// Collections that are there only where somebody has installed them ([`Fake::install`]).
const INSTALLED: [&str; 8] = [
    "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
    "/apis/networking.k8s.aws/v1alpha1/clusternetworkpolicies",
    "/apis/projectcalico.org/v3/stagedkubernetesnetworkpolicies",
    "/apis/vpcresources.k8s.aws/v1beta1/securitygrouppolicies",
    "/apis/ec2.services.k8s.aws/v1alpha1/securitygroups",
    "/apis/cilium.io/v2/ciliumnetworkpolicies",
    "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies",
    "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies",
];

/// The collection and the name of an object that belongs to no namespace; None where the path is
/// that of something else.
fn unscoped(path: &str) -> Option<(&'static str, &str)> {
    let collections = INSTALLED.into_iter().chain([collection("Node")]);
    collections.into_iter().find_map(|of| {
        let name = path.strip_prefix(of)?.strip_prefix('/')?;
        (!name.contains('/')).then_some((of, name))
    })
}

/// The groups and versions of the collections that somebody has installed.
fn groups(installed: &BTreeSet<String>) -> Value {
    let groups: Vec<Value> = installed
        .iter()
        .filter_map(|path| {
            let mut parts = path.split('/').skip(2);
            let (group, version) = (parts.next()?, parts.next()?);
            Some(json!({"name": group, "versions": [{"version": version}]}))
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// A refusal in the words of the API server.
fn failure(code: u16, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": reason, "metadata": {}});
    Answer::Text(code, status.to_string())
}

enum Answer {
    Text(u16, String),
    Watch(mpsc::UnboundedReceiver<Bytes>),
    /// No answer ever comes.
    Stalled,
}

impl State {
    fn change(&mut self, path: &str, mut object: Value, stays: bool, heard: bool) {
        self.version += 1;
        let version = self.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let objects = self.objects.entry(path.into()).or_default();
        let kind = match (stays, objects.remove(&key)) {
            (false, _) => "DELETED",
            (true, None) => "ADDED",
            (true, Some(_)) => "MODIFIED",
        };
        if stays {
            objects.insert(key, object.clone());
        }
        // serde_json sorts names; servers send the type first.
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        self.log.push((version, path.into(), line.clone()));
        if heard {
            let stalled = self.stalled;
            self.watchers.retain(|w| !w.lines.is_closed());
            let watchers =
                self.watchers.iter().filter(|w| w.collection == path && w.client > stalled);
            watchers.for_each(|w| drop(w.lines.send(Bytes::from(line.clone()))));
        }
    }
}

impl Fake {
    /// A server without objects.
    pub fn new() -> Arc<Self> {
        let fake = Self::default();
        fake.state().version = 10;
        Arc::new(fake)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to it. Each client is a connection of its own.
    pub fn access(self: &Arc<Self>) -> Access {
        let fake = self.clone();
        Access::With(Arc::new(move || {
            let client = {
                let mut state = fake.state();
                state.clients += 1;
                state.clients
            };
            let fake = fake.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let fake = fake.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
                    let answer = match parts.method {
                        Method::PATCH => fake.patch(client, path, &body.collect_bytes().await?),
                        Method::POST => fake.create(client, path, &body.collect_bytes().await?),
                        _ => fake.answer(client, path, query),
                    };
                    match answer? {
                        Answer::Text(status, text) => Ok(Response::builder()
                            .status(status)
                            .body(Said::Text(Some(text.into())))?),
                        Answer::Watch(lines) => Ok(Response::new(Said::Lines(lines))),
                        Answer::Stalled => {
                            std::future::pending::<Result<Response<Said>, tower::BoxError>>().await
                        }
                    }
                }
            });
            Client::new(service, "default")
        }))
    }

    fn answer(&self, client: u64, path: &str, query: &str) -> Result<Answer, tower::BoxError> {
        let mut state = self.state();
        if client <= state.stalled {
            return Ok(Answer::Stalled);
        }
        if state.away {
            return Err("connection refused".into());
        }
        state.asked.push(format!("{path}?{query}"));
        if path == "/version" {
            return Ok(Answer::Text(200, json!({"major": "1", "minor": "20"}).to_string()));
        }
        if path == "/apis" {
            return Ok(Answer::Text(200, groups(&state.installed).to_string()));
        }
        if state.forbidden.contains(path) {
            return Ok(failure(403, "Forbidden"));
        }
        if INSTALLED.contains(&path) && !state.installed.contains(path) {
            return Ok(failure(404, "NotFound"));
        }
        if let Some(rest) = path.strip_prefix("/api/v1/namespaces/")
            && let Some((namespace, name)) = rest.split_once("/pods/")
        {
            let key = (namespace.to_owned(), name.to_owned());
            let pod = state.objects.get(collection("Pod")).and_then(|pods| pods.get(&key));
            return Ok(pod.map_or_else(
                || failure(404, "NotFound"),
                |pod| Answer::Text(200, pod.to_string()),
            ));
        }
        if let Some((of, name)) = unscoped(path) {
            let key = (String::new(), name.to_owned());
            let object = state.objects.get(of).and_then(|objects| objects.get(&key));
            return Ok(object.map_or_else(
                || failure(404, "NotFound"),
                |object| Answer::Text(200, object.to_string()),
            ));
        }
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        if parameter("watch").is_none() {
            let all: Vec<&Value> =
                state.objects.get(path).into_iter().flat_map(BTreeMap::values).collect();
            let shown = parameter("limit")
                .and_then(|limit| limit.parse().ok())
                .unwrap_or(all.len())
                .min(all.len());
            let mut metadata = json!({"resourceVersion": state.version.to_string()});
            if shown < all.len() {
                // Enough for whoever asks for one object.
                metadata["continue"] = "more".into();
                metadata["remainingItemCount"] = (all.len() - shown).into();
            }
            let list = json!({"kind": "List", "apiVersion": "v1", "items": &all[..shown], "metadata": metadata});
            return Ok(Answer::Text(200, list.to_string()));
        }
        let from: u64 =
            parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        if from < state.forgotten {
            return Ok(failure(410, "Expired"));
        }
        let (lines, receiver) = mpsc::unbounded_channel();
        for (_, _, line) in
            state.log.iter().filter(|(version, of, _)| *version > from && of == path)
        {
            // The receiver is held here.
            let _ = lines.send(Bytes::from(line.clone()));
        }
        state.watchers.push(Watcher { client, collection: path.to_owned(), lines });
        Ok(Answer::Watch(receiver))
    }

    /// A Node's `spec`, or the `status` of another object that belongs to no namespace, replaced
    /// where the version is the present one; nothing else can be patched.
    fn patch(&self, client: u64, path: &str, body: &[u8]) -> Result<Answer, tower::BoxError> {
        let patch: Value = serde_json::from_slice(body)?;
        let (object, field) = match path.strip_suffix("/status") {
            Some(object) => (object, "status"),
            None => (path, "spec"),
        };
        let answer = self.answer(client, path, "")?;
        if matches!(answer, Answer::Stalled) {
            return Ok(answer);
        }
        let mut state = self.state();
        state.written.push((path.to_owned(), patch.clone()));
        let Some((of, name)) = unscoped(object) else { return Ok(answer) };
        if state.read_only.contains(of) {
            return Ok(failure(403, "Forbidden"));
        }
        let key = (String::new(), name.to_owned());
        let present = state.objects.get(of).and_then(|objects| objects.get(&key)).cloned();
        let Some(mut present) = present else { return Ok(failure(404, "NotFound")) };
        if patch["metadata"]["resourceVersion"] != present["metadata"]["resourceVersion"] {
            return Ok(failure(409, "Conflict"));
        }
        present[field] = patch[field].clone();
        state.change(of, present.clone(), true, true);
        Ok(Answer::Text(200, present.to_string()))
    }

    /// Creates an Event, unless there is one of its name; of other kinds it is only noted.
    fn create(&self, client: u64, path: &str, body: &[u8]) -> Result<Answer, tower::BoxError> {
        let answer = self.answer(client, path, "")?;
        if matches!(answer, Answer::Stalled) {
            return Ok(answer);
        }
        let object: Value = serde_json::from_slice(body)?;
        let mut state = self.state();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        if path.ends_with("/events") && !state.events.insert((text("namespace"), text("name"))) {
            return Ok(failure(409, "AlreadyExists"));
        }
        state.written.push((path.to_owned(), object));
        Ok(Answer::Text(201, String::from_utf8_lossy(body).into_owned()))
    }

    /// What clients have sent in order to write it to a path that contains `part`; of Events only
    /// those that were created.
    pub fn written(&self, part: &str) -> Vec<Value> {
        let state = self.state();
        let found = state.written.iter().filter(|(path, _)| path.contains(part));
        found.map(|(_, body)| body.clone()).collect()
    }

    /// An object as it is.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        self.state().objects.get(collection(kind)).and_then(|objects| objects.get(&key)).cloned()
    }

    /// Creates or changes an object, and tells watchers.
    pub fn put(&self, object: &Value) {
        self.change(object, true, true);
    }

    /// As [`Fake::put`], without telling those who watch now: the event is lost on its way.
    pub fn put_unheard(&self, object: &Value) {
        self.change(object, true, false);
    }

    /// Removes an object, and tells watchers.
    pub fn delete(&self, object: &Value) {
        self.change(object, false, true);
    }

    fn change(&self, object: &Value, stays: bool, heard: bool) {
        let kind = object["kind"].as_str().expect("a kind");
        let newer = object["apiVersion"] == "policy.networking.k8s.io/v1beta1";
        let path = collection(if newer { "ClusterNetworkPolicy of v1beta1" } else { kind });
        self.state().change(path, object.clone(), stays, heard);
    }

    /// Installs a kind that clusters need not have.
    pub fn install(&self, kind: &str) {
        self.state().installed.insert(collection(kind).into());
    }

    /// Removes such a kind again, with its objects.
    pub fn uninstall(&self, kind: &str) {
        let mut state = self.state();
        let path = collection(kind);
        state.installed.remove(path);
        state.objects.remove(path);
        state.watchers.retain(|watcher| watcher.collection != path);
    }

    /// Denies all requests for a kind.
    pub fn forbid(&self, kind: &str) {
        self.state().forbidden.insert(collection(kind).into());
    }

    /// Denies all writes to objects of a kind.
    pub fn forbid_writes(&self, kind: &str) {
        self.state().read_only.insert(collection(kind).into());
    }

    /// All connections break, and nobody can connect until [`Fake::come_back`].
    pub fn go_away(&self) {
        let mut state = self.state();
        (state.away, state.watchers) = (true, vec![]);
    }

    /// Accepts connections again after [`Fake::go_away`].
    pub fn come_back(&self) {
        self.state().away = false;
    }

    /// Connections that there are carry nothing from now on, and are not reset; new ones work.
    pub fn stall(&self) {
        let mut state = self.state();
        state.stalled = state.clients;
    }

    /// Whoever resumes a watch must list instead.
    pub fn forget(&self) {
        let mut state = self.state();
        (state.forgotten, state.log) = (state.version, vec![]);
    }

    /// Requests that arrived so far, as `path?query`, which contain `part`.
    pub fn asked(&self, part: &str) -> Vec<String> {
        self.state().asked.iter().filter(|asked| asked.contains(part)).cloned().collect()
    }

    /// How many clients were made.
    pub fn clients(&self) -> u64 {
        self.state().clients
    }
}

/// A body: a text, or lines as they come.
enum Said {
    Text(Option<Bytes>),
    Lines(mpsc::UnboundedReceiver<Bytes>),
}

impl HttpBody for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Said::Text(text) => Poll::Ready(text.take()),
            Said::Lines(lines) => lines.poll_recv(context),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
