//! gRPC's health checking: whoever reaches the agent finds it healthy.
//!
//! Not here: the health of what enforces policies, which `/healthz` and `/readyz` are about.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::api::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as Service,
};

/// The services that there are; the first two names are those of the server as a whole, the second
/// one as Hubble calls it.
const SERVICES: [&str; 4] = ["", "hubble.server.Observer", "observer.Observer", "peer.Peer"];

/// What answers.
pub struct Health;

#[tonic::async_trait]
impl Service for Health {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match SERVICES.contains(&&*request.get_ref().service) {
            true => {
                Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
            }
            false => Err(Status::not_found(format!(
                "there is no such service; there are {}",
                SERVICES[1..].join(", ")
            ))),
        }
    }

    /// Says it once, and stays open, since a state that changes nothing is not said again.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match SERVICES.contains(&&*request.get_ref().service) {
            true => ServingStatus::Serving,
            false => ServingStatus::ServiceUnknown,
        };
        let (states, queue) = mpsc::channel(1);
        tokio::spawn(async move {
            if states.send(Ok(HealthCheckResponse { status: status.into() })).await.is_ok() {
                states.closed().await;
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}
