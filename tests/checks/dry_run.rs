//! A dry run shows what would happen, and changes nothing.

use temporal_batch::sql::{BackfillArgs, ChangeKind, DryRun, DryRunReport, Table, TableSpec};

use crate::{
    database::Home,
    support::{databases::on_each, eventually},
};

on_each! {
    a_dry_run_changes_no_rows,
    a_dry_run_leaves_the_estimate_of_the_rows_as_it_was,
    a_dry_run_whose_statements_fail_half_way_changes_no_rows,
    a_dry_run_changes_no_other_tables,
    differences_of_rows_have_the_changed_columns,
    rows_that_leave_the_filter_are_followed,
    rows_that_are_deleted_are_shown_as_such,
    rows_that_already_have_their_values_are_unchanged,
    the_sample_is_spread_over_the_table,
    a_table_of_two_key_columns_is_sampled,
    a_table_without_rows_has_no_pages,
    a_page_that_fails_is_reported_and_no_time_is_estimated,
    the_plan_and_its_warnings_are_shown,
    an_impossible_check_is_refused,
    a_report_is_read_back_from_json,
}

async fn everything(home: &Home) -> Vec<String> {
    home.rows("SELECT * FROM users ORDER BY id").await
}

fn users() -> TableSpec {
    TableSpec::new("users", ["id"])
}

async fn tried(home: &Home, dry_run: DryRun) -> DryRunReport {
    dry_run.run(&home.database).await.unwrap()
}

async fn a_dry_run_changes_no_rows(home: Home) {
    home.users(2_000).await;
    let before = everything(&home).await;
    let args = BackfillArgs::of(users())
        .set("name", "upper(name)")
        .exact_count(true);
    let report = tried(&home, DryRun::of(args).page_size(100).pages(10)).await;
    assert_eq!(report.pages.len(), 10);
    assert!(report.succeeded());
    assert!(
        report
            .pages
            .iter()
            .all(|page| (page.matched, page.changed) == (100, 100))
    );
    assert_eq!(report.rows, Some(2_000));
    let estimate = report.estimate.unwrap();
    assert_eq!((estimate.pages, estimate.sampled_pages), (20, 10));
    assert_eq!(everything(&home).await, before);
}

/// Row versions that were rolled back make a table of PostgreSQL grow, and the planner takes them for rows.
async fn a_dry_run_leaves_the_estimate_of_the_rows_as_it_was(home: Home) {
    home.users(20_000).await;
    match home.database.system() {
        "PostgreSQL" => {
            home.run(&["ALTER TABLE users SET (autovacuum_enabled = false)"])
                .await;
            // Sessions report what they inserted some seconds later, and would add it to what `ANALYZE` has found.
            let inserted = "SELECT (n_tup_ins = 20000)::text AS counted
                FROM pg_stat_user_tables WHERE relname = 'users'";
            eventually("the server has counted what was inserted", || async {
                let counted = home.rows(inserted).await;
                counted.iter().any(|row| row.contains("true")).then_some(())
            })
            .await;
            home.run(&["ANALYZE users"]).await;
        }
        "SQLite" => home.run(&["ANALYZE"]).await,
        _ => home.run(&["ANALYZE TABLE users"]).await,
    }
    for spec in [users(), users().filter("id <= 10000")] {
        let table = Table::inspect(&home.database, &spec).await.unwrap();
        let before = table.size_hint().await.unwrap();
        let args = BackfillArgs::of(users()).set("name", "upper(name)");
        tried(&home, DryRun::of(args).page_size(1_000).pages(40)).await;
        let after = table.size_hint().await.unwrap();
        let (Some(before), Some(after)) = (before, after) else {
            assert_eq!(before, after);
            continue;
        };
        assert!(
            after.abs_diff(before) * 5 < before,
            "{before} rows became {after}"
        );
    }
}

async fn a_dry_run_whose_statements_fail_half_way_changes_no_rows(home: Home) {
    home.users(300).await;
    home.run(&[
        "CREATE TABLE done (id BIGINT PRIMARY KEY)",
        "INSERT INTO done VALUES (250)",
    ])
    .await;
    let before = everything(&home).await;
    let args = BackfillArgs::of(users())
        .statement("UPDATE users SET name = 'x' WHERE {range}")
        .statement("INSERT INTO done SELECT id FROM users WHERE {range}");
    let report = tried(&home, DryRun::of(args).page_size(100)).await;
    let failed: Vec<_> = report
        .pages
        .iter()
        .map(|page| page.error.is_some())
        .collect();
    assert_eq!(failed, [false, false, true]);
    assert_eq!(report.pages[2].changed, 0);
    assert_eq!(everything(&home).await, before);
    assert_eq!(home.rows("SELECT id FROM done").await, ["250"]);
}

