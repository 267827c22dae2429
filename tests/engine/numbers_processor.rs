//! A processor over the numbers from 1 to n that records its calls, and behaves as a test tells it to.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, Size, SkipAhead,
    settings::RetryPolicy,
};
use tokio::sync::{Semaphore, watch};

use crate::support::{
    number_pages::{numbers_of, skip},
    within,
};

pub type Context = PageContext<NumbersProcessor>;
type Hook<T> = dyn Fn(Seen) -> BoxFuture<'static, Result<T, PageError>> + Send + Sync;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UpTo {
    pub n: u64,
}

/// One call of a method, as the record keeps it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub start: u64,
    pub end: Option<u64>,
    pub attempt: u32,
    pub batch_id: String,
    pub items: Vec<u64>,
    /// The number of times that a page with this start has been processed, this time included.
    pub times: usize,
}

/// The record of all calls.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub fetches: Vec<Seen>,
    /// The calls of `process` that began.
    pub begun: Vec<Seen>,
    /// The calls of `process` that succeeded.
    pub done: Vec<Seen>,
    pub in_flight: usize,
    pub most_in_flight: usize,
}

impl Record {
    /// The numbers that were processed, in order, with repetitions.
    pub fn processed(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.done.iter().flat_map(|s| s.items.clone()).collect();
        all.sort_unstable();
        all
    }

    pub fn times_begun(&self, start: u64) -> usize {
        self.begun.iter().filter(|s| s.start == start).count()
    }
}

#[derive(Clone)]
pub struct NumbersProcessor {
    record: Arc<watch::Sender<Record>>,
    settings: ProcessorSettings,
    skips_ahead: bool,
    size_hint: Option<fn(u64) -> Size>,
    says_end: bool,
    process: Arc<Hook<PageReport>>,
    fetch: Arc<Hook<()>>,
}

impl NumbersProcessor {
    pub fn new() -> Self {
        Self {
            record: Arc::new(watch::channel(Record::default()).0),
            settings: ProcessorSettings {
                retry: quick_retries(),
                ..ProcessorSettings::default()
            },
            skips_ahead: false,
            size_hint: None,
            says_end: false,
            process: Arc::new(|_| Box::pin(async { Ok(PageReport::all_processed()) })),
            fetch: Arc::new(|_| Box::pin(async { Ok(()) })),
        }
    }

    pub fn skipping_ahead(mut self) -> Self {
        self.skips_ahead = true;
        self
    }

    pub fn with_size_hint(self) -> Self {
        self.sized(Size::Estimate)
    }

    /// Sets the size that the processor reports, made from the real number.
    pub fn sized(mut self, size: fn(u64) -> Size) -> Self {
        self.size_hint = Some(size);
        self
    }

    /// Announces with its last page that it is the last.
    pub fn saying_where_it_ends(mut self) -> Self {
        self.says_end = true;
        self
    }

