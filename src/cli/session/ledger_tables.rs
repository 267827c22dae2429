//! The tables of the page ledger, made for a batch that needs them.

use crate::{
    base::error::PageError,
    cli::{
        exit::{CliError, CliResult},
        output::note,
        shell::Program,
    },
    sql::{Database, LEDGER_TABLES_MISSING, LedgerSchema},
};

/// Returns an error of a check. Missing tables come with the commands that make them.
pub(crate) fn refused(error: &PageError, program: &Program) -> CliError {
    let refused = CliError::refused(error);
    match error.error_type() == LEDGER_TABLES_MISSING {
        true => refused.hint(format!(
            "`{}` makes them, `{}` shows the statements; --create-ledger-tables makes them here",
            program.command("schema apply"),
            program.command("schema print"),
        )),
        false => refused,
    }
}

/// Checks a batch, and makes the tables of the ledger if asked to. The tables are made only when nothing else is wrong,
/// so that a refused batch leaves no tables behind.
pub(crate) async fn with_ledger_tables<T>(
    database: &Database,
    make: bool,
    program: &Program,
    check: impl AsyncFn() -> Result<T, PageError>,
) -> CliResult<T> {
    let refused = |error| refused(&error, program);
    match check().await {
        Err(error) if make && error.error_type() == LEDGER_TABLES_MISSING => {
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
