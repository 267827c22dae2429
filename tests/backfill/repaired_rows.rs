//! Rows that a batch gave up are repaired and redriven with one command, and `ensure-complete` succeeds then.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    command::{exits, id, poisoned},
    database::{self, Home},
    printed_commands::as_printed,
    support::{
        command::{Ended, LIMIT, online, run, start},
        databases::on_each,
    },
};

on_each!(
    a_batch_that_is_repaired_and_redriven_is_complete,
    rows_that_were_given_up_fail_the_check_even_without_a_condition,
    deleted_letters_do_not_count_as_repaired,
    an_interrupted_redrive_is_continued_by_the_same_command,
);

fn with(url: &str, args: &[&str]) -> Command {
    let mut command = online(args);
    command.env("DATABASE_URL", url);
    command
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:#?}"))
}

/// The batch in a listing, which shows the end of a batch a moment later.
fn listed(id: &str) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let all = json(&run(online(&["list", "--json", "--limit", "1000"])));
        let batch = all["batches"].as_array().unwrap().iter();
        let mut ended =
            batch.filter(|batch| batch["batch_id"] == id && batch["state"] != "running");
        if let Some(batch) = ended.next() {
            return batch.clone();
        }
        assert!(Instant::now() < deadline, "{id} is not listed as ended");
    }
}

/// Runs the command that began the batch once more.
fn repeat(home: &Home, id: &str) -> Ended {
    let work = ["backfill", "--table", "t", "--set", "x = x + 1", "--once"];
    let how = ["--verify", "x = 1", "--batch-id", id, "--page-size", "50"];
    run(with(&home.url, &[&work[..], &how].concat()))
}

/// Has a batch begin with 300 rows, of which these are given up.
async fn begin(home: &Home, ids: &[i32], id: &str) -> Ended {
    poisoned(home, ids).await;
    home.ledger_tables().await;
    let ended = repeat(home, id);
    exits(&ended, 3);
    ended
}

#[track_caller]
fn is_left(ended: &Ended, settled: u64, open: u64) -> Value {
    let json = json(ended);
    let repair = &json["repair"];
    assert_eq!(
        (&repair["dead_letters"], &repair["settled"], &repair["open"]),
        (&3.into(), &settled.into(), &open.into()),
        "{ended:#?}"
    );
    json
}

