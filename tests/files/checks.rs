//! An import is checked at its end and later, against its ledger and its file.

use std::fs;

use crate::{
    commands::import,
    database::Home,
    rejected_records::{as_printed, batch_of},
    sample_files::named,
    support::{
        command::{Ended, online, run_aside, start},
        databases::on_each,
        eventually,
        servers::Proxy,
    },
};

on_each! {
    an_import_is_checked_at_its_end_and_later,
    one_file_into_one_table_is_one_import_whatever_their_spelling,
    a_changed_file_is_told_with_the_command_that_helps,
    a_file_without_records_is_imported,
}

async fn people(home: &Home) {
    home.run("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))")
        .await;
}

/// A file with this many records.
fn records(records: u32) -> String {
    let mut text = "id,name\n".to_owned();
    for id in 1..=records {
        text.push_str(&format!("{id},n{id}\n"));
    }
    text
}

async fn asked(home: &Home, args: &[&str]) -> Ended {
    let mut command = online(args);
    command.env("DATABASE_URL", &home.url);
    run_aside(command).await
}

async fn an_import_is_checked_at_its_end_and_later(home: Home) {
    people(&home).await;
    let file = named("people.csv", records(50).as_bytes());
    let done = run_aside(import(&file.path, &home.url, &["--page-size", "10"])).await;
    assert_eq!(done.status, Some(0), "{done:#?}");
    let id = batch_of(&done.err);
    let gate = asked(&home, &["ensure-complete", &id]).await;
    assert_eq!(gate.status, Some(0), "{gate:#?}");
    let whole = "with 50 items hold";
    for part in ["is complete and checked", whole] {
        assert!(gate.out.contains(part), "{part}: {gate:#?}");
    }
    for check in [
        &["verify", &*id][..],
        &["ensure-complete", &id, "--check-now"],
    ] {
        let checked = asked(&home, check).await;
        assert_eq!(checked.status, Some(0), "{checked:#?}");
        assert!(checked.out.contains(whole), "{checked:#?}");
    }
    // The file may be moved away, since the batch knows its end.
    let away = file.path.with_extension("away");
    fs::rename(&file.path, &away).unwrap();
    let checked = asked(&home, &["verify", &id]).await;
    assert_eq!(checked.status, Some(0), "{checked:#?}");
    assert!(checked.out.contains(whole), "{checked:#?}");
    fs::rename(&away, &file.path).unwrap();
    // A page that is not recorded may not be in the table.
    home.run("UPDATE temporal_batch_stride SET stride = stride + 1000")
        .await;
    let lost = asked(&home, &["verify", &id]).await;
    assert_eq!(lost.status, Some(3), "{lost:#?}");
    assert!(
        lost.out.contains("strides 0 to 999 are not in the ledger"),
        "{lost:#?}"
    );
    home.run("DELETE FROM temporal_batch_stride").await;
    let lost = asked(&home, &["ensure-complete", &id, "--check-now"]).await;
    assert_eq!(lost.status, Some(3), "{lost:#?}");
    for part in ["50 items", "has no stride of the batch run"] {
        assert!(lost.err.contains(part), "{part}: {lost:#?}");
    }

    home.run("DELETE FROM t").await;
    let flags = [
        "import",
        file.path.to_str().unwrap(),
        "--table",
        "t",
        "--no-once",
    ];
    let unchecked = asked(
        &home,
        &[&flags[..], &["--batch-id", &format!("{id}-x")]].concat(),
    )
    .await;
    assert_eq!(unchecked.status, Some(0), "{unchecked:#?}");
    let gate = asked(&home, &["ensure-complete", &format!("{id}-x")]).await;
    assert_eq!(gate.status, Some(1), "{gate:#?}");
    for part in [
        "was never checked",
        "--no-once; without that flag it is checked",
    ] {
        assert!(gate.err.contains(part), "{part}: {gate:#?}");
    }
}

