//! The plan of the database for a page.

use super::{Table, error::TableError, inspect::Identity, statements::Bound};
use crate::sql::Database;

/// The number of rows of the pages whose plans are checked: the first page, and one from the first key on.
const PAGE_ROWS: u64 = 1_000;

/// # Check it
impl Table {
    /// Refuses a table whose pages the database would find by reading or sorting the whole table, and names the
    /// missing index. A table that is so small that reading it is the fastest way is not refused.
    ///
    /// A filter on columns outside of the index is fine: a page then reads as many rows as it takes to fill it, and
    /// all pages together read the table once.
    ///
    /// # Errors
    /// [`TableError::SlowPages`], or an error of the database.
    pub async fn check_plan(&self) -> Result<(), TableError> {
        let statements = &self.inner.statements;
        let mut starts = vec![None];
        let first = self
            .keys(None, None, 1)
            .await
            .map_err(TableError::FirstRow)?;
        starts.extend(first.into_iter().map(Some));
        for start in starts {
            let page = statements.page(Vec::new(), start.as_ref(), None, PAGE_ROWS, 0);
            let found = match (&self.inner.database, &self.inner.identity) {
                #[cfg(feature = "postgres")]
                (Database::Postgres(pool), _) => postgres::slow_part(pool, page).await?,
                #[cfg(feature = "mysql")]
                (Database::MySql(pool), Identity::MySql { schema, table }) => {
                    mysql::slow_part(pool, statements, page, schema, table).await?
                }
                #[cfg(feature = "sqlite")]
                (Database::Sqlite(pool), _) => sqlite::slow_part(pool, page).await?,
                #[allow(unreachable_patterns, reason = "where there is only one database")]
                _ => None,
            };
            if let Some(plan) = found {
                return Err(TableError::SlowPages {
                    table: self.quoted_name().to_owned(),
                    key: self.inner.spec.key.clone(),
                    plan,
                    index: self.missing_index(),
                });
            }
        }
        Ok(())
    }

    /// Returns a statement that creates the index which pages need.
    fn missing_index(&self) -> String {
        let key = &self.inner.statements.key;
        let quoted: Vec<_> = key.iter().map(|column| column.quoted.as_str()).collect();
        let columns = quoted.join(", ");
        match &self.inner.identity {
            // The database chooses the name.
            #[cfg(feature = "postgres")]
            Identity::Postgres { .. } => {
                format!(
                    "CREATE INDEX CONCURRENTLY ON {} ({columns})",
                    self.quoted_name()
                )
            }
            #[cfg(feature = "mysql")]
            Identity::MySql { table, .. } => {
                let index = self.index_name(table);
                format!("CREATE INDEX {index} ON {} ({columns})", self.quoted_name())
            }
            // In SQLite the index carries the schema.
            #[cfg(feature = "sqlite")]
            Identity::Sqlite { table, .. } => {
                let (index, table) = (self.index_name(table), self.quote(table));
                format!("CREATE INDEX \"main\".{index} ON {table} ({columns})")
            }
        }
    }

    #[cfg(any(feature = "mysql", feature = "sqlite"))]
    fn index_name(&self, table: &str) -> String {
        let mut name = vec![table.to_owned()];
        name.extend(self.inner.spec.key.iter().cloned());
        name.push("page".to_owned());
        // The longest name in MySQL.
        let name: String = name.join("_").chars().take(64).collect();
        self.quote(&name)
    }
}

#[cfg(feature = "sqlite")]
pub(super) use sqlite::{sorts as sqlite_sorts, with_its_schema as sqlite_with_its_schema};

#[cfg(feature = "postgres")]
mod postgres {
    use serde_json::Value as Json;
    use sqlx::{AssertSqlSafe, Connection as _, PgPool, Postgres, Row as _, postgres::PgRow};

    use super::Bound;
    use crate::sql::backend::value::bound;

    /// Settings under which the planner sorts only if there is no index to use.
    const INDEX_IF_ANY: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; \
        SET LOCAL enable_bitmapscan = off; SET LOCAL enable_incremental_sort = off";

