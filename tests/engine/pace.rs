//! The speed of a batch: rate, ramp, windows, throttles, tuning; and the explanation that the batch gives of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use temporal_batch::{
    Outcome, PageError, PageReport, Timestamp,
    client::PauseOptions,
    errors::StartError,
    progress::{HeldBy, Phase},
    settings::{AutoPageSize, AutoParallelism, Ramp, Settings, Window},
    throttle::{Throttle, Verdict},
};
use tokio::time::sleep;

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

/// A processor whose pages take a while, each on its own.
fn slow(page: Duration) -> NumbersProcessor {
    NumbersProcessor::new()
        .skipping_ahead()
        .with_size_hint()
        .on_process(move |_| async move {
            sleep(page).await;
            Ok(PageReport::all_processed())
        })
}

/// A throttle that gives the answer that a test has set.
#[derive(Clone, Default)]
pub struct Switch {
    state: Arc<AtomicU8>,
    asked: Arc<AtomicU64>,
}

pub const GO: u8 = 0;
pub const SLOW: u8 = 1;
pub const HOLD: u8 = 2;
const FAIL: u8 = 3;

impl Switch {
    pub fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }
}

#[async_trait]
impl Throttle for Switch {
    fn name(&self) -> &str {
        "switch"
    }

    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.state.load(Ordering::SeqCst) {
            GO => Ok(Verdict::Go),
            SLOW => Ok(Verdict::Slow {
                factor: 0.25,
                reason: "replica lag 1.5s > 1s".to_owned(),
            }),
            HOLD => Ok(Verdict::Hold {
                reason: "replica lag 3.2s > 2s".to_owned(),
            }),
            _ => Err("no connection".into()),
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn hold_on_failure(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// The most items that began in any second, with the time from `record`.
fn most_in_a_second(begun: &[(Instant, usize)]) -> usize {
    let second = Duration::from_secs(1);
    let from = |(i, (at, _)): (usize, &(Instant, usize))| {
        let within = begun[i..].iter().take_while(|(t, _)| *t < *at + second);
        within.map(|(_, items)| items).sum::<usize>()
    };
    begun.iter().enumerate().map(from).max().unwrap_or(0)
}

#[tokio::test]
async fn a_rate_applies_through_changes_and_continue_as_new() {
    let env = TestEnv::new("rate-live").await;
    let begun: Arc<std::sync::Mutex<Vec<(Instant, usize)>>> = Arc::default();
    let seen = Arc::clone(&begun);
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(move |page| {
            seen.lock()
                .unwrap()
                .push((Instant::now(), page.items.len()));
            async { Ok(PageReport::all_processed()) }
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 6_000 })
        .page_size(10)
        .stride(20)
        .max_parallelism(4)
        .pages_per_run(100)
        .rate(400.0);
    let handle = env.start(&batch).await;
    numbers
        .shows("some pages are done", |r| r.done.len() >= 80)
        .await;
    let slow = begun.lock().unwrap().clone();
    // Strides in flight with shares of the old rate are dispatched again with new ones.
    handle.set(Settings::new().rate(2_000.0)).await.unwrap();
    let progress = progress_shows(&handle, "the rate was set", |p| p.rate == Some(2_000.0)).await;
    assert!(progress.pages_completed < 600);
    let changed = begun.lock().unwrap().len();
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    assert!(ended.progress.runs > 3, "{} runs", ended.progress.runs);
    assert_eq!(
        numbers.record().processed(),
        (1..=6_000).collect::<Vec<_>>()
    );
    // The rate times the window, and one page more for each page in flight.
    assert!(
        most_in_a_second(&slow) <= 400 + 4 * 10,
        "{}",
        most_in_a_second(&slow)
    );
    let all = begun.lock().unwrap().clone();
    assert!(
        most_in_a_second(&all) <= 2_000 + 4 * 10,
        "{}",
        most_in_a_second(&all)
    );
    assert!(most_in_a_second(&all[changed..]) > 440, "too slow");
    replays(&env, handle.id(), "rate").await;
}

/// The first page does not wait, and is paid for before the second one.
#[tokio::test]
async fn from_its_start_a_batch_keeps_to_its_rate_on_average() {
    const PAGE: u32 = 50;
    let env = TestEnv::new("rate-average").await;
    // One stride has all pages, or each page is dispatched with the time that is owed.
    for stride in [6, 1] {
        let begun: Arc<std::sync::Mutex<Vec<Instant>>> = Arc::default();
        let seen = Arc::clone(&begun);
        let numbers = NumbersProcessor::new()
            .skipping_ahead()
            .on_process(move |_| {
                seen.lock().unwrap().push(Instant::now());
                async { Ok(PageReport::all_processed()) }
            });
        let worker = env.worker(numbers).await;
        let batch = env
            .batch::<NumbersProcessor>(UpTo { n: 300 })
            .page_size(PAGE)
            .stride(stride)
            .max_parallelism(1)
            .rate(100.0);
        assert_eq!(env.run(&batch).await.outcome, Outcome::Completed);
        let begun = begun.lock().unwrap().clone();
        assert_eq!(begun.len(), 6);
        for (n, at) in (1..).zip(&begun).skip(1) {
            let earned = at.duration_since(begun[0]).as_secs_f64() * 100.0;
            // The controller counts the time owed between strides by its own clock, which is that of the server.
            let items = f64::from(n * PAGE) - 10.0;
            assert!(earned >= items, "page {n} after {earned} items");
        }
        worker.stop().await.unwrap();
    }
}

/// The stride has half of the rate, and ends early when there are others. At this rate the permits of one page take a
/// quarter of an hour to earn.
#[tokio::test]
async fn a_first_page_does_not_wait_where_its_stride_has_to_share_the_rate() {
    let env = TestEnv::new("rate-shared").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 30_000 })
        .page_size(1_000)
        .max_parallelism(3)
        .rate(1.0);
    let handle = env.start(&batch).await;
    numbers
        .shows("a page is done", |r| !r.done.is_empty())
        .await;
    handle.cancel("seen enough").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn removing_the_rate_lets_strides_in_flight_go_faster() {
    let env = TestEnv::new("rate-off").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100_000 })
        .page_size(10)
        .stride(1_000)
        .max_parallelism(2)
        .rate(100.0);
    let handle = env.start(&batch).await;
    let progress = progress_shows(&handle, "the rate holds the batch back", |p| {
        p.held_by == Some(HeldBy::Rate)
    });
    assert_eq!(progress.await.explanation, "rate limit 100 items/s");
    handle.set(Settings::new().rate(None)).await.unwrap();
    // At the old shares this would take a quarter of an hour.
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.rate, None);
}

