//! Causes in a database that keep a batch from being faster, created for real, and the explanation that each must
//! produce; and the commands that are printed as the next step. Other causes are in `tests/engine/explanations.rs`.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::Connection as _;
use temporal_batch::sql::Database;

use crate::{
    command::{backfill, exits, id, wait_for_rows},
    database::{self, Home},
    support::{
        command::{Ended, LIMIT, Running, online, run, start},
        databases::on_each,
    },
};

on_each!(
    the_session_that_locks_the_rows_is_named_with_its_statement,
    a_lock_of_the_whole_table_is_named,
    an_older_transaction_is_named_before_the_start,
    a_missing_table_is_named,
);

/// The status of a batch at one look.
fn status(id: &str) -> Value {
    let ended = run(online(&["status", id, "--json"]));
    serde_json::from_str(&ended.out).unwrap_or(Value::Null)
}

/// Polls the status until its explanation has this part.
fn says(id: &str, part: &str) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = status(id);
        let said = status["progress"]["explanation"].as_str();
        if said.is_some_and(|said| said.contains(part)) {
            return status;
        }
        let late = Instant::now() >= deadline;
        assert!(!late, "no explanation has {part:?}; the last was {said:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn sentence(status: &Value) -> &str {
    status["progress"]["explanation"].as_str().unwrap()
}

/// The command that is printed as the next step.
fn run_next(status: &Value, how: fn(&[&str]) -> std::process::Command) -> std::process::Command {
    let next = status["next"].as_str().unwrap();
    let mut words = next.split(' ');
    assert_eq!(words.next(), Some("temporal-batch"), "{next}");
    how(&words.collect::<Vec<_>>())
}

fn cancelled(id: &str, running: Running) {
    exits(&run(online(&["cancel", id])), 0);
    exits(&running.ended(), 4);
}

fn slow(home: &Home, id: &str, more: &[&str]) -> Running {
    let args = [
        "--batch-id",
        id,
        "--page-size",
        "10",
        "--stride",
        "1",
        "--max-parallelism",
        "4",
    ];
    let args: Vec<_> = args.iter().chain(more).copied().collect();
    start(backfill(home, &args))
}

/// Begins a transaction in another session, and rolls it back after the code.
macro_rules! in_another_session {
    ($home:expr, $statement:expr, $code:expr) => {{
        macro_rules! with {
            ($connection:ty, $begin:literal) => {{
                let mut other = <$connection>::connect(&$home.url).await.unwrap();
                for statement in [$begin, $statement] {
                    sqlx::raw_sql(statement).execute(&mut other).await.unwrap();
                }
                let seen = $code;
                sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
                other.close().await.unwrap();
                seen
            }};
        }
        match &$home.database {
            Database::Postgres(_) => with!(sqlx::PgConnection, "BEGIN"),
            Database::MySql(_) => with!(sqlx::MySqlConnection, "START TRANSACTION"),
            _ => with!(sqlx::SqliteConnection, "BEGIN IMMEDIATE"),
        }
    }};
}

async fn the_session_that_locks_the_rows_is_named_with_its_statement(home: Home) {
    home.numbers(200).await;
    let id = id();
    let held = "UPDATE t SET name = 'the secret 4711' WHERE x < 5";
    let work = [
        "--set",
        "x = 1",
        "--lock-timeout",
        "1s",
        "--no-high-water-mark",
    ];
    let running;
    let seen = in_another_session!(home, held, {
        running = slow(&home, &id, &work);
        let part = if home.is_sqlite() {
            "another session holds the lock of the file"
        } else {
            "holds the lock"
        };
        says(&id, part)
    });
    let said = sentence(&seen);
    assert!(said.contains("LockTimeout: "), "{said}");
    assert!(!said.contains("secret") && !said.contains("4711"), "{said}");
    let named = match &home.database {
        Database::Postgres(_) => "pid ",
        Database::MySql(_) => "thread ",
        _ => "test.db",
    };
    assert!(said.contains(named), "{said}");
    if let Database::Postgres(_) = &home.database {
        let does = "(idle in transaction for ";
        assert!(said.contains(does), "{said}");
        assert!(said.contains("UPDATE t SET name = ? WHERE x < ?"), "{said}");
    }
    assert_eq!(seen["progress"]["held_by"], "retries");
    assert_eq!(seen["next"], format!("temporal-batch failures {id}"));
    exits(&run(run_next(&seen, online)), 0);
    exits(&running.ended(), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 200);
}

async fn a_lock_of_the_whole_table_is_named(home: Home) {
    let lock = match &home.database {
        Database::Postgres(_) => "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
        Database::MySql(_) => "LOCK TABLES t WRITE",
        // Every lock of SQLite is one of the whole file.
        _ => return,
    };
    home.numbers(400).await;
    let id = id();
    let work = [
        "--set",
        "x = 1",
        "--lock-timeout",
        "1s",
        "--page-pause",
        "300ms",
    ];
    let running = slow(&home, &id, &work);
    wait_for_rows(&home, 20).await;
    let seen = in_another_session!(home, lock, says(&id, "holds the lock"));
    let said = sentence(&seen);
    let named = match home.is_mysql() {
        true => "a session with a lock of the whole table holds the lock",
        false => ": LOCK TABLE t IN ACCESS EXCLUSIVE MODE) holds the lock",
    };
    assert!(said.contains(named), "{said}");
    if home.is_mysql() {
        // This happens often: a change of the schema waits for a long transaction, and other sessions wait behind it.
        let seen = in_another_session!(home, "SELECT count(*) FROM t", {
            let url = home.url.clone();
            // Reading the status blocks the thread of the test.
            let change = thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    let mut session = sqlx::MySqlConnection::connect(&url).await.unwrap();
                    let change = sqlx::raw_sql("ALTER TABLE t ADD COLUMN y INT");
                    change.execute(&mut session).await.unwrap();
                });
            });
            let seen = says(&id, "waits for, too, (for ");
            (seen, change)
        });
        let (seen, change) = seen;
        let said = sentence(&seen);
        assert!(said.contains("a session that thread "), "{said}");
        assert!(
            said.contains(": ALTER TABLE t ADD COLUMN y INT) holds the lock"),
            "{said}"
        );
        change.join().unwrap();
    }
    exits(&run(online(&["set", &id, "--page-pause", "none"])), 0);
    exits(&running.ended(), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 400);
}

