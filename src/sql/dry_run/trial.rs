//! One page, in a transaction that is rolled back.

use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use super::{
    diff::{RowChange, Snapshot},
    lock_watch::{LockWait, Watch, watcher},
};
use crate::{
    base::error::PageError,
    sql::{
        BackfillArgs, Database, Key, Table,
        backend::dialect::Dialect,
        backfill::{Rows, Work},
        connection::lease::LeasedTransaction,
    },
};

/// A page that was tried.
pub(super) struct Trial {
    /// The time of the statements, without the commit.
    pub took: Duration,
    /// The number of changed rows, or the reason why the page failed.
    pub changed: Result<u64, PageError>,
    /// The wait for locks; `None` if the database did not answer.
    pub lock_wait: Option<LockWait>,
}

/// Runs the statements for the rows, and rolls them back.
pub(super) async fn page<DB: Dialect>(
    pool: &Pool<DB>,
    work: &Work,
    args: &BackfillArgs,
    rows: &Rows,
) -> Result<Trial, PageError> {
    let watcher = watcher(pool).await;
    let began = Instant::now();
    let mut transaction = LeasedTransaction::on(pool, Work::begin::<DB>(args)).await?;
    let begun = began.elapsed();
    let watch = Watch::begin::<DB>(watcher, &mut transaction).await;

    let began = Instant::now();
    let mut changed = work.apply::<DB>(&mut transaction, args, rows).await;
    if changed.is_ok()
        && let Some(check) = DB::CHECK_DEFERRED
        && let Err(error) = DB::script(&mut transaction, check.to_owned()).await
    {
        changed = Err(error.into());
    }
    let took = begun + began.elapsed();
    // A broken connection has nothing to roll back.
    let rolled_back = transaction.rollback().await;
    let lock_wait = match watch {
        Some(watch) => watch.end().await,
        // In SQLite, writers wait when they begin.
        None if DB::WAITS.is_none() => Some(LockWait {
            waited: begun,
            ..LockWait::default()
        }),
        None => None,
    };
    if changed.is_ok() {
        rolled_back?;
    }
    Ok(Trial {
        took,
        changed,
        lock_wait,
    })
}

/// Returns the changes of a page to some of its rows.
pub(super) async fn changes<DB: Dialect>(
    pool: &Pool<DB>,
    work: &Work,
    args: &BackfillArgs,
    page: &[Key],
    looked_at: &[Key],
    most: usize,
) -> Result<Vec<RowChange>, PageError> {
    let (Some(first), Some(last)) = (page.first(), page.last()) else {
        return Ok(Vec::new());
    };
    let table = work.table();
    let mut transaction = LeasedTransaction::on(pool, Work::begin::<DB>(args)).await?;
    let before = snapshot::<DB>(&mut transaction, table, looked_at).await?;
    let rows = Rows::Between(first.clone(), last.clone());
    work.apply::<DB>(&mut transaction, args, &rows).await?;
    let after = snapshot::<DB>(&mut transaction, table, looked_at).await?;
    transaction.rollback().await?;
    let columns: Vec<_> = table.columns().iter().map(|c| c.name.clone()).collect();
    Ok(before.changes(&after, &columns, most))
}

/// Returns the rows with these keys, whether they match the filter or not.
async fn snapshot<DB: Dialect>(
    connection: &mut DB::Connection,
    table: &Table,
    keys: &[Key],
) -> Result<Snapshot, PageError> {
    let names = table.spec().key.iter();
    let names = names.chain(table.columns().iter().map(|column| &column.name));
    let selected: Vec<_> = names.map(|name| as_text(table, name)).collect();
    let (condition, values) = table.condition_among(keys, 1);
    let name = table.quoted_name();
    let key = table.spec().key.iter();
    // The columns carry the table, since a bare name would mean the text.
    let key: Vec<_> = key
        .map(|column| format!("{name}.{}", table.quote(column)))
        .collect();
    let sql = format!(
        "SELECT {} FROM {name} WHERE {condition} ORDER BY {}",
        selected.join(", "),
        key.join(", ")
    );
    let key_columns = table.spec().key.len();
    let mut snapshot = Snapshot::default();
    for row in DB::rows(connection, sql, values).await? {
        let texts: Result<Vec<_>, _> = (0..selected.len()).map(|at| DB::text(&row, at)).collect();
        let mut texts = texts?;
        let values = texts.split_off(key_columns);
        snapshot.add(texts.into_iter().flatten().collect(), values);
    }
    Ok(snapshot)
}

/// Returns a column of any type as a text.
fn as_text(table: &Table, column: &str) -> String {
    let name = table.quote(column);
    match table.database() {
        #[cfg(feature = "postgres")]
        Database::Postgres(_) => format!("{name}::text"),
        #[cfg(feature = "mysql")]
        Database::MySql(_) => {
            let known = table.columns().iter().find(|c| c.name == column);
            let type_name = known
                .map_or("", |c| c.type_name.as_str())
                .to_ascii_lowercase();
            let bytes = [
                "binary",
                "blob",
                "bit",
                "geometry",
                "point",
                "polygon",
                "linestring",
            ];
            match bytes.iter().any(|bytes| type_name.contains(bytes)) {
                true => format!("concat('0x', hex({name}))"),
                false => format!("CAST({name} AS CHAR)"),
            }
        }
        #[cfg(feature = "sqlite")]
        Database::Sqlite(_) => format!(
            "CASE typeof({name}) WHEN 'blob' THEN 'x''' || hex({name}) || '''' ELSE CAST({name} AS TEXT) END"
        ),
    }
}