#[tokio::test]
async fn a_page_rate_and_a_pause_between_pages_apply() {
    let env = TestEnv::new("page-rate").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 300 })
        .page_size(10)
        .stride(5)
        .max_parallelism(3)
        .page_rate(10.0);
    let started = Instant::now();
    let ended = env.run(&batch).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    assert_eq!(ended.progress.pages_completed, 30);
    // 30 pages, less one for each in flight. A wait is never shorter than the rate asks for.
    assert!(started.elapsed() >= Duration::from_millis(2_700));

    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .stride(5)
        .max_parallelism(1)
        .page_pause(Duration::from_millis(200));
    let started = Instant::now();
    assert_eq!(env.run(&batch).await.outcome, Outcome::Completed);
    assert!(started.elapsed() >= Duration::from_millis(2_000));
}

#[tokio::test]
async fn a_ramp_continues_over_pauses_and_continue_as_new_and_shows_its_position() {
    let env = TestEnv::new("ramp").await;
    let numbers = slow(Duration::from_millis(20));
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 30_000 })
        .page_size(10)
        .stride(10)
        .pages_per_run(200)
        .ramp(Ramp::new(1, 9, Duration::from_secs(8)));
    let handle = env.start(&batch).await;
    let first = progress_shows(&handle, "the ramp has begun", |p| {
        p.held_by == Some(HeldBy::Ramp) && p.parallelism_now >= 2
    })
    .await;
    assert_eq!(first.ramp.as_deref(), Some("1..9/8s"));
    assert!(
        first.explanation.starts_with("ramp 1..9/8s has reached "),
        "{}",
        first.explanation
    );
    assert_eq!(first.max_parallelism, 9);
    handle.pause("lunch").await.unwrap();
    let paused = progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    sleep(Duration::from_secs(2)).await;
    let later = handle.progress().await.unwrap();
    assert_eq!(
        later.parallelism_now, paused.parallelism_now,
        "a pause does not stop the clock of the ramp"
    );
    handle.resume().await.unwrap();
    let over = progress_shows(&handle, "the ramp is over", |p| p.ramp.is_none()).await;
    assert_eq!(over.parallelism_now, 9);
    assert!(over.runs > 1, "the batch was never handed over");
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(numbers.record().most_in_flight <= 9);
    replays(&env, handle.id(), "ramp").await;
}

