//! The limits of commands that start a batch and work for it: the limits in force, beside the given ones.

use std::process::Command;

use serde_json::Value;

use crate::{
    command::{backfill, exits, id},
    database::{self, Home},
    support::{
        command::{Running, of_shell, online, run, start},
        databases::on_each,
    },
};

on_each!(
    a_command_has_no_more_pages_in_flight_than_slots,
    a_repeated_command_names_the_flags_without_effect,
);

/// Starts a batch that runs until it is cancelled.
const SLOW: [&str; 4] = ["--page-size", "10", "--page-pause", "1h"];

fn progress(id: &str) -> Value {
    let ended = run(online(&["status", id, "--json"]));
    let status: Value = serde_json::from_str(&ended.out).unwrap();
    status["progress"].clone()
}

fn cancelled(id: &str, running: impl IntoIterator<Item = Running>) {
    exits(&run(online(&["cancel", id])), 0);
    for running in running {
        running.signal("TERM");
        // The process was interrupted, or has seen the end of the batch first.
        let status = running.ended().status;
        assert!(matches!(status, Some(4 | 130)), "{status:?}");
    }
}

/// Runs the command that a warning prints between backticks.
fn run_printed(running: &Running) {
    let said = running.said();
    let line = said.split('`').find(|part| part.contains(" set "));
    exits(&run(of_shell(line.expect("a command is printed"))), 0);
}

async fn a_command_has_no_more_pages_in_flight_than_slots(home: Home) {
    home.numbers(500).await;
    let fits = if home.is_sqlite() { 3 } else { 10 };
    let by_default = id();
    let running = start(backfill(
        &home,
        &[&["--set", "x = 1", "--batch-id", &by_default], &SLOW[..]].concat(),
    ));
    running.says("in flight");
    assert_eq!(progress(&by_default)["max_parallelism"], fits);
    let said = running.said();
    assert!(!said.contains("warning: "), "{said}");
    cancelled(&by_default, [running]);
    if !home.is_sqlite() {
        return;
    }
    let named = id();
    let args = [
        "--set",
        "x = 2",
        "--batch-id",
        &named,
        "--max-parallelism",
        "10",
        "--rate",
        "1",
    ];
    let running = start(backfill(&home, &[&args[..], &SLOW].concat()));
    running.says("warning: this command works on 3 of the 10 pages at once that batch");
    running.says("the other 7 wait for other workers and hold part of the rate meanwhile; ");
    assert_eq!(progress(&named)["max_parallelism"], 10);
    run_printed(&running);
    assert_eq!(progress(&named)["max_parallelism"], 3);
    cancelled(&named, [running]);
}

fn names_the_flags_without_effect(id: &str, second: &Running) {
    second.says(&format!(
        "warning: batch \"{id}\" continues with the limits that it has, without --page-size 20 --rate 60; "
    ));
    let before = progress(id);
    assert_eq!(
        (&before["page_size"], &before["rate"]),
        (&10.into(), &Value::Null)
    );
    run_printed(second);
    let after = progress(id);
    assert_eq!(
        (&after["page_size"], &after["rate"]),
        (&20.into(), &60.0.into())
    );
}

async fn a_repeated_command_names_the_flags_without_effect(home: Home) {
    home.numbers(500).await;
    let id = id();
    let command = |pace: &[&str]| {
        let work = ["--set", "x = 1", "--batch-id", &id];
        backfill(&home, &[&work, pace].concat())
    };
    let first = start(command(&SLOW));
    first.says("in flight");
    exits(&run(online(&["pause", &id])), 0);
    let second = start(command(&["--page-size", "20", "--rate", "60"]));
    names_the_flags_without_effect(&id, &second);
    // The limits in force are now those of this command.
    let third = start(command(&["--page-size", "20", "--rate", "60"]));
    third.says("paused");
    assert!(!third.said().contains("warning: "), "{:#?}", third.said());
    cancelled(&id, [first, second, third]);
}

/// Imports and exports also work for their batch themselves.
#[tokio::test]
async fn imports_and_exports_have_slots_for_their_pages_and_name_flags_without_effect() {
    let home = database::sqlite().await;
    home.numbers(500).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv");
    let rows: Vec<_> = (1_001..1_500).map(|id| format!("{id},0,n")).collect();
    std::fs::write(&file, format!("id,x,name\n{}\n", rows.join("\n"))).unwrap();
    let (file, to) = (file.to_str().unwrap(), folder.path().join("out"));
    let import = [
        "import",
        file,
        "--table",
        "t",
        "--no-once",
        "--rejected",
        "none",
    ];
    let export = [
        "export",
        "--table",
        "t",
        "--format",
        "csv",
        "--to",
        to.to_str().unwrap(),
    ];
    for work in [import, export] {
        let id = id();
        let command = |pace: &[&str]| -> Command {
            let args = [&work[..], &["--batch-id", &id], pace].concat();
            let mut command = online(&args);
            command.env("DATABASE_URL", &home.url);
            command
        };
        let first = start(command(&SLOW));
        first.says("in flight");
        assert_eq!(progress(&id)["max_parallelism"], 3);
        let second = start(command(&["--page-size", "20", "--rate", "60"]));
        names_the_flags_without_effect(&id, &second);
        cancelled(&id, [first, second]);
    }
}
