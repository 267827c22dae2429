//! Metrics for Prometheus, health for an orchestrator, and the endpoint that serves both.
//!
//! Metrics of the worker and the pages that it runs:
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `temporal_batch_worker_ready` | gauge | |
//! | `temporal_batch_pages_total` | counter | `processor`, `outcome`: `completed`, `failed` |
//! | `temporal_batch_items_total` | counter | `processor`, `outcome`: `processed`, `skipped`, `failed` |
//! | `temporal_batch_page_items` | histogram | `processor` |
//! | `temporal_batch_page_duration_seconds` | histogram | `processor` |
//! | `temporal_batch_fetch_duration_seconds` | histogram | `processor` |
//! | `temporal_batch_process_duration_seconds` | histogram | `processor` |
//! | `temporal_batch_pages_in_flight` | gauge | `processor` |
//! | `temporal_batch_oldest_page_in_flight_seconds` | gauge | `processor` |
//! | `temporal_batch_page_retries_total` | counter | `processor` |
//! | `temporal_batch_rate_wait_seconds_total` | counter | `processor` |
//! | `temporal_batch_throttle_wait_seconds_total` | counter | `processor` |
//! | `temporal_batch_ledger_claims_total` | counter | `processor`, `outcome`: `committed`, `fenced`, `failed` |
//! | `temporal_batch_strides_total` | counter | `processor`, `outcome`: `completed`, `yielded`, `failed` |
//! | `temporal_batch_announce_signals_total` | counter | `processor` |
//! | `temporal_batch_dead_letters_total` | counter | `processor` |
//! | `temporal_batch_hook_failures_total` | counter | `hook` |
//! | `temporal_batch_recoveries_total` | counter | `outcome`: `recovered`, `left` |
//! | `temporal_batch_throttle_factor` | gauge | `throttle` |
//! | `temporal_batch_throttle_failures_total` | counter | `throttle` |
//!
//! Metrics of the batches whose pages it runs, as reported by their controllers. All of them have the labels
//! `batch` and `processor`, and some have one more:
//!
//! | metric | type | label |
//! |---|---|---|
//! | `temporal_batch_batch_phase` | gauge | `phase` |
//! | `temporal_batch_batch_held` | gauge | `by` |
//! | `temporal_batch_batch_items` | gauge | `outcome`: `processed`, `skipped`, `failed` |
//! | `temporal_batch_batch_items_expected` | gauge | |
//! | `temporal_batch_batch_pages` | gauge | `outcome`: `completed`, `failed` |
//! | `temporal_batch_batch_pages_in_flight` | gauge | |
//! | `temporal_batch_batch_pages_in_flight_by_age` | gauge | `age`: `under_10s`, `under_1m`, `under_10m`, `longer` |
//! | `temporal_batch_batch_oldest_in_flight_timestamp_seconds` | gauge | |
//! | `temporal_batch_batch_pages_stuck` | gauge | |
//! | `temporal_batch_batch_strides_waiting` | gauge | |
//! | `temporal_batch_batch_max_parallelism` | gauge | |
//! | `temporal_batch_batch_parallelism_now` | gauge | |
//! | `temporal_batch_batch_page_size` | gauge | |
//! | `temporal_batch_batch_rate_limit` | gauge | `of`: `items`, `pages` |
//! | `temporal_batch_batch_throttle_factor` | gauge | |
//! | `temporal_batch_batch_retries` | gauge | |
//! | `temporal_batch_batch_consecutive_failures` | gauge | |
//! | `temporal_batch_batch_dead_letters` | gauge | |
//! | `temporal_batch_batch_items_per_second` | gauge | |
//! | `temporal_batch_batch_time_left_seconds` | gauge | `bound`: `at_least`, `at_most` |
//! | `temporal_batch_batch_low_water_mark_age_seconds` | gauge | |
//! | `temporal_batch_batch_runs` | gauge | |
//! | `temporal_batch_batch_started_timestamp_seconds` | gauge | |
//! | `temporal_batch_batch_deadline_timestamp_seconds` | gauge | |
//! | `temporal_batch_batches_not_exported` | gauge | no labels |
//!
//! Label values come from small sets. Those of the first table are fixed: the names of the registered
//! processors, hooks and throttles, and the outcomes. Batch ids come from users, so at most 50 batches have
//! series at once. Up to 1,000 further batches are counted in `temporal_batch_batches_not_exported` and get series
//! when there is room. The series of a batch of which this process has seen nothing for 60 s disappear. Page tokens and keys of user data are never labels, so they
//! never reach a monitoring system. `docs/monitoring.md` explains each metric.
//!
//! With the feature `temporal`, the metrics of the Temporal SDK (`temporal_...`) are in the same registry: see
//! [`Metrics::telemetry_options`].

mod batches;
mod health;
mod pages_in_flight;
mod processor;
mod recorder;
#[cfg(feature = "temporal")]
mod sdk;
#[cfg(feature = "metrics-server")]
mod server;

pub use health::Health;
pub(crate) use pages_in_flight::PageInFlight;
pub(crate) use processor::{ProcessorMetrics, Recovery, StrideOutcome};
pub use recorder::Metrics;
#[cfg(feature = "metrics-server")]
pub use server::{MetricsServer, MetricsServerError};