#[tokio::test]
async fn a_pause_until_a_time_ends_by_itself_and_says_who_and_why() {
    let env = TestEnv::new("until").await;
    let numbers = slow(Duration::from_millis(20));
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 2_000 })
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    numbers.shows("pages are done", |r| r.done.len() > 5).await;
    let options = PauseOptions::new()
        .reason("backup")
        .lasting(Duration::from_secs(2));
    handle.pause_with(options).await.unwrap();
    let paused = progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    let note = paused.pause.expect("the pause says who asked for it");
    assert!(note.who.is_some());
    assert_eq!(note.why.as_deref(), Some("backup"));
    let until = note.until.expect("the pause has an end");
    assert_eq!(until.since(note.at), Duration::from_secs(2));
    assert_eq!(paused.held_by, Some(HeldBy::Pause));
    assert!(
        paused.explanation.contains("backup"),
        "{}",
        paused.explanation
    );
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    let last = report.progress.audit.last().unwrap();
    assert_eq!(
        (last.action.as_str(), last.why.as_deref()),
        ("resume", Some("the time of the pause is over"))
    );
    assert!(last.at >= until);
    replays(&env, handle.id(), "pause-for-a-time").await;
}

#[tokio::test]
async fn outside_of_its_windows_a_batch_is_held_until_they_are_changed() {
    let env = TestEnv::new("window").await;
    let numbers = slow(Duration::from_millis(5));
    let _worker = env.worker(numbers.clone()).await;
    // The only window opens in six hours, for one hour.
    let in_six_hours = Timestamp::from(SystemTime::now() + Duration::from_secs(6 * 3_600));
    let hour = in_six_hours.0 / 3_600_000 % 24;
    let window = format!("{hour:02}:00-{:02}:00", (hour + 1) % 24);
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 200 })
        .page_size(10)
        .window(window.parse().unwrap());
    let handle = env.start(&batch).await;
    let held = progress_shows(&handle, "the batch is held", |p| {
        p.phase == Phase::Held && p.window_opens_at.is_some()
    })
    .await;
    assert_eq!(held.held_by, Some(HeldBy::Window));
    assert!(
        held.explanation.starts_with("outside of its windows"),
        "{}",
        held.explanation
    );
    assert_eq!(held.windows, [window]);
    assert!(numbers.record().fetches.is_empty());
    let always: Window = "00:00-24:00".parse().unwrap();
    handle.set(Settings::new().windows([always])).await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    replays(&env, handle.id(), "window").await;
}

#[tokio::test]
async fn a_throttle_holds_slows_and_releases_with_its_reason() {
    let env = TestEnv::new("throttle").await;
    let switch = Switch::default();
    switch.set(HOLD);
    let numbers = slow(Duration::from_millis(20));
    let throttle = switch.clone();
    let _worker = env
        .worker_with(numbers.clone(), move |worker| worker.throttle(throttle))
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 20_000 })
        .page_size(10)
        .stride(50)
        .pages_per_run(400)
        .max_parallelism(8)
        .throttle("switch");
    let handle = env.start(&batch).await;
    let held = progress_shows(&handle, "the batch is held", |p| {
        p.throttled.as_ref().is_some_and(|t| t.factor == 0.0)
    })
    .await;
    assert_eq!(held.phase, Phase::Held);
    assert_eq!(held.explanation, "held: replica lag 3.2s > 2s");
    assert_eq!(held.throttled.as_ref().unwrap().by, "switch");
    assert!(
        numbers.record().fetches.is_empty(),
        "the throttle did not hold the first page"
    );

    switch.set(SLOW);
    let slowed = progress_shows(&handle, "the batch is slowed", |p| {
        p.parallelism_now == 2 && p.pages_completed > 20
    })
    .await;
    assert_eq!(slowed.held_by, Some(HeldBy::Throttle));
    assert_eq!(slowed.explanation, "slowed to 25 %: replica lag 1.5s > 1s");
    assert!(numbers.record().most_in_flight <= 2);

    switch.set(GO);
    progress_shows(&handle, "all slots are used", |p| p.pages_in_flight == 8).await;
    switch.set(HOLD);
    progress_shows(&handle, "no page runs", |p| {
        p.phase == Phase::Held && p.pages_in_flight == 0
    })
    .await;
    let done = numbers.record().done.len();
    switch.set(FAIL);
    // The failing throttle holds the batch for a second; then the batch continues, and says so.
    numbers
        .shows("the batch continues although the throttle fails", |r| {
            r.done.len() > done
        })
        .await;
    switch.set(GO);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(
        numbers.record().processed(),
        (1..=20_000).collect::<Vec<_>>()
    );
    assert!(report.progress.runs > 1);
    let asked = switch.asked.load(Ordering::SeqCst);
    replays(&env, handle.id(), "throttle").await;
    assert!(asked > 10, "{asked}");
}

#[tokio::test]
async fn a_throttle_that_no_worker_has_is_refused_before_the_first_page() {
    let env = TestEnv::new("no-throttle").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 10 })
        .throttle("databse");
    let handle = env.start(&batch).await;
    let refused = handle.accepted().await.unwrap_err().to_string();
    assert!(
        refused.contains("throttle \"databse\" is not registered; registered are: none"),
        "{refused}"
    );
    assert!(numbers.record().fetches.is_empty());
}

