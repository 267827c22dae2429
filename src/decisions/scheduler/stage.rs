//! The items that a stage still allows, and their allotment to strides.
//!
//! A dispatched stride is given a number of items. It keeps them until it has counted them or ended, whatever fails in
//! between. The items counted and the items given out never exceed the mark of the stage together, so neither do the
//! items processed, even by attempts that the controller never hears of.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Limits;
use crate::{
    base::time::Timestamp,
    decisions::chain::{Allotment, Ledger, Stride},
};

/// The limit of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageLimit {
    /// Upper bound on the items processed, over all stages so far.
    pub items: u64,
    /// Items that a stride is expected to have.
    pub stride_items: u64,
}

/// Items of the stage that are neither counted nor given out. `None` without a limit.
pub(super) fn left(ledger: &Ledger, limits: &Limits) -> Option<u64> {
    let stage = limits.stage?;
    let totals = &ledger.totals;
    let done = totals.items.total().saturating_add(totals.items_aside);
    let taken = done.saturating_add(ledger.reserved());
    Some(stage.items.saturating_sub(taken))
}

/// Returns a predicate: whether a stride can have any of the remaining items. While an earlier stride has fewer than it
/// may need, freed items are kept for that stride, so that the stage leaves no hole behind.
pub(super) fn leaves(ledger: &Ledger, left: Option<u64>) -> impl Fn(u64, &Stride) -> bool {
    let mut short = ledger.open().filter(|(_, s)| s.short && s.reserved > 0);
    let first_short = short.next().map_or(u64::MAX, |(number, _)| number);
    move |number, stride| {
        left.is_none_or(|left| left > 0 && number < first_short) || stride.reserved > 0
    }
}

/// The items for the stride that is dispatched next. A stride that still holds items gets the same number again, so
/// that all attempts at a page are of one size.
pub(super) fn allotment(ledger: &Ledger, limits: &Limits, stride: u64) -> Option<Allotment> {
    let stage = limits.stage?;
    if let Some(stride) = ledger.stride(stride).filter(|stride| stride.reserved > 0) {
        return Some(Allotment {
            items: stride.reserved,
            short: stride.short,
        });
    }
    let (left, wanted) = (left(ledger, limits)?, stage.stride_items.max(1));
    Some(Allotment {
        items: left.min(wanted),
        short: left < wanted,
    })
}

/// The number of idle strides that are due and can have items.
pub(super) fn dispatchable(ledger: &Ledger, limits: &Limits, now: Timestamp) -> u32 {
    let due = ledger.due(now);
    let (Some(stage), Some(left)) = (limits.stage, left(ledger, limits)) else {
        return due;
    };
    let given = ledger
        .open()
        .filter(|(_, stride)| stride.reserved > 0 && stride.due().is_some_and(|at| at <= now))
        .count();
    let given = u32::try_from(given).unwrap_or(u32::MAX);
    let more = left.div_ceil(stage.stride_items.max(1));
    due.min(given.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)))
}

/// Returns whether the stage is ready for its check: every item that it allows is counted, and no stride holds any.
pub(crate) fn stage_is_done(ledger: &Ledger, limits: &Limits) -> bool {
    left(ledger, limits) == Some(0)
        && ledger.reserved() == 0
        && ledger.running() == 0
        && !ledger.is_complete()
        && ledger.broken().is_none()
}
