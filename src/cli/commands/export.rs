//! `export`: writes the rows of a table into files, with worker and batch in one process.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    base::error::text::words,
    batch::Batch,
    cli::{
        args::{databases::database::DatabaseArgs, table::table_spec, values::absolute},
        commands::output_directory,
        exit::{CliError, CliResult, Exit},
        output::{count, note},
        render::sentences,
        session::{
            CommandContext,
            args::SessionArgs,
            batch_id::{WorkId, named},
            database::SessionDatabase,
        },
        shell::Program,
    },
    files::{Manifest, SinkError, SinkState, sink_state},
    page::size::Size,
    processor::PageProcessor as _,
    sql::{Database, ExportArgs, ExportFormat, HighWaterMark, SqlExport, Table},
    stride::redrive::letters_of,
};

#[derive(Args, Debug)]
pub(crate) struct ExportCommand {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// The table, also as schema.table
    #[arg(long, value_name = "TABLE")]
    table: String,

    /// The columns of a unique key, by which pages are found [default: the primary key]
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    key: Vec<String>,

    /// Only the rows for which this condition holds
    #[arg(long = "where", value_name = "CONDITION")]
    filter: Option<String>,

    /// The columns that are written, in this order [default: all]
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    columns: Vec<String>,

    /// The directory of the files, new or empty
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// The format of the rows
    #[arg(long, value_name = "FORMAT")]
    format: Format,

    /// The text that stands for NULL in CSV [default: nothing, and an empty text is ""]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    null: String,

    /// Compress the files
    #[arg(long)]
    gzip: bool,

    /// Write all rows also into this single file, in their order
    #[arg(long, value_name = "FILE")]
    concatenate: Option<PathBuf>,

    /// Continue while there are rows, instead of ending at the highest key of the start
    #[arg(long)]
    no_high_water_mark: bool,

    /// Accept a table for which the database would read or sort more than one page for each page
    #[arg(long)]
    allow_slow_pages: bool,

    /// Accept a table with active row security: rows that a policy hides are left out (PostgreSQL)
    #[arg(long)]
    allow_row_security: bool,

    #[command(flatten)]
    session: SessionArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Comma-separated values with a header
    Csv,
    /// A JSON object on each line
    Jsonl,
}

impl ExportCommand {
    pub(crate) async fn run(&self, context: &CommandContext<'_>) -> CliResult {
        let limits = self.session.limits(SqlExport::NAME)?;
        let database = SessionDatabase::connect(&self.database, &limits).await?;
        let exit = self.export(limits, &database, context).await;
        database.close().await;
        exit
    }

    async fn export(
        &self,
        limits: Batch,
        database: &SessionDatabase,
        context: &CommandContext<'_>,
    ) -> CliResult {
        let limits = self.session.fitted(limits, database);
        let args = self.args(&database.database).await?;
        let processor = SqlExport::new(database.connections(&args.connection));
        let refused = |error| CliError::refused(&error);
        let table = processor.check_args(&args).await.map_err(refused)?;
        let rows = processor.size(&args).await.map_err(refused)?;
        let meant_by = database.meant_by(args.table.filter.as_deref().into_iter());
        let made = work_id(&database.target, &args, meant_by);
        let id = self.session.batch_id(&made);
        self.check_directory(&args, &id)?;
        tell(&args, &table, &database.shown, rows);
        let batch = self
            .session
            .batch(limits, &id, &args, ("export", &database.target))?;
        // The check puts the parts together.
        let batch = batch.check_at_end(true);
        batch.validate()?;
        let letters = letters_of(&processor, &args);
        let rerun = "--to and another directory export the rows once more".to_owned();
        let session = self.session.session(batch, context, None, letters, rerun);
        let worker = self.session.worker(processor, database.slots(), context)?;
        match session.attended(context.connection, worker).await? {
            Exit::Done => finish(&args, &id, context.program),
            exit => {
                if exit == Exit::WithFailures {
                    note("the result is not complete, so it has no manifest");
                }
                Ok(exit)
            }
        }
    }

    async fn args(&self, database: &Database) -> CliResult<ExportArgs> {
        let table = table_spec(database, &self.table, &self.key, self.filter.as_deref()).await?;
        let table = table.allow_row_security(self.allow_row_security);
        let format = match self.format {
            Format::Csv => ExportFormat::Csv,
            Format::Jsonl => ExportFormat::JsonL,
        };
        // Paths are absolute, because a command that continues the batch may run in another directory.
        let mut args = ExportArgs::new(table, absolute(&self.to)?)
            .columns(&self.columns)
            .format(format)
            .gzip(self.gzip);
        if let Some(file) = &self.concatenate {
            let file = absolute(file)?;
            if file.is_dir() || file.file_name().is_none() {
                return Err(CliError::usage(format_args!(
                    "--concatenate names a file, and {} is a directory",
                    file.display()
                )));
            }
            args = args.concatenate(file);
        }
        args.null.clone_from(&self.null);
        args.allow_slow_pages = self.allow_slow_pages;
        if self.no_high_water_mark {
            args.high_water_mark = HighWaterMark::Off;
        }
        Ok(args)
    }

    /// Refuses at the start what the first page would be refused for.
    fn check_directory(&self, args: &ExportArgs, id: &str) -> CliResult<()> {
        let single = args.concatenate.as_deref();
        output_directory::check(&args.to, single, id, self.session.rerun)
    }
}

/// Returns the id of the batch with these arguments on that database.
fn work_id(target: &str, args: &ExportArgs, meant_by: Option<&str>) -> WorkId {
    let work = serde_json::json!([args, meant_by]);
    named("export", target, &args.table.table, &work)
}

fn tell(args: &ExportArgs, table: &Table, database: &str, rows: Size) {
    let line = |what: &str, text: String| note(format_args!("{what:<11}{text}"));
    line("database", database.to_owned());
    let system = table.database().system();
    line("table", format!("{} in {system}", table.quoted_name()));
    line("key", table.spec().key.join(", "));
    if let Some(filter) = &table.spec().filter {
        line("where", filter.clone());
    }
    line("rows", sentences::size(rows));
    line("to", args.to.display().to_string());
    line(
        "shows",
        "each page as of its read, not the table at a single moment".to_owned(),
    );
}

/// Prints the result, which the check at the end of the batch has put together.
fn finish(args: &ExportArgs, id: &str, program: &Program) -> CliResult {
    match sink_state(&args.to).map_err(failed)? {
        SinkState::Finished(manifest) => Ok(told(args, &manifest)),
        // The batch was started by other means, without a check at its end.
        SinkState::Unfinished(_) => Err(CliError::failure(format_args!(
            "the batch is done, but the parts in {} have not been put together",
            args.to.display()
        ))
        .hint(format!("`{}` does", program.of_batch("verify", id)))),
        SinkState::Free => Err(CliError::failure(format_args!(
            "the batch is done, but {} is empty; --rerun writes it again",
            args.to.display()
        ))),
    }
}

fn failed(error: SinkError) -> CliError {
    CliError::failure(words(&error))
}

fn told(args: &ExportArgs, manifest: &Manifest) -> Exit {
    note(format_args!(
        "{} in {} of {}; {} lists them",
        count(manifest.records, "row"),
        count(manifest.parts.len() as u64, "file"),
        count(manifest.bytes, "byte"),
        args.to.join("manifest.json").display()
    ));
    if let Some(file) = &manifest.concatenated {
        note(format_args!(
            "all of them in {}, {}",
            file.file,
            count(file.bytes, "byte")
        ));
    }
    Exit::Done
}
