//! Kubernetes Events about objects that cannot be understood, and pods that cannot be isolated, so that whoever applied one sees it beside the object.
//!
//! The Event's name comes from object and message: all agents of a cluster mean the same Event, and only the first
//! one makes it.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Error,
    api::{ObjectMeta, PostParams},
};
use netpolc_policy::ObjectKey;
use tokio::sync::mpsc;

use super::{condition::chain, link::Link, raw::Raw};
use crate::{Problem, Resource, Severity};

/// Between two Events: a folder full of broken policies must not become a load of its own.
const INTERVAL: Duration = Duration::from_millis(200);
/// Reports that may wait; more are dropped.
const WAITING: usize = 200;
/// Reports that are remembered as made.
const REMEMBERED: usize = 10_000;
/// The API server takes notes of fewer bytes than 1,024.
const LONGEST_NOTE: usize = 1_000;

/// Where Events go on their way out.
#[derive(Clone, Debug)]
pub(crate) struct Reports(mpsc::Sender<Event>);

/// What an Event is about.
struct Subject<'a> {
    kind: &'a str,
    api_version: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
    uid: Option<&'a str>,
}

impl Reports {
    /// The other end is [`send`]'s.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Reports what is wrong with an object, where something is.
    pub fn about(&self, resource: Resource, api_version: &str, raw: &Raw, problems: &[Problem]) {
        let errors: Vec<&Problem> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
        let (Some(first), Some(name)) = (errors.first(), &raw.meta.name) else { return };
        let place = first.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
        let more = match errors.len() {
            1 => String::new(),
            several => format!(" (and {} more)", several - 1),
        };
        let mut note = format!("{place}{}", first.message);
        note.truncate(note.floor_char_boundary(LONGEST_NOTE - more.len()));
        note.push_str(&more);
        let subject = Subject {
            kind: resource.kind(),
            api_version,
            namespace: raw.meta.namespace.as_deref(),
            name,
            uid: raw.meta.uid.as_deref(),
        };
        self.report(&subject, "NotUnderstood", note);
    }

    /// Reports that a pod is not isolated although a policy selects it.
    pub fn not_isolated(&self, key: &ObjectKey, uid: Option<&str>, note: String) {
        let (namespace, name) = (Some(&*key.namespace), &*key.name);
        self.report(&Subject { kind: "Pod", api_version: "v1", namespace, name, uid }, "NotIsolated", note);
    }

    /// Reports that an object is set aside, and why.
    pub fn aside(&self, resource: Resource, key: &ObjectKey, why: &str) {
        let api_version = if resource == Resource::Policy { "networking.k8s.io/v1" } else { "v1" };
        let (namespace, name) = (Some(&*key.namespace), &*key.name);
        let note = why[..why.floor_char_boundary(LONGEST_NOTE)].to_owned();
        let subject = Subject { kind: resource.kind(), api_version, namespace, name, uid: None };
        self.report(&subject, "SetAside", note);
    }

    fn report(&self, about: &Subject, reason: &str, note: String) {
        let mut hasher = DefaultHasher::new();
        (&about.uid, &note).hash(&mut hasher);
        let mut event_name = about.name.to_owned();
        event_name.truncate(200);
        let event = Event {
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
        };
        if self.0.try_send(event).is_err() {
            tracing::debug!("too many Events at once; one is left out");
        }
    }
}

/// Sends them until nobody reports any more.
pub(crate) async fn send(mut waiting: mpsc::Receiver<Event>, link: Arc<Link>, node: Option<Arc<str>>) {
    let mut made = HashSet::new();
    while let Some(mut event) = waiting.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        if made.len() >= REMEMBERED {
            made.clear();
        }
        if !made.insert((namespace.clone(), name)) {
            continue;
        }
        let Ok(joined) = link.join().await else { continue };
        event.event_time = Some(MicroTime(Timestamp::now()));
        event.reporting_instance = Some(node.as_deref().unwrap_or("netpolc").into());
        match Api::<Event>::namespaced(joined.client, &namespace).create(&PostParams::default(), &event).await {
            Ok(_) => {}
            Err(Error::Api(status)) if status.is_already_exists() => {}
            Err(Error::Api(status)) if status.code == 403 => {
                tracing::info!(detail = %status.message, "no Events about objects that cannot be understood: RBAC refuses");
                return;
            }
            Err(error) => tracing::debug!(error = chain(&error), "an Event could not be made"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
