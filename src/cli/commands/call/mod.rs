//! `call`: calls an API for each record of a file or a table, with worker and batch in one process.

mod dry_run;
mod into_table;
mod request;

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    import::{delimiter, reading::ReadingArgs},
    output_directory,
};
use crate::{
    base::error::text::words,
    batch::Batch,
    cli::{
        args::{databases::database::DatabaseArgs, table::table_spec, values::absolute},
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
    files::{SinkState, sink_state},
    http::{CallArgs, CallSource, HttpCall, call::plan::Plan},
    page::size::Size,
    processor::{PageProcessor as _, throttle::Throttle as _},
    sql::{DEFAULT_CONNECTION, HighWaterMark, ImportFile},
    stride::redrive::letters_of,
};
use request::RequestArgs;

#[derive(Args, Debug)]
#[group(id = "records", required = true, multiple = false, args = ["from", "table"])]
pub(crate) struct CallCommand {
    /// The file of records
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// The table of records, also as schema.table
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,

    /// The columns of a unique key of the table, by which pages are found [default: the primary key]
    #[arg(
        long,
        value_name = "COLUMN,..",
        value_delimiter = ',',
        requires = "table"
    )]
    key: Vec<String>,

    /// The condition for the rows of the table that are called for
    #[arg(long = "where", value_name = "CONDITION", requires = "table")]
    filter: Option<String>,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    #[command(flatten)]
    reading: ReadingArgs,

    /// The names of the columns of a CSV file without a header, in their order
    #[arg(
        long,
        value_name = "COLUMN,..",
        value_delimiter = ',',
        requires = "no_header"
    )]
    columns: Option<Vec<String>>,

    /// The text that stands for NULL in a CSV file [default: an empty field]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    null: String,

    #[command(flatten)]
    request: RequestArgs,

    /// The directory of the answers, new or empty [default: with --table, the values of --set go into its rows]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Write all answers also into this single file, in the order of their records
    #[arg(long, value_name = "FILE")]
    concatenate: Option<PathBuf>,

    /// Make the tables of the page ledger, if they are missing; for --set without --out
    #[arg(long, requires = "table", conflicts_with = "out")]
    create_ledger_tables: bool,

    /// Show the first requests and send none; needs no Temporal server
    #[arg(long)]
    dry_run: bool,

    /// Send this many of the first requests and show the answers; needs no Temporal server
    #[arg(long = "try", value_name = "CALLS", conflicts_with = "dry_run", value_parser = clap::value_parser!(u32).range(1..=100))]
    tries: Option<u32>,

    #[command(flatten)]
    session: SessionArgs,
}

/// The file of the answers while others are missing, in the directory of the answers.
const SO_FAR: &str = "so-far.jsonl";

/// The pages of a file in this process at once. Each may have many calls in flight.
const FILE_PAGES: u32 = 100;

impl CallCommand {
    pub(crate) async fn run(&self, context: &CommandContext<'_>) -> CliResult {
        let limits = self.session.limits(HttpCall::NAME)?;
        let args = self.args(self.file()?)?;
        // Wrong templates are refused before the database is asked.
        Plan::of(&args).map_err(CliError::usage)?;
        args.check_place(self.table.is_some())
            .map_err(CliError::usage)?;
        let Some(table) = &self.table else {
            return Box::pin(self.call(limits, args, None, context)).await;
        };
        let database = SessionDatabase::connect(&self.database, &limits).await?;
        let source = self.rows(&database, table).await;
        let exit = match source {
            Ok(source) => {
                let args = CallArgs { source, ..args };
                Box::pin(self.call(limits, args, Some(&database), context)).await
            }
            Err(error) => Err(error),
        };
        database.close().await;
        exit
    }

