//! `demo`: a whole migration in one process, and the proof that every row is right.
//!
//! ```text
//!   database and dev server ─▶ worker ─▶ batch ─▶ every row checked ─▶ summary
//!             any error or Ctrl-C ─▶ batch cancelled, worker, server and files gone
//! ```

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    batch::{Batch, default_task_queue},
    cli::{
        commands::worker::{listen_address, serve},
        exit::{CliError, CliResult, Exit},
        render::{
            batch_view::SCHEMA,
            follow::{Followed, Style, follow},
            output::{self, BARS, count, duration, has_terminal, note, number, per_second},
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
    progress::{phase::Outcome, report::BatchReport},
    stride::registry::{RegisterError, Registry},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the demo migrates.
#[async_trait]
pub trait Demo: Send + Sync + 'static {
    /// Makes a new database of `rows` rows. This share of the attempts at its pages will fail on purpose.
    async fn create(
        &self,
        database: &Path,
        rows: u64,
        fail_rate: f64,
    ) -> Result<Box<dyn DemoData>, BoxError>;
}

/// A database that was made for the demo.
#[async_trait]
pub trait DemoData: Send + Sync {
    /// Registers the processor that migrates it.
    ///
    /// # Errors
    /// See [`Registry::register`].
    fn register(&self, registry: &mut Registry) -> Result<(), RegisterError>;

    /// The batch, but for its limits.
    fn batch(&self) -> Batch;

    /// Looks at every row.
    async fn verify(&self) -> Result<Verdict, BoxError>;

    /// Closes the database; the file stays.
    async fn close(&self);

    /// How to look at the database at `path` with other tools.
    fn how_to_look(&self, path: &Path) -> String;
}

/// Whether a database is as it should be.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Rows that are right.
    pub right: u64,
    /// Rows that were not migrated.
    pub unmigrated: u64,
    /// Rows that are anything else.
    pub wrong: u64,
    /// The first rows that are not right, described.
    pub examples: Vec<String>,
}

impl Verdict {
    fn is_right(&self) -> bool {
        self.unmigrated == 0 && self.wrong == 0
    }
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Rows of the database
    #[arg(long, default_value_t = 200_000, allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rows: u64,

    /// Items per page, from 1 to 1,000,000
    #[arg(
        long,
        value_name = "ITEMS",
        default_value_t = 1_000,
        allow_negative_numbers = true
    )]
    page_size: u32,

    // Measured with 200,000 rows on two cores: 2 are a third slower, 8 no faster.
    /// Pages in flight at most, from 0 to 500; SQLite has one writer, so more than a few only wait
    #[arg(
        long,
        value_name = "PAGES",
        default_value_t = 4,
        allow_negative_numbers = true
    )]
    max_parallelism: u32,

    /// Pages that one activity processes in a row
    #[arg(
        long,
        value_name = "PAGES",
        default_value_t = 10,
        allow_negative_numbers = true
    )]
    stride: u32,

    /// Share of the attempts that fail on purpose, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, allow_negative_numbers = true, value_parser = share)]
    fail_rate: f64,

    /// Keep the database in this new file
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,

    /// Leave server and web UI up until Ctrl-C, to look around
    #[arg(long)]
    keep: bool,

    /// Serve Prometheus metrics here, for example at 127.0.0.1:9464
    #[arg(long, value_name = "IP:PORT", value_parser = listen_address)]
    metrics_address: Option<SocketAddr>,

    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 1, such as 0.05".to_owned()),
    }
}

/// The result, and the JSON of `demo --json`.
#[derive(Debug, Serialize)]
struct Summary {
    schema: u32,
    outcome: Outcome,
    reason: Option<String>,
    rows: u64,
    rows_right: u64,
    rows_unmigrated: u64,
    rows_wrong: u64,
    pages: u64,
    page_size: u32,
    max_parallelism: u32,
    stride: u32,
    seconds: f64,
    rows_per_second: f64,
    retries: u64,
    continue_as_new: u32,
    batch_id: String,
    address: String,
    ui_url: Option<String>,
    database: Option<PathBuf>,
}

