//! Keeps the last flows and serves them on a socket, in a thread of its own: whatever its readers
//! do, the agent's loop never waits for them, and none of them waits for another.
//!
//! Each reader has a queue. What finds no place in it is counted, and the reader is told. Not here:
//! what is said ([`netpolc_flow::line`]), and where flows come from ([`super::Flows`]).

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use netpolc_flow::line::{Line, MAX_REQUEST_LEN, Owed, Request};
use netpolc_host::{
    files,
    private::{self, FOLDER},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::super::state_dir::FILE_MODE;

/// How many lines are kept for readers who come later.
pub const KEPT: usize = 1 << 14;
/// How many readers there may be at a time: each takes a descriptor and a queue.
pub const MAX_READERS: usize = 32;
/// How many lines may wait for a reader.
const QUEUE_LEN: usize = 1 << 12;
/// How long a reader's queue may be full before the reader is cut off.
const FULL_FOR: Duration = Duration::from_secs(5);
/// How long a request may take to arrive, and a reader who does not follow to take some lines.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// How many batches may wait for the thread.
pub const BATCHES: usize = 64;
/// How many lines are written at once.
const AT_ONCE: usize = 64;

/// Lines in the order in which they happened.
pub type Batch = Vec<Arc<Line>>;

/// Starts the thread, which serves what is sent to it until the sender is dropped. Only root may
/// use the socket, which takes the place of an earlier agent's.
///
/// # Errors
/// The socket cannot be made, or the thread cannot be started.
pub fn start(path: &Path) -> io::Result<mpsc::Sender<Batch>> {
    private::folder(path.parent().unwrap_or(Path::new(FOLDER)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        // It is bound under another name and then renamed, so that there is no moment without one.
        files::replace(path, |new| {
            let listener = UnixListener::bind(new)?;
            std::fs::set_permissions(new, std::fs::Permissions::from_mode(FILE_MODE))?;
            Ok(listener)
        })?
    };
    let (sender, batches) = mpsc::channel(BATCHES);
    std::thread::Builder::new()
        .name("flows".into())
        .spawn(move || runtime.block_on(serve(listener, batches)))?;
    Ok(sender)
}

async fn serve(listener: UnixListener, mut batches: mpsc::Receiver<Batch>) {
    let (shared, places) = (Shared::default(), Arc::new(Semaphore::new(MAX_READERS)));
    loop {
        tokio::select! {
            batch = batches.recv() => match batch {
                Some(batch) => shared.lock().take(batch, Instant::now()),
                None => return,
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let shared = shared.clone();
                        tokio::spawn(async move {
                            let _place = place;
                            // A reader who has gone away is no error.
                            let _ = converse(stream, &shared).await;
                        });
                    }
                    Err(_) => refuse(&stream),
                },
                Err(error) => {
                    tracing::warn!(%error, "a reader of flows could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

fn refuse(stream: &UnixStream) {
    let why = format!("{MAX_READERS} readers are served already; end one of them, and try again");
    // The line fits into the socket's empty buffer; a reader who has gone away needs none.
    let _ = stream.try_write(Line::Error(why).text().as_bytes());
}

/// What the tasks share.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines that are kept, and who else gets new ones.
#[derive(Default)]
struct State {
    kept: VecDeque<Arc<Line>>,
    followers: BTreeMap<u64, Follower>,
    next: u64,
}

/// A reader who gets new lines.
struct Follower {
    since: u64,
    queue: mpsc::Sender<Arc<str>>,
    owed: Owed,
    /// Since when its queue is full; None where it has room.
    full: Option<Instant>,
    /// Ends the reader's task when it is dropped.
    _cut: oneshot::Sender<()>,
}

/// The task's side of a [`Follower`].
struct Followed {
    id: u64,
    queue: mpsc::Receiver<Arc<str>>,
    cut: oneshot::Receiver<()>,
}

impl State {
    fn take(&mut self, batch: Batch, now: Instant) {
        for line in batch {
            if !self.followers.is_empty() {
                let text: Arc<str> = line.text().into();
                self.followers.retain(|_, follower| follower.offer(&line, &text, now));
            }
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(line);
        }
    }

    /// What there is of what is asked for, in order, and the queue of what comes behind it where
    /// that is wanted.
    fn join(&mut self, asked: &Request) -> (Batch, Option<Followed>) {
        let (since, mut left) = (asked.since_nanos.unwrap_or(0), asked.last.unwrap_or(KEPT));
        let mut found: Batch = Vec::new();
        for line in self.kept.iter().rev() {
            if let Line::Flow(flow) = &**line {
                if flow.time < since {
                    continue;
                }
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            found.push(line.clone());
        }
        // What was lost or not recorded is said of what happened between flows that are shown.
        while found.last().is_some_and(|line| !matches!(**line, Line::Flow(_))) {
            found.pop();
        }
        found.reverse();
        (found, asked.follow.then(|| self.follow(since)))
    }

    fn follow(&mut self, since: u64) -> Followed {
        let ((queue, lines), (_cut, cut)) = (mpsc::channel(QUEUE_LEN), oneshot::channel());
        let follower = Follower { since, queue, owed: Owed::default(), full: None, _cut };
        let id = self.next;
        self.next += 1;
        self.followers.insert(id, follower);
        Followed { id, queue: lines, cut }
    }
}

impl Follower {
    /// Queues a line, and returns whether the reader is still served.
    fn offer(&mut self, line: &Line, text: &Arc<str>, now: Instant) -> bool {
        if matches!(line, Line::Flow(flow) if flow.time < self.since) {
            return true;
        }
        for before in self.owed.settle() {
            if self.queue.try_send(before.text().into()).is_err() {
                self.owed.line(&before);
            }
        }
        match self.queue.try_send(text.clone()) {
            Ok(()) => {
                self.full = None;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.owed.line(line);
                let since = *self.full.get_or_insert(now);
                let cut = now.duration_since(since) >= FULL_FOR;
                if cut {
                    tracing::warn!("a reader of flows does not read, and is cut off");
                }
                !cut
            }
        }
    }
}

/// Serves one reader.
async fn converse(stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let asked = match ask(&mut read).await? {
        Ok(asked) => asked,
        Err(why) => {
            let text = Line::Error(why).text();
            return timeout(IO_TIMEOUT, write.write_all(text.as_bytes())).await?;
        }
    };
    let (found, followed) = shared.lock().join(&asked);
    let Some(mut followed) = followed else {
        return history(&mut write, &found, Some(IO_TIMEOUT)).await;
    };
    let (queue, mut more) = (&mut followed.queue, [0; 64]);
    let serve = async {
        history(&mut write, &found, None).await?;
        drop(found);
        write.write_all(Line::Live(true).text().as_bytes()).await?;
        let mut lines = Vec::new();
        while queue.recv_many(&mut lines, AT_ONCE).await > 0 {
            write.write_all(lines.concat().as_bytes()).await?;
            lines.clear();
        }
        Ok(())
    };
    let done = tokio::select! {
        done = serve => done,
        // It was cut off, or the agent is ending.
        _ = &mut followed.cut => Ok(()),
        // It has gone away. What it says besides means nothing.
        () = async { while matches!(read.read(&mut more).await, Ok(1..)) {} } => Ok(()),
    };
    shared.lock().followers.remove(&followed.id);
    done
}

/// Reads the request; in the inner result is what the reader is told where it makes no sense.
async fn ask(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Result<Request, String>> {
    let (mut asked, most) = (Vec::new(), MAX_REQUEST_LEN as u64 + 1);
    match timeout(IO_TIMEOUT, read.take(most).read_until(b'\n', &mut asked)).await {
        Err(_) => return Ok(Err(format!("no request came within {} s", IO_TIMEOUT.as_secs()))),
        Ok(length) => length?,
    };
    if asked.len() > MAX_REQUEST_LEN {
        return Ok(Err(format!("the request is longer than {MAX_REQUEST_LEN} bytes")));
    }
    Ok(serde_json::from_slice(&asked).map_err(|error| {
        format!(
            "the request cannot be understood ({error}); check that `netpolc flows` and the agent \
            have the same version"
        )
    }))
}

/// Writes what there is already.
async fn history(
    write: &mut OwnedWriteHalf,
    lines: &[Arc<Line>],
    patience: Option<Duration>,
) -> io::Result<()> {
    for some in lines.chunks(AT_ONCE) {
        let text: String = some.iter().map(|line| line.text()).collect();
        match patience {
            Some(patience) => timeout(patience, write.write_all(text.as_bytes())).await??,
            None => write.write_all(text.as_bytes()).await?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
