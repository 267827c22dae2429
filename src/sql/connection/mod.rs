//! Connections to databases.
//!
//! | file | contents |
//! |---|---|
//! | `options.rs`, `url/` | the database that is meant, and its URL |
//! | `place.rs` | the place of a database, for ids |
//! | `pool.rs`, `pool_size.rs` | [`Database`](crate::sql::Database): a pool, and its number of connections |
//! | `session.rs` | the settings of each session of a pool |
//! | `named.rs` | [`Connections`](crate::sql::Connections): the databases of a worker by name |
//! | `lease.rs` | connections and transactions that pages hand to each other |
//! | `page_connection.rs` | the connection that `process` writes with |
//! | `read_only.rs` | queries that cannot write |
//! | `pgbouncer.rs` | PostgreSQL behind a proxy |
//! | `error.rs` | failed connections |

pub(crate) mod error;
pub(crate) mod lease;
pub(crate) mod named;
pub(crate) mod options;
pub(crate) mod page_connection;
#[cfg(feature = "postgres")]
pub(crate) mod pgbouncer;
#[cfg(feature = "cli")]
pub(crate) mod place;
pub(crate) mod pool;
pub(crate) mod pool_size;
pub(crate) mod read_only;
pub(crate) mod session;
mod url;
