//! The columns of a record that the database refuses.
//!
//! Databases name the columns in different places: in a field of the error, in its context, in its text, or only by
//! the name of a constraint, whose columns are then looked up. The text of an error is searched only for the names of
//! the filled columns, so no value of a record is taken for a name.

#[cfg(feature = "mysql")]
pub(super) mod mysql;
#[cfg(feature = "postgres")]
pub(super) mod postgres;
#[cfg(feature = "sqlite")]
pub(super) mod sqlite;

use super::{
    row::{ImportRow, into_text},
    write::Filled,
};

/// A record that was sent alone, and refused.
pub(super) struct Refusal<'a> {
    pub filled: &'a Filled<'a>,
    pub row: &'a ImportRow,
    pub error: &'a sqlx::Error,
}

impl Refusal<'_> {
    /// Returns the columns whose name occurs in a text between two of these marks.
    #[cfg(feature = "mysql")]
    fn quoted_in(&self, text: &str, marks: &[char]) -> Vec<String> {
        self.columns_where(|name| {
            let quoted = |mark: &char| text.contains(&format!("{mark}{name}{mark}"));
            marks.iter().any(quoted)
        })
    }

    /// Returns the value of a column; `None` for NULL, and for a column that is not filled.
    fn value(&self, column: &str) -> Option<String> {
        let plan = self.filled.plan();
        let place = plan.iter().position(|assigned| assigned.column == column)?;
        into_text(self.row.0[place].clone())
    }

    fn columns_where(&self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let names = self.filled.plan().iter().map(|assigned| &assigned.column);
        names.filter(|name| is_meant(name)).cloned().collect()
    }

    /// Sorts the columns of a constraint in the order in which they are filled; other columns come last.
    fn in_order(&self, mut columns: Vec<String>) -> Vec<String> {
        let plan = self.filled.plan();
        let place = |name: &String| plan.iter().position(|assigned| assigned.column == *name);
        columns.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
        columns
    }
}
