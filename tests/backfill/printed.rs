//! The commands that a command prints as the next ones work as they are printed.

use std::process::Command;

use crate::{
    command::{backfill, exits, id},
    database::Home,
    on_each,
    process::{Ended, of_shell, run, start},
};

on_each!(
    the_tables_that_are_missing_are_made_by_the_command_that_is_named,
    a_batch_that_is_left_to_workers_gets_one_by_the_command_that_is_named,
);

/// The command that was printed between backticks and that begins with these words, as a shell takes it.
fn printed(home: &Home, said: &Ended, words: &str) -> Command {
    let words = format!("temporal-batch {words}");
    let mut lines = said.err.split('`').filter(|part| part.starts_with(&words));
    let line = lines.next().unwrap_or_else(|| panic!("{words}: {said:#?}"));
    let mut command = of_shell(&format!("exec {line}"));
    command.env("DATABASE_URL", &home.url);
    command
}

/// Runs it to its end.
pub fn as_printed(home: &Home, said: &Ended, words: &str) -> Ended {
    run(printed(home, said, words))
}

async fn the_tables_that_are_missing_are_made_by_the_command_that_is_named(home: Home) {
    home.numbers(100).await;
    let work = ["--once", "--set", "x = x + 1"];
    let refused = run(backfill(&home, &work));
    exits(&refused, 2);
    exits(&as_printed(&home, &refused, "schema print"), 0);
    exits(&as_printed(&home, &refused, "schema apply"), 0);
    exits(&run(backfill(&home, &work)), 0);
}

async fn a_batch_that_is_left_to_workers_gets_one_by_the_command_that_is_named(home: Home) {
    home.numbers(100).await;
    let id = id();
    let queue = format!("queue-{id}");
    let work = ["--set", "x = x + 1", "--batch-id", &id];
    let leave = ["--task-queue", &queue, "--detach"];
    let left = run(backfill(&home, &[&work[..], &leave].concat()));
    exits(&left, 0);
    let worker = start(printed(&home, &left, "worker"));
    worker.says("polls task queue");
    exits(&as_printed(&home, &left, "watch"), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 100);
    // The batch has ended meanwhile, so there is nothing to cancel any more.
    let cancel = as_printed(&home, &left, "cancel");
    assert_ne!(cancel.status, Some(2), "{cancel:#?}");
    worker.signal("TERM");
    exits(&worker.ended(), 0);

    // A command that is interrupted.
    let id = format!("{id}-interrupted");
    let slow = [
        "--page-size",
        "1",
        "--page-pause",
        "1s",
        "--max-parallelism",
        "1",
    ];
    let work = ["--set", "x = x + 1", "--batch-id", &id];
    let running = start(backfill(&home, &[&work[..], &slow].concat()));
    running.says("runs");
    running.signal("INT");
    let interrupted = running.ended();
    exits(&interrupted, 130);
    let cancelled = as_printed(&home, &interrupted, "cancel");
    exits(&cancelled, 0);
    exits(&run(backfill(&home, &[&work[..], &slow].concat())), 4);
}
