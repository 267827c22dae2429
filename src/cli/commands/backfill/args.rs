//! The rows and the work: flags of `backfill`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};

use crate::{
    base::{error::text::words, small_file},
    cli::{
        args::{table::table_spec, values::length},
        exit::{CliError, CliResult},
    },
    sql::{
        BackfillArgs, Database, HighWaterMark,
        backfill::{parse_assignments, split_statements},
        syntax::Syntax,
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

    /// Continue while there are rows, instead of ending at the highest key of the start
    #[arg(long)]
    no_high_water_mark: bool,

    /// Accept a table for which the database would read or sort more than one page for each page
    #[arg(long)]
    allow_slow_pages: bool,

    /// Accept a table with active row security: rows that a policy hides are left out, and rows that a policy does not
    /// let the role change fail (PostgreSQL)
    #[arg(long)]
    allow_row_security: bool,

    /// Count the rows before the start, instead of taking the database's estimate
    #[arg(long)]
    exact_count: bool,

    /// The check afterwards: a condition for every row, or a SELECT that counts the wrong rows
    #[arg(long, value_name = "CONDITION|SELECT")]
    verify: Option<String>,

    /// The time limit of a statement, up to 10m; not in SQLite
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = length)]
    statement_timeout: Duration,

    /// The time limit for the wait for a lock, up to 10m
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = length)]
    lock_timeout: Duration,
}

impl WorkArgs {
    /// Reads the flags by the syntax of the database. Without `--key`, the database is asked for the primary key.
    pub(crate) async fn args(&self, database: &Database) -> CliResult<BackfillArgs> {
        let table = table_spec(database, &self.table, &self.key, self.filter.as_deref()).await?;
        let table = table.allow_row_security(self.allow_row_security);
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
