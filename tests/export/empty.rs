//! An export of no rows can be imported again.

use std::fs;

use crate::{
    commands::run,
    database::Source,
    support::databases::{make_ledger_tables, on_each},
};

on_each! {
    an_export_of_no_rows_is_imported_again,
}

async fn an_export_of_no_rows_is_imported_again(source: Source) {
    source
        .run("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(20))")
        .await;
    make_ledger_tables(&source.database).await;
    for (format, gzip) in [
        ("jsonl", false),
        ("jsonl", true),
        ("csv", false),
        ("csv", true),
    ] {
        let name = format!("{format}{gzip}");
        let (to, all) = (
            source.text(&name),
            source.text(&format!("{name}-all.{format}")),
        );
        let mut export = vec![
            "export",
            "--table",
            "t",
            "--to",
            &to,
            "--format",
            format,
            "--concatenate",
            &all,
        ];
        if gzip {
            export.push("--gzip");
        }
        let exported = run(&source.url, &export);
        assert_eq!(exported.status, Some(0), "{name}: {exported:#?}");
        let files = fs::read_dir(&to).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files
            .filter(|file| file.is_file() && !file.ends_with("manifest.json"))
            .collect();
        files.push(all.into());
        for file in files {
            let spool = source.text("spool");
            let file = file.to_str().unwrap();
            let mut import = vec!["import", file, "--table", "t", "--spool", &spool];
            if gzip {
                import.extend(["--format", format]);
            }
            let imported = run(&source.url, &import);
            assert_eq!(imported.status, Some(0), "{file}: {imported:#?}");
            assert!(
                imported.out.contains("0 processed"),
                "{file}: {imported:#?}"
            );
        }
    }
}