async fn an_older_transaction_is_named_before_the_start(home: Home) {
    if home.is_sqlite() {
        // The writer of SQLite locks the whole file, which the test above covers.
        return;
    }
    home.numbers(20).await;
    let id = id();
    let running;
    let seen = in_another_session!(home, "UPDATE t SET x = 5 WHERE id = 3", {
        running = slow(&home, &id, &["--set", "x = 1"]);
        says(
            &id,
            "waiting for transactions that are older than the batch: ",
        )
    });
    let said = sentence(&seen);
    let named = if home.is_mysql() { "thread " } else { "pid " };
    assert!(said.contains(named) && said.contains("open for "), "{said}");
    assert_eq!(seen["progress"]["held_by"], "preparing");
    exits(&running.ended(), 0);
}

async fn a_missing_table_is_named(home: Home) {
    home.numbers(400).await;
    let id = id();
    let running = slow(&home, &id, &["--set", "x = 1", "--page-pause", "300ms"]);
    wait_for_rows(&home, 20).await;
    home.script("ALTER TABLE t RENAME TO gone").await;
    let seen = says(&id, "SqlStatement: ");
    assert!(sentence(&seen).contains('t'), "{seen}");
    exits(&run(run_next(&seen, online)), 0);
    home.script("ALTER TABLE gone RENAME TO t").await;
    exits(&run(online(&["set", &id, "--page-pause", "none"])), 0);
    exits(&running.ended(), 0);
}

#[tokio::test]
async fn slow_statements_are_named() {
    let Some(home) = database::postgres("because_slow").await else {
        return;
    };
    home.numbers(100).await;
    let id = id();
    let work = "name = name || substr(pg_sleep(1)::text, 1, 0)";
    let running = slow(&home, &id, &["--set", work, "--statement-timeout", "200ms"]);
    says(&id, "StatementTimeout: ");
    cancelled(&id, running);
}

#[tokio::test]
async fn the_next_step_of_a_pause_is_the_command_that_ends_it() {
    let home = database::sqlite().await;
    home.numbers(300).await;
    let id = id();
    let running = slow(&home, &id, &["--set", "x = 1", "--page-pause", "500ms"]);
    wait_for_rows(&home, 10).await;
    exits(&run(online(&["pause", &id, "--reason", "backup"])), 0);
    let seen = says(&id, "backup");
    assert_eq!(seen["next"], format!("temporal-batch resume {id}"));
    exits(&run(run_next(&seen, online)), 0);
    exits(&run(online(&["set", &id, "--page-pause", "none"])), 0);
    exits(&running.ended(), 0);
}

/// Starts a batch, and kills its only worker.
async fn without_worker() -> (Home, String) {
    let home = database::sqlite().await;
    home.numbers(300).await;
    let id = id();
    let mut running = slow(&home, &id, &["--set", "x = 1", "--page-pause", "2s"]);
    wait_for_rows(&home, 10).await;
    running.kill();
    (home, id)
}

#[tokio::test]
async fn a_cancellation_without_a_worker_is_reported_with_the_command_that_starts_one() {
    let (home, id) = without_worker().await;
    let cancelled = run(online(&["cancel", &id]));
    exits(&cancelled, 0);
    let seen = says(&id, "a cancellation was requested at ");
    assert!(
        sentence(&seen).contains(" and waits for a worker: no "),
        "{seen}"
    );
    assert!(seen["cancel_waits_since"].is_u64(), "{seen}");
    let mut worker = run_next(&seen, online);
    worker.env("DATABASE_URL", &home.url);
    let worker = start(worker);
    exits(&run(online(&["watch", &id, "--plain"])), 4);
    worker.signal("TERM");
    exits(&worker.ended(), 0);
}

#[tokio::test]
async fn the_next_step_after_the_loss_of_the_only_worker_starts_one() {
    let (home, id) = without_worker().await;
    let deadline = Instant::now() + LIMIT;
    let seen = loop {
        let seen = status(&id);
        if seen["progress"]["held_by"] == "no_worker" {
            break seen;
        }
        assert!(
            Instant::now() < deadline,
            "the missing worker is not reported: {seen}"
        );
    };
    exits(&run(online(&["set", &id, "--page-pause", "none"])), 0);
    let mut worker = run_next(&seen, online);
    worker.env("DATABASE_URL", &home.url);
    let worker = start(worker);
    let ended: Ended = run(online(&["watch", &id, "--plain"]));
    exits(&ended, 0);
    worker.signal("TERM");
    exits(&worker.ended(), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 300);
}
