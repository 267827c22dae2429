//! The limits of a batch, measured where its pages work: three worker processes on a real PostgreSQL.
//!
//! Each test takes about half a minute and prints its measurements. The long form, here with pages that take a while
//! themselves, is:
//!
//! ```console
//! $ LIMITS_SECONDS=120 LIMITS_PAGE_MS=20 cargo test --test faults limits:: -- --nocapture
//! ```
//!
//! A rate promises that in any window of w seconds there are at most rate x w items, and one page more for each page in
//! flight. It is checked for windows of one second, and of five, where the pages in flight weigh less.

use std::time::{Duration, Instant};

use temporal_batch::{
    BatchHandle, Outcome, client::PauseOptions, progress::Progress, settings::Settings,
};

use crate::{
    page_log::{Moment, Unit},
    recorded_pages::{HEARTBEAT_TIMEOUT, RecordedArgs, RecordedPages},
    slow_rows::SlowRows,
    stride_returns::stride_return,
    support::{servers::Postgres, settings::setting},
    worker_group::WorkerGroup,
    worker_process,
};

/// The test that the worker processes run.
const WORKER: &str = "limits::max_parallelism_applies_through_changes_and_a_killed_worker";
const PAGE: u32 = 10;
const WINDOWS: [f64; 2] = [1.0, 5.0];
/// The part of a limit that must be used while there is work: over five seconds, and in the long form over the whole
/// time.
const USED: f64 = 0.7;
/// The seconds of work after which a batch continues as new.
const SECONDS_PER_RUN: f64 = 12.0;
/// The time for which the database holds all pages up, once. The lost time must not be made up for. A stride gives up
/// its earned permits once its page took longer than twice the time of earning one, here at most 1 s. A page may reach
/// the lock when that time has passed once, so this must be at least 3 s.
const HELD_UP: Duration = Duration::from_secs(4);

/// The time for which a limit is watched.
fn watched() -> f64 {
    setting("LIMITS_SECONDS", 18.0)
}

/// The duration of a page under a limit per second.
fn page_time() -> Duration {
    Duration::from_millis(setting("LIMITS_PAGE_MS", 0))
}

/// The slots of a worker. Two workers can hold all pages of the batch and three of them more, so that slots do not
/// limit it.
fn slots(max_parallelism: u32) -> u32 {
    max_parallelism.div_ceil(2)
}

async fn group(name: &str, max_parallelism: u32) -> Option<WorkerGroup> {
    let patience = Duration::from_secs_f64(90.0 + 4.0 * watched());
    let group = WorkerGroup::launch((name, WORKER), slots(max_parallelism), patience).await;
    if group.is_none() {
        Postgres::skip();
    }
    group
}

impl WorkerGroup {
    /// Waits until pages have begun over this many seconds.
    async fn seen_for(&self, batch: &str, seconds: f64) {
        let what = format!("pages began over {seconds} s");
        self.eventually(&what, || async {
            let (first, last) = self.log.span(batch).await?;
            (last - first >= seconds).then_some(())
        })
        .await;
    }

    /// Waits until nearly all of the limit on pages in flight is used, after `from`.
    async fn reaches(&self, batch: &str, pages: u32, from: Moment) {
        let enough = (f64::from(pages) * 0.9).ceil() as i64;
        let what = format!("{enough} pages are in flight");
        self.eventually(&what, || async {
            let most = self.log.most_in_flight(batch, (from, f64::INFINITY));
            (most.await >= enough).then_some(())
        })
        .await;
    }

    async fn shows(
        &self,
        handle: &BatchHandle,
        what: &str,
        condition: impl Fn(&Progress) -> bool,
    ) -> Progress {
        self.eventually(what, || async {
            handle.progress().await.ok().filter(&condition)
        })
        .await
    }

