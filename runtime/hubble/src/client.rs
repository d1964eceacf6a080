//! A client of the API, for tests: it speaks as the hubble command and Hubble Relay do.
//!
//! Not here: what is answered ([`crate::serve`]).

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use http::uri::PathAndQuery;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Request, Status, Streaming, body::Body, client::Grpc};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// The paths of the API's calls.
pub mod path {
    #![allow(missing_docs, reason = "the calls have these names")]
    pub const GET_FLOWS: &str = "/observer.Observer/GetFlows";
    pub const GET_AGENT_EVENTS: &str = "/observer.Observer/GetAgentEvents";
    pub const GET_DEBUG_EVENTS: &str = "/observer.Observer/GetDebugEvents";
    pub const GET_NODES: &str = "/observer.Observer/GetNodes";
    pub const GET_NAMESPACES: &str = "/observer.Observer/GetNamespaces";
    pub const SERVER_STATUS: &str = "/observer.Observer/ServerStatus";
    pub const NOTIFY: &str = "/peer.Peer/Notify";
    pub const CHECK: &str = "/grpc.health.v1.Health/Check";
}

/// A connection, over which many calls may go at a time.
#[derive(Clone)]
pub struct Client(Grpc<Sender>);

impl Client {
    /// Speaks over this stream, in a task of its own.
    ///
    /// # Errors
    /// The other side speaks no HTTP/2.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let origin = http::Uri::from_static("http://localhost");
        Ok(Self(Grpc::with_origin(Sender(sender), origin)))
    }

    /// A call with one answer.
    ///
    /// # Errors
    /// The other side refuses, or is gone.
    pub async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
        Ok(self.0.unary(Request::new(request), path, codec).await?.into_inner())
    }

    /// A call with many answers.
    ///
    /// # Errors
    /// The other side refuses, or is gone.
    pub async fn stream<Q, A>(
        &mut self,
        path: &'static str,
        request: Q,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
        Ok(self.0.server_streaming(Request::new(request), path, codec).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// A connection as tonic takes it.
#[derive(Clone)]
struct Sender(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
