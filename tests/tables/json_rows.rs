//! Rows as JSON.

use serde_json::json;
use temporal_batch::sql::{Database, Key, Table, TableSpec};

use crate::{
    database::{Home, mariadb, postgres, sqlite},
    support::databases::on_each,
};

on_each! {
    columns_are_all_or_the_named_ones,
}

async fn all(table: &Table) -> Vec<serde_json::Value> {
    let records = table.records(None, None, None, 100).await.unwrap();
    records
        .into_iter()
        .map(|(_, record)| serde_json::from_str(record.get()).unwrap())
        .collect()
}

async fn columns_are_all_or_the_named_ones(home: Home) {
    home.script(
        "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, name VARCHAR(20), x INT);
        INSERT INTO t VALUES (1, 'O''Brien', NULL), (2, NULL, -7)",
    )
    .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let expected = [
        json!({"id": 1, "name": "O'Brien", "x": null}),
        json!({"id": 2, "name": null, "x": -7}),
    ];
    assert_eq!(all(&table).await, expected);
    let names: Vec<_> = table.columns().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["id", "name", "x"]);
    assert!(table.columns()[1].nullable && !table.columns()[0].nullable);

    let name = ["name".to_owned()];
    let start = Key::new([1]);
    let records = table
        .records(Some(&name), Some(&start), None, 100)
        .await
        .unwrap();
    let [(key, record)] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!((key, record.get()), (&Key::new([2]), "{\"name\":null}"));
    let error = table
        .records(Some(&["nome".to_owned()]), None, None, 1)
        .await
        .unwrap_err();
    assert_eq!(error.error_type(), "TableColumnMissing");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn types_of_postgresql() {
    let Some(home) = postgres("records").await else {
        return;
    };
    home.script(
        "CREATE TABLE t (id bigint PRIMARY KEY, amount numeric, real real, flag boolean, doc jsonb,
            bytes bytea, at timestamp, day date, tags text[], twice bigint GENERATED ALWAYS AS (id * 2) STORED);
        INSERT INTO t VALUES (9007199254740993, 12345678901234567890.123456789, 1.5, true, '{\"a\": [1, null]}',
            '\\x00ff', '2024-01-31 12:00:00.5', '2024-01-31', '{\"a b\",NULL}');
        INSERT INTO t VALUES (9007199254740994, 'NaN', 'Infinity')",
    )
    .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let records = all(&table).await;
    assert_eq!(
        records[0],
        json!({
            "id": 9_007_199_254_740_993_i64, "amount": "12345678901234567890.123456789", "real": 1.5,
            "flag": true, "doc": {"a": [1, null]}, "bytes": "\\x00ff", "at": "2024-01-31T12:00:00.5",
            "day": "2024-01-31", "tags": "{\"a b\",NULL}", "twice": 18_014_398_509_481_986_i64,
        })
    );
    assert_eq!(records[1]["amount"], "NaN");
    assert_eq!(records[1]["real"], "Infinity");
    assert!(table.columns().last().unwrap().generated);
}

#[tokio::test]
async fn types_of_sqlite() {
    let home = sqlite().await;
    home.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b TEXT, c REAL, d BLOB);
        INSERT INTO t VALUES (1, 'x', 'ä', 1.5, x'00ff'), (2, 7, NULL, 9e999, 'no blob')",
    )
    .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let expected = [
        json!({"id": 1, "a": "x", "b": "ä", "c": 1.5, "d": {"$blob": "00ff"}}),
        json!({"id": 2, "a": 7, "b": null, "c": {"$number": "Infinity"}, "d": "no blob"}),
    ];
    assert_eq!(all(&table).await, expected);
}

#[tokio::test]
async fn types_of_mariadb() {
    let Some(home) = mariadb("records").await else {
        return;
    };
    home.script(
        "CREATE TABLE t (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, amount DECIMAL(30,9), r DOUBLE, flag BOOLEAN,
            bytes VARBINARY(9), at DATETIME(3), day DATE, bits BIT(9), mood ENUM('glad', 'calm'), doc TEXT,
            twice BIGINT AS (id * 2) STORED);
        INSERT INTO t (id, amount, r, flag, bytes, at, day, bits, mood, doc) VALUES
            (9007199254740993, 123456789012345678901.123456789, 1.5, true, x'00ff', '2024-01-31 12:00:00.5',
                '2024-01-31', b'100000001', 'calm', 'ä')",
    )
    .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    assert_eq!(
        all(&table).await,
        [json!({
            "id": 9_007_199_254_740_993_i64, "amount": "123456789012345678901.123456789", "r": 1.5,
            "flag": 1, "bytes": "\\x00ff", "at": "2024-01-31 12:00:00.500", "day": "2024-01-31", "bits": 257,
            "mood": "calm", "doc": "ä", "twice": 18_014_398_509_481_986_i64,
        })]
    );
    assert!(table.columns().last().unwrap().generated);
}

#[tokio::test]
async fn session_settings_of_postgresql_change_nothing() {
    let Some(home) = postgres("settings").await else {
        return;
    };
    home.script(
        "CREATE TABLE t (id bigint PRIMARY KEY, real real, days date[], gap interval, bytes bytea[]);
        INSERT INTO t VALUES (1, 16777217.5, '{2024-01-31}', '-1 days -02:00:00', '{\"\\\\x00ff\"}')",
    )
    .await;
    let spec = TableSpec::new("t", ["id"]);
    let expected = all(&home.inspect("t", &["id"]).await.unwrap()).await;
    let odd = "SET DateStyle = German; SET extra_float_digits = -15; SET IntervalStyle = sql_standard; \
        SET bytea_output = escape";
    let pool = sqlx::postgres::PgPoolOptions::new().after_connect(move |connection, _| {
        Box::pin(async move { sqlx::Executor::execute(connection, odd).await.map(drop) })
    });
    let Database::Postgres(home) = &home.database else {
        unreachable!("the database is PostgreSQL");
    };
    let options = (*home.connect_options()).clone();
    let pool = pool.connect_with(options).await.unwrap();
    let table = Table::inspect(&pool.into(), &spec).await.unwrap();
    assert_eq!(all(&table).await, expected);
    assert_eq!(expected[0]["days"], "{2024-01-31}");
    assert_eq!(expected[0]["gap"], "-1 days -02:00:00");
    assert_eq!(expected[0]["bytes"], "{\"\\\\x00ff\"}");
}
