//! Batches with partitions, whose controllers share the limits of the batch.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use async_trait::async_trait;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, Partition,
    ProcessorSettings, Reducer, SkipAhead,
    progress::{PartitionState, Phase},
    settings::{Limit, OnExceeded, RetryPolicy, Settings, Tolerance},
    testing::{HookCall, Request, SimulatedRun, Simulator},
};

use crate::{
    block_on,
    support::number_pages::{numbers_of, skip},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Tenants with the number of their records.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tenants(Vec<(String, u64)>);

impl Tenants {
    fn of(sizes: &[(&str, u64)]) -> Self {
        let sizes = sizes.iter().map(|(name, n)| ((*name).to_owned(), *n));
        Self(sizes.collect())
    }

    fn size(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|(tenant, _)| tenant == name);
        found.map_or(0, |(_, n)| *n)
    }
}

#[derive(Default)]
struct Mail {
    records: Mutex<BTreeMap<(String, u64), u32>>,
    /// The tenant whose first page is refused.
    refused: Option<&'static str>,
    /// The tenant whose pages cannot be read.
    unreadable: Option<&'static str>,
}

impl Mail {
    fn assert_each_once(&self, tenants: &Tenants) {
        let records = self.records.lock().unwrap();
        let all: u64 = tenants.0.iter().map(|(_, n)| n).sum();
        assert_eq!(records.len() as u64, all);
        assert!(records.values().all(|times| *times == 1));
    }
}

#[async_trait]
impl PageProcessor for Mail {
    const NAME: &'static str = "mail";
    const PARTITIONED: bool = true;
    const SPLITS: bool = true;
    type Args = Tenants;
    type Cursor = u64;
    type Item = u64;

    async fn partitions(&self, args: &Tenants) -> Result<Vec<Partition<u64>>, PageError> {
        let named = args
            .0
            .iter()
            .map(|(name, n)| Partition::named(name).items(*n));
        Ok(named.collect())
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let tenant = ctx.partition().unwrap();
        if self.unreadable == Some(tenant) {
            return Err(PageError::non_retryable("NoTable", "the table is gone"));
        }
        let last = ctx.args().size(tenant);
        Page::keyset(numbers_of(ctx, last), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        let tenant = ctx.partition().unwrap();
        if self.refused == Some(tenant) && items.contains(&1) {
            return Err(PageError::non_retryable("Refused", "not this one"));
        }
        let mut report = PageReport::all_processed();
        let mut records = self.records.lock().unwrap();
        for item in items {
            *records.entry((tenant.to_owned(), item)).or_default() += 1;
            report.output(item);
        }
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        let last = ctx.args().size(ctx.partition().unwrap());
        let end = ctx.range().end().copied().unwrap_or(last);
        Ok(skip(ctx, pages, end))
    }

    async fn split(&self, ctx: &PageContext<Self>) -> Result<Option<u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let last = ctx.args().size(ctx.partition().unwrap());
        let end = ctx.range().end().copied().unwrap_or(last);
        Ok((end > start + 20).then_some(start + (end - start) / 2))
    }

    fn reducer(&self, _: &Tenants) -> Option<Reducer> {
        let reducers = [("records", Reducer::count()), ("sum", Reducer::sum(""))];
        Some(Reducer::record(reducers))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default().max_attempts(3).extended(None),
            ..ProcessorSettings::default()
        }
    }
}

fn four() -> Tenants {
    Tenants::of(&[("ada", 95), ("bob", 0), ("cyd", 7), ("dan", 40)])
}

fn batch(tenants: &Tenants) -> Batch {
    Batch::of::<Mail>("b", tenants.clone()).page_size(10)
}

fn simulate(simulator: &Simulator, mail: &Mail, batch: &Batch) -> SimulatedRun {
    block_on(simulator.run(mail, batch)).unwrap()
}

