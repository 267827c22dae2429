//! `backfill`: a migration of a table without writing Rust, with worker and batch in one process.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod dry_run;
pub(crate) mod identity;
mod outlook;
pub(crate) mod work;

use clap::Args;

use crate::{
    base::error::PageError,
    batch::IfRunning,
    cli::{
        args::{databases::DatabaseArgs, temporal_server::ConnectionArgs},
        commands::backfill::dry_run::DryRunArgs,
        exit::{CliError, CliResult},
        render::output::note,
        session::args::AttendedArgs,
        shell::Program,
    },
    processor::{PageProcessor as _, hooks::Hooks, throttle::Throttles},
    sql::{Connections, Database, LedgerSchema, SqlBackfill},
    stride::redrive::letters_of,
};
use identity::{batch_id, target};
use outlook::Outlook;
use work::WorkArgs;

#[derive(Args, Debug)]
pub(crate) struct BackfillCommand {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    #[command(flatten)]
    work: WorkArgs,

    /// Make the tables of the page ledger that --once needs, if they are missing
    #[arg(long, requires = "once")]
    create_ledger_tables: bool,

    /// Leave the batch to the workers of --task-queue, started with --allow-sql and the --connection of that
    /// name, and return when one has accepted it
    #[arg(long, value_name = "CONNECTION", num_args = 0..=1, default_missing_value = crate::sql::DEFAULT_CONNECTION, requires = "task_queue", conflicts_with = "dev")]
    detach: Option<String>,

    #[command(flatten)]
    dry_run: DryRunArgs,

    #[command(flatten)]
    attended: AttendedArgs,

    #[cfg(feature = "postgres")]
    #[command(flatten)]
    throttle: crate::cli::args::throttle::ThrottleArgs,
}

/// What was refused before anything started is bad usage; the rest may go away by itself.
pub(crate) fn refused(error: &PageError) -> CliError {
    let told = error.message();
    match error.is_retryable() {
        true => CliError::failure(told),
        false => CliError::usage(told),
    }
}

/// The same, with what to do where the ledger has no tables.
pub(crate) fn refused_with_hint(error: &PageError, program: &Program) -> CliError {
    let refused = refused(error);
    match is_about_ledger_tables(error) {
        true => refused.hint(format!(
            "`{}` makes them, `{}` shows the statements; --create-ledger-tables makes them here",
            program.command("schema apply"),
            program.command("schema print"),
        )),
        false => refused,
    }
}

impl BackfillCommand {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        hooks: &Hooks,
        throttles: &Throttles,
        program: &Program,
    ) -> CliResult {
        // What is wrong with the flags is told before anybody is asked.
        let batch = self.attended.nameless(SqlBackfill::NAME)?;
        let options = self.database.options()?;
        let slots = batch.spec.max_parallelism;
        let database = Database::connect(&options.clone().pages(slots)).await?;
        let shown = options.redacted();
        let done = async {
            let args = self.work.args(&database).await?;
            let batch = match self.detach {
                Some(_) => batch,
                None => self.attended.fitted(batch, &database),
            };
            if self.dry_run.is_wanted() {
                let pages = (batch.spec.page_size, batch.spec.max_parallelism);
                return self
                    .dry_run
                    .run(&database, args, pages, self.attended.json)
                    .await;
            }
            let args = match &self.detach {
                Some(name) => args.connection(name),
                None => args,
            };
            let connections = Connections::new().with(&args.connection, database.clone());
            let processor = SqlBackfill::new(connections);
            let target = target(&shown);
            let id = self.attended.batch_id.clone();
            let id = id.unwrap_or_else(|| batch_id(&target, &args));
            let queue = self.attended.task_queue.clone();
            let mut batch = batch
                .task_queue(queue.unwrap_or_else(|| format!("backfill-{target}-{id}")))
                .rerun(self.attended.rerun)
                .continues(self.attended.continues)
                .if_running(IfRunning::Attach);
            if args.once || args.verify.is_some() {
                batch = batch.check_at_end(true);
            }
            batch.spec.batch_id = id;
            batch.spec.args = serde_json::to_value(&args)
                .map_err(|e| CliError::failure(format_args!("the arguments have no JSON: {e}")))?;
            batch.validate()?;
            let check = async || processor.check_args(&args).await;
            let make = self.create_ledger_tables;
            let work = with_ledger_tables(&database, make, program, check).await?;
            let page_size = batch.spec.page_size;
            let outlook = Outlook::of(&processor, &args, &work, page_size).await?;
            outlook.tell(&shown);
            let ledger = args.once.then(|| database.ledger());
            let letters = letters_of(&processor, &args);
            let run = self.attended.run(batch, program, ledger, letters);
            match self.detach {
                Some(_) => run.detached(connection).await,
                None => {
                    let throttles = self.throttles(throttles).await?;
                    let crew = self.attended.crew(processor, hooks, throttles, &database)?;
                    run.attended(connection, crew).await
                }
            }
        };
        let exit = done.await;
        database.close().await;
        exit
    }

    #[cfg(feature = "postgres")]
    async fn throttles(&self, of_the_program: &Throttles) -> CliResult<Throttles> {
        let mut throttles = of_the_program.clone();
        if let Some(database) = self.throttle.build().await? {
            let added = throttles.add(database);
            added.map_err(crate::engine::worker::WorkerError::from)?;
        }
        Ok(throttles)
    }

    #[cfg(not(feature = "postgres"))]
    #[allow(clippy::unused_async, reason = "it has to ask a database elsewhere")]
    async fn throttles(&self, of_the_program: &Throttles) -> CliResult<Throttles> {
        Ok(of_the_program.clone())
    }
}

/// Checks a batch, and makes the tables of the ledger where it is asked to: once nothing else is wrong, so that what is
/// refused leaves none behind.
pub(crate) async fn with_ledger_tables<T>(
    database: &Database,
    make: bool,
    program: &Program,
    check: impl AsyncFn() -> Result<T, PageError>,
) -> CliResult<T> {
    let refused = |error| refused_with_hint(&error, program);
    match check().await {
        Err(error) if make && is_about_ledger_tables(&error) => {
            make_ledger_tables(database).await?;
            check().await.map_err(refused)
        }
        Ok(checked) => {
            if make {
                make_ledger_tables(database).await?;
            }
            Ok(checked)
        }
        Err(error) => Err(refused(error)),
    }
}

fn is_about_ledger_tables(error: &PageError) -> bool {
    error.message().contains("tables of the page ledger")
}

async fn make_ledger_tables(database: &Database) -> CliResult<()> {
    let schema = LedgerSchema::of(database, None).map_err(CliError::usage)?;
    let there = schema.there().await;
    let there = there.map_err(|e| CliError::caused("cannot look for the ledger's tables", &e))?;
    if there.contains(&false) {
        let made = schema.apply().await;
        made.map_err(|e| {
            CliError::failure(format_args!(
                "cannot make the ledger's tables: {}",
                e.message()
            ))
        })?;
        note("made the tables of the page ledger");
    }
    Ok(())
}
