//! The state of a shard: which requests wait, which are being written, and which requesters are to be told.
//!
//! Pure: the workflow tells it what happened and does the step that it says. A request is always in exactly one place.
//!
//! ```text
//!   submitted ──> pending ──> writing ──> answers ──> confirming ──> forgotten
//!       │                        │ no requester to tell: forgotten
//!       └─ refused ──────────> answers
//! ```

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod answers;
mod flush;
mod held;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use temporal_batch::Timestamp;

use crate::{
    batcher::Batcher,
    protocol::{FlushReason, Known, Submission},
    request::{Confirmation, Outcome, Refusal, Request},
};
use answers::remembered_bytes;
use held::{Amount, Answer, Batch, Held};
pub use stats::Stats;

/// Requesters that one call tells.
const CONFIRMED_AT_ONCE: usize = 200;
/// How long a run that is to end waits for its calls. One that is stuck must not hold up the others.
const LONGEST_DRAIN: Duration = Duration::from_secs(30);
/// Calls that tell requesters at the same time.
const MAX_CONFIRMING: usize = 4;

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BatcherState {
    pending: VecDeque<Held>,
    writing: BTreeMap<u64, Batch>,
    answers: VecDeque<Answer>,
    confirming: BTreeMap<u64, Vec<Answer>>,
    /// The last outcomes, oldest first.
    recent: VecDeque<Confirmation>,
    next_number: u64,
    stopping: bool,
    stats: Stats,
    /// The ids of pending and writing requests.
    #[serde(skip)]
    ids: BTreeSet<String>,
    /// Batches of the run before that this run has to write again.
    #[serde(skip)]
    unfinished: BTreeSet<u64>,
    /// Whether this run has begun what was due at its start. Without that, a stream of signals could end each run before
    /// its first write.
    #[serde(skip)]
    has_begun: bool,
    /// The time since which this run only waits for its calls.
    #[serde(skip)]
    draining_since: Option<Timestamp>,
    #[serde(skip)]
    held: Amount,
    #[serde(skip)]
    refusals: Amount,
    #[serde(skip)]
    recent_bytes: u64,
}

/// Whether the next run should begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandOver {
    No,
    /// Once the writes in flight are done, or have taken too long. Until then nothing new begins.
    Due,
    /// Now. The next run writes again what is in flight.
    Overdue,
}

/// What the workflow does next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Write the batch with this number.
    Write(u64),
    /// Tell the requesters of this number.
    Confirm(u64),
    /// Wait for an event, and at most until this time.
    Wait(Option<Timestamp>),
    HandOver,
    Finish,
}

/// # From one run to the next
impl BatcherState {
    /// Takes up what the run before left.
    pub fn resumed(mut self) -> Self {
        let confirming = std::mem::take(&mut self.confirming);
        // In the order in which they were to be told.
        for answer in confirming.into_values().flatten().rev() {
            self.answers.push_front(answer);
        }
        self.unfinished = self.writing.keys().copied().collect();
        for batch in self.writing.values_mut() {
            batch.hand_overs += 1;
        }
        let writing = self.writing.values().flat_map(|batch| &batch.requests);
        for held in self.pending.iter().chain(writing) {
            self.ids.insert(held.request.id.clone());
            self.held += held.amount();
        }
        for answer in &self.answers {
            match answer.held_bytes {
                0 => self.refusals.add(answer.refusal_bytes()),
                bytes => self.held.add(bytes),
            }
        }
        self.recent_bytes = self.recent.iter().map(remembered_bytes).sum();
        self.stats.runs += 1;
        self
    }
}

/// # Events
impl BatcherState {
    /// Takes requests, or refuses them.
    pub fn submitted(&mut self, batcher: &Batcher, now: Timestamp, submission: Submission) {
        let Submission {
            shards,
            reply_to,
            number,
            requests,
        } = submission;
        let reply_to = reply_to.map(|to| (to, number));
        for request in requests {
            self.stats.received += 1;
            // Whatever this submission says, the request is written.
            if self.ids.contains(&request.id) {
                self.join(batcher, request.id, reply_to.as_ref());
                continue;
            }
            let refused = match shards == batcher.shards {
                true => self.take(batcher, now, &request, reply_to.as_ref()).err(),
                false => Some(Refusal::OtherShards {
                    routed_for: shards,
                    running: batcher.shards,
                }),
            };
            if let Some(reason) = refused {
                self.refuse(request.id, reply_to.as_ref(), reason);
            }
        }
    }

    fn take(
        &mut self,
        batcher: &Batcher,
        now: Timestamp,
        request: &Request,
        reply_to: Option<&(String, u64)>,
    ) -> Result<(), Refusal> {
        batcher.check_request(request)?;
        if self.stopping {
            return Err(Refusal::ShuttingDown);
        }
        let held = Held {
            request: request.clone(),
            reply_to: reply_to.cloned().into_iter().collect(),
            received_at: now,
            bytes: request.bytes() as u64,
        };
        Self::check_room(batcher, self.held, held.amount())?;
        self.held += held.amount();
        self.ids.insert(request.id.clone());
        self.pending.push_back(held);
        Ok(())
    }