async fn a_batch_that_is_repaired_and_redriven_is_complete(home: Home) {
    let id = id();
    let url = home.url.as_str();
    let broken = begin(&home, &[44, 45, 261], &id).await;
    let failures = as_printed(&home, &broken.err, "failures");
    exits(&failures, 0);
    assert!(failures.out.contains("dead letters: 3"), "{failures:#?}");
    let gate = ["ensure-complete", id.as_str()];
    let closed = run(with(url, &gate));
    exits(&closed, 3);
    assert!(
        closed.err.contains("3 of 3 dead letters open"),
        "{closed:#?}"
    );
    // The certificate excludes rows that were given up.
    let verify = ["verify", id.as_str()];
    let unverified = run(with(url, &verify));
    exits(&unverified, 3);
    assert!(
        unverified.out.contains("3 of 3 dead letters open"),
        "{unverified:#?}"
    );
    let status = ["status", id.as_str(), "--json"];
    let look = is_left(&run(with(url, &status)), 0, 3);
    assert_eq!(look["repair"]["all_settled"], false);

    let listed = listed(&id);
    assert_eq!(listed["outcome"], "completed_with_failures", "{listed}");
    let repeated = repeat(&home, &id);
    exits(&repeated, 3);
    assert!(repeated.err.contains("is done already"), "{repeated:#?}");
    assert!(
        repeated.out.contains("3 of 3 dead letters open"),
        "{repeated:#?}"
    );

    // The redrive fails again, since the rows are unchanged.
    let again = as_printed(&home, &repeated.err, "redrive");
    exits(&again, 3);
    assert!(again.err.contains("3 of 3 dead letters open"), "{again:#?}");
    is_left(&run(with(url, &status)), 0, 3);
    // Some of the rows are repaired, and those are redriven.
    home.script("UPDATE t SET most = 9 WHERE id < 100").await;
    let failures = as_printed(&home, &again.err, "failures");
    let part = as_printed(&home, &failures.err, "redrive");
    exits(&part, 3);
    let closed = run(with(url, &[&gate[..], &["--json"]].concat()));
    exits(&closed, 3);
    let verdict = is_left(&closed, 2, 1);
    assert_eq!(verdict["complete"], false);

    home.script("UPDATE t SET most = 9").await;
    let last = run(with(url, &["redrive", &id]));
    exits(&last, 0);
    assert!(
        last.err.contains("all 3 dead letters are settled"),
        "{last:#?}"
    );
    assert!(last.out.contains("1 processed (1 changed)"), "{last:#?}");
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 300);
    exits(&run(with(url, &verify)), 0);
    let certificate = run(with(url, &[&verify[..], &["--json"]].concat()));
    assert_eq!(is_left(&certificate, 3, 0)["holds"], true);
    let open = run(with(url, &gate));
    exits(&open, 0);
    for part in [
        "is complete and checked",
        "300 items hold",
        "all 3 dead letters are settled",
    ] {
        assert!(open.out.contains(part), "{part}: {open:#?}");
    }
    let verdict = run(with(url, &[&gate[..], &["--json"]].concat()));
    exits(&verdict, 0);
    let verdict = is_left(&verdict, 3, 0);
    assert_eq!(verdict["complete"], true);
    let documented = include_str!("../../docs/cli.md");
    for object in [
        &verdict,
        &verdict["repair"],
        &verdict["repair"]["redrives"][0],
    ] {
        for field in object.as_object().unwrap().keys() {
            let named = documented.contains(&format!("`{field}`"));
            assert!(named, "{field} is not documented");
        }
    }
    let settled = [run(with(url, &["status", &id])), repeat(&home, &id)];
    for settled in settled {
        assert!(
            settled.out.contains("all 3 dead letters are settled"),
            "{settled:#?}"
        );
        for step in ["temporal-batch failures", "temporal-batch redrive"] {
            assert!(!settled.err.contains(step), "{step}: {settled:#?}");
        }
    }
    let look = is_left(&run(with(url, &status)), 3, 0);
    assert_eq!(look["repair"]["redrives"].as_array().unwrap().len(), 3);
    let told = run(with(url, &["status", &id]));
    assert_eq!(told.out.matches("\nredrive ").count(), 3, "{told:#?}");
    assert!(
        told.out.contains("completed, 1 letter settled"),
        "{told:#?}"
    );
    // A row that becomes wrong later is found by the check, as in every batch.
    home.script("UPDATE t SET x = 7 WHERE id = 200").await;
    exits(&run(with(url, &gate)), 3);
    let nothing = run(with(url, &["redrive", &id]));
    exits(&nothing, 0);
    assert!(nothing.err.contains("nothing to redrive"), "{nothing:#?}");
}

/// The check has no condition, so only the ledger is checked, and it has the rows that were given up.
async fn rows_that_were_given_up_fail_the_check_even_without_a_condition(home: Home) {
    let id = id();
    poisoned(&home, &[44, 45, 261]).await;
    home.ledger_tables().await;
    let work = ["backfill", "--table", "t", "--set", "x = x + 1", "--once"];
    let broken = run(with(&home.url, &[&work[..], &["--batch-id", &id]].concat()));
    exits(&broken, 3);
    let gave_up = "297 items hold, without 3 items that the batch gave up";
    let status = run(with(&home.url, &["status", &id]));
    assert!(status.out.contains(gave_up), "{status:#?}");
    let verified = run(with(&home.url, &["verify", &id]));
    exits(&verified, 3);
    for part in ["does not hold", "3 of 3 dead letters open", gave_up] {
        assert!(verified.out.contains(part), "{part}: {verified:#?}");
    }
    home.script("UPDATE t SET most = 9").await;
    exits(&run(with(&home.url, &["redrive", &id])), 0);
    let verified = run(with(&home.url, &["verify", &id]));
    exits(&verified, 0);
    let settled = "with 297 items that the batch finished, and 3 items that it gave up are settled";
    assert!(verified.out.contains(settled), "{verified:#?}");
}