    async fn paused(&self, handle: &BatchHandle) -> Progress {
        let paused = tokio::time::timeout(self.patience, handle.wait_until_paused()).await;
        paused.expect("the batch should pause").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn max_parallelism_applies_through_changes_and_a_killed_worker() {
    if worker_process::was_one().await {
        return;
    }
    let Some(mut group) = group("limits-parallelism", 12).await else {
        return;
    };
    let page = Duration::from_millis(300);
    let batch = group
        .env
        .batch::<RecordedPages>(RecordedArgs::endless(page))
        .page_size(PAGE)
        .stride(5)
        .max_parallelism(12);
    let handle = group.env.start(&batch).await;
    let id = handle.id();
    // The number of pages that fit into a phase.
    let phase = |pages: u32| (f64::from(pages) * watched() / 4.0 / page.as_secs_f64()) as i64;

    let begin = group.log.now().await;
    group.reaches(id, 12, begin).await;
    group.pages_begin(id, phase(12), begin).await;
    group.kill_one(id).await;
    let killed = group.log.now().await;
    group.pages_begin(id, phase(12), killed).await;
    group.reaches(id, 12, killed).await;

    let asked = group.log.now().await;
    handle.set_max_parallelism(3).await.unwrap();
    // A stride that has reported is no longer in flight in the log either.
    group
        .shows(&handle, "the excess has ended", |p| {
            p.max_parallelism == 3 && p.pages_in_flight <= 3
        })
        .await;
    let down = group.log.now().await;
    group.pages_begin(id, phase(3), down).await;
    let raised = group.log.now().await;
    handle.set_max_parallelism(8).await.unwrap();
    group.reaches(id, 8, raised).await;
    group.pages_begin(id, phase(8), raised).await;
    let end = group.log.now().await;
    let workers = group.log.workers(id).await;
    group.cancel(&handle).await;

    let most = async |from, to| group.log.most_in_flight(id, (from, to)).await;
    let phases = [
        (12, most(begin, asked).await),
        (3, most(down, raised).await),
        (8, most(raised, end).await),
    ];
    eprintln!(
        "parallelism: most in flight of 12, 3, 8: {}, {}, {}; {:.1} s to come down to 3; {workers} \
         processes had pages, the one with the most was killed",
        phases[0].1,
        phases[1].1,
        phases[2].1,
        down - asked,
    );
    for (limit, most) in phases {
        assert!(most <= limit, "{most} pages in flight, {limit} allowed");
        assert!(
            most as f64 >= limit as f64 * 0.9,
            "{most} of {limit} reached"
        );
    }
    assert!(most(begin, end).await <= 12, "limit exceeded while lowered");
    assert!(workers >= 3, "only {workers} processes had pages");
}

/// A fault of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Deploy,
}

/// A limit on the items or pages that begin per second.
struct PerSecond {
    name: &'static str,
    unit: Unit,
    limit: f64,
    max_parallelism: u32,
    stride: u32,
    fault: Option<Fault>,
}

impl PerSecond {
    /// The units that one page counts.
    fn page(&self) -> f64 {
        match self.unit {
            Unit::Items => f64::from(PAGE),
            Unit::Pages => 1.0,
        }
    }

    fn bound(&self, window: f64) -> f64 {
        self.limit * window + self.page() * f64::from(self.max_parallelism)
    }

    /// The number of units that can begin in this many seconds.
    fn expected(&self, seconds: f64) -> f64 {
        let mut seconds = seconds;
        if self.fault.is_some() {
            seconds -= HELD_UP.as_secs_f64();
        }
        if self.fault == Some(Fault::Kill) {
            // Pages of a lost worker wait for its heartbeat timeout.
            let lost = f64::from(slots(self.max_parallelism)) / f64::from(self.max_parallelism);
            seconds -= lost * HEARTBEAT_TIMEOUT.as_secs_f64();
        }
        self.expected_undisturbed(seconds)
    }

    fn expected_undisturbed(&self, seconds: f64) -> f64 {
        // A stride of one page earns nothing while it runs.
        let wait = self.page() * f64::from(self.max_parallelism) / self.limit;
        self.limit * seconds * wait / (wait + page_time().as_secs_f64())
    }

    /// Checks the limit in a batch that continues as new, loses a worker, and is held up by its database.
    async fn holds(&self) {
        let Some(mut group) = group(&format!("limits-{}", self.name), self.max_parallelism).await
        else {
            return;
        };
        let per_run = self.limit / self.page() * SECONDS_PER_RUN;
        let batch = group
            .env
            .batch::<RecordedPages>(RecordedArgs::endless(page_time()))
            .page_size(PAGE)
            .stride(self.stride)
            .max_parallelism(self.max_parallelism)
            .pages_per_run(per_run.max(1.0) as u32);
        let batch = match self.unit {
            Unit::Items => batch.rate(self.limit),
            Unit::Pages => batch.page_rate(self.limit),
        };
        let handle = group.env.start(&batch).await;
        let id = handle.id();
        group.seen_for(id, watched() / 4.0).await;
        match self.fault {
            Some(Fault::Kill) => group.kill_one(id).await,
            Some(Fault::Deploy) => group.restart_one().await,
            None => {}
        }
        group.seen_for(id, watched() * 0.65).await;
        group.log.hold_up(HELD_UP).await;
        group.seen_for(id, watched()).await;
        group
            .shows(&handle, "the batch has continued as new", |p| p.runs >= 2)
            .await;
        let report = group.cancel(&handle).await;
        self.check(&group, id, (0.0, f64::INFINITY), report.progress.runs)
            .await;
    }

