//! Three worker processes on one task queue, with a database of their own.

use std::{future::Future, time::Duration};

use sqlx::PgPool;
use temporal_batch::{BatchHandle, BatchReport};

use crate::{
    page_log::PageLog,
    support::{TestEnv, server_address, servers::Postgres},
    worker_process::{Place, WorkerProcess},
};

const WORKERS: usize = 3;

pub struct WorkerGroup {
    pub env: TestEnv,
    pub pool: PgPool,
    pub log: PageLog,
    pub workers: Vec<WorkerProcess>,
    pub patience: Duration,
}

impl WorkerGroup {
    /// Starts workers with this many `slots` each. `None` where PostgreSQL is not installed. Waits fail after
    /// `patience`, which leaves room for a busy machine.
    pub async fn launch(
        (name, test): (&str, &'static str),
        slots: u32,
        patience: Duration,
    ) -> Option<Self> {
        let postgres = Postgres::shared()?;
        let database = postgres.database(name).await;
        let pool = PgPool::connect(&database).await.unwrap();
        let log = PageLog::new(pool.clone());
        log.create_tables().await;
        let env = TestEnv::new(name).await;
        let place = Place {
            address: server_address().to_owned(),
            queue: env.queue.clone(),
            database,
            hold: None,
            slots: Some(slots),
        };
        let start = |_| WorkerProcess::start(&place, test);
        Some(Self {
            env,
            pool,
            log,
            workers: (0..WORKERS).map(start).collect(),
            patience,
        })
    }

    /// Kills the worker with the most pages of the batch while they run. Another worker takes its place.
    pub async fn kill_one(&mut self, batch: &str) {
        let busiest = || self.log.busiest(batch);
        let pid = self.eventually("a page is in flight", busiest).await;
        let worker = self.workers.iter_mut().find(|worker| worker.pid() == pid);
        worker.expect("a known worker").kill_and_replace();
        self.log.is_gone(pid).await;
    }

    /// Restarts a worker as a deploy does.
    pub async fn restart_one(&mut self) {
        self.workers[0].restart().await;
    }

    /// Polls until there is an answer.
    pub async fn eventually<T, F>(&self, what: &str, mut ask: impl FnMut() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(self.patience, asking).await {
            Ok(answer) => answer,
            Err(_) => panic!("gave up after {:?} of waiting until {what}", self.patience),
        }
    }

    /// Waits until this many pages have begun after `from`.
    pub async fn pages_begin(&self, batch: &str, pages: i64, from: f64) {
        let what = format!("{pages} pages have begun");
        self.eventually(&what, || async {
            let (begun, _) = self.log.begun(batch, (from, f64::INFINITY)).await;
            (begun >= pages).then_some(())
        })
        .await;
    }

    /// Cancels a batch that has no end.
    pub async fn cancel(&self, handle: &BatchHandle) -> BatchReport {
        handle.cancel("seen enough").await.unwrap();
        self.ends(handle).await
    }

    pub async fn ends(&self, handle: &BatchHandle) -> BatchReport {
        let ended = tokio::time::timeout(self.patience, handle.result()).await;
        ended.expect("the batch ends").unwrap()
    }
}
