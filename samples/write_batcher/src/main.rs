//! Many workflows, one write; see the README.

mod batcher_service;
mod demo;
mod main_service;
mod measure;
mod shop;
mod starter;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use temporal_batch::{BatchClient, ConnectOptions, PageError, cli::App};
use temporal_batch_batcher::{Batcher, BatcherClient, BatcherError, DeadRequests};

/// The result of a command. Its errors are only printed.
pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long a shutdown of the batcher may take.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(name = "write-batcher", about = "Many workflows, one write")]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// The flags of all commands.
#[derive(Args, Clone)]
pub(crate) struct Shared {
    /// Address of the Temporal server [default: TEMPORAL_ADDRESS, or 127.0.0.1:7233]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    address: Option<String>,
    /// The SQLite database of the orders
    #[arg(long, global = true, value_name = "FILE", default_value = "orders.db")]
    db: PathBuf,
    /// Shards of the batcher
    #[arg(long, global = true, default_value_t = 1)]
    shards: u32,
    /// Requests of a batch at most
    #[arg(long, global = true, default_value_t = 100)]
    max_batch: u32,
    /// Seconds that the first request of a batch waits at most
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 20.0)]
    max_wait: f64,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the worker of the batcher, which writes to the database
    BatcherWorker,
    /// Runs the worker of the workflows that place orders
    MainWorker,
    /// Starts the batcher, or attaches to it, and shows its counts until Ctrl-C
    StartBatcher {
        /// Return at once
        #[arg(long)]
        no_watch: bool,
    },
    /// Starts workflows that place orders, waits for them, and verifies the database
    StartRequesters(starter::StartArgs),
    /// Lists or redrives the orders that could not be written
    #[command(subcommand)]
    Dlq(Dlq),
    /// Shows the counts of the batcher
    Stats,
    /// Writes what waits, and ends the batcher
    Shutdown,
    /// Starts a server, both workers and 50 workflows, twice, in one process
    Demo {
        /// Seed of the orders and their ids
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Compares a batcher with one write per order, on a server of its own
    Measure {
        /// Workflows of each kind
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
        workflows: u32,
        /// Orders of each workflow, all at once
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(measure::MOST_ORDERS)))]
        orders: u32,
    },
}

#[derive(Subcommand)]
enum Dlq {
    /// Lists them, as `failures` of any batch does
    List,
    /// Writes them again, as `redrive` of any batch does
    Redrive {
        /// First drop the rule that refuses orders with a negative total
        #[arg(long)]
        accept_refunds: bool,
    },
}

impl Shared {
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        match &self.address {
            Some(address) => ConnectOptions::new().address(address),
            None => ConnectOptions::new(),
        }
    }

    pub(crate) async fn connect(&self) -> Fallible<BatchClient> {
        Ok(BatchClient::connect(&self.connect_options()).await?)
    }

    pub(crate) fn batcher(&self) -> Fallible<Batcher> {
        let max_wait = Duration::try_from_secs_f64(self.max_wait)
            .map_err(|error| format!("--max-wait {}: {error}", self.max_wait))?;
        let batcher = Batcher::new(shop::BATCHER, shop::WRITER, batcher_service::QUEUE)
            .shards(self.shards)
            .max_batch(self.max_batch)
            .max_wait(max_wait);
        batcher.validate()?;
        Ok(batcher)
    }

    pub(crate) async fn client(&self) -> Fallible<BatcherClient> {
        let batcher = self.batcher()?;
        Ok(BatcherClient::new(&self.connect().await?, batcher)?)
    }

    /// Runs a command of a batch on the dead letters of the batcher.
    pub(crate) async fn batch_command(&self, command: &str) -> ExitCode {
        let mut args = vec![
            "write-batcher",
            command,
            shop::BATCHER,
            "--processor",
            shop::WRITER,
        ];
        if let Some(address) = &self.address {
            args.extend(["--address", address]);
        }
        let db = self.db.clone();
        App::new("write-batcher")
            .processor(move || {
                let db = db.clone();
                async move { Ok::<_, PageError>(DeadRequests::of(shop::writer(&db).await?)) }
            })
            .run_from(args)
            .await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match Box::pin(run(&cli)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

async fn run(cli: &Cli) -> Fallible<ExitCode> {
    let shared = &cli.shared;
    match &cli.command {
        Command::BatcherWorker => {
            let client = shared.connect().await?;
            let worker = batcher_service::start(&client, &shared.db).await?;
            eprintln!("batcher-worker polls {}", batcher_service::QUEUE);
            tokio::signal::ctrl_c().await?;
            worker.stop().await?;
        }
        Command::MainWorker => {
            let client = shared.connect().await?;
            let worker = main_service::start(&client)?;
            eprintln!("main-worker polls {}", main_service::QUEUE);
            tokio::signal::ctrl_c().await?;
            worker.stop().await?;
        }
        Command::StartBatcher { no_watch } => start_batcher(shared, *no_watch).await?,
        Command::StartRequesters(args) => return starter::run(shared, args).await,
        Command::Dlq(Dlq::List) => return Ok(shared.batch_command("failures").await),
        Command::Dlq(Dlq::Redrive { accept_refunds }) => {
            if *accept_refunds {
                shop::accept_refunds(&shared.db).await?;
            }
            return Ok(shared.batch_command("redrive").await);
        }
        Command::Stats => {
            let stats = shared.client().await?.stats().await?;
            println!("{}", serde_json::to_string_pretty(&stats)?);
        }
        Command::Shutdown => {
            let stats = shared.client().await?.shut_down(SHUTDOWN).await?;
            println!("ended; {} orders written", stats.written);
        }
        Command::Demo { seed } => return Box::pin(demo::run(*seed, shared)).await,
        Command::Measure { workflows, orders } => {
            measure::run(*workflows, *orders, shared).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the batcher, or attaches to it. Ctrl-C ends the command, not the batcher.
async fn start_batcher(shared: &Shared, no_watch: bool) -> Fallible<()> {
    let client = shared.client().await?;
    let name = client.batcher().name();
    let found = client.start().await?;
    match found.started {
        0 => println!("batcher {name} is already running; attached"),
        started => println!(
            "batcher {name} started: {started} of {} shards",
            shared.shards
        ),
    }
    if found.other_limits {
        println!("it runs with other limits; shut it down to change them");
    }
    if no_watch {
        return Ok(());
    }
    let watching = async {
        let mut last = None;
        loop {
            match client.stats().await {
                Ok(stats) if last.as_ref() != Some(&stats) => {
                    println!(
                        "pending {} writing {} written {} failed {} writes {} runs {}",
                        stats.pending,
                        stats.writing,
                        stats.written,
                        stats.failed,
                        stats.writes,
                        stats.runs
                    );
                    last = Some(stats);
                }
                Ok(_) => {}
                Err(error @ BatcherError::Server(_)) => {
                    eprintln!(
                        "no counts: {}; is batcher-worker running?",
                        with_causes(&error)
                    );
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    tokio::select! {
        watched = watching => watched.map_err(Into::into),
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}