    /// Checks the units that began in `[from, to)`.
    async fn check(&self, group: &WorkerGroup, id: &str, during: (Moment, Moment), runs: u32) {
        let (first, last) = group.log.span(id).await.unwrap();
        let (from, to) = (during.0.max(first), during.1.min(last));
        let (pages, items) = group.log.begun(id, (from, to)).await;
        let begun = match self.unit {
            Unit::Items => items,
            Unit::Pages => pages,
        };
        let used = begun as f64 / self.expected(to - from);
        let mut most = Vec::new();
        for window in WINDOWS {
            let seen = group.log.most_in_a_window(id, self.unit, window, during);
            most.push(seen.await);
        }
        let in_flight = group.log.most_in_flight(id, during).await;
        let (gap, at) = group.log.longest_gap(id, during).await;
        eprintln!(
            "{}: limit {} per s; most in 1 s {} (bound {}), in 5 s {} (bound {}); {:.0} % used over \
             {:.1} s; nothing began for {gap:.1} s after {:.1} s; most in flight {in_flight} of {}; \
             {runs} runs",
            self.name,
            self.limit,
            most[0],
            self.bound(WINDOWS[0]),
            most[1],
            self.bound(WINDOWS[1]),
            used * 100.0,
            to - from,
            at - from,
            self.max_parallelism,
        );
        let most_of_all = most[1];
        for (window, most) in WINDOWS.into_iter().zip(most) {
            let bound = self.bound(window);
            assert!(
                most as f64 <= bound,
                "{most} in {window} s, {bound} allowed"
            );
        }
        assert!(in_flight <= i64::from(self.max_parallelism), "{in_flight}");
        // The best five seconds count, since other programs on the machine can make workers wait.
        let best = most_of_all as f64 / self.expected_undisturbed(WINDOWS[1]);
        assert!(best >= USED, "at best {best:.2} of the limit was used");
        if std::env::var_os("LIMITS_SECONDS").is_some() {
            assert!(used >= USED, "only {used:.2} of the limit was used");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_items_applies_to_strides_of_several_pages() {
    PerSecond {
        name: "rate-strides",
        unit: Unit::Items,
        limit: 300.0,
        max_parallelism: 6,
        stride: 20,
        fault: Some(Fault::Kill),
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_items_applies_to_one_page_a_stride() {
    PerSecond {
        name: "rate-single-pages",
        unit: Unit::Items,
        limit: 100.0,
        max_parallelism: 10,
        stride: 1,
        fault: Some(Fault::Deploy),
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_pages_applies_to_strides_of_several_pages() {
    PerSecond {
        name: "page-rate-strides",
        unit: Unit::Pages,
        limit: 28.0,
        max_parallelism: 6,
        stride: 20,
        fault: Some(Fault::Kill),
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_pages_applies_to_one_page_a_stride() {
    PerSecond {
        name: "page-rate-single-pages",
        unit: Unit::Pages,
        limit: 10.0,
        max_parallelism: 10,
        stride: 1,
        fault: Some(Fault::Deploy),
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_rate_applies_once_strides_with_old_shares_have_ended() {
    let Some(group) = group("limits-lowered", 6).await else {
        return;
    };
    let of = |name, limit| PerSecond {
        name,
        unit: Unit::Items,
        limit,
        max_parallelism: 6,
        stride: 1_000,
        fault: None,
    };
    let (high, low) = (of("rate-before", 300.0), of("rate-lowered", 100.0));
    let batch = group
        .env
        .batch::<RecordedPages>(RecordedArgs::endless(page_time()))
        .page_size(PAGE)
        .stride(high.stride)
        .max_parallelism(high.max_parallelism)
        .rate(high.limit);
    let handle = group.env.start(&batch).await;
    let id = handle.id();
    group.seen_for(id, watched() / 3.0).await;
    handle.set(Settings::new().rate(low.limit)).await.unwrap();
    let (first, last) = group.log.span(id).await.unwrap();
    group.seen_for(id, last - first + watched()).await;
    let end = group.log.now().await;
    group.cancel(&handle).await;

    let histories = group.env.histories(id).await;
    let back = histories.iter().find_map(|history| stride_return(history));
    let back = back.expect("every stride with an old share has ended");
    eprintln!(
        "rate-lowered: {:.2} s until all strides with old shares had ended",
        back.last - back.update
    );
    assert!(back.last < end, "a stride with an old share ran too long");
    // No stride has exceeded the old rate meanwhile.
    high.check_bounds(&group, id).await;
    high.check(&group, id, (0.0, back.update), 1).await;
    low.check(&group, id, (back.last, end), 1).await;
}

impl PerSecond {
    async fn check_bounds(&self, group: &WorkerGroup, id: &str) {
        for window in WINDOWS {
            let always = (0.0, f64::INFINITY);
            let seen = group.log.most_in_a_window(id, self.unit, window, always);
            let (seen, bound) = (seen.await, self.bound(window));
            assert!(
                seen as f64 <= bound,
                "{seen} in {window} s, {bound} allowed"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_begins_in_a_paused_batch() {
    let Some(group) = group("limits-pause", 6).await else {
        return;
    };
    for stride in [1, 1_000] {
        let batch = group
            .env
            .batch::<RecordedPages>(RecordedArgs::endless(Duration::from_millis(200)))
            .page_size(PAGE)
            .stride(stride)
            .max_parallelism(6);
        let handle = group.env.start(&batch).await;
        let id = handle.id();
        group.reaches(id, 6, 0.0).await;
        group.pages_begin(id, 60, 0.0).await;
        let asked = group.log.now().await;
        let since = Instant::now();
        handle.pause("to count").await.unwrap();
        group.paused(&handle).await;
        let took = since.elapsed();
        let paused = group.log.now().await;
        assert_eq!(group.log.in_flight(id).await, 0, "a page still runs");
        let last = group.log.last_end(id).await;
        // The absence of pages has no event to wait for. Without the pause, pages would begin at once.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (begun, _) = group.log.begun(id, (paused, f64::INFINITY)).await;
        eprintln!(
            "pause with strides of {stride}: paused after {:.2} s, the last page ended after {:.2} s; \
             {begun} pages began later",
            took.as_secs_f64(),
            last - asked,
        );
        assert_eq!(begun, 0, "pages began after the pause");
        handle.resume().await.unwrap();
        group.pages_begin(id, 10, paused).await;
        group.cancel(&handle).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_at_once_drops_ledger_pages_and_every_row_is_done_once_after_resume() {
    const ROWS: i64 = 30;
    let long = Duration::from_secs(20);
    let Some(group) = group("limits-pause-now", 3).await else {
        return;
    };
    let rows = SlowRows::new(group.pool.clone());
    rows.create_tables(ROWS, long).await;
    let batch = group
        .env
        .batch::<SlowRows>(())
        .page_size(PAGE)
        .max_parallelism(3);
    let handle = group.env.start(&batch).await;
    let id = handle.id();
    group.reaches(id, 3, 0.0).await;
    let (first, _) = group.log.span(id).await.unwrap();
    let since = Instant::now();
    let options = PauseOptions::new().now().reason("incident");
    handle.pause_with(options).await.unwrap();
    let progress = group.paused(&handle).await;
    let took = since.elapsed();
    let paused = group.log.now().await;
    eprintln!(
        "pause at once with pages of {long:?}: paused after {:.2} s",
        took.as_secs_f64()
    );
    let would_end = first + long.as_secs_f64();
    assert!(paused < would_end, "the pause waited for the end of a page");
    assert_eq!(rows.rows_with(0).await, ROWS, "a row was changed");
    assert_eq!(progress.items.processed, 0);
    let (begun, _) = group.log.begun(id, (0.0, f64::INFINITY)).await;
    assert_eq!(begun, 3);

    rows.take(Duration::ZERO).await;
    handle.resume().await.unwrap();
    let report = group.ends(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    assert_eq!(report.progress.items.processed, ROWS as u64);
    assert_eq!(rows.rows_with(1).await, ROWS, "a row was not changed once");
    assert_eq!(report.progress.pages_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_batches_on_one_queue_keep_their_own_limits() {
    let Some(group) = group("limits-two", 9).await else {
        return;
    };
    let by_items = PerSecond {
        name: "two-by-items",
        unit: Unit::Items,
        limit: 300.0,
        max_parallelism: 6,
        stride: 20,
        fault: None,
    };
    let by_pages = PerSecond {
        name: "two-by-pages",
        unit: Unit::Pages,
        limit: 8.0,
        max_parallelism: 3,
        stride: 5,
        fault: None,
    };
    let mut handles = Vec::new();
    for of in [&by_items, &by_pages] {
        let batch = group
            .env
            .batch::<RecordedPages>(RecordedArgs::endless(page_time()))
            .page_size(PAGE)
            .stride(of.stride)
            .max_parallelism(of.max_parallelism);
        let batch = match of.unit {
            Unit::Items => batch.rate(of.limit),
            Unit::Pages => batch.page_rate(of.limit),
        };
        handles.push(group.env.start(&batch).await);
    }
    for handle in &handles {
        group.seen_for(handle.id(), watched()).await;
    }
    let end = group.log.now().await;
    for (of, handle) in [&by_items, &by_pages].into_iter().zip(&handles) {
        let report = group.cancel(handle).await;
        of.check(&group, handle.id(), (0.0, end), report.progress.runs)
            .await;
    }
}
