//! The demo from its server to its summary, and the clean-up afterwards.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    DemoArgs,
    data::{Demo, DemoData},
    spinner::Spinner,
    summary::summarize,
};
use crate::{
    batch::default_task_queue,
    cli::{
        exit::{CliError, CliResult, Exit},
        output::{self, count, note},
        render::{
            follow::{Followed, Style, follow},
            web_ui::{Noted, WebUi},
        },
        shell::{Program, quoted},
    },
    dev_server::{DevServer, DevServerOptions},
    engine::{
        client::{BatchClient, BatchHandle},
        connect::ConnectOptions,
        worker::{RunningWorker, Worker, WorkerError, shutdown_signal},
    },
    metrics::{Metrics, MetricsServer},
    progress::report::BatchReport,
    stride::registry::Registry,
};

/// The resources that must be cleaned up at the end. Dropping the scene cleans up too, but less gracefully.
#[derive(Default)]
pub(super) struct Scene {
    handle: Option<BatchHandle>,
    worker: Option<RunningWorker>,
    server: Option<DevServer>,
    metrics: Option<MetricsServer>,
    web_ui: Option<Noted>,
    data: Option<Box<dyn DemoData>>,
    directory: Option<TempDir>,
    /// The file that the user named, while it is being filled.
    unfinished: Option<PathBuf>,
}

impl Scene {
    pub(super) async fn play(
        &mut self,
        args: &DemoArgs,
        demo: &dyn Demo,
        program: &str,
    ) -> CliResult {
        let metrics = Metrics::new();
        self.metrics = args.metrics.serve(&metrics).await?;
        let database = self.database(args)?;
        self.prepare(args, demo, &database).await?;
        let (Some(data), Some(server)) = (&self.data, &self.server) else {
            unreachable!("prepared above");
        };
        let (address, ui_url) = (server.address(), server.ui_url());

        let client = connect(&address, &metrics).await?;
        let mut registry = Registry::new();
        data.register(&mut registry)
            .map_err(|e| CliError::caused("the demo's processor cannot start", &e))?;
        let worker = Worker::new(&client, default_task_queue())
            .registry(registry)
            .metrics(metrics);
        self.worker = Some(worker.start()?);

        let batch = args.limits(data.batch());
        let ui_url = ui_url.map(|url| {
            let namespace = server.namespace().to_owned();
            WebUi { url, namespace }.of_batch(batch.id())
        });
        self.web_ui = Noted::of_server(server);
        if let Some(url) = &ui_url {
            note(format_args!("Temporal UI, while this runs: {url}"));
        }
        let handle = client.start(&batch).await?;
        self.handle = Some(handle.clone());
        // The environment may describe another server.
        let namespace = quoted(server.namespace());
        let program = Program {
            name: program.to_owned(),
            server: format!(" --address {address} --namespace {namespace} --tls=false"),
            database: None,
        };
        let report = watch(&handle, &program).await?;

        let spinner = Spinner::new("checking every row");
        let verdict = data.verify().await;
        spinner.done();
        let verdict =
            verdict.map_err(|e| CliError::caused("the database cannot be checked", &*e))?;
        let summary = summarize(args, &report, &verdict, address, ui_url);
        let exit = match Exit::of(&report) {
            Exit::Done if !verdict.is_right() => Exit::Error,
            exit => exit,
        };
        if args.json {
            output::json(&summary);
        } else {
            output::result(summary.text(&verdict, &data.how_to_look(&database), args, &program));
        }
        if !verdict.is_right() {
            let bad = verdict.unmigrated + verdict.wrong;
            note(format_args!(
                "error: {} not as they should be",
                count(bad, "row")
            ));
            for example in &verdict.examples {
                note(format_args!("  {example}"));
            }
        }
        Ok(exit)
    }

