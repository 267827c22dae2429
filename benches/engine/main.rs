//! What the engine costs, beside peers that do as little as possible, in one run on the project's dev server.
//!
//! `cargo bench --bench engine` measures everything, `-- --help` lists the arms and flags. What each arm means
//! is in `docs/performance.md`. Run it on an idle machine: it says how busy the machine was when it began.
//!
//! Workers are processes of their own, so that their CPU time and memory can be told from the server's.

mod arms;
mod bare;
mod bed;
mod machine;
mod options;
mod pages;
mod process;
mod report;
mod stamps;
#[path = "../../samples/partitions/tenants.rs"]
mod tenants;
mod worker_process;

use std::{process::ExitCode, time::Instant};

use bed::Bed;
use options::{Arm, Options, USAGE};
use report::{ArmReport, Report, Table};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    if let Some(role) = worker_process::Role::of_this_process()? {
        role.play().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    tokio::select! {
        measured = measure(&options) => measured,
        _ = tokio::signal::ctrl_c() => {
            // Servers and workers end with what owns them.
            eprintln!("interrupted; what was measured is not kept");
            Ok(ExitCode::from(130))
        }
    }
}

async fn measure(options: &Options) -> Result<ExitCode, Error> {
    let mut report = Report::begin(options).await?;
    println!("{}", report.heading());
    for &arm in &options.arms {
        eprintln!("{}: {} ...", arm.name(), arm.about());
        let began = Instant::now();
        let mut table = Table::default();
        let ended = run(arm, options, &mut table).await;
        let error = ended.err().map(|error| error.to_string());
        let done = ArmReport::new(arm, began.elapsed(), table, error);
        println!("{}", done.markdown());
        report.arms.push(done);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(match report.failed() {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    })
}

/// Each arm has a server of its own.
async fn run(arm: Arm, options: &Options, table: &mut Table) -> Result<(), Error> {
    let bed = Bed::start(&options.dynamic_config).await?;
    let measured = match arm {
        Arm::Noop => arms::noop::run(&bed, options, table).await,
        Arm::Chain => arms::chain::run(&bed, options, table).await,
        Arm::Sleep => arms::sleep::run(&bed, options, table).await,
        Arm::Growth => arms::growth::run(&bed, options, table).await,
        Arm::Events => arms::events::run(&bed, options, table).await,
        Arm::Dips => arms::dips::run(&bed, options, table).await,
        Arm::Kill => arms::kill::run(&bed, options, table).await,
        Arm::Partitions => arms::partitions::run(&bed, options, table).await,
        Arm::Tuning => arms::tuning::run(&bed, options, table).await,
    };
    let stopped = bed.stop().await;
    measured.and(stopped)
}
