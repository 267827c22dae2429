//! The next steps of a fan-out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use serde_json::Value;

use super::{FanoutState, Place, Stop, Tracked, Unread};
use crate::{
    outcome::FAILURE_BYTES,
    protocol::{
        AggregateOrder, AskOrder, ClosePolicy, Mode, ReadOrder, WatchOrder, WatchedChild, child_id,
    },
};

/// The distance that others may be ahead of the first unfinished item, besides the window. Their outcomes wait in the state,
/// because they are folded in order.
const AHEAD: u64 = 2_000;
/// The most bytes of tracked items, with room for the outcomes of those that run. Together with a list of items, the result
/// so far and the listed failures they go to the next run, in an input of at most 2 MiB.
const TRACKED_BYTES: usize = 1_100_000;
/// The bytes of a tracked item besides its id and its outcome.
const ENTRY_BYTES: usize = 100;
/// The bytes of an id that is not known yet.
const ID_BYTES: usize = 200;

/// A step that is to be taken.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Start {
        position: u64,
        id: String,
        item: Value,
    },
    Read(ReadOrder),
    Fold(AggregateOrder),
    Cancel {
        position: u64,
        id: String,
        adopted: bool,
    },
    Ask(AskOrder),
    Watch(WatchOrder),
}

#[derive(Clone, Debug)]
pub(crate) enum Next {
    Steps(Vec<Step>),
    Wait,
    HandOver,
    Finish,
}

impl FanoutState {
    /// Decides what is to be done now, and records it as begun.
    pub fn next(&mut self) -> Next {
        self.stop_starting();
        if matches!(self.carry.stop, Some(Stop::Cancelled(_))) && self.leaves_children() {
            return Next::Finish;
        }
        if self.is_over() && self.folding.is_none() && (self.carry.aggregated || !self.folds()) {
            return Next::Finish;
        }
        if self.must_hand_over && !self.is_over() && self.can_hand_over() {
            return Next::HandOver;
        }
        let mut steps = Vec::new();
        self.cancel_children(&mut steps);
        if self.carry.stop.is_none() && !self.must_hand_over {
            self.start(&mut steps);
            steps.extend(self.read().map(Step::Read));
        }
        steps.extend(self.fold().map(Step::Fold));
        if !self.must_hand_over {
            steps.extend(self.ask().map(Step::Ask));
            steps.extend(self.watch().map(Step::Watch));
        }
        match steps.is_empty() {
            true => Next::Wait,
            false => Next::Steps(steps),
        }
    }

    fn leaves_children(&self) -> bool {
        self.spec.close == ClosePolicy::Abandon
    }

    /// Drops what will not be started.
    fn stop_starting(&mut self) {
        if self.carry.stop.is_none() {
            return;
        }
        if let Unread::List(items) = &self.carry.unread {
            self.carry.dropped += items.len() as u64;
            self.carry.not_started += items.len() as u64;
        }
        self.carry.unread = Unread::Nothing;
        self.reading = false;
        for tracked in self.carry.tracked.values_mut() {
            if tracked.place == Place::Ready {
                (tracked.place, tracked.item) = (Place::Skipped, None);
                self.carry.not_started += 1;
            }
        }
    }

    /// Returns whether every item that will be started has ended.
    pub(super) fn is_over(&self) -> bool {
        let nothing_unread = match &self.carry.unread {
            Unread::List(items) => items.is_empty(),
            Unread::Source { .. } => false,
            Unread::Nothing => true,
        };
        let mut tracked = self.carry.tracked.values();
        nothing_unread && tracked.all(|t| matches!(t.place, Place::Closed | Place::Skipped))
    }

    /// Returns whether the run can end now. Children that are being started, and activities, belong to their run; so do
    /// children that Temporal would end with it.
    fn can_hand_over(&self) -> bool {
        let mut places = self.carry.tracked.values().map(|t| t.place);
        let keeps = |place| match place {
            Place::Starting => true,
            Place::Open | Place::Adopted => !self.leaves_children(),
            Place::Ready | Place::Closed | Place::Skipped => false,
        };
        let calls = self.reading
            || self.folding.is_some()
            || !self.asking.is_empty()
            || self.cancelling > 0;
        !calls && !places.any(keeps)
    }

    fn cancel_children(&mut self, steps: &mut Vec<Step>) {
        if !matches!(
            self.carry.stop,
            Some(Stop::Cancelled(_) | Stop::FailFast(_))
        ) {
            return;
        }
        for (position, tracked) in &mut self.carry.tracked {
            let runs = matches!(tracked.place, Place::Open | Place::Adopted);
            // A workflow of the user's own may run on after its outcome is known.
            let goes_on = tracked.outcome.is_none() || self.spec.child_type.is_some();
            // A child that is being started is cancelled once it has an answer from the server.
            if runs && goes_on && !tracked.cancelled {
                tracked.cancelled = true;
                self.cancelling += u32::from(tracked.place == Place::Adopted);
                steps.push(Step::Cancel {
                    position: *position,
                    id: tracked.id.clone(),
                    adopted: tracked.place == Place::Adopted,
                });
            }
        }
    }

