//! Columns of single rows, set to values that come from outside of the database.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | [`RowUpdate`]: the columns, and their statement |
//! | `form.rs` | the values that a column takes without changing them |
//! | `apply.rs` | the rows of a page, in its transaction |

mod apply;
mod form;

pub(crate) use apply::{NewValues, Written};

use std::collections::HashMap;

use super::{
    Assignment, InvalidBackfill, InvalidImport, Table,
    backend::{table_engine::untransactional, value::Value},
    backfill::{Statement, TypedColumn, column_types, update},
    import::{ColumnKind, Target},
    syntax::Syntax,
};
use crate::{base::error::PageError, cell::Cell};
use form::Form;

/// Sets columns of single rows. A value is written as it is or not at all: one that the column would round, cut or turn
/// into another is refused.
#[derive(Clone, Debug)]
pub(crate) struct RowUpdate {
    table: Table,
    columns: Vec<Column>,
    /// The statement for one row. The values of the columns come before the condition for the row.
    statement: Statement,
    /// True if rows that have their new values already are left alone.
    compares: bool,
}

/// A column to set.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    form: Form,
}

/// A value for a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fitting(Cell);

impl RowUpdate {
    /// Checks the columns, and makes the statement.
    ///
    /// # Errors
    /// The non-retryable `InvalidCall`: a column that cannot be set. The errors of the database.
    pub async fn new(table: &Table, names: &[String]) -> Result<Self, PageError> {
        let database = table.database();
        let syntax = Syntax::of(database);
        let target = Target::parse(&table.spec().table, database);
        let target = target.map_err(InvalidImport::into_page_error)?;
        let described = target.columns(database).await?;
        let mut columns: Vec<Column> = Vec::new();
        for given in names {
            let mut found = table.columns().iter();
            let found = found.find(|c| syntax.same_column(&c.name, given));
            let Some(column) = found else {
                let all: Vec<_> = table.columns().iter().map(|c| c.name.as_str()).collect();
                return Err(invalid(format_args!(
                    "table {} has no column {given:?}; it has: {}",
                    table.quoted_name(),
                    all.join(", ")
                )));
            };
            let name = &column.name;
            if table.is_key_column(name) {
                return Err(invalid(format_args!(
                    "column {name:?} is part of the key ({}), by which the pages are found; set another column",
                    table.spec().key.join(", ")
                )));
            }
            if column.generated {
                return Err(invalid(format_args!(
                    "column {name:?} is computed by the database; set a column from which it is computed"
                )));
            }
            if columns.iter().any(|known| known.name == *name) {
                return Err(invalid(format_args!("column {name:?} is set twice")));
            }
            let kind = described.iter().find(|c| c.name == *name).map(|c| c.kind);
            let form = Form::of(syntax, &column.type_name, kind.unwrap_or(ColumnKind::Plain));
            if form == Form::Bytes {
                return Err(invalid(format_args!(
                    "column {name:?} holds bytes ({}), which an answer in JSON does not have; write the answers into \
                     files with --out, and import them with --bytes",
                    column.type_name
                )));
            }
            if form == Form::Other {
                return Err(invalid(format_args!(
                    "column {name:?} is of the type {:?}, whose values the database may change in silence; set columns of numbers, \
                     texts, booleans or JSON, or write the answers into files with --out and import them",
                    column.type_name
                )));
            }
            columns.push(Column {
                name: name.clone(),
                form,
            });
        }
        let types = column_types(table).await?;
        let set: Vec<_> = (1..)
            .zip(&columns)
            .map(|(number, column)| Assignment {
                column: column.name.clone(),
                expression: column.expression(syntax, number, &types),
            })
            .collect();
        let quote = |name: &str| table.quote(name);
        let name = table.quoted_name();
        let plain = update(name, &set, quote, None, syntax);
        // Where a trigger may pass over a row, every row is written: only then a row that was not is noticed.
        let statement = match table.passes_over() {
            true => plain.clone(),
            false => update(name, &set, quote, Some(&types), syntax),
        };
        Ok(Self {
            table: table.clone(),
            columns,
            compares: statement != plain,
            statement,
        })
    }

    /// Checks that a page's rows and the record that it was applied can commit together.
    ///
    /// # Errors
    /// The tables of the ledger are missing, or the table has no transactions. The errors of the database.
    pub async fn check_ledger(&self) -> Result<(), PageError> {
        let database = self.table.database();
        let update = format!("UPDATE {} SET x = 1", self.table.quoted_name());
        if let Some(found) = untransactional(database, &[update], true).await? {
            let refused = InvalidBackfill::NoTransactions {
                table: found.table,
                engine: found.engine,
                repeatable: false,
            };
            return Err(refused.into_page_error());
        }
        match database.has_ledger_tables().await? {
            true => Ok(()),
            false => Err(InvalidBackfill::LedgerTablesMissing.into_page_error()),
        }
    }

    /// Returns the value for the column at a position.
    ///
    /// # Errors
    /// The reason why the column cannot hold the JSON value. The text does not show the value.
    pub fn fitting(&self, at: usize, json: &str) -> Result<Fitting, String> {
        let column = &self.columns[at];
        let cell = column.form.fitting(json);
        cell.map(Fitting)
            .map_err(|why| format!("column `{}`: {why}", column.name))
    }

    /// Returns the statement for a row, for people.
    pub fn shown(&self) -> String {
        let shown = self
            .statement
            .render(|_| ("the row".to_owned(), Vec::new()));
        shown.0
    }

    /// Returns the statement for the row that a condition selects.
    fn bound(
        &self,
        values: &[Fitting],
        row: impl Fn(usize) -> (String, Vec<Value>),
    ) -> (String, Vec<Value>) {
        let syntax = Syntax::of(self.table.database());
        let columns = self.columns.iter().zip(values);
        let mut all: Vec<_> = columns
            .map(|(column, Fitting(cell))| column.form.value(syntax, cell))
            .collect();
        // Placeholders of MySQL have no numbers, so a value that occurs twice is sent twice.
        let again = match (syntax, self.compares) {
            (Syntax::MySql, true) => all.clone(),
            _ => Vec::new(),
        };
        let (text, values) = self.statement.render(|at| row(at + all.len()));
        all.extend(values);
        all.extend(again);
        (text, all)
    }
}

impl Column {
    /// Returns the expression for the value with this number.
    fn expression(
        &self,
        syntax: Syntax,
        number: usize,
        types: &HashMap<String, TypedColumn>,
    ) -> String {
        match syntax {
            // Values are sent as texts, and the database reads them by the type of the column.
            Syntax::Postgres => {
                let type_name = types
                    .get(&self.name)
                    .map_or("text", |c| c.type_name.as_str());
                format!("${number}::text::{type_name}")
            }
            Syntax::MySql => "?".to_owned(),
            Syntax::Sqlite if self.form.is_text() => format!("${number}"),
            // Numbers and booleans are sent as JSON, in which `true` is 1.
            Syntax::Sqlite => format!("json_extract(${number}, '$')"),
        }
    }
}

fn invalid(message: std::fmt::Arguments<'_>) -> PageError {
    PageError::non_retryable("InvalidCall", format_args!("--set: {message}"))
}
