//! The dead letters of a batch: their store, the letters themselves, and how far redrives have settled them.

pub(crate) mod known_batch;
pub(crate) mod letters;
pub(crate) mod repair;
pub(crate) mod store;
