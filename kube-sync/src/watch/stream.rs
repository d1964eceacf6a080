//! Single requests: whole answers, and watches as a stream of events.
//!
//! kube's client has both, but does not tell when the answer to a watch has begun, by which version
//! of HTTP, nor how long nothing has come. Not here: what to ask for, and what follows
//! ([`super::feed`]).

use std::time::Duration;

use http::{HeaderValue, Request, Response, Version, header::ACCEPT_ENCODING};
use http_body_util::BodyExt as _;
use kube::{
    Client, Error as ClientError,
    client::Body,
    core::{Status, WatchEvent},
};
use tokio::time::timeout;

use super::{access::AccessError, raw::Raw};

/// Why a request did not lead to what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No client.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No connection, or it broke.
    #[error(transparent)]
    Client(Box<ClientError>),
    /// The body broke off.
    #[error(transparent)]
    Broken(tower::BoxError),
    /// The server refuses.
    #[error("{}", .0.message)]
    Status(Box<Status>),
    /// Neither an answer nor a refusal.
    #[error("an answer that cannot be understood: {0}")]
    Nonsense(#[from] serde_json::Error),
    /// An answer without a resource version.
    #[error("an answer without metadata.resourceVersion")]
    NoVersion,
    /// Nothing came for so long.
    #[error("silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The answer ended before it was complete.
    #[error("the answer ended before it was complete")]
    Incomplete,
}

impl Trouble {
    fn broken(error: impl Into<tower::BoxError>) -> Self {
        Trouble::Broken(error.into())
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(status) => Trouble::Status(status),
            error => Trouble::Client(Box::new(error)),
        }
    }
}

impl From<http::Error> for Trouble {
    fn from(error: http::Error) -> Self {
        Trouble::Client(Box::new(ClientError::HttpError(error)))
    }
}

/// Sends a request and waits for the beginning of its answer, at most `patience`; a refusal is an
/// error.
async fn send(client: &Client, request: Request<Vec<u8>>, patience: Duration) -> Result<Response<Body>, Trouble> {
    let response = client.send(request.map(Body::from));
    let response = timeout(patience, response).await.map_err(|_| Trouble::Silent(patience))??;
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let text = collect(response.into_body(), patience).await?;
    let status = serde_json::from_slice(&text).unwrap_or_else(|_| {
        let message = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
        Status { code, message, ..Status::default() }
    });
    Err(Trouble::Status(Box::new(Status { code, ..status })))
}

async fn collect(mut body: Body, patience: Duration) -> Result<Vec<u8>, Trouble> {
    let mut text = Vec::new();
    while let Some(frame) = timeout(patience, body.frame()).await.map_err(|_| Trouble::Silent(patience))? {
        if let Ok(data) = frame.map_err(Trouble::broken)?.into_data() {
            text.extend_from_slice(&data);
        }
    }
    Ok(text)
}

/// A whole answer, and by which version of HTTP it came. `patience` is for each part of it.
pub(crate) async fn get(
    client: &Client,
    request: Request<Vec<u8>>,
    patience: Duration,
) -> Result<(Version, Vec<u8>), Trouble> {
    let response = send(client, request, patience).await?;
    Ok((response.version(), collect(response.into_body(), patience).await?))
}

/// A watch under way.
pub(crate) struct Events {
    body: Body,
    version: Version,
    /// What has come;
    rest: Vec<u8>,
    /// of which so many bytes were given out,
    given: usize,
    /// and up to here there is no further newline.
    searched: usize,
}

impl Events {
    /// Begins a watch: the server has taken it when this returns.
    pub async fn open(client: &Client, mut request: Request<Vec<u8>>, patience: Duration) -> Result<Self, Trouble> {
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let response = send(client, request, patience).await?;
        Ok(Self { version: response.version(), body: response.into_body(), rest: vec![], given: 0, searched: 0 })
    }

    /// Whether it shares a connection with all other requests of its client.
    pub fn is_shared(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// The next event; None at the watch's end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<Raw>>, Trouble> {
        loop {
            if let Some(end) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + end;
                let line = &self.rest[self.given..end];
                let found = (!line.iter().all(u8::is_ascii_whitespace)).then(|| event(line));
                (self.given, self.searched) = (end + 1, end + 1);
                match found {
                    Some(event) => return event.map(Some),
                    None => continue,
                }
            }
            self.rest.drain(..std::mem::take(&mut self.given));
            self.searched = self.rest.len();
            let Some(frame) = self.body.frame().await else {
                // A line that broke off says nothing, and the watch resumes before it. Some servers
                // leave out the last newline.
                let line = std::mem::take(&mut self.rest);
                self.searched = 0;
                return match event(&line) {
                    Err(Trouble::Nonsense(error)) if error.is_eof() => Ok(None),
                    event => event.map(Some),
                };
            };
            if let Ok(data) = frame.map_err(Trouble::broken)?.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

fn event(line: &[u8]) -> Result<WatchEvent<Raw>, Trouble> {
    serde_json::from_slice(line).map_err(|error| match serde_json::from_slice::<Status>(line) {
        Ok(status) if status.code != 0 => Trouble::Status(Box::new(status)),
        _ => Trouble::Nonsense(error),
    })
}
