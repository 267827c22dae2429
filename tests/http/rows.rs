//! `call --table` without `--out`: the answers go straight into the rows.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    database::Home,
    support::{
        command::{offline, online, run_aside, start},
        databases::on_each,
        eventually,
        mock_api::{Call, MockApi, Reply},
    },
};

/// Makes a table of users with the ids from 1.
async fn users(home: &Home, count: u64) {
    let mut script = "CREATE TABLE users (id INT NOT NULL PRIMARY KEY, email VARCHAR(40), \
                      region VARCHAR(8), score INT DEFAULT -1, CHECK (score < 100));"
        .to_owned();
    for id in 1..=count {
        write!(
            script,
            "INSERT INTO users (id, email) VALUES ({id}, 'u{id}');"
        )
        .unwrap();
    }
    home.script(&script).await;
}

const ALL: &str = "SELECT CAST(id AS CHAR(9)), email, region, CAST(score AS CHAR(9)) FROM users ORDER BY users.id";

/// Returns the users, one text for each.
async fn now(home: &Home) -> Vec<String> {
    let rows = home.rows(ALL).await;
    // PostgreSQL pads the texts.
    let words = |row: String| row.split_whitespace().collect::<Vec<_>>().join(" ");
    rows.into_iter().map(words).collect()
}

fn id_of(call: &Call) -> u64 {
    let path = call.path.split('?').next().unwrap();
    path.rsplit('/').next().unwrap().parse().unwrap()
}

/// A call for the users that sets two columns, with further flags.
fn call(home: &Home, mut command: Command, api: &MockApi, flags: &[&str]) -> Command {
    let url = format!("{}/u/{{id}}?mail={{email}}", api.url);
    command.env("DATABASE_URL", &home.url).args([
        "call",
        "--table",
        "users",
        "--url",
        &url,
        "--set",
        "region = {body.region}",
        "--set",
        "score = {body.score}",
        "--create-ledger-tables",
    ]);
    command.args(flags);
    command
}

/// A command about a batch.
async fn of_batch(home: &Home, args: &[&str], status: i32) -> String {
    let mut command = online(args);
    let ended = run_aside(command.env("DATABASE_URL", &home.url)).await;
    let ended = ended.exits_with(status);
    format!("{}{}", ended.out, ended.err)
}

fn batch_id() -> String {
    format!("rows-{}", uuid::Uuid::new_v4())
}

on_each! {
    answers_go_into_their_rows_and_those_that_do_not_fit_fail_alone,
    a_row_that_was_changed_or_deleted_meanwhile_is_not_written,
}

async fn answers_go_into_their_rows_and_those_that_do_not_fit_fail_alone(home: Home) {
    users(&home, 25).await;
    let repaired = Arc::new(AtomicBool::new(false));
    let healthy = Arc::clone(&repaired);
    let api = MockApi::start(move |call| {
        let id = id_of(call);
        let good = format!("{{\"region\": \"R{id}\", \"score\": {id}}}");
        match id {
            _ if healthy.load(Ordering::SeqCst) => Reply::of(200, good),
            3 => Reply::of(200, "{\"region\": \"R3\", \"score\": null}"),
            4 => Reply::of(200, "{\"region\": \"R4\"}"),
            5 => Reply::of(200, "{\"region\": \"R5\", \"score\": 1.5}"),
            6 => Reply::of(200, "{\"region\": \"R6\", \"score\": \"six\"}"),
            // The database refuses it, together with the other rows of its page at first.
            7 => Reply::of(200, "{\"region\": \"R7\", \"score\": 100}"),
            8 => Reply::of(404, "unknown"),
            _ => Reply::of(200, good),
        }
    })
    .await;
    let id = batch_id();
    let flags = ["--page-size", "10", "--batch-id", &id];
    let ended = run_aside(call(&home, online(&[]), &api, &flags)).await;
    let ended = ended.exits_with(3);
    assert!(ended.err.contains("redrive"), "{}", ended.err);
    let rows = now(&home).await;
    assert_eq!(rows.len(), 25);
    assert_eq!(rows[0], "1 u1 R1 1");
    assert_eq!(rows[2], "3 u3 R3 -", "null only where the API said so");
    for failed in 4..=8 {
        assert_eq!(rows[failed - 1], format!("{failed} u{failed} - -1"));
    }
    for written in 9..=25 {
        assert_eq!(
            rows[written - 1],
            format!("{written} u{written} R{written} {written}")
        );
    }
    let listed = of_batch(&home, &["failures", &id], 0).await;
    for part in [
        "AnswerNotReadable",
        "AnswerDoesNotFit",
        "whole numbers",
        "Http404",
    ] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let letters =
        home.rows("SELECT error_type FROM temporal_batch_dead_letter ORDER BY error_type");
    let letters = letters.await;
    assert_eq!(letters.len(), 5, "{letters:?}");
    assert_eq!(api.calls().len(), 25);

    repaired.store(true, Ordering::SeqCst);
    of_batch(&home, &["redrive", &id], 0).await;
    let rows = now(&home).await;
    for id in (1..=25).filter(|id| *id != 3) {
        assert_eq!(rows[id - 1], format!("{id} u{id} R{id} {id}"));
    }
    assert_eq!(
        api.calls().len(),
        30,
        "only the failed records are called again"
    );
    of_batch(&home, &["ensure-complete", &id], 0).await;
    // The same command means the same batch, which is done.
    run_aside(call(&home, online(&[]), &api, &flags)).await;
    assert_eq!(api.calls().len(), 30);
}

