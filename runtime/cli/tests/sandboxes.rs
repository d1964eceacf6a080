//! Which pod a CNI request means, and when it is answered: with a watch and an API server that say
//! what the test wants, and a clock of its own. The same with sockets, a loop and real packets:
//! `kube_cni.rs`.

mod common;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use common::sandbox;
use netpolc_agent::{
    Standing,
    serve::{
        sandbox_store,
        sandboxes::{Plan, Sandboxes},
    },
};
use netpolc_cni::{
    protocol::{Reply, Request, Sandbox},
    server::Waiting,
};
use netpolc_kube_sync::{
    Change, Object, Resource,
    watch::{Fetched, Found},
};
use netpolc_policy::{Cluster, ObjectKey, Phase, Pod, PodNetwork};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(5);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

fn pod(name: &str, uid: &str, list: &[&str]) -> Pod {
    Pod {
        key: key(name),
        uid: Some(uid.into()),
        node: Some("n1".into()),
        labels: Default::default(),
        addresses: addresses(list),
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Default::default(),
        owner: None,
    }
}

/// The loop around it, with the tables left out: what is in the cluster is enforced.
struct Scene {
    sandboxes: Sandboxes,
    cluster: Cluster,
    now: Instant,
    behind: Option<&'static str>,
    standing: Standing,
    fetched: Vec<ObjectKey>,
    /// The API server says at once how new the view is.
    current: bool,
}

impl Scene {
    fn new(pods: &[Pod]) -> Self {
        let pods = pods.iter().map(|pod| (pod.key.clone(), pod.clone())).collect();
        let cluster = Cluster { pods, ..Cluster::default() };
        let sandboxes = Sandboxes::new("n1".into());
        let (standing, fetched) = (Standing::Enforced, vec![]);
        Self {
            sandboxes,
            cluster,
            now: Instant::now(),
            behind: None,
            standing,
            fetched,
            current: true,
        }
    }

    fn ask(&mut self, request: Request) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        self.sandboxes.ask(Waiting { request, patience: PATIENCE, reply }, self.now);
        self.turn();
        answer
    }

    fn add(&mut self, sandbox: Sandbox) -> oneshot::Receiver<Reply> {
        self.ask(Request::Add(sandbox))
    }

    fn turn(&mut self) {
        let local = self
            .cluster
            .pods
            .values()
            .filter(|p| p.node.as_deref() == Some("n1") && p.is_policed());
        let local = local.map(|p| p.key.clone()).collect();
        let Plan { changes, fetch, freshen, .. } =
            self.sandboxes.plan(&self.cluster, &local, self.now);
        if freshen.is_some() && self.current {
            self.sandboxes.current(self.now);
        }
        changes.into_iter().for_each(|change| change.apply(&mut self.cluster));
        self.fetched.extend(fetch);
        let standing = self.standing;
        let known = |key: &ObjectKey| match self.cluster.pods.contains_key(key) {
            true => standing,
            false => Standing::Unknown,
        };
        self.sandboxes.answer(&self.cluster, self.behind, known, self.now);
    }

    /// The watch shows a pod, or that it is gone.
    fn watch(&mut self, name: &str, pod: Option<Pod>) {
        let change =
            Change { resource: Resource::Pod, key: key(name), object: pod.map(Object::Pod) };
        let changes = self.sandboxes.watched(vec![change], self.now);
        changes.into_iter().for_each(|change| change.apply(&mut self.cluster));
        self.turn();
    }

    /// The API server answers the one question that was asked.
    fn server(&mut self, found: Found) {
        assert_eq!(self.fetched.len(), 1, "{:?}", self.fetched);
        let key = self.fetched.pop().unwrap();
        self.now += Duration::from_millis(1);
        self.sandboxes.fetched(Fetched { key, found }, &self.cluster, self.now);
        self.turn();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.cluster.pods[&key(name)].addresses.clone()
    }
}

fn enforced(answer: &mut oneshot::Receiver<Reply>) {
    assert_eq!(answer.try_recv(), Ok(Reply::Enforced));
}

fn refused(answer: &mut oneshot::Receiver<Reply>, part: &str) {
    let Ok(Reply::Refused { why }) = answer.try_recv() else { panic!("not refused: {part}") };
    assert!(why.contains(part), "{why}");
}

fn waits(answer: &mut oneshot::Receiver<Reply>) {
    assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty));
}

