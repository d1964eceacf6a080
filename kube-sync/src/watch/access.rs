//! Where the API server is and how to be let in.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::condition::chain;

/// A watched connection on which nothing at all arrives for so long is given up; the server sends a bookmark each
/// minute.
const SILENCE: Duration = Duration::from_secs(100);

/// Longest time to connect; shorter than the time after which a feed without errors is taken to work.
const CONNECT: Duration = Duration::from_secs(5);

/// How to reach the API server.
#[derive(Clone)]
pub enum Access {
    /// As a pod: the service account's files, and KUBERNETES_SERVICE_HOST and _PORT.
    InCluster,
    /// By a kubeconfig's current context.
    Kubeconfig(PathBuf),
    /// By clients made elsewhere; called on the watching thread.
    With(Arc<dyn Fn() -> Client + Send + Sync>),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::InCluster => f.write_str("InCluster"),
            Access::Kubeconfig(path) => f.debug_tuple("Kubeconfig").field(path).finish(),
            Access::With(_) => f.write_str("With(..)"),
        }
    }
}

/// Why no client can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {detail}; {remedy}")]
pub struct AccessError {
    what: String,
    pub(crate) detail: String,
    remedy: &'static str,
}

impl Access {
    /// A client, with credentials as they are now.
    ///
    /// # Errors
    /// The kubeconfig or the service account's files cannot be read or make no sense.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let (config, what, remedy) = match self {
            Access::With(make) => return Ok(make()),
            Access::InCluster => {
                let config = Config::incluster().map_err(|error| chain(&error));
                let remedy = "run as a pod with a service account, or give --kubeconfig";
                (config, "the service account's credentials".to_owned(), remedy)
            }
            Access::Kubeconfig(path) => {
                let config = async {
                    let kubeconfig = Kubeconfig::read_from(path)?;
                    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
                };
                let config = config.await.map_err(|error| chain(&error));
                (config, format!("kubeconfig {}", path.display()), "give a kubeconfig with a current context")
            }
        };
        let error = |detail| AccessError { what: what.clone(), detail, remedy };
        let mut config = config.map_err(error)?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        Client::try_from(config).map_err(|e| error(chain(&e)))
    }
}
