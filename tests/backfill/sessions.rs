//! Sessions that another page, or another program, gets after a page.

use std::time::{Duration, Instant};

use sqlx::{MySqlPool, PgPool, mysql::MySqlPoolOptions, postgres::PgPoolOptions};
use temporal_batch::{
    PageToken,
    sql::{
        Backend, BackfillArgs, Connections, DEFAULT_CONNECTION, Database, DatabaseOptions,
        SqlBackfill, SqlLedger, TableSpec,
    },
    store::{PageClaim, PageLedger as _, StrideId},
    testing::run_page,
};

use crate::support::servers::{MariaDb, Postgres, Proxy};

/// The URL of a database through a proxy.
fn proxied(url: &str, proxy: &Proxy) -> String {
    let port = proxy.address().rsplit(':').next().unwrap().to_owned();
    let mut url = url::Url::parse(url).unwrap();
    url.set_port(Some(port.parse().unwrap())).unwrap();
    url.into()
}

/// Begins a transaction while the server is silent, and gives it up before the server answers.
async fn give_up_a_beginning<DB: Backend>(pool: sqlx::Pool<DB>, proxy: &Proxy) {
    let ledger = SqlLedger::new(pool);
    ledger.apply_schema().await.unwrap();
    let stride = StrideId {
        batch_run: "run".to_owned(),
        batch_id: "batch".to_owned(),
        stride: 0,
    };
    let fence = ledger.open(&stride, None, None, false).await.unwrap().fence;
    let to = PageToken::encode(&1).unwrap();
    let claim = PageClaim {
        stride: &stride,
        fence,
        from: None,
        to: Some(&to),
        ends_data: false,
        pages: 1,
        pages_failed: 0,
    };
    proxy.stall();
    let begun = tokio::time::timeout(Duration::from_millis(300), ledger.begin(claim)).await;
    assert!(begun.is_err(), "the proxy let the transaction through");
    proxy.pass();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_given_up_while_it_begins_is_not_left_open_in_postgresql() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server.database("given_up").await;
    let proxy = Proxy::before(&format!("127.0.0.1:{}", server.port()));
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(1)
        // Without this setting, the test of the connection is given up instead.
        .test_before_acquire(false)
        .connect(&proxied(&url, &proxy))
        .await
        .unwrap();
    give_up_a_beginning(pool.clone(), &proxy).await;
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    let direct = PgPool::connect(&url).await.unwrap();
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let since = Instant::now();
    // A closed session may still read the data before its end.
    while sqlx::query_scalar::<_, i64>(open)
        .fetch_one(&direct)
        .await
        .unwrap()
        > 0
    {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "a session is in a transaction"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_given_up_while_it_begins_is_not_left_open_in_mariadb() {
    let Some(server) = MariaDb::shared() else {
        return;
    };
    let url = server.database("given_up").await;
    let proxy = Proxy::before(&format!("127.0.0.1:{}", server.port()));
    let pool: MySqlPool = MySqlPoolOptions::new()
        .max_connections(1)
        // Without this setting, the test of the connection is given up instead.
        .test_before_acquire(false)
        .connect(&proxied(&url, &proxy))
        .await
        .unwrap();
    give_up_a_beginning(pool.clone(), &proxy).await;
    let open: i64 = sqlx::query_scalar("SELECT CAST(@@in_transaction AS SIGNED)")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(open, 0, "the session is in a transaction");
}

/// A waiting `ALTER TABLE` keeps out all later sessions.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_timeout_bounds_a_wait_for_a_change_of_the_table() {
    let Some(server) = MariaDb::shared() else {
        return;
    };
    let url = server.database("metadata").await;
    let options = DatabaseOptions::from_url(&url).unwrap();
    let database = Database::connect(&options).await.unwrap();
    let Database::MySql(pool) = &database else {
        unreachable!("the database is MariaDB");
    };
    sqlx::raw_sql("CREATE TABLE t (id INT PRIMARY KEY, x INT); INSERT INTO t VALUES (1, 0)")
        .execute(pool)
        .await
        .unwrap();
    let processor = SqlBackfill::new(Connections::new().with(DEFAULT_CONNECTION, database.clone()));
    let args = BackfillArgs::of(TableSpec::new("t", ["id"]))
        .set("x", "x + 1")
        .lock_timeout(Duration::from_secs(1));
    let mut holder = pool.acquire().await.unwrap();
    sqlx::raw_sql("LOCK TABLES t READ")
        .execute(&mut *holder)
        .await
        .unwrap();
    // Without a lock timeout of its own, the page hangs for as long as the server's.
    let page = run_page(&processor, args, None);
    let page = tokio::time::timeout(Duration::from_secs(30), page).await;
    let error = page.expect("the page should end").unwrap_err();
    assert_eq!(error.error_type(), "LockTimeout", "{error}");
    sqlx::raw_sql("UNLOCK TABLES")
        .execute(&mut *holder)
        .await
        .unwrap();
    drop(holder);
    let limits =
        "SELECT CAST(@@innodb_lock_wait_timeout = 5 AND @@lock_wait_timeout = 5 AS SIGNED)";
    for _ in 0..10 {
        let undone: i64 = sqlx::query_scalar(limits).fetch_one(pool).await.unwrap();
        assert_eq!(undone, 1);
    }
    database.close().await;
}