#[test]
fn every_record_of_every_tenant_is_processed_once_and_counted() {
    let mail = Mail::default();
    let run = simulate(&Simulator::new(), &mail, &batch(&four()));
    assert_eq!(run.outcome, Outcome::Completed, "{run:#?}");
    mail.assert_each_once(&four());
    assert_eq!((run.items.processed, run.pages), (142, 10 + 1 + 4));
    let output = run.output.unwrap();
    assert_eq!(output["records"], 142);
    let sum: u64 = (1..=95u64).chain(1..=7).chain(1..=40).sum();
    assert_eq!(output["sum"], sum);
    let progress = &run.report.progress;
    let counts = progress.partition_counts.unwrap();
    assert_eq!((counts.total, counts.finished, counts.running), (4, 4, 0));
    let listed = progress.partitions.iter();
    let mut listed: Vec<_> = listed
        .map(|p| (p.name.as_str(), p.items.processed))
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, [("ada", 95), ("bob", 0), ("cyd", 7), ("dan", 40)]);
}

#[test]
fn the_parallelism_is_that_of_all_partitions_together_and_goes_where_work_is_left() {
    let tenants = Tenants::of(&[("a", 400), ("b", 400), ("c", 10)]);
    let batch = batch(&tenants).max_parallelism(4);
    let mail = Mail::default();
    let run = simulate(&Simulator::new().page_takes(SECOND * 10), &mail, &batch);
    assert_eq!(run.outcome, Outcome::Completed);
    mail.assert_each_once(&tenants);
    assert_eq!(run.report.progress.max_parallelism_achieved, 4);
    // 81 pages, four at a time, and a few slots that change their partition.
    let ideal = SECOND * 10 * 81 / 4;
    assert!(run.duration >= ideal, "{:?}", run.duration);
    assert!(run.duration <= ideal + SECOND * 60, "{:?}", run.duration);
}

#[test]
fn the_rate_is_that_of_all_partitions_together() {
    let tenants = Tenants::of(&[("a", 600), ("b", 600), ("c", 600), ("d", 600)]);
    let batch = batch(&tenants).rate(10.0).max_parallelism(4);
    let mail = Mail::default();
    let run = simulate(&Simulator::new(), &mail, &batch);
    mail.assert_each_once(&tenants);
    // 2,400 records at 10/s; the first page of each slot is free.
    let seconds = run.duration.as_secs();
    assert!((235..=300).contains(&seconds), "{seconds}");
    for progress in &run.progress {
        let age = progress.as_of.since(run.report.progress.started_at);
        let allowed = 10.0 * age.as_secs_f64() + 4.0 * 10.0;
        let done = progress.items.total();
        assert!(done as f64 <= allowed, "{done} items after {age:?}");
    }
}

#[test]
fn a_pause_reaches_every_partition() {
    let tenants = Tenants::of(&[("a", 100), ("b", 100)]);
    let simulator = Simulator::new()
        .page_takes(SECOND * 10)
        .at(SECOND * 25, Request::pause("lunch"))
        .at(HOUR, Request::resume());
    let mail = Mail::default();
    let run = simulate(&simulator, &mail, &batch(&tenants).max_parallelism(2));
    assert_eq!(run.outcome, Outcome::Completed);
    mail.assert_each_once(&tenants);
    let paused = run.progress.iter().find(|p| p.phase == Phase::Paused);
    let paused = paused.expect("the batch pauses");
    // Each partition finishes its third page.
    assert_eq!((paused.pages_completed, paused.pages_in_flight), (6, 0));
    let partitions = paused.partitions.iter().map(|p| p.state);
    assert!(partitions.eq([PartitionState::Running; 2]), "{paused:#?}");
    assert_eq!(run.duration, HOUR + SECOND * 70);
}

