//! The decisions of a batch, pure: no clock, no I/O, no Temporal.

pub(crate) mod bridge;
pub(crate) mod carry;
pub(crate) mod chain;
pub(crate) mod pacing;
pub(crate) mod partitions;
pub(crate) mod scheduler;
pub(crate) mod state;
