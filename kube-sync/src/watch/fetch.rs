//! One pod asked for by its name, beside the watch: for whoever hears of a pod before the watch does.
//!
//! A get without a resource version is answered from the newest state, so what it finds is never older than what the
//! asker had heard of. Not here: what follows from it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{Api, Client, Error};
use netpolc_policy::{ObjectKey, Pod};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{access::Access, condition::chain, convert::Converter, raw::Raw, resource::Resource};
use crate::Object;

/// Gets under way at once; the others wait.
const AT_ONCE: usize = 16;
/// Questions that may wait.
const WAITING: usize = 1_024;
/// One get, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of asking for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which was asked for.
    pub key: ObjectKey,
    /// What the server has.
    pub found: Found,
}

/// What the server has under a pod's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This pod.
    Pod(Pod),
    /// None.
    Nothing,
    /// It cannot be said, and why.
    Failed(String),
}

/// Too many questions wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {WAITING} pods are asked for already")]
pub struct Busy;

/// Asks for pods on the watch's thread; never waits itself.
#[derive(Debug)]
pub struct Fetcher {
    pub(crate) asks: mpsc::Sender<Question>,
    pub(crate) answer: mpsc::Sender<Fetched>,
    pub(crate) answers: mpsc::Receiver<Fetched>,
}

#[derive(Debug)]
pub(crate) struct Question {
    key: ObjectKey,
    answer: mpsc::Sender<Fetched>,
}

pub(crate) fn channel() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(WAITING)
}

impl Fetcher {
    pub(crate) fn new(asks: mpsc::Sender<Question>) -> Self {
        let (answer, answers) = mpsc::channel(WAITING);
        Self { asks, answer, answers }
    }

    /// Asks for a pod; [`Fetcher::next`] gives the answer, within some seconds.
    ///
    /// # Errors
    /// Too many are asked for.
    pub fn fetch(&self, key: ObjectKey) -> Result<(), Busy> {
        self.asks.try_send(Question { key, answer: self.answer.clone() }).map_err(|_| Busy)
    }

    /// The next answer. Cancel safe.
    pub async fn next(&mut self) -> Fetched {
        match self.answers.recv().await {
            Some(fetched) => fetched,
            None => std::future::pending().await,
        }
    }
}

/// Answers questions until nobody asks any more.
pub(crate) async fn answer(mut asked: mpsc::Receiver<Question>, access: Access, converter: Arc<Mutex<Converter>>) {
    let (access, clients) = (Arc::new(access), Arc::new(tokio::sync::Mutex::new(None)));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(Question { key, answer }) = asked.recv().await {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (access, clients, converter) = (access.clone(), clients.clone(), converter.clone());
        tokio::spawn(async move {
            let found = timeout(PATIENCE, get(&key, &access, &clients, &converter)).await.unwrap_or_else(|_| {
                Found::Failed(format!("the API server has not answered within {} s", PATIENCE.as_secs()))
            });
            if matches!(found, Found::Failed(_)) {
                // Perhaps with new credentials.
                *clients.lock().await = None;
            }
            drop(place);
            // Nobody may listen any more.
            let _ = answer.send(Fetched { key, found }).await;
        });
    }
}

async fn get(
    key: &ObjectKey,
    access: &Access,
    clients: &tokio::sync::Mutex<Option<Client>>,
    converter: &Mutex<Converter>,
) -> Found {
    let client = {
        let mut held = clients.lock().await;
        match &*held {
            Some(client) => client.clone(),
            None => match access.client().await {
                Ok(client) => held.insert(client).clone(),
                Err(error) => return Found::Failed(error.to_string()),
            },
        }
    };
    let kind = Resource::Pod.api("v1");
    let raw = match Api::<Raw>::namespaced_with(client, &key.namespace, &kind).get(&key.name).await {
        Ok(raw) => raw,
        Err(Error::Api(status)) if status.code == 404 => return Found::Nothing,
        Err(Error::Api(status)) => return Found::Failed(status.message.clone()),
        Err(error) => return Found::Failed(chain(&error)),
    };
    let item = converter.lock().unwrap_or_else(PoisonError::into_inner).convert(Resource::Pod, &kind.api_version, &raw);
    match item.object {
        Some(Object::Pod(pod)) => Found::Pod(pod),
        _ => {
            let problems = item.problems.first().map(ToString::to_string);
            Found::Failed(problems.unwrap_or_else(|| "what the API server has is no pod".into()))
        }
    }
}
