//! Keys that no cursor can hold are refused before the start.

use crate::{
    command::{backfill, exits},
    database::Home,
    support::{
        command::{online, run},
        databases::on_each,
    },
};

on_each!(keys_that_no_cursor_can_hold_are_refused_with_the_filter_that_leaves_them_out,);

async fn keys_that_no_cursor_can_hold_are_refused_with_the_filter_that_leaves_them_out(home: Home) {
    let long = "é".repeat(600);
    home.script(&format!(
        "CREATE TABLE t (k VARCHAR(700) NOT NULL PRIMARY KEY, x INTEGER NOT NULL);
        INSERT INTO t VALUES ('a', 0), ('{long}', 0), ('z', 0)"
    ))
    .await;
    let refused = run(backfill(&home, &["--set", "x = 1"]));
    exits(&refused, 2);
    let part = "1 row of ";
    assert!(refused.err.contains(part), "{refused:#?}");
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 0);
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("rows");
    let to = to.to_str().unwrap();
    let mut export = online(&["export", "--table", "t", "--to", to, "--format", "csv"]);
    export.env("DATABASE_URL", &home.url);
    let exported = run(export);
    exits(&exported, 2);
    assert!(exported.err.contains(part), "{exported:#?}");

    let (_, filter) = refused.err.split_once("(--where) ").unwrap();
    let (filter, _) = filter.split_once(" and treat").unwrap();
    exits(
        &run(backfill(&home, &["--set", "x = 1", "--where", filter])),
        0,
    );
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 1").await, 2);
}
