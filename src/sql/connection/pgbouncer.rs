//! PostgreSQL behind a proxy that gives each transaction another connection of the server, such as PgBouncer with
//! `pool_mode = transaction`.
//!
//! `sqlx` prepares a statement in one message and runs it in another. In between, the proxy may switch to another
//! server connection, where the statement is missing or belongs to another client. Behind such a proxy every
//! statement is therefore unnamed and within a transaction, if necessary one of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgRow, PgTransactionManager},
};
use sqlx_core::transaction::TransactionManager as _;

use crate::sql::backend::value::{Value, bound};

/// True if any pool of this process is behind such a proxy. A statement does not know its pool; on other pools
/// an unnamed statement only costs the time to prepare it.
static ANY: AtomicBool = AtomicBool::new(false);

/// Takes note of a pool that is behind such a proxy.
pub(crate) fn note(pool: &PgPool) {
    if is_proxied(&pool.connect_options()) {
        ANY.store(true, Ordering::Relaxed);
    }
}

/// Returns whether the options name such a proxy: they switch off the statement cache.
pub(crate) fn is_proxied(options: &PgConnectOptions) -> bool {
    // Only a URL shows the capacity of the cache, and not every name of a host or user fits into a URL.
    let options = options.clone();
    let url = options.host("localhost").username("any").to_url_lossy();
    let capacity = |(name, value)| name == "statement-cache-capacity" && value == "0";
    url.query_pairs().any(capacity)
}

/// Returns whether statements may have names.
pub(crate) fn may_be_named() -> bool {
    !ANY.load(Ordering::Relaxed)
}

/// Returns whether a statement needs a transaction of its own.
fn needs_transaction(connection: &PgConnection) -> bool {
    !may_be_named() && PgTransactionManager::get_transaction_depth(connection) == 0
}

pub(crate) fn execute(
    connection: &mut PgConnection,
    statement: String,
    values: Vec<Value>,
) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
    let query = bound::<sqlx::Postgres>(statement, values);
    Box::pin(async move {
        if !needs_transaction(connection) {
            return Ok(query.execute(connection).await?.rows_affected());
        }
        let mut transaction = connection.begin().await?;
        let done = query.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(done.rows_affected())
    })
}

pub(crate) fn rows(
    connection: &mut PgConnection,
    statement: String,
    values: Vec<Value>,
) -> BoxFuture<'_, Result<Vec<PgRow>, sqlx::Error>> {
    let query = bound::<sqlx::Postgres>(statement, values);
    Box::pin(async move {
        if !needs_transaction(connection) {
            return query.fetch_all(connection).await;
        }
        let mut transaction = connection.begin().await?;
        let rows = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    })
}

/// Returns the rows of a query on a connection of the pool.
pub(crate) async fn rows_of(
    pool: &PgPool,
    statement: &str,
    values: Vec<Value>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    rows(&mut connection, statement.to_owned(), values).await
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn a_pool_with_a_cache_for_statements_keeps_their_names_whatever_its_host_is() {
        for (host, user) in [("::1", "me"), ("db", "a@b/c:d#e?f"), ("/run/a b", "")] {
            let options = PgConnectOptions::new().host(host).username(user);
            note(&PgPoolOptions::new().connect_lazy_with(options));
        }
        assert!(may_be_named());
    }
}
