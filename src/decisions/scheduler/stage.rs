//! The items that a stage still allows, and their division among strides.
//!
//! A dispatched stride is given a number of items. It keeps them until it has counted them or ended, whatever fails in
//! between. The items counted and the items given out never exceed the mark of the stage together, so neither do the
//! items processed, even by attempts that the controller never hears of.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Limits;
use crate::{
    base::time::Timestamp,
    decisions::chain::{ItemBudget, Stride, StrideChain},
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
pub(super) fn left(chain: &StrideChain, limits: &Limits) -> Option<u64> {
    let stage = limits.stage?;
    let totals = &chain.totals;
    let done = totals
        .items
        .total()
        .saturating_add(totals.items_in_abandoned_pages);
    let taken = done.saturating_add(chain.granted_items());
    Some(stage.items.saturating_sub(taken))
}

/// Returns a predicate: whether a stride can have any of the remaining items. While an earlier stride has fewer than it
/// may need, freed items are kept for that stride, so that the stage leaves no hole behind.
pub(super) fn leaves(chain: &StrideChain, left: Option<u64>) -> impl Fn(u64, &Stride) -> bool {
    let mut short = chain
        .open()
        .filter(|(_, s)| s.is_partial && s.granted_items > 0);
    let first_short = short.next().map_or(u64::MAX, |(number, _)| number);
    move |number, stride| {
        left.is_none_or(|left| left > 0 && number < first_short) || stride.granted_items > 0
    }
}

/// The items for the stride that is dispatched next. A stride that still holds items gets the same number again, so
/// that all attempts at a page are of one size.
pub(super) fn item_budget(chain: &StrideChain, limits: &Limits, stride: u64) -> Option<ItemBudget> {
    let stage = limits.stage?;
    if let Some(stride) = chain
        .stride(stride)
        .filter(|stride| stride.granted_items > 0)
    {
        return Some(ItemBudget {
            items: stride.granted_items,
            is_partial: stride.is_partial,
        });
    }
    let (left, wanted) = (left(chain, limits)?, stage.stride_items.max(1));
    Some(ItemBudget {
        items: left.min(wanted),
        is_partial: left < wanted,
    })
}

/// The number of idle strides that are due and can have items.
pub(super) fn dispatchable(chain: &StrideChain, limits: &Limits, now: Timestamp) -> u32 {
    let due = chain.due(now);
    let (Some(stage), Some(left)) = (limits.stage, left(chain, limits)) else {
        return due;
    };
    let given = chain
        .open()
        .filter(|(_, stride)| stride.granted_items > 0 && stride.due().is_some_and(|at| at <= now))
        .count();
    let given = u32::try_from(given).unwrap_or(u32::MAX);
    let more = left.div_ceil(stage.stride_items.max(1));
    due.min(given.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)))
}

/// Returns whether the stage is ready for its check: every item that it allows is counted, and no stride holds any.
pub(crate) fn stage_is_done(chain: &StrideChain, limits: &Limits) -> bool {
    left(chain, limits) == Some(0)
        && chain.granted_items() == 0
        && chain.running() == 0
        && !chain.is_complete()
        && chain.broken().is_none()
}
