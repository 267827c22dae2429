//! The file of the records that an import could not write into the table.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    commands::import,
    database,
    database::Home,
    sample_files::{Written, named},
    support::{
        command::{of_shell, online, run_aside},
        databases::on_each,
        servers::SmallDisk,
    },
};

on_each! {
    a_corrected_file_of_rejected_records_is_imported_as_printed,
    records_that_are_left_out_of_the_corrected_file_are_settled_as_printed,
}

/// The command after `next:`, run in a shell exactly as printed.
pub fn as_printed(told: &str, url: &str, folder: &Path) -> Command {
    let line = told.lines().find(|line| line.starts_with("next: "));
    let line = line.unwrap_or_else(|| panic!("no next step: {told}"));
    let printed = line.split('`').nth(1).expect("the line has a command");
    let mut command = of_shell(printed);
    command.env("DATABASE_URL", url).current_dir(folder);
    command
}

fn folder(file: &Written) -> &Path {
    file.path.parent().unwrap()
}

fn lines(path: PathBuf) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[cfg(unix)]
fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}

#[cfg(not(unix))]
fn is_private(_: &Path) -> bool {
    true
}

async fn people(home: &Home) {
    home.run("CREATE TABLE t (id INT PRIMARY KEY, age INT NOT NULL CHECK (age > 0), name VARCHAR(20) NOT NULL)")
        .await;
}

