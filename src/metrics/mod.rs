//! What a worker tells Prometheus, and the endpoint that tells it.
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `temporal_batch_pages_total` | counter | `processor`, `outcome`: `completed`, `failed` |
//! | `temporal_batch_items_total` | counter | `processor`, `outcome`: `processed`, `skipped`, `failed` |
//! | `temporal_batch_page_duration_seconds` | histogram | `processor` |
//! | `temporal_batch_pages_in_flight` | gauge | `processor` |
//! | `temporal_batch_page_retries_total` | counter | `processor` |
//! | `temporal_batch_rate_wait_seconds_total` | counter | `processor` |
//! | `temporal_batch_strides_total` | counter | `processor`, `outcome`: `completed`, `yielded`, `failed` |
//! | `temporal_batch_announce_signals_total` | counter | `processor` |
//! | `temporal_batch_dead_letters_total` | counter | `processor` |
//! | `temporal_batch_hook_failures_total` | counter | `hook` |
//!
//! Label values come from small fixed sets: the names of the registered processors and hooks, and the outcomes
//! above. A batch id or a page token is never one of them, so the number of time series does not grow
//! with the work, and no key of a user's data ends up in a monitoring system.
//!
//! With the feature `temporal` the metrics of the Temporal SDK (`temporal_...`) join the same registry:
//! see [`Metrics::telemetry_options`].

mod recorder;
#[cfg(feature = "temporal")]
mod sdk;
mod server;

pub use recorder::{Metrics, PageInFlight, ProcessorMetrics, StrideOutcome};
pub use server::{MetricsServer, MetricsServerError};