async fn a_dry_run_changes_no_other_tables(home: Home) {
    home.users(300).await;
    home.run(&["CREATE TABLE archive (id BIGINT, name VARCHAR(80), country VARCHAR(2))"])
        .await;
    let before = everything(&home).await;
    let args = BackfillArgs::of(users().filter("country = 'de'"))
        .statement("INSERT INTO archive SELECT * FROM users WHERE {range}")
        .statement("DELETE FROM users WHERE {range}");
    let report = tried(&home, DryRun::of(args).page_size(10)).await;
    assert!(report.succeeded(), "{report}");
    assert_eq!(report.statements.len(), 2);
    assert_eq!(
        report.pages.iter().map(|page| page.changed).sum::<u64>(),
        30
    );
    assert_eq!(everything(&home).await, before);
    assert_eq!(home.rows("SELECT * FROM archive").await, [""; 0]);
}

async fn differences_of_rows_have_the_changed_columns(home: Home) {
    home.users(30).await;
    let args = BackfillArgs::of(users()).set("name", "upper(name)");
    let report = tried(&home, DryRun::of(args).page_size(30).rows_shown(3)).await;
    assert_eq!(report.changes[0].key, ["1"]);
    let text = report.to_string();
    let columns = &report.changes[0].columns;
    assert_eq!(columns.len(), 1, "{text}");
    assert_eq!(
        (
            columns[0].column.as_str(),
            columns[0].before.as_deref(),
            columns[0].after.as_deref()
        ),
        ("name", Some("User 1"), Some("USER 1"))
    );
    assert!(
        text.contains("'User 1'") && text.contains("'USER 1'"),
        "{text}"
    );
}

async fn rows_that_leave_the_filter_are_followed(home: Home) {
    home.users(30).await;
    let args = BackfillArgs::of(users().filter("country = 'de'")).set("country", "'at'");
    let report = tried(&home, DryRun::of(args)).await;
    assert_eq!(
        report.changes.len(),
        1,
        "a sample should be part of one page: {report}"
    );
    assert_eq!(report.changes[0].kind, ChangeKind::Changed);
    assert_eq!(report.changes[0].columns[0].after.as_deref(), Some("at"));
}

async fn rows_that_are_deleted_are_shown_as_such(home: Home) {
    home.users(30).await;
    let args = BackfillArgs::of(users()).statement("DELETE FROM users WHERE {range}");
    let report = tried(&home, DryRun::of(args)).await;
    assert_eq!(report.changes[0].kind, ChangeKind::Deleted);
    assert!(report.to_string().contains("deleted"));
}

async fn rows_that_already_have_their_values_are_unchanged(home: Home) {
    home.users(100).await;
    home.run(&["UPDATE users SET name = 'same' WHERE id <= 40"])
        .await;
    let args = BackfillArgs::of(users()).set("name", "'same'");
    let report = tried(&home, DryRun::of(args)).await;
    let page = &report.pages[0];
    assert_eq!((page.matched, page.changed, page.unchanged), (100, 60, 40));
}

async fn the_sample_is_spread_over_the_table(home: Home) {
    home.users(20_000).await;
    let args = BackfillArgs::of(users())
        .set("name", "upper(name)")
        .exact_count(true);
    let report = tried(&home, DryRun::of(args).page_size(50).pages(10)).await;
    let firsts: Vec<i64> = report
        .pages
        .iter()
        .map(|page| first_part(&page.first))
        .collect();
    assert!(firsts.is_sorted(), "{firsts:?}");
    assert_eq!(firsts[0], 1);
    assert!(firsts.len() >= 5, "{firsts:?}");
    assert!(*firsts.last().unwrap() > 10_000, "{firsts:?}");
}

fn first_part(key: &temporal_batch::sql::Key) -> i64 {
    match &key.parts()[0] {
        temporal_batch::sql::KeyPart::Int(number) => *number,
        other => panic!("{other:?}"),
    }
}

async fn a_table_of_two_key_columns_is_sampled(home: Home) {
    home.run(&["CREATE TABLE prices (country VARCHAR(2), item BIGINT, cents BIGINT, PRIMARY KEY (country, item))"])
        .await;
    for country in ["at", "de", "fr"] {
        let values: Vec<_> = (1..=400)
            .map(|item| format!("('{country}', {item}, {item})"))
            .collect();
        let insert = format!("INSERT INTO prices VALUES {}", values.join(", "));
        home.run(&[&insert]).await;
    }
    let before = home
        .rows("SELECT * FROM prices ORDER BY country, item")
        .await;
    let args = BackfillArgs::of(TableSpec::new("prices", ["country", "item"]))
        .set("cents", "cents + 1")
        .exact_count(true);
    let report = tried(&home, DryRun::of(args).page_size(20).pages(6)).await;
    assert!(report.succeeded(), "{report}");
    assert!(report.pages.len() >= 3, "{report}");
    assert_ne!(
        report.pages[0].first.parts()[0],
        report.pages.last().unwrap().first.parts()[0]
    );
    assert_eq!(report.changes[0].key, ["at", "1"]);
    assert_eq!(
        home.rows("SELECT * FROM prices ORDER BY country, item")
            .await,
        before
    );
}

