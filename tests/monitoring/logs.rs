//! The log lines of a worker whose pages fail.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::{Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::worker::{Worker, products, run};

/// A database of products in which every page fails: a trigger needs a table that is not there.
fn refusing(folder: &Path) -> PathBuf {
    let database = products(folder, 100);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(&database);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        // The demo has raised all prices; a second raise would find nothing to change.
        let statements = "UPDATE products SET price_version = 1;
             CREATE TRIGGER refuse BEFORE UPDATE ON products
             BEGIN INSERT INTO frozen_prices VALUES (NEW.id); END";
        connection.execute(statements).await.unwrap();
        connection.close().await.unwrap();
    });
    database
}

/// Starts a batch whose pages fail, and returns its first warning.
fn first_warning(queue: &str, extra: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let database = refusing(folder.path());
    let worker = Worker::start(queue, &database, extra);
    let settings = ["--batch-id", queue, "--task-queue", queue, "--detach"];
    run(&[&["start", "inflate-prices"], &settings[..]].concat());
    let line = worker.line("page failed");
    run(&["cancel", queue]);
    line
}

#[test]
fn a_json_line_has_the_failed_page_and_its_batch_at_its_top_level() {
    let text = first_warning("monitoring-logs-json", &["--log-format", "json"]);
    let line: Value = serde_json::from_str(&text).unwrap();
    let line = line.as_object().unwrap();
    assert!(
        line.values()
            .all(|value| !value.is_object() && !value.is_array()),
        "{text}"
    );
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "page failed");
    assert_eq!(line["batch"], "monitoring-logs-json");
    assert_eq!(line["processor"], "inflate-prices");
    assert_eq!((&line["stride"], &line["attempt"]), (&0.into(), &1.into()));
    for id in ["batch_run", "workflow_run"] {
        assert!(!line[id].as_str().unwrap().is_empty(), "{id} in {text}");
    }
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("no such table: main.frozen_prices"),
        "{text}"
    );
    assert!(
        line["target"]
            .as_str()
            .unwrap()
            .starts_with("temporal_batch::"),
        "{text}"
    );
    assert!(
        line["span"].as_str().unwrap().starts_with("stride"),
        "{text}"
    );
    let time = line["timestamp"].as_str().unwrap();
    let parsed: Result<jiff::Timestamp, _> = time.parse();
    assert!(parsed.is_ok() && time.ends_with('Z'), "{time}");
}

#[test]
fn a_text_line_has_them_too_at_the_default_level() {
    let line = first_warning("monitoring-logs-text", &[]);
    for part in [
        "WARN",
        "page failed",
        "no such table: main.frozen_prices",
        "batch=\"monitoring-logs-text\"",
        "stride=0",
        "attempt=1",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}
