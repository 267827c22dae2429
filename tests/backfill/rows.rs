//! The effects of a backfill on rows.

use temporal_batch::{
    Outcome, PageProcessor as _,
    sql::{BackfillArgs, HighWaterMark, SqlBackfill, TableSpec},
    testing::run_page,
};

use crate::{database::Home, support::databases::on_each};

on_each!(
    set_changes_the_rows_of_the_filter_and_no_others,
    rows_that_already_have_their_values_are_not_written,
    a_number_that_differs_in_its_last_digit_is_a_change,
    the_case_of_a_letter_is_a_change,
    with_once_a_repeated_page_changes_no_row_twice,
    a_key_of_several_columns_works,
    statements_of_a_file_delete_page_by_page,
    rows_inserted_after_the_start_are_not_changed,
    an_empty_table_is_done_at_once,
    a_conflict_in_sqlite_is_an_error_whatever_the_table_declares,
    a_key_that_is_computed_is_refused,
    null_is_a_value_like_any_other,
);

fn t() -> TableSpec {
    TableSpec::new("t", ["id"])
}

async fn set_changes_the_rows_of_the_filter_and_no_others(home: Home) {
    home.numbers(95).await;
    let args = BackfillArgs::of(t().filter("id % 3 = 0")).set("x", "id * 2");
    let run = home.run(args).await;
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(run.items.processed, 31);
    let right =
        "SELECT count(*) FROM t WHERE (id % 3 = 0 AND x = id * 2) OR (id % 3 <> 0 AND x = 0)";
    assert_eq!(home.number(right).await, 95);
}

async fn rows_that_already_have_their_values_are_not_written(home: Home) {
    home.numbers(40).await;
    home.script("UPDATE t SET x = 7 WHERE id <= 15").await;
    let args = || BackfillArgs::of(t()).set("x", "7").set("name", "name");
    let page = run_page(&home.processor(), args(), None).await.unwrap();
    assert_eq!((page.items, page.counts.changed), (40, 25));
    let again = run_page(&home.processor(), args(), None).await.unwrap();
    assert_eq!(again.counts.changed, 0);
    let all = run_page(&home.processor(), args().rewrite_unchanged(true), None).await;
    assert_eq!(all.unwrap().counts.changed, 40);
}

/// The numbers differ only in digits that a floating point number does not keep.
async fn a_number_that_differs_in_its_last_digit_is_a_change(home: Home) {
    home.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x BIGINT, y DECIMAL(30,4), new VARCHAR(40)); \
         INSERT INTO t VALUES (1, 1234567890123456800, 12345678901234567890.1000, '1234567890123456789'), \
         (2, 1234567890123456789, 12345678901234567890.1234, '1234567890123456789')",
    )
    .await;
    let cast = |column: &str| match (home.is_mysql(), home.is_sqlite()) {
        (true, _) | (_, true) => column.to_owned(),
        _ => format!("CAST({column} AS NUMERIC)"),
    };
    let args = BackfillArgs::of(t()).set("x", cast("new"));
    let page = run_page(&home.processor(), args.clone(), None).await;
    assert_eq!(page.unwrap().counts.changed, 1);
    let right = "SELECT count(*) FROM t WHERE x = 1234567890123456789";
    assert_eq!(home.number(right).await, 2);
    let again = run_page(&home.processor(), args, None).await.unwrap();
    assert_eq!(again.counts.changed, 0);
    if home.is_sqlite() {
        // Decimals of SQLite are floating point numbers.
        return;
    }
    home.script("UPDATE t SET new = '12345678901234567890.1234'")
        .await;
    let args = BackfillArgs::of(t()).set("y", cast("new"));
    let page = run_page(&home.processor(), args, None).await.unwrap();
    assert_eq!(page.counts.changed, 1);
}

async fn the_case_of_a_letter_is_a_change(home: Home) {
    home.numbers(40).await;
    // The column ignores case, as most columns of MariaDB do.
    if home.is_sqlite() {
        home.script(
            "CREATE TABLE n (id INTEGER PRIMARY KEY, x INT, name TEXT COLLATE NOCASE); \
             INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t",
        )
        .await;
    } else if !home.is_mysql() {
        home.script(
            "CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
             ALTER TABLE t ALTER COLUMN name TYPE text COLLATE anycase",
        )
        .await;
    }
    let args = BackfillArgs::of(t()).set("name", "lower(name)");
    let page = run_page(&home.processor(), args, None).await.unwrap();
    assert_eq!(page.counts.changed, 20);
    let right = match home.is_mysql() {
        true => "SELECT count(*) FROM t WHERE BINARY name = BINARY concat('name', id)",
        false if home.is_sqlite() => "SELECT count(*) FROM t WHERE hex(name) = hex('name' || id)",
        false => "SELECT count(*) FROM t WHERE name COLLATE \"C\" = 'name' || id",
    };
    assert_eq!(home.number(right).await, 40);
}

async fn with_once_a_repeated_page_changes_no_row_twice(home: Home) {
    home.numbers(95).await;
    home.ledger_tables().await;
    let args = BackfillArgs::of(t()).set("x", "x + 1").once(true);
    let run = home.run(args).await;
    assert_eq!(run.outcome, Outcome::Completed);
    assert!(run.lost_workers > 0);
    assert_eq!(run.items.processed, 95);
    assert_eq!(run.items.changed, 95);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 95);
}

