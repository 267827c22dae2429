//! The state of the partitions of a batch, and the events that change it.
//!
//! A partition waits, runs in a controller of its own, or is finished. A partition that is told to stop comes back with
//! the state of its chain and waits again. A continue-as-new, an early end that can be continued, and a split all work
//! that way, so two controllers never have the same range.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod decide;
mod look;
mod show;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::share::{is_within, most};
use crate::{
    base::{stored::is_default, time::Timestamp},
    batch::partition_spec::PartitionSpec,
    decisions::{chain::StrideChain, pacing::Pacing, state::pending_notices::Notices},
    page::token::PageToken,
    processor::reducer::Output,
    progress::{phase::Outcome, report::BatchReport},
    protocol::partition::{PartitionOrder, Share},
};
use look::Merged;

pub(crate) use crate::protocol::partition::PartitionSnapshot;
pub(crate) use decide::{Next, PartLimits, Step};

/// The time for which a partition is taken to be unable to use more pages in flight than it used.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// The time for which all partitions stop for a hand-over. After it the fast ones run again, and only slow ones keep
/// stopping.
const STOP_FOR: Duration = Duration::from_secs(10);

/// The partitions of a batch run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Partitions {
    parts: Vec<Part>,
    /// The reason why the batch cannot be finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    /// The failures and skip reasons that finished or stopped partitions left behind.
    merged: Merged,
    /// The progress of the hand-over to the next run of the parent.
    #[serde(skip)]
    hand_over: HandOver,
    most_in_flight: u32,
    /// Pages that had been given up when an operator continued the batch.
    #[serde(default, skip_serializing_if = "is_default")]
    given_up_before: u64,
    /// Pages of all partitions when this run of the parent began.
    #[serde(skip)]
    pages_before: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Part {
    spec: PartitionSpec,
    state: State,
    look: PartitionSnapshot,
    /// The number of the latest message to the partition's controllers.
    seq: u64,
    /// The number of pages in flight that the partition was found unable to exceed, with the time of that observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<(u32, Timestamp)>,
    /// True if the partition's remaining range is to be split before the partition continues.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    splitting: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsplittable: bool,
    /// True if the partition rests until the next run of the parent.
    #[serde(skip)]
    rests: bool,
}

/// The state of a hand-over. Partitions do not outlive a run of the parent, so they are stopped before its end. One of
/// them may be in a page that takes an hour, and the others must not wait for it.
#[derive(Clone, Debug, Default, PartialEq)]
enum HandOver {
    /// No hand-over is due.
    #[default]
    No,
    /// All partitions have been told to stop, since this time.
    Stopping(Timestamp),
    /// Some partitions did not stop soon enough. Those keep stopping and then rest until the next run. The others run
    /// until then.
    SomeAreSlow,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Not begun, or stopped before its end with this state.
    Waiting(Option<Box<Parked>>),
    Running {
        told: Box<PartitionOrder>,
        held: Share,
        /// True once the controller exists and can receive messages.
        started: bool,
        /// Pages that the partition had finished when this controller began.
        pages_before: u64,
    },
    Finished,
    /// The controller ended without a report.
    Lost,
}

/// The state with which a stopped partition continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Parked {
    pub chain: StrideChain,
    pub pacing: Pacing,
    pub notices: Notices,
}

/// # Construct
impl Partitions {
    pub fn new(specs: Vec<PartitionSpec>) -> Self {
        let part = |spec| Part {
            spec,
            state: State::Waiting(None),
            look: PartitionSnapshot::default(),
            seq: 0,
            used: None,
            splitting: false,
            unsplittable: false,
            rests: false,
        };
        Self {
            parts: specs.into_iter().map(part).collect(),
            ..Self::default()
        }
    }
}

