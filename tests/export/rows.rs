//! The files have the rows of the table.

use std::{fs, io::Read as _};

use flate2::read::GzDecoder;
use temporal_batch::{
    Batch, Outcome, PageProcessor as _,
    files::{CsvSource, JsonLinesSource, Manifest, concatenate},
    sql::{Connections, DEFAULT_CONNECTION, Database, ImportArgs, SqlImport, SqlLedger},
    testing::Simulator,
};

use crate::{
    commands::{command, run},
    database::Source,
    support::{command::start, databases::on_each},
};

/// Compares two texts, without printing both in full.
#[track_caller]
fn same(found: &str, expected: &str) {
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert!(
        found == expected,
        "{} and {} bytes",
        found.len(),
        expected.len()
    );
}

async fn an_export_equals_a_plain_select(source: Source) {
    source.make_users(1_000).await;
    let (to, all) = (source.text("csv"), source.text("all.csv"));
    let said = run(
        &source.url,
        &[
            "export",
            "--table",
            "users",
            "--to",
            &to,
            "--format",
            "csv",
            "--page-size",
            "60",
            "--concatenate",
            &all,
        ],
    )
    .exits_with(0);
    assert!(said.err.contains("1,000 rows in 17 files"), "{}", said.err);
    same(&fs::read_to_string(&all).unwrap(), &source.dump_csv().await);
    let manifest = Manifest::read(&to).unwrap().unwrap();
    assert_eq!((manifest.records, manifest.parts.len()), (1_000, 17));
    assert!(manifest.verify(&to).unwrap().is_empty());
    assert_eq!(
        manifest.concatenated.unwrap().bytes,
        fs::metadata(&all).unwrap().len()
    );

    let to = source.text("jsonl");
    let args = [
        "export",
        "--table",
        "users",
        "--key",
        "id",
        "--to",
        &to,
        "--format",
        "jsonl",
        "--page-size",
        "90",
        "--gzip",
    ];
    run(&source.url, &args).exits_with(0);
    let file = source.path("all.jsonl.gz");
    let summed = concatenate(&to, &file).unwrap();
    assert_eq!(summed.records, 1_000);
    let mut text = String::new();
    GzDecoder::new(fs::File::open(&file).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    same(&text, &source.dump_json_lines().await);

    // The same command again says that the export is done, and does nothing.
    let part = source.path("jsonl/part-00000001.jsonl.gz");
    let before = fs::metadata(&part).unwrap().modified().unwrap();
    let said = run(&source.url, &args).exits_with(0);
    assert!(said.err.contains("is done already"), "{}", said.err);
    assert_eq!(fs::metadata(&part).unwrap().modified().unwrap(), before);
}

async fn only_the_selected_rows_and_columns_are_exported(source: Source) {
    source.make_users(50).await;
    let to = source.text("some");
    let said = run(
        &source.url,
        &[
            "export",
            "--table",
            "users",
            "--where",
            "id < 20",
            "--columns",
            "big,id",
            "--to",
            &to,
            "--format",
            "csv",
            "--null",
            "-",
        ],
    )
    .exits_with(0);
    assert!(said.err.contains("where      id < 20"), "{}", said.err);
    let text = fs::read_to_string(source.path("some/part-00000001.csv")).unwrap();
    let first = "big,id\n9007199254740993,1\n9007199254740994,4\n";
    assert!(
        text.starts_with(first) && text.ends_with("\n9007199254740998,16\n-,19\n"),
        "{text}"
    );

    // An export without rows is a result too.
    let to = source.text("none");
    let args = [
        "export", "--table", "users", "--where", "id < 0", "--to", &to, "--format", "jsonl",
    ];
    run(&source.url, &args).exits_with(0);
    let manifest = Manifest::read(&to).unwrap().unwrap();
    assert_eq!((manifest.records, manifest.parts.len()), (0, 0));
}

async fn an_export_can_be_imported(source: Source) {
    source.make_users(300).await;
    match &source.database {
        Database::Postgres(pool) => SqlLedger::new(pool.clone()).apply_schema().await,
        Database::MySql(pool) => SqlLedger::new(pool.clone()).apply_schema().await,
        Database::Sqlite(pool) => SqlLedger::new(pool.clone()).apply_schema().await,
        _ => unreachable!("no other database is tested"),
    }
    .unwrap();
    let empty = "CREATE TABLE copy_of AS SELECT * FROM users WHERE 1 = 0";
    for format in ["jsonl", "csv"] {
        let copy = format!("copy_of_{format}");
        source.run(&empty.replace("copy_of", &copy)).await;
        let (to, all) = (source.text(format), source.text(&format!("all.{format}")));
        let mut args = vec![
            "export",
            "--table",
            "users",
            "--to",
            &to,
            "--format",
            format,
            "--concatenate",
            &all,
        ];
        if format == "csv" {
            // The text is one that an import reads unquoted.
            args.extend(["--null", "no value"]);
        }
        run(&source.url, &args).exits_with(0);
        let file = match format {
            "csv" => ImportArgs::new(CsvSource::new(&all), &copy).null("no value"),
            _ => ImportArgs::new(JsonLinesSource::new(&all), &copy),
        };
        let connections = Connections::new().with(DEFAULT_CONNECTION, source.database.clone());
        let import = SqlImport::new(connections);
        let file = import.prepare(file).await.unwrap();
        let batch = Batch::of::<SqlImport>("import", file).page_size(16);
        let imported = Simulator::new()
            .lose_worker_every(3)
            .run(&import, &batch)
            .await
            .unwrap();
        assert_eq!(
            (imported.outcome, imported.items.processed),
            (Outcome::Completed, 300)
        );
        for (one, other) in [("users", copy.as_str()), (copy.as_str(), "users")] {
            let differs = format!(
                "SELECT 'differs' FROM (SELECT * FROM {one} EXCEPT SELECT * FROM {other}) AS d"
            );
            assert!(source.texts(&differs).await.is_empty(), "{format}");
        }
    }
}

on_each! {
    an_export_equals_a_plain_select,
    only_the_selected_rows_and_columns_are_exported,
    an_export_can_be_imported,
}

/// The most memory that a process has had so far, in KiB.
#[cfg(target_os = "linux")]
fn peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A page ends once it has enough bytes, however many rows the batch allows.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn large_rows_do_not_fill_the_memory() {
    use sqlx::{Connection as _, Executor as _};

    let Some(server) = crate::support::servers::Postgres::shared() else {
        return;
    };
    let url = server.database("large_rows").await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    connection
        .execute(
            "CREATE TABLE t (id INT PRIMARY KEY, body TEXT);
             ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
             INSERT INTO t SELECT n, repeat(chr(65 + n % 26), 1000000) FROM generate_series(1, 240) AS n",
        )
        .await
        .unwrap();
    let mut peaks = Vec::new();
    // The first process has a page that is already full.
    for (name, rows) in [("few", "id <= 24"), ("many", "true")] {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("parts");
        let args = [
            "export",
            "--table",
            "t",
            "--where",
            rows,
            "--to",
            to.to_str().unwrap(),
            "--format",
            "csv",
            "--max-parallelism",
            "1",
            "--batch-id",
            &format!("large-rows-{name}"),
        ];
        let running = start(command(&url, &args));
        let process = running.pid();
        let watched = std::thread::spawn(move || {
            let mut most = 0;
            // A process that has ended has no memory.
            while let Some(peak) = peak(process) {
                most = most.max(peak);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            most
        });
        running.ended().exits_with(0);
        peaks.push(watched.join().unwrap());
    }
    let more = peaks[1].saturating_sub(peaks[0]);
    // Ten times as many rows in memory at once would take about 1,000 MiB more.
    assert!(more < 200 * 1024, "{peaks:?} KiB");
}