impl DemoArgs {
    pub(crate) async fn run(&self, demo: &dyn Demo, program: &str) -> CliResult {
        // What is not allowed is refused before anything is made.
        self.limits(Batch::named("demo", "demo", serde_json::Value::Null))
            .validate()?;
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        let mut stage = Stage::default();
        let played = tokio::select! {
            played = stage.play(self, demo, program) => Some(played),
            () = stop => None,
        };
        let stayed = match played {
            Some(Ok(_)) if self.keep => stage.stay().await,
            _ => Ok(()),
        };
        // From here on Ctrl-C means: do not even clean up slowly.
        let again = shutdown_signal().map_err(WorkerError::Signals)?;
        let interrupted = played.is_none();
        let cleaned = tokio::select! {
            cleaned = stage.clear(interrupted) => cleaned,
            () = again => return Ok(Exit::Interrupted),
        };
        match played {
            None => {
                match self.database.as_deref().filter(|path| path.exists()) {
                    Some(path) => note(format_args!(
                        "interrupted; {} is kept as it was then",
                        path.display()
                    )),
                    None => note("interrupted; nothing is left behind"),
                }
                Ok(Exit::Interrupted)
            }
            Some(Err(error)) => Err(error),
            Some(Ok(exit)) => stayed.and(cleaned).map(|()| exit),
        }
    }

    fn limits(&self, batch: Batch) -> Batch {
        batch
            .page_size(self.page_size)
            .max_parallelism(self.max_parallelism)
            .stride(self.stride)
    }
}

/// Everything that has to go at the end, whatever the end is. Dropping it ends all of it too, only less
/// politely.
#[derive(Default)]
struct Stage {
    handle: Option<BatchHandle>,
    worker: Option<RunningWorker>,
    server: Option<DevServer>,
    metrics: Option<MetricsServer>,
    web_ui: Option<Noted>,
    data: Option<Box<dyn DemoData>>,
    directory: Option<TempDir>,
    /// A file with a name of the user's, while it is being filled.
    unfinished: Option<PathBuf>,
}

impl Stage {
    async fn play(&mut self, args: &DemoArgs, demo: &dyn Demo, program: &str) -> CliResult {
        let metrics = Metrics::new();
        self.metrics = serve(args.metrics_address, &metrics).await?;
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
        let worker = Worker::new(client.temporal().clone(), default_task_queue())
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
        // The environment speaks of another server.
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

    /// The database's file, which does not exist yet.
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

    /// Database and server need a second or two each, so they are made side by side.
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
        // Both are kept before either error is looked at, so that the other one is put away properly.
        let data = data.map(|data| {
            self.data = Some(data);
            self.unfinished = None;
        });
        let server = server.map(|server| self.server = Some(server));
        data.map_err(|e| CliError::caused("no database for the demo", &*e))?;
        Ok(server?)
    }

