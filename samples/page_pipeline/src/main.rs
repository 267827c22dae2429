//! Typed steps per page and per item, one recipe after another; see the README.

mod orders;
mod persist;
mod recipe;
mod run;
mod shop_pages;
mod sizes;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use recipe::Recipe;
use run::Settings;
use shop_pages::ShopPages;
use temporal_batch::{BatchClient, ConnectOptions, Worker, dev_server::DevServerOptions};

/// Any error.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The task queue of all recipes but `persist`.
pub const QUEUE: &str = "page-pipeline";

/// Typed steps per page and per item, one recipe after another
#[derive(Parser)]
struct Cli {
    /// Seed of the orders
    #[arg(long, default_value_t = 7, global = true)]
    seed: u64,
    /// Address of a Temporal server [default: that of TEMPORAL_ADDRESS, or else a dev server of its own; for worker and start localhost:7233]
    #[arg(long, global = true)]
    address: Option<String>,
    /// Number of orders of the recipe `memory`
    #[arg(long, default_value_t = 1_000_000, global = true)]
    memory_orders: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every recipe, with a worker of its own
    Demo,
    /// Runs a worker until Ctrl-C
    Worker,
    /// Runs a recipe on a worker that runs elsewhere
    Start {
        /// The recipe
        recipe: Recipe,
    },
    #[command(hide = true)]
    PersistWorker { folder: PathBuf },
    #[command(flatten)]
    Part(Part),
}

/// A recipe with a worker of its own.
#[derive(Clone, Copy, Subcommand)]
enum Part {
    /// Pages of 100 orders, a short last one, no orders, one order
    Basic,
    /// The progress while the batch runs
    Progress,
    /// A page that fails, and the next ones
    Errors,
    /// Five pages at once
    Parallel,
    /// Pages that are processed or skipped
    Conditional,
    /// Counters of pages that are tried twice
    State,
    /// Steps of single orders
    Foreach,
    /// Orders that fail, and the others of their page
    ForeachErrors,
    /// Orders that are processed or skipped
    ForeachConditional,
    /// A call that fails, its retries and its fallback
    Retry,
    /// Ten orders a second
    RateLimit,
    /// The memory of a large batch
    Memory,
    /// A worker that is killed, and one that continues
    Persist,
    /// Page sizes by the bytes of an item
    Sizes,
    /// The time that pages take
    Perf,
}

impl Part {
    const ALL: [Self; 15] = [
        Self::Basic,
        Self::Progress,
        Self::Errors,
        Self::Parallel,
        Self::Conditional,
        Self::State,
        Self::Foreach,
        Self::ForeachErrors,
        Self::ForeachConditional,
        Self::Retry,
        Self::RateLimit,
        Self::Memory,
        Self::Persist,
        Self::Sizes,
        Self::Perf,
    ];

    async fn run(
        self,
        client: &BatchClient,
        address: &str,
        settings: Settings,
    ) -> Result<(), Error> {
        let recipe = match self {
            Self::Basic => Recipe::Basic,
            Self::Progress => Recipe::Progress,
            Self::Errors => Recipe::Errors,
            Self::Parallel => Recipe::Parallel,
            Self::Conditional => Recipe::Conditional,
            Self::State => Recipe::State,
            Self::Foreach => Recipe::Foreach,
            Self::ForeachErrors => Recipe::ForeachErrors,
            Self::ForeachConditional => Recipe::ForeachConditional,
            Self::Retry => Recipe::Retry,
            Self::RateLimit => Recipe::RateLimit,
            Self::Memory => Recipe::Memory,
            Self::Perf => Recipe::Perf,
            Self::Persist => return persist::run(client, address).await,
            Self::Sizes => {
                sizes::run();
                return Ok(());
            }
        };
        run::run(client, recipe, settings).await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut cli = Cli::parse();
    let given = std::env::var("TEMPORAL_ADDRESS").ok();
    cli.address = cli.address.or(given.filter(|address| !address.is_empty()));
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Error> {
    let settings = Settings {
        seed: cli.seed,
        memory_orders: cli.memory_orders,
    };
    let elsewhere = cli
        .address
        .clone()
        .unwrap_or_else(|| "localhost:7233".to_owned());
    match &cli.command {
        Command::Worker => {
            let client = connect(&elsewhere).await?;
            println!("worker on task queue {QUEUE}; Ctrl-C ends it");
            Ok(worker(&client)?.run().await?)
        }
        Command::Start { recipe } => {
            let client = connect(&elsewhere).await?;
            run::run(&client, *recipe, settings).await
        }
        Command::PersistWorker { folder } => {
            persist::worker(&connect(&elsewhere).await?, folder.clone()).await
        }
        Command::Demo => run_here(&cli, settings, &Part::ALL).await,
        Command::Part(part) => run_here(&cli, settings, &[*part]).await,
    }
}

fn worker(client: &BatchClient) -> Result<Worker, Error> {
    Ok(Worker::new(client, QUEUE).processor(ShopPages::new()?))
}

async fn connect(address: &str) -> Result<BatchClient, Error> {
    let options = ConnectOptions::new().address(address);
    Ok(BatchClient::connect(&options).await?)
}

/// Runs parts with a worker in this process, on the given server or else on one of its own.
async fn run_here(cli: &Cli, settings: Settings, parts: &[Part]) -> Result<(), Error> {
    let server = match &cli.address {
        Some(_) => None,
        None => Some(DevServerOptions::new().ui(false).start().await?),
    };
    let own = server
        .as_ref()
        .map(temporal_batch::dev_server::DevServer::address);
    let address = cli.address.clone().or(own).unwrap_or_default();
    let client = connect(&address).await?;
    let worker = worker(&connect(&address).await?)?.start()?;
    let mut outcome = Ok(());
    for part in parts {
        outcome = part.run(&client, &address, settings).await;
        if outcome.is_err() {
            break;
        }
    }
    worker.stop().await?;
    if let Some(server) = server {
        server.stop().await?;
    }
    outcome
}
