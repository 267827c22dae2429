//! Fulfils orders, each in a child workflow of its own. See README.md.

mod console;
mod demo;
mod fulfil;
mod orders;
mod verify;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use temporal_batch::{BatchClient, ConnectOptions};
use temporal_batch_fanout::{FanoutWorker, Mode};

use fulfil::Fulfil;

/// The task queue of the sample.
const QUEUE: &str = "child-fanout";
/// The longest wait for a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Fulfils orders, each in a child workflow of its own.
///
/// The address and the namespace of the server come from TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE.
#[derive(Parser)]
#[command(name = "child-fanout")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs BATCH-001, which joins its children, and BATCH-002, whose children signal, with a worker in this process.
    Demo(Settings),
    /// Runs a worker until Ctrl-C.
    Worker {
        #[command(flatten)]
        folder: Folder,
    },
    /// Starts one batch, shows its progress, and verifies its shipments.
    Start {
        /// The id of the batch.
        #[arg(long, default_value = "BATCH-001")]
        id: String,
        /// The way in which the parent learns of ends.
        #[arg(long, value_enum, default_value_t)]
        mode: ModeArg,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Args, Clone)]
struct Folder {
    /// The folder of the shipments, which the worker and the verification share.
    #[arg(long, default_value_os_t = std::env::temp_dir().join("child-fanout"))]
    out: PathBuf,
}

#[derive(Args, Clone)]
struct Settings {
    /// The number of orders.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    items: u32,
    /// The most children at the same time.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    window: u32,
    /// Orders whose card is declined, such as ITEM-004.
    #[arg(long, value_name = "ITEM")]
    fail: Vec<String>,
    /// The effect of a failed order on the others.
    #[arg(long, value_enum, default_value_t)]
    policy: Policy,
    /// The seed of the amounts and times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum Policy {
    /// The others go on.
    #[default]
    CollectAll,
    /// The others are cancelled.
    FailFast,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum ModeArg {
    #[default]
    JoinAll,
    Signals,
}

#[tokio::main]
async fn main() -> ExitCode {
    console::show_completions();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn run(cli: Cli) -> Result<(), Failure> {
    let command = match cli.command {
        Some(command) => command,
        // Without a command the demo runs, with its defaults.
        None => Cli::parse_from(["child-fanout", "demo"])
            .command
            .expect("a command was given"),
    };
    let client = connect().await?;
    match command {
        Command::Demo(settings) => {
            let fulfil = Fulfil::into_folder(&settings.folder.out)?;
            let worker = FanoutWorker::new(&client, QUEUE)
                .processor(fulfil)
                .start()?;
            // One of them may not hide what the other has found.
            let first = demo::batch(&client, "BATCH-001", Mode::JoinAll, &settings).await;
            let second = demo::batch(&client, "BATCH-002", Mode::Signals, &settings).await;
            worker.stop().await?;
            first.and(second)
        }
        Command::Worker { folder } => {
            let fulfil = Fulfil::into_folder(&folder.out)?;
            println!("Worker polls \"{QUEUE}\"; Ctrl-C stops it");
            Ok(FanoutWorker::new(&client, QUEUE)
                .processor(fulfil)
                .run()
                .await?)
        }
        Command::Start { id, mode, settings } => {
            let mode = match mode {
                ModeArg::JoinAll => Mode::JoinAll,
                ModeArg::Signals => Mode::Signals,
            };
            demo::batch(&client, &id, mode, &settings).await
        }
    }
}

async fn connect() -> Result<BatchClient, Failure> {
    let options = ConnectOptions::new();
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, BatchClient::connect(&options)).await;
    match connecting {
        Ok(client) => Ok(client?),
        Err(_) => Err(format!(
            "no answer from a Temporal server within {} s; start one with `temporal server start-dev`, or set TEMPORAL_ADDRESS",
            CONNECT_TIMEOUT.as_secs()
        )
        .into()),
    }
}
