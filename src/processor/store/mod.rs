//! Stores that users can implement: the page ledger and the dead letters.

pub(crate) mod dead_letter;
pub(crate) mod page_ledger;
