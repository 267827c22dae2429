//! Batches with partitions: each partition runs in a controller of its own, under the limits of the one batch.

mod ends;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, BatchReport, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    Partition, ProcessorSettings, Reducer, SkipAhead,
    client::Continuation,
    progress::{PartitionState, Phase},
    settings::AutoStride,
};
use temporalio_client::{UntypedWorkflow, WorkflowHandle, WorkflowTerminateOptions};

use crate::{
    hooks::Told,
    numbers_processor::{Gate, quick_retries},
    replay::replays,
    support::{
        TestEnv, eventually,
        number_pages::{numbers_of, skip},
        progress_shows, report,
    },
};

/// Tenants with the number of their records, which are numbered from 1 for each tenant, or in one numbering of all
/// tenants.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Tenants {
    sizes: Vec<(String, u64)>,
    ranges: bool,
    skips: bool,
    /// Whether a fetch takes its time, so that the next page is known only after it.
    slow: bool,
}

impl Tenants {
    fn of(sizes: &[(&str, u64)]) -> Self {
        Self {
            sizes: sizes
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect(),
            ..Self::default()
        }
    }

    fn skipping(self) -> Self {
        Self {
            skips: true,
            ..self
        }
    }

    fn ranges(self) -> Self {
        Self {
            ranges: true,
            ..self
        }
    }

    fn all(&self) -> u64 {
        self.sizes.iter().map(|(_, n)| n).sum()
    }

    /// The number of the last record of a tenant. A range of one numbering has no tenant.
    fn last_of(&self, name: &str) -> u64 {
        let mut found = self.sizes.iter().filter(|(tenant, _)| tenant == name);
        found.next().map_or_else(|| self.all(), |(_, n)| *n)
    }
}

#[derive(Default)]
struct Seen {
    /// The number of times that each record was processed.
    records: BTreeMap<(String, u64), u32>,
    in_flight: u32,
    most_in_flight: u32,
}

#[derive(Clone)]
struct Mail {
    seen: Arc<Mutex<Seen>>,
    gate: Option<Gate>,
    /// The only tenant whose pages wait at the gate.
    gated: Option<&'static str>,
    takes: Duration,
    /// Whether the first page of each tenant fails.
    fails: bool,
}

impl Mail {
    fn new() -> Self {
        Self {
            seen: Arc::default(),
            gate: None,
            gated: None,
            takes: Duration::ZERO,
            fails: false,
        }
    }

    fn gated() -> (Self, Gate) {
        let gate = Gate::closed();
        let mail = Self {
            gate: Some(gate.clone()),
            ..Self::new()
        };
        (mail, gate)
    }

