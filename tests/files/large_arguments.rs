//! Arguments of `import` and `backfill`: large ones, refusals without side effects, and private copies.

use std::{io::Write as _, path::Path, process::Command};

use flate2::{Compression, write::GzEncoder};
use temporal_batch::files::CsvSource;

use crate::{
    commands::import,
    database,
    database::Home,
    sample_files::{all, everything, named},
    support::{
        command::{online, run_aside},
        databases::on_each,
    },
};

on_each! {
    a_file_of_many_columns_with_long_names_is_imported,
    a_statement_file_of_256_kib_is_run,
    a_refused_command_leaves_no_tables_of_the_ledger,
    a_name_with_a_dollar_sign_and_a_number_is_a_name,
}

fn backfill(url: &str, flags: &[&str]) -> Command {
    let mut command = online(&[&["backfill", "--table", "t"], flags].concat());
    command.env("DATABASE_URL", url);
    command
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The import stops at a record that cannot be read and is continued, so that its arguments are looked up again.
async fn a_file_of_many_columns_with_long_names_is_imported(home: Home) {
    // A table has at most 1,600 columns in PostgreSQL and 2,000 in SQLite. In InnoDB their texts must fit a page.
    let count = match home.database.system() {
        "PostgreSQL" => 1_600,
        "SQLite" => 2_000,
        _ => 300,
    };
    let name = |n: usize| format!("a_rather_long_column_name_{n:04}");
    let columns: Vec<_> = (1..count).map(|n| format!("{} TEXT", name(n))).collect();
    home.run(&format!(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, {})",
        columns.join(", ")
    ))
    .await;
    let mut content = "id".to_owned();
    (1..count).for_each(|n| content.push_str(&format!(",{}", name(n))));
    for id in 1..=40 {
        content.push_str(&format!("\n{id}"));
        let columns = if id == 5 { 1..5 } else { 1..count };
        columns.for_each(|n| content.push_str(&format!(",{}", (n + id) % 10)));
    }
    let file = named("wide.csv", content.as_bytes());
    let pace = [
        "--page-size",
        "2",
        "--stride",
        "1",
        "--max-parallelism",
        "1",
    ];
    let import =
        |flags: &[&str]| run_aside(import(&file.path, &home.url, &[&pace, flags].concat()));
    let stopped = import(&["--tolerate-items", "0", "--on-exceeded", "stop"]).await;
    assert_eq!(stopped.status, Some(4), "{}", stopped.err);
    let done = import(&["--continue"]).await;
    assert_eq!(done.status, Some(3), "{}", done.err);
    let last = name(count - 1);
    let rows = home
        .texts(&format!("SELECT {last} FROM t ORDER BY id"))
        .await;
    let expected: Vec<_> = (1..=40)
        .filter(|id| *id != 5)
        .map(|id| vec![Some(((count - 1 + id) % 10).to_string())])
        .collect();
    assert_eq!(rows, expected);
    let again = import(&[]).await;
    assert_eq!(again.status, Some(3), "{}", again.err);
    assert!(again.err.contains("is done already"), "{}", again.err);
}

async fn a_statement_file_of_256_kib_is_run(home: Home) {
    let text = home.text();
    home.run(&format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, body {text})"
    ))
    .await;
    for id in 1..=40 {
        home.run(&format!("INSERT INTO t VALUES ({id}, 'x')")).await;
    }
    let long = "y".repeat(256 * 1024);
    let statement = format!("UPDATE t SET body = '{long}' WHERE {{range}};\n");
    let file = named("statements.sql", statement.as_bytes());
    let path = file.path.to_str().unwrap();
    let flags = [
        "--statement-file",
        path,
        "--page-size",
        "10",
        "--stride",
        "1",
        "--once",
    ];
    let done = run_aside(backfill(&home.url, &flags)).await;
    assert_eq!(done.status, Some(0), "{}", done.err);
    let rows = home.texts("SELECT body FROM t").await;
    assert!(rows.iter().all(|row| row[0].as_ref() == Some(&long)));
    assert_eq!(rows.len(), 40);

    let too_long = format!(
        "UPDATE t SET body = '{}' WHERE {{range}};",
        "y".repeat(600_000)
    );
    std::fs::write(&file.path, too_long).unwrap();
    let refused = run_aside(backfill(&home.url, &flags)).await;
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    assert!(refused.err.contains("at most 524288 are allowed"));
    assert!(refused.err.len() < 2_000);
}

