//! Partitions: independent ranges of one batch, each with a controller of its own.
//!
//! | file | what is in it |
//! |---|---|
//! | here | what a processor names, and the checks of it |
//! | `share` | how the limits of a batch are divided among its partitions; pure |
//! | `plan` | where the partitions of a batch stand, and what happens to them; pure |
//! | `plan::decide` | what is to be done next |
//! | `plan::look`, `plan::show` | what is known of one, and of all of them |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod plan;
#[cfg(test)]
pub(crate) mod properties;
mod share;

pub(crate) use plan::{Next, Parked, PartLimits, Partitions, Step};

/// Controllers of partitions that run at the same time.
pub(crate) const MAX_RUNNING: u32 = 50;
