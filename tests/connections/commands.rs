//! The commands that reach databases, as users run them.

use std::time::SystemTime;

use sqlx::{Connection as _, Executor as _};
use temporal_batch::sql::{Database, DatabaseOptions};

use crate::{
    connect,
    support::{
        command::{Ended, offline, run_aside},
        databases,
        servers::{MariaDb, Postgres},
    },
};

/// Runs a command without a server, with these variables.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = offline(arguments);
    command.envs(variables.iter().copied());
    run_aside(command).await
}

#[track_caller]
fn done(ended: &Ended) -> String {
    ended.clone().exits_with(0).out
}

async fn script(database: &Database, statements: String) {
    databases::script(database, &statements).await.unwrap();
}

/// The URL of a new database of each installed system.
async fn databases(folder: &tempfile::TempDir, test: &str) -> Vec<(&'static str, String)> {
    let file = folder.path().join("shop.db");
    let url = format!("sqlite:{}", file.display());
    let made = connect(&format!("{url}?mode=rwc")).await.unwrap();
    made.close().await;
    let mut all = vec![("sqlite", url)];
    if let Some(server) = Postgres::shared() {
        all.push(("postgres", server.database(test).await));
    }
    if let Some(server) = MariaDb::shared() {
        all.push(("mysql", server.database(test).await));
    }
    all
}

