//! Sends single requests: for whole answers, and for watches as a stream of events.
//!
//! kube's client has both, but does not say when the answer to a watch has begun, which version of
//! HTTP it uses, or for how long nothing has arrived. Not here: what to request, and what follows
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

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No client can be made.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There is no connection, or it broke.
    #[error(transparent)]
    Client(Box<ClientError>),
    /// The body of the answer broke off.
    #[error(transparent)]
    Broken(tower::BoxError),
    /// The server rejected the request.
    #[error("{}", .0.message)]
    Status(Box<Status>),
    /// The answer is neither the expected one nor a rejection.
    #[error("the answer cannot be understood: {0}")]
    Nonsense(#[from] serde_json::Error),
    /// The answer has no resource version.
    #[error("the answer has no metadata.resourceVersion")]
    NoVersion,
    /// Nothing has arrived for this long.
    #[error("the API server has been silent for {} s", .0.as_secs())]
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

/// Sends a request and waits up to `limit` for its answer to begin; a rejection is an error.
async fn send(
    client: &Client,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<Response<Body>, Trouble> {
    let response = client.send(request.map(Body::from));
    let response = timeout(limit, response).await.map_err(|_| Trouble::Silent(limit))??;
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let text = collect(response.into_body(), limit).await?;
    let status = serde_json::from_slice(&text).unwrap_or_else(|_| {
        let message = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
        Status { code, message, ..Status::default() }
    });
    Err(Trouble::Status(Box::new(Status { code, ..status })))
}

/// Reads a body to its end; `limit` applies to each part of it.
async fn collect(mut body: Body, limit: Duration) -> Result<Vec<u8>, Trouble> {
    let mut text = Vec::new();
    while let Some(frame) =
        timeout(limit, body.frame()).await.map_err(|_| Trouble::Silent(limit))?
    {
        if let Ok(data) = frame.map_err(Trouble::broken)?.into_data() {
            text.extend_from_slice(&data);
        }
    }
    Ok(text)
}

/// Returns a whole answer, and the version of HTTP by which it came. `limit` applies to each part
/// of it.
pub(crate) async fn get(
    client: &Client,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<(Version, Vec<u8>), Trouble> {
    let response = send(client, request, limit).await?;
    Ok((response.version(), collect(response.into_body(), limit).await?))
}

/// A running watch.
pub(crate) struct Events {
    body: Body,
    version: Version,
    /// The bytes that have arrived.
    rest: Vec<u8>,
    /// How many of them belong to events that were returned.
    given: usize,
    /// The offset up to which there is no further newline.
    searched: usize,
}

impl Events {
    /// Begins a watch; when this returns, the server has accepted it.
    pub async fn open(
        client: &Client,
        mut request: Request<Vec<u8>>,
        limit: Duration,
    ) -> Result<Self, Trouble> {
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let response = send(client, request, limit).await?;
        Ok(Self {
            version: response.version(),
            body: response.into_body(),
            rest: vec![],
            given: 0,
            searched: 0,
        })
    }

    /// Whether the watch shares a connection with all other requests of its client.
    pub fn is_shared(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Waits for the next event; None at the end of the watch. Cancel safe.
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
                // A line that broke off is dropped, and the watch resumes before it. But some
                // servers leave out the last newline, so a complete line counts.
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

/// Decodes one line. Some servers send a bare Status in place of an event of type ERROR.
fn event(line: &[u8]) -> Result<WatchEvent<Raw>, Trouble> {
    serde_json::from_slice(line).map_err(|error| match serde_json::from_slice::<Status>(line) {
        Ok(status) if status.code != 0 => Trouble::Status(Box::new(status)),
        _ => Trouble::Nonsense(error),
    })
}
