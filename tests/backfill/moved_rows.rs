//! Rows that are moved, with `INSERT INTO archive SELECT` and `DELETE`, while other sessions write.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use temporal_batch::{
    Outcome,
    sql::{BackfillArgs, Database, TableSpec},
};

use crate::{database::Home, support::databases::on_each};

on_each!(
    no_row_is_lost_while_other_sessions_insert_and_update,
    a_statement_that_changes_the_filtered_column_hides_no_row_from_the_next,
);

async fn tables(home: &Home) {
    let columns = "(id INTEGER NOT NULL PRIMARY KEY, x INTEGER NOT NULL)";
    home.script(&format!(
        "CREATE TABLE t {columns}; CREATE TABLE archive {columns}"
    ))
    .await;
}

fn archive(once: bool) -> BackfillArgs {
    BackfillArgs::of(TableSpec::new("t", ["id"]).filter("x >= 0"))
        .statement("INSERT INTO archive SELECT * FROM t WHERE {range}")
        .statement("DELETE FROM t WHERE {range}")
        .once(once)
}

async fn no_row_is_lost_while_other_sessions_insert_and_update(home: Home) {
    for once in [false, true] {
        home.script("DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS archive")
            .await;
        tables(&home).await;
        home.ledger_tables().await;
        // Every third id is free for rows that are inserted in the middle of pages.
        for from in (0..900).step_by(300) {
            let ids = (from..from + 300).filter(|id| id % 3 != 0);
            let values: Vec<_> = ids.map(|id| format!("({id}, 0)")).collect();
            home.script(&format!("INSERT INTO t VALUES {}", values.join(", ")))
                .await;
        }
        let over = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(home.database.clone(), Arc::clone(&over)));
        let run = home.run(archive(once)).await;
        over.store(true, Ordering::Relaxed);
        let (inserted, updated) = writer.await.unwrap();
        assert_eq!(run.outcome, Outcome::Completed);
        let kept = home.number("SELECT count(*) FROM t").await;
        let archived = home.number("SELECT count(*) FROM archive").await;
        assert_eq!(kept + archived, 600 + inserted, "once: {once}");
        // If an update came between archiving and deleting a row, the archive would miss it.
        let sum = "SELECT (SELECT coalesce(sum(x), 0) FROM t) + (SELECT coalesce(sum(x), 0) FROM archive)";
        let sum = match &home.database {
            Database::MySql(_) => format!("SELECT CAST(({sum}) AS SIGNED)"),
            _ => format!("SELECT CAST(({sum}) AS BIGINT)"),
        };
        assert_eq!(home.number(&sum).await, updated, "once: {once}");
    }
}

/// Inserts rows between the existing ones and increments others, until it is told to stop. Returns the number of
/// inserted rows, and of increments.
async fn write(database: Database, over: Arc<AtomicBool>) -> (i64, i64) {
    let (mut inserted, mut updated) = (0, 0);
    let mut id = 0;
    while !over.load(Ordering::Relaxed) && id < 900 {
        for (statement, count) in [
            (format!("INSERT INTO t VALUES ({id}, 0)"), &mut inserted),
            (
                format!("UPDATE t SET x = x + 1 WHERE id = {}", id + 1),
                &mut updated,
            ),
        ] {
            // A refused statement, for instance in a deadlock, changes nothing.
            if let Ok(rows) = execute(&database, statement).await {
                *count += rows as i64;
            }
        }
        id += 3;
        tokio::task::yield_now().await;
    }
    (inserted, updated)
}

async fn execute(database: &Database, statement: String) -> Result<u64, sqlx::Error> {
    let statement = sqlx::AssertSqlSafe(statement);
    Ok(match database {
        Database::Postgres(pool) => sqlx::query(statement).execute(pool).await?.rows_affected(),
        Database::MySql(pool) => sqlx::query(statement).execute(pool).await?.rows_affected(),
        Database::Sqlite(pool) => sqlx::query(statement).execute(pool).await?.rows_affected(),
        _ => unreachable!("no other database is tested"),
    })
}

async fn a_statement_that_changes_the_filtered_column_hides_no_row_from_the_next(home: Home) {
    tables(&home).await;
    let values: Vec<_> = (1..=30).map(|id| format!("({id}, {})", id % 2)).collect();
    home.script(&format!("INSERT INTO t VALUES {}", values.join(", ")))
        .await;
    let args = BackfillArgs::of(TableSpec::new("t", ["id"]).filter("x = 0"))
        .statement("UPDATE t SET x = 5 WHERE {range}")
        .statement("INSERT INTO archive SELECT id, x FROM t WHERE {range}");
    // A page that is lost after its commit finds no rows at its next attempt.
    let run = home.run(args).await;
    assert_eq!(run.outcome, Outcome::Completed);
    let archived = "SELECT count(*) FROM archive WHERE x = 5 AND id % 2 = 0";
    assert_eq!(home.number(archived).await, 15);
}
