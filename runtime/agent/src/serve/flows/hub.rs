//! Keeps the last flows and serves them on a socket, in a thread of its own: whatever its readers
//! do, the agent's loop never waits for them, and none of them waits for another.
//!
//! Each reader has a queue (`follow`). Hubble's API reads from here, too, by a [`Hub`]. Not here:
//! what is said ([`netpolc_flow::line`]), and where flows come from ([`super::Flows`]).

mod follow;

use std::{
    collections::VecDeque,
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use netpolc_flow::line::{Line, MAX_REQUEST_LEN, Request};
use netpolc_host::{
    files,
    private::{self, FOLDER},
};
use netpolc_hubble::source::{Figures, Told};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::timeout,
};

use self::follow::{Followed, Followers};
use super::super::state_dir::FILE_MODE;

/// How many lines are kept for readers who come later.
pub const KEPT: usize = 1 << 14;
/// How many readers there may be at a time: each takes a descriptor and a queue.
pub const MAX_READERS: usize = 32;
/// How long a request may take to arrive, and a reader who does not follow to take some lines.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// How many batches may wait for the thread.
pub const BATCHES: usize = 64;
/// How many lines are written at once.
const AT_ONCE: usize = 64;

/// Lines in the order in which they happened.
pub type Batch = Vec<Arc<Line>>;

/// Starts the thread, which serves what is sent to it until the sender is dropped. Only root may
/// use the socket, which takes the place of an earlier agent's. The hub is for readers in this
/// process.
///
/// # Errors
/// The socket cannot be made, or the thread cannot be started.
pub fn start(path: &Path) -> io::Result<(mpsc::Sender<Batch>, Hub)> {
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
    let ((sender, batches), hub) = (mpsc::channel(BATCHES), Hub::new());
    let shared = hub.clone();
    std::thread::Builder::new()
        .name("flows".into())
        .spawn(move || runtime.block_on(serve(listener, shared, batches)))?;
    Ok((sender, hub))
}

async fn serve(listener: UnixListener, shared: Hub, mut batches: mpsc::Receiver<Batch>) {
    let places = Arc::new(Semaphore::new(MAX_READERS));
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

/// What the tasks share, and whoever else in this process reads flows.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Mutex<State>>);

impl Hub {
    fn new() -> Self {
        let (texts, lines) = (Followers::default(), Followers::default());
        let (kept, flows, seen, began) = (VecDeque::new(), 0, 0, Instant::now());
        Self(Arc::new(Mutex::new(State { kept, flows, seen, began, texts, lines })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hubble's API reads flows as every other reader does: from a queue of its own.
impl netpolc_hubble::source::Flows for Hub {
    fn kept(&self) -> Batch {
        self.lock().kept.iter().cloned().collect()
    }

    fn follow(&self) -> (Batch, netpolc_hubble::source::Followed) {
        let mut state = self.lock();
        let Followed { id, queue, cut } = state.lines.join(0);
        let leave = Leave { hub: self.clone(), id };
        let kept = state.kept.iter().cloned().collect();
        (kept, netpolc_hubble::source::Followed::new(queue, cut, leave))
    }

    fn figures(&self) -> Figures {
        let state = self.lock();
        Figures { kept: state.flows, most: KEPT, seen: state.seen, began: state.began }
    }
}

/// Takes a follower's queue away when it is dropped.
struct Leave {
    hub: Hub,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.hub.lock().lines.leave(self.id);
    }
}

/// The lines that are kept, and who else gets new ones.
#[derive(Debug)]
struct State {
    kept: VecDeque<Arc<Line>>,
    /// How many of them are flows.
    flows: usize,
    /// How many flows there were.
    seen: u64,
    began: Instant,
    /// Readers of the socket.
    texts: Followers<Arc<str>>,
    /// Clients of Hubble's API.
    lines: Followers<Told>,
}

impl State {
    fn take(&mut self, batch: Batch, now: Instant) {
        for line in batch {
            if !self.texts.is_empty() {
                let text: Arc<str> = line.text().into();
                self.texts.offer(&line, &text, now);
            }
            self.lines.offer(&line, &Told::All(line.clone()), now);
            if self.kept.len() == KEPT {
                let oldest = self.kept.pop_front();
                self.flows -= usize::from(oldest.is_some_and(|line| is_flow(&line)));
            }
            self.flows += usize::from(is_flow(&line));
            self.seen += u64::from(is_flow(&line));
            self.kept.push_back(line);
        }
    }

    /// What there is of what is asked for, in order, and the queue of what comes behind it where
    /// that is wanted.
    fn join(&mut self, asked: &Request) -> (Batch, Option<Followed<Arc<str>>>) {
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
        while found.last().is_some_and(|line| !is_flow(line)) {
            found.pop();
        }
        found.reverse();
        (found, asked.follow.then(|| self.texts.join(since)))
    }
}

fn is_flow(line: &Line) -> bool {
    matches!(line, Line::Flow(_))
}

/// Serves one reader.
async fn converse(stream: UnixStream, shared: &Hub) -> io::Result<()> {
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
    shared.lock().texts.leave(followed.id);
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
