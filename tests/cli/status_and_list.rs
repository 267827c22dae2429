//! The output of `status` and `list` for a batch.

use serde_json::Value;

use crate::{
    products::{Worker, look},
    support::{
        command::{offline, online, run},
        server_address, wait_for_ok,
    },
};

#[test]
fn status_json_has_the_documented_fields() {
    let _worker = Worker::on("fields", &[]).ready();
    let id = ["--task-queue", "fields", "--batch-id", "fields"];
    let output = run(online(&[&["start", "inflate-prices"], &id[..]].concat()));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let look = look("fields");
    assert_eq!(look["schema"], 1);

    let documented = include_str!("../../docs/cli.md");
    let documented = documented.split("## JSON").nth(1).unwrap();
    for object in [&look, &look["progress"]] {
        for field in object.as_object().unwrap().keys() {
            assert!(
                documented.contains(&format!("`{field}`")),
                "{field} is not documented"
            );
        }
    }
}

#[test]
fn a_listing_has_the_start_and_the_end_of_a_batch_of_several_runs() {
    let _worker = Worker::on("listed", &[]).ready();
    let batch = ["--task-queue", "listed", "--batch-id", "listed"];
    let how = ["--page-size", "100", "--pages-per-run", "10"];
    let output = run(online(
        &[&["start", "inflate-prices"], &batch[..], &how].concat(),
    ));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let progress = look("listed")["progress"].clone();
    assert!(progress["runs"].as_u64().unwrap() > 1, "{progress}");
    // The list shows an end a moment later.
    let listed = wait_for_ok("the end is listed", || {
        let all = run(online(&["list", "--json", "--limit", "1000"])).json();
        let batches = all["batches"].as_array().unwrap();
        let mut listed = batches.iter().filter(|batch| batch["batch_id"] == "listed");
        let listed = listed.next().cloned().unwrap_or_default();
        if listed["state"] == "completed" {
            Ok(listed)
        } else {
            Err(listed.to_string())
        }
    });
    assert_eq!(listed["started_at"], progress["started_at"]);
    assert_eq!(listed["outcome"], "completed");
}

#[test]
fn the_web_page_of_a_batch_is_linked_where_its_address_is_known() {
    let mut first = offline(&[
        "start",
        "inflate-prices",
        "--task-queue",
        "no-worker-links",
        "--batch-id",
        "linked",
        "--detach",
        "--json",
    ]);
    first.env("TEMPORAL_ADDRESS", server_address());
    let started = run(first.env("TEMPORAL_UI_ADDRESS", "https://temporal.example.com/")).json();
    assert_eq!(
        started["ui_url"],
        "https://temporal.example.com/namespaces/default/workflows/linked"
    );
    let flag = ["status", "linked", "--ui-address", "localhost:8080"];
    let table = run(online(&flag)).out;
    assert!(
        table.contains("\nweb UI       http://localhost:8080/namespaces/default/workflows/linked"),
        "{table}"
    );
    assert_eq!(
        look("linked")["ui_url"],
        Value::Null,
        "the server of the tests has no page"
    );
    run(offline(&["status", "linked", "--ui-address", "ftp://x"]))
        .refused(2, &["--ui-address", "http://localhost:8233"]);
    let mut wrong = offline(&["status", "linked"]);
    let wrong = run(wrong
        .env("TEMPORAL_ADDRESS", server_address())
        .env("TEMPORAL_UI_ADDRESS", "a b"));
    wrong.refused(2, &["TEMPORAL_UI_ADDRESS", "http://localhost:8233"]);
}
