//! `list`: lists the batches that the server remembers.

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        args::temporal_server::ConnectionArgs,
        exit::{CliResult, Exit},
        output::{self, columns, time},
        render::batch_view::SCHEMA,
    },
    engine::client::ListedBatch,
};

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Most batches to show, the latest first
    #[arg(
        long,
        default_value_t = 20,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listing {
    schema: u32,
    batches: Vec<ListedBatch>,
}

impl ListArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        let connected = connection.connect().await?;
        let batches = connected.client.list(self.limit as usize).await?;
        if self.json {
            output::json(&Listing {
                schema: SCHEMA,
                batches,
            });
        } else if batches.is_empty() {
            output::note("the server has no batch");
        } else {
            output::result(table(&batches));
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}

fn table(batches: &[ListedBatch]) -> String {
    let mut rows = vec![
        [
            "BATCH",
            "PROCESSOR",
            "STATE",
            "STARTED",
            "TASK QUEUE",
            "REDRIVES",
        ]
        .map(str::to_owned),
    ];
    rows.extend(batches.iter().map(|batch| {
        [
            batch.batch_id.clone(),
            batch.processor.clone().unwrap_or_else(|| "?".to_owned()),
            match batch.outcome {
                Some(outcome) => outcome.to_string(),
                None => batch.state.to_string(),
            },
            batch.started_at.map_or_else(|| "?".to_owned(), time),
            batch.task_queue.clone(),
            batch.redrive_of.clone().unwrap_or_default(),
        ]
    }));
    columns(&rows)
}
