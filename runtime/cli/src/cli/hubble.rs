//! The arguments of `netpolc agent` that are about Hubble's API. Not here: the API
//! (`netpolc-hubble`).

use std::{net::SocketAddr, path::PathBuf};

use anyhow::ensure;
use clap::Args;
use netpolc_agent::serve::flows::hubble::{DEFAULT_CLUSTER, Files, Listen, Options};

/// Where Hubble's API is served.
#[derive(Debug, Args)]
pub struct Hubble {
    /// Serve flows by Hubble's API on this socket, usually /run/netpolc/hubble.sock [default: not
    /// at all]
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub hubble_socket: Option<PathBuf>,
    /// Serve them on the network here, usually on port 4244, to clients with a certificate
    /// [default: not at all]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        conflicts_with = "once",
        requires_all = ["hubble_tls_cert", "hubble_tls_key", "hubble_tls_client_ca"]
    )]
    pub hubble_listen: Option<SocketAddr>,
    /// The agent's certificate for --hubble-listen, as PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "hubble_listen")]
    pub hubble_tls_cert: Option<PathBuf>,
    /// The key to --hubble-tls-cert
    #[arg(long, value_name = "FILE", requires = "hubble_listen")]
    pub hubble_tls_key: Option<PathBuf>,
    /// The authorities whose certificates clients of --hubble-listen may show
    #[arg(long, value_name = "FILE", requires = "hubble_listen")]
    pub hubble_tls_client_ca: Option<PathBuf>,
    /// What Hubble Relay and certificates call the cluster
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CLUSTER)]
    pub hubble_cluster: String,
}

impl Hubble {
    /// What they mean; None where the API is served nowhere.
    ///
    /// # Errors
    /// The cluster's name is none, or certificates are missing.
    pub fn resolve(self) -> anyhow::Result<Option<Options>> {
        let Self {
            hubble_socket,
            hubble_listen,
            hubble_tls_cert,
            hubble_tls_key,
            hubble_tls_client_ca,
            hubble_cluster,
        } = self;
        let files = match (hubble_tls_cert, hubble_tls_key, hubble_tls_client_ca) {
            (Some(certificate), Some(key), Some(client_authority)) => {
                Some(Files { certificate, key, client_authority })
            }
            _ => None,
        };
        ensure!(
            hubble_listen.is_none() || files.is_some(),
            "--hubble-listen needs --hubble-tls-cert, --hubble-tls-key and --hubble-tls-client-ca"
        );
        let listen = hubble_listen.zip(files).map(|(address, files)| Listen { address, files });
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        ensure!(
            !hubble_cluster.is_empty() && hubble_cluster.chars().all(known),
            "--hubble-cluster {hubble_cluster:?} is no name; it consists of small letters, digits, \
            '-' and '.'"
        );
        if hubble_socket.is_none() && listen.is_none() {
            return Ok(None);
        }
        Ok(Some(Options { socket: hubble_socket, listen, cluster: hubble_cluster.into() }))
    }
}
