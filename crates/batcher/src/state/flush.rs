//! When a batch is written, and what is in it.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporal_batch::Timestamp;

use super::{Batch, BatcherState};
use crate::{
    batcher::{Batcher, Limits},
    protocol::FlushReason,
};

/// Whether a batch is due.
pub(super) enum Flush {
    /// This batch, which is no longer pending.
    Now(u64),
    /// No batch is due before this time, unless an event comes first.
    At(Option<Timestamp>),
}

impl BatcherState {
    /// Takes the next batch from the pending requests if one is due.
    pub(super) fn flush(&mut self, batcher: &Batcher, now: Timestamp) -> Flush {
        let limits = &batcher.limits;
        let Some(first) = self.pending.front() else {
            return Flush::At(None);
        };
        if self.writing.len() >= limits.max_writes as usize {
            // The end of a write wakes the shard up.
            return Flush::At(None);
        }
        let due = plus(first.received_at, limits.max_wait);
        let (count, full) = self.prefix(limits);
        let reason = match full {
            Some(reason) => reason,
            None if self.stopping => FlushReason::Shutdown,
            None if due <= now => FlushReason::Time,
            None => return Flush::At(Some(due)),
        };
        let number = self.number();
        let requests = self.pending.drain(..count).collect();
        self.writing.insert(
            number,
            Batch {
                requests,
                reason,
                hand_overs: 0,
            },
        );
        Flush::Now(number)
    }

    /// Returns how many of the pending requests fit into one batch, and why it is full, if it is.
    fn prefix(&self, limits: &Limits) -> (usize, Option<FlushReason>) {
        let (mut count, mut bytes) = (0, 0);
        for held in &self.pending {
            if count == limits.max_batch as usize {
                break;
            }
            // A single request is never larger: it would have been refused.
            if bytes + held.bytes > limits.max_batch_bytes && count > 0 {
                return (count, Some(FlushReason::Bytes));
            }
            count += 1;
            bytes += held.bytes;
        }
        let full = count == limits.max_batch as usize;
        (count, full.then_some(FlushReason::Size))
    }
}

pub(super) fn plus(time: Timestamp, wait: Duration) -> Timestamp {
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Timestamp(time.0.saturating_add(wait))
}
