//! The state of a batch and everything that changes it.

pub(crate) mod pending_notices;
pub(crate) mod stages;
