//! Rows of a page that a statement should have changed and did not: a trigger, a rule or a policy of the table can
//! keep a row from being changed, without an error of the database.

use super::{statement::Statement, work::Rows};
use crate::{
    base::error::PageError,
    sql::{
        Table,
        backend::{dialect::Dialect, value::Fields},
        syntax::{Kind, Syntax, Token, tokens},
    },
};

/// The number of rows that a statement must affect.
#[derive(Clone, Debug)]
pub enum Expected {
    /// The number is unknown.
    Unknown,
    /// All rows that the page has in the table.
    EachRow,
    /// The number that this statement counts: before the change, or, where the database knows which rows a
    /// transaction has written, the rows that are left after the change.
    Counted(Statement),
}

impl Expected {
    /// Returns the number of rows that the statement must affect, if it is counted before the statement runs.
    pub async fn before<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        table: &Table,
        rows: &Rows,
    ) -> Result<Option<u64>, PageError> {
        match self {
            Self::Unknown => Ok(None),
            Self::EachRow if !table.passes_over() => Ok(None),
            Self::EachRow => {
                let count = format!("SELECT count(*) FROM {} WHERE ", table.quoted_name());
                let count = Statement::of([count, String::new()]);
                counted::<DB>(connection, &count, table, rows)
                    .await
                    .map(Some)
            }
            Self::Counted(_) if DB::UNTOUCHED.is_some() => Ok(None),
            Self::Counted(count) => counted::<DB>(connection, count, table, rows)
                .await
                .map(Some),
        }
    }

    /// Fails if rows were passed over.
    pub async fn after<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        table: &Table,
        rows: &Rows,
        expected: Option<u64>,
        affected: u64,
    ) -> Result<(), PageError> {
        let left = match (self, expected) {
            (_, Some(expected)) => expected.saturating_sub(affected),
            (Self::Counted(count), None) => counted::<DB>(connection, count, table, rows).await?,
            (_, None) => 0,
        };
        check(table, left)
    }
}

/// Fails if rows were passed over.
pub fn check(table: &Table, left: u64) -> Result<(), PageError> {
    if left == 0 {
        return Ok(());
    }
    Err(PageError::non_retryable(
        "RowsPassedOver",
        format_args!(
            "{left} {} of {} matched and stayed as {}: a trigger, a rule or a policy kept the statement from \
             changing {}",
            if left == 1 { "row" } else { "rows" },
            table.quoted_name(),
            if left == 1 { "it was" } else { "they were" },
            if left == 1 { "it" } else { "them" },
        ),
    ))
}

/// Runs a counting statement for the rows of a page.
async fn counted<DB: Dialect>(
    connection: &mut DB::Connection,
    count: &Statement,
    table: &Table,
    rows: &Rows,
) -> Result<u64, PageError> {
    let (count, values) = count.render(|at| rows.condition(table, at));
    let rows = DB::rows(connection, count, values).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Fields::<DB>::of(row).count()?)
}

/// Returns whether a statement affects one row for each row of its range: an `UPDATE` or `DELETE` of one table, or an
/// `INSERT` of the rows of one, with `{range}` as its only condition.
pub fn affects_each_row(text: &str, syntax: Syntax) -> bool {
    let all = tokens(text, syntax).unwrap_or_default();
    let all: Vec<&Token> = all.iter().filter(|token| !token.is_blank()).collect();
    let word = |token: &Token| match token.kind {
        Kind::Word => text[token.at.clone()].to_ascii_uppercase(),
        _ => String::new(),
    };
    let [head @ .., condition, range] = all.as_slice() else {
        return false;
    };
    if word(condition) != "WHERE" || range.kind != Kind::Range {
        return false;
    }
    let words: Vec<_> = head.iter().map(|token| word(token)).collect();
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
    if has(&[
        "IGNORE", "JOIN", "GROUP", "DISTINCT", "LIMIT", "UNION", "USING", "WITH", "WHERE", "OVER",
    ]) {
        return false;
    }
    let from = words.iter().rposition(|word| word == "FROM");
    let listed = |tokens: &[&Token]| tokens.iter().any(|t| t.kind == Kind::Symbol(','));
    match (words.first().map(String::as_str), from) {
        // Statements with several tables, such as `UPDATE a, b SET` and `DELETE a, b FROM`, are excluded.
        (Some("UPDATE"), None) => {
            let set = words.iter().position(|word| word == "SET");
            set.is_some_and(|set| !listed(&head[..set]))
        }
        (Some("DELETE"), Some(1)) => !listed(head),
        (Some("INSERT"), Some(from)) => {
            let select = words.iter().position(|word| word == "SELECT");
            // A value that is computed from all rows, such as a count, has parentheses.
            select.is_some_and(|select| {
                let selected = head.get(select..from).unwrap_or_default();
                let plain = selected.iter().all(|t| t.kind != Kind::Symbol('('));
                plain && !listed(&head[from..])
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_for_each_row_of_a_range_are_known() {
        let each = |text| affects_each_row(text, Syntax::Sqlite);
        for text in [
            "DELETE FROM t WHERE {range}",
            "UPDATE t SET a = (SELECT max(b) FROM c) WHERE {range}",
            "INSERT INTO a (x, y) SELECT x, y FROM t WHERE {range}",
        ] {
            // With the FROM of a subquery, the number is unknown.
            assert_eq!(each(text), !text.contains("max"), "{text}");
        }
        for text in [
            "DELETE FROM t WHERE {range} AND x = 1",
            "UPDATE t SET a = 1 FROM c WHERE {range}",
            "UPDATE t, u SET a = 1 WHERE {range}",
            "INSERT INTO a SELECT count(*) FROM t WHERE {range}",
            "INSERT INTO a SELECT x FROM t, u WHERE {range}",
            "INSERT OR IGNORE INTO a SELECT x FROM t WHERE {range}",
            "INSERT INTO a SELECT DISTINCT x FROM t WHERE {range}",
            "SELECT f(x) FROM t WHERE {range}",
        ] {
            assert!(!each(text), "{text}");
        }
    }
}