const TABLES: [&str; 5] = [
    "temporal_batch_stride",
    "temporal_batch_dead_letter",
    "temporal_batch_report",
    "temporal_batch_output",
    "temporal_batch_settled",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_created_once_and_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    for (system, url) in databases(&folder, "schema_apply").await {
        let named = [("DATABASE_URL", url.as_str())];
        let printed = done(&run(&["schema", "print"], &named).await);
        let without = done(&run(&["schema", "print", "--for", system], &[]).await);
        assert_eq!(printed, without, "{system}");
        for (again, said) in [(false, "made"), (true, "there already")] {
            let applied = done(&run(&["schema", "apply"], &named).await);
            let expected: String = TABLES.map(|table| format!("{table}: {said}\n")).concat();
            assert_eq!(applied, expected, "{system} {again}");
        }
        // The printed schema is the one that is applied: one of the tables is created from the printed text.
        let database = connect(&url).await.unwrap();
        script(&database, format!("DROP TABLE {}", TABLES[0])).await;
        script(&database, printed).await;
        let applied = done(&run(&["schema", "apply"], &named).await);
        assert!(!applied.contains("made"), "{system}: {applied}");
        script(&database, format!("DROP TABLE {}", TABLES[1])).await;
        let applied = done(&run(&["schema", "apply"], &named).await);
        assert_eq!(applied.matches("made").count(), 1, "{system}: {applied}");
        assert!(applied.contains("dead_letter: made"), "{system}: {applied}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strides_of_runs_that_ended_long_ago_are_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let days_ago = |days: u64| since.as_millis() as u64 - days * 24 * 3600 * 1000;
    for (system, url) in databases(&folder, "schema_prune").await {
        let named = [("DATABASE_URL", url.as_str())];
        let prune = ["schema", "prune", "--older-than", "30d"];
        run(&prune, &named)
            .await
            .refused(1, &["cannot prune", "tables"]);
        done(&run(&["schema", "apply"], &named).await);
        let database = connect(&url).await.unwrap();
        for (batch_run, ended, strides) in [
            ("old", Some(40), 3),
            ("new", Some(20), 2),
            ("running", None, 2),
        ] {
            for stride in 0..strides {
                let stride = format!(
                    "INSERT INTO temporal_batch_stride (batch_run, stride, batch_id, fence, ends_data, pages,
                        pages_failed, processed, changed, skipped, failed, updated_at)
                    VALUES ('{batch_run}', {stride}, 'b', 1, FALSE, 0, 0, 0, 0, 0, 0, 0)"
                );
                script(&database, stride).await;
            }
            if let Some(days) = ended {
                let report = format!(
                    "INSERT INTO temporal_batch_report (batch_run, batch_id, outcome, ended_at, report)
                    VALUES ('{batch_run}', 'b', 'completed', {}, '{{}}')",
                    days_ago(days)
                );
                script(&database, report).await;
            }
        }
        let pruned = done(&run(&prune, &named).await);
        assert!(
            pruned.starts_with("3 strides of batch runs that ended before 2"),
            "{system}: {pruned}"
        );
        let again = done(&run(&prune, &named).await);
        assert!(again.starts_with("0 strides"), "{system}: {again}");
        let all = done(&run(&["schema", "prune", "--older-than", "1d"], &named).await);
        assert!(
            all.starts_with("2 strides"),
            "strides of running batches should stay, {system}: {all}"
        );
    }
    run(&["schema", "prune"], &[])
        .await
        .refused(2, &["--older-than"]);
    let ages = ["schema", "prune", "--older-than", "1000years"];
    run(&ages, &[]).await.refused(2, &["before 1970"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_needs_postgresql_and_must_exist() {
    for system in ["sqlite", "mysql"] {
        let output = run(
            &["schema", "print", "--for", system, "--schema", "ops"],
            &[],
        )
        .await;
        output.refused(2, &["no schemas", "leave --schema out"]);
    }
    let empty = run(
        &["schema", "print", "--for", "postgres", "--schema", ""],
        &[],
    )
    .await;
    empty.refused(2, &["1 to 63 bytes"]);
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server.database("schema_of_postgres").await;
    let named = [("TEMPORAL_BATCH_CONNECTION_SHOP", url.as_str())];
    let apply = [
        "schema",
        "apply",
        "--connection",
        "shop",
        "--schema",
        "Ops \"2\"",
    ];
    run(&apply, &named)
        .await
        .refused(1, &["cannot make the tables", "does not exist"]);
    let database = connect(&url).await.unwrap();
    script(&database, "CREATE SCHEMA \"Ops \"\"2\"\"\"".to_owned()).await;
    assert_eq!(done(&run(&apply, &named).await).matches("made").count(), 5);
    assert_eq!(
        done(&run(&apply, &named).await)
            .matches("there already")
            .count(),
        5
    );
    // The search path names other schemas.
    let elsewhere = done(&run(&["schema", "apply", "--connection", "shop"], &named).await);
    assert_eq!(elsewhere.matches("made").count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn libpqs_variables_and_password_file_are_read() {
    let Some(server) = Postgres::launch(false) else {
        Postgres::skip();
        return;
    };
    let mut admin = sqlx::PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    admin
        .execute("CREATE ROLE keeper LOGIN PASSWORD 'from the file'")
        .await
        .unwrap();
    admin
        .execute("CREATE DATABASE kept OWNER keeper")
        .await
        .unwrap();
    admin.close().await.unwrap();
    let rules = "host all postgres all trust\nhost all all all scram-sha-256\n";
    std::fs::write(server.folder().join("data/pg_hba.conf"), rules).unwrap();
    server.restart(crate::support::servers::Stop::Fast);
    let port = server.port().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!("127.0.0.1:{port}:kept:keeper:from the file\n"),
    )
    .unwrap();
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", port.as_str()),
        ("PGUSER", "keeper"),
        ("PGDATABASE", "kept"),
        ("PGPASSFILE", file.path().to_str().unwrap()),
    ];
    let applied = run(&["schema", "apply"], &variables).await;
    assert_eq!(done(&applied).matches("made").count(), 5);
    let shown = format!("postgres://keeper@127.0.0.1:{port}/kept");
    assert!(applied.err.contains(&shown), "{}", applied.err);
    let given = run(&["schema", "apply", "--connection", "any=env"], &variables).await;
    assert_eq!(done(&given).matches("there already").count(), 5);
    let without = run(&["schema", "apply"], &variables[..4]).await;
    without.refused(1, &["refuses access", "user, password"]);
    run(&["schema", "apply"], &[])
        .await
        .refused(2, &["set DATABASE_URL to a URL"]);
}

/// The log is at its most detailed level.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_not_in_the_log() {
    let wrong = "postgres://nobody:s3cret@127.0.0.1:1/d?application_name=x";
    let unknown = "postgres://nobody@127.0.0.1:1/d?passwd=s3cret";
    for (url, code) in [(wrong, 1), (unknown, 2)] {
        let all = ["--log-level", "trace"];
        let by_flag = run(
            &[&["schema", "apply", "--database-url", url], &all[..]].concat(),
            &[],
        )
        .await;
        let named = [
            ("DATABASE_URL", url),
            ("TEMPORAL_BATCH_CONNECTION_DEFAULT", url),
        ];
        let by_variable = run(&[&["schema", "apply"], &all[..]].concat(), &named).await;
        let worker = ["worker", "--allow-sql", "--address", "127.0.0.1:1"];
        let of_worker = run(&[&worker, &all[..]].concat(), &named).await;
        for output in [by_flag, by_variable, of_worker] {
            let shown = format!("{}{}", output.err, output.out);
            assert_eq!(output.status, Some(code), "{shown}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server
        .url("postgres")
        .replace("postgres@", "postgres:s3cret@");
    let output = run(
        &[
            "schema",
            "apply",
            "--database-url",
            &url,
            "--log-level",
            "trace",
        ],
        &[],
    )
    .await;
    let shown = &output.err;
    done(&output);
    assert!(
        shown.contains("everybody on this machine can see the password in --database-url"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reports_wrong_connections_before_it_starts() {
    let worker = ["worker", "--address", "127.0.0.1:1"];
    let run = async |flags: &[&str], variables: &[(&str, &str)]| {
        run(&[&worker[..], flags].concat(), variables).await
    };
    let none = run(&["--allow-sql"], &[]).await;
    none.refused(
        2,
        &["--allow-sql needs a database", "default=env:DATABASE_URL"],
    );
    let not_allowed = run(&["--connection", "default=env:DATABASE_URL"], &[]).await;
    not_allowed.refused(2, &["add --allow-sql"]);
    let unset = run(&["--allow-sql", "--connection", "shop=env:SHOP_URL"], &[]).await;
    unset.refused(2, &["connection \"shop\"", "set SHOP_URL"]);
    let down = [("SHOP_URL", "postgres://u:s3cret@127.0.0.1:1/d")];
    let unreachable = run(&["--allow-sql", "--connection", "shop=env:SHOP_URL"], &down).await;
    let parts = [
        "connection \"shop\"",
        "cannot reach postgres://u@127.0.0.1:1/d",
        "refused",
    ];
    unreachable.refused(1, &parts);
    let zero = run(&["--allow-sql", "--max-connections", "0"], &[]).await;
    zero.refused(2, &["1..=10000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reports_the_number_of_pages_of_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (_, url) = databases(&folder, "worker_notes").await.swap_remove(0);
    let options = DatabaseOptions::from_url(&url).unwrap();
    let variables = [
        ("TEMPORAL_BATCH_CONNECTION_DEFAULT", url.as_str()),
        ("PRODUCTS_DB", "/no/such/products.db"),
    ];
    let flags = [
        "worker",
        "--allow-sql",
        "--max-pages",
        "10",
        "--address",
        "127.0.0.1:1",
    ];
    let output = run(&flags, &variables).await;
    let shown = output.err;
    let expected = format!(
        "connection \"default\": {}, for 4 of 10 pages at once; further ones wait",
        options.redacted()
    );
    assert!(shown.contains(&expected), "{shown}");
    // The worker works without the sample, and continues to Temporal, which is not there.
    for part in [
        "left out: processor \"inflate-prices\"",
        "no Temporal server",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
}
