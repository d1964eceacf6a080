//! Makes the client for the API server, from its address and credentials.
//!
//! One HTTP/2 connection carries all watches and requests where the server supports it, as every
//! kube-apiserver does with TLS. Without TLS, or behind a proxy that lacks HTTP/2, each watch has
//! an HTTP/1.1 connection of its own. kube's own client supports only HTTP/1.1, and retries failed
//! requests silently, so the layers above the connection are kube's and the connection is made
//! here. Not here: when to make a new client ([`super::link`]).

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, header::USER_AGENT};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig as ConfigFile},
};
use tower::{ServiceBuilder, util::option_layer};

use super::condition::chain;

/// As the API server's audit log and its metrics name the agent.
const AGENT: &str = concat!("netpolc/", env!("CARGO_PKG_VERSION"));

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of HTTP/2 pings on a connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to a ping may take. A connection that stalls without a reset is thus noticed
/// after 20 s.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// TCP keepalive, below both versions of HTTP: the time until the first probe, the interval of
/// probes, and how many unanswered ones end the connection.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// How long data may stay unacknowledged before the connection is closed (TCP_USER_TIMEOUT).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(25);

/// How to reach the API server.
#[derive(Clone)]
pub enum Access {
    /// As a pod does: by the service account's files, and by KUBERNETES_SERVICE_HOST and _PORT.
    InCluster,
    /// By a context of a kubeconfig.
    Kubeconfig(Kubeconfig),
    /// By clients that this function makes; it is called on the watching thread.
    With(Arc<dyn Fn() -> Client + Send + Sync>),
}

/// A context of a kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The file; None for those that kubectl takes: of KUBECONFIG, or else ~/.kube/config.
    pub path: Option<PathBuf>,
    /// The context; None for the current one.
    pub context: Option<String>,
}

impl From<PathBuf> for Kubeconfig {
    /// The current context of the kubeconfig at `path`.
    fn from(path: PathBuf) -> Self {
        Self { path: Some(path), context: None }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::InCluster => f.write_str("InCluster"),
            Access::Kubeconfig(config) => f.debug_tuple("Kubeconfig").field(config).finish(),
            Access::With(_) => f.write_str("With(..)"),
        }
    }
}

/// The reason why no client can be made, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be used: {detail}; {remedy}")]
pub struct AccessError {
    what: String,
    pub(crate) detail: String,
    remedy: &'static str,
}

impl Access {
    /// Makes a client, with the credentials as they are now.
    ///
    /// # Errors
    /// The kubeconfig or the service account's files cannot be read or are not valid.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let (config, what, remedy) = match self {
            Access::With(make) => return Ok(make()),
            Access::InCluster => {
                let config = Config::incluster().map_err(|error| chain(&error));
                let remedy = "run as a pod with a service account, or give --kubeconfig";
                (config, "the service account's credentials".to_owned(), remedy)
            }
            Access::Kubeconfig(Kubeconfig { path, context }) => {
                let config = async {
                    let file = match path {
                        Some(path) => ConfigFile::read_from(path)?,
                        None => ConfigFile::read()?,
                    };
                    let options =
                        KubeConfigOptions { context: context.clone(), ..Default::default() };
                    Config::from_custom_kubeconfig(file, &options).await
                };
                let config = config.await.map_err(|error| chain(&error));
                let what = match path {
                    Some(path) => format!("the kubeconfig {}", path.display()),
                    None => "the kubeconfig of KUBECONFIG or ~/.kube/config".to_owned(),
                };
                let remedy = match context {
                    Some(_) => "give the name of one of its contexts",
                    None => "give a kubeconfig with a current context",
                };
                (config, what, remedy)
            }
        };
        let error = |detail| AccessError { what: what.clone(), detail, remedy };
        connect(config.map_err(error)?).map_err(error)
    }
}

fn connect(mut config: Config) -> Result<Client, String> {
    if config.proxy_url.is_some() {
        return Err(
            "a proxy for the API server is not supported; unset proxy-url and HTTPS_PROXY".into()
        );
    }
    config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let (idle, interval, probes) = KEEPALIVE;
    tcp.set_keepalive(Some(idle));
    tcp.set_keepalive_interval(Some(interval));
    tcp.set_keepalive_retries(Some(probes));
    tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    let tls = config.rustls_client_config().map_err(|error| chain(&error))?;
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name
            .clone()
            .try_into()
            .map_err(|_| format!("tls-server-name {name} is not a valid server name"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(https.enable_all_versions().wrap_connector(tcp));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(option_layer(config.auth_layer().map_err(|error| chain(&error))?))
        .layer(config.extra_headers_layer().map_err(|error| chain(&error))?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
