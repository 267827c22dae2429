//! The command `backfill`.

use std::{net::TcpListener, process::Command, time::Duration};

use crate::{
    database::{self, Home},
    support::{
        command::{Ended, LIMIT, offline, online, run, start},
        databases::on_each,
    },
};

on_each!(
    a_table_is_migrated_and_the_same_command_again_does_nothing,
    a_second_process_works_for_the_same_batch,
    an_interrupted_command_is_continued_by_repeating_it,
    poison_rows_become_dead_letters_and_are_redriven,
    a_lock_timeout_is_tried_again,
);

/// A command for `t`, with the URL in a variable, where other users of the machine cannot see it.
pub fn backfill(home: &Home, args: &[&str]) -> Command {
    about(home, online, args)
}

pub fn about(home: &Home, how: fn(&[&str]) -> Command, args: &[&str]) -> Command {
    let all: Vec<_> = ["backfill", "--table", "t"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    let mut command = how(&all);
    command.env("DATABASE_URL", &home.url);
    command
}

pub fn id() -> String {
    let mut name = std::iter::repeat_with(fastrand::alphanumeric);
    let name: String = name.by_ref().take(10).collect();
    format!("test-{name}")
}

#[track_caller]
pub fn exits(ended: &Ended, status: i32) {
    assert_eq!(ended.status, Some(status), "{ended:#?}");
}

async fn a_table_is_migrated_and_the_same_command_again_does_nothing(home: Home) {
    home.numbers(2_500).await;
    let command = || {
        backfill(
            &home,
            &["--set", "x = x + 1, name = 'n'", "--where", "id <> 7"],
        )
    };
    let ended = run(command());
    exits(&ended, 0);
    for part in [
        "UPDATE",
        "key        id",
        "plan  ",
        "ends at",
        "--once rules that out",
    ] {
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
    assert!(
        ended.out.contains("2,499 processed (2,499 changed)"),
        "{}",
        ended.out
    );
    let again = run(command());
    exits(&again, 0);
    assert!(again.err.contains("is done already"), "{}", again.err);
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE x = 1").await,
        2_499
    );
    let other = run(backfill(&home, &["--set", "x = 5", "--rerun"]));
    exits(&other, 0);
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE x = 5").await,
        2_500
    );
}

async fn a_second_process_works_for_the_same_batch(home: Home) {
    home.numbers(3_000).await;
    home.ledger_tables().await;
    let id = id();
    let command = |work: &str| {
        let args = [
            "--once",
            "--batch-id",
            &id,
            "--page-size",
            "20",
            "--stride",
            "1",
        ];
        let args: Vec<_> = args.into_iter().chain(["--set", work]).collect();
        let mut command = backfill(&home, &args);
        // The rate is low enough for the second process to find the batch running.
        command.args(["--page-pause", "100ms", "--max-parallelism", "2"]);
        command
    };
    let first = start(command("x = x + 1"));
    first.says("runs");
    let other_work = run(command("x = x + 2"));
    exits(&other_work, 1);
    assert!(
        other_work.err.contains("is not the same"),
        "{}",
        other_work.err
    );
    let second = start(command("x = x + 1"));
    second.says("runs");
    let (first, second) = (first.ended(), second.ended());
    exits(&first, 0);
    exits(&second, 0);
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE x = 1").await,
        3_000
    );
}

async fn an_interrupted_command_is_continued_by_repeating_it(home: Home) {
    home.numbers(2_000).await;
    let args = [
        "--once",
        "--create-ledger-tables",
        "--page-size",
        "10",
        "--stride",
        "2",
    ];
    let args: Vec<_> = args.into_iter().chain(["--set", "x = x + 1"]).collect();
    let slow = || {
        let mut command = backfill(&home, &args);
        command.args(["--page-pause", "30ms", "--max-parallelism", "2"]);
        command
    };
    let first = start(slow());
    first.says("runs");
    wait_for_rows(&home, 30).await;
    first.signal("INT");
    let first = first.ended();
    exits(&first, 130);
    assert!(
        first.err.contains("the same command continues"),
        "{}",
        first.err
    );
    let done = home.number("SELECT count(*) FROM t WHERE x = 1").await;
    assert!((30..2_000).contains(&done), "{done}");
    exits(&run(slow()), 0);
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE x = 1").await,
        2_000
    );
}

