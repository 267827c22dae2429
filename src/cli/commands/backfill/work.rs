//! Which rows, and what is done to them: flags of `backfill`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};

use crate::{
    base::{error::text::words, small_file},
    cli::{
        args::tolerance::length,
        exit::{CliError, CliResult},
    },
    sql::{
        BackfillArgs, Database, HighWaterMark, Table, TableError, TableSpec,
        backfill::{Syntax, parse_assignments, split_statements},
    },
};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["set", "statement_file"]))]
pub(crate) struct WorkArgs {
    /// The table, also as schema.table
    #[arg(long, value_name = "TABLE")]
    table: String,

    /// The columns of a unique key, by which pages are found [default: the primary key]
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    key: Vec<String>,

    /// A column and what it is set to; can be given again
    #[arg(long, value_name = "COLUMN = EXPR")]
    set: Vec<String>,

    /// A file of statements in place of --set, with {range} where the condition for the rows of a page belongs
    #[arg(long, value_name = "FILE")]
    statement_file: Option<PathBuf>,

    /// Only the rows for which this condition holds
    #[arg(long = "where", value_name = "CONDITION")]
    filter: Option<String>,

    /// Commit each page exactly once, together with a record of it in the page ledger
    #[arg(long)]
    once: bool,

    /// Write rows also where their columns have the new values already
    #[arg(long, requires = "set")]
    rewrite_unchanged: bool,

    /// Go on while there are rows, instead of ending at the highest key of the start
    #[arg(long)]
    no_high_water_mark: bool,

    /// Take a table of which the database would read or sort more than a page for each page
    #[arg(long)]
    allow_slow_pages: bool,

    /// Take a table with row security that is active for the role: rows that a policy hides are left out, and
    /// rows that a policy keeps as they are fail (PostgreSQL)
    #[arg(long)]
    allow_row_security: bool,

    /// Count the rows before the start, instead of taking the database's estimate
    #[arg(long)]
    exact_count: bool,

    /// What has to hold afterwards: a condition for every row, or a SELECT that counts the rows that are wrong
    #[arg(long, value_name = "CONDITION|SELECT")]
    verify: Option<String>,

    /// How long one statement may take, up to 10m; not in SQLite
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = length)]
    statement_timeout: Duration,

    /// How long a statement may wait for a lock, up to 10m
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = length)]
    lock_timeout: Duration,
}

impl WorkArgs {
    /// Reads the flags by the rules of the database, which is asked for the primary key where none is given.
    pub(crate) async fn args(&self, database: &Database) -> CliResult<BackfillArgs> {
        let key = match self.key.is_empty() {
            false => self.key.clone(),
            true => primary_key(database, &self.table).await?,
        };
        let mut table =
            TableSpec::new(&self.table, key).allow_row_security(self.allow_row_security);
        if let Some(filter) = &self.filter {
            table = table.filter(filter);
        }
        let mut args = BackfillArgs::of(table)
            .once(self.once)
            .rewrite_unchanged(self.rewrite_unchanged)
            .allow_slow_pages(self.allow_slow_pages)
            .exact_count(self.exact_count)
            .statement_timeout(self.statement_timeout)
            .lock_timeout(self.lock_timeout);
        if let Some(verify) = &self.verify {
            args = args.verify(verify);
        }
        if self.no_high_water_mark {
            args = args.high_water_mark(HighWaterMark::Off);
        }
        let syntax = Syntax::of(database);
        for text in &self.set {
            args.set
                .extend(parse_assignments(text, syntax).map_err(CliError::usage)?);
        }
        if let Some(path) = &self.statement_file {
            let text = small_file::read_text(path).map_err(|e| {
                CliError::usage(format_args!(
                    "cannot read {}: {}",
                    path.display(),
                    words(&e)
                ))
            })?;
            args.statements = split_statements(&text, syntax).map_err(CliError::usage)?;
        }
        Ok(args)
    }
}

/// The columns of the primary key of a table.
pub async fn primary_key(database: &Database, table: &str) -> CliResult<Vec<String>> {
    let key = Table::primary_key(database, table).await;
    let key = key.map_err(|error| match error.is_retryable() {
        true => CliError::caused("cannot look for the primary key", &error),
        false => CliError::usage(error),
    })?;
    if !key.is_empty() {
        return Ok(key);
    }
    // Where it is not a table, that is what is wrong; no column has this name.
    let looked = Table::inspect(database, &TableSpec::new(table, [""])).await;
    match looked {
        Err(error @ (TableError::MissingTable { .. } | TableError::NotATable { .. })) => {
            Err(CliError::usage(error))
        }
        _ => Err(
            CliError::usage(format_args!("table {table} has no primary key"))
                .hint("--key names the columns of a unique key"),
        ),
    }
}
