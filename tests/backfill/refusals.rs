//! Backfills that are refused before they start, and change nothing.

use std::time::Duration;

use temporal_batch::{
    PageProcessor as _,
    sql::{BackfillArgs, TableSpec},
};

use crate::{database::Home, support::databases::on_each};

on_each!(
    impossible_backfills_are_refused_with_the_reason,
    once_needs_the_tables_of_the_ledger,
    a_wrong_statement_is_refused_before_it_runs,
);

fn t() -> TableSpec {
    TableSpec::new("t", ["id"])
}

async fn refused(home: &Home, args: BackfillArgs) -> String {
    let error = home.processor().prepare(args).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    error.message().to_owned()
}

async fn impossible_backfills_are_refused_with_the_reason(home: Home) {
    home.numbers(5).await;
    let set = |column: &str, value: &str| BackfillArgs::of(t()).set(column, value);
    let of = |table: TableSpec| BackfillArgs::of(table).set("x", "1");
    let statement = |text: &str| BackfillArgs::of(t()).statement(text);
    for (args, part) in [
        (BackfillArgs::of(t()), "nothing to do"),
        (
            set("x", "1").statement("DELETE FROM t WHERE {range}"),
            "give only one of them",
        ),
        (set("id", "id + 1"), "part of the key"),
        (set("y", "1"), "no column \"y\""),
        (set("x", "1").set("x", "2"), "set twice"),
        (set("x", ""), "is empty"),
        (set("x", "1) WHERE (1 = 1"), "closes nothing"),
        (set("x", "no_such_function(1)"), "refuses the statement"),
        (set("x", "nope"), "refuses the statement"),
        (statement("DELETE FROM t"), "needs {range}"),
        (
            statement("DELETE FROM u WHERE {range}"),
            "refuses the statement",
        ),
        (statement("DROP TABLE t"), "begins with DROP"),
        (statement("COMMIT"), "begins with COMMIT"),
        (of(TableSpec::new("u", ["id"])), "no table"),
        (of(TableSpec::new("t", ["nope"])), "no column"),
        (of(TableSpec::new("t", ["x"])), "could have the same"),
        (of(t().filter("x = 1) OR (1 = 1")), "filter"),
        (
            set("x", "1").statement_timeout(Duration::ZERO),
            "statement timeout",
        ),
        (
            set("x", "1").lock_timeout(Duration::from_secs(3_600)),
            "10m",
        ),
    ] {
        let message = refused(&home, args).await;
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 0").await, 5);
}

async fn once_needs_the_tables_of_the_ledger(home: Home) {
    home.numbers(5).await;
    let args = || BackfillArgs::of(t()).set("x", "1").once(true);
    let message = refused(&home, args()).await;
    assert!(message.contains("tables of the page ledger"), "{message}");
    home.ledger_tables().await;
    home.processor().prepare(args()).await.unwrap();
}

async fn a_wrong_statement_is_refused_before_it_runs(home: Home) {
    home.numbers(5).await;
    let args = BackfillArgs::of(t())
        .statement("DELETE FROM t WHERE {range}")
        .statement("INSERT INTO nowhere SELECT * FROM t WHERE {range}");
    let message = refused(&home, args).await;
    assert!(message.contains("nowhere"), "{message}");
    assert_eq!(home.number("SELECT count(*) FROM t").await, 5);
}
