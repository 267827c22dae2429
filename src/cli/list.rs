//! `list`: the batches that the server remembers.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::{
    connection::ConnectionArgs,
    exit::{CliResult, Exit},
    look::SCHEMA,
    output,
};
use crate::{client::ListedBatch, progress::Timestamp};

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Most batches to show, the latest first
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,

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
        let batches = connected.client.list(self.limit).await?;
        if self.json {
            output::json(&Listing {
                schema: SCHEMA,
                batches,
            });
        } else if batches.is_empty() {
            output::note("the server remembers no batch");
        } else {
            output::result(table(&batches));
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}

fn table(batches: &[ListedBatch]) -> String {
    let mut rows =
        vec![["BATCH", "PROCESSOR", "STATE", "STARTED", "TASK QUEUE"].map(str::to_owned)];
    rows.extend(batches.iter().map(|batch| {
        [
            batch.batch_id.clone(),
            batch.processor.clone().unwrap_or_else(|| "?".to_owned()),
            batch.state.to_string(),
            batch.started_at.map_or_else(|| "?".to_owned(), time),
            batch.task_queue.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 5] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; 5]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn time(at: Timestamp) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(at.0);
    humantime::format_rfc3339_seconds(time).to_string()
}
