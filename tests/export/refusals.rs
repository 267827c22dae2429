//! Exports that are refused before they start.

use std::fs;

use crate::{commands::run, database, support::servers::SmallDisk};

#[tokio::test]
async fn impossible_exports_are_refused_at_the_start() {
    let source = database::sqlite().await;
    source.make_users(10).await;
    let (full, file) = (source.text("full"), source.text("file"));
    fs::create_dir(&full).unwrap();
    fs::write(source.path("full/notes.txt"), "mine").unwrap();
    fs::write(&file, "mine").unwrap();
    let (below, free) = (source.text("file/below"), source.text("free"));
    let folder = source.folder.path().to_str().unwrap();
    for (args, expected) in [
        (
            vec!["--table", "users", "--to", &full],
            "is not empty: it contains notes.txt",
        ),
        (vec!["--table", "users", "--to", &below], "file/below"),
        (vec!["--table", "nobody", "--to", &free], "nobody"),
        (
            vec!["--table", "users", "--to", &free, "--columns", "id,age"],
            "age",
        ),
        (
            vec!["--table", "users", "--to", &free, "--columns", "id,id"],
            "\"id\" is named twice",
        ),
        (
            vec!["--table", "users", "--to", &free, "--key", "name"],
            "name",
        ),
        (
            vec!["--table", "users", "--to", &free, "--concatenate", folder],
            "is a directory",
        ),
        (
            vec!["--table", "users", "--to", &free, "--concatenate", &file],
            "no file is overwritten",
        ),
        (
            vec!["--table", "users", "--to", &free, "--stride", "0"],
            "stride is 0",
        ),
    ] {
        let args = [&["export", "--format", "csv"], args.as_slice()].concat();
        let said = run(&source.url, &args).exits_with(2);
        assert!(said.err.contains(expected), "{args:?}: {}", said.err);
    }
    let json = [
        "export", "--table", "users", "--to", &free, "--format", "jsonl", "--null", "-",
    ];
    let said = run(&source.url, &json).exits_with(2);
    assert!(said.err.contains("JSON has null"), "{}", said.err);
    assert!(!source.path("free").exists());
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// Tests may run as root, which permissions do not stop.
#[tokio::test]
async fn an_unwritable_directory_is_refused_before_the_export_starts() {
    let source = database::sqlite().await;
    source.make_users(10).await;
    let (missing, file) = (source.text("missing"), source.text("file"));
    fs::write(&file, "mine").unwrap();
    let good = source.text("good");
    let mut places = vec![
        (
            vec![format!("{missing}/users")],
            format!("there is no directory {missing}, in which"),
        ),
        (vec![file.clone()], format!("{file}: not a directory")),
        (
            vec![format!("{file}/users")],
            format!("{file}/users: not a directory"),
        ),
        (
            vec!["/proc/users".to_owned()],
            "cannot create a directory in /proc: ".to_owned(),
        ),
        (vec!["/proc".to_owned()], "/proc is not empty".to_owned()),
        (
            vec![
                good.clone(),
                "--concatenate".to_owned(),
                format!("{missing}/all.csv"),
            ],
            format!("there is no directory {missing}, in which"),
        ),
        (
            vec![
                good.clone(),
                "--concatenate".to_owned(),
                "/proc/all.csv".to_owned(),
            ],
            "cannot write into /proc: ".to_owned(),
        ),
    ];
    let disk = SmallDisk::of(16);
    let (mut read_only, mut full) = (None, None);
    if let Some(disk) = disk {
        fs::create_dir(disk.file("there")).unwrap();
        disk.remount("ro");
        let path = disk.path().display().to_string();
        places.push((
            vec![format!("{path}/new")],
            format!("cannot create a directory in {path}: Read-only"),
        ));
        places.push((
            vec![format!("{path}/there")],
            format!("cannot write into {path}/there: Read-only"),
        ));
        read_only = Some(disk);
    }
    if let Some(disk) = read_only.as_ref().and_then(|_| SmallDisk::of(16)) {
        // There is not even room for a page of 4 KiB.
        fs::write(disk.file("rest"), [0; 16 * 1_024]).unwrap();
        let path = disk.path().display().to_string();
        places.push((
            vec![format!("{path}/new")],
            "not enough disk: 0 bytes of 16 KiB are free at".to_owned(),
        ));
        full = Some(disk);
    }
    for (place, expected) in places {
        let place: Vec<_> = place.iter().map(String::as_str).collect();
        let args = ["export", "--format", "csv", "--table", "users", "--to"];
        let said = run(&source.url, &[&args[..], place.as_slice()].concat()).exits_with(2);
        let told = said.err.to_lowercase();
        assert!(
            told.contains(&expected.to_lowercase()),
            "{place:?}: {}",
            said.err
        );
        assert!(!said.err.contains(" runs"), "{}", said.err);
    }
    assert!(!source.path("missing").exists() && !source.path("good").exists());
    drop((read_only, full));

    // One missing level of the path is created.
    let args = [
        "export", "--format", "csv", "--table", "users", "--to", &good,
    ];
    run(&source.url, &args).exits_with(0);
    assert!(source.path("good/manifest.json").exists());
}

#[tokio::test]
async fn a_finished_result_is_not_overwritten() {
    let source = database::sqlite().await;
    source.make_users(10).await;
    let to = source.text("users");
    let args = ["export", "--table", "users", "--to", &to, "--format", "csv"];
    run(&source.url, &args).exits_with(0);
    let rerun = [&args[..], &["--rerun"]].concat();
    let other = [&args[..], &["--batch-id", "another"]].concat();
    for args in [rerun, other] {
        let said = run(&source.url, &args).exits_with(2);
        assert!(
            said.err.contains("holds the finished result of batch"),
            "{}",
            said.err
        );
    }
    fs::remove_dir_all(&to).unwrap();
    run(&source.url, &[&args[..], &["--rerun"]].concat()).exits_with(0);
    assert!(source.path("users/manifest.json").exists());
}

#[tokio::test]
async fn a_type_without_an_input_function_is_refused_with_its_column() {
    let Some(source) = database::postgres("write_only").await else {
        return;
    };
    source
        .run("CREATE TABLE t (id int PRIMARY KEY, plan pg_node_tree)")
        .await;
    let to = source.text("t");
    let args = ["export", "--table", "t", "--to", &to, "--format", "csv"];
    let said = run(&source.url, &args).exits_with(2);
    let expected = "\"plan\" is of type pg_node_tree";
    assert!(said.err.contains(expected), "{}", said.err);
    assert!(!source.path("t").exists());
    run(&source.url, &[&args[..], &["--columns", "id"]].concat()).exits_with(0);
}
