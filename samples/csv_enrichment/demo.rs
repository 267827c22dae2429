//! `demo`: the whole sample in one command, which checks its own result.

use std::{
    error::Error,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use clap::Args;
use temporal_batch::{
    Batch, BatchClient, ConnectOptions, Outcome, Worker,
    dev_server::DevServerOptions,
    files::CsvSource,
    settings::{Limit, OnExceeded, Tolerance},
};

use super::{
    ApiArgs,
    enrich::{Enrich, EnrichArgs},
    result, users,
};

#[derive(Args)]
pub struct DemoArgs {
    /// The number of users
    #[arg(long, default_value = "1000")]
    users: u64,

    #[command(flatten)]
    api: ApiArgs,

    /// The share of failed records, in percent, above which the batch stops
    #[arg(long, default_value = "20", value_name = "PERCENT")]
    tolerate: f64,

    /// The folder for the files; it must not exist
    #[arg(long, default_value = "csv-enrichment")]
    dir: PathBuf,
}

type BoxError = Box<dyn Error + Send + Sync>;

/// The process of the API, which ends with this one.
struct ApiProcess(Child);

impl Drop for ApiProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ApiProcess {
    /// Starts the API, and returns its address.
    fn start(args: &ApiArgs) -> Result<(Self, String), BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["mock-api", "--port", "0"])
            .args(args.flags())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the API has no output")?;
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ");
        let url = url.ok_or("the API did not say where it listens")?;
        Ok((process, url.to_owned()))
    }
}

/// Returns the tolerance of a batch that stops when more than this share of its users fails.
pub fn tolerance(percent: f64) -> Tolerance {
    Tolerance::new()
        .items(Limit::percent(percent))
        .then(OnExceeded::Stop)
}

impl DemoArgs {
    pub async fn run(&self) -> Result<(), BoxError> {
        std::fs::create_dir(&self.dir)?;
        let dir = std::path::absolute(&self.dir)?;
        let file = dir.join("users.csv");
        users::write(&file, self.users, self.api.seed)?;
        let (_api, url) = ApiProcess::start(&self.api)?;
        println!("mock API: {url}");
        let server = DevServerOptions::new().start().await?;
        let options = ConnectOptions::new().address(server.address());
        let client = BatchClient::connect(&options).await?;
        let enrich = Enrich::new()?;
        let throttle = enrich.api().throttle();
        let worker = Worker::new(&client, "csv-enrichment").processor(enrich);
        let worker = worker.throttle(throttle).start()?;
        let args = EnrichArgs {
            users: CsvSource::new(&file),
            api: url,
            out: dir.join("out"),
            failed: dir.join("failed.jsonl"),
        };
        let batch = Batch::of::<Enrich>("csv-enrichment", args.clone())
            .task_queue("csv-enrichment")
            .page_size(100)
            .stride(1)
            .throttle("regions")
            .tolerate(tolerance(self.tolerate))
            .check_at_end(true);
        let report = client.start(&batch).await?.result().await?;
        worker.stop().await?;
        server.stop().await?;
        let items = report.progress.items;
        println!(
            "batch: {:?}, {} processed, {} failed",
            report.outcome, items.processed, items.failed
        );
        if !matches!(
            report.outcome,
            Outcome::Completed | Outcome::CompletedWithFailures
        ) {
            println!(
                "the API failed for more than {} % of the users, so the batch stopped",
                self.tolerate
            );
            return Err("stopped".into());
        }
        self.check(&args, items.failed)
    }

    /// Compares the result with what the seed of the API says.
    fn check(&self, args: &EnrichArgs, failed: u64) -> Result<(), BoxError> {
        let counts = result::read(&args.out)?;
        let total = counts.enriched + counts.unenriched;
        for (page, (enriched, unknown)) in (1..).zip(&counts.pages) {
            let rows = enriched + unknown;
            println!("page {page}: {rows} rows, {enriched} enriched, {unknown} UNKNOWN");
        }
        println!(
            "enriched {}, unenriched {}, total {total}",
            counts.enriched, counts.unenriched
        );
        println!(
            "files: {} in {} (no duplicates)",
            counts.pages.len(),
            args.out.display()
        );
        println!("failed records: {}", args.failed.display());
        let api = self.api.api()?;
        let expected = (1..=self.users).filter(|id| api.fails_for(*id)).count();
        let letters = std::fs::read_to_string(&args.failed).unwrap_or_default();
        let listed = letters.lines().count();
        let sound = total as u64 == self.users
            && counts.unenriched == expected
            && failed == expected as u64
            && listed == expected;
        if !sound {
            return Err(format!(
                "{expected} users should have failed; {} rows, {failed} counted, {listed} listed",
                counts.unenriched
            )
            .into());
        }
        println!("verified: every user is there once, every failure is counted and listed");
        Ok(())
    }
}
