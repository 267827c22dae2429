//! The command `import`, as its users run it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    database,
    database::Home,
    imports::{awkward, csv},
    sample_files::{Written, named},
    support::{
        command::{LIMIT, online, run_aside, start},
        databases::on_each,
    },
};

/// An `import` of a file into the database with a URL.
pub fn import(file: &Path, url: &str, flags: &[&str]) -> Command {
    let file = file.to_str().unwrap();
    let import = ["import", file, "--table", "t", "--create-ledger-tables"];
    let mut command = online(&[&import[..], flags].concat());
    command.env("DATABASE_URL", url);
    command
}

/// A file whose records 100 and 200 the table refuses, and whose record 300 cannot be read; its other records, and the
/// expected file of these three.
fn awkward_file(rows: usize) -> (Written, Vec<(i64, String)>, String) {
    let mut rows = awkward(rows);
    let mut bad = rows.clone();
    bad[99].0 = 1;
    bad[199].0 = -5;
    let mut bytes = csv(&bad[..299]);
    bytes.extend_from_slice(b"300,\"too\",\"many\"\n");
    bytes.extend_from_slice(&csv(&bad[300..])[b"id,body\n".len()..]);
    let file = named("awkward.csv", &bytes);
    rows.retain(|(id, _)| ![100, 200, 300].contains(id));
    let mut rejected = csv(&[bad[99].clone(), bad[199].clone()]);
    rejected.extend_from_slice(b"300,\"too\",\"many\"\n");
    (file, rows, String::from_utf8(rejected).unwrap())
}

async fn rows(home: &Home) -> usize {
    home.texts("SELECT body FROM t").await.len()
}

on_each! {
    an_import_killed_in_the_middle_is_continued_when_it_is_repeated,
}

async fn an_import_killed_in_the_middle_is_continued_when_it_is_repeated(home: Home) {
    let url = home.url.clone();
    let text = home.text();
    let create =
        format!("CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY CHECK (id > 0), body {text})");
    home.run(&create).await;
    let (file, expected, expected_rejected) = awkward_file(3_000);
    let flags = [
        "--page-size",
        "40",
        "--stride",
        "4",
        "--max-parallelism",
        "4",
    ];
    let slow = ["--page-pause", "50ms"];
    let kills = 3;
    let mut least = 0;
    for kill in 1..=kills {
        let flags = [&flags[..], &slow].concat();
        let mut running = start(import(&file.path, &url, &flags));
        let since = Instant::now();
        // Waits for a few more rows, but by far not for all of them.
        let enough = least + 150;
        while rows(&home).await < enough {
            assert!(since.elapsed() < LIMIT, "no progress before kill {kill}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.kill();
        least = rows(&home).await;
        assert!(least < expected.len(), "all was done before kill {kill}");
    }
    let output = run_aside(import(&file.path, &url, &flags)).await;
    assert_eq!(output.status, Some(3), "{}", output.err);
    assert_eq!(home.rows().await, crate::imports::expected(&expected));
    let rejected = file.path.with_file_name("awkward.rejected.csv");
    assert_eq!(
        std::fs::read_to_string(&rejected).unwrap(),
        expected_rejected
    );

    // A finished import does nothing.
    let output = run_aside(import(&file.path, &url, &flags)).await;
    assert_eq!(output.status, Some(3), "{}", output.err);
    assert!(output.err.contains("is done already"), "{}", output.err);
    assert_eq!(rows(&home).await, expected.len());
    let letters = home.letter_types().await;
    assert_eq!(letters.values().sum::<u32>(), 3, "{letters:?}");
    assert_eq!(letters["WrongColumnCount"], 1);

    // The rejected records are in a file of their own, each once, whichever worker was killed.
    let written = std::fs::read_to_string(&rejected).unwrap();
    assert_eq!(written, expected_rejected);
    let why = std::fs::read_to_string(file.path.with_file_name(ERRORS)).unwrap();
    let lines: Vec<_> = why.lines().map(in_json).collect();
    assert_eq!(lines[0]["records"], 3, "{why}");
    let types: Vec<_> = lines[1..].iter().map(|line| &line["error_type"]).collect();
    assert_eq!(
        types,
        ["UniqueViolation", "CheckViolation", "WrongColumnCount"]
    );
}

const ERRORS: &str = "awkward.rejected.csv.errors.jsonl";

fn in_json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn impossible_imports_are_refused_with_status_2() {
    let home = database::sqlite().await;
    home.run("CREATE TABLE t (id BIGINT NOT NULL, body TEXT)")
        .await;
    let url = home.url.clone();
    let refused = async |file: &Written, flags: &[&str], words: &str| {
        let output = run_aside(import(&file.path, &url, flags)).await;
        assert_eq!(output.status, Some(2), "{}", output.err);
        assert!(output.err.contains(words), "{}", output.err);
    };
    let good = named("good.csv", b"id,body\n1,a\n");
    let extra = named("extra.csv", b"id,body,phone\n1,a,b\n");
    let zipped = named("zipped.csv.gz", b"\x1f\x8b\x08\0");
    refused(&extra, &[], "fields of the file: phone").await;
    refused(&extra, &["--columns", "id,more"], "no field for column").await;
    refused(&zipped, &[], "gzip").await;
    refused(&good, &["--delimiter", "\""], "delimiter and quote").await;
    refused(&good, &["--on-conflict", "replace"], "write fail, nothing").await;
    refused(&good, &["--stride", "0"], "stride is 0").await;
    refused(&good, &["--no-header"], "--columns").await;
    assert_eq!(rows(&home).await, 0);
}

#[tokio::test]
async fn another_file_at_the_same_path_is_not_mistaken_for_the_imported_one() {
    let home = database::sqlite().await;
    home.run("CREATE TABLE t (id BIGINT NOT NULL, body TEXT)")
        .await;
    let url = home.url.clone();
    let file = named("daily.csv", b"id,body\n1,monday\n");
    let run = async |flags: &[&str]| {
        let output = run_aside(import(&file.path, &url, flags)).await;
        (output.status, output.err)
    };
    let (exit, notes) = run(&[]).await;
    assert_eq!(exit, Some(0), "{notes}");
    std::fs::write(&file.path, b"id,body\n2,tuesday\n").unwrap();
    let (exit, notes) = run(&[]).await;
    assert_eq!(exit, Some(1), "{notes}");
    assert!(
        notes.contains("is not the same") && notes.contains("--rerun"),
        "{notes}"
    );
    let (exit, notes) = run(&["--rerun"]).await;
    assert_eq!(exit, Some(0), "{notes}");
    assert_eq!(rows(&home).await, 2);
}
