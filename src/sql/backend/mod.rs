//! Differences between the databases: statements, placeholders, error codes, lock owners.

pub(crate) mod blockers;
pub(crate) mod dialect;
#[cfg(feature = "mysql")]
pub(crate) mod placeholders;
pub(crate) mod table_engine;
