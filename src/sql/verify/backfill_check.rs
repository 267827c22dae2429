//! The check of a backfill, against its ledger and the user's query.

use std::sync::Arc;

use super::{
    RangeCheck,
    known_letters::KnownLetters,
    ledger_check::{Holes, LedgerCheck},
};
use crate::{
    base::{error::PageError, text::count},
    page::token::PageToken,
    processor::store::dead_letter::DeadLetters,
    progress::check::{Check, FailedRange},
    sql::{BackfillArgs, HighWaterMark, Key, Table},
};

/// The batch run to check.
pub(crate) struct Checked<'a> {
    pub batch_id: &'a str,
    pub batch_run: &'a str,
    /// The position after which the batch began; `None` for the beginning of the data.
    pub covered_from: Option<&'a Key>,
    /// The position up to which the batch is done; `None` for all of the data.
    pub covered_to: Option<&'a Key>,
    /// The store of its dead letters.
    pub letters: Option<Arc<dyn DeadLetters>>,
}

/// Returns the check behind [`PageProcessor::check`](crate::PageProcessor::check) of a backfill: the ledger of a
/// once-per-page backfill has an unbroken chain of applied strides, and [`BackfillArgs::verify`] holds for the rows.
/// `None` if neither can be checked.
pub(crate) async fn check_backfill(
    table: &Table,
    args: &BackfillArgs,
    checked: Checked<'_>,
) -> Result<Option<Check>, PageError> {
    if args.verify.is_none() && !args.once {
        return Ok(None);
    }
    let mark = match &args.high_water_mark {
        HighWaterMark::NoRows => {
            return Ok(Some(Check {
                notes: vec!["there were no rows when the batch started".to_owned()],
                ..Check::default()
            }));
        }
        HighWaterMark::At(key) => Some(key),
        _ => None,
    };
    let end = checked.covered_to.or(mark);
    let rows = match &args.verify {
        Some(verify) => {
            let check = RangeCheck::new(table, verify).await;
            Some(check.map_err(super::RangeCheckError::into_page_error)?)
        }
        None => None,
    };
    // In the middle of a batch, the rest of the table is not done.
    let too_early = checked.covered_to.is_some() && rows.as_ref().is_some_and(|r| !r.is_ranged());
    let mut check = match &rows {
        Some(rows) if !too_early => rows.run(checked.covered_from, end).await?,
        _ => Check::default(),
    };
    if too_early {
        check.notes.push(
            "nothing was verified: the query has no place for a range, so it waits until the batch is done"
                .to_owned(),
        );
    }
    let letters = KnownLetters::read(checked.letters.as_deref(), checked.batch_id).await?;
    letters.explain(table, &mut check).await?;
    if args.once {
        let ledger = LedgerCheck {
            table,
            batch_run: checked.batch_run,
            covered_from: checked.covered_from,
            covered_to: checked.covered_to,
            end: mark,
        };
        let Holes {
            strides,
            items,
            given_up,
            holes,
            notes,
        } = ledger.run().await?;
        if rows.is_none() {
            check.ranges = strides;
            check.items = Some(items);
            (check.items_given_up, check.pages_given_up) = given_up;
        }
        check.notes.extend(notes);
        for hole in holes {
            // The rows hold: they were added later, or changed by another program.
            let holds = match &rows {
                Some(rows) if hole.may_be_new && rows.is_ranged() => {
                    let found = rows.run(hole.start.as_ref(), hole.end.as_ref()).await?;
                    found.holds()
                }
                _ => false,
            };
            if holds {
                let note = {
                    let hold = if hole.rows == 1 { "holds" } else { "hold" };
                    format!(
                        "{}, but the {} there {hold}",
                        hole.what,
                        count(hole.rows, "row")
                    )
                };
                check.notes.push(note);
                continue;
            }
            check.fails(FailedRange {
                start: hole.start.as_ref().map(PageToken::encode).transpose()?,
                end: hole.end.as_ref().map(PageToken::encode).transpose()?,
                items: hole.rows,
                message: hole.what,
            });
        }
    }
    Ok(Some(check))
}

