//! The endpoint that Prometheus scrapes and an orchestrator asks.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::Metrics;

/// How long a client may take over the head of a request before it is hung up on.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept: it fails again at once when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves [`Metrics`] and the [`Health`](super::Health) that belongs to them.
///
/// | path | answer |
/// |---|---|
/// | `/metrics` | the metrics in the text format of Prometheus |
/// | `/healthz` | 200 and `ok` as long as the process answers |
/// | `/readyz` | 200 and `ok` while the worker polls; else 503 and one line that says why not |
///
/// It serves until it is dropped, or until [`stop`](Self::stop). There is neither TLS nor a login on it:
/// bind it to the loopback or to a network that only your monitoring reaches.
///
/// ```no_run
/// # use temporal_batch::metrics::{Metrics, MetricsServer};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let metrics = Metrics::new();
/// let server = MetricsServer::bind("127.0.0.1:9464".parse()?, metrics).await?;
/// println!("metrics at http://{}/metrics", server.address());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the endpoint is closed when this is dropped"]
pub struct MetricsServer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl MetricsServer {
    /// Listens on `address`; port 0 takes any free one, which [`address`](Self::address) then tells.
    ///
    /// # Errors
    /// When nothing can listen there; the error names the address.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn bind(address: SocketAddr, metrics: Metrics) -> Result<Self, MetricsServerError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => MetricsServerError::AddressInUse { address, source },
            _ => MetricsServerError::CannotListen { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            address,
            accepting: tokio::spawn(accept(listener, metrics)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving; the port is free again when this returns.
    pub async fn stop(mut self) {
        self.accepting.abort();
        // The only error there can be is the cancellation just asked for.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Why [`MetricsServer::bind`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsServerError {
    /// Another program, or another worker on this machine, listens there already. Take another port, or
    /// port 0 for any free one.
    #[error(
        "the metrics address {address} is in use; choose another port, or port 0 for any free one"
    )]
    AddressInUse {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let this process listen there: the address is none of this machine's, or the
    /// port needs more rights.
    #[error(
        "cannot serve metrics at {address}; choose an address of this machine and a port from 1024 up, such as 127.0.0.1:9464"
    )]
    CannotListen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Owns the connections, so that aborting this task closes all of them.
async fn accept(listener: TcpListener, metrics: Metrics) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let metrics = metrics.clone();
                    connections.spawn(async move {
                        let service = service_fn(move |request| {
                            std::future::ready(Ok::<_, Infallible>(answer(&request, &metrics)))
                        });
                        let served = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEADER_TIMEOUT)
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                        if let Err(error) = served {
                            tracing::debug!(%error, "a connection to the metrics endpoint broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Reaps what is done; disabled while there is nothing to wait for.
            Some(_) = connections.join_next() => {}
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn answer<B: Body>(request: &Request<B>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let reads = matches!(request.method(), &Method::GET | &Method::HEAD);
    let path = if reads { request.uri().path() } else { "" };
    let (status, content_type, body) = match path {
        "/metrics" => (StatusCode::OK, prometheus::TEXT_FORMAT, metrics.render()),
        "/healthz" => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        "/readyz" => match metrics.health().not_ready() {
            None => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
            Some(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                PLAIN,
                format!("{reason}\n"),
            ),
        },
        _ => {
            let hint = "the metrics are at /metrics, the health at /healthz and /readyz\n";
            (StatusCode::NOT_FOUND, PLAIN, hint.to_owned())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const ANY_PORT: &str = "127.0.0.1:0";

    async fn serve(metrics: &Metrics) -> MetricsServer {
        MetricsServer::bind(ANY_PORT.parse().unwrap(), metrics.clone())
            .await
            .unwrap()
    }

    async fn request(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{head} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn serves_the_rendered_metrics_with_their_content_type() {
        let metrics = Metrics::new();
        metrics.for_processor("copy").announced();
        let server = serve(&metrics).await;

        let answer = request(server.address(), "GET /metrics").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert_eq!(body, metrics.render());
    }

    #[tokio::test]
    async fn a_process_is_alive_before_its_worker_is_ready_and_after() {
        let metrics = Metrics::new();
        let server = serve(&metrics).await;
        let health = metrics.health();
        let ask = async |head: &str| {
            let answer = request(server.address(), head).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap();
            (status.to_owned(), body.to_owned())
        };
        let is = |status: &str, body: &str| (status.to_owned(), body.to_owned());

        assert_eq!(ask("GET /healthz").await, is("200", "ok\n"));
        assert_eq!(ask("GET /readyz").await, is("503", "starting\n"));
        health.set_ready();
        assert_eq!(ask("GET /readyz").await, is("200", "ok\n"));
        assert_eq!(ask("HEAD /readyz").await, is("200", ""));
        health.set_not_ready("the connection to the server is lost\n(refused)");
        let told = "the connection to the server is lost (refused)\n";
        assert_eq!(ask("GET /readyz").await, is("503", told));
        assert_eq!(ask("GET /healthz").await, is("200", "ok\n"));
    }

    #[tokio::test]
    async fn everything_else_is_not_found() {
        let server = serve(&Metrics::new()).await;
        for head in [
            "GET /",
            "GET /metrics/more",
            "POST /metrics",
            "DELETE /metrics",
            "POST /readyz",
            "GET /healthz/",
        ] {
            let answer = request(server.address(), head).await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{head}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let server = serve(&Metrics::new()).await;
        let error = MetricsServer::bind(server.address(), Metrics::new())
            .await
            .unwrap_err();
        assert!(matches!(error, MetricsServerError::AddressInUse { .. }));
        assert!(error.source().is_some());
        let message = error.to_string();
        assert!(message.contains(&server.address().to_string()), "{message}");
        assert!(message.contains("another port"), "{message}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        // From the range reserved for documentation, so no machine has it.
        let error = MetricsServer::bind("192.0.2.1:0".parse().unwrap(), Metrics::new())
            .await
            .unwrap_err();
        assert!(matches!(error, MetricsServerError::CannotListen { .. }));
    }

    #[tokio::test]
    async fn stopping_frees_the_port_and_closes_open_connections() {
        let server = serve(&Metrics::new()).await;
        let address = server.address();
        let mut idle = TcpStream::connect(address).await.unwrap();
        request(address, "GET /metrics").await;

        server.stop().await;
        let _again = MetricsServer::bind(address, Metrics::new()).await.unwrap();
        let mut rest = Vec::new();
        // Closed or reset, depending on the platform; never left open.
        let _ = idle.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn dropping_stops_it_too() {
        let server = serve(&Metrics::new()).await;
        let address = server.address();
        drop(server);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
