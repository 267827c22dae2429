//! Servers that a test starts and that are gone with the test process, and ways to take them away.
//!
//! This module knows nothing of the library, so that its unit tests and the benches take it in by its path. A process may
//! hold one copy of it only: two would name their folders alike.

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
