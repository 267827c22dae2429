//! Commands whose transactions may each get another connection of the server.

use std::collections::BTreeSet;

use sqlx::{Connection as _, Executor as _, PgConnection};

use temporal_batch::sql::{Database, DatabaseOptions, Key, Table, TableSpec};

use crate::{
    commands::command,
    support::{
        command::start,
        servers::{PgBouncer, Postgres},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_through_a_proxy_that_pools_transactions() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let direct = server.database("proxied").await;
    let Some(bouncer) = PgBouncer::launch(server.port()) else {
        return;
    };
    let url = bouncer.url(&direct);
    let mut connection = PgConnection::connect(&direct).await.unwrap();
    connection
        .execute(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, x INT NOT NULL, price NUMERIC, at TIMESTAMPTZ);
             INSERT INTO t SELECT n, 0, n / 7.0, now() FROM generate_series(1, 20000) AS n;
             CREATE TABLE copy (LIKE t INCLUDING ALL)",
        )
        .await
        .unwrap();

    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("parts");
    let all = folder.path().join("all.csv");
    let run = |args: &[&str]| {
        let mut command = command(&url, args);
        // The worker of `verify` knows the connection by this name.
        command.env("TEMPORAL_BATCH_CONNECTION_DEFAULT", &url);
        start(command).ended().exits_with(0)
    };
    let backfill = [
        "backfill",
        "--table",
        "t",
        "--set",
        "x = x + 1",
        "--once",
        "--create-ledger-tables",
        "--page-size",
        "500",
        "--max-parallelism",
        "8",
        "--verify",
        "x = 1",
        "--batch-id",
        "proxied-backfill",
    ];
    run(&backfill);
    run(&["verify", "proxied-backfill"]);
    let export = [
        "export",
        "--table",
        "t",
        "--to",
        parts.to_str().unwrap(),
        "--format",
        "csv",
        "--concatenate",
        all.to_str().unwrap(),
        "--page-size",
        "1000",
        "--max-parallelism",
        "8",
        "--batch-id",
        "proxied-export",
    ];
    run(&export);
    for (number, conflict) in ["fail", "update:id", "nothing"].into_iter().enumerate() {
        let id = format!("proxied-import-{number}");
        let import = [
            "import",
            all.to_str().unwrap(),
            "--table",
            "copy",
            "--on-conflict",
            conflict,
            "--page-size",
            "1000",
            "--max-parallelism",
            "8",
            "--batch-id",
            &id,
        ];
        run(&import);
    }
    run(&["schema", "prune", "--older-than", "30d"]);

    // Many commands run at once, so that one of them gets the server connection of another.
    let options = DatabaseOptions::from_url(&url).unwrap().max_connections(20);
    let database = Database::connect(&options).await.unwrap();
    let table = Table::inspect(&database, &TableSpec::new("t", ["id"]))
        .await
        .unwrap();
    let counts = (1..=20_i64).map(|task| {
        let table = table.clone();
        tokio::spawn(async move {
            for number in 1..=50 {
                let (first, last) = (Key::new([task * number]), Key::new([task * number * 2]));
                let rows = match number % 2 {
                    0 => table.count(Some(&first), Some(&last)).await,
                    _ => table.count(None, Some(&first)).await,
                };
                assert_eq!(rows.unwrap(), u64::try_from(task * number).unwrap());
            }
        })
    });
    for count in counts.collect::<Vec<_>>() {
        count.await.unwrap();
    }
    database.close().await;

    let wrong = "SELECT count(*) FROM (SELECT * FROM t EXCEPT ALL SELECT * FROM copy) AS missing";
    let missing: i64 = sqlx::query_scalar(wrong)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(missing, 0);
    let count = "SELECT count(*) FROM t WHERE x = 1";
    let changed: i64 = sqlx::query_scalar(count)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(changed, 20_000);
    let servers = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let servers: Vec<i32> = sqlx::query_scalar(servers)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let servers: BTreeSet<_> = servers.into_iter().collect();
    assert!(servers.len() <= 5, "more than five: {servers:?}");
}
