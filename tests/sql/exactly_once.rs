//! The promise of the ledger: in whatever order attempts run, every row is changed exactly once.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use temporal_batch::{
    progress::ItemCounts,
    sql::SqlLedger,
    store::{PageLedger, PageTransaction, StrideId},
};

use crate::{
    database::{Home, SOON, TestDatabase, mariadb, postgres, sqlite, token, touch},
    pages::claim,
    support::databases::on_each,
};

const ROWS: i64 = 30;

/// A step of an attempt at one stride of `ROWS` rows. An attempt is named by its position among the latest ones.
#[derive(Clone, Debug)]
enum Step {
    /// A new attempt opens the stride. Its pages have this many rows.
    Open(i64),
    /// The attempt claims its next page, and changes the rows.
    Process(usize),
    /// The attempt commits.
    Commit(usize),
    /// The attempt commits, but the answer is lost, so that it tries the page again.
    CommitUnheard(usize),
    /// The transaction of the attempt is dropped, as when its worker is lost.
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (1..12_i64).prop_map(Step::Open),
        6 => (0..4_usize).prop_map(Step::Process),
        5 => (0..4_usize).prop_map(Step::Commit),
        1 => (0..4_usize).prop_map(Step::CommitUnheard),
        1 => (0..4_usize).prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..60)
}

struct Attempt {
    fence: i64,
    at: i64,
    page_size: i64,
    page: Option<(Box<dyn PageTransaction>, i64)>,
}

impl Attempt {
    async fn open<D: TestDatabase>(
        ledger: &SqlLedger<D>,
        id: &StrideId,
        page_size: i64,
    ) -> Option<Self> {
        // Opening may time out while a page is being applied.
        let opened = ledger
            .open(id, None, Some(&token(ROWS)), false)
            .await
            .ok()?;
        Some(Self {
            fence: opened.fence,
            at: opened.applied_to.map_or(0, |t| t.decode().unwrap()),
            page_size,
            page: None,
        })
    }

    async fn process<D: TestDatabase>(&mut self, ledger: &SqlLedger<D>, id: &StrideId) {
        if self.page.is_some() || self.at == ROWS {
            return;
        }
        let end = ROWS.min(self.at + self.page_size);
        let (from, to) = (token(self.at), token(end));
        let from = (self.at > 0).then_some(&from);
        if let Ok(Some(mut page)) = ledger.begin(claim(id, self.fence, from, &to)).await
            && touch::<D>(page.as_mut(), self.at, end).await.is_ok()
        {
            self.page = Some((page, end));
        }
    }

    async fn commit_unheard(&mut self) {
        let before = self.at;
        self.commit().await;
        self.at = before;
    }

    async fn commit(&mut self) {
        let Some((mut page, end)) = self.page.take() else {
            return;
        };
        let items = ItemCounts {
            processed: (end - self.at) as u64,
            ..ItemCounts::default()
        };
        if page.record(&items, &[]).await.is_ok() && page.commit().await.is_ok() {
            self.at = end;
        }
    }
}

static RUNS: AtomicU64 = AtomicU64::new(0);

fn new_stride() -> StrideId {
    StrideId {
        batch_run: format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed)),
        batch_id: "batch".to_owned(),
        stride: 0,
    }
}

/// Finishes the stride, and checks every row.
async fn finish<D: TestDatabase>(home: &Home<D>, id: &StrideId) {
    let mut last = Attempt::open(&home.ledger, id, 7).await.unwrap();
    while last.at < ROWS {
        let before = last.at;
        last.process(&home.ledger, id).await;
        last.commit().await;
        assert!(last.at > before, "the last attempt should apply every page");
    }
    let once = home.number("SELECT count(*) FROM data WHERE x = 1").await;
    assert_eq!(once, ROWS);
    let found = home.ledger.open(id, None, None, false).await.unwrap();
    assert_eq!(found.totals.items.processed, ROWS as u64);
}

async fn interleave<D: TestDatabase>(home: &Home<D>, ledger: &SqlLedger<D>, steps: &[Step]) {
    home.fill(ROWS).await;
    let id = new_stride();
    let mut attempts: Vec<Attempt> = Vec::new();
    for step in steps {
        if let Step::Open(page_size) = step {
            attempts.extend(Attempt::open(ledger, &id, *page_size).await);
        }
        // Steps choose among the latest four attempts, so that most of them find one that can proceed.
        let count = attempts.len().min(4);
        let of = |n: &usize| attempts.len() - 1 - n % count;
        match step {
            Step::Process(n) if count > 0 => {
                let n = of(n);
                attempts[n].process(ledger, &id).await;
            }
            Step::Commit(n) if count > 0 => {
                let n = of(n);
                attempts[n].commit().await;
            }
            Step::CommitUnheard(n) if count > 0 => {
                let n = of(n);
                attempts[n].commit_unheard().await;
            }
            Step::Drop(n) if count > 0 => {
                let n = of(n);
                attempts[n].page = None;
            }
            _ => {}
        }
    }
    drop(attempts);
    finish(home, &id).await;
}

fn every_row_exactly_once<D: TestDatabase>(
    runtime: &tokio::runtime::Runtime,
    home: &Home<D>,
    cases: u32,
) {
    let impatient = runtime.block_on(D::impatient(home));
    let ledger = SqlLedger::new(impatient);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(interleave(home, &ledger, &steps));
            Ok(())
        })
        .unwrap();
}

#[test]
fn attempts_in_any_order_change_every_row_exactly_once_in_sqlite() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = runtime.block_on(sqlite());
    every_row_exactly_once(&runtime, &home, 100);
}

#[test]
fn attempts_in_any_order_change_every_row_exactly_once_in_postgresql() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(home) = runtime.block_on(postgres("exactly_once")) {
        every_row_exactly_once(&runtime, &home, 25);
    }
}

#[test]
fn attempts_in_any_order_change_every_row_exactly_once_in_mariadb() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(home) = runtime.block_on(mariadb("exactly_once")) {
        every_row_exactly_once(&runtime, &home, 25);
    }
}

on_each! {
    racing_attempts_change_every_row_exactly_once,
}

async fn racing_attempts_change_every_row_exactly_once<D: TestDatabase>(home: Home<D>) {
    for _ in 0..5 {
        home.fill(ROWS).await;
        let id = new_stride();
        let race = [1, 2, 3, 5, 8, 13].map(|page_size| {
            let (home, id) = (&home, &id);
            async move {
                let mut attempt = Attempt::open(&home.ledger, id, page_size).await.unwrap();
                // Each attempt runs until it is fenced off or done. Every fourth page is dropped, so that other
                // attempts take over.
                for page in 1.. {
                    let before = attempt.at;
                    attempt.process(&home.ledger, id).await;
                    if page % 4 == 0 {
                        attempt.page = None;
                    }
                    attempt.commit().await;
                    if attempt.at == before {
                        break;
                    }
                }
            }
        });
        let race = futures::future::join_all(race);
        tokio::time::timeout(SOON, race).await.unwrap();
        finish(&home, &id).await;
    }
}
