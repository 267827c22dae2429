//! The commands that a command prints as next steps work as they are printed.

use std::process::Command;

use temporal_batch::sql::{BackfillArgs, TableSpec};

use crate::{
    command::{about, backfill, exits, id, poisoned, wait_for_rows},
    database::{self, Home},
    support::{
        command::{Ended, of_shell, offline, online, run, start},
        databases::on_each,
        server_address,
    },
};

on_each!(
    missing_tables_are_made_by_the_printed_command,
    a_detached_batch_gets_a_worker_by_the_printed_command,
    printed_commands_have_the_flags_of_the_first_command,
    a_paused_batch_is_resumed_by_the_printed_command,
);

/// The command that was printed between backticks and begins with these words, as a shell runs it.
fn printed(home: &Home, said: &str, words: &str) -> Command {
    let words = format!("temporal-batch {words}");
    let mut lines = said.split('`').filter(|part| part.starts_with(&words));
    let line = lines.next().unwrap_or_else(|| panic!("{words}: {said}"));
    let mut command = of_shell(&format!("exec {line}"));
    command.env("DATABASE_URL", &home.url);
    command
}

/// Runs a printed command to its end.
pub fn as_printed(home: &Home, said: &str, words: &str) -> Ended {
    run(printed(home, said, words))
}

async fn missing_tables_are_made_by_the_printed_command(home: Home) {
    home.numbers(100).await;
    let work = ["--once", "--set", "x = x + 1"];
    let refused = run(backfill(&home, &work));
    exits(&refused, 2);
    exits(&as_printed(&home, &refused.err, "schema print"), 0);
    exits(&as_printed(&home, &refused.err, "schema apply"), 0);
    exits(&run(backfill(&home, &work)), 0);
}

async fn a_detached_batch_gets_a_worker_by_the_printed_command(home: Home) {
    home.numbers(100).await;
    let id = id();
    let queue = format!("queue-{id}");
    let work = ["--set", "x = x + 1", "--batch-id", &id];
    let leave = ["--task-queue", &queue, "--detach"];
    let left = run(backfill(&home, &[&work[..], &leave].concat()));
    exits(&left, 0);
    let worker = start(printed(&home, &left.err, "worker"));
    worker.says("polls task queue");
    exits(&as_printed(&home, &left.err, "watch"), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 100);
    // The batch has ended meanwhile, so there is nothing left to cancel.
    let cancel = as_printed(&home, &left.err, "cancel");
    assert_ne!(cancel.status, Some(2), "{cancel:#?}");
    worker.signal("TERM");
    exits(&worker.ended(), 0);

    // The command is interrupted.
    let id = format!("{id}-interrupted");
    let running = start(slow(&home, &id, "1", "1s"));
    running.says("runs");
    running.signal("INT");
    let interrupted = running.ended();
    exits(&interrupted, 130);
    let cancelled = as_printed(&home, &interrupted.err, "cancel");
    exits(&cancelled, 0);
    exits(&run(slow(&home, &id, "1", "1s")), 4);
}

/// A backfill of one page after the other, with a pause before each.
fn slow(home: &Home, id: &str, page_size: &str, pause: &str) -> Command {
    let work = [
        "--set",
        "x = x + 1",
        "--batch-id",
        id,
        "--max-parallelism",
        "1",
    ];
    let pace = ["--page-size", page_size, "--page-pause", pause];
    backfill(home, &[&work[..], &pace].concat())
}

/// A printed command, in an environment without a server and a database.
fn bare(home: &Home, said: &str, words: &str) -> Command {
    let mut command = printed(home, said, words);
    command
        .env_remove("DATABASE_URL")
        .env_remove("TEMPORAL_ADDRESS");
    command
}

