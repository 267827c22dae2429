//! Pages are read from an index, and a missing index is named.

use temporal_batch::{
    SkipAhead,
    sql::{Database, Key, Table, TableError, TableSpec},
};

use crate::{
    database::{Home, numbered},
    support::databases::on_each,
};

on_each! {
    a_page_that_would_sort_the_table_is_refused_with_the_missing_index,
    small_and_empty_tables_are_not_refused,
    a_filter_does_not_need_an_index,
    a_page_reads_only_its_own_rows,
}

/// A table of 20,000 rows, whose unique index has the columns of the key in another order.
async fn crosswise(home: &Home) {
    home.fill("numbers", 20_000).await;
    home.script(
        "CREATE TABLE t (a BIGINT NOT NULL, b BIGINT NOT NULL, x BIGINT NOT NULL, UNIQUE (a, b));
        INSERT INTO t SELECT id, id % 100, 0 FROM numbers",
    )
    .await;
    home.script(if home.is_mariadb() {
        "ANALYZE TABLE t"
    } else {
        "ANALYZE t"
    })
    .await;
}

async fn a_page_that_would_sort_the_table_is_refused_with_the_missing_index(home: Home) {
    crosswise(&home).await;
    home.inspect("t", &["a", "b"])
        .await
        .unwrap()
        .check_plan()
        .await
        .unwrap();
    let table = home.inspect("t", &["b", "a"]).await.unwrap();
    let error = table.check_plan().await.unwrap_err();
    let TableError::SlowPages { index, .. } = &error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("the order of (b, a)"), "{error}");
    // The named index is the one that helps.
    home.script(index.clone()).await;
    table.check_plan().await.unwrap();
    assert_eq!(
        table.keys(None, None, 3).await.unwrap()[2],
        Key::new([0, 300])
    );
    assert_eq!(error.into_page_error().error_type(), "TableSlowPages");
}

async fn small_and_empty_tables_are_not_refused(home: Home) {
    for rows in [0, 1, 3] {
        home.script(format!(
            "CREATE TABLE t{rows} (a BIGINT NOT NULL, b BIGINT NOT NULL, x BIGINT, PRIMARY KEY (a, b))"
        ))
        .await;
        for n in 0..rows {
            home.script(format!("INSERT INTO t{rows} VALUES ({n}, {n}, 0)"))
                .await;
        }
        let spec = TableSpec::new(format!("t{rows}"), ["a", "b"]).filter("x = 0");
        let table = Table::inspect(&home.database, &spec).await.unwrap();
        table.check_plan().await.unwrap();
        // But without an index reading them would become slow as they grow.
        let crosswise = home
            .inspect(&format!("t{rows}"), &["b", "a"])
            .await
            .unwrap();
        crosswise.check_plan().await.unwrap_err();
    }
}

async fn a_filter_does_not_need_an_index(home: Home) {
    crosswise(&home).await;
    for filter in ["x = 0", "b = 7", "x = 1"] {
        let spec = TableSpec::new("t", ["a", "b"]).filter(filter);
        let table = Table::inspect(&home.database, &spec).await.unwrap();
        table.check_plan().await.unwrap();
    }
}

/// The plan does not show this, so the rows counted by the database are compared.
async fn a_page_reads_only_its_own_rows(home: Home) {
    home.fill("numbers", 100_000).await;
    home.script(
        "CREATE TABLE t (a BIGINT NOT NULL, b VARCHAR(20) NOT NULL, x BIGINT NOT NULL, PRIMARY KEY (a, b));
        INSERT INTO t SELECT id % 10, id, 0 FROM numbers ORDER BY id % 1000",
    )
    .await;
    // The counts of a connection become visible some time after its statement.
    let one = one_connection(&home).await;
    let table = Table::inspect(&one, &TableSpec::new("t", ["a", "b"]))
        .await
        .unwrap();
    let SkipAhead::To(start) = table.skip(None, None, 45_000).await.unwrap() else {
        panic!("there are more rows");
    };
    let SkipAhead::To(end) = table.skip(Some(&start), None, 20_000).await.unwrap() else {
        panic!("there are more rows");
    };
    assert_eq!(table.count(Some(&start), Some(&end)).await.unwrap(), 20_000);
    let page = async || {
        let keys = table.keys(Some(&start), Some(&end), 1_000).await.unwrap();
        let rows = numbered(&table, "x", Some(&start), Some(&end), 1_000)
            .await
            .unwrap();
        (keys.len(), rows.len())
    };
    match &one {
        Database::Postgres(pool) => {
            home.script("VACUUM ANALYZE t").await;
            let before = sequential_scans(pool).await;
            assert_eq!(page().await, (1_000, 1_000));
            let skipped = table.skip(Some(&start), Some(&end), 10_000).await.unwrap();
            assert!(matches!(skipped, SkipAhead::To(_)));
            assert_eq!(sequential_scans(pool).await, before);
        }
        Database::MySql(pool) => {
            let read = "SELECT CAST(SUM(variable_value) AS SIGNED) FROM information_schema.session_status
                WHERE variable_name IN ('Handler_read_next', 'Handler_read_rnd_next', 'Handler_read_key',
                    'Handler_read_rnd', 'Handler_read_first')";
            let count = async || -> i64 { sqlx::query_scalar(read).fetch_one(pool).await.unwrap() };
            // The rows that the counting itself reads.
            let (first, second) = (count().await, count().await);
            let itself = second - first;
            table.keys(Some(&start), Some(&end), 1_000).await.unwrap();
            let keys = count().await - second - itself;
            assert!(
                (1_000..1_100).contains(&keys),
                "{keys} rows were read for 1,000 keys"
            );
        }
        _ => {
            assert_eq!(page().await, (1_000, 1_000));
        }
    }
}

/// The number of rows that were read by sequential scans, except scans by the server of tables without rows.
async fn sequential_scans(pool: &sqlx::PgPool) -> i64 {
    // The connection reports its counts at the end of the statement.
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query_scalar("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 't'")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// A pool of the same database with one connection.
async fn one_connection(home: &Home) -> Database {
    match &home.database {
        Database::Postgres(pool) => {
            let options = pool.connect_options().as_ref().clone();
            let one = sqlx::postgres::PgPoolOptions::new().max_connections(1);
            one.connect_with(options).await.unwrap().into()
        }
        Database::MySql(pool) => {
            let options = pool.connect_options().as_ref().clone();
            let one = sqlx::mysql::MySqlPoolOptions::new().max_connections(1);
            one.connect_with(options).await.unwrap().into()
        }
        other => other.clone(),
    }
}
