//! The agent's side of the CNI plugin's socket.
//!
//! [`listen`] accepts connections and passes requests to the agent's loop, which answers once the
//! pod's policies are enforced. Not here: the protocol ([`crate::protocol`]), and what the loop
//! does with a request.

use std::{io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use netpolc_host::{files, private};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::protocol::{Asked, MAX_LINE_LEN, Reply, Request, line};

/// How long sending or receiving the one line may take.
const IO_TIMEOUT: Duration = Duration::from_secs(2);
/// How many requests may be queued. A node starts some tens of pods at a time.
const QUEUE_LEN: usize = 256;

/// A request that waits for its answer. Where it is dropped without one, the connection closes and
/// the plugin tries again.
#[derive(Debug)]
pub struct Waiting {
    /// What the plugin wants to know.
    pub request: Request,
    /// How long the plugin waits, less the time to send a refusal with its reason.
    pub patience: Duration,
    /// Takes the answer, and is closed once the plugin has hung up.
    pub reply: oneshot::Sender<Reply>,
}

/// Listens on `path`, which only root may use, in place of any earlier agent. Requests arrive
/// through the receiver until it is dropped.
///
/// # Errors
/// The folder or the socket cannot be created.
pub fn listen(path: &Path) -> io::Result<mpsc::Receiver<Waiting>> {
    // The permissions of an existing folder that is not netpolc's own are its administrator's
    // business.
    if let Some(folder) = path.parent().filter(|f| *f == Path::new(private::FOLDER) || !f.exists())
    {
        private::folder(folder)?;
    }
    // The socket is bound under another name and then renamed, so that there is no moment without
    // one while an agent replaces another.
    let listener = files::replace(path, |new| {
        let listener = UnixListener::bind(new)?;
        std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    })?;
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(converse(stream, sender.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "a connection on the CNI socket could not be \
                            accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    });
    Ok(receiver)
}

/// Removes the socket if nobody listens on it.
///
/// # Errors
/// The socket cannot be removed.
pub fn remove_abandoned(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Serves one connection.
async fn converse(stream: UnixStream, to: mpsc::Sender<Waiting>) {
    let mut stream = BufReader::new(stream);
    let mut asked = String::new();
    let read =
        timeout(IO_TIMEOUT, (&mut stream).take(MAX_LINE_LEN as u64).read_line(&mut asked)).await;
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
                // The plugin has given up. Returning drops `answer`, by which the loop notices.
                () = hangs_up(&mut stream) => return,
            }
        }
        Err(error) => Reply::Refused {
            why: format!(
                "the request cannot be understood ({error}); check that plugin and agent have the \
                same version"
            ),
        },
    };
    let Ok(answer) = line(&answer) else { return };
    // Sending fails where the plugin no longer waits. The pod's policies are enforced all the same.
    let _ = timeout(IO_TIMEOUT, stream.get_mut().write_all(answer.as_bytes())).await;
}

/// The part of the plugin's time that is left for finding the answer.
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
        let path = std::env::temp_dir()
            .join(format!("netpolc-agent-cni-{}", std::process::id()))
            .join("cni.sock");
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
        assert!(
            waiting.patience > Duration::from_secs(4)
                && waiting.patience < Duration::from_millis(4_800)
        );
        waiting.reply.send(Reply::Enforced).unwrap();
        assert_eq!(plugin.await.unwrap().unwrap(), Reply::Enforced);
        // One that gives up is not waited for any more.
        drop(
            UnixStream::connect(&path)
                .await
                .unwrap()
                .write_all(line(&asked).unwrap().as_bytes())
                .await,
        );
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