async fn a_row_that_was_changed_or_deleted_meanwhile_is_not_written(home: Home) {
    users(&home, 8).await;
    let database = home.database.clone();
    let api = MockApi::start(move |call| {
        let id = id_of(call);
        let change = match (id, call.before) {
            (5, 0) if call.path.ends_with("u5") => {
                Some("UPDATE users SET email = 'new' WHERE id = 5")
            }
            (6, 0) => Some("DELETE FROM users WHERE id = 6"),
            (7, 0) => Some("UPDATE users SET region = 'other' WHERE id = 7"),
            _ => None,
        };
        if let Some(change) = change {
            // The page has no transaction open while it calls, so nothing keeps others from writing.
            let changing = crate::support::databases::script(&database, change);
            let runtime = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| runtime.block_on(changing)).unwrap();
        }
        Reply::of(200, format!("{{\"region\": \"R{id}\", \"score\": {id}}}"))
    })
    .await;
    let id = batch_id();
    let flags = ["--where", "region IS NULL", "--batch-id", &id];
    run_aside(call(&home, online(&[]), &api, &flags))
        .await
        .exits_with(3);
    let rows = now(&home).await;
    assert_eq!(
        rows,
        [
            "1 u1 R1 1",
            "2 u2 R2 2",
            "3 u3 R3 3",
            "4 u4 R4 4",
            "5 new - -1",
            "7 u7 other -1",
            "8 u8 R8 8"
        ]
    );
    let status = of_batch(&home, &["status", &id, "--json"], 0).await;
    assert!(
        status.contains("the row was deleted, or no longer matches"),
        "{status}"
    );
    let listed = of_batch(&home, &["failures", &id], 0).await;
    assert!(listed.contains("RowChanged"), "{listed}");
    of_batch(&home, &["redrive", &id], 0).await;
    assert_eq!(now(&home).await[4], "5 new R5 5");
    let last = api.calls().pop().unwrap();
    assert!(last.path.ends_with("?mail=new"), "{}", last.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_writes_every_row_and_repeats_at_most_the_calls_in_flight() {
    const IN_FLIGHT: usize = 4;
    let home = crate::database::sqlite().await;
    users(&home, 80).await;
    let api = MockApi::start(|call| {
        let id = id_of(call);
        let answer = format!("{{\"region\": \"R{id}\", \"score\": {}}}", id % 100);
        Reply::of(200, answer).after(Duration::from_millis(20))
    })
    .await;
    let id = batch_id();
    let concurrency = IN_FLIGHT.to_string();
    let flags = [
        "--page-size",
        "10",
        "--max-parallelism",
        "1",
        "--concurrency",
        &concurrency,
        "--rate",
        "60",
        "--batch-id",
        &id,
    ];
    let state = tempfile::tempdir().unwrap();
    let command = || {
        let mut command = call(&home, online(&[]), &api, &flags);
        command.env("XDG_STATE_HOME", state.path());
        command
    };
    let mut running = start(command());
    eventually("some pages are done", || async {
        (api.calls().len() >= 35).then_some(())
    })
    .await;
    running.kill();
    run_aside(command()).await.exits_with(0);
    let rows = now(&home).await;
    for id in 1..=80 {
        assert_eq!(rows[id - 1], format!("{id} u{id} R{id} {id}"));
    }
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for call in api.calls() {
        *times.entry(call.path).or_default() += 1;
    }
    let repeated = times.values().filter(|times| **times > 1).count();
    assert!(
        repeated <= IN_FLIGHT,
        "{repeated} records were called for again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_statement_and_what_has_no_place_is_refused() {
    let home = crate::database::sqlite().await;
    users(&home, 3).await;
    home.script("CREATE TABLE other (id INTEGER PRIMARY KEY, blob_column BLOB)")
        .await;
    let api = MockApi::start(|_| Reply::of(200, "{\"region\": \"R\", \"score\": 2}")).await;
    let shown = run_aside(call(&home, offline(&[]), &api, &["--dry-run"])).await;
    let shown = shown.exits_with(0);
    for part in [
        "UPDATE",
        "\"region\"",
        "region = {body.region}",
        "/u/1?mail=u1",
        "/u/3",
    ] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    assert_eq!(api.calls().len(), 0);
    let tried = run_aside(call(&home, offline(&[]), &api, &["--try", "1"])).await;
    let tried = tried.exits_with(0);
    assert!(
        tried.out.contains("200 -> {\"region\":\"R\",\"score\":2}"),
        "{}",
        tried.out
    );
    assert_eq!(now(&home).await[0], "1 u1 - -1", "nothing is written");

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("users.csv"), "id\n1\n").unwrap();
    let url = "https://api.example.org/{id}";
    let of_file = ["--from", "users.csv", "--url", url, "--set", "a = {body.a}"];
    let of_table = ["--table", "users", "--url", url];
    let other = ["--table", "other", "--url", url];
    for (flags, parts) in [
        (of_file.to_vec(), vec!["--from", "--out DIR"]),
        (of_table.to_vec(), vec!["--out DIR", "--set"]),
        (
            [
                &of_table[..],
                &["--set", "region = {body.a}", "--concatenate", "x"],
            ]
            .concat(),
            vec!["--concatenate", "--out DIR"],
        ),
        (
            [&of_table[..], &["--set", "nix = {body.a}"]].concat(),
            vec!["nix", "id, email, region, score"],
        ),
        (
            [&of_table[..], &["--set", "id = {body.a}"]].concat(),
            vec!["key"],
        ),
        (
            [&of_table[..], &["--set", "score = \"x\""]].concat(),
            vec!["--set", "score", "numbers"],
        ),
        (
            [
                &of_table[..],
                &["--set", "score = {body.a}", "--fallback", "score = 1.5"],
            ]
            .concat(),
            vec!["--fallback", "score", "whole"],
        ),
        (
            [&other[..], &["--set", "blob_column = {body.a}"]].concat(),
            vec!["bytes", "--out"],
        ),
    ] {
        let mut command = offline(&["call", "--dry-run"]);
        command
            .args(&flags)
            .current_dir(folder.path())
            .env("DATABASE_URL", &home.url);
        run_aside(command).await.refused(2, &parts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fallback_values_go_into_the_rows_too_and_are_counted() {
    let home = crate::database::sqlite().await;
    users(&home, 7).await;
    let api = MockApi::start(|call| match id_of(call) {
        7 => Reply::of(404, "unknown"),
        id => Reply::of(200, format!("{{\"region\": \"R{id}\", \"score\": {id}}}")),
    })
    .await;
    let flags = [
        "--fallback",
        "region = \"UNKNOWN\"",
        "--fallback",
        "score = null",
        "--json",
    ];
    let ended = run_aside(call(&home, online(&[]), &api, &flags)).await;
    let report = ended.exits_with(0).json().to_string();
    assert!(report.contains("fallback after Http404"), "{report}");
    assert_eq!(now(&home).await[6], "7 u7 UNKNOWN -");
}