    async fn call(
        &self,
        limits: Batch,
        args: CallArgs,
        database: Option<&SessionDatabase>,
        context: &CommandContext<'_>,
    ) -> CliResult {
        let call = HttpCall::new().map_err(CliError::usage)?.with_environment();
        let call = match database {
            Some(database) => call.connections(database.connections(DEFAULT_CONNECTION)),
            None => call,
        };
        let refused = |error| CliError::refused(&error);
        if args.to.is_none()
            && let Some(table) = database
        {
            return into_table::run(self, limits, (call, args), table, context).await;
        }
        // What `prepare` finds out, such as the state of the file, is left to the batch.
        let prepared = call.prepare(args.clone()).await.map_err(refused)?;
        let plan = call.check_args(&prepared).await.map_err(refused)?;
        warn_of_secrets(&plan);
        if self.dry_run || self.tries.is_some() {
            let send = self.tries.map(|calls| calls as usize);
            return dry_run::run(&call, &prepared, &plan, send).await;
        }
        // The arguments describe the file as it is now: a batch of this id that began with another content is refused.
        let args = CallArgs {
            source: as_it_is_now(args.source, prepared.source.clone()),
            ..args
        };
        let target = database.map_or("file", |database| database.target.as_str());
        let id = self
            .session
            .batch_id(&work_id(target, &args, &self.records()));
        let single = args.concatenate.as_deref();
        let to = args.to.clone().unwrap_or_default();
        output_directory::check(&to, single, &id, self.session.rerun)?;
        let records = call.size(&prepared).await.map_err(refused)?;
        self.tell(&args, records);
        let throttle = call.throttle();
        let slots = database.map_or(FILE_PAGES, SessionDatabase::slots);
        let limits = match database {
            Some(database) => self.session.fitted(limits, database),
            None => limits,
        };
        let batch = self.session.batch(limits, &id, &args, ("call", target))?;
        // The check puts the parts together.
        let batch = batch.check_at_end(true).throttle(throttle.name());
        batch.validate()?;
        let letters = letters_of(&call, &prepared);
        let rerun = "--out and another directory call for the records once more".to_owned();
        let session = self.session.session(batch, context, None, letters, rerun);
        let mut worker = self.session.worker(call, slots, context)?;
        worker
            .throttles
            .add(throttle)
            .map_err(crate::engine::worker::WorkerError::RegisterThrottle)?;
        match session.attended(context.connection, worker).await? {
            Exit::Done => finish(&args, &to, &id, context.program),
            Exit::WithFailures => {
                let failed = session.ended_run.get().map(|(_, items)| items.failed);
                tell_of_missing(&args, failed.unwrap_or_default(), &id, context.program);
                Ok(Exit::WithFailures)
            }
            exit => Ok(exit),
        }
    }

    fn records(&self) -> String {
        let file = self.from.as_deref().and_then(Path::file_stem);
        let file = file.map(|stem| stem.to_string_lossy().into_owned());
        file.or_else(|| self.table.clone()).unwrap_or_default()
    }

    /// Returns the file of records; for a table, one that is never read.
    fn file(&self) -> CliResult<CallSource> {
        let path = absolute(self.from.as_deref().unwrap_or(Path::new("-")))?;
        let mut file = self.reading.file(&path, self.columns.as_deref())?;
        if let (ImportFile::Csv(source), None, true) =
            (&mut file, self.reading.delimiter(), self.from.is_some())
            && let Some(found) = delimiter::recognise(&path, &source.format)?
        {
            source.format.delimiter = found;
        }
        Ok(match file {
            ImportFile::Csv(source) => source.into(),
            ImportFile::JsonLines(source) => source.into(),
        })
    }

    async fn rows(&self, database: &SessionDatabase, table: &str) -> CliResult<CallSource> {
        let table = table_spec(&database.database, table, &self.key, self.filter.as_deref());
        Ok(CallSource::Table {
            connection: DEFAULT_CONNECTION.to_owned(),
            table: table.await?,
            high_water_mark: HighWaterMark::AtStart,
        })
    }