#[test]
fn a_lower_parallelism_takes_slots_back_from_every_partition() {
    let tenants = Tenants::of(&[("a", 200), ("b", 200)]);
    let simulator = Simulator::new().page_takes(SECOND * 10).at(
        SECOND * 15,
        Request::set(Settings::new().max_parallelism(1)),
    );
    let mail = Mail::default();
    let run = simulate(&simulator, &mail, &batch(&tenants).max_parallelism(8));
    assert_eq!(run.outcome, Outcome::Completed);
    mail.assert_each_once(&tenants);
    assert!(
        run.duration >= SECOND * 10 * (40 - 16),
        "{:?}",
        run.duration
    );
}

#[test]
fn a_cancelled_batch_stops_its_partitions_and_says_how_many_are_finished() {
    let tenants = Tenants::of(&[("a", 100), ("b", 60), ("c", 50)]);
    let simulator = Simulator::new()
        .page_takes(SECOND)
        .after_pages(2, Request::cancel("not today"));
    let mail = Mail::default();
    let run = simulate(&simulator, &mail, &batch(&tenants).max_parallelism(2));
    assert_eq!(run.outcome, Outcome::Cancelled, "{run:#?}");
    assert!(run.items.processed >= 20);
    assert_eq!(run.output.unwrap()["records"], run.items.processed);
    let reason = run.reason.unwrap();
    assert!(reason.contains("of 3 partitions are finished"), "{reason}");
    assert_eq!(run.stood_still, None);
}

#[test]
fn a_page_that_is_given_up_is_counted_and_told_and_the_other_partitions_complete() {
    let mail = Mail {
        refused: Some("b"),
        ..Mail::default()
    };
    let tenants = Tenants::of(&[("a", 20), ("b", 20)]);
    let run = simulate(
        &Simulator::new(),
        &mail,
        &batch(&tenants).page_size(5).on_failure("told"),
    );
    assert_eq!(run.outcome, Outcome::CompletedWithFailures);
    assert_eq!(run.failed.len(), 1);
    assert_eq!(run.items.processed, 35);
    let mut numbers = Vec::new();
    for call in &run.hooks {
        let HookCall::Failure(notice) = &call.call else {
            panic!("{call:#?}");
        };
        assert_eq!(notice.batch_run, run.report.progress.batch_run);
        numbers.push(notice.number);
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 2, "the page and the end: {:#?}", run.hooks);
}

#[test]
fn a_tolerance_that_is_exceeded_stops_every_partition() {
    let mail = Mail {
        refused: Some("b"),
        ..Mail::default()
    };
    let tenants = Tenants::of(&[("a", 1_000), ("b", 1_000)]);
    let tolerance = Tolerance::new()
        .pages(Limit::count(0))
        .then(OnExceeded::Stop);
    let batch = batch(&tenants).max_parallelism(2).tolerate(tolerance);
    let run = simulate(&Simulator::new().page_takes(SECOND), &mail, &batch);
    assert_eq!(run.outcome, Outcome::Stopped, "{run:#?}");
    assert_eq!(run.failed.len(), 1);
    let reason = run.reason.unwrap();
    assert!(
        reason.contains("0 of 2 partitions are finished"),
        "{reason}"
    );
}

#[test]
fn a_partition_that_cannot_be_read_fails_the_batch_with_its_name() {
    let mail = Mail {
        unreadable: Some("b"),
        ..Mail::default()
    };
    let tenants = Tenants::of(&[("a", 1_000), ("b", 1_000)]);
    let batch = batch(&tenants).max_parallelism(2);
    let run = simulate(&Simulator::new().page_takes(SECOND), &mail, &batch);
    assert_eq!(run.outcome, Outcome::Failed, "{run:#?}");
    let reason = run.reason.unwrap();
    assert!(reason.starts_with("partition \"b\" failed: "), "{reason}");
    assert_eq!(run.output.unwrap()["records"], run.items.processed);
    let partitions = &run.report.progress.partitions;
    let states = partitions.iter().map(|p| (p.name.as_str(), p.state));
    let states: BTreeMap<_, _> = states.collect();
    assert_eq!(states["b"], PartitionState::Waiting);
}

