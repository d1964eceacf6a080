//! One pod asked for by its name, beside the watch: for whoever hears of a pod before the watch does.
//!
//! A get without a resource version is answered from the newest state, so what it finds is never older than what the
//! asker had heard of. Not here: what follows from it.

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

use super::{condition::chain, convert::Converter, current::Ask, link::Link, raw::Raw};
use crate::{Object, Resource};

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
    pub(crate) current: mpsc::Sender<Ask>,
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
    pub(crate) fn new(asks: mpsc::Sender<Question>, current: mpsc::Sender<Ask>) -> Self {
        let (answer, answers) = mpsc::channel(WAITING);
        Self { asks, answer, answers, current }
    }

    /// Asks for a view that is at least as new as the server's state at the moment, tried until `deadline`; the watch tells
    /// when it is there ([`super::Watch::current`]).
    ///
    /// # Errors
    /// Too much is asked for.
    pub fn freshen(&self, deadline: Instant) -> Result<(), Busy> {
        self.current.try_send(Ask { at: Instant::now(), deadline }).map_err(|_| Busy)
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
pub(crate) async fn answer(mut asked: mpsc::Receiver<Question>, link: Arc<Link>, converter: Arc<Mutex<Converter>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(Question { key, answer }) = asked.recv().await {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (link, converter) = (link.clone(), converter.clone());
        tokio::spawn(async move {
            let found = get(&key, &link, &converter).await;
            drop(place);
            // Nobody may listen any more.
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
    let Ok(answer) = timeout(PATIENCE, pods.get(&key.name)).await else {
        link.suspect(&joined);
        return Found::Failed(format!("the API server has not answered within {} s", PATIENCE.as_secs()));
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
    let item = converter.lock().unwrap_or_else(PoisonError::into_inner).convert(Resource::Pod, &kind.api_version, &raw);
    match item.object {
        Some(Object::Pod(pod)) => Found::Pod(pod),
        _ => {
            let problems = item.problems.first().map(ToString::to_string);
            Found::Failed(problems.unwrap_or_else(|| "what the API server has is no pod".into()))
        }
    }
}
