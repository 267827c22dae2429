//! The next steps of a fan-out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use serde_json::Value;

use super::{FanoutState, Place, Stop, Unread};
use crate::{
    outcome::ItemOutcome,
    protocol::{AggregateOrder, ClosePolicy, ReadOrder, WatchOrder, WatchedChild, child_id},
};

/// The distance that others may be ahead of the first unfinished item, besides the window. Their outcomes wait in the state,
/// because they are folded in order.
const AHEAD: u64 = 2_000;
/// The bytes of outputs that wait before no further items are started.
const WAITING_BYTES: usize = 256 * 1024;
/// The outcomes that are worth a fold before the end.
const FOLD_FROM: usize = 100;
/// The most outcomes of one fold.
const FOLD_TO: usize = 250;
/// The most bytes of one fold.
const FOLD_BYTES: usize = 256 * 1024;

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

    /// Returns whether outcomes are aggregated at all.
    fn folds(&self) -> bool {
        !matches!(self.carry.stop, Some(Stop::Cancelled(_)))
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
        !self.reading && self.folding.is_none() && !places.any(keeps)
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
            // A child that is being started is cancelled once it has an answer from the server.
            if runs && tracked.outcome.is_none() && !tracked.cancelled {
                tracked.cancelled = true;
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
        while room > 0 && self.ahead() > 0 {
            let Unread::List(items) = &mut self.carry.unread else {
                return;
            };
            let Some(given) = items.pop_front() else {
                return;
            };
            let position = self.carry.next;
            self.take(given);
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

    /// Returns how many more items may be read, as far as waiting outcomes are concerned.
    fn ahead(&self) -> u64 {
        let waiting = self.carry.tracked.values().map(|t| match &t.outcome {
            Some(Ok(output)) => output.to_string().len(),
            _ => 0,
        });
        if waiting.sum::<usize>() >= WAITING_BYTES {
            return 0;
        }
        let span = self.carry.next - self.carry.folded;
        (AHEAD + u64::from(self.spec.window)).saturating_sub(span)
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
        let page = self.spec.page_size.min(self.spec.window);
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

    /// Returns the outcomes to fold, if they are worth it or the last.
    fn fold(&mut self) -> Option<AggregateOrder> {
        if self.folding.is_some() || self.carry.aggregated || !self.folds() {
            return None;
        }
        let (mut outcomes, mut end, mut bytes, mut full) =
            (Vec::new(), self.carry.folded, 0, false);
        for (position, tracked) in &self.carry.tracked {
            let result = match (&tracked.outcome, tracked.place) {
                (_, Place::Skipped) => None,
                (Some(result), Place::Closed) => Some(result.clone()),
                _ => break,
            };
            full = outcomes.len() == FOLD_TO || bytes >= FOLD_BYTES;
            if full {
                break;
            }
            end = position + 1;
            if let Some(result) = result {
                bytes += result.as_ref().map_or(0, |output| output.to_string().len());
                outcomes.push(ItemOutcome {
                    position: *position,
                    item_id: tracked.id.clone(),
                    result,
                });
            }
        }
        let over = self.is_over();
        let last = over && end == self.carry.next;
        let is_worth_it = outcomes.len() >= FOLD_FROM || full || bytes >= FOLD_BYTES;
        let presses = !outcomes.is_empty() && self.ahead() == 0;
        if !(over || is_worth_it || presses) {
            return None;
        }
        self.folding = Some((end, last));
        self.bytes += bytes;
        Some(AggregateOrder {
            processor: self.spec.processor.clone(),
            fanout: self.spec.id.clone(),
            so_far: self.carry.so_far.clone(),
            outcomes,
            last,
        })
    }

    fn watch(&mut self) -> Option<WatchOrder> {
        let adopted = self.carry.tracked.iter();
        let adopted = adopted.filter(|(_, t)| t.place == Place::Adopted);
        let children: Vec<_> = adopted
            .map(|(position, tracked)| WatchedChild {
                position: *position,
                workflow_id: child_id(&self.spec.id, &tracked.id),
            })
            .collect();
        if self.watching || children.is_empty() {
            return None;
        }
        self.watching = true;
        Some(WatchOrder {
            children,
            ask: self.spec.child_type.is_none(),
        })
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