async fn a_table_without_rows_has_no_pages(home: Home) {
    home.users(0).await;
    let args = BackfillArgs::of(users())
        .set("name", "upper(name)")
        .exact_count(true);
    let report = tried(&home, DryRun::of(args)).await;
    assert!(report.pages.is_empty() && report.estimate.is_none());
    assert!(report.to_string().contains("no row matches"));
}

async fn a_page_that_fails_is_reported_and_no_time_is_estimated(home: Home) {
    home.users(300).await;
    home.run(&["CREATE UNIQUE INDEX names ON users (name)"])
        .await;
    let before = everything(&home).await;
    let args =
        BackfillArgs::of(users()).set("name", "CASE WHEN id > 100 THEN 'same' ELSE name END");
    let report = tried(&home, DryRun::of(args).page_size(100)).await;
    assert!(!report.succeeded() && report.estimate.is_none());
    assert!(report.pages[0].error.is_none());
    assert!(report.to_string().contains("failed"), "{report}");
    assert_eq!(everything(&home).await, before);
}

async fn the_plan_and_its_warnings_are_shown(home: Home) {
    home.users(5_000).await;
    home.run(&["CREATE TABLE old_names (id BIGINT, name VARCHAR(80))"])
        .await;
    let args = BackfillArgs::of(users()).set(
        "name",
        "CAST((SELECT count(*) FROM old_names o WHERE o.id + 0 = users.id) AS CHAR(9))",
    );
    let report = tried(&home, DryRun::of(args).page_size(50).pages(2)).await;
    assert!(!report.statements[0].lines.is_empty(), "{report}");
    assert!(
        report.statements[0]
            .warnings
            .iter()
            .any(|w| w.contains("whole table")),
        "{report}"
    );
    assert!(!report.page_query.lines.is_empty(), "{report}");
    assert!(report.page_query.warnings.is_empty(), "{report}");
}

async fn an_impossible_check_is_refused(home: Home) {
    home.users(10).await;
    let args = BackfillArgs::of(users()).set("name", "upper(name)");
    for (verify, why) in [
        ("nmae IS NOT NULL", "nmae"),
        ("DELETE FROM users", "begins with DELETE"),
        ("name = 'x", "not closed"),
    ] {
        let refused = DryRun::of(args.clone().verify(verify))
            .run(&home.database)
            .await
            .unwrap_err();
        assert_eq!(refused.error_type(), "InvalidVerify", "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }
    let whole = args
        .verify("SELECT count(*) FROM users u JOIN users v ON u.id = v.id WHERE u.name IS NULL");
    let report = tried(&home, DryRun::of(whole)).await;
    assert!(
        report.to_string().contains("no place for a range"),
        "{report}"
    );
}

async fn a_report_is_read_back_from_json(home: Home) {
    home.users(30).await;
    let args = BackfillArgs::of(users()).set("name", "upper(name)");
    let report = tried(&home, DryRun::of(args)).await;
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<DryRunReport>(&json).unwrap(), report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_lock_is_reported() {
    let Some(home) = crate::database::postgres("a_foreign_lock_is_reported").await else {
        return;
    };
    home.users(100).await;
    let before = everything(&home).await;
    let temporal_batch::sql::Database::Postgres(pool) = &home.database else {
        panic!("the database is PostgreSQL");
    };
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM users WHERE id = 60 FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    let args = BackfillArgs::of(users())
        .set("name", "upper(name)")
        .lock_timeout(std::time::Duration::from_secs(1));
    let report = tried(&home, DryRun::of(args).page_size(50)).await;
    other.rollback().await.unwrap();
    assert!(report.pages[0].error.is_none(), "{report}");
    let blocked = &report.pages[1];
    assert!(blocked.error.is_some(), "{report}");
    assert!(
        blocked
            .lock_wait_seconds
            .is_some_and(|seconds| seconds > 0.1),
        "{report}"
    );
    assert!(
        blocked.blocked_by[0].contains("idle in transaction"),
        "{report}"
    );
    assert_eq!(everything(&home).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_dry_run_leaves_no_changes() {
    let Some(home) = crate::database::postgres("a_dry_run_that_is_dropped").await else {
        return;
    };
    home.users(100).await;
    let before = everything(&home).await;
    let args = BackfillArgs::of(users())
        .statement("UPDATE users SET name = 'x' WHERE {range}")
        .statement("SELECT pg_sleep(30) FROM users WHERE {range} LIMIT 1");
    let trying = DryRun::of(args);
    let database = home.database.clone();
    let trying = tokio::spawn(async move { trying.run(&database).await });
    // The second statement runs, so the first one has written.
    let temporal_batch::sql::Database::Postgres(pool) = &home.database else {
        panic!("the database is PostgreSQL");
    };
    let sleeps = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let pid: i32 = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        loop {
            let pid = sqlx::query_scalar(sleeps)
                .fetch_optional(pool)
                .await
                .unwrap();
            if let Some(pid) = pid {
                return pid;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    trying.abort();
    // The dry run ends as if its process had been killed.
    sqlx::query("SELECT pg_terminate_backend($1, 10000)")
        .bind(pid)
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(everything(&home).await, before);
}
