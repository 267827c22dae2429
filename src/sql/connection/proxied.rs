//! PostgreSQL behind a proxy that gives every transaction another connection of the server, such as PgBouncer with
//! `pool_mode = transaction`.
//!
//! `sqlx` prepares a statement in one message and runs it in another one. Between the two the proxy may go over to
//! another server connection, which knows no such statement, or another client's. So there every statement is
//! unnamed and in a transaction, if need be one of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgRow, PgTransactionManager},
};
use sqlx_core::transaction::TransactionManager as _;

use crate::sql::backend::dialect::{Value, bound};

/// A pool of this process is behind such a proxy. A statement does not tell on which pool it will run; on others it
/// only costs the time to prepare it.
static ANY: AtomicBool = AtomicBool::new(false);

/// Looks whether a pool is behind such a proxy.
pub(crate) fn note(pool: &PgPool) {
    if is_proxied(&pool.connect_options()) {
        ANY.store(true, Ordering::Relaxed);
    }
}

/// There is no cache for statements then.
pub(crate) fn is_proxied(options: &PgConnectOptions) -> bool {
    // The capacity is told in a URL only, which cannot be made of every name of a host or user.
    let options = options.clone();
    let url = options.host("localhost").username("any").to_url_lossy();
    let capacity = |(name, value)| name == "statement-cache-capacity" && value == "0";
    url.query_pairs().any(capacity)
}

/// Whether statements may have names.
pub(crate) fn may_be_named() -> bool {
    !ANY.load(Ordering::Relaxed)
}

/// Whether a statement needs a transaction of its own.
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

/// The rows of a query on a connection of the pool.
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
