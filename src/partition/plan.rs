//! Where the partitions of a batch stand, and what is to be done next.
//!
//! A partition waits, runs in a controller of its own, or is finished. One that is told to stop comes back with
//! the state of its ledger and waits again: that is how a batch continues as new, ends before its end and goes
//! on later, and how a partition is split, so that never two controllers have one range.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    PartitionSpec, Share, first_stride,
    share::{Division, Holder, divide, is_within, most},
};
use crate::{
    ledger::{Ledger, MAX_FAILED, MAX_FAILED_ITEMS, Totals},
    notices::Notices,
    pace::Pacing,
    page::PageToken,
    processor::count_reason,
    progress::{
        BatchReport, FailedItem, HeldBy, ItemCounts, Outcome, PageFailure, PartitionCounts,
        PartitionProgress, PartitionState, Phase, Progress, Timestamp,
    },
    protocol::{PageSizeSetting, StrideSetting},
    reduce::Fold,
    scheduler::{self, Ending},
};

/// How long it is believed that a partition cannot use more pages in flight than it used.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
/// Partitions of a batch, with those that came from a split.
const MAX_WITH_SPLITS: usize = 2 * super::MAX_PARTITIONS;
/// Failing pages of one partition that are kept.
const MAX_FAILING: usize = 3;

/// The partitions of a batch run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Partitions {
    parts: Vec<Part>,
    /// Why the batch cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    /// What is left of those that are finished, beside their counts.
    #[serde(default)]
    merged: Merged,
    #[serde(default)]
    most_in_flight: u32,
    /// Pages that had been given up when somebody let the batch go on.
    #[serde(default, skip_serializing_if = "is_zero")]
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
    #[serde(default)]
    seq: u64,
    /// Found to use no more pages in flight than this, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<(u32, Timestamp)>,
    /// What is left of it is to be split before it goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    splitting: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsplittable: bool,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<Pacing>,
    #[serde(default)]
    pub notices: Notices,
}

/// What a partition is told to keep to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub share: Share,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub stop_now: bool,
    /// Stop, and come back with what is left.
    #[serde(default)]
    pub stop: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Duration>,
    pub page_size: PageSizeSetting,
    /// As the batch was started, where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<StrideSetting>,
}

/// The latest that is known of a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Look {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    #[serde(default)]
    pub pages_completed: u64,
    #[serde(default)]
    pub pages_failed: u64,
    #[serde(default)]
    pub items: ItemCounts,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dead_letters: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub announcements_dropped: u64,
    #[serde(default, skip_serializing_if = "is_nought")]
    pub in_flight: u32,
    #[serde(default, skip_serializing_if = "is_nought")]
    pub stuck: u32,
    #[serde(default, skip_serializing_if = "is_nought")]
    pub waiting: u32,
    /// For a while it had nothing to give to pages that it may have in flight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_water_mark: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<PageFailure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_nought(n: &u32) -> bool {
    *n == 0
}

impl Look {
    pub fn of(progress: &Progress, idle: bool) -> Self {
        let failing = progress.failing.iter().take(MAX_FAILING).cloned();
        Self {
            phase: Some(progress.phase),
            pages_completed: progress.pages_completed,
            pages_failed: progress.pages_failed,
            items: progress.items,
            retries: progress.retries,
            dead_letters: progress.dead_letters,
            announcements_dropped: progress.announcements_dropped,
            in_flight: progress.pages_in_flight,
            stuck: progress.pages_stuck,
            waiting: progress.strides_waiting,
            idle,
            skip_reasons: progress.skip_reasons.clone(),
            low_water_mark: progress.low_water_mark.clone(),
            failing: failing.collect(),
            blocked_reason: progress.blocked_reason.clone(),
        }
    }

    /// Whether `later` is worth telling at once.
    pub fn differs_much(&self, later: &Self) -> bool {
        self.phase != later.phase
            || self.idle != later.idle
            || self.pages_failed != later.pages_failed
            || self.items.failed != later.items.failed
            || self.stuck != later.stuck
    }

