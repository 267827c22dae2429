//! The high-water mark waits for transactions that have written and not committed.

use std::time::Duration;

use sqlx::Connection as _;
use temporal_batch::sql::{Database, Key};

use crate::{
    database::{Home, SOON},
    support::databases::on_each,
};

on_each! {
    an_empty_table_has_no_mark,
    rows_of_an_open_transaction_are_below_the_mark,
    a_transaction_that_does_not_end_is_named,
    the_mark_waits_for_a_transaction_that_is_prepared_meanwhile,
}

async fn an_empty_table_has_no_mark(home: Home) {
    home.script("CREATE TABLE t (id INT NOT NULL PRIMARY KEY)")
        .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    assert_eq!(table.high_water_mark().await.unwrap(), None);
}

/// A transaction that has written, and stays open until it is told to commit.
struct Writer {
    commit: tokio::sync::oneshot::Sender<()>,
    done: tokio::task::JoinHandle<()>,
}

impl Writer {
    async fn begin(home: &Home, statement: &'static str) -> Self {
        let (commit, told) = tokio::sync::oneshot::channel();
        let (written, is_written) = tokio::sync::oneshot::channel();
        macro_rules! write {
            ($pool:expr) => {{
                let pool = $pool.clone();
                tokio::spawn(async move {
                    let mut connection = pool.acquire().await.unwrap();
                    let mut transaction = connection.begin().await.unwrap();
                    sqlx::query(statement)
                        .execute(&mut *transaction)
                        .await
                        .unwrap();
                    written.send(()).unwrap();
                    let _ = told.await;
                    transaction.commit().await.unwrap();
                })
            }};
        }
        let done = match &home.database {
            Database::Postgres(pool) => write!(pool),
            Database::MySql(pool) => write!(pool),
            Database::Sqlite(pool) => write!(pool),
            _ => unreachable!("no other database is tested"),
        };
        is_written.await.unwrap();
        Self { commit, done }
    }

    async fn commit(self) {
        self.commit.send(()).unwrap();
        self.done.await.unwrap();
    }
}

async fn rows_of_an_open_transaction_are_below_the_mark(home: Home) {
    home.script("CREATE TABLE t (id INT NOT NULL PRIMARY KEY); INSERT INTO t VALUES (10)")
        .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    // MariaDB shows an old state of its transactions to a session that asks again and again.
    let monitor = match &home.database {
        Database::MySql(pool) => {
            let pool = pool.clone();
            let looks = "SELECT count(*) FROM information_schema.innodb_trx";
            sqlx::raw_sql(looks).execute(&pool).await.unwrap();
            Some(tokio::spawn(async move {
                for _ in 0..10 {
                    sqlx::raw_sql(looks).execute(&pool).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }))
        }
        _ => None,
    };
    let writer = Writer::begin(&home, "INSERT INTO t VALUES (5), (20)").await;
    if home.is_sqlite() {
        // The reader of SQLite sees the last commit; the rows of a late writer get higher ids.
        assert_eq!(table.high_water_mark().await.unwrap(), Some(Key::new([10])));
        return;
    }
    let marking = table.clone();
    let mut mark = tokio::spawn(async move { marking.high_water_mark().await.unwrap() });
    let early = tokio::time::timeout(Duration::from_millis(700), &mut mark).await;
    assert!(early.is_err(), "the mark did not wait: {early:?}");
    writer.commit().await;
    if let Some(monitor) = monitor {
        monitor.await.unwrap();
    }
    let mark = tokio::time::timeout(SOON, mark).await.unwrap().unwrap();
    assert_eq!(mark, Some(Key::new([20])));
    let keys = table.keys(None, mark.as_ref(), 10).await.unwrap();
    assert_eq!(keys, [Key::new([5]), Key::new([10]), Key::new([20])]);
}

async fn a_transaction_that_does_not_end_is_named(home: Home) {
    home.script(
        "CREATE TABLE t (id INT NOT NULL PRIMARY KEY); INSERT INTO t VALUES (10);
        CREATE TABLE other (id INT NOT NULL PRIMARY KEY)",
    )
    .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    if home.is_sqlite() {
        return;
    }
    if home.is_postgres() {
        // Only a transaction that has written to this table can have rows in it.
        let elsewhere = Writer::begin(&home, "INSERT INTO other VALUES (1)").await;
        let mark = table.high_water_mark_within(Duration::ZERO).await.unwrap();
        assert_eq!(mark, Some(Key::new([10])));
        elsewhere.commit().await;
    }
    let writer = Writer::begin(&home, "INSERT INTO t VALUES (5)").await;
    let error = table
        .high_water_mark_within(Duration::ZERO)
        .await
        .unwrap_err();
    assert_eq!(error.error_type(), "OlderTransactions");
    assert!(error.is_retryable());
    let named = if home.is_postgres() {
        "pid "
    } else {
        "thread "
    };
    assert!(error.message().contains(named), "{error}");
    // A transaction that begins during the wait is not waited for.
    let marking = table.clone();
    let mark = tokio::spawn(async move { marking.high_water_mark().await.unwrap() });
    // The first look is over by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = Writer::begin(&home, "INSERT INTO t VALUES (30)").await;
    writer.commit().await;
    let mark = tokio::time::timeout(SOON, mark).await.unwrap().unwrap();
    assert_eq!(mark, Some(Key::new([10])));
    later.commit().await;
}

/// PostgreSQL gives a transaction another id when it is prepared, in some versions.
async fn the_mark_waits_for_a_transaction_that_is_prepared_meanwhile(home: Home) {
    if home.is_sqlite() {
        return;
    }
    home.script("CREATE TABLE t (id INT NOT NULL PRIMARY KEY); INSERT INTO t VALUES (10)")
        .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let [begin, prepare, commit] = match &home.database {
        Database::Postgres(_) => [
            "BEGIN; INSERT INTO t VALUES (5)",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
        ],
        _ => [
            "XA START 'x'; INSERT INTO t VALUES (5); XA END 'x'",
            "XA PREPARE 'x'",
            "XA COMMIT 'x'",
        ],
    };
    macro_rules! on_one_connection {
        ($pool:expr) => {{
            let mut connection = $pool.acquire().await.unwrap();
            sqlx::raw_sql(begin)
                .execute(&mut *connection)
                .await
                .unwrap();
            let marking = table.clone();
            let mut mark = tokio::spawn(async move { marking.high_water_mark().await.unwrap() });
            let early = tokio::time::timeout(Duration::from_millis(700), &mut mark).await;
            assert!(early.is_err(), "the mark did not wait: {early:?}");
            sqlx::raw_sql(prepare)
                .execute(&mut *connection)
                .await
                .unwrap();
            let early = tokio::time::timeout(Duration::from_millis(700), &mut mark).await;
            assert!(
                early.is_err(),
                "the mark did not wait for the prepared transaction: {early:?}"
            );
            let still = table
                .high_water_mark_within(Duration::ZERO)
                .await
                .unwrap_err();
            assert!(
                home.is_mariadb() || still.message().contains("`x`"),
                "{still}"
            );
            sqlx::raw_sql(commit)
                .execute(&mut *connection)
                .await
                .unwrap();
            tokio::time::timeout(SOON, mark).await.unwrap().unwrap()
        }};
    }
    let mark = match &home.database {
        Database::Postgres(pool) => on_one_connection!(pool),
        Database::MySql(pool) => on_one_connection!(pool),
        _ => unreachable!("SQLite has one writer"),
    };
    let keys = table.keys(None, mark.as_ref(), 10).await.unwrap();
    assert_eq!(keys, [Key::new([5]), Key::new([10])]);
}
