//! The table that `--table`, `--key` and `--where` name.

use crate::{
    cli::exit::{CliError, CliResult},
    sql::{Database, Table, TableError, TableSpec},
};

/// Asks the database for the full name of the table, and for the primary key where no key is given.
pub(crate) async fn table_spec(
    database: &Database,
    table: &str,
    key: &[String],
    filter: Option<&str>,
) -> CliResult<TableSpec> {
    let table = full_name(database, table).await?;
    let key = match key.is_empty() {
        false => key.to_vec(),
        true => primary_key(database, &table).await?,
    };
    let spec = TableSpec::new(table, key);
    Ok(match filter {
        Some(filter) => spec.filter(filter),
        None => spec,
    })
}

/// Returns the [full name](Table::full_name) of a table, so that a command is about the same batch whatever the spelling
/// of the name.
pub(crate) async fn full_name(database: &Database, table: &str) -> CliResult<String> {
    let name = Table::full_name(database, table).await;
    name.map_err(|error| match error.is_retryable() {
        true => CliError::caused("cannot look for the table", &error),
        false => CliError::usage(error),
    })
}

/// Returns the columns of the primary key of a table, from the database.
async fn primary_key(database: &Database, table: &str) -> CliResult<Vec<String>> {
    let key = Table::primary_key(database, table).await;
    let key = key.map_err(|error| match error.is_retryable() {
        true => CliError::caused("cannot look for the primary key", &error),
        false => CliError::usage(error),
    })?;
    if !key.is_empty() {
        return Ok(key);
    }
    // If it is not a table, that is the error to report. No column has an empty name.
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
