//! `schema`: prints, creates or prunes the tables of the page ledger.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};

use crate::{
    cli::{
        args::databases::{Hidden, connections, database::DatabaseArgs},
        exit::{CliError, CliResult, Exit},
        output::{self, count, note},
    },
    sql::{Database, DatabaseOptions, LedgerSchema, TABLES},
};

#[derive(Args, Debug)]
pub(crate) struct SchemaArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Print the statements that make the tables; changes nothing
    Print(PrintArgs),
    /// Make the tables and indexes that are missing
    Apply(WhereArgs),
    /// Forget the strides of batch runs that completed long ago
    Prune(PruneArgs),
}

#[derive(Args, Debug)]
struct WhereArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The database as a worker knows it: NAME, whose variable TEMPORAL_BATCH_CONNECTION_NAME is read, or
    /// NAME=SOURCE as of worker --connection
    #[arg(long, value_name = "NAME", conflicts_with = "database_url")]
    connection: Option<Hidden>,

    /// The schema of PostgreSQL that the tables are in, which must exist [default: of the search path]
    #[arg(long, value_name = "SCHEMA")]
    schema: Option<String>,
}

#[derive(Args, Debug)]
struct PrintArgs {
    /// The database system to print for, without a connection
    #[arg(long = "for", value_name = "SYSTEM", conflicts_with_all = ["database_url", "connection"])]
    system: Option<System>,

    #[command(flatten)]
    place: WhereArgs,
}

#[derive(Args, Debug)]
struct PruneArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The age of the batch runs, counted from their end: longer than any reset of a batch or late attempt
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Duration,

    /// Include batch runs that failed, stopped or were cancelled and have applied no page since; they must never be
    /// continued, or pages that were running at their end are applied again
    #[arg(long)]
    unfinished: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum System {
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    Mysql,
    #[cfg(feature = "sqlite")]
    Sqlite,
}

impl System {
    /// Returns a URL to no server.
    fn url(self) -> &'static str {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres => "postgres://localhost/unused",
            #[cfg(feature = "mysql")]
            Self::Mysql => "mysql://localhost/unused",
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "sqlite:unused",
        }
    }
}

impl SchemaArgs {
    pub(crate) async fn run(&self) -> CliResult {
        match &self.task {
            Task::Print(args) => args.run(),
            Task::Apply(args) => args.apply().await,
            Task::Prune(args) => args.run().await,
        }
    }
}

impl PrintArgs {
    fn run(&self) -> CliResult {
        let options = match self.system {
            Some(system) => DatabaseOptions::from_url(system.url())?,
            None => self.place.options()?,
        };
        let schema = LedgerSchema::unconnected(&options, self.place.schema.as_deref());
        let schema = schema.map_err(CliError::usage)?;
        output::result(schema.statements().trim_end());
        Ok(Exit::Done)
    }
}

impl WhereArgs {
    fn options(&self) -> CliResult<DatabaseOptions> {
        match &self.connection {
            Some(connection) => connections::connection(connection),
            None => self.database.options(),
        }
    }

    async fn connect(&self) -> CliResult<(Database, LedgerSchema)> {
        let options = self.options()?.max_connections(2);
        // An invalid name is refused before the database is asked.
        LedgerSchema::unconnected(&options, self.schema.as_deref()).map_err(CliError::usage)?;
        let database = Database::connect(&options).await?;
        let ledger = LedgerSchema::of(&database, self.schema.as_deref());
        let ledger = ledger.map_err(CliError::usage)?;
        note(format_args!("database {}", options.redacted()));
        Ok((database, ledger))
    }

    async fn apply(&self) -> CliResult {
        let (database, schema) = self.connect().await?;
        let what = "cannot look for the tables";
        let there = schema.there().await;
        let there = there.map_err(|e| CliError::caused(what, &e))?;
        let applied = schema.apply().await;
        applied.map_err(|e| CliError::failure(format_args!("cannot make the tables: {e}")))?;
        for (table, there) in TABLES.iter().zip(there) {
            let made = if there { "there already" } else { "made" };
            output::result(format_args!("{table}: {made}"));
        }
        database.close().await;
        Ok(Exit::Done)
    }
}

impl PruneArgs {
    async fn run(&self) -> CliResult {
        let before = SystemTime::now().checked_sub(self.older_than);
        let before = before.filter(|before| *before >= SystemTime::UNIX_EPOCH);
        let before = before.ok_or_else(|| {
            CliError::usage("--older-than reaches back to before 1970; write an age such as 30d")
        })?;
        let (database, schema) = self.place.connect().await?;
        let failed = |e| CliError::failure(format_args!("cannot prune: {e}"));
        let mut pruned = schema.prune(before.into()).await.map_err(failed)?;
        if self.unfinished {
            let unfinished = schema.prune_unfinished(before.into()).await;
            pruned += unfinished.map_err(failed)?;
        }
        output::result(format_args!(
            "{} of batch runs that ended before {} forgotten",
            count(pruned, "stride"),
            humantime::format_rfc3339_seconds(before)
        ));
        database.close().await;
        Ok(Exit::Done)
    }
}