    fn taking(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    fn begun(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.records.len() + seen.in_flight as usize
    }

    /// Asserts that every record of every tenant was processed once.
    fn assert_each_once(&self, tenants: &Tenants) {
        let seen = self.seen.lock().unwrap();
        let mut expected = BTreeMap::new();
        let mut offset = 0;
        for (name, n) in &tenants.sizes {
            for record in 1..=*n {
                let key = match tenants.ranges {
                    true => (String::new(), offset + record),
                    false => (name.clone(), record),
                };
                expected.insert(key, 1);
            }
            offset += n;
        }
        assert_eq!(seen.records, expected);
    }
}

/// Asserts that the outputs of the partitions were folded into one result, in which each record counts once.
fn assert_result(report: &BatchReport, tenants: &Tenants) {
    let sum: u64 = tenants.sizes.iter().map(|(_, n)| n * (n + 1) / 2).sum();
    let expected = serde_json::json!({"records": tenants.all(), "sum": sum});
    assert_eq!(report.output(), Some(&expected));
}

fn tenant(ctx: &PageContext<Mail>) -> String {
    match ctx.args().ranges {
        true => String::new(),
        false => ctx.partition().expect("a partition").to_owned(),
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
        let mut offset = 0;
        let named = args.sizes.iter().map(|(name, n)| {
            let start = offset;
            offset += n;
            match args.ranges {
                // An empty range ends where it begins, so it lies behind all others.
                true if *n == 0 => Partition::range(name, Some(args.all()), Some(args.all() + 1)),
                true => Partition::range(name, Some(start), Some(offset)).items(*n),
                false => Partition::named(name),
            }
        });
        Ok(named.collect())
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let args = ctx.args();
        if args.slow {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let numbers = numbers_of(ctx, args.last_of(&tenant(ctx)));
        Page::keyset(numbers, |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.in_flight += 1;
            seen.most_in_flight = seen.most_in_flight.max(seen.in_flight);
        }
        tokio::time::sleep(self.takes).await;
        let waits = self.gated.is_none_or(|gated| gated == tenant(ctx));
        if let Some(gate) = self.gate.as_ref().filter(|_| waits) {
            gate.pass().await;
        }
        let mut seen = self.seen.lock().unwrap();
        seen.in_flight -= 1;
        if self.fails && items.contains(&1) {
            return Err(PageError::non_retryable("Refused", "not this one"));
        }
        let mut report = PageReport::all_processed();
        for item in items {
            *seen.records.entry((tenant(ctx), item)).or_default() += 1;
            report.output(item);
        }
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        if !ctx.args().skips {
            return Ok(SkipAhead::Unsupported);
        }
        let last = ctx.args().last_of(&tenant(ctx));
        let end = ctx.range().end().copied().unwrap_or(last);
        Ok(skip(ctx, pages, end))
    }

    async fn split(&self, ctx: &PageContext<Self>) -> Result<Option<u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let last = ctx.args().last_of(ctx.partition().unwrap_or_default());
        let end = ctx.range().end().copied().unwrap_or(last);
        Ok((end > start + 20).then_some(start + (end - start) / 2))
    }

    fn reducer(&self, _: &Tenants) -> Option<Reducer> {
        let reducers = [("records", Reducer::count()), ("sum", Reducer::sum(""))];
        Some(Reducer::record(reducers))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: quick_retries(),
            ..ProcessorSettings::default()
        }
    }
}

fn four() -> Tenants {
    Tenants::of(&[("ada", 95), ("bob", 0), ("cyd", 7), ("dan", 40)])
}

#[tokio::test]
async fn every_record_of_every_tenant_is_processed_once_and_counted() {
    let env = TestEnv::new("parts-tenants").await;
    let mail = Mail::new();
    let _worker = env.worker(mail.clone()).await;
    let batch = env.batch::<Mail>(four()).page_size(10);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    mail.assert_each_once(&four());
    assert_result(&report, &four());
    let progress = &report.progress;
    assert_eq!(progress.items.processed, 142);
    assert_eq!(progress.pages_completed, 10 + 1 + 4);
    let counts = progress.partition_counts.unwrap();
    assert_eq!((counts.total, counts.finished, counts.running), (4, 4, 0));
    let mut listed: Vec<_> = progress
        .partitions
        .iter()
        .map(|p| (p.name.as_str(), p.items.processed))
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, [("ada", 95), ("bob", 0), ("cyd", 7), ("dan", 40)]);
    assert_eq!(replays(&env, batch.id(), "tenants").await, 1);
    replays(&env, &format!("{}.p0", batch.id()), "tenant-of-many").await;
    let listed = env.client.list(1_000).await.unwrap();
    let own = listed.iter().filter(|b| b.batch_id.starts_with(batch.id()));
    assert_eq!(own.count(), 1, "partitions are listed as batches");
}

