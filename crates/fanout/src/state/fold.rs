//! The folding of outcomes into the result, in the order of the input.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::{FanoutState, Place, Stop};
use crate::{outcome::ItemOutcome, protocol::AggregateOrder};

/// The outcomes that are worth a fold before the end.
const FOLD_FROM: usize = 100;
/// The most outcomes of one fold.
const FOLD_TO: usize = 250;
/// The most bytes of one fold.
const FOLD_BYTES: usize = 256 * 1024;

/// The items that can be folded next.
struct Part {
    /// The end of their positions.
    end: u64,
    outcomes: usize,
    bytes: usize,
    /// True if no more of them fit.
    full: bool,
    /// True if no item is tracked after them.
    all: bool,
}

impl FanoutState {
    /// Returns whether outcomes are aggregated at all.
    pub(super) fn folds(&self) -> bool {
        !matches!(self.carry.stop, Some(Stop::Cancelled(_)))
    }

    /// Returns the outcomes to fold, if they are worth it or the last.
    pub(super) fn fold(&mut self) -> Option<AggregateOrder> {
        if self.folding.is_some() || self.carry.aggregated || !self.folds() {
            return None;
        }
        let part = self.foldable();
        let over = self.is_over();
        let is_worth_it = part.outcomes >= FOLD_FROM || part.full;
        let presses = || part.outcomes > 0 && self.is_held_up();
        if !(over || is_worth_it || presses()) {
            return None;
        }
        let last = over && part.all;
        self.folding = Some((part.end, last));
        self.bytes += part.bytes;
        let outcomes = self.carry.tracked.range(..part.end);
        let outcomes = outcomes.filter_map(|(position, tracked)| {
            Some(ItemOutcome {
                position: *position,
                item_id: tracked.id.clone(),
                result: tracked.outcome.clone()?,
            })
        });
        Some(AggregateOrder {
            processor: self.spec.processor.clone(),
            fanout: self.spec.id.clone(),
            so_far: self.carry.so_far.clone(),
            outcomes: outcomes.collect(),
            last,
        })
    }

    /// Returns the first items, as far as they have ended and fit into one fold.
    fn foldable(&self) -> Part {
        let mut part = Part {
            end: self.carry.folded,
            outcomes: 0,
            bytes: 0,
            full: false,
            all: false,
        };
        for (position, tracked) in &self.carry.tracked {
            if part.outcomes == FOLD_TO || part.bytes >= FOLD_BYTES {
                part.full = true;
                return part;
            }
            match tracked.place {
                Place::Closed => part.outcomes += 1,
                Place::Skipped => {}
                _ => return part,
            }
            part.bytes += tracked.bytes;
            part.end = position + 1;
        }
        // The positions after the last tracked one are those of duplicates.
        (part.end, part.all) = (self.carry.next, true);
        part.full = part.bytes >= FOLD_BYTES;
        part
    }
}