/// Returns the check of a batch that changes rows once per page without a backfill: the ledger has an unbroken chain of
/// applied strides.
#[cfg(all(feature = "files", feature = "http"))]
pub(crate) async fn backfill_coverage(
    table: &Table,
    high_water_mark: &HighWaterMark,
    (batch_id, batch_run): (&str, &str),
    (covered_from, covered_to): (Option<&Key>, Option<&Key>),
) -> Result<Option<Check>, PageError> {
    let args = BackfillArgs::of(table.spec().clone())
        .once(true)
        .high_water_mark(high_water_mark.clone());
    let checked = Checked {
        batch_id,
        batch_run,
        covered_from,
        covered_to,
        letters: Some(table.database().ledger() as Arc<dyn DeadLetters>),
    };
    check_backfill(table, &args, checked).await
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::{AssertSqlSafe, SqlitePool, sqlite::SqlitePoolOptions};

    use super::*;
    use crate::{
        base::time::Timestamp,
        processor::store::dead_letter::DeadLetter,
        sql::{Database, SqlLedger, TableSpec},
    };

    /// 100 rows that a batch run has changed in ten strides. Its last page was not full.
    async fn done() -> (SqlitePool, Table) {
        let pool = SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect("sqlite::memory:").await.unwrap();
        SqlLedger::new(pool.clone()).apply_schema().await.unwrap();
        let mut statements =
            vec!["CREATE TABLE t (id INTEGER PRIMARY KEY, done INTEGER)".to_owned()];
        statements.extend((1..=100).map(|id| format!("INSERT INTO t VALUES ({id}, 1)")));
        statements.extend((0..10).map(|stride| {
            let to = (stride + 1) * 10;
            let end = if stride == 9 {
                "NULL".to_owned()
            } else {
                format!("'[{to}]'")
            };
            format!(
                "INSERT INTO temporal_batch_stride VALUES \
                 ('run', {stride}, 'batch', 1, '[{to}]', {end}, FALSE, 1, 0, 10, 10, 0, 0, 0)"
            )
        }));
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&pool)
                .await
                .unwrap();
        }
        let spec = TableSpec::new("t", ["id"]);
        let table = Table::inspect(&Database::from(pool.clone()), &spec)
            .await
            .unwrap();
        (pool, table)
    }

    async fn run(pool: &SqlitePool, statement: &'static str) {
        sqlx::query(statement).execute(pool).await.unwrap();
    }

    fn args(table: &Table) -> BackfillArgs {
        let args = BackfillArgs::of(table.spec().clone())
            .set("done", "1")
            .once(true);
        args.high_water_mark(HighWaterMark::At(Key::new([100_i64])))
    }

    async fn check(table: &Table, args: &BackfillArgs, covered_to: Option<&Key>) -> Check {
        let checked = Checked {
            batch_id: "batch",
            batch_run: "run",
            covered_from: None,
            covered_to,
            letters: Some(table.database().ledger()),
        };
        check_backfill(table, args, checked).await.unwrap().unwrap()
    }

    fn range(start: i64, end: i64) -> (Option<PageToken>, Option<PageToken>) {
        let token = |key: i64| PageToken::encode(&Key::new([key])).ok();
        (token(start), token(end))
    }

    #[tokio::test]
    async fn an_unbroken_chain_of_strides_holds() {
        let (_, table) = done().await;
        let found = check(&table, &args(&table), None).await;
        assert!(found.holds() && found.notes.is_empty(), "{found:?}");
        assert_eq!((found.ranges, found.items), (10, Some(100)));
        let found = check(&table, &args(&table).verify("done = 1"), None).await;
        assert!(found.holds() && found.items == Some(100), "{found:?}");
    }

    #[tokio::test]
    async fn what_comes_before_the_first_cursor_is_not_the_batchs() {
        let (pool, table) = done().await;
        run(&pool, "UPDATE t SET done = 0 WHERE id <= 30").await;
        run(&pool, "DELETE FROM temporal_batch_stride WHERE stride < 3").await;
        run(
            &pool,
            "UPDATE temporal_batch_stride SET stride = stride - 3",
        )
        .await;
        let from = Key::new([30_i64]);
        for args in [args(&table), args(&table).verify("done = 1")] {
            let check = |covered_from| {
                let checked = Checked {
                    batch_id: "batch",
                    batch_run: "run",
                    covered_from,
                    covered_to: None,
                    letters: None,
                };
                check_backfill(&table, &args, checked)
            };
            let found = check(Some(&from)).await.unwrap().unwrap();
            assert!(found.holds() && found.notes.is_empty(), "{found:?}");
            assert_eq!(found.items, Some(70));
        }
        // A missing first stride leaves a hole from the first cursor on.
        run(&pool, "DELETE FROM temporal_batch_stride WHERE stride = 0").await;
        let checked = Checked {
            batch_id: "batch",
            batch_run: "run",
            covered_from: Some(&from),
            covered_to: None,
            letters: None,
        };
        let found = check_backfill(&table, &args(&table), checked).await;
        let failed = found.unwrap().unwrap().failed.remove(0);
        assert_eq!((failed.start, failed.end), range(30, 50));
    }

    #[tokio::test]
    async fn a_stride_that_the_ledger_has_lost_is_found() {
        let (pool, table) = done().await;
        run(&pool, "DELETE FROM temporal_batch_stride WHERE stride = 4").await;
        // A hole counts even if its rows hold, since the cause is unknown.
        for args in [args(&table), args(&table).verify("done = 1")] {
            let found = check(&table, &args, None).await;
            assert_eq!(found.failed_ranges, 1, "{found:?}");
            let failed = &found.failed[0];
            assert_eq!((failed.start.clone(), failed.end.clone()), range(40, 60));
            assert!(
                failed.message.starts_with("stride 4 is not in the ledger"),
                "{failed:?}"
            );
        }
        run(&pool, "DELETE FROM temporal_batch_stride").await;
        assert!(!check(&table, &args(&table), None).await.holds());
        // A database without the rows is not the one where the batch has run.
        run(&pool, "DELETE FROM t").await;
        for args in [args(&table), args(&table).verify("done = 1")] {
            let found = check(&table, &args, None).await;
            assert!(!found.holds(), "{found:?}");
            let why = "the ledger of this database has no stride of the batch run";
            assert!(found.failed[0].message.starts_with(why), "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_stride_that_is_applied_in_part_is_found() {
        let (pool, table) = done().await;
        run(
            &pool,
            "UPDATE temporal_batch_stride SET applied_to = '[44]' WHERE stride = 4",
        )
        .await;
        let found = check(&table, &args(&table), None).await;
        assert_eq!(
            (found.failed_ranges, found.failed_items),
            (1, 6),
            "{found:?}"
        );
        assert_eq!(
            (found.failed[0].start.clone(), found.failed[0].end.clone()),
            range(44, 50)
        );
        // Rows that hold may have been added later.
        let found = check(&table, &args(&table).verify("done = 1"), None).await;
        assert!(
            found.holds() && found.notes[0].contains("the 6 rows there hold"),
            "{found:?}"
        );
        // Without rows, nothing was missed.
        run(&pool, "DELETE FROM t WHERE id BETWEEN 45 AND 50").await;
        let found = check(&table, &args(&table), None).await;
        assert!(found.holds(), "{found:?}");
    }

    #[tokio::test]
    async fn rows_that_came_or_went_are_a_note() {
        let (pool, table) = done().await;
        run(&pool, "DELETE FROM t WHERE id BETWEEN 10 AND 12").await;
        let found = check(&table, &args(&table), None).await;
        assert!(
            found.holds() && found.notes[0].contains("0 were added and 3 removed"),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn a_stage_is_checked_up_to_its_end() {
        let (pool, table) = done().await;
        run(&pool, "UPDATE t SET done = 0 WHERE id > 50").await;
        run(&pool, "DELETE FROM temporal_batch_stride WHERE stride > 5").await;
        let end = Key::new([50_i64]);
        let with_query = args(&table).verify("SELECT count(*) FROM t WHERE done = 0");
        let found = check(&table, &with_query, Some(&end)).await;
        assert!(found.holds() && found.items == Some(50), "{found:?}");
        let whole = args(&table).verify("SELECT count(*) FROM t WHERE done = 0 GROUP BY done");
        let found = check(&table, &whole, Some(&end)).await;
        assert!(
            found.holds() && found.notes[0].starts_with("nothing was verified"),
            "{found:?}"
        );
        assert_eq!(check(&table, &whole, None).await.failed_items, 50 + 40);
    }

    #[tokio::test]
    async fn a_stage_may_end_within_a_stride_that_has_gone_on_since() {
        let (pool, table) = done().await;
        run(&pool, "DELETE FROM temporal_batch_stride WHERE stride > 5").await;
        run(
            &pool,
            "UPDATE temporal_batch_stride SET applied_to = '[44]', processed = 4 WHERE stride = 4",
        )
        .await;
        for covered_to in [44_i64, 42] {
            let end = Key::new([covered_to]);
            let found = check(&table, &args(&table), Some(&end)).await;
            assert!(found.holds() && found.notes.is_empty(), "{found:?}");
        }
        // The stride does not match what the ledger says.
        let end = Key::new([47_i64]);
        let found = check(&table, &args(&table), Some(&end)).await;
        assert_eq!(found.failed_items, 3, "{found:?}");
        assert_eq!(
            (found.failed[0].start.clone(), found.failed[0].end.clone()),
            range(44, 47)
        );
    }

    #[tokio::test]
    async fn rows_after_the_high_water_mark_are_not_the_batchs() {
        let (pool, table) = done().await;
        run(&pool, "INSERT INTO t VALUES (200, 0)").await;
        let found = check(&table, &args(&table).verify("done = 1"), None).await;
        assert!(found.holds() && found.items == Some(100), "{found:?}");
    }

    #[tokio::test]
    async fn dead_letters_explain_rows_that_are_wrong() {
        let (pool, table) = done().await;
        run(&pool, "UPDATE t SET done = 0 WHERE id IN (30, 31)").await;
        let (start, end) = range(29, 30);
        let letter = DeadLetter {
            id: "1".to_owned(),
            batch_id: "batch".to_owned(),
            batch_run: "run".to_owned(),
            processor: "sql-backfill".to_owned(),
            stride: 2,
            start,
            end,
            key: None,
            error_type: "E".to_owned(),
            message: "no".to_owned(),
            attempts: 1,
            first_at: Timestamp(0),
            last_at: Timestamp(0),
            record: None,
        };
        SqlLedger::new(pool).put(&[letter]).await.unwrap();
        let found = check(&table, &args(&table).verify("done = 1"), None).await;
        assert_eq!(found.failed_items, 2, "{found:?}");
        let message = &found.failed[0].message;
        assert!(
            message.ends_with("; 1 dead letter of the batch in this range"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn without_a_ledger_and_a_query_there_is_nothing_to_check() {
        let (_, table) = done().await;
        let checked = Checked {
            batch_id: "batch",
            batch_run: "run",
            covered_from: None,
            covered_to: None,
            letters: None,
        };
        let args = args(&table).once(false);
        assert_eq!(check_backfill(&table, &args, checked).await.unwrap(), None);
    }
}
