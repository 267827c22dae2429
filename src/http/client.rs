//! The client of an API.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    answer::{ApiAnswer, ApiFailure, NOT_CONNECTED, beginning},
    error::InvalidApi,
    gate::{Gate, Passed},
    options::ApiOptions,
    request::{ApiRequest, header_name, header_value},
    throttle::ApiThrottle,
    wait_header::advice,
};
use crate::{
    base::error::PageError,
    processor::{PageProcessor, context::PageContext},
};

/// The number of times in a row that an API may ask to wait for one record.
const MOST_WAITS: u32 = 100;

/// Calls an API for the records of a batch. Clones share connections and pace.
///
/// # Order of calls
///
/// 1. [`call`](Self::call) waits until the API takes calls, and then for a [permit](PageContext::permit) under the rate
///    of the batch, if the processor has [`Permits::PerItem`](crate::Permits::PerItem). Neither wait counts towards the
///    page timeout.
/// 2. It sends the request, with its idempotency key. Redirects are not followed.
/// 3. After an answer that asks to wait (429, or 503 with `Retry-After`), *every* call of this process waits, of all
///    pages. So it does after an answer that says that no call is left (`RateLimit-Remaining: 0` and the like) until the
///    reset. [`throttle`](Self::throttle) makes the whole batch wait.
/// 4. After a retried status, a timeout or a broken connection, this record alone is tried again.
///
/// If an API refuses calls, the client goes on a little more slowly than the API accepted them, and becomes faster again
/// until the next refusal. So it finds a quota that the API does not tell, and follows one that changes. The rate of the
/// batch is never exceeded.
///
/// ```
/// use temporal_batch::{
///     Page, PageContext, PageError, PageProcessor, PageReport, Permits, ProcessorSettings, async_trait,
///     http::{ApiClient, ApiRequest, at_once},
/// };
///
/// struct Invoice {
///     api: ApiClient,
/// }
///
/// #[async_trait]
/// impl PageProcessor for Invoice {
///     const NAME: &'static str = "invoice";
///     type Args = ();
///     type Cursor = u32;
///     type Item = u32;
///
///     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
///         let first = ctx.range().start().copied().unwrap_or(0) + 1;
///         let last = ctx.range().end().copied().unwrap_or(2_000);
///         Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
///     }
///
///     async fn process(&self, ctx: &PageContext<Self>, orders: Vec<u32>) -> Result<PageReport, PageError> {
///         // At most ten calls of the page are in flight.
///         let answers = at_once(10, orders, |_, order| async move {
///             let request = ApiRequest::post("https://api.example.org/invoices")?
///                 .json(&order)?
///                 .key(ctx.item_key(order));
///             self.api.call(ctx, &request).await
///         });
///         let mut report = PageReport::all_processed();
///         for (position, answer) in answers.await?.into_iter().enumerate() {
///             if let Err(failure) = answer {
///                 let error = failure.error();
///                 report.fail_with_record(position, error.error_type(), error.message(), failure.body_start());
///             }
///         }
///         Ok(report)
///     }
///
///     fn settings(&self) -> ProcessorSettings {
///         ProcessorSettings { permits: Permits::PerItem, ..ProcessorSettings::default() }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ApiClient {
    name: String,
    http: reqwest::Client,
    gate: Arc<Gate>,
    options: Arc<ApiOptions>,
    key_header: HeaderName,
}

/// The result of one attempt.
enum Attempt {
    Answered(ApiAnswer),
    /// The API asked to wait.
    Refused(ApiFailure),
    Failed(ApiFailure),
}