    /// Whether the child cannot use all of its share until a page was read.
    pub fn is_discovering(progress: &Progress) -> bool {
        progress.held_by == Some(HeldBy::Discovery)
    }

    fn end(&mut self) {
        self.in_flight = 0;
        self.stuck = 0;
        self.waiting = 0;
        self.idle = false;
        self.phase = None;
        self.failing.clear();
        self.blocked_reason = None;
    }
}

/// What finished partitions leave, within the bounds of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Merged {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failed: Vec<PageFailure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failed_items: Vec<FailedItem>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    skip_reasons: BTreeMap<String, u64>,
}

impl Merged {
    fn take(
        &mut self,
        failed: &[PageFailure],
        failed_items: &[FailedItem],
        reasons: &BTreeMap<String, u64>,
    ) {
        let room = MAX_FAILED.saturating_sub(self.failed.len());
        self.failed.extend(failed.iter().take(room).cloned());
        let room = MAX_FAILED_ITEMS.saturating_sub(self.failed_items.len());
        self.failed_items
            .extend(failed_items.iter().take(room).cloned());
        for (reason, items) in reasons {
            count_reason(&mut self.skip_reasons, reason, *items);
        }
    }
}

/// What holds for the batch at the moment of a decision.
#[derive(Clone, Debug)]
pub(crate) struct PartLimits {
    /// What everybody is told, with the share of all.
    pub all: Told,
    pub cancelled: bool,
    pub stopping: Option<String>,
    pub deadline: Option<Timestamp>,
    pub hand_over: bool,
    pub hooks_running: bool,
    /// Failed pages are dead letters; otherwise they have to be listed.
    pub dead_letters: bool,
    /// The processor can split a range.
    pub splits: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Nothing but these, until something happens.
    Steps(Vec<Step>),
    /// Continue as new: nothing runs.
    HandOver,
    /// The batch is over: nothing runs.
    Finish(Ending),
}

/// A command of the controller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Start the controller of this partition.
    Begin { number: u32, told: Told },
    /// Tell it something new.
    Tell {
        number: u32,
        told: Told,
        /// It is told to stop so that it can be split.
        split: bool,
    },
    /// Find a place where this range can be split.
    Split {
        number: u32,
        start: Option<PageToken>,
        end: Option<PageToken>,
    },
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
        };
        Self {
            parts: specs.into_iter().map(part).collect(),
            ..Self::default()
        }
    }
}

/// # Decide
impl Partitions {
    /// What follows. Pure: the same arguments always give the same answer.
    pub fn next(&self, limits: &PartLimits, now: Timestamp) -> Next {
        let ending = self.ending(limits, now);
        let over = ending.is_some() || limits.hand_over;
        if over {
            if self.running() > 0 {
                return Next::Steps(self.stop_all());
            }
            return match ending {
                Some(ending) => Next::Finish(ending),
                None if limits.hooks_running => Next::Steps(Vec::new()),
                None => Next::HandOver,
            };
        }
        Next::Steps(self.steps(limits, now))
    }

    fn steps(&self, limits: &PartLimits, now: Timestamp) -> Vec<Step> {
        let waiting = self.in_line();
        let (numbers, running): (Vec<u32>, Vec<Holder>) = self.holders(now).into_iter().unzip();
        let known = self.known_weights();
        let weights: Vec<f64> = waiting.iter().map(|n| self.weight(*n, known)).collect();
        let begin: &[f64] = match limits.all.paused {
            true => &[],
            false => &weights,
        };
        let division = divide(&limits.all.share, &running, begin);
        let mut steps = Vec::new();
        let to_split = self.to_split(limits, &division, now);
        for (number, share) in numbers.into_iter().zip(&division.shares) {
            let State::Running { told, started, .. } = &self.parts[number as usize].state else {
                continue;
            };
            let split = to_split == Some(number);
            let new = Told {
                share: *share,
                stop: split,
                ..limits.all.clone()
            };
            if *started && !told.stop && new != **told {
                steps.push(Step::Tell {
                    number,
                    told: new,
                    split,
                });
            }
        }
        for (number, share) in waiting.into_iter().zip(division.begin) {
            let told = Told {
                share,
                ..limits.all.clone()
            };
            steps.push(Step::Begin { number, told });
        }
        steps.extend(self.splits());
        steps
    }

