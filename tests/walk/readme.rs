//! The README of the repository.

use std::{fmt::Write as _, path::Path};

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{document::steps, samples::walk, support::servers::Postgres, terminal::Terminals};

/// A database with 20,000 users.
fn users(test: &str) -> Option<String> {
    let Some(server) = Postgres::shared() else {
        Postgres::skip();
        return None;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    Some(runtime.block_on(async {
        let url = server.database(test).await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let users = "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL);
            INSERT INTO users SELECT i, 'User' || i || '@Example.org' FROM generate_series(1, 20000) i;
            ANALYZE users";
        connection.execute(users).await.unwrap();
        connection.close().await.unwrap();
        url
    }))
}

/// The id of the batch in an output.
fn batch_of(said: &str) -> &str {
    let line = said.lines().find_map(|line| line.strip_prefix("batch  "));
    line.expect("a line that names the batch").trim()
}

#[test]
fn a_table_is_migrated_without_rust() {
    let Some(url) = users("readme") else { return };
    let mut terminals = Terminals::open();
    let server = terminals.dev_server("temporal-batch dev-server");
    let mut batch = None;
    let steps = steps("README.md");
    let of_tables = steps
        .iter()
        .filter(|step| !step.command.starts_with("cargo"));
    for step in of_tables {
        let line = match step.command.strip_prefix("export DATABASE_URL=") {
            Some(_) => format!("export DATABASE_URL={url}"),
            None => step.command.clone(),
        };
        let line = match &batch {
            Some(id) => line.replace(" ID ", &format!(" {id} ")),
            None => line,
        };
        let ended = terminals.run(&line).exits(0);
        if line.contains("--verify") {
            batch = Some(batch_of(&ended.said).to_owned());
        }
    }
    assert!(batch.is_some(), "no backfill in the README");
    server.interrupt();
    server.ended().exits(0);
}

#[test]
fn the_demo_is_the_main_command() {
    let mut steps = steps("README.md");
    steps.retain(|step| step.command.contains("-- demo"));
    assert_eq!(steps.len(), 1, "{steps:?}");
    // The demo brings its own server and checks every row.
    walk(&mut Terminals::open(), steps, &[]);
}

/// A program whose only source is the README.
#[test]
fn the_program_is_worker_starter_and_operator() {
    let readme = include_str!("../../README.md");
    let program = readme.split_once("```rust,no_run\n").unwrap().1;
    let program = program.split_once("```").unwrap().0;
    let mut terminals = Terminals::open();
    let folder = terminals.folder();
    terminals.program("hash-emails", program);
    terminals.run(
        "sqlite3 users.db \"CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL)\"",
    );
    terminals.run(
        "sqlite3 users.db \"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
         INSERT INTO users SELECT i, 'User' || i || '@Example.org' FROM n\"",
    );
    assert!(Path::new(&folder).join("users.db").exists());
    let server = terminals.dev_server("temporal-batch dev-server");
    let mut worker = terminals.begin("hash-emails worker");
    worker.says("task queue");
    let started = terminals
        .run("hash-emails start hash-emails --batch-id emails")
        .exits(0);
    assert_eq!(batch_of(&started.said), "emails");
    for line in [
        "hash-emails watch emails",
        "hash-emails failures emails",
        "hash-emails status emails",
        "hash-emails list",
    ] {
        terminals.run(line).exits(0);
    }
    let ended = terminals.run("hash-emails redrive emails");
    assert!(ended.said.contains("nothing"), "{ended:?}");
    let left = terminals
        .run("sqlite3 users.db \"SELECT count(*) FROM users WHERE email <> lower(email)\"");
    assert_eq!(left.said.trim(), "0");
    // The batch is steered while it runs: one page a second.
    let slow =
        "hash-emails start hash-emails --batch-id slow --page-rate 1 --page-size 100 --detach";
    terminals.run(slow).exits(0);
    for line in [
        "hash-emails pause slow",
        "hash-emails resume slow",
        "hash-emails set slow --max-parallelism 2",
        "hash-emails cancel slow",
    ] {
        terminals.run(line).exits(0);
    }
    terminals.run("hash-emails watch slow").exits(4);
    for running in [worker, server] {
        running.interrupt();
        running.ended().exits(0);
    }
}

#[test]
fn every_link_has_a_target() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = include_str!("../../README.md");
    let mut dead = String::new();
    for link in readme.split("](").skip(1) {
        let link = link.split(')').next().unwrap();
        if !link.starts_with("http") && !top.join(link).exists() {
            let _ = writeln!(dead, "{link}");
        }
    }
    assert!(dead.is_empty(), "dead links: {dead}");
}
