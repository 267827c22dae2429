//! Checks between, after and long after the pages, with the commands of operators.

use std::process::Command;

use serde_json::Value;

use crate::{
    command::{about, backfill, exits, id},
    database::{self, Home},
    support::{
        command::{Ended, LIMIT, Running, offline, online, run, start},
        databases::on_each,
    },
};

on_each!(
    a_finished_and_correct_batch_is_complete_until_a_row_is_changed,
    a_stride_missing_from_the_ledger_is_found,
    notes_of_a_check_are_shown,
    stages_wait_for_approval_and_stop_at_a_wrong_row,
    a_dry_run_on_the_command_line_writes_nothing,
    a_worker_of_another_database_writes_no_rows,
);

/// A command that names its connection to the database.
fn named(home: &Home, args: &[&str]) -> Command {
    let mut command = online(args);
    command.env("TEMPORAL_BATCH_CONNECTION_DEFAULT", &home.url);
    command
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:#?}"))
}

/// Reads the status until it is as wanted. Each look is answered by a worker, so it needs no wait in between.
fn look_until(home: &Home, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let ended = run(named(home, &["status", id, "--json"]));
        // Before it has begun, the batch does not exist.
        if ended.status == Some(0) {
            let look = json(&ended);
            if wanted(&look) {
                return look;
            }
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the status is never as wanted: {ended:#?}"
        );
    }
}

async fn a_finished_and_correct_batch_is_complete_until_a_row_is_changed(home: Home) {
    home.numbers(5_000).await;
    home.ledger_tables().await;
    let id = id();
    let args = ["--once", "--set", "x = x + 1", "--verify", "x = 1"];
    let pages = ["--batch-id", &id, "--page-size", "100"];
    let done = run(backfill(&home, &[&args[..], &pages].concat()));
    exits(&done, 0);
    let complete = run(named(&home, &["ensure-complete", &id]));
    exits(&complete, 0);
    assert!(complete.out.contains("5,000 items hold"), "{complete:#?}");
    let verified = run(named(&home, &["verify", &id, "--json"]));
    exits(&verified, 0);
    let right = json(&verified);
    assert_eq!(right["holds"], true);
    assert_eq!(right["check"]["items"], 5_000);
    assert!(right["check"].get("notes").is_none(), "{right}");

    home.script("UPDATE t SET x = 7 WHERE id = 3210").await;
    home.script("DELETE FROM t WHERE id = 17").await;
    let told = run(named(&home, &["verify", &id]));
    exits(&told, 3);
    for part in [
        "does not hold",
        ": 1 item: 1 of ",
        "do not fulfil x = 1",
        "note: 1 of 1 ranges have more or fewer rows now",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let verified = run(named(&home, &["verify", &id, "--json"]));
    exits(&verified, 3);
    let wrong = json(&verified);
    assert_eq!(wrong["holds"], false);
    assert_eq!(wrong["batch_id"], id.as_str());
    assert_eq!(wrong["processor"], "sql-backfill");
    assert_eq!(wrong["outcome"], "completed");
    assert_eq!(wrong["covers_all"], true);
    assert_eq!(wrong["items"]["processed"], 5_000);
    let check = &wrong["check"];
    assert_eq!(
        (&check["failed_ranges"], &check["failed_items"]),
        (&1.into(), &1.into())
    );
    let key = |place: &str| {
        let token = check["failed"][0][place].as_str().unwrap();
        let key: (i64,) = serde_json::from_str(token).unwrap();
        key.0
    };
    let (from, to) = (key("start"), key("end"));
    assert!(
        from < 3_210 && 3_210 <= to && to - from <= 1_001,
        "{from} {to}"
    );
    assert!(
        check["notes"][0].as_str().unwrap().contains("1 removed"),
        "{check}"
    );
    assert_ne!(wrong["digest"], right["digest"]);
    // The condition held at the end of the batch, and no longer does.
    exits(&run(named(&home, &["ensure-complete", &id])), 0);
    exits(
        &run(named(&home, &["ensure-complete", &id, "--check-now"])),
        3,
    );
}

async fn a_stride_missing_from_the_ledger_is_found(home: Home) {
    home.numbers(2_000).await;
    home.ledger_tables().await;
    let id = id();
    let args = ["--once", "--set", "x = x + 1", "--batch-id", &id];
    let pages = ["--page-size", "50", "--stride", "2"];
    exits(&run(backfill(&home, &[&args[..], &pages].concat())), 0);
    let complete = run(named(&home, &["ensure-complete", &id]));
    exits(&complete, 0);
    assert!(complete.out.contains("2,000 items hold"), "{complete:#?}");
    exits(&run(named(&home, &["verify", &id])), 0);
    home.script("DELETE FROM temporal_batch_stride WHERE stride = 4")
        .await;
    let told = run(named(&home, &["verify", &id]));
    exits(&told, 3);
    for part in ["stride 4 is not in the ledger", "after [400] up to "] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
}

async fn notes_of_a_check_are_shown(home: Home) {
    home.numbers(0).await;
    home.ledger_tables().await;
    let id = id();
    let args = ["--once", "--set", "x = 1", "--batch-id", &id];
    exits(&run(backfill(&home, &args)), 0);
    let note = "there were no rows when the batch started";
    for args in [["status", &id], ["verify", &id]] {
        let told = run(named(&home, &args));
        exits(&told, 0);
        assert!(told.out.contains(note), "{args:?}: {}", told.out);
    }
    let verified = json(&run(named(&home, &["verify", &id, "--json"])));
    assert_eq!(verified["check"]["notes"], serde_json::json!([note]));
}

async fn stages_wait_for_approval_and_stop_at_a_wrong_row(home: Home) {
    home.numbers(3_000).await;
    home.script("UPDATE t SET name = 'odd' WHERE id = 150")
        .await;
    let id = id();
    let args = [
        "--set",
        "x = 1",
        "--where",
        "name <> 'odd'",
        "--verify",
        "x = 1",
    ];
    let stages = ["--stages", "100rows,10%,all", "--approve", "--exact-count"];
    let pages = ["--batch-id", &id, "--page-size", "30"];
    let running = start(backfill(&home, &[&args[..], &stages, &pages].concat()));
    let at = |number: u64, state: &'static str| {
        move |look: &Value| {
            let stage = &look["progress"]["stage"];
            stage["number"] == number && stage["state"] == state
        }
    };
    let changed = async || home.number("SELECT count(*) FROM t WHERE x = 1").await;
    let held = look_until(&home, &id, at(1, "waiting_for_approval"));
    assert_eq!(held["progress"]["phase"], "held");
    assert_eq!(held["progress"]["held_by"], "stage");
    assert_eq!(held["progress"]["check"]["found"]["items"], 100);
    assert_eq!(changed().await, 100);
    running.says("held: stage 1 of 3 (100items) is done: waiting for approval");
    let approved = run(named(&home, &["approve", &id, "--reason", "looked"]));
    exits(&approved, 0);
    // The condition has to find a row that the filter of the batch leaves out.
    let failed = look_until(&home, &id, at(2, "failed"));
    let reason = failed["progress"]["stage"]["reason"].as_str().unwrap();
    assert!(reason.contains("do not fulfil x = 1"), "{reason}");
    assert_eq!(changed().await, 300);
    let said = run(named(&home, &["status", &id]));
    assert!(said.out.contains("do not fulfil x = 1"), "{}", said.out);
    running.says("do not fulfil x = 1");
    home.script("UPDATE t SET x = 1 WHERE id = 150").await;
    exits(&run(named(&home, &["approve", &id])), 0);
    let ended = running.ended();
    exits(&ended, 0);
    assert_eq!(changed().await, 3_000);
    exits(&run(named(&home, &["ensure-complete", &id])), 0);
}

