//! What a stage leaves for the strides.
//!
//! A stride that is dispatched is given a number of items and keeps it until it has counted them or come to
//! its end, whatever fails meanwhile. What is counted and what is given out together never exceed the mark of
//! the stage, so neither does what was processed: not even by attempts that the controller never hears of.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Limits;
use crate::{
    base::time::Timestamp,
    decisions::chain::{Allotment, Ledger, Stride},
};

/// The limit of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageLimit {
    /// Items in all that may be gone through.
    pub items: u64,
    /// Items that a stride is expected to have.
    pub stride_items: u64,
}

/// Items that nobody was given yet; `None` without a limit.
pub(super) fn left(ledger: &Ledger, limits: &Limits) -> Option<u64> {
    let stage = limits.stage?;
    let totals = &ledger.totals;
    let done = totals.items.total().saturating_add(totals.items_aside);
    let taken = done.saturating_add(ledger.reserved());
    Some(stage.items.saturating_sub(taken))
}

/// Whether a stride can have any of what is left. Nobody gets more while a stride before it has less than it
/// may need: what comes free is for that one, so that no hole is left behind.
pub(super) fn leaves(ledger: &Ledger, left: Option<u64>) -> impl Fn(u64, &Stride) -> bool {
    let mut short = ledger.open().filter(|(_, s)| s.short && s.reserved > 0);
    let first_short = short.next().map_or(u64::MAX, |(number, _)| number);
    move |number, stride| {
        left.is_none_or(|left| left > 0 && number < first_short) || stride.reserved > 0
    }
}

/// Items for the stride that is dispatched next. One that was given some before has those, so that the
/// attempts at a page are of one size.
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

/// Strides that nobody has, that are due and that can have items.
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

/// Everything that the stage allows is counted, and nobody has any of it: it can be looked at.
pub(crate) fn stage_is_done(ledger: &Ledger, limits: &Limits) -> bool {
    left(ledger, limits) == Some(0)
        && ledger.reserved() == 0
        && ledger.running() == 0
        && !ledger.is_complete()
        && ledger.broken().is_none()
}