    /// Starts items as far as the window allows.
    fn start(&mut self, steps: &mut Vec<Step>) {
        let mut room = (self.spec.window as usize).saturating_sub(self.open());
        if room == 0 {
            return;
        }
        for (position, tracked) in &mut self.carry.tracked {
            if room == 0 {
                return;
            }
            if tracked.place == Place::Ready {
                tracked.place = Place::Starting;
                steps.push(Step::Start {
                    position: *position,
                    id: tracked.id.clone(),
                    item: tracked.item.take().unwrap_or_default(),
                });
                room -= 1;
            }
        }
        if !matches!(&self.carry.unread, Unread::List(items) if !items.is_empty()) {
            return;
        }
        let mut ahead = self.ahead();
        while room > 0 && ahead > 0 {
            let Unread::List(items) = &mut self.carry.unread else {
                return;
            };
            let Some(given) = items.pop_front() else {
                return;
            };
            let position = self.carry.next;
            self.take(given);
            ahead -= self.carry.next - position;
            if let Some(tracked) = self.carry.tracked.get_mut(&position)
                && tracked.place == Place::Ready
            {
                tracked.place = Place::Starting;
                steps.push(Step::Start {
                    position,
                    id: tracked.id.clone(),
                    item: tracked.item.take().unwrap_or_default(),
                });
                room -= 1;
            }
        }
    }

    /// Returns how many more items may be read, as far as their outcomes are concerned.
    fn ahead(&self) -> u64 {
        let to_come = self.spec.output_limit().max(FAILURE_BYTES);
        let held = self.carry.tracked.values().map(|tracked| {
            let outcome = match tracked.outcome {
                Some(_) => tracked.bytes,
                None => to_come,
            };
            ENTRY_BYTES + tracked.id_bytes + outcome
        });
        let room = TRACKED_BYTES.saturating_sub(held.sum());
        let by_bytes = room / (ENTRY_BYTES + ID_BYTES + to_come);
        let span = self.carry.next - self.carry.folded;
        (AHEAD + u64::from(self.spec.window))
            .saturating_sub(span)
            .min(by_bytes as u64)
    }

    /// Returns how many items are read at once.
    fn page(&self) -> u32 {
        self.spec.page_size.min(self.spec.window)
    }

    /// Returns whether outcomes that wait are in the way of further items.
    pub(super) fn is_held_up(&self) -> bool {
        let next = match &self.carry.unread {
            Unread::Source { .. } => self.page(),
            Unread::List(items) if !items.is_empty() => 1,
            Unread::List(_) | Unread::Nothing => return false,
        };
        self.ahead() < u64::from(next)
    }

    fn read(&mut self) -> Option<ReadOrder> {
        let Unread::Source {
            name,
            args,
            prepared,
            token,
        } = &self.carry.unread
        else {
            return None;
        };
        let page = self.page();
        let free = (self.spec.window as usize).saturating_sub(self.open());
        let is_due = !self.reading && free >= page as usize && self.ahead() >= u64::from(page);
        let order = is_due.then(|| ReadOrder {
            processor: self.spec.processor.clone(),
            source: name.clone(),
            args: args.clone(),
            prepared: *prepared,
            token: token.clone(),
            limit: page,
        })?;
        self.reading = true;
        Some(order)
    }

    /// Asks children whose results go to a run that has ended to report by signal: each child once.
    fn ask(&mut self) -> Option<AskOrder> {
        let can_report = self.spec.child_type.is_none() && self.spec.mode == Mode::JoinAll;
        if !can_report || !self.asking.is_empty() {
            return None;
        }
        let adopted = self.adopted().filter(|(_, tracked)| !tracked.asked);
        let (positions, children): (Vec<_>, Vec<_>) = adopted
            .map(|(position, tracked)| (position, child_id(&self.spec.id, &tracked.id)))
            .unzip();
        if children.is_empty() {
            return None;
        }
        self.asking = positions;
        Some(AskOrder { children })
    }

    fn watch(&mut self) -> Option<WatchOrder> {
        // A child that is being asked may be just about to report.
        if self.watching || !self.asking.is_empty() {
            return None;
        }
        let children: Vec<_> = self
            .adopted()
            .map(|(position, tracked)| WatchedChild {
                position,
                workflow_id: child_id(&self.spec.id, &tracked.id),
            })
            .collect();
        if children.is_empty() {
            return None;
        }
        self.watching = true;
        Some(WatchOrder {
            children,
            of_user: self.spec.child_type.is_some(),
            output_limit: self.spec.output_limit(),
        })
    }

    fn adopted(&self) -> impl Iterator<Item = (u64, &Tracked)> {
        let tracked = self.carry.tracked.iter();
        let adopted = tracked.filter(|(_, tracked)| tracked.place == Place::Adopted);
        adopted.map(|(position, tracked)| (*position, tracked))
    }
}

/// Returns the items of a list without later items of the same id, and the number of those left out.
pub(crate) fn without_duplicates<T>(items: Vec<T>, id: impl Fn(&T) -> &str) -> (VecDeque<T>, u64) {
    let mut seen = std::collections::BTreeSet::new();
    let before = items.len() as u64;
    let mut kept = VecDeque::new();
    for item in items {
        if seen.insert(id(&item).to_owned()) {
            kept.push_back(item);
        }
    }
    let left_out = before - kept.len() as u64;
    (kept, left_out)
}
