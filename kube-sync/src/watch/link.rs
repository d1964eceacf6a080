//! Holds the one client that everything on the watching thread shares, and announces when the API
//! server answers again after a failure.
//!
//! Clients are numbered. Whoever finds that one no longer works (its credentials are rejected, or
//! its connection accepts requests and answers none) gives it up by its number; the others are
//! notified and move on to the next one.
//!
//! Not here: how a client is made ([`super::access`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kube::Client;
use tokio::sync::{Mutex, Notify, OnceCell, futures::Notified, watch};

use super::{
    access::{Access, AccessError},
    stream::{self, Trouble},
};

/// How old a client must be to be given up for being slow: with a newer one, the server is slow.
const MIN_CLIENT_AGE: Duration = Duration::from_secs(5);

/// The current client, and whether the server answers.
#[derive(Debug)]
pub(crate) struct Link {
    access: Access,
    current: Mutex<Option<Joined>>,
    number: watch::Sender<u64>,
    /// Whether a request has failed since one last succeeded.
    failing: AtomicBool,
    back: Notify,
}

/// A client, with its number.
#[derive(Clone)]
pub(crate) struct Joined {
    pub client: Client,
    pub number: u64,
    made: Instant,
    /// The server's minor version, requested once for each client.
    minor: Arc<OnceCell<u32>>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Link {
    pub fn new(access: Access) -> Self {
        let (current, number) = (Mutex::new(None), watch::Sender::new(0));
        Self { access, current, number, failing: AtomicBool::new(false), back: Notify::new() }
    }

    /// Returns the current client, and makes one where there is none.
    pub async fn join(&self) -> Result<Joined, AccessError> {
        let mut current = self.current.lock().await;
        let number = *self.number.borrow();
        if let Some(joined) = current.as_ref().filter(|joined| joined.number == number) {
            return Ok(joined.clone());
        }
        let client = self.access.client().await?;
        Ok(current
            .insert(Joined { client, number, made: Instant::now(), minor: Arc::default() })
            .clone())
    }

    /// Replaces this client at the next [`Link::join`], unless it has been replaced already.
    pub fn give_up(&self, joined: &Joined) {
        self.number.send_if_modified(|number| {
            let current = *number == joined.number;
            *number += u64::from(current);
            current
        });
    }

    /// Gives up a client that has not answered, unless it is new: another connection may work.
    pub fn suspect(&self, joined: &Joined) {
        if joined.made.elapsed() > MIN_CLIENT_AGE {
            self.give_up(joined);
        }
    }

    /// The number of the current client; it changes whenever one is given up.
    pub fn numbers(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// Records that the server has answered a request.
    pub fn answered(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.back.notify_waiters();
        }
    }

    /// Records that a request has failed.
    pub fn failed(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Resolves when the server answers again after a failure.
    pub fn back(&self) -> Notified<'_> {
        self.back.notified()
    }
}

impl Joined {
    /// The server's minor version; 0 where it is not known.
    pub async fn minor(&self) -> u32 {
        let ask = async || -> Result<u32, Trouble> {
            let request = http::Request::get("/version").body(vec![])?;
            let (_, text) = stream::get(&self.client, request, Duration::from_secs(5)).await?;
            #[derive(serde::Deserialize)]
            struct Version {
                minor: String,
            }
            let version: Version = serde_json::from_slice(&text)?;
            Ok(version.minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0))
        };
        *self.minor.get_or_init(async || ask().await.unwrap_or(0)).await
    }
}
