//! The commands, one file each.

pub(crate) mod approve;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod backfill;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod dev_server;
pub(crate) mod ensure_complete;
#[cfg(all(
    feature = "files",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
pub(crate) mod export;
pub(crate) mod failures;
#[cfg(all(
    feature = "files",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod redrive;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod schema;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod worker;
