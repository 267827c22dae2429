//! Tables to page through by a unique key, in PostgreSQL, MySQL and MariaDB, and SQLite.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | [`Table`] |
//! | `spec.rs`, `name.rs`, `filter.rs` | the requested rows, and the checks that need no database |
//! | `resolve.rs` | the name by which the database knows a table |
//! | `inspect/` | the catalog's description of a table, a file for each database |
//! | `column.rs`, `key.rs`, `key_length.rs`, `primary_key.rs` | its columns, and its key |
//! | `statements.rs` | the statements, as texts and values |
//! | `walk.rs`, `row_locks.rs`, `row_bytes.rs` | keys and rows of a page |
//! | `plan.rs`, `estimate.rs`, `sample.rs` | the plan of a page, the number of rows, and positions for a sample |
//! | `high_water_mark.rs` | the end of a batch in a growing table |
//! | `error.rs` | [`TableError`] |

mod column;
mod error;
mod estimate;
mod filter;
mod high_water_mark;
mod inspect;
mod key;
mod key_length;
pub(super) mod name;
mod plan;
mod primary_key;
#[cfg(feature = "cli")]
mod resolve;
mod row_bytes;
mod row_locks;
mod sample;
mod spec;
mod statements;
mod walk;

use std::sync::Arc;

use crate::sql::{Database, syntax::Syntax};
pub use column::Column;
pub(super) use column::{KeyColumn, KeyForm};
pub use error::TableError;
#[cfg(all(feature = "sqlite", feature = "files"))]
pub(super) use inspect::makes_texts;
pub use key::{Key, KeyPart};
pub(super) use sample::KeySample;
pub use spec::TableSpec;
use statements::Statements;

/// An inspected table: its columns, the types of its key, and the statements that go through it. A clone is cheap.
///
/// # Order of calls
///
/// 1. [`inspect`](Self::inspect) looks at the catalog and refuses what cannot be paged through. Once per
///    worker is enough.
/// 2. [`check_plan`](Self::check_plan) asks the database how it would find a page.
/// 3. [`high_water_mark`](Self::high_water_mark) fixes an end, so that a table that keeps growing does
///    not keep a batch running. The mark belongs in the arguments of the batch, which
///    [`prepare`](crate::PageProcessor::prepare) completes.
/// 4. [`page`](Self::page) in `fetch` and [`skip_ahead`](Self::skip_ahead) in `skip_ahead`.
///
/// # Which rows a batch meets
///
/// A row that was committed before the high-water mark was fixed, matches the filter and is not deleted or moved to
/// another key before its page is read is met exactly once. Rows that come later are met at most once.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "postgres")]
/// # mod example {
/// use async_trait::async_trait;
/// use sqlx::Postgres;
/// use temporal_batch::{
///     Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead,
///     sql::{Key, Table, TableError, TableSpec},
/// };
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
    /// The identity of the table in the catalog.
    identity: inspect::Identity,
    passes_over: bool,
    /// The size of the rows that [`cells`](Self::cells) has read.
    row_bytes: row_bytes::RowBytes,
}

/// # Inspect
impl Table {
    /// Returns the specification of the table, with the column names as the database spells them.
    pub fn spec(&self) -> &TableSpec {
        &self.inner.spec
    }

    /// Returns the database of the table.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// Returns the columns, in the order of the table.
    pub fn columns(&self) -> &[Column] {
        &self.inner.columns
    }

    /// Returns the name for statements: quoted, and with its schema where the database has schemas.
    pub fn quoted_name(&self) -> &str {
        &self.inner.statements.table
    }

    /// Returns a name, such as that of a column, quoted for statements in this database.
    pub fn quote(&self, name: &str) -> String {
        self.inner.statements.syntax.quote(name)
    }

    /// Returns whether a trigger, a rule or a policy of the table may keep a statement from changing a row without an
    /// error.
    pub(in crate::sql) fn passes_over(&self) -> bool {
        self.inner.passes_over
    }

    /// Returns whether a column is part of the key. Case counts only where it does for the database.
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