async fn a_dry_run_on_the_command_line_writes_nothing(home: Home) {
    home.numbers(1_000).await;
    let args = [
        "--set",
        "x = 5",
        "--dry-run",
        "--dry-run-pages",
        "3",
        "--page-size",
        "50",
    ];
    // A dry run needs no server.
    let told = run(about(&home, offline, &args));
    exits(&told, 0);
    for part in [
        "3 pages were tried and rolled back; nothing was changed",
        "Statement of a page",
        "UPDATE",
        "How a page is found",
        "Duration: ",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let report = run(about(&home, offline, &[&args[..], &["--json"]].concat()));
    exits(&report, 0);
    let report = json(&report);
    let pages = report["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 3);
    assert!(pages.iter().all(|page| page["changed"] == 50), "{report}");
    assert!(report["estimate"].is_object(), "{report}");
    assert!(
        !report["changes"].as_array().unwrap().is_empty(),
        "{report}"
    );
    assert!(
        !report["statements"][0]["lines"]
            .as_array()
            .unwrap()
            .is_empty(),
        "{report}"
    );
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE x = 0").await,
        1_000
    );
    let fails = ["--set", "x = NULL", "--dry-run"];
    let fails = run(about(&home, offline, &fails));
    exits(&fails, 1);
    assert_eq!(
        home.number("SELECT count(*) FROM t WHERE x = 0").await,
        1_000
    );
}

/// Another database of the same kind, with the same table.
async fn another(home: &Home) -> Home {
    let another = if home.is_sqlite() {
        database::sqlite().await
    } else if home.is_mysql() {
        database::mariadb("another").await.unwrap()
    } else {
        database::postgres("another").await.unwrap()
    };
    another.numbers(500).await;
    another.ledger_tables().await;
    another
}

async fn a_worker_of_another_database_writes_no_rows(home: Home) {
    home.numbers(500).await;
    home.ledger_tables().await;
    let wrong = another(&home).await;
    let (id, queue) = (id(), format!("sql-{}", id()));
    let worker = |home: &Home| {
        let mut command = online(&["worker", "--task-queue", &queue, "--allow-sql"]);
        command.env("DATABASE_URL", &home.url);
        let worker = start(command);
        worker.says("polls task queue");
        worker
    };
    let stop = |worker: Running| {
        worker.signal("TERM");
        exits(&worker.ended(), 0);
    };
    let args = r#"{"table": "t", "key": ["id"], "set": [{"column": "x", "expression": "x + 1"}], "once": true}"#;
    let begin = ["start", "sql-backfill", "--args", args, "--batch-id", &id];
    let how = ["--task-queue", &queue, "--page-size", "10", "--stride", "1"];
    let pace = ["--max-parallelism", "2", "--rate", "100", "--detach"];
    let right = worker(&home);
    exits(&run(online(&[&begin[..], &how, &pace].concat())), 0);
    look_until(&home, &id, |look| {
        look["progress"]["pages_completed"].as_u64() >= Some(3)
    });
    exits(&run(online(&["pause", &id])), 0);
    look_until(&home, &id, |look| look["progress"]["phase"] == "paused");
    stop(right);
    let at_work = worker(&wrong);
    exits(&run(online(&["resume", &id])), 0);
    look_until(&home, &id, |look| {
        let why = look["progress"]["explanation"].as_str();
        why.is_some_and(|why| why.contains("WrongDatabase"))
    });
    stop(at_work);
    assert_eq!(wrong.number("SELECT count(*) FROM t WHERE x <> 0").await, 0);
    let strides = "SELECT count(*) FROM temporal_batch_stride";
    assert_eq!(wrong.number(strides).await, 0);
    let right = worker(&home);
    exits(&run(online(&["set", &id, "--rate", "100000"])), 0);
    exits(&run(online(&["watch", &id])), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 500);
    stop(right);
}

#[tokio::test]
async fn a_worker_runs_a_backfill_and_a_missing_connection_is_reported() {
    let Some(home) = database::postgres("worker_of_sql").await else {
        return;
    };
    home.numbers(500).await;
    home.ledger_tables().await;
    let (id, queue) = (id(), format!("sql-{}", id()));
    let worker = |connection: &str| {
        let mut command = online(&["worker", "--task-queue", &queue, "--allow-sql"]);
        command.args(["--connection", connection]);
        // A worker takes all connections that variables name.
        let variable = format!("TEMPORAL_BATCH_CONNECTION_{}", connection.to_uppercase());
        command.env(variable, &home.url);
        let worker = start(command);
        worker.says("polls task queue");
        worker
    };
    let args = serde_json::json!({
        "connection": "shop", "table": "t", "key": ["id"], "set": [{"column": "x", "expression": "x + 1"}], "once": true, "verify": "x = 1",
    });
    let start = [
        "start",
        "sql-backfill",
        "--args",
        &args.to_string(),
        "--batch-id",
        &id,
        "--task-queue",
        &queue,
        "--page-size",
        "50",
        "--stride",
        "2",
        "--max-parallelism",
        "0",
        "--check",
        "--detach",
    ];
    let stop = |worker: Running| {
        worker.signal("TERM");
        exits(&worker.ended(), 0);
    };
    let names = "no connection \"shop\"; it has: other";
    let explained = |phase: &'static str| {
        move |look: &Value| {
            let progress = &look["progress"];
            let why = progress["explanation"].as_str().unwrap_or_default();
            progress["phase"] == phase && why.contains(names)
        }
    };
    let other = worker("other");
    exits(&run(online(&start)), 0);
    look_until(&home, &id, explained("preparing"));
    stop(other);
    let shop = worker("shop");
    look_until(&home, &id, |look| {
        look["progress"]["held_by"] == "parallelism"
    });
    stop(shop);
    // A worker that is started later may lack the connection.
    let other = worker("other");
    exits(&run(online(&["set", &id, "--max-parallelism", "4"])), 0);
    let blocked = look_until(&home, &id, explained("blocked"));
    assert!(
        blocked["progress"]["blocked_reason"].is_string(),
        "{blocked}"
    );
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 0").await, 500);
    stop(other);
    let shop = worker("shop");
    exits(&run(online(&["watch", &id])), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 500);
    exits(&run(online(&["ensure-complete", &id])), 0);
    stop(shop);
}
