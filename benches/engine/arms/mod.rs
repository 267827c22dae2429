//! The measurements, one file for each arm.

pub mod chain;
pub mod dips;
pub mod events;
pub mod growth;
pub mod kill;
pub mod noop;
pub mod partitions;
pub mod sleep;
pub mod tuning;
