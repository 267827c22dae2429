//! Where the partitions of a batch stand, and what is to be done next.
//!
//! A partition waits, runs in a controller of its own, or is finished. One that is told to stop comes back with
//! the state of its ledger and waits again: that is how a batch continues as new, ends before its end and goes
//! on later, and how a partition is split, so that never two controllers have one range.

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
    decisions::{chain::Ledger, pacing::Pacing, state::pending_notices::Notices},
    page::token::PageToken,
    processor::reducer::Output,
    progress::{phase::Outcome, report::BatchReport},
    protocol::partition::{Share, Told},
};
use look::Merged;

pub(crate) use crate::protocol::partition::Look;
pub(crate) use decide::{Next, PartLimits, Step};

/// How long it is believed that a partition cannot use more pages in flight than it used.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// How long all partitions stop for a hand-over, at a time.
const STOP_FOR: Duration = Duration::from_secs(10);

/// The partitions of a batch run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Partitions {
    parts: Vec<Part>,
    /// Why the batch cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    /// What is left of those that are finished, beside their counts.
    merged: Merged,
    /// How this run of the parent comes to its end.
    #[serde(skip)]
    hand_over: HandOver,
    most_in_flight: u32,
    /// Pages that had been given up when somebody let the batch go on.
    #[serde(default, skip_serializing_if = "is_default")]
    given_up_before: u64,
    /// Pages of all of them when this run of the parent began.
    #[serde(skip)]
    pages_before: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Part {
    spec: PartitionSpec,
    state: State,
    look: Look,
    /// Counts what its controllers are told.
    seq: u64,
    /// Found to use no more pages in flight than this, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<(u32, Timestamp)>,
    /// What is left of it is to be split before it goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    splitting: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsplittable: bool,
    /// It goes on in the next run of the parent.
    #[serde(skip)]
    rests: bool,
}

/// The partitions do not outlive a run of the parent, so they are stopped before its end. One of them may be in a
/// page of an hour, and the others do not wait for it.
#[derive(Clone, Debug, Default, PartialEq)]
enum HandOver {
    /// It is not due.
    #[default]
    No,
    /// All are stopped, since then.
    Stopping(Timestamp),
    /// Some did not stop soon enough. They still stop, and rest until the next run; the others go on until then.
    SomeAreSlow,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Not begun, or stopped with what is left.
    Waiting(Option<Box<Parked>>),
    Running {
        told: Box<Told>,
        held: Share,
        /// It is there, so that it can be told something.
        started: bool,
        /// Pages that it had when it began.
        pages_before: u64,
    },
    Finished,
    /// Its controller is gone without a word.
    Lost,
}

/// What a partition that stopped goes on with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Parked {
    pub ledger: Ledger,
    pub pacing: Pacing,
    pub notices: Notices,
}

/// # Construct
impl Partitions {
    pub fn new(specs: Vec<PartitionSpec>) -> Self {
        let part = |spec| Part {
            spec,
            state: State::Waiting(None),
            look: Look::default(),
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
    /// A partition begins with this; what it goes on with is given away.
    pub fn begin(
        &mut self,
        number: u32,
        told: Told,
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

    /// Its controller is there.
    pub fn started(&mut self, number: u32) {
        if let Some(State::Running { started, .. }) = self.state_mut(number) {
            *started = true;
        }
    }

    /// It is told something; answers with the number of that, and whether it has to say when it keeps to it.
    pub fn tell(&mut self, number: u32, new: Told, split: bool) -> Option<(u64, bool)> {
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

    /// It keeps to what it was told last.
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

    /// What is known of a partition that runs.
    pub fn looked(&mut self, number: u32, look: Look, now: Timestamp) {
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

    /// The controller of a partition came to an end: this is the one place where the reports of partitions are
    /// merged. Answers with what the partition has put out since it began or came back last.
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
        part.look = Look::of(&report.progress, false);
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
            // There is nothing behind it, and there may be a thousand of these.
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
                output = parked.ledger.take_output();
                let (failed, failed_items) = parked.ledger.give_lists();
                self.merged.take(&failed, &failed_items, &BTreeMap::new());
                State::Waiting(Some(Box::new(parked)))
            }
            None => State::Lost,
        };
        if part.splitting
            && !matches!(&part.state, State::Waiting(Some(p)) if p.ledger.undiscovered().is_some())
        {
            part.splitting = false;
            part.unsplittable = true;
        }
        output
    }

    /// The controller of a partition is gone without a report.
    pub fn lost(&mut self, number: u32, why: &str) {
        if let Some(part) = self.parts.get_mut(number as usize) {
            let why = format!("partition \"{}\" {why}", part.spec.name);
            part.look.end();
            part.state = State::Lost;
            self.broken.get_or_insert(why);
        }
    }

    /// What is left of a partition goes on in two, from here on; or cannot be split.
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
        let rest = at.and_then(|at| Some((at.clone(), parked.ledger.split_at(at)?)));
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

    /// Takes note of the time while a hand-over is due.
    pub fn mind_hand_over(&mut self, limits: &PartLimits, now: Timestamp) {
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

    /// When that makes a difference next.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        match self.hand_over {
            HandOver::Stopping(since) => Some(since.plus(STOP_FOR)).filter(|at| *at > now),
            HandOver::No | HandOver::SomeAreSlow => None,
        }
    }

    /// Lets a batch that ended go on.
    pub fn revive(&mut self) -> Result<(), String> {
        for part in &mut self.parts {
            match &mut part.state {
                State::Waiting(Some(parked)) => parked.ledger.revive()?,
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

    /// Items that are left, where their number is known.
    fn left(&self) -> Option<u64> {
        let items = self.spec.items?;
        Some(items.saturating_sub(self.look.items.total()))
    }

    fn most(&self, now: Timestamp) -> Option<u32> {
        let (used, at) = self.used?;
        (now.since(at) < BELIEVED_FOR).then_some(used)
    }
}
