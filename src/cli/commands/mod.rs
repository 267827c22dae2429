//! The commands, one file each, or a folder if the command has parts.

pub(crate) mod approve;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod backfill;
#[cfg(all(
    feature = "files",
    feature = "http",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
pub(crate) mod call;
pub(crate) mod cancel;
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
#[cfg(all(
    feature = "files",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
mod output_directory;
pub(crate) mod pause;
pub(crate) mod recover;
pub(crate) mod redrive;
pub(crate) mod resume;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod schema;
pub(crate) mod set;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod worker;