    /// Adds a requester to a request that is held already.
    fn join(&mut self, batcher: &Batcher, id: String, reply_to: Option<&(String, u64)>) {
        self.stats.duplicates += 1;
        let Some((to, number)) = reply_to else {
            return;
        };
        let writing = self.writing.values_mut().flat_map(|b| &mut b.requests);
        let mut held = self.pending.iter_mut().chain(writing);
        let Some(held) = held.find(|held| held.request.id == id) else {
            return;
        };
        if let Some((_, last)) = held.reply_to.iter_mut().find(|(other, _)| other == to) {
            *last = (*last).max(*number);
            return;
        }
        let more = held.amount_of_requester(held.reply_to.len(), to);
        if Self::check_room(batcher, self.held, more).is_ok() {
            held.reply_to.push((to.clone(), *number));
            self.held += more;
            return;
        }
        let confirmation = Confirmation {
            request_id: id,
            submission: *number,
            outcome: Outcome::Pending,
        };
        self.answer(to, confirmation);
    }

    fn check_room(batcher: &Batcher, held: Amount, more: Amount) -> Result<(), Refusal> {
        let limits = &batcher.limits;
        let is_full = held.count + more.count > limits.max_pending
            || held.bytes + more.bytes > limits.max_pending_bytes;
        match is_full {
            true => Err(Refusal::Full {
                held: held.count,
                bytes: held.bytes,
                max_pending: limits.max_pending,
                max_pending_bytes: limits.max_pending_bytes,
            }),
            false => Ok(()),
        }
    }

    /// Writes what is pending, and then finishes. Later requests are refused.
    pub fn shut_down(&mut self) {
        self.stopping = true;
    }
}

/// # Decide
impl BatcherState {
    /// Returns the next step. What it names has begun then.
    pub fn next(&mut self, batcher: &Batcher, now: Timestamp, hand_over: HandOver) -> Step {
        match hand_over {
            HandOver::Overdue => return Step::HandOver,
            HandOver::Due if self.has_begun => return self.drain(now),
            HandOver::Due => {}
            HandOver::No => self.draining_since = None,
        }
        let step = self.work(batcher, now);
        if !matches!(step, Step::Wait(_)) {
            return step;
        }
        self.has_begun = true;
        match hand_over {
            HandOver::Due => self.drain(now),
            _ => step,
        }
    }

    /// Waits for the calls, but not for ever: the next run repeats those that are stuck, and goes on with the others.
    fn drain(&mut self, now: Timestamp) -> Step {
        let since = *self.draining_since.get_or_insert(now);
        let until = flush::plus(since, LONGEST_DRAIN);
        match self.running() == 0 || until <= now {
            true => Step::HandOver,
            false => Step::Wait(Some(until)),
        }
    }

    fn work(&mut self, batcher: &Batcher, now: Timestamp) -> Step {
        if let Some(number) = self.unfinished.pop_first() {
            return Step::Write(number);
        }
        if !self.answers.is_empty() && self.confirming.len() < MAX_CONFIRMING {
            let some = self.answers.len().min(CONFIRMED_AT_ONCE);
            let answers = self.answers.drain(..some).collect();
            let number = self.number();
            self.confirming.insert(number, answers);
            return Step::Confirm(number);
        }
        let until = match self.flush(batcher, now) {
            flush::Flush::Now(number) => return Step::Write(number),
            flush::Flush::At(until) => until,
        };
        let is_over = self.stopping
            && self.pending.is_empty()
            && self.answers.is_empty()
            && self.running() == 0;
        match is_over {
            true => Step::Finish,
            false => Step::Wait(until),
        }
    }

    /// The calls that have begun and not ended.
    fn running(&self) -> usize {
        self.writing.len() - self.unfinished.len() + self.confirming.len()
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// # Look
impl BatcherState {
    /// Returns the requests of a batch that is being written, with the times at which they came, and its reason.
    pub fn batch(&self, number: u64) -> Option<(Vec<Request>, Vec<Timestamp>, FlushReason)> {
        let batch = self.writing.get(&number)?;
        let held = &batch.requests;
        let requests = held.iter().map(|held| held.request.clone()).collect();
        let received_at = held.iter().map(|held| held.received_at).collect();
        Some((requests, received_at, batch.reason))
    }

    /// Returns how often the write of a batch may fail in this run before it is split. Each run that ended meanwhile counts as
    /// a failure, so that requests that always fail are given up at last; one failure after another run is not enough.
    pub fn attempts_left(&self, number: u64, max_attempts: u32) -> u32 {
        let hand_overs = self
            .writing
            .get(&number)
            .map_or(0, |batch| batch.hand_overs);
        let hand_overs = u32::try_from(hand_overs).unwrap_or(u32::MAX);
        max_attempts
            .saturating_sub(hand_overs)
            .max(max_attempts.min(2))
    }

    /// Returns the confirmations of a number, each with its workflow.
    pub fn confirmations(&self, number: u64) -> Vec<(String, Confirmation)> {
        let answers = self.confirming.get(&number).into_iter().flatten();
        let told = answers.map(|answer| (answer.to.clone(), answer.confirmation.clone()));
        told.collect()
    }

    /// Returns the number of requests that wait for a batch.
    pub fn pending(&self) -> u32 {
        u32::try_from(self.pending.len()).unwrap_or(u32::MAX)
    }

    /// Returns what is known of a request.
    pub fn known(&self, request_id: &str) -> Known {
        if self.ids.contains(request_id) {
            return Known::Pending;
        }
        let mut latest_first = self.recent.iter().rev();
        match latest_first.find(|known| known.request_id == request_id) {
            Some(known) => Known::Ended(known.outcome.clone()),
            None => Known::Unknown,
        }
    }

    /// Returns the counts.
    pub fn stats(&self) -> Stats {
        Stats {
            pending: u64::from(self.pending()),
            writing: self.writing.values().map(|b| b.requests.len() as u64).sum(),
            held: u64::from(self.held.count),
            held_bytes: self.held.bytes,
            stopping: self.stopping,
            ..self.stats.clone()
        }
    }
}
