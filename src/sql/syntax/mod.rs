//! The lexical rules of SQL, as far as they decide where literals, comments, names and statements end.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | [`Syntax`]: the database whose rules a text follows, and its way to quote and compare names |
//! | `tokens.rs` | the lexer |
//! | `placeholders.rs` | `$1`, `$2` as the `?` of MySQL |
//!
//! Everything that reads SQL goes through [`tokens`]: the statements and assignments of a backfill, the filter of a
//! table, the query of a verification, and the statements that other sessions run.

#[cfg(feature = "mysql")]
mod placeholders;
mod tokens;

#[cfg(feature = "mysql")]
pub(crate) use placeholders::positional;
pub use tokens::SyntaxError;
pub(crate) use tokens::{Kind, Token, tokens};

use crate::sql::Database;

/// The database whose rules a text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "of PostgreSQL"))]
    Postgres,
    #[cfg_attr(not(feature = "mysql"), allow(dead_code, reason = "of MySQL"))]
    MySql,
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "of SQLite"))]
    Sqlite,
}

impl Syntax {
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Postgres, Self::MySql, Self::Sqlite];

    pub fn of(database: &Database) -> Self {
        match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => Self::Postgres,
            #[cfg(feature = "mysql")]
            Database::MySql(_) => Self::MySql,
            #[cfg(feature = "sqlite")]
            Database::Sqlite(_) => Self::Sqlite,
        }
    }

    /// Returns the name by which the database knows an identifier that is written without quotes.
    pub fn fold(self, identifier: &str) -> String {
        match self {
            // PostgreSQL folds ASCII everywhere, and other characters only in some locales.
            Self::Postgres => identifier.to_ascii_lowercase(),
            Self::MySql | Self::Sqlite => identifier.to_owned(),
        }
    }

    /// Compares two column names as the database does.
    pub fn same_column(self, one: &str, other: &str) -> bool {
        match self {
            Self::Postgres => one == other,
            Self::MySql | Self::Sqlite => one.eq_ignore_ascii_case(other),
        }
    }

    /// Returns advice on a text that the database refuses, if it may quote names as another database does. The advice
    /// follows the reason of the refusal.
    pub fn on_quotes(self, text: &str) -> &'static str {
        let tokens = tokens(text, self).unwrap_or_default();
        let has = |mark| {
            tokens
                .iter()
                .any(|token| text[token.at.clone()].starts_with(mark))
        };
        match self {
            Self::MySql if has('"') => {
                "; a text in double quotes is a string in MySQL and MariaDB, where backticks quote names"
            }
            Self::Postgres if has('`') => {
                "; PostgreSQL quotes names with double quotes, not with backticks"
            }
            Self::MySql | Self::Postgres | Self::Sqlite => "",
        }
    }

    /// Returns a name as one quoted identifier.
    pub fn quote(self, name: &str) -> String {
        let mark = match self {
            Self::MySql => '`',
            Self::Postgres | Self::Sqlite => '"',
        };
        let doubled = name.replace(mark, &format!("{mark}{mark}"));
        format!("{mark}{doubled}{mark}")
    }
}
