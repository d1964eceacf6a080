//! The HTTP server of `/metrics`, `/healthz` and `/readyz`. It runs on a thread of its own, so that
//! a scrape never delays enforcement.
//!
//! Not here: what is counted ([`super::Metrics`]).

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::Metrics;

/// How long a client may take to send its request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How many connections may exist at a time: anybody on the node may open them, and each takes a
/// descriptor that enforcement might need.
const MAX_CONNECTIONS: usize = 64;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Starts the server, which ends with the process. Returns the address on which it listens.
///
/// # Errors
/// The address is in use or not one of this machine, or the thread cannot be started.
pub fn start(address: SocketAddr, metrics: Arc<Metrics>) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || runtime.block_on(serve(listener, metrics)))?;
    Ok(address)
}

async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Further clients wait in the kernel's queue, which takes no descriptor of this process.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely there are no descriptors left, and other connections must close
                // first.
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(move |request| {
                let response = answer(&request, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            let connection = http
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
                tracing::debug!(%error, "a connection for metrics has failed");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported".into());
    }
    let state = |wrong: Option<String>| match wrong {
        None => plain(StatusCode::OK, "ok".into()),
        Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
    };
    match request.uri().path() {
        "/metrics" => with_type(StatusCode::OK, OPENMETRICS, metrics.text()),
        "/healthz" => state(metrics.unhealthy()),
        "/readyz" => state(metrics.unhealthy().or_else(|| metrics.unready())),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there is no such page; /metrics, /healthz and /readyz exist".into(),
        ),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text + "\n")
}

fn with_type(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Silent connections take no more descriptors than there are places, and after a while no
    /// scrape waits for them.
    #[test]
    fn many_silent_connections_take_few_descriptors() {
        let address = start(([127, 0, 0, 1], 0).into(), Metrics::new("/nowhere".into())).unwrap();
        let silent: Vec<TcpStream> =
            (0..3 * MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        std::thread::sleep(Duration::from_millis(300));
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        // Other tests of this process have some, too.
        assert!(open < silent.len() + MAX_CONNECTIONS + 128, "{open}");
        drop(silent);
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn it_answers_probes_and_scrapes() {
        let metrics = Metrics::new("/nowhere".into());
        let address = start(([127, 0, 0, 1], 0).into(), metrics.clone()).unwrap();
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        let unready = get(address, "/readyz");
        assert!(
            unready.starts_with("HTTP/1.1 503")
                && unready.contains("waiting for the first complete view")
        );
        metrics.enforced(1, None);
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
        let scraped = get(address, "/metrics");
        assert!(scraped.contains(OPENMETRICS) && scraped.ends_with("# EOF\n"), "{scraped}");
        assert!(get(address, "/else").starts_with("HTTP/1.1 404"));
    }
}