async fn printed_commands_have_the_flags_of_the_first_command(home: Home) {
    poisoned(&home, &[44, 45, 261]).await;
    let (id, address) = (id(), server_address());
    let connection = ["--address", address, "--namespace", "default"];
    let database = ["--database-url", &home.url];
    let work = [
        "--once",
        "--set",
        "x = x + 1",
        "--page-size",
        "50",
        "--batch-id",
        &id,
    ];
    let command = |more: &[&str]| {
        let mut command = about(
            &home,
            offline,
            &[&connection[..], &database, &work, more].concat(),
        );
        command.env_remove("DATABASE_URL");
        command
    };
    let refused = run(command(&[]));
    exits(&refused, 2);
    exits(&run(bare(&home, &refused.err, "schema apply")), 0);
    let broken = run(command(&[]));
    exits(&broken, 3);
    let failures = run(bare(&home, &broken.err, "failures"));
    exits(&failures, 0);
    assert!(failures.out.contains("dead letters: 3"), "{failures:#?}");
    home.script("UPDATE t SET most = 9").await;
    exits(&run(bare(&home, &failures.err, "redrive")), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 300);

    // A worker gets the database too.
    let queue = format!("queue-{id}");
    let leave = ["--task-queue", &queue, "--detach", "--rerun"];
    let left = run(command(&leave));
    exits(&left, 0);
    let worker = start(bare(&home, &left.err, "worker"));
    worker.says("polls task queue");
    exits(&run(bare(&home, &left.err, "watch")), 0);
    worker.signal("TERM");
    exits(&worker.ended(), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 2").await, 300);
}

async fn a_paused_batch_is_resumed_by_the_printed_command(home: Home) {
    home.numbers(60).await;
    let id = id();
    let running = start(slow(&home, &id, "10", "500ms"));
    wait_for_rows(&home, 10).await;
    exits(&run(online(&["pause", &id])), 0);
    let next = format!("next: `temporal-batch resume {id}`");
    running.says(&next);
    let watching = start(online(&["watch", &id, "--plain"]));
    watching.says(&next);
    let look = start(online(&["watch", &id, "--json"]));
    exits(&as_printed(&home, &watching.said(), "resume"), 0);
    exits(&running.ended(), 0);
    exits(&watching.ended(), 0);
    let looks = look.ended();
    exits(&looks, 0);
    let last: serde_json::Value = serde_json::from_str(looks.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["next"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_batch_started_by_its_processor_gets_a_worker_by_the_printed_command() {
    let home = database::sqlite().await;
    home.numbers(100).await;
    let id = id();
    let queue = format!("queue-{id}");
    let args = BackfillArgs::of(TableSpec::new("t", ["id"])).set("x", "x + 1");
    let args = serde_json::to_string(&args).unwrap();
    let batch = ["start", "sql-backfill", "--args", &args, "--batch-id", &id];
    let started = run(online(
        &[&batch[..], &["--task-queue", &queue, "--detach"]].concat(),
    ));
    exits(&started, 0);
    let worker = start(printed(&home, &started.err, "worker"));
    worker.says("polls task queue");
    exits(&as_printed(&home, &started.err, "watch"), 0);
    worker.signal("TERM");
    exits(&worker.ended(), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 100);
}

#[tokio::test]
async fn an_interrupted_export_is_completed_by_the_printed_command() {
    let home = database::sqlite().await;
    home.numbers(60).await;
    let to = tempfile::tempdir().unwrap();
    let folder = to.path().join("rows");
    let args = [
        "export",
        "--table",
        "t",
        "--format",
        "csv",
        "--to",
        folder.to_str().unwrap(),
    ];
    let slow = [
        "--page-size",
        "1",
        "--page-pause",
        "1s",
        "--max-parallelism",
        "1",
    ];
    let export = || {
        let mut command = online(&[&args[..], &slow].concat());
        command.env("DATABASE_URL", &home.url);
        command
    };
    let running = start(export());
    running.says("runs");
    running.signal("INT");
    let interrupted = running.ended();
    exits(&interrupted, 130);
    exits(&as_printed(&home, &interrupted.err, "cancel"), 0);
    exits(&run(export()), 4);
}