#[test]
fn a_deadline_stops_every_partition() {
    let tenants = Tenants::of(&[("a", 1_000), ("b", 1_000)]);
    let simulator = Simulator::new().page_takes(SECOND * 10);
    let batch = batch(&tenants).max_parallelism(2).deadline(SECOND * 35);
    let run = simulate(&simulator, &Mail::default(), &batch);
    assert_eq!((run.outcome, run.pages), (Outcome::Stopped, 8));
    assert!(run.reason.unwrap().starts_with("the deadline is over"));
}

#[test]
fn parent_and_partitions_continue_as_new() {
    let tenants = Tenants::of(&[("a", 300), ("b", 200), ("c", 100)]);
    let mail = Mail::default();
    let batch = batch(&tenants)
        .page_size(5)
        .pages_per_run(3)
        .max_parallelism(4);
    let run = simulate(&Simulator::new().page_takes(SECOND), &mail, &batch);
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 120));
    mail.assert_each_once(&tenants);
    let runs = run.report.progress.runs;
    assert!(runs > 1, "the parent did not continue as new");
}

#[test]
fn a_paused_batch_would_wait_forever() {
    let simulator = Simulator::new()
        .page_takes(SECOND)
        .after_pages(3, Request::pause("for good"));
    let run = simulate(&simulator, &Mail::default(), &batch(&four()));
    assert_eq!(run.outcome, Outcome::Cancelled);
    assert!(run.stood_still.unwrap().contains("for good"));
}

#[test]
fn two_simulations_of_a_batch_are_the_same() {
    let simulate = || {
        let simulator = Simulator::new()
            .page_takes(SECOND * 3)
            .lose_worker_every(4)
            .at(SECOND * 7, Request::set(Settings::new().rate(5.0)))
            .at(SECOND * 20, Request::pause_for(HOUR, "lunch"));
        let batch = batch(&four()).max_parallelism(3).stride(2).pages_per_run(3);
        let mut run = simulate(&simulator, &Mail::default(), &batch);
        for progress in run.progress.iter_mut().chain([&mut run.report.progress]) {
            progress.batch_run.clear();
        }
        run
    };
    assert_eq!(simulate(), simulate());
}

proptest! {
    #[test]
    fn every_item_of_every_partition_is_processed_whatever_is_lost_or_interrupted(
        sizes in prop::collection::vec(0u64..120, 1..6),
        page_size in 1u32..30,
        stride in 1u32..5,
        max_parallelism in 1u32..6,
        pages_per_run in prop::option::of(2u32..20),
        lose_every in prop::option::of(1u64..5),
        stop_before in prop::option::of(2u64..7),
    ) {
        let names: Vec<_> = (0..sizes.len()).map(|n| format!("t{n}")).collect();
        let tenants = Tenants(names.into_iter().zip(sizes).collect());
        let mut batch = batch(&tenants).page_size(page_size).stride(stride).max_parallelism(max_parallelism);
        if let Some(pages) = pages_per_run {
            batch = batch.pages_per_run(pages);
        }
        let mut simulator = Simulator::new().duplicate_announcements().page_takes(SECOND);
        if let Some(every) = lose_every {
            simulator = simulator.lose_worker_every(every);
        }
        if let Some(every) = stop_before {
            simulator = simulator.stop_before_every(every);
        }
        let mail = Mail::default();
        let run = simulate(&simulator, &mail, &batch);
        prop_assert_eq!(run.outcome, Outcome::Completed, "{:#?}", run);
        let all: u64 = tenants.0.iter().map(|(_, n)| n).sum();
        prop_assert_eq!(run.items.processed, all);
        prop_assert_eq!(mail.records.lock().unwrap().len() as u64, all);
        prop_assert!(run.report.progress.max_parallelism_achieved <= max_parallelism);
    }
}
