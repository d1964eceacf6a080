//! The one client that everything on the watching thread shares, and the news that the API server
//! answers again.
//!
//! Clients are numbered. Whoever finds that one does not serve any more (its credentials are
//! refused, or its connection takes requests and answers none) gives it up by its number; the
//! others hear of it and move to the next one.
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

/// A client that is younger is not given up for being slow: then the server is.
const YOUNG: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    access: Access,
    held: Mutex<Option<Joined>>,
    number: watch::Sender<u64>,
    /// Something failed since something last went well.
    failing: AtomicBool,
    back: Notify,
}

/// A client with its number.
#[derive(Clone)]
pub(crate) struct Joined {
    pub client: Client,
    pub number: u64,
    made: Instant,
    /// The server's minor version, asked for once by all who use this client.
    minor: Arc<OnceCell<u32>>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Link {
    pub fn new(access: Access) -> Self {
        let (held, number) = (Mutex::new(None), watch::Sender::new(0));
        Self { access, held, number, failing: AtomicBool::new(false), back: Notify::new() }
    }

    /// The client of the moment, made where there is none.
    pub async fn join(&self) -> Result<Joined, AccessError> {
        let mut held = self.held.lock().await;
        let number = *self.number.borrow();
        if let Some(joined) = held.as_ref().filter(|joined| joined.number == number) {
            return Ok(joined.clone());
        }
        let client = self.access.client().await?;
        Ok(held.insert(Joined { client, number, made: Instant::now(), minor: Arc::default() }).clone())
    }

    /// This client is of no use any more.
    pub fn give_up(&self, joined: &Joined) {
        self.number.send_if_modified(|number| {
            let current = *number == joined.number;
            *number += u64::from(current);
            current
        });
    }

    /// This client has not answered; another one may, unless this one is new.
    pub fn suspect(&self, joined: &Joined) {
        if joined.made.elapsed() > YOUNG {
            self.give_up(joined);
        }
    }

    /// Changes when a client was given up.
    pub fn numbers(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// The server answered.
    pub fn answered(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.back.notify_waiters();
        }
    }

    /// It did not.
    pub fn failed(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Ready when the server answers again after something failed.
    pub fn back(&self) -> Notified<'_> {
        self.back.notified()
    }
}

impl Joined {
    /// The server's minor version; 0 where it does not tell.
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