    pub async fn slow_part(pool: &PgPool, page: Bound) -> Result<Option<String>, sqlx::Error> {
        let explain = format!("EXPLAIN (FORMAT JSON) {}", page.sql);
        let mut connection = pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let query = bound::<Postgres>(explain.clone(), page.values.clone());
        let natural = query.fetch_one(&mut *transaction).await?;
        let Some(slow) = slow_node(&plan_of(&natural)?) else {
            return Ok(None);
        };
        // Reading a small table may be the fastest way, even with an index.
        sqlx::raw_sql(AssertSqlSafe(INDEX_IF_ANY))
            .execute(&mut *transaction)
            .await?;
        let query = bound::<Postgres>(explain, page.values);
        let forced = query.persistent(false).fetch_one(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(slow_node(&plan_of(&forced)?).map(|_| slow))
    }

    fn plan_of(row: &PgRow) -> Result<Json, sqlx::Error> {
        let text: &str = row.try_get_unchecked(0)?;
        serde_json::from_str(text).map_err(|e| sqlx::Error::Decode(e.into()))
    }

    /// Returns the first node of a plan that reads or sorts more than a page.
    fn slow_node(plan: &Json) -> Option<String> {
        match plan {
            Json::Array(all) => all.iter().find_map(slow_node),
            Json::Object(node) => {
                let said = match node.get("Node Type").and_then(Json::as_str) {
                    Some("Sort" | "Incremental Sort") => Some("sort it".to_owned()),
                    Some(scan @ ("Seq Scan" | "Bitmap Heap Scan" | "Tid Scan")) => {
                        Some(format!("read all of it ({scan})"))
                    }
                    _ => None,
                };
                let below = ["Plan", "Plans"].iter().filter_map(|name| node.get(*name));
                said.or_else(|| below.into_iter().find_map(slow_node))
            }
            _ => None,
        }
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use sqlx::{Row as _, Sqlite, SqlitePool, pool::PoolConnection, sqlite::SqliteRow};

    use super::Bound;
    use crate::sql::backend::value::bound;

    pub async fn slow_part(pool: &SqlitePool, page: Bound) -> Result<Option<String>, sqlx::Error> {
        let explain = format!("EXPLAIN QUERY PLAN {}", page.sql);
        let mut connection = with_its_schema(pool).await?;
        let query = bound::<Sqlite>(explain, page.values).persistent(false);
        let rows = query.fetch_all(&mut *connection).await?;
        Ok(sorts(&rows)?.then(|| "sort all of it".to_owned()))
    }

    /// Returns a connection that knows the tables and indexes that other sessions have created. Unlike running a
    /// statement, explaining one does not refresh that knowledge.
    pub async fn with_its_schema(pool: &SqlitePool) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        sqlx::query("SELECT count(*) FROM main.sqlite_master")
            .fetch_one(&mut *connection)
            .await?;
        Ok(connection)
    }

    /// Returns whether a plan sorts. Without sorting, the rows come in the order of an index, or of the table itself.
    pub fn sorts(plan: &[SqliteRow]) -> Result<bool, sqlx::Error> {
        for step in plan {
            let detail: String = step.try_get("detail")?;
            if detail.contains("TEMP B-TREE") {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(feature = "mysql")]
mod mysql {
    use sqlx::{MySql, MySqlPool, Row as _, mysql::MySqlRow};

    use super::Bound;
    use crate::sql::{
        backend::value::bound,
        table::{inspect::ordered_index, statements::Statements},
    };

    /// Reads the plan as a table, since MariaDB does not escape names in JSON.
    pub async fn slow_part(
        pool: &MySqlPool,
        statements: &Statements,
        page: Bound,
        schema: &str,
        table: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let explain = format!("EXPLAIN {}", page.sql);
        let query = bound::<MySql>(explain, page.values);
        let rows = query.fetch_all(pool).await?;
        let slow: Result<Vec<_>, _> = rows.iter().map(slow_step).collect();
        let Some(slow) = slow?.into_iter().flatten().next() else {
            return Ok(None);
        };
        // Reading a small table may be the fastest way, even with an index.
        let key: Vec<_> = statements.key.iter().map(|c| c.name.as_str()).collect();
        let index = ordered_index(pool, schema, table, &key).await?;
        Ok(index.is_none().then_some(slow))
    }

    fn slow_step(row: &MySqlRow) -> Result<Option<String>, sqlx::Error> {
        let text = |name: &str| {
            let text = row.try_get_unchecked::<Option<String>, _>(name);
            text.map(Option::unwrap_or_default)
        };
        if text("Extra")?.contains("Using filesort") {
            return Ok(Some("sort it (filesort)".to_owned()));
        }
        Ok((text("type")? == "ALL").then(|| "read all of it".to_owned()))
    }
}

#[cfg(all(test, any(feature = "postgres", feature = "sqlite")))]
mod tests {
    use sqlx::AssertSqlSafe;

    use crate::{
        processor::SkipAhead,
        sql::{
            Database, Table, TableSpec, backend::value::bound, table::statements::Bound,
            test_server::Postgres,
        },
    };

    const ROWS: &str = "WITH RECURSIVE numbers (n) AS (
            SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000
        )
        INSERT INTO t SELECT n % 7, CAST(n * 7919 % 100003 AS TEXT), 'some text of a row' FROM numbers";

    /// Returns all statements that go through keys, from different positions of a table of 100,000 rows.
    async fn statements(database: &Database) -> Vec<Bound> {
        let spec = TableSpec::new("t", ["a", "b"]);
        let table = Table::inspect(database, &spec).await.unwrap();
        let SkipAhead::To(start) = table.skip(None, None, 40_000).await.unwrap() else {
            panic!("there are more rows");
        };
        let SkipAhead::To(end) = table.skip(Some(&start), None, 20_000).await.unwrap() else {
            panic!("there are more rows");
        };
        let statements = &table.inner.statements;
        let mut all = vec![statements.highest()];
        for (start, end) in [
            (None, None),
            (Some(&start), None),
            (None, Some(&end)),
            (Some(&start), Some(&end)),
        ] {
            for (limit, offset) in [(1_000, 0), (1, 9_999)] {
                all.push(statements.page(Vec::new(), start, end, limit, offset));
            }
        }
        all
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn keys_and_jumps_read_nothing_but_an_index_in_postgresql() {
        let Some(server) = Postgres::shared() else {
            return;
        };
        let pool = server.pool("plans", 2).await;
        for statement in [
            "CREATE TABLE t (a bigint, b text COLLATE \"und-x-icu\", c text NOT NULL, PRIMARY KEY (a, b))",
            ROWS,
            "VACUUM ANALYZE t",
        ] {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&pool)
                .await
                .unwrap();
        }
        for Bound { sql, values } in statements(&pool.clone().into()).await {
            let explain = bound::<sqlx::Postgres>(format!("EXPLAIN (FORMAT JSON) {sql}"), values);
            let row = explain.fetch_one(&pool).await.unwrap();
            let plan: String = sqlx::Row::try_get_unchecked(&row, 0).unwrap();
            assert!(plan.contains("\"Index Only Scan\""), "{sql}\n{plan}");
            assert!(!plan.contains("Sort"), "{sql}\n{plan}");
            // The whole comparison bounds the scan, and nothing is left for a filter.
            assert!(!plan.contains("\"Filter\""), "{sql}\n{plan}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn keys_and_jumps_read_nothing_but_an_index_in_sqlite() {
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect("sqlite::memory:").await.unwrap();
        for statement in [
            "CREATE TABLE t (a INT NOT NULL, b TEXT NOT NULL COLLATE NOCASE, c TEXT, UNIQUE (a, b))",
            ROWS,
        ] {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&pool)
                .await
                .unwrap();
        }
        for Bound { sql, values } in statements(&pool.clone().into()).await {
            let explain = bound::<sqlx::Sqlite>(format!("EXPLAIN QUERY PLAN {sql}"), values);
            let rows = explain.fetch_all(&pool).await.unwrap();
            let steps: Vec<String> = rows
                .iter()
                .map(|row| sqlx::Row::get(row, "detail"))
                .collect();
            let [step] = steps.as_slice() else {
                panic!("{sql}\n{steps:?}");
            };
            assert!(step.contains("USING COVERING INDEX"), "{sql}\n{step}");
            let bounded = sql.contains("WHERE");
            assert_eq!(step.starts_with("SEARCH"), bounded, "{sql}\n{step}");
        }
    }
}