async fn a_key_of_several_columns_works(home: Home) {
    home.script(
        "CREATE TABLE c (tenant VARCHAR(10) NOT NULL, number BIGINT NOT NULL, x INTEGER NOT NULL, \
         PRIMARY KEY (tenant, number))",
    )
    .await;
    let mut values = Vec::new();
    for tenant in ["a", "b", "z'z"] {
        for number in [-5_i64, 0, 1, 2, 3, 9_007_199_254_740_993, i64::MAX] {
            values.push(format!("('{}', {number}, 0)", tenant.replace('\'', "''")));
        }
    }
    home.script(&format!("INSERT INTO c VALUES {}", values.join(", ")))
        .await;
    home.ledger_tables().await;
    let c = TableSpec::new("c", ["tenant", "number"]);
    let run = home
        .run(BackfillArgs::of(c).set("x", "x + 1").once(true))
        .await;
    assert_eq!(run.items.processed, 21);
    assert_eq!(home.number("SELECT count(*) FROM c WHERE x = 1").await, 21);
}

async fn statements_of_a_file_delete_page_by_page(home: Home) {
    home.numbers(95).await;
    let args = BackfillArgs::of(t().filter("id > 20")).statement("DELETE FROM t WHERE {range}");
    let run = home.run(args).await;
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(home.number("SELECT count(*) FROM t").await, 20);
}

async fn rows_inserted_after_the_start_are_not_changed(home: Home) {
    home.numbers(30).await;
    let args = BackfillArgs::of(t()).set("x", "1");
    let args = home.processor().prepare(args).await.unwrap();
    assert!(matches!(args.high_water_mark, HighWaterMark::At(_)));
    home.script("INSERT INTO t VALUES (31, 0, 'late')").await;
    let run = home.run(args).await;
    assert_eq!(run.items.processed, 30);
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE id = 31 AND x = 0")
            .await,
        1
    );
    let open = BackfillArgs::of(t())
        .set("x", "1")
        .high_water_mark(HighWaterMark::Off);
    assert_eq!(home.run(open).await.items.processed, 31);
}

async fn an_empty_table_is_done_at_once(home: Home) {
    home.numbers(0).await;
    let args = BackfillArgs::of(t()).set("x", "1");
    let args = home.processor().prepare(args).await.unwrap();
    assert_eq!(args.high_water_mark, HighWaterMark::NoRows);
    home.script("INSERT INTO t VALUES (1, 0, 'late')").await;
    let run = home.run(args).await;
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 0").await, 1);
}

/// The table's own conflict clause would remove the other row, or skip this one.
async fn a_conflict_in_sqlite_is_an_error_whatever_the_table_declares(home: Home) {
    if !home.is_sqlite() {
        return;
    }
    for clause in ["REPLACE", "IGNORE"] {
        home.script(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, x INT UNIQUE ON CONFLICT {clause}); \
             INSERT INTO t VALUES (1, 1), (2, 2)"
        ))
        .await;
        let args = BackfillArgs::of(t()).set("x", "2");
        let page = run_page(&home.processor(), args, None).await.unwrap();
        assert_eq!((page.counts.changed, page.counts.failed), (0, 1));
        assert_eq!(home.number("SELECT sum(id * 10 + x) FROM t").await, 33);
        home.script("DROP TABLE t").await;
    }
}

/// The column `email_key` is computed from `email`.
async fn a_key_that_is_computed_is_refused(home: Home) {
    let computed = match home.is_mysql() {
        true => "VARCHAR(40) AS (lower(email)) STORED",
        false => "VARCHAR(40) GENERATED ALWAYS AS (lower(email)) STORED NOT NULL",
    };
    home.script(&format!(
        "CREATE TABLE t (email VARCHAR(40) NOT NULL, x INT, email_key {computed}); \
         CREATE UNIQUE INDEX t_key ON t (email_key)"
    ))
    .await;
    if home.is_mysql() {
        // MariaDB allows no NOT NULL on a computed column, and a nullable key is refused as such.
        return;
    }
    let spec = TableSpec::new("t", ["email_key"]);
    let args = BackfillArgs::of(spec).set("email", "'x' || email");
    let error = home.processor().prepare(args).await.unwrap_err();
    assert!(
        error.message().contains("computed by the database"),
        "{error}"
    );
}

async fn null_is_a_value_like_any_other(home: Home) {
    home.script("CREATE TABLE n (id INTEGER NOT NULL PRIMARY KEY, x INTEGER)")
        .await;
    home.script("INSERT INTO n VALUES (1, NULL), (2, 5)").await;
    let n = || TableSpec::new("n", ["id"]);
    let set = |value: &str| BackfillArgs::of(n()).set("x", value);
    let run = run_page(&home.processor(), set("NULL"), None)
        .await
        .unwrap();
    assert_eq!(run.counts.changed, 1);
    let run = run_page(&home.processor(), set("3"), None).await.unwrap();
    assert_eq!(run.counts.changed, 2);
    assert_eq!(home.number("SELECT count(*) FROM n WHERE x = 3").await, 2);
}

#[tokio::test]
async fn a_worker_without_the_connection_does_not_run_pages_without_a_ledger() {
    let processor = SqlBackfill::new(temporal_batch::sql::Connections::new());
    let args = BackfillArgs::of(t()).set("x", "1").once(true);
    let ledger = processor.ledger(&args).unwrap();
    let stride = temporal_batch::store::StrideId {
        batch_run: "r".to_owned(),
        batch_id: "b".to_owned(),
        stride: 0,
    };
    let error = ledger.open(&stride, None, None, false).await.unwrap_err();
    assert_eq!(error.error_type(), "UnknownConnection");
}
