//! Typed steps per page and per item, one recipe after another; see the README.

mod orders;
mod persist;
mod recipe;
mod run;
mod shop_pages;
mod sink;
mod sizes;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum as _};
use recipe::Recipe;
use run::{Settings, Setup};
use shop_pages::ShopPages;
use sink::Sink;
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
    /// File in which the calls of the recipes are written down [default: a new one; for worker and start page-pipeline.db]
    #[arg(long, global = true)]
    sink: Option<PathBuf>,
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
    Recipe(Recipe),
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
    let given = cli.sink.as_deref();
    let shared = given.unwrap_or(Path::new("page-pipeline.db"));
    match &cli.command {
        Command::Worker => {
            let client = connect(&elsewhere).await?;
            let worker = worker(&client, &Sink::open(shared).await?)?;
            println!("worker on task queue {QUEUE}; Ctrl-C ends it");
            Ok(worker.run().await?)
        }
        Command::Start { recipe } => {
            let setup = Setup {
                client: connect(&elsewhere).await?,
                address: elsewhere,
                sink: Sink::open(shared).await?,
                settings,
            };
            run::run(&setup, *recipe).await
        }
        Command::PersistWorker { folder } => {
            persist::worker(&connect(&elsewhere).await?, folder.clone()).await
        }
        Command::Demo => run_here(&cli, settings, Recipe::value_variants()).await,
        Command::Recipe(recipe) => run_here(&cli, settings, &[*recipe]).await,
    }
}

fn worker(client: &BatchClient, sink: &Sink) -> Result<Worker, Error> {
    Ok(Worker::new(client, QUEUE).processor(ShopPages::new(sink)?))
}

async fn connect(address: &str) -> Result<BatchClient, Error> {
    let options = ConnectOptions::new().address(address);
    Ok(BatchClient::connect(&options).await?)
}

/// Runs recipes with a worker in this process, on the given server or else on one of its own.
async fn run_here(cli: &Cli, settings: Settings, recipes: &[Recipe]) -> Result<(), Error> {
    let server = match &cli.address {
        Some(_) => None,
        None => Some(DevServerOptions::new().ui(false).start().await?),
    };
    let own = server
        .as_ref()
        .map(temporal_batch::dev_server::DevServer::address);
    let address = cli.address.clone().or(own).unwrap_or_default();
    let folder = tempfile::tempdir()?;
    let of_its_own = folder.path().join("sink.db");
    let sink = Sink::open(cli.sink.as_deref().unwrap_or(&of_its_own)).await?;
    let worker = worker(&connect(&address).await?, &sink)?.start()?;
    let setup = Setup {
        client: connect(&address).await?,
        address,
        sink,
        settings,
    };
    let mut outcome = Ok(());
    for recipe in recipes {
        outcome = run::run(&setup, *recipe).await;
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