    /// Returns the path of the new database.
    fn database(&mut self, args: &DemoArgs) -> CliResult<PathBuf> {
        if let Some(path) = &args.database {
            if path.exists() {
                let path = path.display();
                let message = format_args!("{path} exists already; delete it or name another file");
                return Err(CliError::failure(message));
            }
            // The parent of a bare file name is empty and means the working directory.
            let directory = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            if let Some(missing) = directory.filter(|directory| !directory.is_dir()) {
                let message = format!("there is no directory {}; create it", missing.display());
                return Err(CliError::failure(message));
            }
            self.unfinished = Some(path.clone());
            return Ok(path.clone());
        }
        let directory = tempfile::Builder::new()
            .prefix("temporal-batch-demo-")
            .tempdir()
            .map_err(|e| CliError::caused("cannot make a temporary directory", &e))?;
        let path = directory.path().join("products.db");
        self.directory = Some(directory);
        Ok(path)
    }

    /// Makes the database and starts the server at the same time, because each needs a second or two.
    async fn prepare(&mut self, args: &DemoArgs, demo: &dyn Demo, path: &Path) -> CliResult<()> {
        let spinner = Spinner::new(&format!(
            "making {} and starting a Temporal dev server",
            count(args.rows, "row")
        ));
        let (data, server) = tokio::join!(
            demo.create(path, args.rows, args.fail_rate),
            DevServerOptions::new().ui(true).start(),
        );
        spinner.done();
        // Both are kept before either error is returned, so that the other one is cleaned up.
        let data = data.map(|data| {
            self.data = Some(data);
            self.unfinished = None;
        });
        let server = server.map(|server| self.server = Some(server));
        data.map_err(|e| CliError::caused("no database for the demo", &*e))?;
        Ok(server?)
    }

    /// Waits for Ctrl-C, or for the end of the server.
    pub(super) async fn stay(&mut self) -> CliResult<()> {
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        note("server, worker and database stay until Ctrl-C");
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        tokio::select! {
            ended = server.wait() => Ok(ended?),
            () = stop => Ok(()),
        }
    }

    /// Cleans up, each part before the parts that it depends on.
    pub(super) async fn clear(&mut self, interrupted: bool) -> CliResult<()> {
        if let (true, Some(handle)) = (interrupted, &self.handle) {
            cancel(handle).await;
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.stop().await;
        }
        let stopped = match self.server.take() {
            Some(server) => server.stop().await,
            None => Ok(()),
        };
        self.web_ui = None;
        if let Some(metrics) = self.metrics.take() {
            metrics.stop().await;
        }
        if let Some(data) = self.data.take() {
            data.close().await;
        }
        if let Some(path) = self.unfinished.take() {
            for suffix in ["", "-wal", "-shm", "-journal"] {
                let mut file = path.clone().into_os_string();
                file.push(suffix);
                // Some of these files were never made.
                let _ = std::fs::remove_file(file);
            }
        }
        if let Some(directory) = self.directory.take() {
            let path = directory.path().to_owned();
            directory.close().map_err(|e| {
                CliError::caused(format_args!("cannot delete {}", path.display()), &e)
            })?;
        }
        Ok(stopped?)
    }
}

/// Cancels the batch and gives its running pages time to end. An error does not matter, because the server is stopped
/// next.
async fn cancel(handle: &BatchHandle) {
    let cancelled = async {
        // The batch may have ended already.
        if handle.cancel("interrupted").await.is_ok() {
            let _ = handle.result().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), cancelled).await;
}

/// Connects without the environment, which may describe another server.
async fn connect(address: &str, metrics: &Metrics) -> CliResult<BatchClient> {
    let options = ConnectOptions::new()
        .disable_env(true)
        .disable_config_file(true)
        .address(address)
        .metrics(metrics);
    Ok(BatchClient::connect(&options).await?)
}

async fn watch(handle: &BatchHandle, program: &Program) -> CliResult<BatchReport> {
    // `--json` is about the summary: progress is always for people.
    let never = std::future::pending();
    let style = Style::new(false);
    match follow(handle, style, "the worker is busy", program, never).await {
        Followed::Ended(report) => Ok(*report),
        Followed::Lost(error) => Err(error.into()),
        Followed::Detached => Err(CliError::failure("the batch was not followed to its end")),
    }
}