async fn ids(home: &Home) -> Vec<String> {
    let text = if home.url.starts_with("mysql") {
        "CHAR"
    } else {
        "TEXT"
    };
    let query = format!("SELECT CAST(id AS {text}) FROM t ORDER BY id");
    home.texts(&query)
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

/// The file has semicolons, as spreadsheets write it, and no line end at its end.
const PEOPLE: &str =
    "id;age;name\n1;30;Ann\n2;-4;Bob\n\n3;50;\"a;b\"\n1;60;again\n4;70;Dan;more\n5;80;\n6;90;Eve";

async fn a_corrected_file_of_rejected_records_is_imported_as_printed(home: Home) {
    people(&home).await;
    let url = home.url.clone();
    let file = named("people.csv", PEOPLE.as_bytes());
    let first = run_aside(import(&file.path, &url, &["--page-size", "2"])).await;
    assert_eq!(first.status, Some(3), "{}", first.err);
    assert!(
        first
            .err
            .contains("delimiter  ';', as the first record shows"),
        "{}",
        first.err
    );
    assert_eq!(ids(&home).await, ["1", "3", "6"]);

    // The dead letters have the file, line, column and value.
    let expected = [
        "people.csv, line 3, record 2, column `age`",
        "the value is \"-4\"",
        "people.csv, line 6, record 4, column `id`",
        "people.csv, line 7, record 5: 4 columns instead of 3",
        "people.csv, line 8, record 6, column `name`",
    ];
    for expected in expected {
        assert!(first.err.contains(expected), "{expected}: {}", first.err);
    }
    let rejected = folder(&file).join("people.rejected.csv");
    let errors = folder(&file).join("people.rejected.csv.errors.jsonl");
    let content = "id;age;name\n2;-4;Bob\n1;60;again\n4;70;Dan;more\n5;80;\n";
    assert_eq!(fs::read_to_string(&rejected).unwrap(), content);
    assert!(is_private(&rejected) && is_private(&errors));
    let why = lines(errors);
    assert_eq!(why[0]["records"], 4);
    let places: Vec<_> = why[1..]
        .iter()
        .map(|why| {
            (
                why["line"].as_u64(),
                why["source_lines"][0].as_u64(),
                why["column"].as_str(),
            )
        })
        .collect();
    let expected = [
        (Some(2), Some(3), Some("age")),
        (Some(3), Some(6), Some("id")),
        (Some(4), Some(7), None),
        (Some(5), Some(8), Some("name")),
    ];
    assert_eq!(places, expected, "{why:#?}");
    assert_eq!(why[1]["value"], "-4");

    // One of the records is still wrong, and the others are imported.
    let corrected = "id;age;name\n2;4;Bob\n7;60;again\n4;70;Dan\n5;80;Kim!\n7;81;twice\n";
    fs::write(&rejected, corrected).unwrap();
    let second = run_aside(as_printed(&first.err, &url, folder(&file))).await;
    assert_eq!(second.status, Some(3), "{}", second.err);
    assert_eq!(ids(&home).await, ["1", "2", "3", "4", "5", "6", "7"]);
    let again = folder(&file).join("people.rejected.rejected.csv");
    assert_eq!(fs::read_to_string(&again).unwrap().lines().count(), 2);
    fs::write(&again, "id;age;name\n8;81;twice\n").unwrap();
    let third = run_aside(as_printed(&second.err, &url, folder(&file))).await;
    assert_eq!(third.status, Some(0), "{}", third.err);
    assert_eq!(ids(&home).await.len(), 8);

    // Everything is in the table now, so nothing is open: neither of the second import nor of the first.
    for settled in [
        "settled 1 dead letter of batch",
        "settled 4 dead letters of batch",
    ] {
        assert!(third.err.contains(settled), "{settled}: {}", third.err);
    }
    let repeated = run_aside(import(&file.path, &url, &["--page-size", "2"])).await;
    assert_eq!(repeated.status, Some(3), "{}", repeated.err);
    for part in [
        "is done already",
        "--rerun inserts the records a second time",
    ] {
        assert!(repeated.err.contains(part), "{part}: {}", repeated.err);
    }
    let settled = "all 4 dead letters are settled";
    assert!(repeated.out.contains(settled), "{}", repeated.out);
    assert_eq!(fs::read_to_string(&rejected).unwrap(), corrected);
    assert_eq!(ids(&home).await.len(), 8);
    let id = batch_of(&first.err);
    for command in ["verify", "ensure-complete"] {
        let mut command = online(&[command, &id]);
        command.env("DATABASE_URL", &url);
        let checked = run_aside(command).await;
        assert_eq!(checked.status, Some(0), "{checked:#?}");
        let all = "with 3 items that the batch finished, and 4 items that it gave up are settled";
        assert!(checked.out.contains(all), "{checked:#?}");
    }
}

/// The id of the batch that a command ran.
pub fn batch_of(told: &str) -> String {
    let (_, rest) = told
        .split_once("batch \"")
        .expect("the command names its batch");
    rest.split('"').next().unwrap().to_owned()
}

async fn records_that_are_left_out_of_the_corrected_file_are_settled_as_printed(home: Home) {
    people(&home).await;
    let url = home.url.clone();
    let file = named("people.csv", PEOPLE.as_bytes());
    let first = run_aside(import(&file.path, &url, &["--page-size", "2"])).await;
    assert_eq!(first.status, Some(3), "{}", first.err);
    let rejected = folder(&file).join("people.rejected.csv");
    let content = fs::read_to_string(&rejected).unwrap();
    fs::write(&rejected, "id;age;name\n2;4;Bob\n4;70;Dan\n").unwrap();
    let second = run_aside(as_printed(&first.err, &url, folder(&file))).await;
    assert_eq!(second.status, Some(0), "{}", second.err);
    let id = batch_of(&first.err);
    let why =
        format!("batch \"{id}\" stay open: it rejected 4 records, and the corrected file has 2");
    assert!(second.err.contains(&why), "{}", second.err);

    // A file that was corrected is not overwritten.
    let repeated = run_aside(import(&file.path, &url, &["--page-size", "2"])).await;
    assert_eq!(repeated.status, Some(3), "{}", repeated.err);
    for part in [
        "is done already",
        "people.rejected.csv was changed since",
        "--rerun inserts the records a second time",
        "it needs --rejected and the name of another file",
    ] {
        assert!(repeated.err.contains(part), "{part}: {}", repeated.err);
    }
    let open = "4 of 4 dead letters open";
    assert!(repeated.out.contains(open), "{}", repeated.out);
    let elsewhere = folder(&file).join("elsewhere.csv");
    let flags = [
        "--page-size",
        "2",
        "--rejected",
        elsewhere.to_str().unwrap(),
    ];
    let elsewhere_too = run_aside(import(&file.path, &url, &flags)).await;
    assert_eq!(elsewhere_too.status, Some(3), "{}", elsewhere_too.err);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), content);

    let settled = run_aside(as_printed(&second.err, &url, folder(&file))).await;
    assert_eq!(settled.status, Some(0), "{}", settled.err);
    for part in [
        "is done already",
        &*format!("settled 4 dead letters of batch \"{id}\""),
    ] {
        assert!(settled.err.contains(part), "{part}: {}", settled.err);
    }
    assert_eq!(ids(&home).await, ["1", "2", "3", "4", "6"]);
}

