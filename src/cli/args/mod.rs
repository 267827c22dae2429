//! Flags that several commands share.

pub(crate) mod batch_options;
pub(crate) mod database_throttle;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod databases;
pub(crate) mod failure_filter;
pub(crate) mod metrics;
pub(crate) mod pacing;
pub(crate) mod stages;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod table;
pub(crate) mod temporal_server;
pub(crate) mod values;
pub(crate) mod worker_tuning;
