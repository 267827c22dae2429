//! Rows that a page matches, but that the database would leave unchanged without an error.

use temporal_batch::{
    Outcome, PageProcessor as _,
    sql::{
        BackfillArgs, Connections, DEFAULT_CONNECTION, Database, DatabaseOptions, SqlBackfill,
        Table, TableSpec,
    },
    store::JsonlDeadLetters,
};

use crate::{database::Home, support::databases::on_each};

on_each!(
    a_row_that_a_trigger_leaves_unchanged_fails_alone,
    a_row_that_the_archive_refuses_is_not_deleted,
);

fn t() -> TableSpec {
    TableSpec::new("t", ["id"])
}

/// A processor that keeps dead letters in a folder, in place of a ledger.
fn keeping(database: &Database, letters: &tempfile::TempDir) -> SqlBackfill {
    let connections = Connections::new().with(DEFAULT_CONNECTION, database.clone());
    let letters = JsonlDeadLetters::new(letters.path().join("letters.jsonl"));
    SqlBackfill::new(connections).dead_letters(letters)
}

/// Creates a trigger that hides the row with this id from a statement, without an error.
async fn keep_out(home: &Home, event: &str, table: &str, id: i64) {
    let row = if event == "INSERT" { "new" } else { "old" };
    let passed = if event == "DELETE" { "old" } else { "new" };
    let trigger = match home.is_sqlite() {
        true => format!(
            "CREATE TRIGGER keep_{event} BEFORE {event} ON {table} WHEN {row}.id = {id} \
             BEGIN SELECT RAISE(IGNORE); END"
        ),
        false => format!(
            "CREATE FUNCTION keep_{event}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF {row}.id = {id} THEN RETURN NULL; END IF; RETURN {passed}; END $$;
             CREATE TRIGGER keep_{event} BEFORE {event} ON {table} \
             FOR EACH ROW EXECUTE FUNCTION keep_{event}()"
        ),
    };
    home.script(&trigger).await;
}

async fn a_row_that_a_trigger_leaves_unchanged_fails_alone(home: Home) {
    if home.is_mysql() {
        // A trigger of SQLite can only fail.
        return;
    }
    home.numbers(95).await;
    home.script("UPDATE t SET x = 3 WHERE id = 20").await;
    home.ledger_tables().await;
    keep_out(&home, "UPDATE", "t", 7).await;
    let letters = tempfile::tempdir().unwrap();
    let by_itself = |once| BackfillArgs::of(t()).set("x", "x + 1").once(once);
    let to_three = |once| BackfillArgs::of(t()).set("x", "3").once(once);
    for args in [to_three(true), to_three(false), by_itself(true)] {
        home.script("UPDATE t SET x = 0 WHERE id <> 20").await;
        let once = args.once;
        let run = home
            .run_with(&keeping(&home.database, &letters), args)
            .await;
        assert_eq!(run.outcome, Outcome::CompletedWithFailures);
        assert_eq!((run.items.processed, run.items.failed), (94, 1));
        let left = home.number("SELECT count(*) FROM t WHERE x = 0").await;
        assert_eq!(left, 1);
        if once {
            let letters = "SELECT count(*) FROM temporal_batch_dead_letter WHERE error_type = 'RowsPassedOver'";
            assert!(home.number(letters).await > 0);
        }
    }
    let delete = BackfillArgs::of(t())
        .statement("DELETE FROM t WHERE {range}")
        .once(true);
    keep_out(&home, "DELETE", "t", 8).await;
    let run = home.run(delete).await;
    assert_eq!((run.items.processed, run.items.failed), (94, 1));
    let left = "SELECT count(*) FROM t WHERE id = 8";
    assert_eq!(home.number(left).await, 1);
}

async fn a_row_that_the_archive_refuses_is_not_deleted(home: Home) {
    if home.is_mysql() {
        return;
    }
    home.numbers(40).await;
    home.ledger_tables().await;
    home.script("CREATE TABLE archive (id INTEGER PRIMARY KEY)")
        .await;
    keep_out(&home, "INSERT", "archive", 7).await;
    let args = BackfillArgs::of(t())
        .statement("INSERT INTO archive (id) SELECT id FROM t WHERE {range}")
        .statement("DELETE FROM t WHERE {range}")
        .once(true);
    let run = home.run(args).await;
    assert_eq!((run.items.processed, run.items.failed), (39, 1));
    let left = "SELECT count(*) FROM t WHERE id = 7";
    assert_eq!(home.number(left).await, 1);
    assert_eq!(home.number("SELECT count(*) FROM archive").await, 39);
}

/// The database of a home for a role that is subject to row security.
async fn as_tenant(home: &Home, role: &str) -> Database {
    let url = url::Url::parse(&home.url).unwrap();
    let mut url = url.clone();
    url.set_username(role).unwrap();
    let options = DatabaseOptions::from_url(url.as_str()).unwrap();
    Database::connect(&options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_security_is_refused_unless_it_is_allowed() {
    let Some(home) = crate::database::postgres("row_security").await else {
        return;
    };
    let role = format!("tenant_{}", std::process::id());
    home.script(&format!(
        "CREATE ROLE {role} LOGIN;
         CREATE TABLE hidden (id INT PRIMARY KEY, tenant INT NOT NULL, v INT NOT NULL DEFAULT 0);
         INSERT INTO hidden SELECT n, n % 2 FROM generate_series(1, 20) AS n;
         CREATE TABLE fixed AS SELECT * FROM hidden;
         ALTER TABLE fixed ADD PRIMARY KEY (id);
         ALTER TABLE hidden OWNER TO {role}; ALTER TABLE fixed OWNER TO {role};
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;
         ALTER TABLE fixed ENABLE ROW LEVEL SECURITY; ALTER TABLE fixed FORCE ROW LEVEL SECURITY;
         CREATE POLICY p ON hidden USING (tenant = 1);
         CREATE POLICY s ON fixed FOR SELECT USING (true);
         CREATE POLICY u ON fixed FOR UPDATE USING (tenant = 1)"
    ))
    .await;
    let database = as_tenant(&home, &role).await;
    let letters = tempfile::tempdir().unwrap();
    let processor = keeping(&database, &letters);
    for table in ["hidden", "fixed"] {
        let spec = TableSpec::new(table, ["id"]);
        let args = BackfillArgs::of(spec.clone()).set("v", "1");
        let refused = processor.prepare(args).await.unwrap_err();
        assert_eq!(refused.error_type(), "TableRowSecurity");
        assert!(refused.message().contains(&role), "{refused}");
        // Row security is refused even where rows are only read, as by an export.
        Table::inspect(&database, &spec).await.unwrap_err();
        let see_all = Table::inspect(&home.database, &spec).await.unwrap();
        assert_eq!(see_all.count(None, None).await.unwrap(), 20);
    }
    let allowed = |table: &str| {
        let spec = TableSpec::new(table, ["id"]).allow_row_security(true);
        BackfillArgs::of(spec).set("v", "1")
    };
    let run = home.run_with(&processor, allowed("hidden")).await;
    assert_eq!((run.items.processed, run.items.failed), (10, 0));
    let run = home.run_with(&processor, allowed("fixed")).await;
    assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
    assert_eq!((run.items.processed, run.items.failed), (10, 10), "{run:?}");
    database.close().await;
    home.script(&format!("DROP TABLE hidden, fixed; DROP ROLE {role}"))
        .await;
}
