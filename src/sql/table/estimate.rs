//! Estimates of the number of rows.

use super::{Table, inspect::Identity};
use crate::{base::error::PageError, page::size::Size, sql::Database};

/// # Estimate
impl Table {
    /// Returns the number of rows that match the filter: from the statistics of the database, or exact for a small
    /// table. Without statistics the number is unknown.
    ///
    /// | database | without a filter | with one |
    /// |---|---|---|
    /// | PostgreSQL | the planner's estimate, without row versions that were rolled back; exact for a table of at most 64 MiB without statistics | the same |
    /// | MySQL, MariaDB | the table's statistics | the optimizer's estimate |
    /// | SQLite | exact up to 100,000 rows; else `sqlite_stat1` after `ANALYZE`; else, for an `INTEGER PRIMARY KEY`, the distance from the lowest to the highest, and no more than the file may hold | unknown |
    ///
    /// [`count`](Self::count) is exact, and reads the table.
    ///
    /// # Errors
    /// The errors of the database, which are retryable.
    pub async fn size(&self) -> Result<Size, PageError> {
        let statements = &self.inner.statements;
        match (&self.inner.database, &self.inner.identity) {
            #[cfg(feature = "postgres")]
            (Database::Postgres(pool), _) => postgres::rows(pool, statements).await,
            #[cfg(feature = "mysql")]
            (Database::MySql(pool), Identity::MySql { schema, table }) => {
                let rows = mysql::rows(pool, statements, schema, table).await?;
                Ok(Size::from_hint(rows))
            }
            #[cfg(feature = "sqlite")]
            (Database::Sqlite(_), _) if statements.filter.is_some() => Ok(Size::Unknown),
            #[cfg(feature = "sqlite")]
            (Database::Sqlite(pool), Identity::Sqlite { table, integer_key }) => {
                if let Some(rows) = sqlite::few(pool, statements).await? {
                    return Ok(Size::Exact(rows));
                }
                if let Some(rows) = sqlite::analyzed(pool, table).await? {
                    return Ok(Size::Estimate(rows));
                }
                if !integer_key {
                    return Ok(Size::Unknown);
                }
                let most = sqlite::distance(pool, statements).await?;
                Ok(Size::Estimate(most))
            }
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => Ok(Size::Unknown),
        }
    }

