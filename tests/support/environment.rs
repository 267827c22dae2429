//! A test's own part of the dev server: a task queue, a client, workers in this process, and batch ids.

use std::{
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use temporal_batch::{
    Batch, BatchClient, BatchHandle, BatchReport, ConnectOptions, PageProcessor, RunningWorker,
    Worker, metrics::Metrics, progress::Progress,
};

use super::{
    dev_server::server_address,
    waits::{PATIENCE, eventually, poll, within},
};

/// Keeps the log from here on.
fn keep_log() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        tracing_subscriber::fmt()
            .json()
            .with_env_filter("temporal_batch=debug,engine=debug")
            .with_writer(|| Log)
            .init();
    });
}

/// The log so far of all tests of this process, as JSON lines.
pub fn logged() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A test's own part of the dev server.
pub struct TestEnv {
    pub client: BatchClient,
    pub queue: String,
    pub address: String,
    batches: AtomicU64,
}

impl TestEnv {
    pub async fn new(name: &str) -> Self {
        let address = tokio::task::spawn_blocking(server_address).await.unwrap();
        Self::at(address, name).await
    }

    pub async fn at(address: &str, name: &str) -> Self {
        keep_log();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        Self {
            client: connect(address).await,
            address: address.to_owned(),
            queue: format!("{name}-{}", &unique[..8]),
            batches: AtomicU64::new(0),
        }
    }

    /// Starts a worker on the test's queue, with a connection of its own: the SDK refuses a second worker on the same
    /// connection and queue.
    pub async fn worker<P: PageProcessor>(&self, processor: P) -> RunningWorker {
        self.worker_with(processor, |worker| worker).await
    }

    /// Starts a worker with more settings.
    pub async fn worker_with<P: PageProcessor>(
        &self,
        processor: P,
        settings: impl FnOnce(Worker) -> Worker,
    ) -> RunningWorker {
        let client = connect(&self.address).await;
        let worker = Worker::new(&client, &self.queue)
            .processor(processor)
            .drain_timeout(Duration::from_secs(5));
        settings(worker).start().unwrap()
    }

    /// A separate connection whose requests are counted.
    pub async fn measured(&self, name: &str, metrics: &Metrics) -> BatchClient {
        let options = ConnectOptions::new()
            .address(&self.address)
            .disable_env(true)
            .disable_config_file(true)
            .identity(name)
            .metrics(metrics);
        BatchClient::connect(&options).await.unwrap()
    }

    /// Starts a worker with another identity, so that it is not counted as one of the others.
    pub async fn worker_named<P: PageProcessor>(&self, name: &str, processor: P) -> RunningWorker {
        let client = connect_as(&self.address, Some(name)).await;
        let worker = Worker::new(&client, &self.queue);
        worker.processor(processor).start().unwrap()
    }

    /// A batch whose activities have one page each, because tests count activities and announcements.
    pub fn batch<P: PageProcessor>(&self, args: P::Args) -> Batch {
        let batch = Batch::of::<P>(self.new_id(), args);
        batch.task_queue(&self.queue).stride(1)
    }

    pub fn new_id(&self) -> String {
        let n = self.batches.fetch_add(1, Ordering::Relaxed);
        format!("{}-{n}", self.queue)
    }

    pub async fn start(&self, batch: &Batch) -> BatchHandle {
        self.client.start(batch).await.unwrap()
    }

    /// Starts a batch and waits for its report.
    pub async fn run(&self, batch: &Batch) -> BatchReport {
        let handle = self.start(batch).await;
        report(&handle).await
    }

    /// The number of events of this kind in the histories of a batch.
    pub async fn events(&self, batch_id: &str, kind: &str) -> usize {
        let attributes = format!("{kind}EventAttributes");
        let is_one = |event: &serde_json::Value| event["attributes"].get(&attributes).is_some();
        self.count(batch_id, is_one).await
    }

    /// The number of times that a batch was sent this signal.
    pub async fn signals(&self, batch_id: &str, name: &str) -> usize {
        let attributes = "WorkflowExecutionSignaledEventAttributes";
        let is_one =
            |event: &serde_json::Value| event["attributes"][attributes]["signal_name"] == name;
        self.count(batch_id, is_one).await
    }

    async fn count(&self, batch_id: &str, is_one: impl Fn(&serde_json::Value) -> bool) -> usize {
        let histories = self.histories(batch_id).await;
        let counted = histories.iter().map(|history| {
            let history: serde_json::Value = serde_json::from_slice(history).unwrap();
            let events = history["events"].as_array().unwrap();
            events.iter().filter(|event| is_one(event)).count()
        });
        counted.sum()
    }

    /// The histories of all runs of a batch in their order, as JSON.
    pub async fn histories(&self, batch_id: &str) -> Vec<Vec<u8>> {
        use futures::TryStreamExt as _;
        use temporalio_client::{
            UntypedWorkflow, WorkflowExecutionInfo, WorkflowFetchHistoryOptions,
            WorkflowListOptions,
        };
        let client = self.client.temporal();
        // The listing lags behind a little. The number of runs is known from the report of the batch.
        let query = format!("WorkflowId = '{batch_id}'");
        let closed = || async {
            let runs: Vec<_> = client
                .list_workflows(&query, WorkflowListOptions::default())
                .try_collect()
                .await
                .unwrap();
            let all_closed = runs.iter().all(|run| run.close_time().is_some());
            (!runs.is_empty() && all_closed).then_some(runs)
        };
        let mut runs = eventually("all runs of the batch are listed as closed", closed).await;
        runs.sort_by_key(|run| run.start_time());
        let mut histories = Vec::new();
        for run in runs {
            let info = WorkflowExecutionInfo::builder()
                .namespace("default")
                .workflow_id(batch_id)
                .run_id(run.run_id())
                .build();
            let handle: temporalio_client::WorkflowHandle<_, UntypedWorkflow> =
                info.bind_untyped(client.clone());
            let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
            histories.push(history.to_json().await.unwrap());
        }
        histories
    }
}

/// A client of the server at an address, without the settings of the user who runs the tests.
pub async fn connect(address: &str) -> BatchClient {
    connect_as(address, None).await
}

async fn connect_as(address: &str, name: Option<&str>) -> BatchClient {
    let options = ConnectOptions::new()
        .address(address)
        .disable_env(true)
        .disable_config_file(true);
    let options = match name {
        Some(name) => options.identity(name),
        None => options,
    };
    BatchClient::connect(&options).await.unwrap()
}

/// Waits for the end of a batch, and returns its report.
pub async fn report(handle: &BatchHandle) -> BatchReport {
    within("the batch ends", handle.result()).await.unwrap()
}

/// Waits until a progress query shows a state.
pub async fn progress_shows(
    handle: &BatchHandle,
    what: &str,
    condition: impl Fn(&Progress) -> bool,
) -> Progress {
    let last = std::sync::Mutex::new(None);
    let look = || async {
        let progress = handle.progress().await.ok()?;
        *last.lock().unwrap() = Some(progress.clone());
        condition(&progress).then_some(progress)
    };
    match tokio::time::timeout(PATIENCE, poll(look)).await {
        Ok(progress) => progress,
        Err(_) => panic!("progress never showed that {what}; last: {last:#?}"),
    }
}
