//! The approximate number of rows of a table.

use temporal_batch::sql::{Table, TableSpec};

use crate::{database::Home, support::databases::on_each};

on_each! {
    statistics_tell_the_size,
}

async fn statistics_tell_the_size(home: Home) {
    home.fill("t", 20_000).await;
    home.script("UPDATE t SET x = id % 10").await;
    let analyze = if home.is_mariadb() {
        "ANALYZE TABLE t PERSISTENT FOR ALL"
    } else {
        "ANALYZE t"
    };
    home.script(analyze).await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let hint = table.size_hint().await.unwrap().unwrap();
    assert!((15_000..25_000).contains(&hint), "{hint}");

    let spec = TableSpec::new("t", ["id"]).filter("x = 3");
    let tenth = Table::inspect(&home.database, &spec).await.unwrap();
    let hint = tenth.size_hint().await.unwrap();
    if home.is_sqlite() {
        assert_eq!(hint, None);
    } else {
        // This is the estimate of the optimizer.
        assert!((500..20_000).contains(&hint.unwrap()), "{hint:?}");
    }
    assert_eq!(tenth.count(None, None).await.unwrap(), 2_000);
}

/// Keys at both ends of the range of integers do not tell how many rows there are.
#[tokio::test]
async fn few_rows_of_sqlite_are_counted() {
    let home = crate::database::sqlite().await;
    home.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY);
        INSERT INTO t VALUES (-9223372036854775808), (9223372036854775807);
        CREATE TABLE u (name TEXT PRIMARY KEY) WITHOUT ROWID; CREATE TABLE e (id INTEGER PRIMARY KEY)",
    )
    .await;
    for (name, key, size) in [("t", "id", 2), ("u", "name", 0), ("e", "id", 0)] {
        let table = home.inspect(name, &[key]).await.unwrap();
        assert_eq!(table.size_hint().await.unwrap(), Some(size), "{name}");
    }
}

#[tokio::test]
async fn without_statistics_sqlite_tells_the_distance_of_its_ids() {
    let home = crate::database::sqlite().await;
    home.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY);
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100001)
        INSERT INTO t SELECT n + n % 2 FROM n WHERE n % 2 = 1 UNION SELECT n + 200000 FROM n",
    )
    .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    assert_eq!(table.size_hint().await.unwrap(), Some(300_000));
    home.script("INSERT INTO t VALUES (9223372036854775807)")
        .await;
    let most = table.size_hint().await.unwrap().unwrap();
    assert!(
        most < 10_000_000,
        "{most} rows are more than the file can hold"
    );
}

#[tokio::test]
async fn a_small_table_of_postgresql_without_statistics_is_counted() {
    let Some(home) = crate::database::postgres("never_analyzed").await else {
        return;
    };
    home.script(
        "CREATE TABLE t (id INT PRIMARY KEY, x INT) WITH (autovacuum_enabled = off);
        INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 20) AS n",
    )
    .await;
    let spec = TableSpec::new("t", ["id"]).filter("x = 1");
    for (table, rows) in [
        (home.inspect("t", &["id"]).await.unwrap(), 20),
        (Table::inspect(&home.database, &spec).await.unwrap(), 10),
    ] {
        assert_eq!(table.size_hint().await.unwrap(), Some(rows));
    }
}