#[tokio::test]
async fn key_ranges_end_exactly_where_the_next_one_begins() {
    let env = TestEnv::new("parts-ranges").await;
    for tenants in [four().ranges(), four().ranges().skipping()] {
        let mail = Mail::new();
        let worker = env.worker(mail.clone()).await;
        let batch = env.batch::<Mail>(tenants.clone()).page_size(10).stride(3);
        let report = env.run(&batch).await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        mail.assert_each_once(&tenants);
        assert_eq!(
            report.progress.items_expected,
            Some(report.progress.items.total()),
            "the size of one partition is known only at its end"
        );
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn each_partition_tunes_its_strides_as_the_batch_is_set() {
    let env = TestEnv::new("parts-strides").await;
    let tenants = Tenants::of(&[("a", 6_000), ("b", 4_000)]).skipping();
    let mail = Mail::new();
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(10)
        .stride(AutoStride::default())
        .max_parallelism(4);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    mail.assert_each_once(&tenants);
    let because = report.progress.stride_because.as_deref();
    assert_eq!(because, Some("each partition finds its own"));
    let mut strides = 0;
    for number in 0..2 {
        let partition = format!("{}.p{number}", batch.id());
        for history in env.histories(&partition).await {
            strides += String::from_utf8_lossy(&history)
                .matches("\"stride-")
                .count();
        }
    }
    assert!(
        (2..250).contains(&strides),
        "{strides} strides for 1,000 pages"
    );
    replays(&env, batch.id(), "strides").await;
}

#[tokio::test]
async fn limits_apply_to_all_partitions_together_and_follow_the_operator() {
    let env = TestEnv::new("parts-limits").await;
    let tenants = Tenants::of(&[("a", 1_000), ("b", 1_000), ("c", 1_000), ("d", 1_000)]).skipping();
    let (mail, gate) = Mail::gated();
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(10)
        .stride(5)
        .max_parallelism(3);
    let handle = env.start(&batch).await;
    eventually("three pages are in flight", || async {
        (mail.begun() == 3).then_some(())
    })
    .await;
    handle.set_max_parallelism(6).await.unwrap();
    eventually("six pages are in flight", || async {
        (mail.begun() == 6).then_some(())
    })
    .await;
    handle.set_max_parallelism(2).await.unwrap();
    handle.pause("a look").await.unwrap();
    // Partitions learn of the pause by signal, so a few more pages may begin.
    gate.open();
    let paused = progress_shows(&handle, "the batch is paused", |p| p.phase == Phase::Paused).await;
    assert!((6..400).contains(&paused.pages_completed), "{paused:#?}");
    assert_eq!(mail.seen.lock().unwrap().in_flight, 0);
    mail.seen.lock().unwrap().most_in_flight = 0;
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    mail.assert_each_once(&tenants);
    assert!(mail.seen.lock().unwrap().most_in_flight <= 2);
    replays(&env, batch.id(), "limits").await;
}

#[tokio::test]
async fn the_parallelism_of_a_finished_partition_goes_to_the_others() {
    let env = TestEnv::new("parts-rebalance").await;
    let tenants = Tenants::of(&[("small", 10), ("large", 2_000)]).skipping();
    let (mail, gate) = Mail::gated();
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(10)
        .max_parallelism(4);
    let handle = env.start(&batch).await;
    eventually("both partitions have begun", || async {
        (mail.begun() >= 3).then_some(())
    })
    .await;
    gate.let_through(12);
    progress_shows(&handle, "the large partition has all parallelism", |p| {
        let large = p.partitions.iter().find(|part| part.name == "large");
        large.is_some_and(|large| large.max_parallelism == 4)
    })
    .await;
    eventually("the large partition uses all parallelism", || async {
        (mail.seen.lock().unwrap().in_flight == 4).then_some(())
    })
    .await;
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    mail.assert_each_once(&tenants);
    assert!(mail.seen.lock().unwrap().most_in_flight <= 4);
}

#[tokio::test]
async fn parent_and_partitions_continue_as_new() {
    let env = TestEnv::new("parts-can").await;
    let tenants = Tenants::of(&[("a", 300), ("b", 200), ("c", 100)]).skipping();
    let mail = Mail::new().taking(Duration::from_millis(30));
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(5)
        .pages_per_run(3)
        .max_parallelism(4)
        .rate(1e6);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    mail.assert_each_once(&tenants);
    assert_result(&report, &tenants);
    assert_eq!(report.progress.pages_completed, 120);
    assert!(
        report.progress.runs > 1,
        "the parent did not continue as new"
    );
    let runs = replays(&env, batch.id(), "parent-over-runs").await;
    assert_eq!(runs, report.progress.runs as usize);
    let children = replays(&env, &format!("{}.p0", batch.id()), "partition-over-runs").await;
    assert!(children > 2, "{children}");
}

#[tokio::test]
async fn a_long_page_of_one_partition_holds_up_no_other_at_a_hand_over() {
    let env = TestEnv::new("parts-long-page").await;
    let tenants = Tenants::of(&[("a", 100), ("b", 1_000)]).skipping();
    let (mail, gate) = Mail::gated();
    let mail = Mail {
        gated: Some("a"),
        ..mail.taking(Duration::from_millis(400))
    };
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(5)
        .pages_per_run(5)
        .max_parallelism(8);
    let handle = env.start(&batch).await;
    eventually("the other partition is done", || async {
        let seen = mail.seen.lock().unwrap();
        (seen.records.len() == 1_000).then_some(())
    })
    .await;
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    mail.assert_each_once(&tenants);
    assert_result(&report, &tenants);
    assert!(report.progress.runs > 1, "there was no hand-over");
    replays(&env, batch.id(), "partitions-that-go-on").await;
}

#[tokio::test]
async fn notices_of_partitions_and_of_the_batch_have_different_numbers() {
    let env = TestEnv::new("parts-notices").await;
    let mail = Mail {
        fails: true,
        ..Mail::new()
    };
    let told = Told::default();
    let _worker = env.worker_with(mail, |worker| told.register(worker)).await;
    let tenants = Tenants::of(&[("a", 20), ("b", 20)]);
    let batch = env.batch::<Mail>(tenants).page_size(5).on_failure("told");
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let failures = told.failures.lock().clone();
    let mut numbers: Vec<_> = failures.iter().map(|notice| notice.number).collect();
    assert_eq!(numbers.len(), 3, "two pages and the end: {failures:#?}");
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 3, "{failures:#?}");
    assert!(
        failures
            .iter()
            .all(|n| n.batch_run == report.progress.batch_run)
    );
}

#[tokio::test]
async fn the_rest_of_a_straggler_is_split() {
    let env = TestEnv::new("parts-split").await;
    let tenants = Tenants {
        slow: true,
        ..Tenants::of(&[("long", 1_000)])
    };
    let mail = Mail::new();
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(10)
        .max_parallelism(4);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    mail.assert_each_once(&tenants);
    assert_result(&report, &tenants);
    assert_eq!(report.progress.items.processed, 1_000);
    let counts = report.progress.partition_counts.unwrap();
    assert!(counts.total > 1, "{:#?}", report.progress.partitions);
    replays(&env, batch.id(), "split").await;
}

#[tokio::test]
async fn a_partitioned_processor_is_refused_unless_the_batch_is_declared_partitioned() {
    let env = TestEnv::new("parts-refused").await;
    let _worker = env.worker(Mail::new()).await;
    let args = serde_json::to_value(four()).unwrap();
    let batch = Batch::named(env.new_id(), "mail", args).task_queue(&env.queue);
    let refused = env.start(&batch).await.accepted().await.unwrap_err();
    assert!(
        refused.to_string().contains("Batch::partitioned"),
        "{refused}"
    );
    let said = batch.rerun(true).partitioned(true);
    assert_eq!(env.run(&said).await.outcome, Outcome::Completed);
    let twice = Tenants::of(&[("a", 1), ("a", 2)]);
    let twice = env
        .start(&env.batch::<Mail>(twice))
        .await
        .accepted()
        .await
        .unwrap_err();
    assert!(
        twice.to_string().contains("two partitions are named \"a\""),
        "{twice}"
    );
}
