//! Creates Kubernetes Events about objects that cannot be understood, objects that are set aside,
//! policies whose answers do not count, pods that cannot be isolated and pods whose traffic is
//! denied, so that whoever applied an object sees the message beside it; and about the node, where
//! enforcement had to be repaired.
//!
//! An Event's name derives from the object and the message, so all agents of a cluster mean the
//! same Event, and only the first one creates it. Not here: what is wrong with an object.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Error,
    api::{ObjectMeta, PostParams},
};
use netpolc_policy::{ObjectKey, TierKey};
use tokio::sync::mpsc;

use super::{condition::chain, link::Link, raw::Raw};
use crate::{Problem, Resource, Severity, plain};

/// The shortest interval between two Events: a folder full of broken policies must not burden the
/// API server.
const INTERVAL: Duration = Duration::from_millis(200);
/// How many Events may wait; more are dropped.
const MAX_QUEUED: usize = 200;
/// How many Events are remembered as created.
const MAX_REMEMBERED: usize = 10_000;
/// The longest note of an Event, in bytes. The API server accepts fewer than 1,024.
const MAX_NOTE_LEN: usize = 1_000;

/// The sending end of the queue of Events.
#[derive(Clone, Debug)]
pub(crate) struct Reports(mpsc::Sender<Event>);

/// The object that an Event is about.
struct Subject<'a> {
    kind: &'a str,
    api_version: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
    uid: Option<&'a str>,
}

impl Reports {
    /// A queue of Events; [`send`] takes the receiving end.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        (Self(sender), receiver)
    }

    /// Queues an Event about the errors of an object, if there are any.
    pub fn about(&self, resource: Resource, api_version: &str, raw: &Raw, problems: &[Problem]) {
        let (Some(note), Some(name)) = (summary(problems), &raw.meta.name) else { return };
        let subject = Subject {
            kind: resource.kind(),
            api_version,
            namespace: raw.meta.namespace.as_deref(),
            name,
            uid: raw.meta.uid.as_deref(),
        };
        self.report(&subject, "NotUnderstood", note);
    }

    /// Queues an Event which says that a pod is not isolated although a policy selects it.
    pub fn not_isolated(&self, key: &ObjectKey, uid: Option<&str>, note: String) {
        let (namespace, name) = (Some(&*key.namespace), &*key.name);
        self.report(
            &Subject { kind: "Pod", api_version: "v1", namespace, name, uid },
            "NotIsolated",
            note,
        );
    }

    /// Queues an Event which says that an object is set aside, and why.
    pub fn aside(&self, resource: Resource, key: &ObjectKey, why: &str) {
        let api_version = if resource == Resource::Policy { "networking.k8s.io/v1" } else { "v1" };
        let (namespace, name) = (Some(&*key.namespace), &*key.name);
        let note = why[..why.floor_char_boundary(MAX_NOTE_LEN)].to_owned();
        let subject = Subject { kind: resource.kind(), api_version, namespace, name, uid: None };
        self.report(&subject, "SetAside", note);
    }

    /// Queues an Event which says that what enforces policies on a node was changed by somebody
    /// else and has been repaired. Each time is another Event.
    pub fn repaired(&self, node: &str, what: &str) {
        // kubectl looks for the Events of a Node by its name in the place of the UID, as kubelet
        // writes it.
        let subject = Subject {
            kind: "Node",
            api_version: "v1",
            namespace: None,
            name: node,
            uid: Some(node),
        };
        let note = what[..what.floor_char_boundary(MAX_NOTE_LEN)].to_owned();
        self.named(&subject, "Repaired", (Timestamp::now().as_nanosecond(), &note), note.clone());
    }

    /// Queues an Event which says that packets of a pod were denied. Each time is another Event, so
    /// that creating is all that an agent has to be permitted.
    pub fn denied(&self, pod: &ObjectKey, uid: Option<&str>, note: &str, packets: u64) {
        let (namespace, name) = (Some(&*pod.namespace), &*pod.name);
        let subject = Subject { kind: "Pod", api_version: "v1", namespace, name, uid };
        let now = Timestamp::now();
        let note = plain(&note[..note.floor_char_boundary(MAX_NOTE_LEN)]).into_owned();
        let note = note[..note.floor_char_boundary(MAX_NOTE_LEN)].to_owned();
        let mut event =
            event(&subject, "TrafficDenied", (now.as_nanosecond(), &note), note.clone());
        // A series has two at least.
        event.series = i32::try_from(packets.min(i32::MAX as u64))
            .ok()
            .filter(|count| *count >= 2)
            .map(|count| EventSeries { count, last_observed_time: MicroTime(now) });
        self.queue(event);
    }

    /// Queues an Event which says that another policy of the same priority answers differently, and
    /// that its answer counts. The example in `why` is of this node, so it is no part of the name:
    /// the agents of all nodes mean the same Event.
    pub fn conflict(&self, loses: &TierKey, wins: &str, why: &str) {
        let resource = Resource::of_tiers(loses.api);
        let api = resource.api(resource.versions()[0]);
        let subject = Subject {
            kind: resource.kind(),
            api_version: &api.api_version,
            namespace: None,
            name: &loses.name,
            uid: None,
        };
        let note = why[..why.floor_char_boundary(MAX_NOTE_LEN)].to_owned();
        self.named(&subject, "Overruled", (&api.api_version, wins), note);
    }

    fn report(&self, about: &Subject, reason: &str, note: String) {
        let identity = (about.uid, note.clone());
        self.named(about, reason, identity, note);
    }

    fn named(&self, about: &Subject, reason: &str, identity: impl Hash, note: String) {
        self.queue(event(about, reason, identity, note));
    }

    fn queue(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            tracing::debug!("an Event was dropped, because too many are waiting");
        }
    }
}

