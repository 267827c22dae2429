//! Everything in one process: a server, both services, and workflows.

use std::process::ExitCode;

use temporal_batch::dev_server::DevServerOptions;

use crate::{Fallible, SHUTDOWN, Shared, batcher_service, main_service, shop, starter};

const WORKFLOWS: u32 = 50;

pub(crate) async fn run(seed: u64, shared: &Shared) -> Fallible<ExitCode> {
    let folder = tempfile::tempdir()?;
    let server = DevServerOptions::new().start().await?;
    let shared = Shared {
        address: Some(server.address()),
        db: folder.path().join("orders.db"),
        ..shared.clone()
    };
    let client = shared.connect().await?;
    let batcher_worker = batcher_service::start(&client, &shared.db).await?;
    let main_worker = main_service::start(&client)?;

    println!("# {WORKFLOWS} workflows");
    let first = starter::StartArgs {
        workflows: WORKFLOWS,
        poison: 0,
        seed: Some(seed),
    };
    let first = starter::run(&shared, &first).await?;
    println!("\n# {WORKFLOWS} workflows, one with an order that the database refuses");
    let second = starter::StartArgs {
        workflows: WORKFLOWS,
        poison: 1,
        seed: Some(seed + 1),
    };
    let second = starter::run(&shared, &second).await?;
    println!("\n# the order is accepted after all");
    shop::accept_refunds(&shared.db).await?;
    let redriven = shared.batch_command("redrive").await;
    let rows = shop::rows(&shared.db, "main-workflow-").await?;
    let all = rows.len() == 2 * WORKFLOWS as usize && rows.values().all(|times| *times == 1);
    println!(
        "{} orders, each once: {}",
        rows.len(),
        if all { "OK" } else { "WRONG" }
    );

    let batcher = shared.client().await?;
    batcher.shut_down(SHUTDOWN).await?;
    batcher_worker.stop().await?;
    main_worker.stop().await?;
    server.stop().await?;
    let holds = all
        && [first, second, redriven]
            .iter()
            .all(|code| *code == ExitCode::SUCCESS);
    Ok(match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