pub async fn wait_for_rows(home: &Home, rows: i64) {
    let changed = async {
        while home.number("SELECT count(*) FROM t WHERE x > 0").await < rows {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let changed = tokio::time::timeout(LIMIT, changed).await;
    changed.expect("no rows were changed");
}

/// Creates 300 rows, some of which refuse `x = x + 1` until their `most` is raised.
pub async fn poisoned(home: &Home, ids: &[i32]) {
    home.script(
        "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, x INTEGER NOT NULL, most INTEGER NOT NULL, \
         CHECK (x <= most))",
    )
    .await;
    let rows: Vec<_> = (1..=300)
        .map(|id| format!("({id}, 0, {})", if ids.contains(&id) { 0 } else { 9 }))
        .collect();
    home.script(&format!("INSERT INTO t VALUES {}", rows.join(", ")))
        .await;
}

async fn poison_rows_become_dead_letters_and_are_redriven(home: Home) {
    poisoned(&home, &[44, 45, 261]).await;
    home.ledger_tables().await;
    let id = id();
    let args = [
        "--once",
        "--set",
        "x = x + 1",
        "--batch-id",
        &id,
        "--page-size",
        "50",
    ];
    let ended = run(backfill(&home, &args));
    exits(&ended, 3);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 297);
    let look = |args: &[&str]| {
        let mut command = online(args);
        command.env("TEMPORAL_BATCH_CONNECTION_DEFAULT", &home.url);
        command
    };
    let failures = run(look(&["failures", &id, "--json"]));
    exits(&failures, 0);
    let failures: serde_json::Value = serde_json::from_str(&failures.out).unwrap();
    let letters = failures["dead_letters"].as_array().unwrap();
    let mut keys: Vec<_> = letters.iter().map(|l| l["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["[261]", "[44]", "[45]"], "{failures}");
    // The operator repairs the rows, and redrives them with one command.
    home.script("UPDATE t SET most = 9").await;
    exits(&run(look(&["redrive", &id])), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 300);
}

async fn a_lock_timeout_is_tried_again(home: Home) {
    use sqlx::Connection as _;
    use temporal_batch::sql::Database;

    home.numbers(50).await;
    // Finding the mark would wait for the transaction that holds the lock.
    let args = [
        "--set",
        "x = 1",
        "--lock-timeout",
        "100ms",
        "--no-high-water-mark",
    ];
    let command = || backfill(&home, &args);
    macro_rules! hold {
        ($connection:ty, $begin:literal) => {{
            let mut holder = <$connection>::connect(&home.url).await.unwrap();
            sqlx::raw_sql($begin).execute(&mut holder).await.unwrap();
            let running = start(command());
            running.says("runs");
            running.says("retries");
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut holder)
                .await
                .unwrap();
            exits(&running.ended(), 0);
        }};
    }
    match &home.database {
        Database::Postgres(_) => {
            hold!(
                sqlx::PgConnection,
                "BEGIN; UPDATE t SET x = 9 WHERE id = 33"
            );
        }
        Database::MySql(_) => {
            hold!(
                sqlx::MySqlConnection,
                "START TRANSACTION; UPDATE t SET x = 9 WHERE id = 33"
            );
        }
        // SQLite locks the whole file, for which a connection waits as long as the pool allows.
        _ => exits(&run(command()), 0),
    }
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 50);
}

#[tokio::test]
async fn a_command_and_its_dev_server_may_be_killed_at_any_time() {
    let Some(home) = database::postgres("killed").await else {
        return;
    };
    home.numbers(4_000).await;
    home.ledger_tables().await;
    let state = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let args = [
        "--dev",
        "--address",
        &address,
        "--once",
        "--set",
        "x = x + 1",
    ];
    let command = |slow: bool| {
        let mut command = about(&home, offline, &args);
        command.env("XDG_STATE_HOME", state.path()).args([
            "--page-size",
            "20",
            "--stride",
            "2",
            "--max-parallelism",
            "4",
        ]);
        if slow {
            command.args(["--page-pause", "20ms"]);
        }
        command
    };
    for kill in 1..=2 {
        let mut running = start(command(true));
        running.says("runs");
        wait_for_rows(&home, kill * 300).await;
        running.kill();
    }
    let ended = run(command(true));
    exits(&ended, 0);
    let wrong = home.number("SELECT count(*) FROM t WHERE x <> 1").await;
    assert_eq!(wrong, 0, "{ended:#?}");
}

#[tokio::test]
async fn wrong_arguments_are_refused_before_the_batch_starts() {
    let home = database::sqlite().await;
    home.numbers(5).await;
    for (args, part) in [
        (&["--set", "x"][..], "not followed by ="),
        (&["--set", "id = 1"], "part of the key"),
        (&["--set", "x = 1", "--key", "x"], "could have the same"),
        (&["--set", "x = 1", "--once"], "schema apply"),
        (&["--set", "x = 1", "--stride", "0"], "stride is 0"),
        (&["--set", "x = 1", "--detach"], "--task-queue"),
        (&["--statement-file", "/no/such/file"], "cannot read"),
        (&["--statement-file", "/dev/null"], "nothing to do"),
        (&[], "--set"),
        (&["--set", "x = 1", "--batch-id", "a b"], "batch id"),
    ] {
        let ended = run(about(&home, offline, args));
        exits(&ended, 2);
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
    let none = run(offline(&["backfill", "--table", "t", "--set", "x = 1"]));
    exits(&none, 2);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 0").await, 5);
}
