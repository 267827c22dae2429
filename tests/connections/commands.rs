//! The commands that reach databases, as their users meet them.

use std::{
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use temporal_batch::{Database, DatabaseOptions};

use crate::{connect, mariadb::MariaDb, postgres::Postgres};

/// A temporal-batch without the settings of whoever runs the tests.
pub fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_temporal-batch"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let ours = [
            "RUST_LOG",
            "PRODUCTS_DB",
            "DATABASE_URL",
            "MYSQL_PWD",
            "THROTTLE_DATABASE_URL",
        ];
        if name.starts_with("TEMPORAL_") || name.starts_with("PG") || ours.contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .envs(variables.iter().copied())
        .args(arguments)
        .stdin(Stdio::null());
    command
}

pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command(arguments, variables);
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
    ended.expect("the command ends").unwrap()
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", err(output));
    out(output)
}

#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let message = err(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in {message}");
    }
    assert_eq!(out(output), "");
}

async fn script(database: &Database, statements: String) {
    let statements = AssertSqlSafe(statements);
    match database {
        Database::Postgres(pool) => sqlx::raw_sql(statements).execute(pool).await.map(|_| ()),
        Database::MySql(pool) => sqlx::raw_sql(statements).execute(pool).await.map(|_| ()),
        Database::Sqlite(pool) => sqlx::raw_sql(statements).execute(pool).await.map(|_| ()),
        other => panic!("{other:?}"),
    }
    .unwrap();
}

/// The URL of a new database of each system that there is.
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
async fn the_tables_are_made_once_and_only_when_asked() {
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
        // What was printed is what was made: one of the tables is made by it.
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
async fn the_strides_of_runs_that_ended_long_ago_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let days_ago = |days: u64| since.as_millis() as u64 - days * 24 * 3600 * 1000;
    for (system, url) in databases(&folder, "schema_prune").await {
        let named = [("DATABASE_URL", url.as_str())];
        let prune = ["schema", "prune", "--older-than", "30d"];
        refused(&run(&prune, &named).await, 1, &["cannot prune", "tables"]);
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
            "what runs stays, {system}: {all}"
        );
    }
    refused(&run(&["schema", "prune"], &[]).await, 2, &["--older-than"]);
    let ages = ["schema", "prune", "--older-than", "1000years"];
    refused(&run(&ages, &[]).await, 2, &["before 1970"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_one_of_postgresql_and_must_be_there() {
    for system in ["sqlite", "mysql"] {
        let output = run(
            &["schema", "print", "--for", system, "--schema", "ops"],
            &[],
        )
        .await;
        refused(&output, 2, &["no schemas", "leave --schema out"]);
    }
    let empty = run(
        &["schema", "print", "--for", "postgres", "--schema", ""],
        &[],
    )
    .await;
    refused(&empty, 2, &["1 to 63 bytes"]);
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
    refused(
        &run(&apply, &named).await,
        1,
        &["cannot make the tables", "does not exist"],
    );
    let database = connect(&url).await.unwrap();
    script(&database, "CREATE SCHEMA \"Ops \"\"2\"\"\"".to_owned()).await;
    assert_eq!(done(&run(&apply, &named).await).matches("made").count(), 5);
    assert_eq!(
        done(&run(&apply, &named).await)
            .matches("there already")
            .count(),
        5
    );
    // Those of the search path are others.
    let elsewhere = done(&run(&["schema", "apply", "--connection", "shop"], &named).await);
    assert_eq!(elsewhere.matches("made").count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn libpqs_variables_and_password_file_are_read() {
    let Some(server) = Postgres::launch(false) else {
        crate::postgres::skip();
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
    server.restart(crate::postgres::Stop::Fast);
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
    assert!(err(&applied).contains(&shown), "{}", err(&applied));
    let given = run(&["schema", "apply", "--connection", "any=env"], &variables).await;
    assert_eq!(done(&given).matches("there already").count(), 5);
    let without = run(&["schema", "apply"], &variables[..4]).await;
    refused(&without, 1, &["refuses access", "user, password"]);
    refused(
        &run(&["schema", "apply"], &[]).await,
        2,
        &["set DATABASE_URL to a URL"],
    );
}

/// Whatever is logged.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_log_either() {
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
            let shown = err(&output) + &out(&output);
            assert_eq!(output.status.code(), Some(code), "{shown}");
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
    let shown = err(&output);
    done(&output);
    assert!(
        shown.contains("everybody on this machine can see the password in --database-url"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_what_is_wrong_with_its_connections_before_it_starts() {
    let worker = ["worker", "--address", "127.0.0.1:1"];
    let run = async |flags: &[&str], variables: &[(&str, &str)]| {
        run(&[&worker[..], flags].concat(), variables).await
    };
    let none = run(&["--allow-sql"], &[]).await;
    refused(
        &none,
        2,
        &["--allow-sql needs a database", "default=env:DATABASE_URL"],
    );
    let not_allowed = run(&["--connection", "default=env:DATABASE_URL"], &[]).await;
    refused(&not_allowed, 2, &["add --allow-sql"]);
    let unset = run(&["--allow-sql", "--connection", "shop=env:SHOP_URL"], &[]).await;
    refused(&unset, 2, &["connection \"shop\"", "set SHOP_URL"]);
    let down = [("SHOP_URL", "postgres://u:s3cret@127.0.0.1:1/d")];
    let unreachable = run(&["--allow-sql", "--connection", "shop=env:SHOP_URL"], &down).await;
    let parts = [
        "connection \"shop\"",
        "cannot reach postgres://u@127.0.0.1:1/d",
        "refused",
    ];
    refused(&unreachable, 1, &parts);
    let zero = run(&["--allow-sql", "--max-connections", "0"], &[]).await;
    refused(&zero, 2, &["1..=10000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_how_many_pages_a_connection_is_for() {
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
    let shown = err(&output);
    let expected = format!(
        "connection \"default\": {}, for 4 of 10 pages at once; further ones wait",
        options.redacted()
    );
    assert!(shown.contains(&expected), "{shown}");
    // It can do without the sample, and went on to Temporal, which is not there.
    for part in [
        "left out: processor \"inflate-prices\"",
        "no Temporal server",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
}