    pub fn settings(mut self, change: impl FnOnce(&mut ProcessorSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Sets the behaviour of `process`.
    pub fn on_process<F>(mut self, hook: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<PageReport, PageError>> + Send + 'static,
    {
        self.process = Arc::new(move |seen| Box::pin(hook(seen)));
        self
    }

    /// Sets the code that runs before `fetch` returns its page.
    pub fn on_fetch<F>(mut self, hook: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), PageError>> + Send + 'static,
    {
        self.fetch = Arc::new(move |seen| Box::pin(hook(seen)));
        self
    }

    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Waits until the record satisfies a condition.
    pub async fn shows(&self, what: &str, condition: impl Fn(&Record) -> bool) -> Record {
        let mut watch = self.record.subscribe();
        let waited = within(what, async {
            let record = watch.wait_for(|record| condition(record)).await;
            record.unwrap().clone()
        });
        waited.await
    }

    /// Processes a page for another processor over numbers.
    pub async fn process_as(&self, attempt: u32, items: Vec<u64>) -> Result<PageReport, PageError> {
        let start = items[0] - 1;
        let seen = Seen {
            start,
            end: None,
            attempt,
            batch_id: String::new(),
            items,
            times: self.record.borrow().times_begun(start) + 1,
        };
        let _in_flight = InFlight::new(self.clone());
        self.note(|r| r.begun.push(seen.clone()));
        let report = (self.process)(seen.clone()).await?;
        self.note(|r| r.done.push(seen));
        Ok(report)
    }

    fn note(&self, change: impl FnOnce(&mut Record)) {
        self.record.send_modify(change);
    }

    fn seen(&self, ctx: &Context, items: Vec<u64>) -> Seen {
        let start = ctx.range().start().copied().unwrap_or(0);
        Seen {
            start,
            end: ctx.range().end().copied(),
            attempt: ctx.attempt(),
            batch_id: ctx.batch_id().to_owned(),
            items,
            times: self.record.borrow().times_begun(start) + 1,
        }
    }
}

/// Ten attempts within one or two seconds, without extended retries.
pub fn quick_retries() -> RetryPolicy {
    RetryPolicy::default()
        .initial_interval(Duration::from_millis(20))
        .max_interval(Duration::from_millis(200))
        .extended(None)
}

/// The numbers of the page that is asked for.
pub fn page_of<P>(ctx: &PageContext<P>) -> Result<Page<u64, u64>, PageError>
where
    P: PageProcessor<Args = UpTo, Cursor = u64, Item = u64>,
{
    Page::keyset(numbers_of(ctx, ctx.args().n), |n| *n)
}

#[async_trait]
impl PageProcessor for NumbersProcessor {
    const NAME: &'static str = "numbers";
    type Args = UpTo;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &Context) -> Result<Page<u64, u64>, PageError> {
        let seen = self.seen(ctx, Vec::new());
        self.note(|r| r.fetches.push(seen.clone()));
        (self.fetch)(seen).await?;
        let numbers = numbers_of(ctx, ctx.args().n);
        let last = self.says_end && numbers.last() == Some(&ctx.args().n);
        let page = Page::keyset(numbers, |n| *n)?;
        Ok(if last { page.last() } else { page })
    }

    async fn process(&self, ctx: &Context, items: Vec<u64>) -> Result<PageReport, PageError> {
        let seen = self.seen(ctx, items);
        let _in_flight = InFlight::new(self.clone());
        self.note(|r| r.begun.push(seen.clone()));
        let report = (self.process)(seen.clone()).await?;
        self.note(|r| r.done.push(seen));
        Ok(report)
    }

    async fn skip_ahead(&self, ctx: &Context, pages: u32) -> Result<SkipAhead<u64>, PageError> {
        if !self.skips_ahead {
            return Ok(SkipAhead::Unsupported);
        }
        Ok(skip(ctx, pages, ctx.args().n))
    }

    async fn size(&self, args: &UpTo) -> Result<Size, PageError> {
        Ok(self.size_hint.map_or(Size::Unknown, |size| size(args.n)))
    }

    fn settings(&self) -> ProcessorSettings {
        self.settings.clone()
    }
}

/// Counts a page in flight until it is dropped, which also happens when the page's future is dropped or panics.
struct InFlight(NumbersProcessor);

impl InFlight {
    fn new(numbers: NumbersProcessor) -> Self {
        numbers.note(|r| {
            r.in_flight += 1;
            r.most_in_flight = r.most_in_flight.max(r.in_flight);
        });
        Self(numbers)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.note(|r| r.in_flight -= 1);
    }
}

/// A gate that holds pages back until the test lets them through.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }

    pub fn let_through(&self, pages: usize) {
        self.0.add_permits(pages);
    }

    pub fn open(&self) {
        self.0.add_permits(1_000_000);
    }
}

/// A processor over numbers whose every page waits at the gate.
pub fn gated() -> (NumbersProcessor, Gate) {
    gated_where(|_| true)
}

/// A processor over numbers of which the selected pages wait at the gate.
pub fn gated_where(
    waits: impl Fn(&Seen) -> bool + Send + Sync + 'static,
) -> (NumbersProcessor, Gate) {
    let gate = Gate::closed();
    let held = gate.clone();
    let numbers = NumbersProcessor::new().on_process(move |seen| {
        let gate = waits(&seen).then(|| held.clone());
        async move {
            if let Some(gate) = gate {
                gate.pass().await;
            }
            Ok(PageReport::all_processed())
        }
    });
    (numbers, gate)
}

/// A list that tests append to from hooks.
#[derive(Clone, Default)]
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}