    /// Everybody who runs, and what it may have.
    fn holders(&self, now: Timestamp) -> Vec<(u32, Holder)> {
        let known = self.known_weights();
        let holders = self.numbered().filter_map(|(number, part)| {
            let State::Running { told, held, .. } = &part.state else {
                return None;
            };
            let holder = Holder {
                given: told.share,
                held: *held,
                most: part.most(now),
                weight: self.weight(number, known),
            };
            Some((number, holder))
        });
        holders.collect()
    }

    /// Those that wait: what was begun, then the largest.
    fn in_line(&self) -> Vec<u32> {
        let waiting = self
            .numbered()
            .filter(|(_, part)| matches!(part.state, State::Waiting(_)) && !part.splitting);
        let mut line: Vec<_> = waiting
            .map(|(number, part)| {
                let fresh = matches!(part.state, State::Waiting(None));
                let left = part.left().unwrap_or(0);
                (fresh, std::cmp::Reverse(left), number)
            })
            .collect();
        line.sort_unstable();
        line.into_iter().map(|(_, _, number)| number).collect()
    }

    /// What a partition of known size has left on average.
    fn known_weights(&self) -> f64 {
        let open = self
            .parts
            .iter()
            .filter(|part| !matches!(part.state, State::Finished));
        let known: Vec<u64> = open.filter_map(Part::left).collect();
        match known.is_empty() {
            true => 1.0,
            false => known.iter().map(|left| *left as f64).sum::<f64>() / known.len() as f64,
        }
    }

    fn weight(&self, number: u32, unknown: f64) -> f64 {
        let left = self.parts[number as usize].left();
        left.map_or(unknown, |left| left as f64).max(1.0)
    }

    /// A partition that could be worked on faster in two, while there is room for another one.
    fn to_split(&self, limits: &PartLimits, division: &Division, now: Timestamp) -> Option<u32> {
        let room = division.unused > 0
            && self.running() < super::MAX_RUNNING
            && self.parts.len() < MAX_WITH_SPLITS;
        let busy = self
            .parts
            .iter()
            .any(|part| part.splitting || part.is_stopping());
        if !limits.splits || !room || busy || limits.all.paused || !self.in_line().is_empty() {
            return None;
        }
        let candidates = self.numbered().filter(|(_, part)| {
            let State::Running {
                started,
                pages_before,
                ..
            } = &part.state
            else {
                return false;
            };
            let got_on = part.look.pages_completed > *pages_before;
            *started && got_on && !part.unsplittable && part.most(now).is_some()
        });
        let known = self.known_weights();
        candidates
            .map(|(number, _)| (number, self.weight(number, known)))
            .reduce(|a, b| if b.1 > a.1 { b } else { a })
            .map(|(number, _)| number)
    }

    fn splits(&self) -> impl Iterator<Item = Step> {
        self.numbered().filter_map(|(number, part)| {
            let State::Waiting(Some(parked)) = &part.state else {
                return None;
            };
            let (start, end) = parked.ledger.undiscovered().filter(|_| part.splitting)?;
            Some(Step::Split { number, start, end })
        })
    }

    fn stop_all(&self) -> Vec<Step> {
        let running = self
            .numbered()
            .filter_map(|(number, part)| match &part.state {
                State::Running {
                    told,
                    started: true,
                    ..
                } if !told.stop => Some(Step::Tell {
                    number,
                    told: Told {
                        stop: true,
                        ..(**told).clone()
                    },
                    split: false,
                }),
                _ => None,
            });
        running.collect()
    }

