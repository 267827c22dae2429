//! The knowledge and the decisions of a fan-out, without Temporal, clock or I/O.
//!
//! An item goes through these places:
//!
//! ```text
//!   read ──> Ready ──> Starting ──> Open ──> Closed ──> folded into the result
//!                                    │ continue-as-new   ^
//!                                    └──> Adopted ───────┘
//! ```
//!
//! An item counts once its outcome is known, and only the first outcome counts. Its slot in the window is free once its
//! child has closed. Outcomes are folded in the order of the input.
//!
//! | file | content |
//! |---|---|
//! | here | what is carried from run to run, and the events |
//! | `decide` | the next steps |
//! | `ending` | the report |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod decide;
mod ending;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use decide::{Next, Step, without_duplicates};

use crate::{
    outcome::{FailedItem, ItemFailure, failure_types, within},
    progress::Progress,
    protocol::{
        ChildEnd, Duplicates, FanoutInput, FanoutSpec, GivenItem, ItemDone, ItemsRead, OnFailure,
        Tolerate,
    },
};

/// The most failed items that a report lists.
const FAILURES_LISTED: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Ready,
    Starting,
    Open,
    Adopted,
    Closed,
    /// The item is never started, because the fan-out stops.
    Skipped,
}

/// An item between being read and being folded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tracked {
    pub id: String,
    pub place: Place,
    /// The item itself, until its child is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Result<Value, ItemFailure>>,
    /// True if the child was asked to cancel.
    #[serde(default)]
    pub cancelled: bool,
    /// The bytes of the outcome as JSON.
    #[serde(skip)]
    pub bytes: usize,
}

/// The rest of the items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unread {
    /// The rest of a list.
    List(VecDeque<GivenItem>),
    /// The rest of a source, from a token on.
    Source {
        name: String,
        args: Value,
        prepared: bool,
        token: Option<Value>,
    },
    Nothing,
}

/// The reason why a fan-out ends early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stop {
    Cancelled(String),
    /// Running children are cancelled.
    FailFast(String),
    /// Running children go on.
    Failed(String),
}

/// The part of the state that goes from run to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Carry {
    pub unread: Unread,
    /// The position of the next item to be read.
    pub next: u64,
    /// The position of the first item that is not folded.
    pub folded: u64,
    /// All read items that are not folded.
    pub tracked: BTreeMap<u64, Tracked>,
    pub completed: u64,
    pub failed: u64,
    pub duplicates: u64,
    pub not_started: u64,
    /// Items of the list that were not even taken from it.
    pub dropped: u64,
    pub stray: u64,
    pub failures: Vec<FailedItem>,
    pub so_far: Option<Value>,
    /// True once the last outcomes are folded.
    pub aggregated: bool,
    pub stop: Option<Stop>,
    pub runs: u32,
}

impl Carry {
    pub fn of(unread: Unread) -> Self {
        Self {
            unread,
            next: 0,
            folded: 0,
            tracked: BTreeMap::new(),
            completed: 0,
            failed: 0,
            duplicates: 0,
            not_started: 0,
            dropped: 0,
            stray: 0,
            failures: Vec::new(),
            so_far: None,
            aggregated: false,
            stop: None,
            runs: 0,
        }
    }
}

/// The state of one run.
#[derive(Clone, Debug)]
pub(crate) struct FanoutState {
    pub spec: FanoutSpec,
    pub carry: Carry,
    /// The positions of the tracked items by their ids.
    ids: BTreeMap<String, u64>,
    reading: bool,
    /// The end of the positions that are being folded, and whether they are the last.
    folding: Option<(u64, bool)>,
    watching: bool,
    /// The requests to cancel adopted children that have no answer.
    cancelling: u32,
    must_hand_over: bool,
    /// The bytes of items and outputs in the history of this run.
    bytes: usize,
    /// Changes with each event.
    pub version: u64,
}

/// # Begin
impl FanoutState {
    pub fn of(input: FanoutInput) -> Self {
        let FanoutInput { spec, mut carry } = input;
        carry.runs += 1;
        let mut ids = BTreeMap::new();
        for (position, tracked) in &mut carry.tracked {
            // A refused duplicate must not hide the item that it duplicates.
            ids.entry(tracked.id.clone()).or_insert(*position);
            tracked.bytes = tracked.outcome.as_ref().map_or(0, json_bytes);
            if matches!(tracked.place, Place::Open | Place::Starting) {
                // A child of the fan-out's own type reports only at its end.
                let has_ended = tracked.outcome.is_some() && spec.child_type.is_none();
                tracked.place = match has_ended {
                    true => Place::Closed,
                    false => Place::Adopted,
                };
                // The server drops the requests of a run that has ended.
                tracked.cancelled = false;
            }
        }
        Self {
            spec,
            carry,
            ids,
            reading: false,
            folding: None,
            watching: false,
            cancelling: 0,
            must_hand_over: false,
            bytes: 0,
            version: 0,
        }
    }
}

/// # Events
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
    fn take(&mut self, given: GivenItem) {
        let GivenItem { id, item } = given;
        let is_known = self.ids.contains_key(&id);
        if is_known && self.spec.duplicates == Duplicates::CountOnce {
            self.carry.duplicates += 1;
            return;
        }
        self.bytes += item.to_string().len();
        let position = self.carry.next;
        self.carry.next += 1;
        let tracked = Tracked {
            id: id.clone(),
            place: if is_known {
                Place::Closed
            } else {
                Place::Ready
            },
            item: (!is_known).then_some(item),
            outcome: None,
            cancelled: false,
            bytes: 0,
        };
        self.carry.tracked.insert(position, tracked);
        if is_known {
            let message = format!("an earlier item has the id \"{id}\"");
            self.settle(
                position,
                Err(ItemFailure::new(failure_types::DUPLICATE, message)),
            );
        } else {
            self.ids.insert(id, position);
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

/// # Look
impl FanoutState {
    pub fn progress(&self) -> Progress {
        let carry = &self.carry;
        let unread = match &carry.unread {
            Unread::List(items) => items.len() as u64,
            Unread::Source { .. } | Unread::Nothing => 0,
        };
        let in_flight = carry.tracked.values().filter(|t| {
            let runs = matches!(t.place, Place::Starting | Place::Open | Place::Adopted);
            runs && t.outcome.is_none()
        });
        Progress {
            completed: carry.completed,
            total: carry.next + unread + carry.dropped,
            failed: carry.failed,
            in_flight: in_flight.count() as u64,
            duplicates: carry.duplicates,
            all_read: !matches!(carry.unread, Unread::Source { .. }),
        }
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self.carry.stop, Some(Stop::Cancelled(_)))
    }

    /// The number of slots of the window in use.
    pub fn open(&self) -> usize {
        let is_open =
            |t: &&Tracked| matches!(t.place, Place::Starting | Place::Open | Place::Adopted);
        self.carry.tracked.values().filter(is_open).count()
    }
}

fn json_bytes(outcome: &Result<Value, ItemFailure>) -> usize {
    serde_json::to_string(outcome).map_or(0, |json| json.len())
}
