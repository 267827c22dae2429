//! An API that fails for some users and takes its time. What it answers depends only on its seed.

use std::{convert::Infallible, net::SocketAddr, ops::RangeInclusive, time::Duration};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::users::mixed;

/// The behaviour of the API.
#[derive(Clone, Debug)]
pub struct MockApi {
    /// The share of users for which it fails, from 0 to 1.
    pub fail_rate: f64,
    /// The time of an answer, in milliseconds.
    pub latency_ms: RangeInclusive<u64>,
    pub seed: u64,
}

impl MockApi {
    /// Returns whether the API fails for a user. It does so every time.
    pub fn fails_for(&self, id: u64) -> bool {
        let share = mixed(self.seed, id) as f64 / u64::MAX as f64;
        share < self.fail_rate
    }

    /// Returns the status and the body for a path such as `/users/7/DE`, and the time until the answer.
    pub fn answer(&self, path: &str) -> (u16, String, Duration) {
        let mut parts = path.trim_start_matches('/').split('/');
        let (kind, id, country) = (parts.next(), parts.next(), parts.next());
        let id = id.and_then(|id| id.parse::<u64>().ok());
        let (Some("users"), Some(id), Some(country)) = (kind, id, country) else {
            return (
                404,
                "{\"error\":\"no such path\"}".to_owned(),
                Duration::ZERO,
            );
        };
        let (from, to) = (*self.latency_ms.start(), *self.latency_ms.end());
        let latency = from + mixed(!self.seed, id) % (to.saturating_sub(from) + 1);
        let latency = Duration::from_millis(latency);
        if self.fails_for(id) {
            return (
                500,
                "{\"error\":\"the region service failed\"}".to_owned(),
                latency,
            );
        }
        let region = match country {
            "DE" | "FR" => "EU",
            "US" | "BR" => "AMER",
            _ => "APAC",
        };
        (200, format!("{{\"region\":\"{region}\"}}"), latency)
    }

    /// Answers calls until the process ends.
    pub async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let api = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let (status, body, latency) = api.answer(request.uri().path());
                    async move {
                        tokio::time::sleep(latency).await;
                        let mut response = Response::new(Full::new(Bytes::from(body)));
                        *response.status_mut() = hyper::StatusCode::from_u16(status)
                            .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
                        Ok::<_, Infallible>(response)
                    }
                });
                // A caller that goes away ends only its own connection.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

/// Listens on a port of this machine; 0 means any.
pub async fn listen(port: u16) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
