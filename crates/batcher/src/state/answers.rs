//! The answers to requesters: how they come to be, and who is still to be told.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use super::{
    BatcherState,
    held::{Answer, BYTES_OF_ENTRY, answer_bytes},
};
use crate::{
    batcher::MOST_PENDING_BYTES,
    protocol::{ConfirmReport, WriteReport},
    request::{Confirmation, Outcome, Refusal},
};

/// Outcomes that are remembered for clients that ask.
const REMEMBERED: usize = 1_000;
/// Bytes of remembered outcomes. They are part of the input of the next run.
const REMEMBERED_BYTES: u64 = 128 * 1024;
/// Refusals that wait to be told. More are only counted, because a flood of requests must not make the state grow.
const MOST_REFUSALS: u32 = 1_000;
/// Bytes of refusals that wait to be told.
const MOST_REFUSAL_BYTES: u64 = 128 * 1024;
/// Calls for a requester that cannot be told, in some minutes. Then it counts as not told.
pub(super) const MOST_TRIES: u64 = 40;

impl BatcherState {
    pub(super) fn refuse(
        &mut self,
        request_id: String,
        reply_to: Option<&(String, u64)>,
        reason: Refusal,
    ) {
        let mut recent = self.recent.iter();
        let is_done = recent.any(|c| c.request_id == request_id && c.outcome.is_done());
        let outcome = match is_done {
            true => Outcome::AlreadyDone,
            false => Outcome::Refused { reason },
        };
        self.stats.count(&outcome);
        // An id of any length would make the state grow.
        let request_id = match crate::request::is_valid_id(&request_id) {
            true => request_id,
            false => request_id.chars().take(60).collect(),
        };
        let mut confirmation = Confirmation {
            request_id,
            submission: 0,
            outcome,
        };
        self.remember(&confirmation);
        if let Some((to, number)) = reply_to {
            confirmation.submission = *number;
            self.answer(to, confirmation);
        }
    }

    /// Answers a submission that was not taken.
    pub(super) fn answer(&mut self, to: &str, confirmation: Confirmation) {
        let answer = Answer {
            to: to.to_owned(),
            confirmation,
            held_bytes: 0,
            tries: 0,
        };
        let bytes = answer.refusal_bytes();
        if self.refusals.count >= MOST_REFUSALS || self.refusals.bytes + bytes > MOST_REFUSAL_BYTES
        {
            self.stats.untold_refusals += 1;
            return;
        }
        self.refusals.add(bytes);
        self.answers.push_back(answer);
    }

    /// Records the outcomes of a batch.
    pub fn written(&mut self, number: u64, report: WriteReport) {
        let Some(batch) = self.writing.remove(&number) else {
            return;
        };
        self.stats.writes += 1;
        let flushes = self.stats.flushes.entry(batch.reason).or_default();
        *flushes += 1;
        for (held, outcome) in batch.requests.into_iter().zip(report.outcomes) {
            self.stats.count(&outcome);
            self.ids.remove(&held.request.id);
            self.held -= held.amount();
            let outcome = self.fitting(outcome, held.reply_to.len());
            let outcome_bytes = bytes_of_failure(&outcome);
            let confirmation = Confirmation {
                request_id: held.request.id,
                submission: 0,
                outcome,
            };
            self.remember(&confirmation);
            for (to, submission) in held.reply_to {
                let held_bytes = answer_bytes(&to, &confirmation.request_id) + outcome_bytes;
                self.held.add(held_bytes);
                self.answers.push_back(Answer {
                    to,
                    confirmation: Confirmation {
                        submission,
                        ..confirmation.clone()
                    },
                    held_bytes,
                    tries: 0,
                });
            }
        }
    }

    /// Returns the outcome without its error where that would make the input of the next run too large. The dead
    /// letter has the error.
    fn fitting(&self, outcome: Outcome, requesters: usize) -> Outcome {
        let bytes = self.held.bytes + bytes_of_failure(&outcome) * requesters as u64;
        match outcome {
            Outcome::Failed { .. } if bytes > MOST_PENDING_BYTES => {
                Outcome::failed("SeeDeadLetter", "")
            }
            outcome => outcome,
        }
    }

    /// Records that requesters were told. Those that could not be told wait for another call, and the others do not. `None`
    /// if the call was given up.
    pub fn confirmed(&mut self, number: u64, report: Option<ConfirmReport>) {
        let Some(answers) = self.confirming.remove(&number) else {
            return;
        };
        let Some(report) = report else {
            self.stats.confirmations_failed += answers.len() as u64;
            return answers.iter().for_each(|answer| self.forget(answer));
        };
        self.stats.confirmed += report.confirmed;
        self.stats.confirmations_failed += report.gone;
        let unreached: BTreeSet<_> = report.unreached.into_iter().collect();
        for (position, mut answer) in (0_u32..).zip(answers) {
            answer.tries += 1;
            match unreached.contains(&position) {
                true if answer.tries < MOST_TRIES => self.answers.push_back(answer),
                true => {
                    self.stats.confirmations_failed += 1;
                    self.forget(&answer);
                }
                false => self.forget(&answer),
            }
        }
    }

    /// Counts an answer no longer.
    fn forget(&mut self, answer: &Answer) {
        match answer.held_bytes {
            0 => self.refusals.remove(answer.refusal_bytes()),
            bytes => self.held.remove(bytes),
        }
    }

    fn remember(&mut self, confirmation: &Confirmation) {
        self.recent_bytes += remembered_bytes(confirmation);
        self.recent.push_back(confirmation.clone());
        while self.recent.len() > REMEMBERED || self.recent_bytes > REMEMBERED_BYTES {
            let Some(oldest) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= remembered_bytes(&oldest);
        }
    }
}

pub(super) fn remembered_bytes(confirmation: &Confirmation) -> u64 {
    let outcome = bytes_of_failure(&confirmation.outcome);
    confirmation.request_id.len() as u64 + outcome + BYTES_OF_ENTRY
}

/// Returns the length of what an error adds to an outcome, as JSON.
fn bytes_of_failure(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Failed { .. } => {
            serde_json::to_string(outcome).map_or(0, |json| json.len() as u64)
        }
        _ => 0,
    }
}
