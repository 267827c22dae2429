//! The errors of tables that cannot be paged through.

use crate::base::error::PageError;

/// A table that cannot be paged through as requested. The error comes before anything starts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The name of the table cannot be read.
    #[error("`{given}` is not the name of a table: {reason}; write `table` or `schema.table`")]
    Name {
        /// The given name.
        given: String,
        /// The problem with the name.
        reason: &'static str,
    },
    /// The key has no columns, or too many.
    #[error("the key has {given} columns; it must have 1 to {max}")]
    KeyLength {
        /// The number of columns.
        given: usize,
        /// The largest number of columns.
        max: usize,
    },
    /// A column occurs twice in the key.
    #[error("column `{column}` is in the key twice")]
    RepeatedColumn {
        /// The column.
        column: String,
    },
    /// A key column has a direction.
    #[error(
        "`{given}` in the key has a direction; give the bare names of the columns: pages go through all of them \
         in ascending order, since a page's range is a single comparison with the whole key, which mixed directions \
         do not allow"
    )]
    Direction {
        /// The given column.
        given: String,
    },
    /// The table does not exist, or the connection may not see it.
    #[error("there is no table `{table}`{}", but_there_is(.similar))]
    MissingTable {
        /// The table.
        table: String,
        /// Tables with similar names.
        similar: Vec<String>,
    },
    /// The object is not a table with rows of its own.
    #[error("`{table}` is {what}, which cannot be paged through: {reason}")]
    NotATable {
        /// The name.
        table: String,
        /// The kind of object.
        what: &'static str,
        /// The reason why it cannot be paged through.
        reason: &'static str,
    },
    /// A policy may hide rows, which would be left out silently.
    #[error(
        "row security is active on {table} for the role {role}: rows that its policies hide would be left out; \
         use a role that has BYPASSRLS or owns the table without FORCE ROW LEVEL SECURITY, or allow it \
         (allow_row_security)"
    )]
    RowSecurity {
        /// The table.
        table: String,
        /// The role of the connection.
        role: String,
    },
    /// The table has no such column.
    #[error("table {table} has no column `{column}`; it has {}", listed(.columns))]
    MissingColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The columns of the table.
        columns: Vec<String>,
    },
    /// Rows with NULL in the key would be left out silently.
    #[error("key column `{column}` of {table} {found}; {remedy}")]
    NullableKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The problem.
        found: &'static str,
        /// The remedy.
        remedy: String,
    },
    /// Rows with equal keys would be lost between two pages.
    #[error(
        "two rows of {table} could have the same ({}): a primary key or a complete, valid unique \
         index on these columns, or on some of them, is needed; {}",
        .key.join(", "), there_are(.unique)
    )]
    NotUnique {
        /// The table.
        table: String,
        /// The key columns.
        key: Vec<String>,
        /// The existing unique indexes, with their columns.
        unique: Vec<String>,
    },
    /// The values of a key column cannot be cursors.
    #[error("key column `{column}` of {table} is of type {type_name}: {reason}")]
    KeyType {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The type of the column.
        type_name: String,
        /// The reason.
        reason: &'static str,
    },
    /// The filter is not a condition.
    #[error("the filter cannot be used: {reason}")]
    Filter {
        /// The problem with the filter.
        reason: String,
    },
    /// Every page would read or sort the whole table.
    #[error(
        "a page of {table} in the order of ({}) would {plan}; create the missing index: {index}",
        .key.join(", ")
    )]
    SlowPages {
        /// The table.
        table: String,
        /// The key columns.
        key: Vec<String>,
        /// The slow part of the plan.
        plan: String,
        /// A statement that creates the index.
        index: String,
    },
    /// The database could not be asked.
    #[error("the database could not be asked about the table")]
    Database(#[from] sqlx::Error),
    /// The first row was not read in time, or the database refused it.
    #[error("the first row of the table cannot be read: {0}")]
    FirstRow(PageError),
}

impl TableError {
    /// Returns whether another attempt may help, which is the case only where the database could not be asked.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database(_) => true,
            Self::FirstRow(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Returns the error as that of a page, with an error type for each variant, such as `TableNotUnique`. Only errors
    /// of the database can be retryable.
    ///
    /// A bare `?` in a processor would make all of them retryable; write `.map_err(TableError::into_page_error)?`.
    pub fn into_page_error(self) -> PageError {
        let error_type = match &self {
            Self::Name { .. } => "TableName",
            Self::KeyLength { .. } | Self::RepeatedColumn { .. } | Self::Direction { .. } => {
                "TableKey"
            }
            Self::MissingTable { .. } => "TableMissing",
            Self::NotATable { .. } => "NotATable",
            Self::RowSecurity { .. } => "TableRowSecurity",
            Self::MissingColumn { .. } => "TableColumnMissing",
            Self::NullableKey { .. } => "TableKeyNull",
            Self::NotUnique { .. } => "TableNotUnique",
            Self::KeyType { .. } => "TableKeyType",
            Self::Filter { .. } => "TableFilter",
            Self::SlowPages { .. } => "TableSlowPages",
            Self::Database(_) | Self::FirstRow(_) => "",
        };
        match self {
            Self::Database(error) => error.into(),
            Self::FirstRow(error) => error,
            refused => PageError::non_retryable(error_type, refused),
        }
    }
}

impl TableError {
    /// Returns the error of a table that has become invalid since the batch began, because it was renamed or altered.
    /// The error concerns every page, and another change of the table cures it, so the batch gives up no page. A
    /// statement on such a table gets an error of the same kind from the database.
    pub(crate) fn since_the_start(error: PageError) -> PageError {
        if error.is_retryable() {
            return error;
        }
        PageError::environment(format_args!("{}: {}", error.error_type(), error.message()))
            .with_type("SqlStatement")
    }
}

fn listed(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn but_there_is(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        similar => format!(
            " that this connection can see; there is {}, and upper and lower case count",
            listed(similar)
        ),
    }
}

fn there_are(unique: &[String]) -> String {
    match unique {
        [] => "there is no unique index".to_owned(),
        unique => format!("there are: {}", unique.join("; ")),
    }
}
