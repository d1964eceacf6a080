//! One request to a collector, and what its answer means.
//!
//! Every step is bounded in time, and an answer in length. Not here: whether and when a request is
//! repeated ([`super`]).

use std::{io, time::Duration};

use http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use prost::bytes::Bytes;

use super::config::Config;

/// How much of an answer is read.
const MOST: usize = 1 << 16;
/// How long a connection waits for the next request.
const IDLE: Duration = Duration::from_secs(90);

type Https = HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>;
type Http = HttpClient<HttpConnector, Full<Bytes>>;

/// A client of one collector.
#[derive(Clone, Debug)]
pub(super) struct Client {
    config: Config,
    to: To,
}

#[derive(Clone, Debug)]
enum To {
    Http(Http),
    Https(Https),
}

/// What has become of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was taken, with this answer.
    Taken(Bytes),
    /// It may be taken later: why it was not now, and when to try again where the collector says.
    Later(String, Option<Duration>),
    /// It will not be taken.
    Refused(String),
}

impl Client {
    /// # Errors
    /// The system's certificates are needed and cannot be read.
    pub fn new(config: &Config) -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.timing.timeout));
        let mut builder = HttpClient::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        let to = match config.is_encrypted() {
            false => To::Http(builder.build(tcp)),
            true => {
                tcp.enforce_http(false);
                let tls = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| {
                    let why = format!("{error}; name a file with certificates in SSL_CERT_FILE");
                    io::Error::new(error.kind(), why)
                })?;
                To::Https(builder.build(tls.https_only().enable_all_versions().wrap_connector(tcp)))
            }
        };
        Ok(Self { config: config.clone(), to })
    }

    /// Sends a body to a path.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Outcome {
        let most = self.config.timing.timeout;
        match tokio::time::timeout(most, self.attempt(path, body)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Later(format!("no answer within {most:?}"), None),
        }
    }

    async fn attempt(&self, path: &str, body: Vec<u8>) -> Outcome {
        let mut request = Request::post(format!("{}{path}", self.config.base))
            .header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.config.headers {
            request = request.header(name, value);
        }
        let request = match request.body(Full::new(Bytes::from(body))) {
            Ok(request) => request,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let answer = match &self.to {
            To::Http(client) => client.request(request).await,
            To::Https(client) => client.request(request).await,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Outcome::Later(chain(&error), None),
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST).collect().await.map(|body| body.to_bytes());
        match (head.status, body) {
            (status, Ok(body)) if status.is_success() => Outcome::Taken(body),
            // What counts is the status: an answer that is too long says the same.
            (status, Err(_)) if status.is_success() => Outcome::Taken(Bytes::new()),
            (
                status @ (StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT),
                _,
            ) => Outcome::Later(format!("the answer was {status}"), retry_after(&head.headers)),
            (status, _) => Outcome::Refused(format!("the answer was {status}")),
        }
    }
}

/// The seconds that a collector asks to wait. A date, which is allowed too, is not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
