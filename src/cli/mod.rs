//! The command line, for `temporal-batch` itself and for any binary with processors of its own.
//!
//! A single call gives a binary every command. The binary can then work on, start and operate the batches of its
//! processors.
//!
//! ```no_run
//! # use async_trait::async_trait;
//! # use temporal_batch::{Page, PageContext, PageError, PageProcessor, PageReport};
//! # struct HashEmails;
//! # impl HashEmails {
//! #     async fn connect() -> std::io::Result<Self> { Ok(Self) }
//! # }
//! # #[async_trait]
//! # impl PageProcessor for HashEmails {
//! #     const NAME: &'static str = "hash-emails";
//! #     type Args = ();
//! #     type Cursor = i64;
//! #     type Item = i64;
//! #     async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> { Ok(Page::empty()) }
//! #     async fn process(&self, _: &PageContext<Self>, _: Vec<i64>) -> Result<PageReport, PageError> {
//! #         Ok(PageReport::all_processed())
//! #     }
//! # }
//! use std::process::ExitCode;
//! use temporal_batch::cli::App;
//!
//! fn main() -> ExitCode {
//!     App::new("shop-batches")
//!         .about("Batches of the shop")
//!         .processor(HashEmails::connect) // runs when a worker starts
//!         .main()
//! }
//! ```
//!
//! # Commands
//!
//! `worker`, `backfill`, `import`, `export`, `start`, `list`, `status`, `watch`, `failures`, `redrive`, `pause`,
//! `resume`, `approve`, `set`, `cancel`, `recover`, `verify`, `ensure-complete`, `schema`, `dev-server`; the binary
//! `temporal-batch` also has `demo`. `docs/cli.md` in the repository lists every flag.
//!
//! # Exit status
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done; a batch that was followed has completed without failures |
//! | 1 | any other failure: no server, no such batch, a port in use, a batch that failed |
//! | 2 | bad usage: a wrong flag or setting, an unknown processor, arguments that the processor does not accept |
//! | 3 | the batch completed, but pages or items were given up, or a check does not hold |
//! | 4 | the batch was cancelled, or stopped itself: more failed than is tolerated, or its deadline passed |
//! | 130 | interrupted; a batch that was only followed continues |
//!
//! # JSON
//!
//! `status --json` prints one object; `start --json` and `watch --json` print the same object, one line per
//! look and a last one when the batch has ended. Fields are added, never changed or removed, while `schema`
//! stays 1.
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `schema` | number | 1 |
//! | `batch_id` | string | the batch |
//! | `state` | string | `running`, `completed`, `failed`, `cancelled`, `terminated`, `timed_out`, `unknown` |
//! | `outcome` | string or null | once it has ended: `completed`, `completed_with_failures`, `failed`, `stopped`, `cancelled` |
//! | `reason` | string or null | the reason of the end, unless the batch completed |
//! | `ended_at` | number or null | milliseconds since 1970 |
//! | `percent` | number or null | share of the items that are done, where their number is known; 100 once the batch has completed, and not before; `progress.items_expected_is` says whether that number is `exact`, an `estimate` or `unknown` |
//! | `ui_url` | string or null | the batch in Temporal's web UI, if its address is known |
//! | `next` | string or null | the command that helps against the reason that holds the batch, if there is one |
//! | `cancel_waits_since` | number or null | the time of a cancellation request that no worker has taken yet; `status` only |
//! | `source` | string or null | the source of the progress: `live`, `snapshot`, `report` |
//! | `workers` | object or null | the workers that poll the task queue, while the batch runs: [`Workers`](crate::client::Workers); `status` only |
//! | `strides` | array | the strides that workers are processing: [`RunningStride`](crate::client::RunningStride)s; `status` only |
//! | `progress` | object or null | [`Progress`](crate::progress::Progress), with every field; null if no worker answered and the batch left no report |
//!
//! `status --audit --json` prints `schema`, `batch_id`, `audit` and `audit_older` alone, the latter two as in the
//! progress, null if the progress is.
//!
//! `list --json` prints `{"schema": 1, "batches": [..]}` with [`ListedBatch`](crate::client::ListedBatch)es.

// Layers, from the lowest: (exit, shell, output, processors, logging, state_directory) < dead_letters < render < args <
// session < commands < app. A file imports only from its own layer and from the layers below.

mod app;
pub(crate) mod args;
pub(crate) mod commands;
pub(crate) mod dead_letters;
mod exit;
mod logging;
mod output;
mod processors;
pub(crate) mod render;
pub(crate) mod session;
mod shell;
mod state_directory;

pub use app::App;
#[doc(hidden)]
pub use commands::demo::{Demo, DemoData, DemoVerdict};
