//! Settings that every connection has.

use temporal_batch::sql::{Database, DatabaseOptions};

use crate::{
    connect, pg, sqlite,
    support::servers::{MariaDb, Postgres},
};

#[tokio::test]
async fn postgresql_connections_have_the_name_of_the_application() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server.database("sessions").await;
    let named = DatabaseOptions::from_url(&url)
        .unwrap()
        .application_name("nightly");
    for (options, name) in [
        (DatabaseOptions::from_url(&url).unwrap(), "temporal-batch"),
        (named, "nightly"),
        (
            DatabaseOptions::from_url(&format!("{url}&application_name=x")).unwrap(),
            "x",
        ),
    ] {
        let database = Database::connect(&options).await.unwrap();
        let shown: String = sqlx::query_scalar(
            "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        )
        .fetch_one(pg(&database))
        .await
        .unwrap();
        assert_eq!(shown, name);
        database.close().await;
    }
}

/// `sqlx` sets UTC in its sessions, which overrides the options.
#[tokio::test]
async fn postgresql_has_the_requested_time_zone_or_utc() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server.database("zones").await;
    for (options, zone, style) in [
        ("", "UTC", "ISO, MDY"),
        ("-c timezone=Europe/Berlin", "Europe/Berlin", "ISO, MDY"),
        (
            "-cDateStyle=ISO,\\ DMY --TimeZone=Asia/Tokyo -c statement_timeout=5s",
            "Asia/Tokyo",
            "ISO, DMY",
        ),
    ] {
        let mut url = url::Url::parse(&url).unwrap();
        if !options.is_empty() {
            url.query_pairs_mut().append_pair("options", options);
        }
        let database = connect(url.as_str()).await.unwrap();
        let shown: (String, String) =
            sqlx::query_as("SELECT current_setting('TimeZone'), current_setting('DateStyle')")
                .fetch_one(pg(&database))
                .await
                .unwrap();
        assert_eq!((shown.0.as_str(), shown.1.as_str()), (zone, style));
        database.close().await;
    }
}

#[tokio::test]
async fn sqlite_checks_foreign_keys_waits_for_writers_and_keeps_its_journal_mode() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    for (mode, made) in [("delete", "?mode=rwc"), ("wal", "")] {
        let database = connect(&format!("{url}{made}")).await.unwrap();
        let pool = sqlite(&database);
        let foreign_keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys")
            .fetch_one(pool)
            .await
            .unwrap();
        let busy_timeout: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
            .fetch_one(pool)
            .await
            .unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(
            (foreign_keys, busy_timeout, journal.as_str()),
            (1, 60_000, mode)
        );
        sqlx::raw_sql("PRAGMA journal_mode = wal")
            .execute(pool)
            .await
            .unwrap();
        database.close().await;
    }
}

#[tokio::test]
async fn mariadb_is_strict_and_in_utc_and_keeps_its_meaning_of_pipes() {
    let Some(server) = MariaDb::shared() else {
        return;
    };
    let url = server.database("sessions").await;
    let Database::MySql(pool) = connect(&url).await.unwrap() else {
        panic!("no MySQL");
    };
    sqlx::raw_sql(
        "SET GLOBAL sql_mode = 'TRADITIONAL,PAD_CHAR_TO_FULL_LENGTH', GLOBAL autocommit = 0, GLOBAL lock_wait_timeout = 1000",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    let Database::MySql(pool) = connect(&url).await.unwrap() else {
        panic!("no MySQL");
    };
    let (mode, zone, charset): (String, String, String) =
        sqlx::query_as("SELECT @@sql_mode, @@time_zone, @@character_set_connection")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert!(mode.contains("STRICT_ALL_TABLES"), "{mode}");
    assert!(mode.contains("ERROR_FOR_DIVISION_BY_ZERO"), "{mode}");
    assert!(!mode.contains("PIPES_AS_CONCAT"), "{mode}");
    assert!(
        !mode.contains("ZERO_DATE") && !mode.contains("ZERO_IN_DATE"),
        "{mode}"
    );
    assert!(
        mode.contains("NO_AUTO_VALUE_ON_ZERO") && !mode.contains("PAD_CHAR"),
        "{mode}"
    );
    let (commits, lock_wait): (i64, i64) =
        sqlx::query_as("SELECT @@autocommit, CAST(@@lock_wait_timeout AS SIGNED)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((commits, lock_wait), (1, 5));
    assert_eq!((zone.as_str(), charset.as_str()), ("+00:00", "utf8mb4"));
    sqlx::raw_sql("CREATE TABLE t (x tinyint); CREATE TABLE d (x date, y datetime)")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO d VALUES (?, ?)")
        .bind("2020-00-00")
        .bind("0000-00-00 00:00:00")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO t VALUES (?)")
        .bind(1000)
        .execute(&pool)
        .await
        .unwrap_err();
    sqlx::raw_sql(
        "SET GLOBAL sql_mode = DEFAULT, GLOBAL autocommit = DEFAULT, GLOBAL lock_wait_timeout = DEFAULT",
    )
        .execute(&pool)
        .await
        .unwrap();
}
