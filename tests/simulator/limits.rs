//! Simulated tolerance, throttles and operating windows.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, Timestamp,
    progress::{HeldBy, Phase},
    settings::{Limit, OnExceeded, Tolerance},
    testing::{Request, Simulator},
    throttle::{Throttle, Verdict},
};

use crate::{FailingNumbers, block_on, support::number_pages::numbers_of};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// A hundred numbers, of which every tenth fails.
struct EveryTenthFails;

#[async_trait]
impl PageProcessor for EveryTenthFails {
    const NAME: &'static str = "every-tenth-fails";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(numbers_of(ctx, 100), |n| *n)
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        for (position, n) in items.into_iter().enumerate() {
            if n % 10 == 0 {
                report.fail(position, "Tenth", "it is one");
            }
        }
        Ok(report)
    }
}

fn tenths(tolerance: Tolerance) -> Batch {
    Batch::of::<EveryTenthFails>("b", ())
        .page_size(10)
        .max_parallelism(1)
        .tolerate(tolerance)
}

#[test]
fn a_batch_stops_at_the_failure_that_is_one_too_many() {
    let tolerance = Tolerance::new()
        .items(Limit::count(2))
        .then(OnExceeded::Stop);
    for stride in [1, 4] {
        let batch = tenths(tolerance.clone()).stride(stride);
        let run = block_on(Simulator::new().run(&EveryTenthFails, &batch)).unwrap();
        assert_eq!((run.outcome, run.items.failed), (Outcome::Stopped, 3));
        let reason = run.reason.unwrap();
        assert!(reason.contains("3 items failed; at most 2"), "{reason}");
    }
}

#[test]
fn a_batch_that_paused_itself_goes_on_when_its_failures_are_forgiven() {
    let batch = tenths(Tolerance::new().items(Limit::count(2)));
    let simulator = Simulator::new()
        .at(HOUR, Request::resume())
        .at(HOUR * 2, Request::resume());
    let run = block_on(simulator.run(&EveryTenthFails, &batch)).unwrap();
    // Paused after the third failure, after the sixth, and after the ninth for good.
    assert_eq!((run.outcome, run.items.failed), (Outcome::Cancelled, 9));
    assert_eq!(run.duration, HOUR * 2);
    let paused: Vec<_> = run
        .progress
        .iter()
        .filter(|p| p.phase == Phase::Paused)
        .map(|p| p.items.failed)
        .collect();
    assert_eq!(paused, [3, 6, 9]);
    let why = run.stood_still.unwrap();
    assert!(why.contains("3 items failed; at most 2"), "{why}");
}

/// A throttle that holds its batches from one call to another.
struct HoldsFor {
    calls: AtomicU32,
    held: std::ops::Range<u32>,
    fails: bool,
}

impl HoldsFor {
    fn calls(held: std::ops::Range<u32>) -> Self {
        Self {
            calls: AtomicU32::new(0),
            held,
            fails: false,
        }
    }
}

#[async_trait]
impl Throttle for HoldsFor {
    fn name(&self) -> &str {
        "replica"
    }

    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(match self.held.contains(&call) {
            true if self.fails => return Err("no connection".into()),
            true => Verdict::Hold {
                reason: "replica lag 9s > 1s".to_owned(),
            },
            false => Verdict::Go,
        })
    }

    fn interval(&self) -> Duration {
        SECOND
    }
}

fn throttled() -> Batch {
    Batch::of::<FailingNumbers>("b", 100)
        .page_size(10)
        .max_parallelism(1)
        .throttle("replica")
}

#[test]
fn a_throttle_holds_the_batch_until_it_lets_go() {
    let numbers = FailingNumbers::new(true, &[]);
    let simulator = Simulator::new()
        .page_takes(SECOND * 2)
        .throttle(HoldsFor::calls(5..300));
    let run = block_on(simulator.run(&numbers, &throttled())).unwrap();
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
    // Three pages have begun before the fifth second, and seven begin after the throttle has let go.
    assert_eq!(run.duration, SECOND * (300 + 7 * 2));
    let held = run.progress.iter().find(|p| p.phase == Phase::Held);
    let held = held.unwrap();
    assert_eq!(held.held_by, Some(HeldBy::Throttle));
    let throttled = held.throttled.as_ref().unwrap();
    assert_eq!(throttled.reason, "replica lag 9s > 1s");
}

#[test]
fn a_throttle_that_fails_holds_the_batch_for_a_minute() {
    let numbers = FailingNumbers::new(true, &[]);
    let fails = HoldsFor {
        fails: true,
        ..HoldsFor::calls(0..1_000)
    };
    let run = block_on(Simulator::new().throttle(fails).run(&numbers, &throttled())).unwrap();
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
    assert_eq!(run.duration, SECOND * 60);
}

#[test]
fn a_batch_with_a_throttle_that_the_simulator_lacks_is_refused() {
    let numbers = FailingNumbers::new(true, &[]);
    let refused = block_on(Simulator::new().run(&numbers, &throttled())).unwrap_err();
    assert!(refused.to_string().contains("\"replica\""), "{refused}");
}

#[test]
fn a_batch_runs_only_while_its_window_is_open() {
    let numbers = FailingNumbers::new(true, &[]);
    let night = "22:00-06:00 UTC".parse().unwrap();
    let batch = Batch::of::<FailingNumbers>("b", 100)
        .page_size(10)
        .max_parallelism(1)
        .window(night);
    // One hour before it closes.
    let simulator = Simulator::new()
        .starts_at(Timestamp((24 + 5) * 3_600_000))
        .page_takes(HOUR / 4);
    let run = block_on(simulator.run(&numbers, &batch)).unwrap();
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
    // Four pages in the first night, and six in the next one, which begins at 22:00.
    assert_eq!(run.duration, HOUR * 17 + HOUR / 4 * 6);
    let held = run.progress.iter().find(|p| p.phase == Phase::Held);
    assert_eq!(held.unwrap().held_by, Some(HeldBy::Window));
}
