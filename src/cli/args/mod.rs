//! Flags that several commands share.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod databases;
pub(crate) mod failure_filter;
pub(crate) mod pacing;
pub(crate) mod stages;
pub(crate) mod temporal_server;
#[cfg(feature = "postgres")]
pub(crate) mod throttle;
pub(crate) mod time;
pub(crate) mod tolerance;
pub(crate) mod worker;
