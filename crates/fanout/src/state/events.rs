//! The events of a fan-out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::Value;

use super::{FanoutState, Place, Stop, Tracked, Unread, json_bytes};
use crate::{
    outcome::{FailedItem, ItemFailure, failure_types, within},
    protocol::{ChildEnd, Duplicates, GivenItem, ItemDone, ItemsRead, OnFailure, Tolerate},
};

/// The most failed items that a report lists.
const FAILURES_LISTED: usize = 50;

impl FanoutState {
    /// Records the size of the history.
    pub fn refresh(&mut self, events: u32, suggested: bool) {
        /// The server suggests a new run from about 4,000 events on, and sooner for other reasons.
        const SUGGESTED_FOR_EVENTS: u32 = 4_000;
        const BYTES: usize = 8 * 1024 * 1024;
        self.must_hand_over |= events >= self.spec.events_per_run
            || (suggested && events < SUGGESTED_FOR_EVENTS)
            || self.bytes >= BYTES;
    }

    pub fn child_started(&mut self, position: u64) {
        self.version += 1;
        if let Some(tracked) = self.carry.tracked.get_mut(&position)
            && tracked.place == Place::Starting
        {
            tracked.place = Place::Open;
        }
    }

    pub fn child_ended(&mut self, position: u64, end: ChildEnd) {
        self.version += 1;
        let Some(tracked) = self.carry.tracked.get_mut(&position) else {
            return;
        };
        tracked.place = Place::Closed;
        if tracked.outcome.is_some() {
            return;
        }
        let result = match end {
            ChildEnd::Done(output) => Ok(output),
            ChildEnd::Failed(failure) => Err(failure),
            ChildEnd::Reported => Err(ItemFailure::new(
                failure_types::OUTPUT_LOST,
                "the child reported its output and the report is not in the history",
            )),
        };
        self.settle(position, result);
    }

    /// Records the signal of a child. Returns whether it counts.
    pub fn reported(&mut self, done: ItemDone) -> bool {
        self.version += 1;
        let meant = done.fanout_run.is_none_or(|run| run == self.spec.run);
        let position = self.ids.get(&done.item_id).copied().filter(|_| meant);
        let tracked = position.and_then(|p| Some((p, self.carry.tracked.get_mut(&p)?)));
        let Some((position, tracked)) = tracked else {
            self.carry.stray += 1;
            return false;
        };
        if tracked.place == Place::Adopted && self.spec.child_type.is_none() {
            // It reports at its end. A workflow of the user's own may go on.
            tracked.place = Place::Closed;
        }
        if tracked.outcome.is_some() || tracked.place == Place::Ready {
            self.carry.stray += 1;
            return false;
        }
        self.settle(position, done.failure.map_or(Ok(done.output), Err));
        true
    }

    /// Records a signal that cannot be read.
    pub fn unreadable_report(&mut self) {
        self.version += 1;
        self.carry.stray += 1;
    }

    fn settle(&mut self, position: u64, result: Result<Value, ItemFailure>) {
        let limit = self.spec.output_limit();
        let result = result.and_then(|output| within(output, limit));
        let result = result.map_err(ItemFailure::cut);
        let Some(tracked) = self.carry.tracked.get_mut(&position) else {
            return;
        };
        tracked.bytes = json_bytes(&result);
        self.carry.completed += 1;
        if let Err(failure) = &result {
            let id = tracked.id.clone();
            self.carry.failed += 1;
            if self.carry.failures.len() < FAILURES_LISTED {
                self.carry.failures.push(FailedItem {
                    item_id: id.clone(),
                    failure: failure.clone(),
                });
            }
            let reason = format!("item {id}: {}: {}", failure.error_type, failure.message);
            tracked.outcome = Some(result);
            self.item_failed(reason);
            return;
        }
        self.bytes += result.as_ref().map_or(0, |output| output.to_string().len());
        tracked.outcome = Some(result);
    }

    fn item_failed(&mut self, reason: String) {
        if self.carry.stop.is_some() {
            return;
        }
        self.carry.stop = match self.spec.on_failure {
            OnFailure::FailFast => Some(Stop::FailFast(reason)),
            OnFailure::CollectAll {
                tolerate: Tolerate::Count(most),
            } if self.carry.failed > most => Some(Stop::Failed(format!(
                "{} items failed and {most} are tolerated; the last was {reason}",
                self.carry.failed
            ))),
            OnFailure::CollectAll { .. } => None,
        };
    }

    pub fn items_read(&mut self, read: ItemsRead) {
        self.version += 1;
        self.reading = false;
        let Unread::Source {
            args,
            prepared,
            token,
            ..
        } = &mut self.carry.unread
        else {
            return;
        };
        (*args, *prepared) = (read.args, true);
        let ended = read.token.is_none();
        *token = read.token;
        if ended {
            self.carry.unread = Unread::Nothing;
        }
        for item in read.items {
            self.take(item);
        }
    }