#[tokio::test]
async fn page_sizes_follow_the_time_that_pages_take_and_halve_after_a_timeout() {
    let env = TestEnv::new("auto-size").await;
    // At 100 µs an item, 100 ms are 1,000 items.
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .settings(|s| s.page_timeout = Duration::from_secs(1))
        .on_process(|page| async move {
            let first_large = page.items.len() >= 300 && page.start < 20_000 && page.times == 1;
            let per_item = if first_large { 100_000 } else { 100 };
            sleep(Duration::from_micros(per_item * page.items.len() as u64)).await;
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let auto = AutoPageSize::new(50, 5_000).target(Duration::from_millis(100));
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 400_000 })
        .page_size(400)
        .auto_page_size(auto)
        .stride(5)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    let halved = progress_shows(&handle, "the page size was halved", |p| p.page_size == 200);
    assert_eq!(
        halved.await.auto_page_size.as_deref(),
        Some("50..5000 at 100ms")
    );
    let grown = progress_shows(&handle, "the page size grows again", |p| p.page_size > 200);
    assert!(grown.await.page_size <= 300, "growth by more than half");
    handle.set(Settings::new().page_size(2_000)).await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.auto_page_size, None);
    assert_eq!(
        numbers.record().processed(),
        (1..=400_000).collect::<Vec<_>>()
    );
    replays(&env, handle.id(), "page-size").await;
}

#[tokio::test]
async fn parallelism_is_tuned_up_while_it_helps_and_down_when_pages_fail() {
    let env = TestEnv::new("auto-parallel").await;
    let failing = Arc::new(AtomicU8::new(0));
    let fails = Arc::clone(&failing);
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(move |page| {
            let fail = fails.load(Ordering::SeqCst) == 1 && page.times == 1;
            async move {
                sleep(Duration::from_millis(50)).await;
                match fail {
                    true => Err(PageError::retryable("too many connections")),
                    false => Ok(PageReport::all_processed()),
                }
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1_000_000 })
        .page_size(10)
        .stride(5)
        .auto_parallelism(AutoParallelism::new(2, 6));
    let handle = env.start(&batch).await;
    let tuned = progress_shows(&handle, "tuning holds the batch back", |p| {
        p.held_by == Some(HeldBy::Tuning)
    });
    let tuned = tuned.await;
    assert_eq!(
        (tuned.parallelism_now, tuned.auto_parallelism.as_deref()),
        (2, Some("2..6"))
    );
    assert_eq!(tuned.explanation, "parallelism is tuned to 2 within 2..6");
    progress_shows(&handle, "parallelism rises", |p| p.parallelism_now >= 4).await;
    failing.store(1, Ordering::SeqCst);
    progress_shows(&handle, "parallelism falls", |p| p.parallelism_now == 2).await;
    handle.cancel("seen enough").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert!(numbers.record().most_in_flight <= 6);
}

#[tokio::test]
async fn a_batch_without_a_limit_says_which_page_it_waits_for() {
    let env = TestEnv::new("discovery").await;
    let (numbers, gate) = gated();
    let fetch_gate = gate.clone();
    // The first page cannot be read, so the start of the second one is unknown.
    let numbers = numbers.on_fetch(move |_| {
        let gate = fetch_gate.clone();
        async move {
            gate.pass().await;
            Ok(())
        }
    });
    let _worker = env.worker(numbers.clone()).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10))
        .await;
    let waiting = progress_shows(&handle, "the batch waits for the first page", |p| {
        p.held_by == Some(HeldBy::Discovery)
    })
    .await;
    assert_eq!(
        waiting.explanation,
        "waiting for the first page to tell where the next one starts"
    );
    assert_eq!(waiting.in_flight_by_age.iter().sum::<u32>(), 1);
    assert!(waiting.oldest_in_flight.is_some());
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.explanation, "");
}

#[tokio::test]
async fn bad_pace_settings_are_refused_before_the_batch_starts() {
    let env = TestEnv::new("bad-pace").await;
    let batch = || env.batch::<NumbersProcessor>(UpTo { n: 10 });
    for (bad, said) in [
        (batch().page_rate(0.0), "must be more than 0"),
        (
            batch().ramp(Ramp::new(1, 501, Duration::from_secs(60))),
            "500",
        ),
        (
            batch().ramp(Ramp::new(1, 5, Duration::ZERO)),
            "ramp takes 0s",
        ),
        (
            batch().auto_page_size(AutoPageSize::new(10, 5)),
            "page size",
        ),
        (
            batch().auto_parallelism(AutoParallelism::new(0, 5)),
            "pages in flight",
        ),
        (batch().page_pause(Duration::from_secs(7_200)), "page pause"),
    ] {
        match env.client.start(&bad).await {
            Err(StartError::Invalid(invalid)) => {
                let text = invalid.to_string();
                assert!(text.contains(said), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
