//! The part of the shared modules that needs no built command, for the test binaries in `crates`.
//!
//! A test binary declares it with `#[path = "../../../../tests/support/of_crates.rs"] mod support;`.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "no test binary needs all of it"
)]

#[cfg(all(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub mod databases;
pub mod dev_server;
mod environment;
pub mod number_pages;
pub mod servers;
pub mod settings;
mod waits;
pub mod worker_process;

pub use dev_server::server_address;
pub use environment::{TestEnv, connect, logged, progress_shows, report};
pub use waits::{PATIENCE, eventually, wait_for, wait_for_ok, within};