/// # Record
impl Partitions {
    /// Records that a partition begins with `told`. Returns its range, the number of the message, and the state of a
    /// stopped partition.
    pub fn begin(
        &mut self,
        number: u32,
        told: PartitionOrder,
    ) -> Option<(PartitionSpec, u64, Option<Parked>)> {
        let part = self.parts.get_mut(number as usize)?;
        let State::Waiting(parked) = &mut part.state else {
            return None;
        };
        let parked = parked.take().map(|parked| *parked);
        part.seq += 1;
        part.state = State::Running {
            held: told.share,
            told: Box::new(told),
            started: false,
            pages_before: part.look.pages_completed,
        };
        Some((part.spec.clone(), part.seq, parked))
    }

    /// Records that the controller of a partition exists.
    pub fn started(&mut self, number: u32) {
        if let Some(State::Running { started, .. }) = self.state_mut(number) {
            *started = true;
        }
    }

    /// Records a message to a partition. Returns its number, and whether the partition has to confirm it because its
    /// share shrinks.
    pub fn tell(&mut self, number: u32, new: PartitionOrder, split: bool) -> Option<(u64, bool)> {
        let part = self.parts.get_mut(number as usize)?;
        let State::Running { told, held, .. } = &mut part.state else {
            return None;
        };
        part.seq += 1;
        let shrinks = !is_within(held, &new.share);
        part.splitting = split;
        *held = most(held, &new.share);
        **told = new;
        Some((part.seq, shrinks))
    }

    /// Records that a partition keeps to the message `seq`, which counts only if it is the latest one.
    pub fn settled(&mut self, number: u32, seq: u64) {
        let Some(part) = self.parts.get_mut(number as usize) else {
            return;
        };
        if let State::Running { told, held, .. } = &mut part.state
            && part.seq == seq
        {
            *held = told.share;
        }
    }

    /// Records the progress of a running partition.
    pub fn looked(&mut self, number: u32, look: PartitionSnapshot, now: Timestamp) {
        let Some(part) = self.parts.get_mut(number as usize) else {
            return;
        };
        if !part.is_running() {
            return;
        }
        if look.idle {
            part.used = Some((look.in_flight.max(1), now));
        }
        part.look = look;
        self.most_in_flight = self.most_in_flight.max(self.in_flight());
    }

    /// Records the end of a partition's controller. The reports of partitions are merged only here. Returns the
    /// partition's output since it began or last came back.
    pub fn ended(
        &mut self,
        number: u32,
        report: &BatchReport,
        parked: Option<Parked>,
    ) -> Option<Output> {
        let part = self.parts.get_mut(number as usize)?;
        let name = &part.spec.name;
        let asked = part.is_stopping();
        part.rests = asked && !part.splitting && self.hand_over == HandOver::SomeAreSlow;
        part.look = PartitionSnapshot::of(&report.progress, false);
        let done = matches!(
            report.outcome,
            Outcome::Completed | Outcome::CompletedWithFailures
        );
        if done {
            let progress = &report.progress;
            let merged = &mut self.merged;
            merged.take(
                &progress.failed,
                &progress.failed_items,
                &progress.skip_reasons,
            );
            part.look.skip_reasons.clear();
            // A finished partition needs no mark, and there may be a thousand of them.
            part.look.low_water_mark = None;
            part.look.end();
            part.splitting = false;
            part.state = State::Finished;
            let error = progress.output_error.as_deref();
            return Some(Output::of_part(progress.output.as_ref(), error));
        }
        if !(asked && report.outcome == Outcome::Stopped) {
            let reason = report.reason.as_deref().unwrap_or("no reason was given");
            let why = format!("partition \"{name}\" {}: {reason}", report.outcome);
            self.broken.get_or_insert(why);
        }
        part.look.end();
        let mut output = None;
        part.state = match parked {
            Some(mut parked) => {
                output = parked.chain.take_output();
                let (failed, failed_items) = parked.chain.give_lists();
                self.merged.take(&failed, &failed_items, &BTreeMap::new());
                State::Waiting(Some(Box::new(parked)))
            }
            None => State::Lost,
        };
        if part.splitting
            && !matches!(&part.state, State::Waiting(Some(p)) if p.chain.undiscovered().is_some())
        {
            part.splitting = false;
            part.unsplittable = true;
        }
        output
    }

