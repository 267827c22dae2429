//! A local HTTP API whose answers a test decides, and which remembers every call.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

/// A call that arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub at: Instant,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The number of calls of the same path before it.
    pub before: usize,
    /// The number of calls that were being answered, itself included.
    pub in_flight: usize,
}

impl Call {
    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map_or("", |(_, value)| value)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    after: Duration,
}

impl Reply {
    pub fn of(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            after: Duration::ZERO,
        }
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Answers after this time.
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

type Handler = dyn Fn(&Call) -> Reply + Send + Sync;

/// The API. It ends with the runtime of its test.
pub struct MockApi {
    pub url: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    /// The number of calls of each path.
    times: HashMap<String, usize>,
    in_flight: usize,
}

impl MockApi {
    pub async fn start(handler: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&shared));
                let service = service_fn(move |request| {
                    answer(request, Arc::clone(&handler), Arc::clone(&seen))
                });
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Self { url, seen }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.seen.lock().unwrap().calls.clone()
    }
}

/// Counts a call as in flight while it exists, even if the caller goes away.
struct InFlight(Arc<Mutex<Seen>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().unwrap().in_flight -= 1;
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let path = head.uri.to_string();
    let call = {
        let mut seen = seen.lock().unwrap();
        seen.in_flight += 1;
        let times = seen.times.entry(path.clone()).or_default();
        let before = *times;
        *times += 1;
        let call = Call {
            at,
            method: head.method.to_string(),
            before,
            in_flight: seen.in_flight,
            path,
            headers: headers.collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        seen.calls.push(call.clone());
        call
    };
    let _in_flight = InFlight(Arc::clone(&seen));
    let reply = handler(&call);
    tokio::time::sleep(reply.after).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(Bytes::from(reply.body))).unwrap())
}
