//! Hubble's API in front of netpolc's flows, so that the hubble command, Hubble Relay and Hubble UI
//! show what netpolc's agents have decided.
//!
//! [`serve`] accepts clients, and [`source`] is what it asks of the agent. In between, a flow
//! becomes one of Hubble's ([`convert`]), filters choose among them ([`filter`]), and [`query`]
//! says which of those that there are a request means. Not here: where flows come from
//! (`netpolc-agent`), and netpolc's own lines of flows (`netpolc-flow`).

#[cfg(feature = "client")]
pub mod client;
pub mod convert;
pub mod filter;
mod health;
mod mask;
mod observer;
mod peer;
pub mod query;
pub mod serve;
pub mod source;
mod strict;
mod tls;

/// The API's messages and services, made of the files in `proto/`.
#[allow(
    missing_docs,
    clippy::all,
    rustdoc::all,
    reason = "it is made by a program; proto/ says what each part is"
)]
pub mod api {
    /// Flows, and filters of flows.
    pub mod flow {
        include!(concat!(env!("OUT_DIR"), "/flow.rs"));
    }
    /// The service that hands out flows.
    pub mod observer {
        include!(concat!(env!("OUT_DIR"), "/observer.rs"));
    }
    /// The service that tells of the nodes.
    pub mod peer {
        include!(concat!(env!("OUT_DIR"), "/peer.rs"));
    }
    /// The states of nodes.
    pub mod relay {
        include!(concat!(env!("OUT_DIR"), "/relay.rs"));
    }
    /// gRPC's health checking.
    pub mod health {
        include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
    }
}
