//! `status`: shows a batch once.

use clap::Args;

use crate::{
    batch::letter_filter::LetterFilter,
    cli::{
        args::temporal_server::ConnectionArgs,
        dead_letters::{
            known_batch::args_of,
            repair::{FailedBatch, Repair},
        },
        exit::{CliResult, Exit},
        processors::Processors,
        render::{audit, batch_view::BatchView},
        shell::Program,
    },
    engine::client::BatchClient,
};

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Show the audit instead: who did what to the batch, when and why
    #[arg(long)]
    audit: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::database::DatabaseArgs,
}

impl StatusArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
        program: &Program,
    ) -> CliResult {
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        if self.audit {
            audit::show(&BatchView::told(&handle, program).await?, self.json);
        } else {
            let look = BatchView::told(&handle, program).await?;
            let repair = repair(&connected.client, &look, processors).await?;
            look.with_repair(repair).print(self.json, program);
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}

/// Returns the repair of the failures of a batch that has ended.
async fn repair(
    client: &BatchClient,
    look: &BatchView,
    processors: &Processors,
) -> CliResult<Option<Repair>> {
    let Some(progress) = look.progress().filter(|_| look.has_ended()) else {
        return Ok(None);
    };
    // The failures of a redrive belong to the batch that it redrives.
    let Ok(source) = client.redrive_of(LetterFilter::of(look.batch_id())).await else {
        return Ok(None);
    };
    let args = args_of(&source)?;
    let broken = FailedBatch {
        progress,
        args: &args,
    };
    Repair::of(client, broken, processors).await
}
