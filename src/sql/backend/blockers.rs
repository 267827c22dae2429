//! The session or the file that a page waited for, named in the page's error.
//!
//! A database can tell which session blocks another only while the other one waits, and only to a third session. The
//! worker therefore looks now and then while the statements of a page run. Each look takes an idle connection of the
//! pool, or opens one for a moment. Nothing depends on its success.

use std::{pin::pin, time::Duration};

use sqlx::{Connection as _, Pool};

use crate::{
    base::error::{PageError, truncate, without_quoted},
    sql::{
        backend::{dialect::Dialect, value::Value},
        syntax::{Kind, Syntax, tokens},
    },
};

/// The time limit of one look.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest time until the first look.
const SOON: Duration = Duration::from_secs(3);
/// The fraction of the longest wait for a lock after which the worker looks, so that no wait ends without a look.
const OF_A_WAIT: f64 = 0.6;
/// The longest part of another session's statement that an error shows.
const MAX_STATEMENT_CHARS: usize = 60;

/// Runs the statements of a page on a table. If they fail because they waited too long for a lock, the error names
/// the sessions that held it. `longest` is the limit for one wait.
pub(crate) async fn named<DB: Dialect, T>(
    pool: &Pool<DB>,
    table: &str,
    longest: Duration,
    statements: impl Future<Output = Result<T, PageError>>,
) -> Result<T, PageError> {
    let every = longest.mul_f64(OF_A_WAIT).min(SOON);
    let mut seen = None;
    let done = {
        let statements = pin!(statements);
        let looking = look_again_and_again(pool, table, every, &mut seen);
        tokio::select! {
            biased;
            done = statements => done,
            never = looking => match never {},
        }
    };
    done.map_err(|error| match (error.error_type(), seen) {
        ("LockTimeout" | "StatementTimeout", Some(who)) => {
            error.redacted(|said| format!("{who} holds the lock: {said}"))
        }
        _ => of_file(pool, error),
    })
}

/// Names the database file in the error, where the database is a single file and that file was locked.
pub(crate) fn of_file<DB: Dialect>(pool: &Pool<DB>, error: PageError) -> PageError {
    let file = match error.error_type() {
        "LockTimeout" => DB::file(pool),
        _ => None,
    };
    match file {
        // The message names the file already.
        Some(file) if !error.message().contains(&*file.to_string_lossy()) => {
            error.redacted(|said| {
                format!(
                    "another session holds the lock of the file {}: {said}",
                    file.display()
                )
            })
        }
        _ => error,
    }
}

async fn look_again_and_again<DB: Dialect>(
    pool: &Pool<DB>,
    table: &str,
    every: Duration,
    seen: &mut Option<String>,
) -> std::convert::Infallible {
    let Some(question) = DB::BLOCKERS else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(every).await;
        match tokio::time::timeout(PATIENCE, ask(pool, question, table)).await {
            Ok(Ok(Some(who))) => *seen = Some(who),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot see the sessions that block pages"),
            Err(_) => tracing::debug!("the sessions that block pages were not found in time"),
        }
    }
}

async fn ask<DB: Dialect>(
    pool: &Pool<DB>,
    question: &str,
    table: &str,
) -> Result<Option<String>, sqlx::Error> {
    let values = vec![Value::from(table)];
    let rows = match pool.try_acquire() {
        Some(mut connection) => DB::rows(&mut connection, question.to_owned(), values).await?,
        None => {
            let options = pool.connect_options();
            let mut connection = DB::Connection::connect_with(&options).await?;
            let rows = DB::rows(&mut connection, question.to_owned(), values).await;
            connection.close().await?;
            rows?
        }
    };
    let mut blockers = Vec::new();
    for row in &rows {
        let who = DB::text(row, 0)?.unwrap_or_default();
        let does = DB::text(row, 1)?.filter(|does| !does.is_empty());
        let statement = DB::text(row, 2)?.filter(|statement| !statement.is_empty());
        let statement = statement.map(|statement| without_values(&statement, DB::SYNTAX));
        let known: Vec<_> = does.into_iter().chain(statement).collect();
        blockers.push(match known.is_empty() {
            true => who,
            false => format!("{who} ({})", known.join(": ")),
        });
    }
    Ok((!blockers.is_empty()).then(|| blockers.join(", ")))
}

/// Returns a statement of another session in one line, without comments, and with a question mark for each value.
fn without_values(statement: &str, syntax: Syntax) -> String {
    let Ok(tokens) = tokens(statement, syntax) else {
        // The server cuts long statements, possibly within a value.
        let cut = without_quoted(statement);
        let masked = cut.replace(|c: char| c.is_ascii_digit(), "?");
        return truncate(&one_line(&masked), MAX_STATEMENT_CHARS);
    };
    let mut masked = String::new();
    for token in tokens {
        let text = &statement[token.at.clone()];
        match token.kind {
            Kind::Literal => masked.push('?'),
            Kind::Word if text.starts_with(|c: char| c.is_ascii_digit()) => masked.push('?'),
            _ if token.is_blank() => masked.push(' '),
            _ => masked.push_str(text),
        }
    }
    truncate(&one_line(&masked), MAX_STATEMENT_CHARS)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_of_another_session_shows_no_values() {
        for (statement, shown) in [
            (
                "UPDATE t SET mail = 'ann@example.com'\n  WHERE id = 4711 -- for Ann",
                "UPDATE t SET mail = ? WHERE id = ?",
            ),
            ("SELECT 1.5, $tag$secret$tag$, col1", "SELECT ?.?, ?, col1"),
            // Cut within a value.
            (
                "UPDATE t SET pin = 1234, mail = 'ann@exa",
                "UPDATE t SET pin = ????, mail = '…",
            ),
        ] {
            let masked = without_values(statement, Syntax::Postgres);
            assert_eq!(masked, shown);
        }
    }
}