    fn args(&self, source: CallSource) -> CliResult<CallArgs> {
        let url = self.request.url();
        let mut args = match &self.out {
            // Paths are absolute, because a command that continues the batch may run in another directory.
            Some(out) => {
                let to = absolute(out)?;
                let beside = |ending: &str| {
                    let mut name = to.file_name().unwrap_or_default().to_os_string();
                    name.push(ending);
                    to.with_file_name(name)
                };
                let mut args = CallArgs::new(source, url, &to, &to);
                args.letters = Some(beside(".failed.jsonl"));
                args.journal = beside(".answers");
                args
            }
            None => CallArgs::into_table(source, url, into_table::work_directory()),
        };
        args.concatenate = self.concatenate.as_deref().map(absolute).transpose()?;
        args.null.clone_from(&self.null);
        self.request.apply(args)
    }

    fn tell(&self, args: &CallArgs, records: Size) {
        let line = |what: &str, text: &str| note(format_args!("{what:<11}{text}"));
        line(
            "records",
            &format!("{}: {}", self.records(), sentences::size(records)),
        );
        line("call", &format!("{} {}", args.method, args.url));
        line("answers", &shown(args.to.as_deref()));
        line("failed", &shown(args.letters.as_deref()));
        if self.table.is_some() && !args.set.is_empty() {
            line(
                "table",
                "stays as it is, since the answers go into files; without --out, --set writes into its rows",
            );
        }
        line(
            "calls",
            "each record at least once, with the same idempotency key in every attempt",
        );
    }
}

/// Says where the answers of the other records are, and how the missing ones are added.
fn tell_of_missing(args: &CallArgs, failed: u64, id: &str, program: &Program) {
    let so_far = args.to.as_deref().map(|to| to.join(SO_FAR));
    if let Some(file) = so_far.filter(|file| file.is_file()) {
        note(format_args!(
            "the answers so far are in {}; {} missing",
            file.display(),
            match failed {
                1 => "1 record is".to_owned(),
                n => format!("{} are", count(n, "record")),
            }
        ));
    }
    let (redrive, verify) = (
        program.of_batch("redrive", id),
        program.of_batch("verify", id),
    );
    note(format_args!(
        "failed records are in {}; `{redrive}` calls for them again, and `{verify}` then adds their answers",
        shown(args.letters.as_deref())
    ));
}

fn warn_of_secrets(plan: &Plan) {
    if plan.exposes_secrets() {
        note(
            "warning: the URL is http, so others on the way can read the secrets in the requests; use https",
        );
    }
}

fn shown(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
}

/// Returns the source with the state of its file, but without the path of an unpacked copy, which differs each time.
fn as_it_is_now(given: CallSource, prepared: CallSource) -> CallSource {
    match prepared {
        CallSource::Csv(mut source) => {
            source.file = source.file.without_copy();
            source.into()
        }
        CallSource::JsonLines(mut source) => {
            source.file = source.file.without_copy();
            source.into()
        }
        CallSource::Table { .. } => given,
    }
}

/// Returns the id of the batch that calls for these records and writes there.
fn work_id(target: &str, args: &CallArgs, records: &str) -> WorkId {
    let records = match &args.source {
        CallSource::Table { table, .. } => &table.table,
        CallSource::Csv(_) | CallSource::JsonLines(_) => records,
    };
    let work = serde_json::json!([target, args.to]);
    named("call", target, records, &work)
}

/// Prints the result, which the check at the end of the batch has put together.
fn finish(args: &CallArgs, to: &Path, id: &str, program: &Program) -> CliResult {
    let _ = std::fs::remove_dir(&args.journal);
    let state = sink_state(to).map_err(|error| CliError::failure(words(&error)))?;
    match state {
        SinkState::Finished(manifest) => {
            note(format_args!(
                "{} in {}; {} lists them",
                count(manifest.records, "answer"),
                count(manifest.parts.len() as u64, "file"),
                to.join("manifest.json").display()
            ));
            Ok(Exit::Done)
        }
        SinkState::Unfinished(_) | SinkState::Free => Err(CliError::failure(format_args!(
            "the batch is done, but the parts in {} have not been put together",
            to.display()
        ))
        .hint(format!("`{}` does", program.of_batch("verify", id)))),
    }
}