/// S24, S56: the addresses of CNI count until the API server reports some; an update without any
/// takes none away.
#[test]
fn s56_cni_addresses_stay_until_the_api_server_reports_some() {
    let mut scene = Scene::new(&[pod("ui", "1", &[])]);
    enforced(&mut scene.add(sandbox("ui", "1", &["10.0.0.1", "fd00::1"])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.1", "fd00::1"]));
    scene.watch("ui", Some(pod("ui", "1", &[])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.1", "fd00::1"]));
    // A whole view, as after a restart of the watch, says no more.
    let mut first = Scene::new(&[pod("ui", "1", &[])]).cluster;
    scene.sandboxes.first(&mut first);
    assert_eq!(first.pods[&key("ui")].addresses, addresses(&["10.0.0.1", "fd00::1"]));
    scene.watch("ui", Some(pod("ui", "1", &["10.0.0.1"])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.1"]));
    scene.watch("ui", Some(pod("ui", "1", &[])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.1"]));
}

/// S58: what only CNI said of addresses outlives the agent, for those pods that do, too.
#[test]
fn s58_another_agent_knows_what_cni_said() {
    let pods = [pod("a-old", "1", &["10.0.0.2"]), pod("ui", "2", &[]), pod("db", "3", &[])];
    let mut scene = Scene::new(&pods);
    enforced(&mut scene.add(sandbox("ui", "2", &["10.0.0.2", "fd00::2"])));
    enforced(&mut scene.add(sandbox("db", "3", &["10.0.0.3"])));
    let path = std::env::temp_dir()
        .join(format!("netpolc-kept-{}", std::process::id()))
        .join("x.sandboxes");
    sandbox_store::write(&path, scene.sandboxes.take_unsaved().unwrap()).unwrap();
    assert!(scene.sandboxes.take_unsaved().is_none(), "nothing has changed since");

    let mut next = Scene::new(&[]);
    next.sandboxes.restore(sandbox_store::read(&path));
    let mut first = Scene::new(&pods).cluster;
    first.pods.insert(key("db"), pod("db", "4", &[]));
    next.sandboxes.first(&mut first);
    next.cluster = first;
    assert_eq!(next.addresses("ui"), addresses(&["10.0.0.2", "fd00::2"]));
    assert_eq!((next.addresses("a-old"), next.addresses("db")), (vec![], vec![]));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert_eq!(sandbox_store::read(&path), []);
}

#[test]
fn a_deleted_sandbox_and_a_deleted_pod_keep_no_address() {
    let mut scene = Scene::new(&[pod("ui", "1", &[]), pod("db", "2", &[])]);
    enforced(&mut scene.add(sandbox("ui", "1", &["10.0.0.1"])));
    enforced(&mut scene.ask(Request::Del { container: "another".into() }));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.1"]));
    enforced(&mut scene.ask(Request::Del { container: "ui-1".into() }));
    assert_eq!(scene.addresses("ui"), addresses(&[]));
    enforced(&mut scene.add(sandbox("db", "2", &["10.0.0.2"])));
    scene.watch("db", None);
    scene.watch("db", Some(pod("db", "3", &[])));
    assert_eq!(scene.addresses("db"), addresses(&[]));
}

/// A sandbox that is made anew has another address than the API server still reports.
#[test]
fn the_newest_sandbox_counts_and_not_what_was_reported_of_an_older_one() {
    let mut scene = Scene::new(&[pod("ui", "1", &["10.0.0.1"])]);
    enforced(&mut scene.add(sandbox("ui", "1", &["10.0.0.9"])));
    scene.watch("ui", Some(pod("ui", "1", &["10.0.0.1"])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.9"]));
    scene.watch("ui", Some(pod("ui", "1", &["10.0.0.9"])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.9"]));
    scene.watch("ui", Some(pod("ui", "1", &["10.0.0.7"])));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.7"]));
}

/// S43: an address that CNI gives to a new pod is not an ending one's any more, although the API
/// server still reports it there.
#[test]
fn s43_a_reused_address_goes_to_the_new_pod_at_once() {
    let mut scene = Scene::new(&[pod("a-old", "1", &["10.0.0.1"]), pod("new", "2", &[])]);
    enforced(&mut scene.add(sandbox("new", "2", &["10.0.0.1"])));
    assert_eq!(
        (scene.addresses("a-old"), scene.addresses("new")),
        (vec![], addresses(&["10.0.0.1"]))
    );
    scene.watch("a-old", Some(pod("a-old", "1", &["10.0.0.1"])));
    assert_eq!(scene.addresses("a-old"), addresses(&[]));
    // A pod that has it later has it rightly.
    scene.watch("later", Some(pod("later", "3", &["10.0.0.1"])));
    assert_eq!(scene.addresses("later"), addresses(&["10.0.0.1"]));
}

/// S43: the watch has not shown the pod of this UID, nor that the one before it is gone.
#[test]
fn s43_another_uid_is_fetched_and_what_the_watch_says_of_older_pods_does_not_count() {
    let mut scene = Scene::new(&[pod("ui", "old", &["10.0.0.1"])]);
    let mut answer = scene.add(sandbox("ui", "new", &["10.0.0.2"]));
    waits(&mut answer);
    assert_eq!(scene.fetched, [key("ui")]);
    scene.server(Found::Pod(pod("ui", "new", &[])));
    enforced(&mut answer);
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.2"]));
    // Late words about the old one: the API server is asked, and says that the new one is there.
    for late in [Some(pod("ui", "old", &["10.0.0.1"])), None] {
        scene.watch("ui", late);
        assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.2"]));
        scene.server(Found::Pod(pod("ui", "new", &[])));
        assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.2"]));
    }
    // The watch has caught up; from now on it counts.
    scene.watch("ui", Some(pod("ui", "new", &[])));
    scene.watch("ui", None);
    assert!(scene.cluster.pods.is_empty() && scene.fetched.is_empty());
}

#[test]
fn a_pod_that_is_gone_again_before_the_watch_shows_it_does_not_stay() {
    let mut scene = Scene::new(&[]);
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.2"]));
    scene.server(Found::Pod(pod("ui", "1", &[])));
    enforced(&mut answer);
    scene.watch("ui", None);
    // As long as the API server cannot say, it stays.
    scene.server(Found::Failed("away".into()));
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.2"]));
    scene.wait(Duration::from_secs(1));
    scene.server(Found::Nothing);
    assert!(scene.cluster.pods.is_empty());
}

#[test]
fn a_pod_that_does_not_exist_is_refused_at_once_and_a_server_that_fails_is_asked_again() {
    let mut scene = Scene::new(&[]);
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.2"]));
    scene.server(Found::Failed("connection refused".into()));
    waits(&mut answer);
    assert!(scene.fetched.is_empty());
    scene.wait(Duration::from_secs(1));
    scene.server(Found::Nothing);
    refused(&mut answer, "no such pod");
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.2"]));
    scene.server(Found::Pod(pod("ui", "2", &[])));
    refused(&mut answer, "UID is 2, not 1");
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.2"]));
    scene.server(Found::Failed("connection refused".into()));
    scene.fetched.clear();
    scene.wait(PATIENCE);
    refused(&mut answer, "connection refused");
}

/// A request that came while the API server was answering is not refused by that answer.
#[test]
fn an_answer_counts_for_older_requests_only() {
    let mut scene = Scene::new(&[]);
    let mut first = scene.add(sandbox("ui", "1", &["10.0.0.1"]));
    scene.now += Duration::from_millis(1);
    let mut second = scene.add(sandbox("ui", "2", &["10.0.0.2"]));
    scene.server(Found::Nothing);
    refused(&mut first, "no such pod");
    waits(&mut second);
    scene.server(Found::Pod(pod("ui", "2", &[])));
    enforced(&mut second);
}

/// S56: nothing is confirmed that does not hold; the reason is said in time.
#[test]
fn s56_what_is_not_programmed_is_not_confirmed() {
    let mut scene = Scene::new(&[pod("ui", "1", &[])]);
    scene.standing = Standing::Unfound;
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.1"]));
    waits(&mut answer);
    scene.wait(PATIENCE);
    refused(&mut answer, "no interface on the host leads to its addresses");
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.1"]));
    scene.standing = Standing::Enforced;
    scene.turn();
    enforced(&mut answer);

    scene.behind = Some("the table is full");
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.1"]));
    waits(&mut answer);
    scene.wait(PATIENCE);
    refused(&mut answer, "the table is full");
    scene.behind = None;

    scene.standing = Standing::Unfound;
    let mut answer = Scene { standing: Standing::Unfound, ..Scene::new(&[pod("ui", "1", &[])]) };
    let mut none = answer.add(sandbox("ui", "1", &[]));
    answer.wait(PATIENCE);
    refused(&mut none, "assigned it no address");
    // A pod that no policy selects needs no interface.
    scene.standing = Standing::Open;
    enforced(&mut scene.add(sandbox("ui", "1", &["10.0.0.1"])));
}

#[test]
fn pods_that_are_not_this_nodes_or_have_ended_are_refused_at_once() {
    let elsewhere = Pod { node: Some("n2".into()), ..pod("ui", "1", &[]) };
    let ended = Pod { phase: Phase::Finished, ..pod("job", "2", &[]) };
    let host = Pod { network: PodNetwork::Host, ..pod("host", "3", &["192.168.0.1"]) };
    let mut scene = Scene::new(&[elsewhere, ended, host]);
    refused(&mut scene.add(sandbox("ui", "1", &["10.0.0.1"])), "its node is n2");
    refused(&mut scene.add(sandbox("job", "2", &["10.0.0.2"])), "has ended");
    enforced(&mut scene.add(sandbox("host", "3", &[])));
}

#[test]
fn a_check_changes_nothing_and_a_runtime_without_uids_means_the_name() {
    let mut scene = Scene::new(&[pod("ui", "1", &["10.0.0.1"])]);
    enforced(&mut scene.ask(Request::Check(sandbox("ui", "1", &["10.0.0.1"]))));
    enforced(&mut scene.ask(Request::Check(sandbox("ui", "", &["10.0.0.1"]))));
    let mut answer = scene.ask(Request::Check(sandbox("ui", "1", &["10.0.0.2"])));
    scene.wait(PATIENCE);
    refused(&mut answer, "other addresses");
    assert_eq!(scene.addresses("ui"), addresses(&["10.0.0.1"]));
}

/// Two hundred pods at once are one plan; those whose plugin is gone cost nothing.
#[test]
fn many_requests_are_one_update() {
    let pods: Vec<Pod> = (0..200).map(|i| pod(&format!("p{i}"), "1", &[])).collect();
    let mut scene = Scene::new(&pods);
    let mut answers = Vec::new();
    for i in 0..200 {
        let (reply, answer) = oneshot::channel();
        let request = Request::Add(sandbox(&format!("p{i}"), "1", &[&format!("10.0.1.{i}")]));
        scene.sandboxes.ask(Waiting { request, patience: PATIENCE, reply }, scene.now);
        answers.push(answer);
    }
    drop(answers.remove(0));
    scene.turn();
    answers.iter_mut().for_each(enforced);
    assert_eq!(scene.addresses("p0"), addresses(&[]));
    assert_eq!(scene.addresses("p199"), addresses(&["10.0.1.199"]));
    assert!(scene.sandboxes.is_idle() && scene.sandboxes.due().is_none());
}

/// S56, S58: a view that may be older than the request confirms nothing, whatever it says; a check
/// of a pod that runs is answered.
#[test]
fn s56_a_view_that_may_be_old_confirms_nothing() {
    let mut scene = Scene::new(&[pod("ui", "1", &["10.0.0.1"])]);
    (scene.current, scene.standing) = (false, Standing::Open);
    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.1"]));
    waits(&mut answer);
    // A view that was current before the request is none.
    scene.sandboxes.current(scene.now - Duration::from_millis(1));
    scene.turn();
    waits(&mut answer);
    scene.sandboxes.not_current("connection refused".into());
    scene.wait(PATIENCE);
    refused(&mut answer, "connection refused");
    enforced(&mut scene.ask(Request::Check(sandbox("ui", "1", &["10.0.0.1"]))));

    let mut answer = scene.add(sandbox("ui", "1", &["10.0.0.1"]));
    waits(&mut answer);
    scene.sandboxes.current(scene.now);
    scene.turn();
    enforced(&mut answer);
}

/// Pods that start together ask once; one that comes while the answer is under way needs another.
#[test]
fn one_question_about_the_view_serves_all_who_have_asked_before_it() {
    let mut scene = Scene::new(&[pod("ui", "1", &[]), pod("db", "2", &[])]);
    scene.current = false;
    let local = Default::default();
    let ask = |scene: &mut Scene, name: &str, uid: &str| {
        let (reply, answer) = oneshot::channel();
        let request = Request::Add(sandbox(name, uid, &[]));
        scene.sandboxes.ask(Waiting { request, patience: PATIENCE, reply }, scene.now);
        answer
    };
    let _first = ask(&mut scene, "ui", "1");
    let plan = scene.sandboxes.plan(&scene.cluster, &local, scene.now);
    assert_eq!(plan.freshen, Some(scene.now + PATIENCE));
    let plan = scene.sandboxes.plan(&scene.cluster, &local, scene.now);
    assert_eq!(plan.freshen, None, "it is under way");
    scene.now += Duration::from_millis(1);
    let _second = ask(&mut scene, "db", "2");
    let plan = scene.sandboxes.plan(&scene.cluster, &local, scene.now);
    assert_eq!(plan.freshen, Some(scene.now + PATIENCE));
}