    /// Returns the number in [`size`](Self::size), exact or estimated.
    ///
    /// # Errors
    /// Those of [`size`](Self::size).
    pub async fn size_hint(&self) -> Result<Option<u64>, PageError> {
        self.size().await.map(Size::items)
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::{PgPool, Row as _};

    use crate::{
        base::error::PageError,
        page::size::Size,
        sql::{connection::pgbouncer::rows_of, table::statements::Statements},
    };

    /// Selects tables without statistics that are small. A partitioned table has no size of its own.
    const UNKNOWN_AND_SMALL: &str = "SELECT relkind = 'r' AND (reltuples < 0 OR relpages = 0)
            AND pg_catalog.pg_relation_size(oid) <= 64 * 1024 * 1024
        FROM pg_catalog.pg_class WHERE oid = $1::text::regclass";

    /// Selects the most rows that the table may have. The planner multiplies the rows of the last `ANALYZE` as the file
    /// has grown since, and versions of rows that were rolled back, as by a dry run, make it grow. Rows that were added
    /// since the last `ANALYZE` are in the counters of the server, unless those were reset.
    const LIVE: &str = "SELECT sum(greatest(c.reltuples, s.n_live_tup, 0))::float8
        FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
        WHERE c.relkind = 'r' AND c.oid IN (
            SELECT $1::text::regclass UNION ALL
            SELECT relid FROM pg_catalog.pg_partition_tree($1::text::regclass))";

    pub async fn rows(pool: &PgPool, statements: &Statements) -> Result<Size, PageError> {
        let condition = statements.range(None, None, 1).sql;
        let table = &statements.table;
        // The planner assumes an unknown table to be much larger than it is.
        let small = rows_of(pool, UNKNOWN_AND_SMALL, vec![table.as_str().into()]).await?;
        if small.first().is_some_and(|row| row.get(0)) {
            let count = format!("SELECT count(*) FROM {table} WHERE {condition}");
            let rows = rows_of(pool, &count, Vec::new()).await?;
            let rows: i64 = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
            return Ok(u64::try_from(rows).map_or(Size::Unknown, Size::Exact));
        }
        let matching = planned(pool, &format!("SELECT 1 FROM {table} WHERE {condition}")).await?;
        let all = match &statements.filter {
            Some(_) => planned(pool, &format!("SELECT 1 FROM {table}")).await?,
            None => matching,
        };
        let live = rows_of(pool, LIVE, vec![table.as_str().into()]).await?;
        let live = live.first().and_then(|row| row.get::<Option<f64>, _>(0));
        let rows = match (matching, all, live) {
            (Some(matching), Some(all), Some(live)) if live > 0.0 && all > live => {
                Some(matching * live / all)
            }
            _ => matching,
        };
        Ok(Size::from_hint(rows.map(|rows| rows.round() as u64)))
    }

    /// Returns the number of rows that the planner expects.
    async fn planned(pool: &PgPool, query: &str) -> Result<Option<f64>, PageError> {
        let explain = format!("EXPLAIN (FORMAT JSON) {query}");
        let rows = rows_of(pool, &explain, Vec::new()).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let plan: serde_json::Value = serde_json::from_str(row.try_get_unchecked::<&str, _>(0)?)?;
        let rows = plan.pointer("/0/Plan/Plan Rows");
        Ok(rows.and_then(serde_json::Value::as_f64))
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use sqlx::{AssertSqlSafe, Row as _, SqlitePool};

    use crate::{base::error::PageError, sql::table::statements::Statements};

    /// Returns the number of rows of a small table.
    pub async fn few(pool: &SqlitePool, statements: &Statements) -> Result<Option<u64>, PageError> {
        const FEW: i64 = 100_000;
        let table = &statements.table;
        let count = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {})",
            FEW + 1
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(pool)
            .await?;
        Ok(u64::try_from(rows).ok().filter(|_| rows <= FEW))
    }

    pub async fn analyzed(pool: &SqlitePool, table: &str) -> Result<Option<u64>, PageError> {
        let there = "SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_stat1')";
        let there: bool = sqlx::query_scalar(there).fetch_one(pool).await?;
        if !there {
            return Ok(None);
        }
        // The column is a list of numbers, of which the first is the number of rows in the index. A partial index has
        // fewer rows than the table.
        let most = "SELECT max(CAST(stat AS INTEGER)) FROM main.sqlite_stat1 WHERE tbl = $1";
        let most: Option<i64> = sqlx::query_scalar(most).bind(table).fetch_one(pool).await?;
        Ok(most.and_then(|rows| u64::try_from(rows).ok()))
    }

    pub async fn distance(pool: &SqlitePool, statements: &Statements) -> Result<u64, PageError> {
        let (table, key) = (&statements.table, &statements.key[0].quoted);
        // Two queries, since SQLite finds an end in the index only when a query asks for one end.
        let ends =
            format!("SELECT (SELECT min({key}) FROM {table}), (SELECT max({key}) FROM {table})");
        let row = sqlx::query(AssertSqlSafe(ends)).fetch_one(pool).await?;
        let (lowest, highest): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        let distance = match (lowest, highest) {
            (Some(lowest), Some(highest)) => highest.abs_diff(lowest).saturating_add(1),
            _ => 0,
        };
        // Keys may be far apart. A row takes at least four bytes.
        let bytes = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let bytes: i64 = sqlx::query_scalar(bytes).fetch_one(pool).await?;
        let most = u64::try_from(bytes / 4).unwrap_or(u64::MAX);
        Ok(distance.min(most))
    }
}

#[cfg(feature = "mysql")]
mod mysql {
    use sqlx::{AssertSqlSafe, MySqlPool, Row as _};

    use crate::{base::error::PageError, sql::table::statements::Statements};

    pub async fn rows(
        pool: &MySqlPool,
        statements: &Statements,
        schema: &str,
        table: &str,
    ) -> Result<Option<u64>, PageError> {
        let Some(filter) = &statements.filter else {
            let rows = "SELECT CAST(table_rows AS SIGNED) FROM information_schema.tables
                WHERE table_schema = ? AND table_name = ?";
            let rows = sqlx::query_scalar(rows).bind(schema).bind(table);
            let rows: Option<Option<i64>> = rows.fetch_optional(pool).await?;
            return Ok(rows.flatten().and_then(|rows| u64::try_from(rows).ok()));
        };
        let table = &statements.table;
        let select = format!("SELECT 1 FROM {table} WHERE (\n{filter}\n)");
        // Only EXPLAIN EXTENDED of MariaDB shows the part that the filter leaves. MySQL does not know the word.
        let extended = format!("EXPLAIN EXTENDED {select}");
        // As a script, which returns every value as a text.
        let row = match sqlx::raw_sql(AssertSqlSafe(extended)).fetch_one(pool).await {
            Err(sqlx::Error::Database(_)) => {
                let explain = AssertSqlSafe(format!("EXPLAIN {select}"));
                sqlx::raw_sql(explain).fetch_one(pool).await?
            }
            explained => explained?,
        };
        let number = |name: &str| -> Result<Option<f64>, sqlx::Error> {
            let text: Option<String> = row.try_get_unchecked(name)?;
            Ok(text.and_then(|text| text.parse().ok()))
        };
        // The plan has no number where the optimizer already knows that there are no rows.
        let rows = number("rows")?.unwrap_or_default();
        Ok(Some(
            (rows * number("filtered")?.unwrap_or(100.0) / 100.0) as u64,
        ))
    }
}
