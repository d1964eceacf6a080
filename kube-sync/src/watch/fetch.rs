//! Fetches a single pod by its name, beside the watch: for whoever hears of a pod before the watch
//! does.
//!
//! A get without a resource version is answered from the newest state, so the result is never older
//! than what the caller had heard of. Not here: what follows from the result.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::{Api, Error};
use netpolc_policy::{ObjectKey, Pod};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{condition::chain, convert::Converter, freshness::Ask, link::Link, raw::Raw};
use crate::{Object, Resource};

/// How many requests run at the same time.
const MAX_CONCURRENT: usize = 16;
/// How many requests may wait.
const MAX_QUEUED: usize = 1_024;
/// How long one request may take, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of fetching a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The key of the pod that was requested.
    pub key: ObjectKey,
    /// What the server holds under that key.
    pub found: Found,
}

/// What the server holds under a pod's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The pod exists.
    Pod(Pod),
    /// There is no pod of that name.
    Nothing,
    /// The request failed, for this reason.
    Failed(String),
}

/// Too many requests are waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_QUEUED} requests for pods are waiting already")]
pub struct Busy;

/// Requests pods on the watching thread, without ever waiting itself.
#[derive(Debug)]
pub struct Fetcher {
    pub(crate) asks: mpsc::Sender<Question>,
    pub(crate) answer: mpsc::Sender<Fetched>,
    pub(crate) answers: mpsc::Receiver<Fetched>,
    pub(crate) current: mpsc::Sender<Ask>,
}

#[derive(Debug)]
pub(crate) struct Question {
    key: ObjectKey,
    answer: mpsc::Sender<Fetched>,
}

pub(crate) fn channel() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(MAX_QUEUED)
}

impl Fetcher {
    pub(crate) fn new(asks: mpsc::Sender<Question>, current: mpsc::Sender<Ask>) -> Self {
        let (answer, answers) = mpsc::channel(MAX_QUEUED);
        Self { asks, answer, answers, current }
    }

    /// Requests a view that is at least as new as the server's state is now. Attempts are made
    /// until `deadline`; [`super::Watch::current`] says when the view is there.
    ///
    /// # Errors
    /// Too many requests are waiting.
    pub fn freshen(&self, deadline: Instant) -> Result<(), Busy> {
        self.current.try_send(Ask { at: Instant::now(), deadline }).map_err(|_| Busy)
    }

    /// Requests a pod; [`Fetcher::next`] gives the answer within a few seconds.
    ///
    /// # Errors
    /// Too many requests are waiting.
    pub fn fetch(&self, key: ObjectKey) -> Result<(), Busy> {
        self.asks.try_send(Question { key, answer: self.answer.clone() }).map_err(|_| Busy)
    }

    /// Waits for the next answer. Cancel safe.
    pub async fn next(&mut self) -> Fetched {
        match self.answers.recv().await {
            Some(fetched) => fetched,
            None => std::future::pending().await,
        }
    }
}

/// Answers requests until nobody can ask any more.
pub(crate) async fn answer(
    mut asked: mpsc::Receiver<Question>,
    link: Arc<Link>,
    converter: Arc<Mutex<Converter>>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONCURRENT));
    while let Some(Question { key, answer }) = asked.recv().await {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (link, converter) = (link.clone(), converter.clone());
        tokio::spawn(async move {
            let found = get(&key, &link, &converter).await;
            drop(place);
            // The asker may be gone.
            let _ = answer.send(Fetched { key, found }).await;
        });
    }
}

async fn get(key: &ObjectKey, link: &Link, converter: &Mutex<Converter>) -> Found {
    let joined = match link.join().await {
        Ok(joined) => joined,
        Err(error) => return Found::Failed(error.to_string()),
    };
    let kind = Resource::Pod.api("v1");
    let pods = Api::<Raw>::namespaced_with(joined.client.clone(), &key.namespace, &kind);
    let Ok(answer) = timeout(REQUEST_TIMEOUT, pods.get(&key.name)).await else {
        link.suspect(&joined);
        return Found::Failed(format!(
            "the API server did not answer within {} s",
            REQUEST_TIMEOUT.as_secs()
        ));
    };
    let raw = match answer {
        Ok(raw) => raw,
        Err(Error::Api(status)) if status.code == 404 => {
            link.answered();
            return Found::Nothing;
        }
        Err(Error::Api(status)) => {
            if status.code == 401 {
                link.give_up(&joined);
            }
            return Found::Failed(status.message.clone());
        }
        Err(error) => {
            link.failed();
            return Found::Failed(chain(&error));
        }
    };
    link.answered();
    let item = converter.lock().unwrap_or_else(PoisonError::into_inner).convert(
        Resource::Pod,
        &kind.api_version,
        &raw,
    );
    match item.object {
        Some(Object::Pod(pod)) => Found::Pod(pod),
        _ => {
            let problems = item.problems.first().map(ToString::to_string);
            Found::Failed(problems.unwrap_or_else(|| "the API server's answer is not a pod".into()))
        }
    }
}
