//! Modules that the test binaries share: throwaway servers, the dev server, the built command, databases and bounded
//! waits.
//!
//! ```text
//!   servers/      throwaway PostgreSQL, MariaDB and PgBouncer, a TCP proxy, a small disk; unit tests and benches use it too
//!   databases     an empty database of one test, on each system, and `on_each!`
//!   dev_server    one Temporal dev server for each test process
//!   environment   a task queue of one test on that server, with a client and workers in this process
//! command       the built command, run as users run it
//!   mock_api      a local HTTP API whose answers a test decides
//!   number_pages  what `fetch` and `skip_ahead` of processors over numbers have in common
//! waits         waits that fail after a while and say what they waited for
//!   worker_process  the test binary as a worker that is killed
//!   settings      numbers from the environment, for the long forms of tests
//! ```
//!
//! A test binary declares it with `#[path = "../support/mod.rs"] mod support;`.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "no test binary needs all of it"
)]

#[cfg(all(feature = "cli", feature = "sqlite"))]
pub mod command;
#[cfg(all(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub mod databases;
#[cfg(feature = "dev-server")]
pub mod dev_server;
#[cfg(feature = "dev-server")]
mod environment;
#[cfg(feature = "http")]
pub mod mock_api;
pub mod number_pages;
pub mod servers;
pub mod settings;
mod waits;
pub mod worker_process;

#[cfg(feature = "dev-server")]
pub use dev_server::server_address;
#[cfg(feature = "dev-server")]
pub use environment::{TestEnv, connect, logged, progress_shows, report};
pub use waits::{eventually, wait_for, wait_for_ok, within};
