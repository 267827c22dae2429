//! The counts of a shard.

use std::{collections::BTreeMap, ops::AddAssign};

use serde::{Deserialize, Serialize};

use crate::{protocol::FlushReason, request::Outcome};

/// The counts of a shard, or of a batcher, since its start. They survive continue-as-new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests that were submitted, repeated and refused ones included.
    pub received: u64,
    /// Requests that were submitted again while they were held.
    pub duplicates: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Refusals that could not be told because too many waited. The requester sees a timeout.
    pub untold_refusals: u64,
    /// Requests that were written.
    pub written: u64,
    /// Requests that the sink already had.
    pub already_done: u64,
    /// Requests that became dead letters.
    pub failed: u64,
    /// Batches that were written.
    pub writes: u64,
    /// Batches by the reason of their flush.
    pub flushes: BTreeMap<FlushReason, u64>,
    /// Confirmations that reached their requester.
    pub confirmed: u64,
    /// Confirmations whose requester was gone or could not be reached.
    pub confirmations_failed: u64,
    /// Runs: 1 for a shard that has not continued as new yet.
    pub runs: u64,
    /// Requests that wait for a batch, now.
    pub pending: u64,
    /// Requests that are being written, now.
    pub writing: u64,
    /// Requests and confirmations that count towards `max_pending`, now.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// True while the batcher shuts down.
    pub stopping: bool,
}

impl Stats {
    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Written => self.written += 1,
            Outcome::AlreadyDone => self.already_done += 1,
            Outcome::Failed { .. } => self.failed += 1,
            // A writer cannot answer these.
            Outcome::Pending => {}
            Outcome::Refused { .. } => self.refused += 1,
        }
    }
}

/// Adds the counts of another shard.
impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
        self.untold_refusals += other.untold_refusals;
        self.written += other.written;
        self.already_done += other.already_done;
        self.failed += other.failed;
        self.writes += other.writes;
        for (reason, flushes) in other.flushes {
            *self.flushes.entry(reason).or_default() += flushes;
        }
        self.confirmed += other.confirmed;
        self.confirmations_failed += other.confirmations_failed;
        self.runs += other.runs;
        self.pending += other.pending;
        self.writing += other.writing;
        self.held += other.held;
        self.held_bytes += other.held_bytes;
        self.stopping |= other.stopping;
    }
}
