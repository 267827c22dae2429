//! `export`: the rows of a table into files, with worker and batch in one process.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    base::error::text::words,
    batch::IfRunning,
    cli::{
        args::{databases::DatabaseArgs, temporal_server::ConnectionArgs},
        commands::backfill::{
            identity::{named, target},
            refused,
            work::primary_key,
        },
        exit::{CliError, CliResult, Exit},
        render::{
            output::{note, number},
            sentences,
        },
        session::args::AttendedArgs,
        shell::Program,
    },
    files::{Manifest, SinkError, Standing, check_writable, check_writable_file, standing},
    page::size::Size,
    processor::{PageProcessor as _, hooks::Hooks, throttle::Throttles},
    sql::{
        Connections, Database, ExportArgs, ExportFormat, HighWaterMark, SqlExport, Table, TableSpec,
    },
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

    /// How the rows are written
    #[arg(long, value_name = "FORMAT")]
    format: Format,

    /// What stands for NULL in CSV [default: nothing, and an empty text is ""]
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

    /// Also write all rows into this one file, in their order
    #[arg(long, value_name = "FILE")]
    concatenate: Option<PathBuf>,

    /// Go on while there are rows, instead of ending at the highest key of the start
    #[arg(long)]
    no_high_water_mark: bool,

    /// Take a table of which the database would read or sort more than a page for each page
    #[arg(long)]
    allow_slow_pages: bool,

    /// Take a table with row security that is active for the role: rows that a policy hides are left out
    /// (PostgreSQL)
    #[arg(long)]
    allow_row_security: bool,

    #[command(flatten)]
    attended: AttendedArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
}

impl ExportCommand {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        hooks: &Hooks,
        throttles: &Throttles,
        program: &Program,
    ) -> CliResult {
        let batch = self.attended.nameless(SqlExport::NAME)?;
        let options = self.database.options()?;
        let slots = batch.spec.max_parallelism;
        let database = Database::connect(&options.clone().pages(slots)).await?;
        let batch = self.attended.fitted(batch, &database);
        let shown = options.redacted();
        let done = async {
            let args = self.args(&database).await?;
            let connections = Connections::new().with(&args.connection, database.clone());
            let processor = SqlExport::new(connections);
            let checked = processor.check_args(&args).await;
            let table = checked.map_err(|e| refused(&e))?;
            let rows = processor.size(&args).await;
            let rows = rows.map_err(|e| refused(&e))?;
            let target = target(&shown);
            let id = self.attended.batch_id.clone();
            let id = id.unwrap_or_else(|| batch_id(&target, &args));
            self.check_directory(&args, &id)?;
            tell(&args, &table, &shown, rows);
            let queue = self.attended.task_queue.clone();
            let mut batch = batch
                .task_queue(queue.unwrap_or_else(|| format!("export-{target}-{id}")))
                .rerun(self.attended.rerun)
                .continues(self.attended.continues)
                // It puts the parts together.
                .check_at_end(true)
                .if_running(IfRunning::Attach);
            batch.spec.batch_id.clone_from(&id);
            batch.spec.args = serde_json::to_value(&args)
                .map_err(|e| CliError::failure(format_args!("the arguments have no JSON: {e}")))?;
            batch.validate()?;
            let letters = letters_of(&processor, &args);
            let run = self.attended.run(batch, program, None, letters);
            let throttles = throttles.clone();
            let crew = self.attended.crew(processor, hooks, throttles, &database)?;
            match run.attended(connection, crew).await? {
                Exit::Done => finish(&args, &id, program),
                exit => {
                    if exit == Exit::WithFailures {
                        note("the result is not whole, so it has no manifest");
                    }
                    Ok(exit)
                }
            }
        };
        let exit = done.await;
        database.close().await;
        exit
    }

    async fn args(&self, database: &Database) -> CliResult<ExportArgs> {
        let key = match self.key.is_empty() {
            false => self.key.clone(),
            true => primary_key(database, &self.table).await?,
        };
        let mut table =
            TableSpec::new(&self.table, key).allow_row_security(self.allow_row_security);
        if let Some(filter) = &self.filter {
            table = table.filter(filter);
        }
        let format = match self.format {
            Format::Csv => ExportFormat::Csv,
            Format::Jsonl => ExportFormat::JsonL,
        };
        // The worker is this process, but one that goes on with the batch may be started elsewhere.
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

    /// Tells at the start what the first page would be refused for.
    fn check_directory(&self, args: &ExportArgs, id: &str) -> CliResult<()> {
        let refused = |error: SinkError| CliError::usage(words(&error));
        let directory = || args.to.clone();
        let writable = || {
            check_writable(&args.to).map_err(refused)?;
            let file = args.concatenate.as_deref();
            file.map_or(Ok(()), |file| check_writable_file(file).map_err(refused))
        };
        let taken = args.concatenate.as_deref().filter(|file| file.exists());
        match standing(&args.to).map_err(refused)? {
            // A batch that goes on may have written it.
            Standing::Free if let Some(file) = taken => Err(CliError::usage(format_args!(
                "{} is there already, and an export overwrites no file; name another one with --concatenate, or \
                 remove it",
                file.display()
            ))),
            Standing::Free => writable(),
            Standing::Unfinished(owner) if owner.batch_id == id && !self.attended.rerun => {
                writable()
            }
            Standing::Finished(manifest) if manifest.batch_id == id && !self.attended.rerun => {
                Ok(())
            }
            Standing::Unfinished(owner) => Err(refused(SinkError::Taken {
                directory: directory(),
                batch_id: owner.batch_id,
                batch_run: owner.batch_run,
            })),
            Standing::Finished(manifest) => Err(refused(SinkError::Finished {
                directory: directory(),
                batch_id: manifest.batch_id,
                batch_run: manifest.batch_run,
            })),
        }
    }
}

fn absolute(path: &Path) -> CliResult<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| CliError::usage(format_args!("{} is no path: {}", path.display(), words(&e))))
}

/// The id of the batch that writes this from that database to there.
fn batch_id(target: &str, args: &ExportArgs) -> String {
    let work = serde_json::json!([target, args]);
    named("export", &args.table.table, &work)
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
        "each page as it is when it is read, not the table at one moment".to_owned(),
    );
}

/// Tells what came of it: the check at the end of the batch has put the parts together.
fn finish(args: &ExportArgs, id: &str, program: &Program) -> CliResult {
    match standing(&args.to).map_err(failed)? {
        Standing::Finished(manifest) => Ok(told(args, &manifest)),
        // Somebody started it otherwise than with this command.
        Standing::Unfinished(_) => Err(CliError::failure(format_args!(
            "the batch is done, but nobody has put the parts in {} together",
            args.to.display()
        ))
        .hint(format!("`{}` does", program.of_batch("verify", id)))),
        Standing::Free => Err(CliError::failure(format_args!(
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
        "{} rows in {} files of {} bytes; {} lists them",
        number(manifest.records),
        number(manifest.parts.len() as u64),
        number(manifest.bytes),
        args.to.join("manifest.json").display()
    ));
    if let Some(file) = &manifest.concatenated {
        note(format_args!(
            "all of them in {}, {} bytes",
            file.file,
            number(file.bytes)
        ));
    }
    Exit::Done
}