/// An Event. Two with the same `identity` about objects of one name are the same Event.
fn event(about: &Subject, reason: &str, identity: impl Hash, note: String) -> Event {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    let mut event_name = about.name.to_owned();
    event_name.truncate(200);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{event_name}.{:016x}", hasher.finish())),
            namespace: Some(about.namespace.unwrap_or("default").into()),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version: Some(about.api_version.into()),
            kind: Some(about.kind.into()),
            name: Some(about.name.into()),
            namespace: about.namespace.map(Into::into),
            uid: about.uid.map(Into::into),
            ..ObjectReference::default()
        }),
        note: Some(note),
        type_: Some("Warning".into()),
        reason: Some(reason.into()),
        action: Some("Enforce".into()),
        reporting_controller: Some("netpolc/agent".into()),
        ..Event::default()
    }
}

/// The first error of an object with the field, and how many others there are; None where there is
/// no error.
pub(super) fn summary(problems: &[Problem]) -> Option<String> {
    let mut errors = problems.iter().filter(|p| p.severity == Severity::Error);
    let first = errors.next()?;
    let place = first.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let more = match errors.count() {
        0 => String::new(),
        several => format!(" (and {several} more)"),
    };
    let mut note = format!("{place}{}", first.message);
    note.truncate(note.floor_char_boundary(MAX_NOTE_LEN - more.len()));
    note.push_str(&more);
    Some(note)
}

/// Creates the queued Events, until the sending ends are dropped.
pub(crate) async fn send(
    mut waiting: mpsc::Receiver<Event>,
    link: Arc<Link>,
    node: Option<Arc<str>>,
) {
    let mut made = HashSet::new();
    while let Some(mut event) = waiting.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        if made.len() >= MAX_REMEMBERED {
            made.clear();
        }
        if !made.insert((namespace.clone(), name)) {
            continue;
        }
        let Ok(joined) = link.join().await else { continue };
        event.event_time = Some(MicroTime(Timestamp::now()));
        event.reporting_instance = Some(node.as_deref().unwrap_or("netpolc").into());
        match Api::<Event>::namespaced(joined.client, &namespace)
            .create(&PostParams::default(), &event)
            .await
        {
            Ok(_) => {}
            Err(Error::Api(status)) if status.is_already_exists() => {}
            Err(Error::Api(status)) if status.code == 403 => {
                tracing::info!(detail = %status.message, "no more Events about objects are \
                    created, because RBAC denies it");
                return;
            }
            Err(error) => tracing::debug!(error = chain(&error), "an Event could not be created"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use netpolc_policy::TierApi;

    use super::*;

    /// S64: agents have examples of their own, and yet mean the same Event; other pairs are others.
    #[test]
    fn s64_a_conflict_has_one_event_whatever_the_example() {
        let (reports, mut queue) = Reports::channel();
        let mut named = |loses: &str, api: TierApi, wins: &str, why: &str| {
            let loses = TierKey { api, name: loses.into() };
            reports.conflict(&loses, wins, why);
            queue.try_recv().unwrap().metadata.name.unwrap()
        };
        let first = named("allow", TierApi::Upstream, "deny", "TCP 10.0.0.1 to 10.0.0.2:80");
        let again = named("allow", TierApi::Upstream, "deny", "UDP 10.0.7.1 to 10.0.0.9:53");
        assert_eq!(first, again);
        assert_ne!(first, named("allow", TierApi::Upstream, "other", "TCP"));
        assert_ne!(first, named("allow", TierApi::Aws, "deny", "TCP"));
    }

    /// Whoever changes a node's tables every minute is reported every time, where `kubectl describe
    /// node` looks for it.
    #[test]
    fn a_repair_is_an_event_of_the_node_each_time() {
        let (reports, mut queue) = Reports::channel();
        let mut repaired = |what: &str| {
            reports.repaired("worker-1", what);
            queue.try_recv().unwrap()
        };
        let (first, again) = (repaired("2 entries"), repaired("2 entries"));
        assert_ne!(first.metadata.name, again.metadata.name);
        let about = first.regarding.unwrap();
        assert_eq!((about.kind.as_deref(), about.uid.as_deref()), (Some("Node"), Some("worker-1")));
        assert_eq!(first.metadata.namespace.as_deref(), Some("default"));
        let note = repaired(&"x".repeat(3_000)).note.unwrap();
        assert_eq!(note.len(), MAX_NOTE_LEN);
    }
}