async fn deleted_letters_do_not_count_as_repaired(home: Home) {
    let id = id();
    begin(&home, &[44, 45, 261], &id).await;
    home.script("UPDATE t SET most = 9").await;
    home.script("DELETE FROM temporal_batch_dead_letter WHERE item_key = '[45]'")
        .await;
    let redriven = run(with(&home.url, &["redrive", &id]));
    exits(&redriven, 0);
    let gate = ["ensure-complete", id.as_str()];
    let closed = run(with(&home.url, &gate));
    exits(&closed, 3);
    let why = "2 of 3 dead letters settled here";
    assert!(closed.err.contains(why), "{closed:#?}");
    // The check also fails on a database that does not know the batch.
    let other = database::sqlite().await;
    other.ledger_tables().await;
    let closed = run(with(&other.url, &gate));
    exits(&closed, 3);
    let why = "0 of 3 dead letters settled here";
    assert!(closed.err.contains(why), "{closed:#?}");
    for command in ["failures", "redrive"] {
        let refused = run(with(&other.url, &[command, &id]));
        exits(&refused, 1);
        for part in [
            "counts 3 dead letters, but this database holds none of them",
            "hint: --database-url or DATABASE_URL names the database of the batch",
        ] {
            assert!(refused.err.contains(part), "{part}: {refused:#?}");
        }
    }
    // This database has a trace of the batch.
    exits(&run(with(&home.url, &["failures", &id])), 0);
    exits(&run(with(&home.url, &["redrive", &id])), 0);
    let blind = run(online(&gate));
    exits(&blind, 3);
    let why = "cannot be read from here";
    assert!(blind.err.contains(why), "{blind:#?}");
    // A ledger without the table of settled letters cannot count, and a redrive says so before it begins.
    home.script("UPDATE t SET most = 0, x = 0 WHERE id = 46")
        .await;
    home.script("DROP TABLE temporal_batch_settled").await;
    let unknown = run(with(&home.url, &gate));
    exits(&unknown, 3);
    assert!(unknown.err.contains("apply_schema"), "{unknown:#?}");
}

async fn an_interrupted_redrive_is_continued_by_the_same_command(home: Home) {
    let id = id();
    let ids: Vec<_> = (1..=30).map(|n| n * 10).collect();
    begin(&home, &ids, &id).await;
    home.script("UPDATE t SET most = 9").await;
    let slow = [
        "--page-size",
        "1",
        "--max-parallelism",
        "1",
        "--page-pause",
        "300ms",
    ];
    let redrive = start(with(&home.url, &[&["redrive", &id], &slow[..]].concat()));
    let deadline = Instant::now() + LIMIT;
    // Waits until the redrive has processed a letter, and is listed.
    loop {
        let listed = json(&run(online(&["list", "--json", "--limit", "1000"])));
        let batches = listed["batches"].as_array().unwrap();
        let listed = batches
            .iter()
            .any(|batch| batch["redrive_of"] == id.as_str());
        let done = home.number("SELECT count(*) FROM t WHERE x = 1").await;
        assert!(done < 300, "the redrive is too fast to be interrupted");
        if listed && done > 270 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the redrive processes no letter: {done}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    redrive.signal("INT");
    let interrupted = redrive.ended();
    exits(&interrupted, 130);
    assert!(
        interrupted.err.contains("the same command continues it"),
        "{interrupted:#?}"
    );
    let rest = run(with(&home.url, &["redrive", &id, "--page-size", "5"]));
    exits(&rest, 0);
    let left = "continues with the limits that it has, without --page-size 5; `temporal-batch set ";
    assert!(rest.err.contains(left), "{rest:#?}");
    assert!(
        rest.err.contains("was interrupted, and continues now"),
        "{rest:#?}"
    );
    assert!(
        rest.err.contains("all 30 dead letters are settled"),
        "{rest:#?}"
    );
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 300);
    exits(&run(with(&home.url, &["ensure-complete", &id])), 0);
}
