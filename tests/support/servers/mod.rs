//! Servers that a test starts and that end with the test process, and ways to make them unavailable.
//!
//! This module does not use the library, so that unit tests and benches can include it by its path. A process may hold
//! only one copy of it: two copies would give their folders the same names.

#![allow(
    dead_code,
    unused_imports,
    reason = "no user of this module needs all of it"
)]

mod disk;
#[cfg(feature = "mysql")]
mod mariadb;
#[cfg(feature = "postgres")]
mod pgbouncer;
#[cfg(feature = "postgres")]
mod postgres;
mod proxy;
mod throwaway;

pub use disk::SmallDisk;
#[cfg(feature = "mysql")]
pub use mariadb::MariaDb;
#[cfg(feature = "postgres")]
pub use pgbouncer::PgBouncer;
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use throwaway::{Stop, skip};