    /// Records that the controller of a partition ended without a report.
    pub fn lost(&mut self, number: u32, why: &str) {
        if let Some(part) = self.parts.get_mut(number as usize) {
            let why = format!("partition \"{}\" {why}", part.spec.name);
            part.look.end();
            part.state = State::Lost;
            self.broken.get_or_insert(why);
        }
    }

    /// Splits the remaining range of a partition at `at`, and adds a partition for the second part. Without a usable
    /// place the partition is marked as unsplittable.
    pub fn split(&mut self, number: u32, at: Option<PageToken>) {
        let new = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        let Some(part) = self.parts.get_mut(number as usize) else {
            return;
        };
        part.splitting = false;
        part.used = None;
        let State::Waiting(Some(parked)) = &mut part.state else {
            return;
        };
        let rest = at.and_then(|at| Some((at.clone(), parked.chain.split_at(at)?)));
        let Some((at, end)) = rest else {
            part.unsplittable = true;
            return;
        };
        let left = part
            .spec
            .items
            .map(|items| items.saturating_sub(part.look.items.total()));
        let own_name = part.spec.own_name().to_owned();
        let rest = PartitionSpec {
            name: format!("{own_name}/{new}"),
            split_from: Some(own_name),
            start: Some(at.clone()),
            end,
            items: left.map(|left| left / 2),
        };
        if let (Some(items), Some(left)) = (&mut part.spec.items, left) {
            *items -= left / 2;
        }
        part.spec.end = Some(at);
        self.parts.extend(Self::new(vec![rest]).parts);
    }

    /// Advances the state of the hand-over to `now`.
    pub fn hand_over_when_due(&mut self, limits: &PartLimits, now: Timestamp) {
        let slow = self.parts.iter().any(Part::is_stopping);
        self.hand_over = match self.hand_over {
            _ if !limits.hand_over => HandOver::No,
            HandOver::No => HandOver::Stopping(now),
            HandOver::SomeAreSlow if !slow || limits.must_hand_over => HandOver::Stopping(now),
            HandOver::Stopping(since)
                if slow && !limits.must_hand_over && since.plus(STOP_FOR) <= now =>
            {
                HandOver::SomeAreSlow
            }
            HandOver::SomeAreSlow => HandOver::SomeAreSlow,
            HandOver::Stopping(since) => HandOver::Stopping(since),
        };
    }

    /// The time at which the state of the hand-over next depends on the clock.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        match self.hand_over {
            HandOver::Stopping(since) => Some(since.plus(STOP_FOR)).filter(|at| *at > now),
            HandOver::No | HandOver::SomeAreSlow => None,
        }
    }

    /// Prepares an ended batch to be continued.
    pub fn revive(&mut self) -> Result<(), String> {
        for part in &mut self.parts {
            match &mut part.state {
                State::Waiting(Some(parked)) => parked.chain.revive()?,
                State::Lost => {
                    return Err(format!(
                        "the workflow of its partition \"{}\" was ended from outside, so that its place in the \
                         data is not known",
                        part.spec.name
                    ));
                }
                State::Waiting(None) | State::Running { .. } | State::Finished => {}
            }
        }
        self.broken = None;
        self.given_up_before = self.totals().pages_failed;
        Ok(())
    }

    /// Pages of all partitions since this run of the parent began.
    pub fn pages_this_run(&mut self) -> u64 {
        let totals = self.totals();
        let pages = totals.pages_completed + totals.pages_failed;
        pages.saturating_sub(*self.pages_before.get_or_insert(pages))
    }

    fn state_mut(&mut self, number: u32) -> Option<&mut State> {
        self.parts
            .get_mut(number as usize)
            .map(|part| &mut part.state)
    }
}

impl Part {
    fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn is_stopping(&self) -> bool {
        matches!(&self.state, State::Running { told, .. } if told.stop)
    }

    /// The remaining items, if their total is known.
    fn left(&self) -> Option<u64> {
        let items = self.spec.items?;
        Some(items.saturating_sub(self.look.items.total()))
    }

    fn most(&self, now: Timestamp) -> Option<u32> {
        let (used, at) = self.used?;
        (now.since(at) < BELIEVED_FOR).then_some(used)
    }
}
