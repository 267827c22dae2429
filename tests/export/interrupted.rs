//! Exports that are killed, and disks that refuse to be written.

#[cfg(target_os = "linux")]
use std::process::Command;
use std::{fs, path::Path};

use temporal_batch::files::Manifest;

#[cfg(target_os = "linux")]
use crate::{
    commands::{command, run},
    database,
    database::Source,
    support::{
        command::{binary, of_shell, start},
        servers::SmallDisk,
        wait_for,
    },
};

fn parts(directory: &Path) -> usize {
    let Ok(files) = fs::read_dir(directory.join(".temporal-batch")) else {
        return 0;
    };
    let csv = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "csv");
    files.flatten().filter(csv).count()
}

async fn killed(source: &Source) {
    source.make_users(3_000).await;
    let (to, all) = (source.text("users"), source.text("all.csv"));
    let directory = source.path("users");
    let name = source.folder.path().file_name().unwrap().to_string_lossy();
    let id = format!("killed{name}");
    let args = |rate: &'static str| {
        [
            "export",
            "--table",
            "users",
            "--to",
            &to,
            "--format",
            "csv",
            "--concatenate",
            &all,
            "--batch-id",
            &id,
            "--page-size",
            "20",
            "--max-parallelism",
            "4",
            "--stride",
            "5",
            "--rate",
            rate,
        ]
        .map(str::to_owned)
    };
    let mut seen = 0;
    for _ in 0..2 {
        let args = args("700");
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut running = start(command(&source.url, &args));
        let wanted = seen + 10;
        seen = wait_for("there are more parts", || {
            Some(parts(&directory)).filter(|n| *n >= wanted)
        });
        // Dropping it sends SIGKILL.
        running.kill();
        assert!(!Path::new(&all).exists());
        assert_eq!(Manifest::read(&directory).unwrap(), None);
    }
    // Meanwhile no other batch may use the directory.
    let other = [
        "export",
        "--table",
        "users",
        "--to",
        &to,
        "--format",
        "csv",
        "--batch-id",
        "another",
    ];
    let refused = run(&source.url, &other).exits_with(2);
    assert!(
        refused.err.contains("unfinished parts of batch \"killed"),
        "{}",
        refused.err
    );
    assert!(
        refused.err.contains("choose another directory"),
        "{}",
        refused.err
    );

    let last = args("700");
    let last: Vec<_> = last.iter().map(String::as_str).collect();
    let said = run(&source.url, &last).exits_with(0);
    assert!(said.err.contains("3,000 rows"), "{}", said.err);
    assert!(fs::read_to_string(&all).unwrap() == source.dump_csv().await);
    let manifest = Manifest::read(&directory).unwrap().unwrap();
    assert_eq!(manifest.records, 3_000);
    assert!(manifest.verify(&directory).unwrap().is_empty());
    for pair in manifest.parts.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
    }
    let mut names: Vec<_> = manifest.parts.iter().map(|p| p.file.file.clone()).collect();
    names.insert(0, "manifest.json".to_owned());
    let mut there: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, names);
}

#[tokio::test]
async fn a_killed_export_is_continued_when_its_command_is_repeated() {
    killed(&database::sqlite().await).await;
}

#[tokio::test]
async fn a_killed_export_is_continued_when_its_command_is_repeated_on_postgres() {
    if let Some(source) = database::postgres("killed_export").await {
        killed(&source).await;
    }
}

/// Files may not grow beyond a limit for a while, so that a write fails in the middle. Every Linux has the command that
/// sets the limit.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_failed_write_is_reported_and_tried_again() {
    let source = database::sqlite().await;
    source.make_users(400).await;
    let to = source.text("users");
    let name = source.folder.path().file_name().unwrap().to_string_lossy();
    let id = format!("full{name}");
    let binary = binary().to_str().unwrap();
    // The signal that would end the process is ignored.
    let limit = "trap '' XFSZ; ulimit -S -f 8; exec \"$0\" \"$@\"";
    let args = [
        "export",
        "--table",
        "users",
        "--to",
        &to,
        "--format",
        "csv",
        "--batch-id",
        &id,
        "--page-size",
        "200",
    ];
    let mut limited = of_shell(limit);
    limited
        .arg(binary)
        .args(args)
        .env("DATABASE_URL", &source.url);
    let running = start(limited);
    let told = wait_for("the failure is reported", || {
        let told = run(&source.url, &["failures", &id]);
        told.out.contains("FileError").then_some(told.out)
    });
    assert!(told.contains("cannot write"), "{told}");
    // No half-written file is left.
    assert_eq!(parts(&source.path("users")), 0);
    let pid = running.pid().to_string();
    let freed = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=unlimited"])
        .status();
    assert!(freed.unwrap().success());
    running.ended().exits_with(0);
    let manifest = Manifest::read(&to).unwrap().unwrap();
    assert_eq!(manifest.records, 400);
}

/// The batch waits for room: no page loses an attempt, and the operator is told where it is missing.
#[tokio::test]
async fn an_export_waits_for_room_on_its_disk() {
    let Some(disk) = SmallDisk::of(48) else {
        return;
    };
    let source = database::sqlite().await;
    source.make_users(3_000).await;
    let to = disk.file("users");
    let name = source.folder.path().file_name().unwrap().to_string_lossy();
    let id = format!("room{name}");
    let args = [
        "export",
        "--table",
        "users",
        "--to",
        to.to_str().unwrap(),
        "--format",
        "jsonl",
        "--batch-id",
        &id,
        "--page-size",
        "300",
    ];
    let running = start(command(&source.url, &args));
    let told = wait_for("the failure is reported", || {
        let told = run(&source.url, &["failures", &id]);
        told.out.contains("DiskFull").then_some(told.out)
    });
    for words in ["not enough disk: ", " of 48 KiB are free at "] {
        assert!(told.contains(words), "{words}: {told}");
    }
    wait_for("there were tries that do not count as attempts", || {
        let told = run(&source.url, &["status", &id, "--json"]);
        let look: serde_json::Value = serde_json::from_str(&told.out).ok()?;
        let progress = &look["progress"];
        assert_eq!(progress["pages_failed"], 0, "{look:#}");
        let failing = progress["failing"].as_array()?;
        assert!(failing.iter().all(|page| page["attempts"] == 0), "{look:#}");
        (progress["retries"].as_u64()? > 20).then_some(())
    });
    disk.remount("size=16m");
    let ended = running.ended().exits_with(0);
    assert!(ended.err.contains("3,000 rows"), "{}", ended.err);
    let manifest = Manifest::read(&to).unwrap().unwrap();
    assert_eq!(manifest.records, 3_000);
    assert!(manifest.verify(&to).unwrap().is_empty());
}
