//! The dev server of one arm, and measurements on it.

use std::{
    fmt::Display,
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::TryStreamExt as _;
use temporal_batch::{
    Batch, BatchClient, BatchReport, ConnectOptions, Outcome,
    dev_server::{DevServer, DevServerOptions},
};
use temporalio_client::{
    UntypedWorkflow, WorkflowExecutionInfo, WorkflowFetchHistoryOptions, WorkflowHandle,
    WorkflowListOptions,
};
use temporalio_common::protos::temporal::api::history::v1::{
    HistoryEvent, history_event::Attributes,
};

use super::{Error, process, worker_process::WorkerProcess};

/// The longest wait for a measurement, except for one of a million pages.
const LIMIT: Duration = Duration::from_secs(900);

pub struct ArmServer {
    server: DevServer,
    client: BatchClient,
}

/// The cost of a measured run.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub seconds: f64,
    pub server_cpu: f64,
    pub worker_cpu: f64,
    pub actions: f64,
}

/// The histories of a batch and of its bridges.
#[derive(Clone, Copy, Debug, Default)]
pub struct Histories {
    pub runs: usize,
    pub events: usize,
    /// The largest input of any run, in bytes.
    pub largest_input: usize,
}

pub async fn connect(address: &str) -> Result<BatchClient, Error> {
    let options = ConnectOptions::new()
        .address(address)
        .disable_env(true)
        .disable_config_file(true);
    Ok(BatchClient::connect(&options).await?)
}

pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for a result, and fails after a while with an error that names it.
pub async fn within<T>(
    limit: Duration,
    what: impl Display,
    wait: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, wait).await {
        Ok(result) => result,
        Err(_) => Err(format!("{what}: not done after {limit:?}").into()),
    }
}

impl ArmServer {
    /// Starts a server with these settings.
    pub async fn start(dynamic_config: &[String]) -> Result<Self, Error> {
        // Temporal counts its actions in its metrics. Port 0 would mean no metrics.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let server = DevServerOptions::new().metrics_port(port);
        let server = dynamic_config
            .iter()
            .fold(server, DevServerOptions::dynamic_config)
            .start()
            .await?;
        let client = connect(&server.address()).await?;
        Ok(Self { server, client })
    }

    pub async fn stop(self) -> Result<(), Error> {
        Ok(self.server.stop().await?)
    }

    pub fn address(&self) -> String {
        self.server.address()
    }

    pub fn client(&self) -> &BatchClient {
        &self.client
    }

    /// Runs a batch to its end, and fails unless it is completed with this many pages.
    pub async fn complete(&self, batch: &Batch, pages: u64) -> Result<BatchReport, Error> {
        within(LIMIT, batch.id(), async {
            let report = self.client.start(batch).await?.result().await?;
            if report.outcome != Outcome::Completed || report.progress.pages_completed != pages {
                return Err(format!("unexpected end of the batch: {report:?}").into());
            }
            Ok(report)
        })
        .await
    }

    /// Measures the cost of work that one worker does.
    pub async fn cost<T>(
        &self,
        worker: &WorkerProcess,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<(Cost, T), Error> {
        let cpu = || {
            let server = self.server.pid().and_then(process::cpu_seconds);
            let worker = process::cpu_seconds(worker.pid());
            (server.unwrap_or(f64::NAN), worker.unwrap_or(f64::NAN))
        };
        let actions = self.actions().await?;
        let (server, in_worker) = cpu();
        let began = Instant::now();
        let done = within(LIMIT, "a measurement", work).await?;
        let seconds = began.elapsed().as_secs_f64();
        let (server_after, worker_after) = cpu();
        let cost = Cost {
            seconds,
            server_cpu: server_after - server,
            worker_cpu: worker_after - in_worker,
            actions: self.actions().await? - actions,
        };
        Ok((cost, done))
    }

    pub async fn histories(&self, id: &str) -> Result<Histories, Error> {
        let mut found = Histories::default();
        for (workflow_id, run) in self.runs(id).await? {
            let info = WorkflowExecutionInfo::builder()
                .namespace("default")
                .workflow_id(workflow_id)
                .run_id(run)
                .build();
            let handle: WorkflowHandle<_, UntypedWorkflow> =
                info.bind_untyped(self.client.temporal().clone());
            let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
            let events = history.into_events().await?;
            found.runs += 1;
            found.events += events.len();
            let input = events.first().map_or(0, input_bytes);
            found.largest_input = found.largest_input.max(input);
        }
        Ok(found)
    }

    /// The runs of the batch and of its bridges. The listing is updated a little after the end.
    async fn runs(&self, id: &str) -> Result<Vec<(String, String)>, Error> {
        let query = format!("WorkflowId = '{id}' OR WorkflowId STARTS_WITH '{id}.'");
        for _ in 0..200 {
            let options = WorkflowListOptions::default();
            let list = self.client.temporal().list_workflows(&query, options);
            let runs: Vec<_> = list.try_collect().await?;
            if !runs.is_empty() && runs.iter().all(|run| run.close_time().is_some()) {
                let ids = runs.iter();
                let ids = ids.map(|run| (run.id().to_owned(), run.run_id().to_owned()));
                return Ok(ids.collect());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("{id} is not listed as closed").into())
    }

    /// The server's own count of the actions that Temporal Cloud would bill.
    async fn actions(&self) -> Result<f64, Error> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let url = url::Url::parse(&self.server.metrics_url().ok_or("no metrics")?)?;
        let host = format!("127.0.0.1:{}", url.port().unwrap_or(80));
        let scrape = async {
            let mut stream = tokio::net::TcpStream::connect(&host).await?;
            let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(text)
        };
        let text = within(Duration::from_secs(30), "the server's metrics", scrape).await?;
        let of_actions =
            |line: &&str| line.starts_with("action{") || line.starts_with("action_total{");
        let samples = text.lines().filter(of_actions);
        Ok(samples
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }
}

fn input_bytes(first: &HistoryEvent) -> usize {
    match &first.attributes {
        Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => {
            let payloads = started.input.iter().flat_map(|input| &input.payloads);
            payloads.map(|payload| payload.data.len()).sum()
        }
        _ => 0,
    }
}
