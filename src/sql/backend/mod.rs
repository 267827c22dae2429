//! The databases, and everything in which they differ.
//!
//! | file | contents |
//! |---|---|
//! | `dialect.rs` | `Dialect`: the one trait that every feature asks; [`Backend`] is its public name |
//! | `postgres.rs`, `mysql.rs`, `sqlite.rs` | its implementations |
//! | `value.rs` | statements with their values, and the fields of their rows |
//! | `blockers.rs` | the session that had the lock for which a page waited too long |
//! | `table_engine.rs` | tables of MySQL without transactions |

pub(crate) mod blockers;
pub(crate) mod dialect;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
pub(in crate::sql) mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod table_engine;
pub(crate) mod value;

/// A database with a [`SqlLedger`](crate::sql::SqlLedger) in it, or whose rows a [`Table`](crate::sql::Table) reads:
/// `sqlx::Postgres`, `sqlx::MySql` (MariaDB too) or `sqlx::Sqlite`, each with the feature of its name. No other type
/// can implement the trait.
#[allow(private_bounds, reason = "sealed: `Dialect` is the crate's own")]
pub trait Backend: dialect::Dialect {}

impl<DB: dialect::Dialect> Backend for DB {}