    /// Adds an item that was read.
    pub(super) fn take(&mut self, given: GivenItem) {
        let GivenItem { id, item } = given;
        let is_known = self.ids.contains_key(&id);
        let position = self.carry.next;
        self.carry.next += 1;
        if is_known && self.spec.duplicates == Duplicates::CountOnce {
            self.pass();
            return;
        }
        self.bytes += item.to_string().len();
        let tracked = Tracked {
            id_bytes: json_bytes(&id),
            id: id.clone(),
            place: if is_known {
                Place::Closed
            } else {
                Place::Ready
            },
            item: (!is_known).then_some(item),
            outcome: None,
            cancelled: false,
            asked: false,
            bytes: 0,
        };
        self.carry.tracked.insert(position, tracked);
        if is_known {
            self.refuse_duplicate(position, &id);
        } else {
            self.ids.insert(id, position);
        }
    }

    /// Records that the child of an earlier item has the id of the child that was to be started. That item need not be
    /// remembered here.
    pub fn is_duplicate(&mut self, position: u64) {
        self.version += 1;
        let Some(tracked) = self.carry.tracked.get_mut(&position) else {
            return;
        };
        let id = tracked.id.clone();
        if self.spec.duplicates == Duplicates::Refuse {
            tracked.place = Place::Closed;
            self.refuse_duplicate(position, &id);
            return;
        }
        self.carry.tracked.remove(&position);
        self.ids.remove(&id);
        self.pass();
    }

    /// Counts a duplicate that has a position.
    fn pass(&mut self) {
        self.carry.duplicates += 1;
        self.carry.passed += 1;
    }

    fn refuse_duplicate(&mut self, position: u64, id: &str) {
        let message = format!("an earlier item has the id \"{id}\"");
        let failure = ItemFailure::new(failure_types::DUPLICATE, message);
        self.settle(position, Err(failure));
    }

    /// Records that the child of an item was there before this run started it, as after a reset.
    pub fn was_there(&mut self, position: u64) {
        self.version += 1;
        if let Some(tracked) = self.carry.tracked.get_mut(&position) {
            tracked.place = Place::Adopted;
        }
    }

    /// Records that children were asked to report by signal. The watch finds the end of a child that was not reached.
    pub fn were_asked(&mut self) {
        self.version += 1;
        for position in std::mem::take(&mut self.asking) {
            if let Some(tracked) = self.carry.tracked.get_mut(&position) {
                tracked.asked = true;
            }
        }
    }

    pub fn not_read(&mut self, why: &str) {
        self.version += 1;
        self.reading = false;
        self.carry.unread = Unread::Nothing;
        let stop = Stop::Failed(format!("the items could not be read: {why}"));
        self.carry.stop.get_or_insert(stop);
    }

    /// Records the result of a fold.
    pub fn was_folded(&mut self, result: Result<Value, String>) {
        self.version += 1;
        let Some((end, last)) = self.folding.take() else {
            return;
        };
        match result {
            Ok(so_far) => {
                // The result so far goes in and out.
                self.bytes += so_far.to_string().len() * 2;
                self.carry.so_far = Some(so_far);
                self.carry.aggregated = last;
            }
            Err(why) => {
                self.carry.so_far = None;
                self.carry.aggregated = true;
                let stop = Stop::Failed(format!("the outcomes could not be aggregated: {why}"));
                self.carry.stop.get_or_insert(stop);
            }
        }
        let rest = self.carry.tracked.split_off(&end);
        for (position, tracked) in std::mem::replace(&mut self.carry.tracked, rest) {
            if self.ids.get(&tracked.id) == Some(&position) {
                self.ids.remove(&tracked.id);
            }
        }
        self.carry.folded = end;
    }

    /// Records the ends of adopted children. The watch is over.
    pub fn watched(&mut self, ended: Vec<(u64, ChildEnd)>) {
        self.version += 1;
        self.watching = false;
        for (position, end) in ended {
            let tracked = self.carry.tracked.get(&position);
            if tracked.is_some_and(|t| t.place == Place::Adopted) {
                self.child_ended(position, end);
            }
        }
    }

    /// Records that the server has answered the request to cancel an adopted child.
    pub fn cancel_answered(&mut self) {
        self.version += 1;
        self.cancelling = self.cancelling.saturating_sub(1);
    }

    /// Ends the fan-out because its state is too large for another run.
    pub fn too_large(&mut self, bytes: usize) {
        self.version += 1;
        let stop = Stop::Failed(format!(
            "its state is {bytes} bytes of JSON, which is too much for the next run"
        ));
        self.carry.stop = Some(stop);
    }

    pub fn cancel(&mut self, reason: &str) {
        self.version += 1;
        self.carry.stop = Some(Stop::Cancelled(reason.to_owned()));
    }
}