    fn ending(&self, limits: &PartLimits, now: Timestamp) -> Option<Ending> {
        let ending = |outcome, reason| {
            Some(Ending {
                outcome,
                reason: Some(reason),
            })
        };
        if let Some(broken) = &self.broken {
            return ending(Outcome::Failed, broken.clone());
        }
        let totals = self.totals();
        let listable = self.given_up_before.max(MAX_FAILED as u64);
        if !limits.dead_letters && totals.pages_failed > listable {
            let why = format!(
                "more than {MAX_FAILED} pages were given up, which is the most that can be listed"
            );
            return ending(Outcome::Failed, why);
        }
        let counts = self.counts();
        if counts.finished == counts.total {
            return Some(match (totals.pages_failed, totals.items.failed) {
                (0, 0) => Ending {
                    outcome: Outcome::Completed,
                    reason: None,
                },
                (pages, items) => Ending {
                    outcome: Outcome::CompletedWithFailures,
                    reason: Some(scheduler::given_up(pages, items)),
                },
            });
        }
        let so_far = format!(
            "{} of {} partitions are finished",
            counts.finished, counts.total
        );
        if limits.cancelled {
            return ending(Outcome::Cancelled, format!("cancelled; {so_far}"));
        }
        let late = limits.deadline.filter(|deadline| *deadline <= now);
        let late = late.map(|_| "the deadline is over".to_owned());
        let why = limits.stopping.clone().or(late)?;
        ending(Outcome::Stopped, format!("{why}; {so_far}"))
    }

    /// What the batch is doing, for people.
    pub fn phase(&self, limits: &PartLimits, held: bool, now: Timestamp) -> Phase {
        match self.ending(limits, now).map(|ending| ending.outcome) {
            Some(Outcome::Cancelled) => return Phase::Cancelling,
            Some(Outcome::Failed | Outcome::Stopped) => return Phase::Stopping,
            Some(Outcome::Completed | Outcome::CompletedWithFailures) | None => {}
        }
        if held {
            return Phase::Held;
        }
        let running = || self.parts.iter().filter(|part| part.is_running());
        if limits.all.paused || limits.all.share.parallelism == 0 {
            // Until one has said so, its pages are still running.
            let paused = running().all(|part| part.look.phase == Some(Phase::Paused));
            return match paused {
                true => Phase::Paused,
                false => Phase::Pausing,
            };
        }
        let all = |phase| running().count() > 0 && running().all(|p| p.look.phase == Some(phase));
        let phases = [Phase::Blocked, Phase::WaitingForStuckPages];
        phases
            .into_iter()
            .find(|phase| all(*phase))
            .unwrap_or(Phase::Running)
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
    /// merged. Tells whether the partition is done.
    pub fn ended(&mut self, number: u32, report: &BatchReport, parked: Option<Parked>) -> bool {
        let Some(part) = self.parts.get_mut(number as usize) else {
            return false;
        };
        let name = &part.spec.name;
        let asked = part.is_stopping();
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
            part.look.end();
            part.splitting = false;
            part.state = State::Finished;
            return true;
        }
        if !(asked && report.outcome == Outcome::Stopped) {
            let reason = report.reason.as_deref().unwrap_or("no reason was given");
            let why = format!("partition \"{name}\" {}: {reason}", report.outcome);
            self.broken.get_or_insert(why);
        }
        part.look.end();
        part.state = match parked {
            Some(parked) => State::Waiting(Some(Box::new(parked))),
            None => State::Lost,
        };
        if part.splitting
            && !matches!(&part.state, State::Waiting(Some(p)) if p.ledger.undiscovered().is_some())
        {
            part.splitting = false;
            part.unsplittable = true;
        }
        false
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

/// # Look
impl Partitions {
    fn numbered(&self) -> impl Iterator<Item = (u32, &Part)> {
        self.parts
            .iter()
            .enumerate()
            .map(|(n, part)| (u32::try_from(n).unwrap_or(u32::MAX), part))
    }

    pub fn running(&self) -> u32 {
        self.parts.iter().filter(|part| part.is_running()).count() as u32
    }

    /// All are finished, or the batch cannot go on.
    pub fn is_over(&self) -> bool {
        let counts = self.counts();
        self.broken.is_some() || counts.finished == counts.total
    }

    pub fn in_flight(&self) -> u32 {
        self.parts.iter().map(|part| part.look.in_flight).sum()
    }

    pub fn counts(&self) -> PartitionCounts {
        let finished = self
            .parts
            .iter()
            .filter(|p| matches!(p.state, State::Finished))
            .count();
        PartitionCounts {
            total: self.parts.len() as u32,
            running: self.running(),
            finished: finished as u32,
        }
    }

    /// Counts of the whole batch.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            skip_reasons: self.merged.skip_reasons.clone(),
            max_parallelism_achieved: self.most_in_flight,
            ..Totals::default()
        };
        for part in &self.parts {
            let look = &part.look;
            totals.pages_completed += look.pages_completed;
            totals.pages_failed += look.pages_failed;
            totals.items += look.items;
            totals.retries += look.retries;
            totals.dead_letters += look.dead_letters;
            totals.announcements_dropped += look.announcements_dropped;
            for (reason, items) in &look.skip_reasons {
                count_reason(&mut totals.skip_reasons, reason, *items);
            }
        }
        totals
    }

