//! The agent's side of the CNI plugin's socket: requests in, one answer each.
//!
//! [`listen`] takes connections and hands requests to the agent's loop, which answers when the pod's policies hold.
//! Not here: the protocol (`netpolc-cni`), what the loop does with a request.

use std::{io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use netpolc_host::{files, private};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::protocol::{Asked, LONGEST, Reply, Request, line};

/// A plugin sends its one line at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests under way; a node starts some tens of pods at a time.
const DEPTH: usize = 256;

/// A request that waits for its answer; dropping it without one lets the plugin see the connection close, and try again.
#[derive(Debug)]
pub struct Waiting {
    /// What is asked.
    pub request: Request,
    /// How long the plugin waits, so that it hears in time why not.
    pub patience: Duration,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// Listens on `path`, which only root may use; what an earlier agent left there is replaced. Requests come by the
/// receiver until it is dropped.
///
/// # Errors
/// The folder or socket cannot be made.
pub fn listen(path: &Path) -> io::Result<mpsc::Receiver<Waiting>> {
    // A folder that was there, and is not netpolc's, is its administrator's to open or close.
    if let Some(folder) = path.parent().filter(|f| *f == Path::new(private::FOLDER) || !f.exists()) {
        private::folder(folder)?;
    }
    // Bound beside and renamed, so that there is no moment without a socket while one agent follows another.
    let listener = files::replace(path, |new| {
        let listener = UnixListener::bind(new)?;
        std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    })?;
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(converse(stream, sender.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "CNI socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    });
    Ok(receiver)
}

/// Removes the socket where nobody listens on it.
///
/// # Errors
/// It is there and stays.
pub fn remove_abandoned(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

async fn converse(stream: UnixStream, to: mpsc::Sender<Waiting>) {
    let mut stream = BufReader::new(stream);
    let mut asked = String::new();
    let read = timeout(PATIENCE, (&mut stream).take(LONGEST as u64).read_line(&mut asked)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    let answer = match serde_json::from_str(&asked) {
        Ok(Asked { request, patience_milliseconds }) => {
            let (reply, answer) = oneshot::channel();
            let patience = spare(Duration::from_millis(patience_milliseconds));
            if to.send(Waiting { request, patience, reply }).await.is_err() {
                return;
            }
            tokio::select! {
                answer = answer => match answer {
                    Ok(answer) => answer,
                    Err(_) => return,
                },
                // The plugin has given up; so does whoever holds the other end of `reply`.
                () = hangs_up(&mut stream) => return,
            }
        }
        Err(error) => Reply::Refused {
            why: format!("the request cannot be understood ({error}); are plugin and agent of one version?"),
        },
    };
    let Ok(answer) = line(&answer) else { return };
    // A plugin that is gone has stopped waiting; the pod is programmed all the same.
    let _ = timeout(PATIENCE, stream.get_mut().write_all(answer.as_bytes())).await;
}

/// Of the plugin's time, what is left when the answer has to be under way.
fn spare(patience: Duration) -> Duration {
    patience.saturating_sub((patience / 10).min(Duration::from_millis(250)))
}

/// Returns when the other side closes the connection.
async fn hangs_up(stream: &mut BufReader<UnixStream>) {
    let mut more = [0; 64];
    while matches!(stream.read(&mut more).await, Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use crate::{ask::ask, protocol::Sandbox};

    use super::*;

    #[tokio::test]
    async fn requests_come_in_and_answers_go_back() {
        let path = std::env::temp_dir().join(format!("netpolc-agent-cni-{}", std::process::id())).join("cni.sock");
        let mut requests = listen(&path).unwrap();
        // A second agent takes over.
        drop(requests);
        requests = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sandbox = Sandbox {
            container: "c".into(),
            namespace: "shop".into(),
            name: "ui".into(),
            uid: "u".into(),
            netns: "/run/netns/x".into(),
            addresses: vec![],
            host_interfaces: vec![],
        };
        let socket = path.clone();
        let asked = Request::Add(sandbox);
        let plugin = {
            let asked = asked.clone();
            tokio::task::spawn_blocking(move || ask(&socket, &asked, Duration::from_secs(5)))
        };
        let waiting = requests.recv().await.unwrap();
        assert_eq!(waiting.request, asked);
        assert!(waiting.patience > Duration::from_secs(4) && waiting.patience < Duration::from_millis(4_800));
        waiting.reply.send(Reply::Enforced).unwrap();
        assert_eq!(plugin.await.unwrap().unwrap(), Reply::Enforced);
        // One that gives up is not waited for any more.
        drop(UnixStream::connect(&path).await.unwrap().write_all(line(&asked).unwrap().as_bytes()).await);
        let mut waiting = requests.recv().await.unwrap();
        timeout(Duration::from_secs(5), waiting.reply.closed()).await.unwrap();
        remove_abandoned(&path).unwrap();
        assert!(path.exists());
        drop(requests);
        let gone = async {
            while path.exists() {
                remove_abandoned(&path).unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(5), gone).await.unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
