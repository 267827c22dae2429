//! `call --table` without `--out`: the answers go back into the rows of the table.

use std::path::PathBuf;

use super::{CallCommand, dry_run, warn_of_secrets};
use crate::{
    batch::Batch,
    cli::{
        exit::{CliError, CliResult, Exit},
        output::{note, result},
        render::sentences,
        session::{
            CommandContext,
            batch_id::{WorkId, named},
            database::SessionDatabase,
            ledger_tables::with_ledger_tables,
        },
        state_directory::state_directory,
    },
    http::{CallArgs, CallSource, HttpCall},
    processor::{PageProcessor as _, throttle::Throttle as _},
    stride::redrive::letters_of,
};

/// Returns the directory for the answers of unfinished pages. It does not depend on the working directory, since the same
/// command means the same batch wherever it is repeated.
pub(super) fn work_directory() -> PathBuf {
    let directory = state_directory();
    let directory = directory.unwrap_or_else(|| std::env::temp_dir().join("temporal-batch"));
    directory.join("calls")
}

pub(super) async fn run(
    command: &CallCommand,
    limits: Batch,
    (call, args): (HttpCall, CallArgs),
    database: &SessionDatabase,
    context: &CommandContext<'_>,
) -> CliResult {
    let refused = |error| CliError::refused(&error);
    let plan = call.check_args(&args).await.map_err(refused)?;
    warn_of_secrets(&plan);
    let update = call.update(&args).await.map_err(refused)?;
    let statement = update.map(|update| update.shown()).unwrap_or_default();
    if command.dry_run || command.tries.is_some() {
        result(format_args!("for each answer: {statement}"));
        for (column, value) in &args.set {
            result(format_args!("  {column} = {value}"));
        }
        result("");
        let send = command.tries.map(|calls| calls as usize);
        return dry_run::run(&call, &args, &plan, send).await;
    }
    let session = &command.session;
    let made = work_id(&database.target, &args);
    let id = session.batch_id(&made);
    let prepare = async || call.prepare(args.clone()).await;
    let (make, program) = (command.create_ledger_tables, context.program);
    let prepared = with_ledger_tables(&database.database, make, program, prepare).await?;
    let rows = call.size(&prepared).await.map_err(refused)?;
    let line = |what: &str, text: &str| note(format_args!("{what:<11}{text}"));
    line("database", &database.shown);
    line("rows", &sentences::size(rows));
    line("call", &format!("{} {}", args.method, args.url));
    line("statement", &statement);
    line(
        "calls",
        "each row at least once, with the same idempotency key in every attempt",
    );
    line(
        "commits",
        "each page exactly once, recorded in the page ledger",
    );
    let throttle = call.throttle();
    let limits = session.fitted(limits, database);
    let batch = session.batch(limits, &id, &args, ("call", &database.target))?;
    let batch = batch.check_at_end(true).throttle(throttle.name());
    batch.validate()?;
    let letters = letters_of(&call, &prepared);
    let ledger = Some(session.work_ledger(database, &made));
    let rerun = "--rerun calls for every row once more".to_owned();
    let attended = session.session(batch, context, ledger, letters, rerun);
    let mut worker = session.worker(call, database.slots(), context)?;
    worker
        .throttles
        .add(throttle)
        .map_err(crate::engine::worker::WorkerError::RegisterThrottle)?;
    let exit = attended.attended(context.connection, worker).await?;
    if exit == Exit::WithFailures {
        let (list, again) = (
            program.of_batch("failures", &id),
            program.of_batch("redrive", &id),
        );
        note(format_args!(
            "the other rows have their values; `{list}` lists the failed ones, `{again}` calls for them again"
        ));
    }
    Ok(exit)
}

/// Returns the id of the batch that calls for these rows and sets these columns.
fn work_id(target: &str, args: &CallArgs) -> WorkId {
    let (table, filter) = match &args.source {
        CallSource::Table { table, .. } => (table.table.as_str(), table.filter.as_deref()),
        CallSource::Csv(_) | CallSource::JsonLines(_) => ("", None),
    };
    let set = &args.set;
    let work = serde_json::json!([table, filter, args.method, args.url, args.body, set]);
    named("call", target, table, &work)
}
