//! A user's own processor over a table.

use async_trait::async_trait;
use sqlx::Sqlite;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead,
    sql::{Key, Table},
    testing::Simulator,
};

use crate::database::sqlite;

/// The columns that are read. A struct with `#[derive(sqlx::FromRow)]` works as well.
type User = (String,);

struct LowerCase {
    users: Table,
    pool: sqlx::SqlitePool,
}

#[async_trait]
impl PageProcessor for LowerCase {
    const NAME: &'static str = "lower-case";
    type Args = Option<Key>;
    type Cursor = Key;
    type Item = (Key, User);

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<Key, (Key, User)>, PageError> {
        self.users
            .page::<Sqlite, _, _>(ctx, &["email"], ctx.args().as_ref())
            .await
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<Key>, PageError> {
        self.users.skip_ahead(ctx, pages, ctx.args().as_ref()).await
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<(Key, User)>,
    ) -> Result<PageReport, PageError> {
        for (key, (email,)) in items {
            let (condition, values) = self.users.condition_of(&key, &key, 2);
            let update =
                format!("UPDATE users SET email = $1, visits = visits + 1 WHERE {condition}");
            let mut update = sqlx::query(sqlx::AssertSqlSafe(update)).bind(email.to_lowercase());
            for value in values {
                update = match value {
                    temporal_batch::sql::Value::Text(text) => update.bind(text),
                    temporal_batch::sql::Value::Int(number) => update.bind(number),
                    temporal_batch::sql::Value::Flag(flag) => update.bind(flag),
                };
            }
            update.execute(&self.pool).await?;
        }
        Ok(PageReport::all_processed())
    }
}

#[tokio::test]
async fn a_processor_reads_a_table_in_strides_up_to_its_mark() {
    let home = sqlite().await;
    home.fill("users", 1_000).await;
    home.script(
        "ALTER TABLE users ADD email TEXT NOT NULL DEFAULT 'Someone@Example.org';
        ALTER TABLE users ADD visits INT NOT NULL DEFAULT 0",
    )
    .await;
    let users = home.inspect("users", &["id"]).await.unwrap();
    let mark = users.high_water_mark().await.unwrap();
    home.script("INSERT INTO users (id, x, email) VALUES (5000, 0, 'Later@Example.org')")
        .await;
    let temporal_batch::sql::Database::Sqlite(pool) = &home.database else {
        unreachable!()
    };
    let processor = LowerCase {
        users,
        pool: pool.clone(),
    };
    let batch = Batch::of::<LowerCase>("lower", mark)
        .page_size(30)
        .stride(5);
    let run = Simulator::new()
        .duplicate_announcements()
        .run(&processor, &batch)
        .await
        .unwrap();
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(run.items.processed, 1_000);
    let done = "SELECT count(*) FROM users WHERE email = 'someone@example.org' AND visits = 1";
    assert_eq!(home.number(done).await, 1_000);
    assert_eq!(
        home.number("SELECT visits FROM users WHERE id = 5000")
            .await,
        0
    );
}

#[tokio::test]
async fn rows_are_read_from_the_database_of_the_table() {
    let home = sqlite().await;
    home.fill("t", 1).await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let rows = table
        .rows::<sqlx::Postgres, (i64,)>(&["x"], None, None, 1)
        .await;
    let error = rows.unwrap_err();
    assert_eq!(error.error_type(), "WrongDatabase");
    assert!(
        error.message().contains("in SQLite, not in PostgreSQL"),
        "{error}"
    );
    let rows = table.rows::<Sqlite, (i64,)>(&["y"], None, None, 1).await;
    assert_eq!(rows.unwrap_err().error_type(), "TableColumnMissing");
}
