//! Tables to page through by a unique key, in PostgreSQL, MySQL and MariaDB, and SQLite.
//!
//! ```text
//!   TableSpec ---> inspect (one file a database) ---> Table ---> keys, skip, rows, records, count
//!                     |                                 |            |
//!                  catalog: columns, types,          plan, horizon   statements ---> read
//!                  NULLs, unique indexes             estimate
//! ```

mod column;
mod error;
mod estimate;
mod filter;
mod horizon;
mod inspect;
mod key;
mod lock;
mod name;
mod plan;
mod primary_key;
mod read;
mod row_bytes;
mod spec;
mod spread;
mod statements;
mod walk;

use std::sync::Arc;

use crate::sql::Database;
pub use column::Column;
pub use error::TableError;
use filter::Syntax;
#[cfg(all(feature = "sqlite", feature = "files"))]
pub(super) use inspect::makes_texts;
pub use key::{Key, KeyPart};
use name::Quotes;
#[cfg(all(feature = "postgres", feature = "files"))]
pub(super) use read::POSTGRES_TEXTS;
pub use read::TableDatabase;
pub use spec::TableSpec;
pub(super) use spread::Spread;
use statements::Statements;

/// A table that was looked at: its columns, the types of its key, and the statements that go through it.
/// Cloning it is cheap.
///
/// # In which order
///
/// 1. [`inspect`](Self::inspect) looks at the catalog and refuses what cannot be paged through. Once per
///    worker is enough.
/// 2. [`check_plan`](Self::check_plan) asks the database how it would find a page.
/// 3. [`high_water_mark`](Self::high_water_mark) fixes an end, so that a table that keeps growing does
///    not keep a batch running. It belongs into the arguments of the batch, by way of
///    [`prepare`](crate::PageProcessor::prepare).
/// 4. [`page`](Self::page) in `fetch` and [`skip_ahead`](Self::skip_ahead) in `skip_ahead`.
///
/// # Which rows a batch meets
///
/// Every row that was committed before the high-water mark was fixed, matches the filter and is not deleted
/// or moved to another key before its page is read: exactly once. Rows that come later: at most once.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "postgres")]
/// # mod example {
/// use async_trait::async_trait;
/// use sqlx::Postgres;
/// use temporal_batch::*;
///
/// /// Looks at every user; the arguments are where to end.
/// struct Greet { users: Table }
///
/// #[async_trait]
/// impl PageProcessor for Greet {
///     const NAME: &'static str = "greet-users";
///     type Args = Option<Key>;
///     type Cursor = Key;
///     type Item = (Key, (String,));
///
///     async fn prepare(&self, _: Option<Key>) -> Result<Option<Key>, PageError> {
///         self.users.high_water_mark().await
///     }
///
///     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<Key, Self::Item>, PageError> {
///         self.users.page::<Postgres, _, _>(ctx, &["name"], ctx.args().as_ref()).await
///     }
///
///     async fn skip_ahead(&self, ctx: &PageContext<Self>, pages: u32) -> Result<SkipAhead<Key>, PageError> {
///         self.users.skip_ahead(ctx, pages, ctx.args().as_ref()).await
///     }
///
///     async fn process(&self, _: &PageContext<Self>, users: Vec<Self::Item>) -> Result<PageReport, PageError> {
///         for (_, (name,)) in users {
///             println!("hello {name}");
///         }
///         Ok(PageReport::all_processed())
///     }
/// }
///
/// async fn greet(pool: sqlx::PgPool) -> Result<Greet, TableError> {
///     let users = TableSpec::new("shop.users", ["id"]).filter("name IS NOT NULL");
///     let users = Table::inspect(&pool.into(), &users).await?;
///     users.check_plan().await?;
///     Ok(Greet { users })
/// }
/// # }
/// ```
///
/// The guide is `docs/tables.md`.
#[derive(Clone)]
pub struct Table {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    spec: TableSpec,
    columns: Vec<Column>,
    statements: Statements,
    /// As the catalog identifies it.
    identity: inspect::Identity,
    passes_over: bool,
    /// Of what [`cells`](Self::cells) has read.
    row_bytes: row_bytes::RowBytes,
}

/// # Look at it
impl Table {
    /// The specification that it was made from, with the names of columns as the database spells them.
    pub fn spec(&self) -> &TableSpec {
        &self.inner.spec
    }

    /// Where it is.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// Its columns, in the order of the table.
    pub fn columns(&self) -> &[Column] {
        &self.inner.columns
    }

    /// Its name for statements: quoted, and with its schema where the database has them.
    pub fn quoted_name(&self) -> &str {
        &self.inner.statements.table
    }

    /// A name, such as that of a column, quoted for statements in this database.
    pub fn quote(&self, name: &str) -> String {
        quotes(&self.inner.database).quote(name)
    }

    /// Whether something of the table may keep a statement from changing a row without an error: a trigger, a
    /// rule or a policy.
    pub(in crate::sql) fn passes_over(&self) -> bool {
        self.inner.passes_over
    }

    /// Whether a column is part of the key. Upper and lower case count only where they do for the database.
    pub fn is_key_column(&self, name: &str) -> bool {
        let same = |key: &String| match self.inner.statements.syntax {
            Syntax::Postgres => key == name,
            Syntax::MySql | Syntax::Sqlite => key.to_lowercase() == name.to_lowercase(),
        };
        self.inner.spec.key.iter().any(same)
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("database", &self.inner.database)
            .field("spec", &self.inner.spec)
            .finish_non_exhaustive()
    }
}

fn quotes(database: &Database) -> Quotes {
    match database {
        #[cfg(feature = "postgres")]
        Database::Postgres(_) => Quotes::Double,
        #[cfg(feature = "mysql")]
        Database::MySql(_) => Quotes::Back,
        #[cfg(feature = "sqlite")]
        Database::Sqlite(_) => Quotes::Double,
    }
}
