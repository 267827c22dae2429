//! Why a table cannot be paged through.

use crate::base::error::PageError;

/// A table cannot be paged through as it was asked. Found before anything starts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The name of the table cannot be read.
    #[error("`{given}` is no name of a table: {reason}; write `table` or `schema.table`")]
    Name {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no key.
    #[error("the key has {given} columns; it must have 1 to {max}")]
    KeyLength {
        /// How many were given.
        given: usize,
        /// How many there may be.
        max: usize,
    },
    /// A column is in the key twice.
    #[error("column `{column}` is in the key twice")]
    RepeatedColumn {
        /// The column.
        column: String,
    },
    /// A key column was given with a direction.
    #[error(
        "`{given}` in the key has a direction; give the bare names of the columns: pages go through all of them \
         upwards, since a page's range is a single comparison with the whole key, which directions that are \
         mixed do not allow"
    )]
    Direction {
        /// What was given.
        given: String,
    },
    /// There is no such table, or it cannot be seen.
    #[error("there is no table `{table}`{}", but_there_is(.similar))]
    MissingTable {
        /// The table.
        table: String,
        /// Tables that are called almost like that.
        similar: Vec<String>,
    },
    /// It is something else than a table with rows of its own.
    #[error("`{table}` is {what}, which cannot be paged through: {reason}")]
    NotATable {
        /// Its name.
        table: String,
        /// What it is.
        what: &'static str,
        /// Why that does not work.
        reason: &'static str,
    },
    /// Rows that a policy hides would be left out without a word.
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
    /// There is no such column.
    #[error("table {table} has no column `{column}`; it has {}", listed(.columns))]
    MissingColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Those there are.
        columns: Vec<String>,
    },
    /// Rows without a key would be left out without a word.
    #[error("key column `{column}` of {table} {found}; {remedy}")]
    NullableKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What is the matter.
        found: &'static str,
        /// What helps.
        remedy: String,
    },
    /// Rows with equal keys would be lost between two pages.
    #[error(
        "nothing says that no two rows of {table} have the same ({}): a primary key or a complete, valid unique \
         index on these columns, or on some of them, is needed; {}",
        .key.join(", "), there_are(.unique)
    )]
    NotUnique {
        /// The table.
        table: String,
        /// The key columns.
        key: Vec<String>,
        /// The unique indexes that are there, with their columns.
        unique: Vec<String>,
    },
    /// The values of a key column cannot be cursors.
    #[error("key column `{column}` of {table} is of type {type_name}: {reason}")]
    KeyType {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The filter is no condition.
    #[error("the filter cannot be used: {reason}")]
    Filter {
        /// What is wrong with it.
        reason: String,
    },
    /// Every page would read or sort the whole table.
    #[error(
        "a page of {table} in the order of ({}) would {plan}; make the index that is missing: {index}",
        .key.join(", ")
    )]
    SlowPages {
        /// The table.
        table: String,
        /// The key columns.
        key: Vec<String>,
        /// What the database would do.
        plan: String,
        /// A statement that makes the index.
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
    /// Whether asking again may help: only where the database could not be asked.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database(_) => true,
            Self::FirstRow(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The error of a page, of a type of its own for each variant, such as `TableNotUnique`. Only one of
    /// the database can be retryable.
    ///
    /// A bare `?` in a processor would make every one of them retryable; write
    /// `.map_err(TableError::into_page_error)?`.
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
    /// What is wrong with a table, or with what is done to it, that was right when the batch began: somebody has
    /// renamed or altered it. That concerns every page and is cured by whoever did it, so no page is given up;
    /// the database itself would say the same of a statement.
    pub(crate) fn since_the_start(error: PageError) -> PageError {
        if error.is_retryable() {
            return error;
        }
        PageError::retryable(format_args!("{}: {}", error.error_type(), error.message()))
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