/// # Construct
impl ApiClient {
    /// Creates a client with the default [options](ApiOptions). The name of the API is for messages, and for the
    /// [throttle](Self::throttle).
    ///
    /// # Errors
    /// The TLS of this machine cannot be used.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidApi> {
        Self::with(name, ApiOptions::default())
    }

    /// Creates a client.
    ///
    /// # Errors
    /// A setting is out of range, or the TLS of this machine cannot be used.
    pub fn with(name: impl Into<String>, options: ApiOptions) -> Result<Self, InvalidApi> {
        options.validate()?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Fails only if another thread has just installed one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let http = reqwest::Client::builder()
            .timeout(options.timeout)
            .connect_timeout(options.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("temporal-batch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| InvalidApi::Client(crate::base::error::text::words(&error)))?;
        let key_header = header_name(&options.key_header);
        Ok(Self {
            name: name.into(),
            http,
            gate: Arc::new(Gate::new()),
            key_header: key_header.map_err(|e| InvalidApi::Option(e.to_string()))?,
            options: Arc::new(options),
        })
    }

    /// Creates a client with other options that shares the pace of this one.
    #[cfg(feature = "files")]
    pub(super) fn with_options(&self, options: ApiOptions) -> Result<Self, InvalidApi> {
        let client = Self::with(&self.name, options)?;
        let gate = Arc::clone(&self.gate);
        Ok(Self { gate, ..client })
    }

    /// Returns the throttle that holds a batch while this API asks to wait. Its name is that of the API.
    pub fn throttle(&self) -> ApiThrottle {
        ApiThrottle {
            name: self.name.clone(),
            gate: Arc::clone(&self.gate),
        }
    }
}

/// # Call
impl ApiClient {
    /// Calls the API for one record, and repeats the call as the [options](ApiOptions) say.
    ///
    /// # Errors
    /// The outer error means that the page [should end early](PageContext::is_cancelled), as for
    /// [`PageContext::permit`]. Return it. The inner one means that the call was given up: give up the record with
    /// [`PageReport::fail`](crate::PageReport::fail), or use another value in place of the answer.
    pub async fn call<P: PageProcessor>(
        &self,
        ctx: &PageContext<P>,
        request: &ApiRequest,
    ) -> Result<Result<ApiAnswer, ApiFailure>, PageError> {
        let (mut attempts, mut waits) = (0, 0);
        loop {
            let passed = loop {
                ctx.wait_beside(self.gate.opens()).await?;
                ctx.permit().await?;
                if let Some(passed) = self.gate.pass() {
                    break passed;
                }
            };
            let failure = match self.attempt(request, passed).await {
                Attempt::Answered(answer) => return Ok(Ok(answer)),
                Attempt::Refused(failure) if waits >= MOST_WAITS => {
                    return Ok(Err(still_refused(&failure)));
                }
                Attempt::Refused(_) => {
                    waits += 1;
                    continue;
                }
                Attempt::Failed(failure) => failure,
            };
            attempts += 1;
            if ctx.must_end() {
                return Err(failure.error);
            }
            let wait = match failure.error.is_retryable() {
                true => self.options.retry.wait_after(attempts),
                false => None,
            };
            let Some(wait) = wait.filter(|wait| *wait < ctx.items.clock().left()) else {
                return Ok(Err(failure));
            };
            tracing::debug!(attempts, error = failure.error.message(), "call repeated");
            ctx.back_off(wait).await?;
        }
    }

    /// Makes one attempt outside of a batch, without waiting for anything.
    ///
    /// # Errors
    /// Any status but 200 to 299, or no complete answer.
    pub async fn try_once(&self, request: &ApiRequest) -> Result<ApiAnswer, ApiFailure> {
        self.gate.opens().await;
        let passed = loop {
            match self.gate.pass() {
                Some(passed) => break passed,
                None => self.gate.opens().await,
            }
        };
        match self.attempt(request, passed).await {
            Attempt::Answered(answer) => Ok(answer),
            Attempt::Refused(failure) | Attempt::Failed(failure) => Err(failure),
        }
    }

    async fn attempt(&self, request: &ApiRequest, passed: Passed) -> Attempt {
        let sent = match self.request(request) {
            Ok(sent) => sent,
            Err(failure) => return Attempt::Failed(failure),
        };
        let answer = match sent.send().await {
            Ok(answer) => answer,
            Err(error) => return Attempt::Failed(no_answer(&error)),
        };
        let status = answer.status().as_u16();
        let retry_after = answer.headers().contains_key("retry-after");
        let refused = status == 429 || (status == 503 && retry_after);
        let mut advice = read_advice(answer.headers(), refused);
        advice.wait = advice.wait.map(|wait| wait.min(self.options.longest_wait));
        advice.left = advice
            .left
            .map(|(left, reset)| (left, reset.min(self.options.longest_wait)));
        passed.answered(refused, advice);
        let link = of_headers(answer.headers(), "link");
        let is_success = (200..300).contains(&status);
        let body = match self.body(answer).await {
            Ok(body) => body,
            // The status says enough, whatever the body is.
            Err(_) if !is_success => bytes::Bytes::new(),
            Err(failure) => return Attempt::Failed(failure),
        };
        if is_success {
            return Attempt::Answered(ApiAnswer { status, link, body });
        }
        let failure = self.failure(status, &body);
        match refused {
            true => Attempt::Refused(failure),
            false => Attempt::Failed(failure),
        }
    }

    fn request(&self, request: &ApiRequest) -> Result<reqwest::RequestBuilder, ApiFailure> {
        let mut headers = request.headers.clone();
        if let Some(key) = &request.key {
            let value = header_value(self.key_header.as_str(), key);
            let value = value.map_err(|e| own(PageError::non_retryable("InvalidKey", e)))?;
            headers.insert(self.key_header.clone(), value);
        }
        let built = self
            .http
            .request(request.method.clone(), request.url.clone())
            .headers(headers)
            .body(request.body.clone());
        Ok(built)
    }

    /// Reads the body, up to the largest size.
    async fn body(&self, mut answer: reqwest::Response) -> Result<bytes::Bytes, ApiFailure> {
        let limit = self.options.max_answer_bytes;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| no_answer(&e))? {
            if body.len() + chunk.len() > limit {
                return Err(own(PageError::non_retryable(
                    "AnswerTooLarge",
                    format_args!("the answer is longer than {limit} bytes"),
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn failure(&self, status: u16, body: &[u8]) -> ApiFailure {
        let name = http::StatusCode::from_u16(status).ok();
        let name = name
            .and_then(|status| status.canonical_reason())
            .unwrap_or("");
        let text = match status {
            300..400 => format!("{status} {name}: redirects are not followed"),
            _ => format!("{status} {name}"),
        };
        let text = text.trim().to_owned();
        let error = match status == 429 || self.options.retried.contains(&status) {
            true => PageError::retryable(text).with_type(format!("Http{status}")),
            false => PageError::non_retryable(format!("Http{status}"), text),
        };
        ApiFailure {
            error,
            status: Some(status),
            body: beginning(body),
        }
    }
}

fn of_headers(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(name).iter().map(HeaderValue::to_str);
    let values: Vec<_> = values.filter_map(Result::ok).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn read_advice(headers: &HeaderMap, refused: bool) -> super::pace::Advice {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    advice(value, refused, SystemTime::now())
}

fn own(error: PageError) -> ApiFailure {
    ApiFailure {
        error,
        status: None,
        body: String::new(),
    }
}

fn still_refused(failure: &ApiFailure) -> ApiFailure {
    ApiFailure {
        error: PageError::retryable(format_args!(
            "the API asked {MOST_WAITS} times in a row to wait: {}",
            failure.error.message()
        ))
        .with_type("StillRefused"),
        status: failure.status,
        body: failure.body.clone(),
    }
}

/// Describes a call without a complete answer. The URL is left out, because it may hold values of the record.
fn no_answer(error: &reqwest::Error) -> ApiFailure {
    let (error_type, what) = if error.is_timeout() {
        ("HttpTimeout", "no answer in time")
    } else if error.is_connect() {
        (NOT_CONNECTED, "no connection")
    } else {
        (
            "HttpBroken",
            "the connection broke before the answer was complete",
        )
    };
    let cause = std::error::Error::source(error).map(crate::base::error::text::words);
    let text = match cause {
        Some(cause) => format!("{what}: {cause}"),
        None => what.to_owned(),
    };
    own(PageError::retryable(text).with_type(error_type))
}

/// Does the work on the items of a page, at most `most` at the same time, and returns the results in the order of the
/// items. The first error ends all work.
///
/// # Errors
/// The first error of `work`.
pub async fn at_once<I, T, W>(
    most: usize,
    items: impl IntoIterator<Item = I>,
    work: impl Fn(usize, I) -> W,
) -> Result<Vec<T>, PageError>
where
    W: Future<Output = Result<T, PageError>>,
{
    use futures::stream::{FuturesUnordered, StreamExt as _};
    let mut items = items.into_iter().enumerate();
    let (mut flying, mut results) = (FuturesUnordered::new(), Vec::new());
    loop {
        while flying.len() < most.max(1)
            && let Some((at, item)) = items.next()
        {
            flying.push(numbered(at, work(at, item)));
        }
        match flying.next().await {
            Some(done) => results.push(done?),
            None => break,
        }
    }
    results.sort_unstable_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, done)| done).collect())
}

async fn numbered<T>(
    at: usize,
    work: impl Future<Output = Result<T, PageError>>,
) -> Result<(usize, T), PageError> {
    Ok((at, work.await?))
}
