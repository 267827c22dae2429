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
//! | here | what is carried from run to run |
//! | `events` | the events |
//! | `decide` | the next steps |
//! | `fold` | the outcomes to fold next |
//! | `ending` | the report |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod decide;
mod ending;
mod events;
mod fold;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use decide::{Next, Step, without_duplicates};

use crate::{
    outcome::{FailedItem, ItemFailure},
    progress::Progress,
    protocol::{FanoutInput, FanoutSpec, GivenItem},
};

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
    /// True if the child was asked to report by signal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// The bytes of the outcome as JSON.
    #[serde(skip)]
    pub bytes: usize,
    /// The bytes of the id as JSON.
    #[serde(skip)]
    pub id_bytes: usize,
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
    /// True if the items are a list, which has no second item of an id.
    #[serde(default)]
    pub from_list: bool,
    /// The position of the next item to be read.
    pub next: u64,
    /// The position of the first item that is not folded.
    pub folded: u64,
    /// All read items that are not folded.
    pub tracked: BTreeMap<u64, Tracked>,
    pub completed: u64,
    pub failed: u64,
    pub duplicates: u64,
    /// The positions in a source that duplicates have.
    #[serde(default)]
    pub passed: u64,
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
            from_list: matches!(unread, Unread::List(_)),
            unread,
            next: 0,
            folded: 0,
            tracked: BTreeMap::new(),
            completed: 0,
            failed: 0,
            duplicates: 0,
            passed: 0,
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
    /// The children that are being asked to report by signal.
    asking: Vec<u64>,
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
            tracked.id_bytes = json_bytes(&tracked.id);
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
            asking: Vec::new(),
            watching: false,
            cancelling: 0,
            must_hand_over: false,
            bytes: 0,
            version: 0,
        }
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
            total: carry.next - carry.passed + unread + carry.dropped,
            failed: carry.failed,
            in_flight: in_flight.count() as u64,
            duplicates: carry.duplicates,
            all_read: !matches!(carry.unread, Unread::Source { .. }),
        }
    }

    /// Returns whether a second item of an id would always be recognised here, because the items are a list.
    pub fn remembers_all(&self) -> bool {
        self.carry.from_list
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

fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |json| json.len())
}
