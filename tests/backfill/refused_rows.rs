//! Pages with a row that the database refuses for a reason of its own.

use sqlx::{Connection as _, Executor as _, MySqlConnection};
use temporal_batch::{
    Outcome,
    sql::{BackfillArgs, TableSpec},
    testing::SimulatedRun,
};

use crate::{
    command::{backfill, exits, id},
    database::Home,
    support::{
        command::{online, run},
        databases::on_each,
        servers::MariaDb,
    },
};

on_each!(
    a_row_that_a_trigger_refuses_is_the_only_one_left_out,
    without_a_ledger_the_refused_row_is_the_only_one_left_out,
    a_page_of_one_row_is_given_up_too,
    values_of_a_trigger_are_in_no_message,
    a_tolerance_of_no_page_stops_a_batch_whose_page_only_retries,
);

/// An error message as a user may write it.
const SAID: &str = "row 7 is locked, card 4111-1111";

const ONCE: [&str; 4] = ["--set", "x = x + 1", "--once", "--create-ledger-tables"];

/// A trigger that refuses row 7.
async fn trigger(home: &Home) {
    let trigger = if home.is_sqlite() {
        format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON t WHEN old.id = 7
             BEGIN SELECT RAISE(ABORT, '{SAID}'); END"
        )
    } else if home.is_mysql() {
        format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW IF old.id = 7 THEN
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{SAID}'; END IF"
        )
    } else {
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF old.id = 7 THEN RAISE EXCEPTION 'row % is locked, card 4111-1111', old.id; END IF;
         RETURN new; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()"
            .to_owned()
    };
    home.script(&trigger).await;
}

async fn home_with_trigger(home: &Home, rows: u32) {
    home.numbers(rows).await;
    trigger(home).await;
}

fn args() -> BackfillArgs {
    BackfillArgs::of(TableSpec::new("t", ["id"])).set("x", "x + 1")
}

async fn assert_only_row_7_is_left(home: &Home, run: &SimulatedRun, rows: i64) {
    assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
    let items = (run.items.processed, run.items.failed);
    assert_eq!(items, (rows as u64 - 1, 1));
    assert_eq!(run.failed, []);
    let changed = "SELECT count(*) FROM t WHERE x = 1 AND id <> 7";
    assert_eq!(home.number(changed).await, rows - 1);
}

async fn a_row_that_a_trigger_refuses_is_the_only_one_left_out(home: Home) {
    home_with_trigger(&home, 95).await;
    home.ledger_tables().await;
    let run = home.run(args().once(true)).await;
    assert_only_row_7_is_left(&home, &run, 95).await;
    let letters = "SELECT count(*) FROM temporal_batch_dead_letter WHERE item_key = '[7]'";
    assert_eq!(home.number(letters).await, 1);
}

async fn without_a_ledger_the_refused_row_is_the_only_one_left_out(home: Home) {
    home_with_trigger(&home, 95).await;
    // Pages of a lost worker run again.
    let args = BackfillArgs::of(TableSpec::new("t", ["id"])).set("x", "1");
    let run = home.run(args).await;
    assert_only_row_7_is_left(&home, &run, 95).await;
}

async fn a_page_of_one_row_is_given_up_too(home: Home) {
    home_with_trigger(&home, 7).await;
    home.script("DELETE FROM t WHERE id < 7").await;
    home.ledger_tables().await;
    let run = home.run(args().once(true)).await;
    assert_only_row_7_is_left(&home, &run, 1).await;
}

async fn values_of_a_trigger_are_in_no_message(home: Home) {
    home_with_trigger(&home, 20).await;
    let id = id();
    let all: Vec<_> = [&ONCE[..], &["--batch-id", &id]].concat();
    let ended = run(backfill(&home, &all));
    exits(&ended, 3);
    let mut failures = online(&["failures", &id, "--json"]);
    failures.env("DATABASE_URL", &home.url);
    let failures = run(failures);
    let status = run(online(&["status", &id, "--json"]));
    for said in [&ended.out, &ended.err, &failures.out, &status.out] {
        assert!(!said.contains("4111"), "{said}");
    }
    assert!(
        ended.out.contains("row … is locked, card …"),
        "{}",
        ended.out
    );
}

/// A trigger whose code fails at row 7, for a reason that no code of the database names.
async fn failing_trigger(home: &Home) {
    let trigger = if home.is_sqlite() {
        "CREATE TRIGGER refuse BEFORE UPDATE ON t WHEN old.id = 7
         BEGIN SELECT like('a', 'b', 'two'); END"
    } else if home.is_mysql() {
        "CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW IF old.id = 7 THEN RESIGNAL; END IF"
    } else {
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF old.id <> 7 THEN RETURN new; END IF; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()"
    };
    home.script(trigger).await;
}

async fn a_tolerance_of_no_page_stops_a_batch_whose_page_only_retries(home: Home) {
    home.numbers(100).await;
    failing_trigger(&home).await;
    let pages = ["--page-size", "10", "--tolerate-pages", "0"];
    let all: Vec<_> = [&ONCE[..], &pages, &["--on-exceeded", "stop"]].concat();
    let ended = run(backfill(&home, &all));
    exits(&ended, 4);
    let why = "1 page failed; at most 0 are tolerated";
    assert!(ended.out.contains(why), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_longer_than_the_server_takes_is_the_only_one_left_out() {
    let Some(server) = MariaDb::launch(false) else {
        return;
    };
    let url = server.database("packet").await;
    let mut root = MySqlConnection::connect(&url).await.unwrap();
    let prepare = "SET GLOBAL max_allowed_packet = 1048576;
        CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, x LONGTEXT NOT NULL)";
    root.execute(sqlx::raw_sql(prepare)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.csv");
    let record = |id: u32| {
        let bytes = if id == 150 { 2_000_000 } else { 10_000 };
        format!("{id},{}\n", "y".repeat(bytes))
    };
    let records: String = (1..=300).map(record).collect();
    std::fs::write(&file, format!("id,x\n{records}")).unwrap();
    let id = id();
    let file = file.to_str().unwrap();
    let args = ["import", file, "--table", "t", "--create-ledger-tables"];
    let mut import = online(&[&args[..], &["--batch-id", &id]].concat());
    import.env("DATABASE_URL", &url);
    let ended = run(import);
    exits(&ended, 3);
    assert!(ended.out.contains("299 processed"), "{}", ended.out);
    let mut failures = online(&["failures", &id]);
    failures.env("DATABASE_URL", &url);
    let failures = run(failures);
    let limit = "max_allowed_packet";
    assert!(failures.out.contains(limit), "{}", failures.out);
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t WHERE id <> 150");
    assert_eq!(count.fetch_one(&mut root).await.unwrap(), 299);
}
