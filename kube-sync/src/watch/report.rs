//! Kubernetes Events about objects that cannot be understood, so that whoever applied one sees it beside the object.
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
    Api, Client, Error,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::mpsc;

use super::{access::Access, condition::chain, raw::Raw, resource::Resource};
use crate::{Problem, Severity};

/// Between two Events: a folder full of broken policies must not become a load of its own.
const INTERVAL: Duration = Duration::from_millis(200);
/// Reports that may wait; more are dropped.
const WAITING: usize = 200;
/// Reports that are remembered as made.
const REMEMBERED: usize = 10_000;
/// The API server takes notes of fewer bytes than 1,024.
const LONGEST_NOTE: usize = 1_000;

#[derive(Clone)]
pub(crate) struct Reports(mpsc::Sender<Event>);

impl Reports {
    /// Starts the task that sends them, on the current runtime. It ends with the last of the clones.
    pub fn start(access: Access, node: Option<Arc<str>>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(send(receiver, access, node));
        Self(sender)
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
        let mut hasher = DefaultHasher::new();
        (&raw.meta.uid, &note).hash(&mut hasher);
        let mut event_name = name.clone();
        event_name.truncate(200);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{event_name}.{:016x}", hasher.finish())),
                namespace: Some(raw.meta.namespace.clone().unwrap_or_else(|| "default".into())),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(api_version.into()),
                kind: Some(resource.kind().into()),
                name: Some(name.clone()),
                namespace: raw.meta.namespace.clone(),
                uid: raw.meta.uid.clone(),
                ..ObjectReference::default()
            }),
            note: Some(note),
            type_: Some("Warning".into()),
            reason: Some("NotUnderstood".into()),
            action: Some("Enforce".into()),
            reporting_controller: Some("netpolc/agent".into()),
            ..Event::default()
        };
        if self.0.try_send(event).is_err() {
            tracing::debug!("too many Events at once; one is left out");
        }
    }
}

async fn send(mut waiting: mpsc::Receiver<Event>, access: Access, node: Option<Arc<str>>) {
    let mut made = HashSet::new();
    let mut client: Option<Client> = None;
    while let Some(mut event) = waiting.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        if made.len() >= REMEMBERED {
            made.clear();
        }
        if !made.insert((namespace.clone(), name)) {
            continue;
        }
        if client.is_none() {
            client = access.client().await.ok();
        }
        let Some(client) = client.clone() else { continue };
        event.event_time = Some(MicroTime(Timestamp::now()));
        event.reporting_instance = Some(node.as_deref().unwrap_or("netpolc").into());
        match Api::<Event>::namespaced(client, &namespace).create(&PostParams::default(), &event).await {
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