#[tokio::test]
async fn masked_values_are_only_in_the_file_of_rejected_records() {
    let home = database::sqlite().await;
    people(&home).await;
    let text = "\u{feff}id,age,name\r\n1,30,Ann\r\n2,-41112222,Bob\r\n3,\u{1},\r\n";
    let file = named("people.csv", text.as_bytes());
    let masked = run_aside(import(
        &file.path,
        &home.url,
        &["--mask-values", "--log-level", "debug"],
    ))
    .await;
    assert_eq!(masked.status, Some(3), "{}", masked.err);
    assert!(
        masked
            .err
            .contains("people.csv, line 3, record 2, column `age`"),
        "{}",
        masked.err
    );
    let rejected = folder(&file).join("people.rejected.csv");
    let content = "\u{feff}id,age,name\r\n2,-41112222,Bob\r\n3,\u{1},\r\n";
    assert_eq!(fs::read_to_string(&rejected).unwrap(), content);
    let errors =
        fs::read_to_string(folder(&file).join("people.rejected.csv.errors.jsonl")).unwrap();
    let letters = home
        .texts(
            "SELECT coalesce(message, '') || coalesce(record, '') FROM temporal_batch_dead_letter",
        )
        .await;
    for said in [masked.err, masked.out, errors, format!("{letters:?}")] {
        assert!(!said.contains("41112222"), "{said}");
        assert!(!said.contains("Bob"), "{said}");
    }
}