    /// What partitions have put out that have begun and stand still.
    pub fn folds(&self) -> impl Iterator<Item = &Fold> {
        self.parts.iter().filter_map(|part| match &part.state {
            State::Waiting(Some(parked)) => parked.ledger.fold(),
            _ => None,
        })
    }

    /// Writes what the partitions are at into the progress of the batch; lists at most so many.
    pub fn show(&self, progress: &mut Progress, most: usize) {
        let looks = || self.parts.iter().map(|part| &part.look);
        progress.pages_in_flight = self.in_flight();
        progress.pages_stuck = looks().map(|look| look.stuck).sum();
        progress.strides_waiting = looks().map(|look| look.waiting).sum();
        progress.failing = looks()
            .flat_map(|look| look.failing.clone())
            .take(20)
            .collect();
        let mut merged = self.merged.clone();
        for part in &self.parts {
            if let State::Waiting(Some(parked)) = &part.state {
                let ledger = &parked.ledger;
                merged.take(ledger.failed(), ledger.failed_items(), &BTreeMap::new());
            }
        }
        progress.failed = merged.failed;
        progress.failed_items = merged.failed_items;
        let counts = self.counts();
        progress.end_of_data = counts.finished == counts.total;
        progress.low_water_mark = None;
        progress.partition_counts = Some(counts);
        progress.partitions = self.listed(most);
    }

    /// Those that run, then those that wait, then those that are finished; of each the largest first.
    fn listed(&self, most: usize) -> Vec<PartitionProgress> {
        let mut listed: Vec<_> = self.parts.iter().map(Part::progress).collect();
        listed.sort_by_key(|p| {
            let size = p.items_expected.unwrap_or(p.items.total());
            (p.state, std::cmp::Reverse(size))
        });
        listed.truncate(most);
        listed
    }

    /// Where strides of partition `number` begin to be numbered, with a ledger for it.
    pub fn ledger(spec: &PartitionSpec, number: u32, seed: u64) -> Ledger {
        Ledger::of_range(
            spec.start.clone(),
            spec.end.clone(),
            first_stride(number),
            seed,
        )
    }

    /// What the processor calls a partition.
    pub fn own_name(&self, number: u32) -> Option<&str> {
        let part = self.parts.get(number as usize)?;
        Some(part.spec.own_name())
    }

    /// Why a partition is blocked, for people.
    pub fn blocked_reason(&self) -> Option<String> {
        self.parts.iter().find_map(|part| {
            let why = part.look.blocked_reason.as_ref()?;
            Some(format!("partition \"{}\": {why}", part.spec.name))
        })
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

    fn progress(&self) -> PartitionProgress {
        let (state, max_parallelism) = match &self.state {
            State::Waiting(_) => (PartitionState::Waiting, 0),
            State::Running { told, .. } => (PartitionState::Running, told.share.parallelism),
            State::Finished => (PartitionState::Finished, 0),
            State::Lost => (PartitionState::Lost, 0),
        };
        PartitionProgress {
            name: self.spec.name.clone(),
            state,
            pages_completed: self.look.pages_completed,
            pages_failed: self.look.pages_failed,
            pages_in_flight: self.look.in_flight,
            max_parallelism,
            items: self.look.items,
            items_expected: self.spec.items,
            low_water_mark: self.look.low_water_mark.clone(),
        }
    }
}
