//! `backfill`: changes the rows of a table without a line of Rust, with worker and batch in one process.

pub(crate) mod args;
mod dry_run;
mod start_summary;

use clap::Args;

use crate::{
    batch::Batch,
    cli::{
        args::{database_throttle::ThrottleArgs, databases::database::DatabaseArgs},
        commands::backfill::dry_run::DryRunArgs,
        exit::CliResult,
        session::{
            CommandContext, args::SessionArgs, batch_id::of_backfill, database::SessionDatabase,
            ledger_tables::with_ledger_tables,
        },
    },
    processor::PageProcessor as _,
    sql::{BackfillArgs, SqlBackfill, backfill::Work},
    stride::redrive::letters_of,
};
use args::WorkArgs;
use start_summary::StartSummary;

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
    session: SessionArgs,

    #[command(flatten)]
    throttle: ThrottleArgs,
}

impl BackfillCommand {
    pub(crate) async fn run(&self, context: &CommandContext<'_>) -> CliResult {
        // Wrong flags are refused before the database is asked.
        let limits = self.session.limits(SqlBackfill::NAME)?;
        let database = SessionDatabase::connect(&self.database, &limits).await?;
        let exit = self.backfill(limits, &database, context).await;
        database.close().await;
        exit
    }

    async fn backfill(
        &self,
        limits: Batch,
        database: &SessionDatabase,
        context: &CommandContext<'_>,
    ) -> CliResult {
        let args = self.work.args(&database.database).await?;
        let limits = match self.detach {
            Some(_) => limits,
            None => self.session.fitted(limits, database),
        };
        if self.dry_run.is_wanted() {
            let pages = (limits.spec.page_size, limits.spec.max_parallelism);
            let json = self.session.json;
            return self
                .dry_run
                .run(&database.database, args, pages, json)
                .await;
        }
        let args = match &self.detach {
            Some(name) => args.connection(name),
            None => args,
        };
        let processor = SqlBackfill::new(database.connections(&args.connection));
        let expressions = args.set.iter().map(|set| &set.expression);
        let texts = expressions.chain(&args.table.filter);
        let meant_by = match args.statements.is_empty() {
            true => database.meant_by(texts.map(String::as_str)),
            false => database.default_database(),
        };
        let made = of_backfill(&database.target, &args, meant_by);
        let id = self.session.batch_id(&made);
        let mut batch = self
            .session
            .batch(limits, &id, &args, ("backfill", &database.target))?;
        if args.once || args.verify.is_some() {
            batch = batch.check_at_end(true);
        }
        batch.validate()?;
        let check = async || processor.check_args(&args).await;
        let make = self.create_ledger_tables;
        let work = with_ledger_tables(&database.database, make, context.program, check).await?;
        let summary = StartSummary::of(&processor, &args, &work, batch.spec.page_size).await?;
        summary.tell(&database.shown);
        let ledger = args.once.then(|| self.session.work_ledger(database, &made));
        let letters = letters_of(&processor, &args);
        let rerun = rerun_hint(&args, &work);
        let session = self.session.session(batch, context, ledger, letters, rerun);
        if self.detach.is_some() {
            return session.detached(context.connection).await;
        }
        let throttles = self.throttle.added_to(context.throttles).await?;
        let context = CommandContext {
            throttles: &throttles,
            ..*context
        };
        let worker = self.session.worker(processor, database.slots(), &context)?;
        session.attended(context.connection, worker).await
    }
}

/// Returns the hint at `--rerun`, with what it does to rows that are changed already.
fn rerun_hint(args: &BackfillArgs, work: &Work) -> String {
    if !args.statements.is_empty() {
        return "--rerun runs the statements once more, also on the rows that are changed already"
            .to_owned();
    }
    match work.read_by_themselves(args).as_slice() {
        [] => "--rerun runs it once more".to_owned(),
        columns => format!(
            "--rerun changes rows a second time: the new value of {} is computed from columns that are set already",
            columns.join(", ")
        ),
    }
}