/// The file is compressed, and there is no page ledger.
#[tokio::test]
async fn json_lines_are_rejected_unchanged() {
    use std::io::Write as _;
    let home = database::sqlite().await;
    people(&home).await;
    let bad = [
        "{\"id\": 2, \"age\": -1,  \"name\": \"B\\u00e4r\"}",
        "{\"id\": 3, \"age\":",
    ];
    let text = format!(
        "{{\"id\":1,\"age\":1,\"name\":\"a\"}}\n{}\n{}\n{{\"id\":4,\"age\":4,\"name\":\"d\"}}\n",
        bad[0], bad[1]
    );
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    let file = named("people.jsonl.gz", &packed.finish().unwrap());
    let spool = folder(&file).join("spool");
    let flags = ["--spool", spool.to_str().unwrap()];
    let first = run_aside(import(&file.path, &home.url, &flags)).await;
    assert_eq!(first.status, Some(3), "{}", first.err);
    let rejected = folder(&file).join("people.rejected.jsonl");
    assert_eq!(
        fs::read_to_string(&rejected).unwrap(),
        format!("{}\n{}\n", bad[0], bad[1])
    );
    assert!(
        first
            .err
            .contains("people.jsonl.gz, line 2, record 2, column `age`"),
        "{}",
        first.err
    );
    assert!(
        first.err.contains("invalid JSON from byte"),
        "{}",
        first.err
    );
    let corrected = "{\"id\":2,\"age\":2,\"name\":\"b\"}\n{\"id\":3,\"age\":3,\"name\":\"c\"}\n";
    fs::write(&rejected, corrected).unwrap();
    let second = run_aside(as_printed(&first.err, &home.url, folder(&file))).await;
    assert_eq!(second.status, Some(0), "{}", second.err);
    assert_eq!(ids(&home).await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn without_a_ledger_records_are_rejected_one_by_one_too() {
    let home = database::sqlite().await;
    people(&home).await;
    let file = named(
        "people.csv",
        b"id,age,name\n1,30,Ann\n2,-4,Bob\n3,50,Cid\n4,-6,Dan\n",
    );
    let path = file.path.to_str().unwrap();
    let plain = [
        "import",
        path,
        "--table",
        "t",
        "--no-once",
        "--on-conflict",
        "nothing",
    ];
    let mut command = online(&plain);
    command.env("DATABASE_URL", &home.url);
    let once = run_aside(command).await;
    assert_eq!(once.status, Some(3), "{}", once.err);
    assert_eq!(ids(&home).await, ["1", "3"]);
    let rejected = folder(&file).join("people.rejected.csv");
    assert_eq!(
        fs::read_to_string(&rejected).unwrap(),
        "id,age,name\n2,-4,Bob\n4,-6,Dan\n"
    );
}

#[tokio::test]
async fn an_unwritable_place_is_refused_at_the_start() {
    let home = database::sqlite().await;
    people(&home).await;
    let file = named("people.csv", b"id,age,name\n1,30,Ann\n2,-4,Bob\n");
    let (mine, taken) = (
        folder(&file).join("mine.csv"),
        folder(&file).join("taken.csv"),
    );
    fs::write(&mine, "mine").unwrap();
    let as_flag = |path: &Path| path.to_str().unwrap().to_owned();
    let first = run_aside(import(
        &file.path,
        &home.url,
        &["--rejected", &as_flag(&taken), "--batch-id", "first"],
    ))
    .await;
    assert_eq!(first.status, Some(3), "{}", first.err);
    let before = ids(&home).await;
    let places = [
        (
            as_flag(&folder(&file).join("missing/r.csv")),
            "cannot be written to",
        ),
        (as_flag(&mine.join("r.csv")), "cannot be written to"),
        (
            "/proc/rejected.csv".to_owned(),
            "cannot be written to /proc/rejected.csv",
        ),
        (as_flag(folder(&file)), "cannot be written to"),
        (as_flag(&file.path), "the file that is imported"),
        (as_flag(&mine), "is not a file of rejected records"),
        (
            as_flag(&taken),
            "holds the rejected records of batch \"first\"",
        ),
    ];
    for (place, words) in places {
        let refused = run_aside(import(
            &file.path,
            &home.url,
            &["--rejected", &place, "--batch-id", "second"],
        ))
        .await;
        assert_eq!(refused.status, Some(2), "{place}: {}", refused.err);
        assert!(refused.err.contains(words), "{place}: {}", refused.err);
        assert!(
            refused.err.contains("--rejected names another file"),
            "{}",
            refused.err
        );
        assert!(!refused.err.contains(" runs"), "{}", refused.err);
    }
    let rerun = [
        "--rejected",
        &as_flag(&taken),
        "--batch-id",
        "first",
        "--rerun",
    ];
    let refused = run_aside(import(&file.path, &home.url, &rerun)).await;
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    assert_eq!(ids(&home).await, before);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");

    home.run("DELETE FROM t").await;
    let none = run_aside(import(
        &file.path,
        &home.url,
        &["--rejected", "none", "--batch-id", "third"],
    ))
    .await;
    assert_eq!(none.status, Some(3), "{}", none.err);
    assert!(!folder(&file).join("people.rejected.csv").exists());
}

#[tokio::test]
async fn rejected_records_wait_for_room_on_a_full_disk() {
    let Some(disk) = SmallDisk::of(32) else {
        return;
    };
    let home = database::sqlite().await;
    people(&home).await;
    let mut text = "id,age,name\n".to_owned();
    let mut rejected = text.clone();
    for id in 0..4_000 {
        let line = format!("{id},{},anybody\n", if id % 2 == 0 { 1 } else { -1 });
        text.push_str(&line);
        if id % 2 == 1 {
            rejected.push_str(&line);
        }
    }
    let file = named("people.csv", text.as_bytes());
    let place = disk.file("r.csv");
    let flags = ["--rejected", place.to_str().unwrap(), "--page-size", "500"];
    let full = run_aside(import(&file.path, &home.url, &flags)).await;
    assert_eq!(full.status, Some(1), "{}", full.err);
    for words in [
        "not enough disk: ",
        " of 32 KiB are free at ",
        "imports nothing twice",
    ] {
        assert!(full.err.contains(words), "{words}: {}", full.err);
    }
    assert!(!place.exists());
    disk.remount("size=16m");
    let repeated = run_aside(import(&file.path, &home.url, &flags)).await;
    assert_eq!(repeated.status, Some(3), "{}", repeated.err);
    assert!(
        repeated.err.contains("and 1,990 records more"),
        "{}",
        repeated.err
    );
    assert_eq!(fs::read_to_string(&place).unwrap(), rejected);
    assert_eq!(ids(&home).await.len(), 2_000);
}

#[tokio::test]
async fn an_ambiguous_delimiter_is_refused_with_its_flag() {
    let home = database::sqlite().await;
    people(&home).await;
    let file = named("people.csv", b"id;age|name\n1;30|Ann\n");
    let refused = run_aside(import(&file.path, &home.url, &[])).await;
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    let flags = "--delimiter ';' or --delimiter '|'";
    assert!(refused.err.contains(flags), "{}", refused.err);
    let tabs = named("people.csv", b"id\tage\tname\n1\t30\tAnn\n2\t0\tBob\n");
    let first = run_aside(import(&tabs.path, &home.url, &[])).await;
    assert_eq!(first.status, Some(3), "{}", first.err);
    assert_eq!(ids(&home).await, ["1"]);
    assert!(first.err.contains("--delimiter tab"), "{}", first.err);
}

#[tokio::test]
async fn an_unusable_spool_is_refused_before_the_import_starts() {
    use std::io::Write as _;
    let home = database::sqlite().await;
    people(&home).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"id,age,name\n").unwrap();
    packed.write_all(&b"1,30,Ann\n".repeat(10_000)).unwrap();
    let file = named("people.csv.gz", &packed.finish().unwrap());
    let mut places = vec![
        (folder(&file).join("missing/spool"), "No such file"),
        (
            PathBuf::from("/proc/spool"),
            "cannot be decompressed to /proc/spool",
        ),
    ];
    let disk = SmallDisk::of(16);
    if let Some(disk) = &disk {
        places.push((disk.file("spool"), "not enough disk: "));
    }
    for (place, words) in places {
        let flags = ["--spool", place.to_str().unwrap()];
        let refused = run_aside(import(&file.path, &home.url, &flags)).await;
        assert_eq!(refused.status, Some(1), "{}", refused.err);
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
        assert!(!refused.err.contains(" runs"), "{}", refused.err);
    }
    assert!(!folder(&file).join("missing").exists());
}