async fn one_file_into_one_table_is_one_import_whatever_their_spelling(home: Home) {
    people(&home).await;
    let file = named("people.csv", records(20).as_bytes());
    let flags = ["--on-conflict", "nothing"];
    let done = run_aside(import(&file.path, &home.url, &flags)).await;
    assert_eq!(done.status, Some(0), "{done:#?}");
    home.run("DELETE FROM t").await;
    let path = file.path.to_str().unwrap();
    let folder = file.path.parent().unwrap();
    let link = folder.join("link.csv");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&file.path, &link).unwrap();
    let link = link.to_str().unwrap();
    let around = format!(
        "{}/../{}/people.csv",
        folder.display(),
        folder.file_name().unwrap().display()
    );
    let table = match home.database.system() {
        "PostgreSQL" => "public.t",
        "SQLite" => "MAIN.T",
        _ => "`t`",
    };
    for (path, table) in [(path, "\"t\""), (path, table), (link, "t"), (&around, "t")] {
        let import = ["import", path, "--table", table];
        let again = asked(&home, &[&import[..], &flags].concat()).await;
        assert_eq!(again.status, Some(0), "{again:#?}");
        assert!(again.err.contains("nothing was changed now"), "{again:#?}");
    }
    // The ledger knows the work where the address of the database says nothing.
    if home.is_sqlite() {
        return;
    }
    let address = home.url.split('@').nth(1).unwrap().split('/').next();
    let proxy = Proxy::before(address.unwrap());
    let url = home.url.replace(address.unwrap(), &proxy.address());
    let refused = run_aside(import(&file.path, &url, &flags)).await;
    assert_eq!(refused.status, Some(1), "{refused:#?}");
    let known = format!(
        "batch \"{}\" has done this work before",
        batch_of(&done.err)
    );
    assert!(refused.err.contains(&known), "{refused:#?}");
    assert_eq!(home.texts("SELECT name FROM t").await.len(), 0);
}

async fn a_changed_file_is_told_with_the_command_that_helps(home: Home) {
    people(&home).await;
    let file = named("people.csv", records(2_000).as_bytes());
    let slow = [
        "--page-size",
        "10",
        "--max-parallelism",
        "1",
        "--stride",
        "1",
        "--page-pause",
        "100ms",
    ];
    let running = start(import(&file.path, &home.url, &slow));
    eventually("a page of the import", || async {
        let rows = home.texts("SELECT name FROM t").await;
        (!rows.is_empty()).then_some(())
    })
    .await;
    let mut changed = records(2_000);
    changed.push_str("2001,more\n");
    fs::write(&file.path, changed).unwrap();
    running.says("next: `");
    let told = running.said();
    for part in [
        "is not the file that the batch began with",
        "put that file back as it was",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let cancelled = run_aside(as_printed(&told, &home.url, file.path.parent().unwrap())).await;
    assert_eq!(cancelled.status, Some(0), "{cancelled:#?}");
    let ended = running.ended_aside().await;
    assert_eq!(ended.status, Some(4), "{ended:#?}");
}

/// An export of no rows is such a file, in every format.
async fn a_file_without_records_is_imported(home: Home) {
    people(&home).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"").unwrap();
    let packed = packed.finish().unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("a.jsonl", b""),
        ("b.jsonl", b"\n\n"),
        ("c.csv", b"id,name\n"),
        ("d.jsonl.gz", &packed),
    ];
    for (name, content) in files {
        let file = named(name, content);
        let spool = file.path.with_extension("spool");
        let flags = ["--spool", spool.to_str().unwrap()];
        let done = run_aside(import(&file.path, &home.url, &flags)).await;
        assert_eq!(done.status, Some(0), "{name}: {done:#?}");
        assert!(done.out.contains("0 processed"), "{name}: {done:#?}");
        let gate = asked(&home, &["ensure-complete", &batch_of(&done.err)]).await;
        assert_eq!(gate.status, Some(0), "{name}: {gate:#?}");
    }
}
