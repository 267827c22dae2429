//! The processor with the command line of `temporal-batch` around it, an API to call, and a demo; see the README.
mod demo;
mod enrich;
mod mock_api;
mod result;
#[cfg(test)]
mod tests;
mod users;

use std::{ops::RangeInclusive, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use demo::DemoArgs;
use enrich::Enrich;
use mock_api::MockApi;
use temporal_batch::cli::App;

/// The commands that are not those of every program.
#[derive(Parser)]
#[command(name = "csv-enrichment")]
struct Own {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer calls for regions, until the process ends
    MockApi {
        /// The port on this machine; 0 for any
        #[arg(long, default_value = "8099")]
        port: u16,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Make a file of users
    Users {
        file: PathBuf,
        /// The number of users
        #[arg(long, default_value = "1000")]
        count: u64,
        #[arg(long, default_value = "42")]
        seed: u64,
    },
    /// Run everything on a server of its own, and check the result
    Demo(DemoArgs),
}

/// The behaviour of the API.
#[derive(Args, Clone)]
struct ApiArgs {
    /// The share of users for which it fails
    #[arg(long, default_value = "0.10")]
    fail_rate: f64,
    /// The time of an answer
    #[arg(long, default_value = "200..500", value_name = "FROM..TO")]
    latency_ms: String,
    #[arg(long, default_value = "42")]
    seed: u64,
}

impl ApiArgs {
    fn api(&self) -> Result<MockApi, String> {
        let range = self.latency_ms.split_once("..").and_then(|(from, to)| {
            let range: RangeInclusive<u64> = from.parse().ok()?..=to.parse().ok()?;
            (!range.is_empty()).then_some(range)
        });
        if !(0.0..=1.0).contains(&self.fail_rate) {
            return Err("--fail-rate is a share from 0 to 1".to_owned());
        }
        Ok(MockApi {
            fail_rate: self.fail_rate,
            latency_ms: range.ok_or("--latency-ms is a range such as 200..500")?,
            seed: self.seed,
        })
    }

    fn flags(&self) -> [String; 3] {
        [
            format!("--fail-rate={}", self.fail_rate),
            format!("--latency-ms={}", self.latency_ms),
            format!("--seed={}", self.seed),
        ]
    }
}

fn main() -> ExitCode {
    let own = ["mock-api", "users", "demo"];
    let first = std::env::args().nth(1);
    if !first.is_some_and(|first| own.contains(&first.as_str())) {
        return App::new("csv-enrichment")
            .about("Adds the region that an API knows to each user of a CSV file")
            .processor(|| async { Enrich::new() })
            .main();
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    match runtime.block_on(run(Own::parse().command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match command {
        Command::MockApi { port, api } => {
            let api = api.api()?;
            let (listener, address) = mock_api::listen(port).await?;
            println!("listening on http://{address}");
            api.serve(listener).await;
            Ok(())
        }
        Command::Users { file, count, seed } => Ok(users::write(&file, count, seed)?),
        Command::Demo(demo) => demo.run().await,
    }
}
