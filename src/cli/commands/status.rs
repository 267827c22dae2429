//! `status`: one look at a batch.

use clap::Args;

use crate::{
    base::error::text::words,
    batch::{letter_filter::LetterFilter, validate::validate_id},
    cli::{
        args::temporal_server::ConnectionArgs,
        commands::redrive::args_of,
        exit::{CliResult, Exit},
        processors::Processors,
        render::{
            audit,
            batch_view::Look,
            output,
            repair::{Broken, Repair},
        },
        shell::Program,
    },
    engine::client::{BatchClient, BatchHandle},
};

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Show who did what to the batch, when and why, instead
    #[arg(long)]
    audit: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::DatabaseArgs,
}

impl StatusArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
        program: &Program,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        if self.audit {
            audit::show(&look(&handle, program).await?, self.json);
        } else {
            let look = look(&handle, program).await?;
            let repair = repair(&connected.client, &look, processors).await?;
            tell(look.with_repair(repair), self.json, program);
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}

/// Prints one look. Without a worker it is what the server knows.
pub(crate) async fn show(handle: &BatchHandle, json: bool, program: &Program) -> CliResult<()> {
    tell(look(handle, program).await?, json, program);
    Ok(())
}

fn tell(look: Look, json: bool, program: &Program) {
    if json {
        output::json(&look);
    } else {
        output::result(look.table());
        look.hint(program);
    }
}

/// The repair of the failures of a batch that has ended.
async fn repair(
    client: &BatchClient,
    look: &Look,
    processors: &Processors,
) -> CliResult<Option<Repair>> {
    let Some(progress) = look.progress().filter(|_| look.has_ended()) else {
        return Ok(None);
    };
    // A redrive has no arguments of its own, and what was given up is not its own either.
    let Ok(source) = client.redrive_of(LetterFilter::of(look.batch_id())).await else {
        return Ok(None);
    };
    let args = args_of(&source)?;
    let broken = Broken {
        progress,
        args: &args,
    };
    Repair::of(client, broken, processors).await
}

/// Takes one look, and says why the progress is unknown if it is.
async fn look(handle: &BatchHandle, program: &Program) -> CliResult<Look> {
    let look = Look::at(handle, program).await?;
    if let Some(trouble) = look.trouble() {
        output::note(format_args!("its progress is unknown: {}", words(trouble)));
    }
    Ok(look)
}
