//! Records that conflict with rows, and tables without transactions.

use temporal_batch::{
    Outcome,
    files::CsvSource,
    sql::{ImportArgs, OnConflict},
};

use crate::{database, database::Home, sample_files::written, support::databases::on_each};

on_each! {
    only_the_named_key_is_updated,
}

fn update(key: &str) -> OnConflict {
    OnConflict::Update(vec![key.to_owned()])
}

async fn only_the_named_key_is_updated(home: Home) {
    home.run("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20) UNIQUE, v INT)")
        .await;
    home.run("INSERT INTO t VALUES (1, 'google', 10), (3, 'bing', 30)")
        .await;
    let file = written(b"id,name,v\n1,google,11\n2,google,100\n3,google,7\n4,new,4\n");
    let args = ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(update("id"));
    let run = home.imported(args).await;
    assert_eq!(
        run.outcome,
        Outcome::CompletedWithFailures,
        "{:?}",
        run.reason
    );
    assert_eq!((run.items.processed, run.items.failed), (2, 2));
    let rows = home
        .texts("SELECT concat(id, ' ', name, ' ', v) FROM t ORDER BY id")
        .await;
    let rows: Vec<_> = rows.into_iter().flatten().flatten().collect();
    assert_eq!(rows, ["1 google 11", "3 bing 30", "4 new 4"]);
    let letters = home.letter_types().await;
    assert_eq!(letters["UniqueViolation"], 2, "{letters:?}");

    // The other key, on which the first record conflicts.
    let file = written(b"id,name,v\n3,google,12\n9,google,13\n");
    let args = ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(update("name"));
    let run = home.imported(args).await;
    assert_eq!((run.items.processed, run.items.failed), (1, 1));
    let rows = home
        .texts("SELECT concat(id, ' ', name, ' ', v) FROM t ORDER BY id")
        .await;
    let rows: Vec<_> = rows.into_iter().flatten().flatten().collect();
    assert_eq!(rows, ["3 bing 30", "4 new 4", "9 google 13"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_columns_take_the_values_of_the_file() {
    let Some(home) = database::postgres("identity").await else {
        return;
    };
    home.run(
        "CREATE TABLE t (id INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT UNIQUE, v INT)",
    )
    .await;
    home.run("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (70, 'a', 1)")
        .await;
    let file = written(b"id,name,v\n70,b,2\n80,c,3\n");
    let args =
        |on_conflict| ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(on_conflict);
    let run = home.imported(args(OnConflict::Nothing)).await;
    assert_eq!((run.items.processed, run.items.skipped), (1, 1));
    let run = home.imported(args(update("id"))).await;
    assert_eq!((run.outcome, run.items.processed), (Outcome::Completed, 2));
    let names = home.texts("SELECT id || name FROM t ORDER BY id").await;
    assert_eq!(names, [[Some("70b".to_owned())], [Some("80c".to_owned())]]);
    let refused = home.prepare(args(update("name"))).await.unwrap_err();
    assert!(refused.message().contains("leave it out"), "{refused}");
    let without = args(update("name")).columns(["name", "v"]);
    let run = home.imported(without).await;
    assert_eq!((run.outcome, run.items.processed), (Outcome::Completed, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_transactions_is_refused() {
    let Some(home) = database::mariadb("import_engines").await else {
        return;
    };
    let file = written(b"id,n\n1,2\n");
    for engine in ["MyISAM", "Aria"] {
        home.run(&format!(
            "CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = {engine}"
        ))
        .await;
        let args = || ImportArgs::new(CsvSource::new(&file.path), "t");
        for args in [
            args(),
            args().once(false),
            args().once(false).on_conflict(OnConflict::Nothing),
            args().on_conflict(update("id")),
        ] {
            let refused = home.prepare(args).await.unwrap_err();
            assert!(!refused.is_retryable());
            assert!(refused.message().contains(engine), "{refused}");
            assert!(refused.message().contains("\"t\""), "{refused}");
        }
        let repeatable = args().once(false).on_conflict(update("id"));
        home.prepare(repeatable).await.unwrap();
        home.run("DROP TABLE t").await;
    }
}

/// The trigger keeps record 7 out, without an error.
async fn records_that_a_trigger_keeps_out_fail(home: Home, trigger: &[&str]) {
    home.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    for statement in trigger {
        home.run(statement).await;
    }
    let content: String = (1..=40).map(|id| format!("{id},{id}\n")).collect();
    let file = written(format!("id,v\n{content}").as_bytes());
    for on_conflict in [OnConflict::Fail, update("id")] {
        let args = ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(on_conflict);
        let run = home.imported(args).await;
        assert_eq!(
            run.outcome,
            Outcome::CompletedWithFailures,
            "{:?}",
            run.reason
        );
        assert_eq!((run.items.processed, run.items.failed), (39, 1));
        assert!(home.letter_types().await.contains_key("RowsPassedOver"));
        assert_eq!(home.texts("SELECT 'x' FROM t").await.len(), 39);
        home.run("DELETE FROM t").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_trigger_keeps_out_fail_on_sqlite() {
    let trigger =
        "CREATE TRIGGER keep BEFORE INSERT ON t WHEN new.id = 7 BEGIN SELECT RAISE(IGNORE); END";
    records_that_a_trigger_keeps_out_fail(database::sqlite().await, &[trigger]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_trigger_keeps_out_fail_on_postgres() {
    let trigger = [
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.id = 7 THEN RETURN NULL; END IF; RETURN new; END $$",
        "CREATE TRIGGER keep BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    ];
    if let Some(home) = database::postgres("kept_out").await {
        records_that_a_trigger_keeps_out_fail(home, &trigger).await;
    }
}

/// The table's own conflict clause would remove the row with another key, or skip the record.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_in_sqlite_is_an_error_whatever_the_table_declares() {
    let home = database::sqlite().await;
    for clause in ["REPLACE", "IGNORE", "ROLLBACK", "FAIL"] {
        home.run(&format!(
            "CREATE TABLE t (id INT PRIMARY KEY, name TEXT UNIQUE ON CONFLICT {clause})"
        ))
        .await;
        home.run("INSERT INTO t VALUES (1, 'a')").await;
        let file = written(b"id,name\n2,a\n3,c\n");
        for on_conflict in [OnConflict::Fail, update("id")] {
            let args = ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(on_conflict);
            let run = home.imported(args).await;
            assert_eq!((run.items.processed, run.items.failed), (1, 1), "{clause}");
            let rows = home.texts("SELECT id || name FROM t ORDER BY id").await;
            let rows: Vec<_> = rows.into_iter().flatten().flatten().collect();
            assert_eq!(rows, ["1a", "3c"], "{clause}");
            home.run("DELETE FROM t WHERE id = 3").await;
        }
        home.run("DROP TABLE t").await;
    }
}
