//! The endpoint that Prometheus scrapes and an orchestrator probes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::Metrics;

/// Time limit of a connection, from its start until the client has read the last byte.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of connections. One more closes the oldest: a scrape takes milliseconds, so the client of an
/// old connection neither sends nor reads.
const MAX_CONNECTIONS: usize = 50;

/// Pause after a failed accept, which would fail again at once if the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves [`Metrics`] and their [`Health`](super::Health) over HTTP.
///
/// | path | answer |
/// |---|---|
/// | `/metrics` | the metrics in the text format of Prometheus |
/// | `/healthz` | 200 and `ok` as long as the process answers |
/// | `/readyz` | 200 and `ok` while the worker polls; otherwise 503 and a line with the reason |
///
/// A connection serves one request. It is closed after 10 s, or when 50 newer connections are open.
///
/// The server runs until it is dropped or [stopped](Self::stop). It has neither TLS nor authentication: bind it
/// to the loopback address, or to a network that only your monitoring can reach.
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
    /// Listens on `address`. With port 0 the system chooses a free port, which [`address`](Self::address)
    /// returns.
    ///
    /// # Errors
    /// The address is not available; the error names it.
    ///
    /// # Panics
    /// Panics outside a Tokio runtime.
    pub async fn bind(address: SocketAddr, metrics: Metrics) -> Result<Self, MetricsServerError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => MetricsServerError::AddressInUse { address, source },
            _ => MetricsServerError::CannotListen { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            address,
            accepting: Self::begin(listener, metrics),
        })
    }

    /// Starts to serve. The function is not `async`, so that the HTTP server is compiled in this crate and not in the
    /// crates of users.
    fn begin(listener: TcpListener, metrics: Metrics) -> JoinHandle<()> {
        tokio::spawn(accept(listener, metrics, TIME_LIMIT))
    }

    /// Returns the address on which the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving. The port is free when this returns.
    pub async fn stop(mut self) {
        self.accepting.abort();
        // The only possible error is the cancellation requested above.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The reason why [`MetricsServer::bind`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsServerError {
    /// Another program, or another worker on this machine, already listens there. Choose another port, or port
    /// 0 for any free one.
    #[error(
        "the metrics address {address} is in use; choose another port, or port 0 for any free one"
    )]
    AddressInUse {
        /// The address that was asked for.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system does not allow this process to listen there: the address does not belong to this machine, or
    /// the port requires privileges.
    #[error(
        "cannot serve metrics at {address}; choose an address of this machine and a port from 1024 up, such as 127.0.0.1:9464"
    )]
    CannotListen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Accepts connections and owns them, so that aborting this task closes all of them.
async fn accept(listener: TcpListener, metrics: Metrics, time_limit: Duration) {
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    let endpoint = Arc::new(Endpoint {
        metrics,
        rendering: Arc::new(Semaphore::new(1)),
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    by_age.retain(|connection| !connection.is_finished());
                    if by_age.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = by_age.pop_front()
                    {
                        oldest.abort();
                    }
                    let serve = Arc::clone(&endpoint).serve(stream);
                    by_age.push_back(connections.spawn(async move {
                        if tokio::time::timeout(time_limit, serve).await.is_err() {
                            tracing::debug!("a connection to the metrics endpoint took too long");
                        }
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Finished connections are collected. The branch is disabled while there are none to wait for.
            Some(_) = connections.join_next() => {}
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

struct Endpoint {
    metrics: Metrics,
    /// A limit of one rendering at a time. Rendering is expensive and must not occupy the threads that answer
    /// and poll.
    rendering: Arc<Semaphore>,
}

impl Endpoint {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| async {
            let request = request;
            Ok::<_, Infallible>(self.answer(&request).await)
        });
        // Keep-alive is off, so that the limits apply to every request.
        let served = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the metrics endpoint broke");
        }
    }

    async fn answer<B: Body>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let reads = matches!(request.method(), &Method::GET | &Method::HEAD);
        let path = if reads { request.uri().path() } else { "" };
        let (status, content_type, body) = match path {
            "/metrics" => (StatusCode::OK, prometheus::TEXT_FORMAT, self.render().await),
            "/healthz" => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
            "/readyz" => match self.metrics.health().not_ready() {
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

    async fn render(&self) -> String {
        // The permit moves into the task, because rendering continues when its client disconnects.
        let turn = Arc::clone(&self.rendering).acquire_owned().await;
        let metrics = self.metrics.clone();
        let rendered = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            metrics.render()
        });
        // The task can only have panicked.
        rendered.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

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
        // An address reserved for documentation, which no machine has.
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
        // The connection is closed or reset, depending on the platform.
        let _ = idle.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn dropping_stops_it_too() {
        let server = serve(&Metrics::new()).await;
        let address = server.address();
        drop(server);
        let refused = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let refused = tokio::time::timeout(Duration::from_secs(60), refused).await;
        refused.expect("connections are refused once the server is dropped");
    }

    /// Metrics that exceed the socket buffers of both sides.
    fn many() -> Metrics {
        let metrics = Metrics::new();
        for n in 0..200 {
            metrics.for_processor(&format!("{n:0>200}")).announced();
        }
        metrics
    }

    async fn unread(address: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let head = "GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// Returns the bytes that can still be read. For a client that was disconnected that is less than
    /// everything.
    async fn rest(mut stream: TcpStream) -> usize {
        let mut rest = Vec::new();
        let reading = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest));
        // The connection is closed or reset, depending on the data not yet sent.
        let _ = reading.await.expect("the connection is closed");
        rest.len()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clients_that_never_read_or_never_send_are_hung_up_on() {
        let metrics = many();
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_secs(2);
        let accepting = tokio::spawn(accept(listener, metrics.clone(), limit));
        let silent = TcpStream::connect(address).await.unwrap();
        let mut stream = unread(address).await;
        assert_eq!(rest(silent).await, 0);
        // This client has been sending all along, and is slightly younger.
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        tokio::time::sleep(limit).await;
        let (all, read) = (metrics.render().len(), rest(stream).await);
        assert!(read < all, "{read} of {all} bytes");
        accepting.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hundred_clients_that_never_read_do_not_slow_the_health() {
        let metrics = many();
        let server = serve(&metrics).await;
        let mut clients = Vec::new();
        for _ in 0..200 {
            clients.push(unread(server.address()).await);
        }
        let asked = std::time::Instant::now();
        let answer = request(server.address(), "GET /healthz").await;
        let took = asked.elapsed();
        assert!(answer.ends_with("ok\n"), "{answer}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        // The first connections were closed for the last.
        let began = std::time::Instant::now();
        for client in clients.drain(..200 - MAX_CONNECTIONS) {
            rest(client).await;
        }
        assert!(began.elapsed() < TIME_LIMIT / 2, "{:?}", began.elapsed());
    }
}
