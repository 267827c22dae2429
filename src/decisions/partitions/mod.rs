//! Partitions: independent ranges of one batch, each with a controller of its own.
//!
//! | file | what is in it |
//! |---|---|
//! | here | the bound on running partitions |
//! | `share` | how the limits of a batch are divided among its partitions; pure |
//! | `plan` | the state of the partitions of a batch, and the events that change it; pure |
//! | `plan::decide` | the next action |
//! | `plan::look`, `plan::show` | the known facts about one partition, and about all of them |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod plan;
#[cfg(test)]
pub(crate) mod properties;
mod share;

pub(crate) use plan::{Next, Parked, PartLimits, Partitions, Step};

/// The number of partitions whose controllers may run at the same time.
pub(crate) const MAX_RUNNING: u32 = 50;
