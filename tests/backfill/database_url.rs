//! The database of a command that names no connection, which is the same for every command.

use serde_json::Value;

use crate::{
    command::{exits, id, poisoned},
    database::Home,
    support::{
        command::{Ended, online, run, start},
        databases::on_each,
    },
};

on_each!(
    every_command_takes_the_database_of_the_environment,
    a_named_connection_takes_precedence,
    without_a_database_each_command_says_what_to_set,
);

const NOWHERE: &str = "sqlite:/no/such/folder/shop.db";

fn with(variables: &[(&str, &str)], args: &[&str]) -> Ended {
    let mut command = online(args);
    command.envs(variables.iter().copied());
    run(command)
}

/// Has a command with these variables begin a batch of 300 rows, three of which have dead letters.
fn begin(variables: &[(&str, &str)], id: &str) {
    let work = ["backfill", "--table", "t", "--set", "x = x + 1", "--once"];
    let how = ["--verify", "x = 1", "--batch-id", id, "--page-size", "50"];
    exits(&with(variables, &[&work[..], &how].concat()), 3);
}

#[track_caller]
fn has_letters(ended: &Ended, letters: usize) {
    exits(ended, 0);
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    let found = json["dead_letters"].as_array();
    assert_eq!(found.map(Vec::len), Some(letters), "{ended:#?}");
}

async fn every_command_takes_the_database_of_the_environment(home: Home) {
    poisoned(&home, &[44, 45, 261]).await;
    let url = [("DATABASE_URL", home.url.as_str())];
    let applied = with(&url, &["schema", "apply"]);
    exits(&applied, 0);
    assert!(applied.out.contains("made"), "{applied:#?}");
    let id = id();
    begin(&url, &id);
    has_letters(&with(&url, &["failures", &id, "--json"]), 3);
    let verified = with(&url, &["verify", &id]);
    assert!(verified.out.contains("3 of 300 rows"), "{verified:#?}");
    let complete = with(&url, &["ensure-complete", &id]);
    exits(&complete, 3);

    let flag = ["--database-url", &home.url];
    has_letters(
        &with(&[], &[&["failures", &id, "--json"], &flag[..]].concat()),
        3,
    );
    let verified = with(&[], &[&["verify", &id], &flag[..]].concat());
    assert!(verified.out.contains("3 of 300 rows"), "{verified:#?}");
    exits(
        &with(&[], &[&["ensure-complete", &id], &flag[..]].concat()),
        3,
    );

    home.script("UPDATE t SET most = 9").await;
    let queue = format!("redrive-{id}");
    let mut worker = online(&["worker", "--task-queue", &queue, "--allow-sql"]);
    worker.envs(url);
    let worker = start(worker);
    worker.says("connection \"default\"");
    let redriven = with(&url, &["redrive", &id, "--task-queue", &queue]);
    exits(&redriven, 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 300);
    has_letters(&with(&url, &["failures", &id, "--json"]), 0);
    exits(&with(&url, &["verify", &id]), 0);
    worker.signal("TERM");
    exits(&worker.ended(), 0);
}

async fn a_named_connection_takes_precedence(home: Home) {
    poisoned(&home, &[44, 45, 261]).await;
    home.ledger_tables().await;
    let both = [
        ("DATABASE_URL", NOWHERE),
        ("TEMPORAL_BATCH_CONNECTION_DEFAULT", home.url.as_str()),
    ];
    let id = id();
    begin(&both, &id);
    has_letters(&with(&both, &["failures", &id, "--json"]), 3);
    let verified = with(&both, &["verify", &id]);
    assert!(verified.out.contains("3 of 300 rows"), "{verified:#?}");
    let applied = with(&both, &["schema", "apply"]);
    exits(&applied, 0);
    assert!(applied.out.contains("there already"), "{applied:#?}");
    // A database that this batch does not name may be unavailable.
    let other = [
        ("TEMPORAL_BATCH_CONNECTION_OTHER", NOWHERE),
        ("DATABASE_URL", home.url.as_str()),
    ];
    let failures = with(&other, &["failures", &id, "--json"]);
    has_letters(&failures, 3);
    let left_out = "left out: connection \"other\"";
    assert!(failures.err.contains(left_out), "{failures:#?}");
    // The flag takes precedence over both.
    let flag = ["failures", &id, "--json", "--database-url", &home.url];
    let wrong = [("TEMPORAL_BATCH_CONNECTION_DEFAULT", NOWHERE)];
    has_letters(&with(&wrong, &flag), 3);
}

async fn without_a_database_each_command_says_what_to_set(home: Home) {
    poisoned(&home, &[44]).await;
    home.ledger_tables().await;
    let id = id();
    begin(&[("DATABASE_URL", home.url.as_str())], &id);
    for (args, status) in [
        (vec!["failures", &id], 0),
        (vec!["verify", &id], 1),
        (vec!["schema", "apply"], 2),
        (vec!["backfill", "--table", "t", "--set", "x = 1"], 2),
        (vec!["worker", "--allow-sql"], 2),
    ] {
        let ended = with(&[], &args);
        exits(&ended, status);
        assert!(
            ended.err.contains("set DATABASE_URL"),
            "{args:?}: {ended:#?}"
        );
    }
}
