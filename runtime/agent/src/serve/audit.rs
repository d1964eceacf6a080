//! When the agent audits what its target holds, and who is told what it finds: the log, the
//! metrics, the record, and in a cluster an Event of the node.
//!
//! The reading is done by a thread of its own, so that updates wait for the comparison only. Not
//! here: the comparison ([`crate::audit`]), and what is attached (`check` of the supervisor, which
//! an audit calls too).

use std::time::Duration;

use netpolc_table::Program;
use netpolc_target::{Damage, NodeTarget};
use tokio::{
    sync::oneshot::{self, error::RecvError},
    time::Instant,
};

use super::supervisor::Supervisor;
use crate::{
    audit::{Audited, Version},
    network::Network,
};

/// The pause before an audit that came to nothing is tried again, as a part of the interval. A
/// cluster that changes all the time must not make the agent read all the time.
const RETRY: u32 = 10;

/// What the reading thread hands over.
struct Read {
    version: Version,
    held: Result<Program, netpolc_target::Error>,
    took: Duration,
}

/// The next thing that an audit has to do.
pub struct Due(Option<Result<Box<Read>, RecvError>>);

/// When audits are due.
pub struct Auditor {
    /// The time between two audits; None where there are none.
    interval: Option<Duration>,
    next: Instant,
    reading: Option<oneshot::Receiver<Box<Read>>>,
    /// Whether the last reading failed. One failure may be a table that was being replaced.
    failed: bool,
}

impl Auditor {
    /// Audits once in each interval; never where there is none.
    pub fn new(interval: Option<Duration>) -> Self {
        let next = Instant::now() + interval.unwrap_or_default();
        Self { interval, next, reading: None, failed: false }
    }

    /// Waits until something is to be done for an audit, by [`Auditor::turn`]. Cancel safe.
    pub async fn due(&mut self) -> Due {
        match (&mut self.reading, self.interval) {
            (Some(reading), _) => Due(Some(reading.await)),
            (None, Some(_)) => {
                tokio::time::sleep_until(self.next).await;
                Due(None)
            }
            (None, None) => std::future::pending().await,
        }
    }

    /// Begins an audit, or ends it with what was read.
    pub fn turn<H: NodeTarget, N: Network>(
        &mut self,
        Due(due): Due,
        supervisor: &mut Supervisor<H, N>,
    ) {
        let interval = self.interval.unwrap_or_default();
        let Some(read) = due else {
            self.next = Instant::now() + interval;
            self.begin(supervisor);
            return;
        };
        self.reading = None;
        let again = match read {
            Ok(read) => {
                let again = self.end(&read, supervisor);
                // A large program takes nearly as long to free as to compare.
                tokio::task::spawn_blocking(move || drop(read));
                again
            }
            // The thread has panicked, which it said itself.
            Err(_) => Again::Soon,
        };
        if again == Again::Soon {
            self.next = Instant::now() + interval / RETRY;
        }
    }

    fn begin<H: NodeTarget, N: Network>(&mut self, supervisor: &mut Supervisor<H, N>) {
        if supervisor.on_hold {
            return;
        }
        supervisor.check();
        attach(supervisor);
        let Some((version, reader)) = supervisor.agent.audit() else { return };
        let (sender, receiver) = oneshot::channel();
        let read = move || {
            let began = std::time::Instant::now();
            let held = reader();
            // Where nobody waits any more, the agent is ending.
            let _ = sender.send(Box::new(Read { version, held, took: began.elapsed() }));
        };
        match std::thread::Builder::new().name("audit".into()).spawn(read) {
            Ok(_) => self.reading = Some(receiver),
            Err(error) => tracing::warn!(%error, "the thread that audits could not be started"),
        }
    }

    fn end<H: NodeTarget, N: Network>(
        &mut self,
        read: &Read,
        supervisor: &mut Supervisor<H, N>,
    ) -> Again {
        let audited = supervisor.agent.audited(read.version, &read.held);
        let failed = std::mem::take(&mut self.failed);
        let (result, count, damage, why) = match audited {
            Audited::Sound => {
                supervisor.metrics.audited("sound", 0, read.took);
                return Again::InTime;
            }
            // What a failed update has left differs, and a retry is due.
            Audited::Differs(_) if supervisor.behind.is_some() => {
                return outdated(supervisor, read);
            }
            Audited::Outdated => return outdated(supervisor, read),
            Audited::Unreadable(_) if !failed => {
                self.failed = true;
                return outdated(supervisor, read);
            }
            Audited::Unreadable(why) => {
                let why = format!("the tables cannot be decoded ({why})");
                ("unreadable", 1, Damage::Unreadable, why)
            }
            Audited::Differs(found) => {
                let entries = if found.count == 1 { "entry" } else { "entries" };
                let why = format!(
                    "{} {entries} of the tables differ from what the agent has written: {found}",
                    found.count
                );
                ("differs", found.count, Damage::Differs, why)
            }
        };
        supervisor.metrics.audited(result, count, read.took);
        supervisor.found(&why);
        supervisor.follow(|agent| agent.mend(damage));
        Again::InTime
    }
}

/// When the next audit is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    InTime,
    Soon,
}

fn outdated<H: NodeTarget, N: Network>(supervisor: &Supervisor<H, N>, read: &Read) -> Again {
    supervisor.metrics.audited("outdated", 0, read.took);
    Again::Soon
}

/// Attaches to the pods' interfaces that should be attached and are not.
fn attach<H: NodeTarget, N: Network>(supervisor: &mut Supervisor<H, N>) {
    if supervisor.behind.is_some() || supervisor.agent.unattached().is_empty() {
        return;
    }
    // Perhaps the interfaces are gone, and the notification has not been read yet.
    supervisor.follow(|agent| agent.refresh());
    let missing = supervisor.agent.unattached();
    if missing.is_empty() || supervisor.behind.is_some() {
        return;
    }
    let named: Vec<String> =
        missing.iter().map(|(pod, ifindex)| format!("interface {ifindex} of pod {pod}")).collect();
    supervisor.metrics.differences(missing.len());
    supervisor.found(&format!("nothing judges the packets of {}", named.join(", ")));
    supervisor.follow(|agent| agent.mend(Damage::Differs));
}