    /// Until Ctrl-C, or until the server dies.
    async fn stay(&mut self) -> CliResult<()> {
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

    /// Puts everything away, in the order in which one needs the other.
    async fn clear(&mut self, interrupted: bool) -> CliResult<()> {
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
                // Not every one of them was made.
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

/// The batch is told and its running pages may end. Nothing depends on it: the server goes next.
async fn cancel(handle: &BatchHandle) {
    let cancelled = async {
        // A batch that has ended already is fine.
        if handle.cancel("interrupted").await.is_ok() {
            let _ = handle.result().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), cancelled).await;
}

/// The environment is not asked: it speaks of another server.
async fn connect(address: &str, metrics: &Metrics) -> CliResult<BatchClient> {
    let options = ConnectOptions::new()
        .disable_env(true)
        .disable_config_file(true)
        .address(address)
        .metrics(metrics);
    Ok(BatchClient::connect(&options).await?)
}

async fn watch(handle: &BatchHandle, program: &Program) -> CliResult<BatchReport> {
    // JSON is for the summary: progress is for people in any case.
    let never = std::future::pending();
    let style = Style::new(false);
    match follow(handle, style, "the worker is busy", program, never).await {
        Followed::Ended(report) => Ok(*report),
        Followed::Lost(error) => Err(error.into()),
        Followed::Detached => Err(CliError::failure("the batch was not followed to its end")),
    }
}

fn summarize(
    args: &DemoArgs,
    report: &BatchReport,
    verdict: &Verdict,
    address: String,
    ui_url: Option<String>,
) -> Summary {
    let p = &report.progress;
    let seconds = report.duration().as_secs_f64();
    Summary {
        schema: SCHEMA,
        outcome: report.outcome,
        reason: report.reason.clone(),
        rows: args.rows,
        rows_right: verdict.right,
        rows_unmigrated: verdict.unmigrated,
        rows_wrong: verdict.wrong,
        pages: p.pages_completed,
        page_size: args.page_size,
        max_parallelism: args.max_parallelism,
        stride: args.stride,
        seconds,
        rows_per_second: p.items.total() as f64 / seconds.max(0.001),
        retries: p.retries,
        continue_as_new: p.runs.saturating_sub(1),
        batch_id: p.batch_id.clone(),
        address,
        ui_url,
        database: args.database.clone(),
    }
}

impl Summary {
    fn text(&self, verdict: &Verdict, look: &str, args: &DemoArgs, program: &Program) -> String {
        let name = &program.name;
        let verified = match verdict.is_right() {
            true => "every row checked and right".to_owned(),
            false => format!("{} right", number(self.rows_right)),
        };
        let kept = if args.keep {
            ""
        } else {
            " (gone now; --keep leaves it up)"
        };
        let ui = self.ui_url.as_deref().unwrap_or("none");
        let look = match (&self.database, args.keep) {
            (None, false) => {
                format!("{name} demo --keep          # look at batch and rows yourself")
            }
            _ => format!("{look}  # look at the rows yourself"),
        };
        let elsewhere = match args.keep {
            true => format!(
                "\n  {}   # in another terminal",
                program.of_batch("status", &self.batch_id)
            ),
            false => String::new(),
        };
        let outcome = match &self.reason {
            Some(reason) => format!("{}: {reason}", self.outcome),
            None => self.outcome.to_string(),
        };
        format!(
            "batch {}\n\
             {:<9}{} rows migrated, {verified}\n\
             {:<9}{} of up to {} rows, {} at a time, {} in a row\n\
             {:<9}{}, {} rows/s\n\
             {:<9}{} after failures that were made on purpose\n\
             {:<9}{}\n\
             {:<9}{ui}{kept}\n\
             next:{elsewhere}\n  \
               {look}\n  \
               {name} demo --fail-rate 0.5 --max-parallelism 2   # make it harder\n  \
               {name} dev-server           # then: {name} worker, {name} start PROCESSOR",
            outcome,
            "rows",
            number(self.rows - self.rows_unmigrated),
            "pages",
            number(self.pages),
            number(u64::from(self.page_size)),
            number(u64::from(self.max_parallelism)),
            number(u64::from(self.stride)),
            "time",
            duration(Duration::from_secs_f64(self.seconds)),
            per_second(self.rows_per_second),
            "retries",
            number(self.retries),
            "runs",
            format_args!(
                "{} times continued as new",
                number(u64::from(self.continue_as_new))
            ),
            "UI",
        )
    }
}

/// A sign of life for what has no percentage.
struct Spinner {
    bar: Option<ProgressBar>,
    text: String,
    since: Instant,
}

impl Spinner {
    fn new(text: &str) -> Self {
        let bar = has_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = BARS.add(ProgressBar::new_spinner());
            bar.set_style(style.expect("a template of known fields"));
            bar.set_message(text.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            text: text.to_owned(),
            since: Instant::now(),
        }
    }

    fn done(mut self) {
        self.clear();
        note(format_args!(
            "{}: {}",
            self.text,
            duration(self.since.elapsed())
        ));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_1() {
        assert_eq!(share("0.05"), Ok(0.05));
        for bad in ["-0.1", "1.1", "NaN", "x", ""] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