async fn a_refused_command_leaves_no_tables_of_the_ledger(home: Home) {
    home.run("CREATE TABLE t (id INTEGER PRIMARY KEY, body VARCHAR(9))")
        .await;
    let tables =
        ["stride", "dead_letter", "output", "report"].map(|t| format!("temporal_batch_{t}"));
    for table in &tables {
        home.run(&format!("DROP TABLE IF EXISTS {table}")).await;
    }
    let file = named("extra.csv", b"id,body,phone\n1,a,b\n");
    let refused = run_aside(import(&file.path, &home.url, &[])).await;
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    let long = "y".repeat(600_000);
    let sets = [
        "body = no_such_column".to_owned(),
        format!("body = '{long}'"),
    ];
    for set in sets {
        // A single argument may have at most 128 KiB.
        let set = &set[..set.len().min(100_000)];
        let flags = ["--set", set, "--once", "--create-ledger-tables"];
        let refused = run_aside(backfill(&home.url, &flags)).await;
        assert_eq!(refused.status, Some(2), "{}", refused.err);
        assert!(refused.err.len() < 5_000, "{} bytes", refused.err.len());
    }
    let statement = named(
        "long.sql",
        format!("UPDATE t SET body = '{long}' WHERE {{range}}").as_bytes(),
    );
    let path = statement.path.to_str().unwrap();
    let flags = ["--statement-file", path, "--once", "--create-ledger-tables"];
    let refused = run_aside(backfill(&home.url, &flags)).await;
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    for table in &tables {
        let there = match home.database.system() {
            "SQLite" => format!("SELECT name FROM sqlite_master WHERE name = '{table}'"),
            "PostgreSQL" => format!("SELECT relname::text FROM pg_class WHERE relname = '{table}'"),
            _ => format!(
                "SELECT table_name FROM information_schema.tables WHERE table_name = '{table}' \
                 AND table_schema = DATABASE()"
            ),
        };
        assert!(home.texts(&there).await.is_empty(), "{table}");
    }
    // The same flags create the tables where nothing is wrong.
    let good = named("good.csv", b"id,body\n1,a\n");
    let done = run_aside(import(&good.path, &home.url, &[])).await;
    assert_eq!(done.status, Some(0), "{}", done.err);
}

async fn a_name_with_a_dollar_sign_and_a_number_is_a_name(home: Home) {
    home.run("CREATE TABLE t (id INTEGER PRIMARY KEY, price$1 INTEGER, body INTEGER)")
        .await;
    for id in 1..=30 {
        home.run(&format!("INSERT INTO t VALUES ({id}, {id}, 0)"))
            .await;
    }
    let flags = [
        "--set",
        "body = price$1 + 1",
        "--where",
        "price$1 > 10",
        "--once",
        "--page-size",
        "7",
    ];
    let done = run_aside(backfill(&home.url, &flags)).await;
    assert_eq!(done.status, Some(0), "{}", done.err);
    let query = match home.database.system() {
        "SQLite" | "PostgreSQL" => "SELECT CAST(sum(body) AS TEXT) FROM t",
        _ => "SELECT CAST(sum(body) AS CHAR) FROM t",
    };
    let sum: i32 = (11..=30).map(|id| id + 1).sum();
    assert_eq!(home.texts(query).await, [[Some(sum.to_string())]]);
}

#[tokio::test]
async fn a_spooled_copy_is_removed_at_the_end_and_the_batch_is_still_known() {
    let home = database::sqlite().await;
    home.run("CREATE TABLE t (id BIGINT NOT NULL, body TEXT)")
        .await;
    let spool = tempfile::tempdir().unwrap();
    let file = named("users.csv.gz", &gzip(b"id,body\n1,a\n2,b\n"));
    let flags = ["--spool", spool.path().to_str().unwrap()];
    for words in ["runs", "is done already"] {
        let done = run_aside(import(&file.path, &home.url, &flags)).await;
        assert_eq!(done.status, Some(0), "{}", done.err);
        assert!(done.err.contains(words), "{}", done.err);
        assert_eq!(home.texts("SELECT body FROM t").await.len(), 2);
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_copy_is_private_to_its_user_and_made_again_when_it_is_gone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = named("ids.csv.gz", &gzip(b"id\n1\n2\n"));
    let spool = tempfile::tempdir().unwrap();
    std::fs::set_permissions(spool.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let source = CsvSource::new(&file.path).spool(spool.path());
    let prepared = source.prepare().await.unwrap();
    let copy = prepared.file.path.clone();
    assert_eq!(mode(&copy), 0o600);
    assert_eq!(mode(copy.parent().unwrap()), 0o700);

    std::fs::remove_dir_all(copy.parent().unwrap()).unwrap();
    let records = all(&prepared, everything(), &[10]).await;
    assert_eq!(records.len(), 2, "another copy should have been made");
    let again = prepared.prepare().await.unwrap();
    assert_ne!(again.file.path, copy);
}

#[tokio::test]
async fn a_json_lines_file_without_a_readable_line_says_why() {
    let home = database::sqlite().await;
    home.run("CREATE TABLE t (a INTEGER)").await;
    for (content, words) in [
        ("{\"a\": 1, \"a\": 2}\n", "a field occurs twice"),
        ("not json\n", "no line of the file can be read"),
        ("{}\n", "no line of the file has a field"),
    ] {
        let file = named("one.jsonl", content.as_bytes());
        let refused = run_aside(import(&file.path, &home.url, &[])).await;
        assert_eq!(refused.status, Some(2), "{}", refused.err);
        assert!(refused.err.contains(words), "{}", refused.err);
        assert!(!refused.err.contains("no header"), "{}", refused.err);
    }
}
