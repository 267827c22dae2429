//! The cost of the engine, compared with peers that do as little as possible, in one run on the project's dev server.
//!
//! `cargo bench --bench engine` measures everything, `-- --help` lists the arms and flags. The arms are explained in
//! `docs/performance.md`. Run it on an idle machine: the output tells how busy the machine was at the beginning.
//!
//! Workers are separate processes, so that their CPU time and memory are measured apart from the server's.

mod arm_server;
mod arms;
mod bare;
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

use arm_server::ArmServer;
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
            // Servers and workers end with their owners.
            eprintln!("interrupted; the measurements are not kept");
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

/// Measures one arm on a server of its own.
async fn run(arm: Arm, options: &Options, table: &mut Table) -> Result<(), Error> {
    let server = ArmServer::start(&options.dynamic_config).await?;
    let measured = match arm {
        Arm::Noop => arms::noop::run(&server, options, table).await,
        Arm::Chain => arms::chain::run(&server, options, table).await,
        Arm::Sleep => arms::sleep::run(&server, options, table).await,
        Arm::Growth => arms::growth::run(&server, options, table).await,
        Arm::Events => arms::events::run(&server, options, table).await,
        Arm::Dips => arms::dips::run(&server, options, table).await,
        Arm::Kill => arms::kill::run(&server, options, table).await,
        Arm::Partitions => arms::partitions::run(&server, options, table).await,
        Arm::Tuning => arms::tuning::run(&server, options, table).await,
    };
    let stopped = server.stop().await;
    measured.and(stopped)
}
