//! The next action of a partitioned batch.

use super::{HandOver, Part, Partitions, State};
use crate::{
    base::{text::count, time::Timestamp},
    batch::partition_spec::{MAX_PARTITIONS, MAX_PARTITIONS_BYTES, PartitionSpec},
    decisions::{
        chain::MAX_FAILED,
        partitions::{
            MAX_RUNNING,
            share::{Division, Holder, divide},
        },
        scheduler::{self, Ending},
    },
    page::token::PageToken,
    progress::phase::{Outcome, Phase},
    protocol::partition::PartitionOrder,
};

/// The number of partitions of a batch, including those that came from a split.
const MAX_WITH_SPLITS: usize = 2 * MAX_PARTITIONS;
const MAX_WITH_SPLITS_BYTES: usize = 2 * MAX_PARTITIONS_BYTES;

/// The limits of the batch at the moment of a decision.
#[derive(Clone, Debug)]
pub(crate) struct PartLimits {
    /// The message for all partitions, with the share of the whole batch.
    pub all: PartitionOrder,
    pub cancelled: bool,
    pub stopping: Option<String>,
    pub deadline: Option<Timestamp>,
    /// A hand-over is due.
    pub hand_over: bool,
    /// True if the hand-over cannot wait for slow partitions while the others run.
    pub must_hand_over: bool,
    pub hooks_running: bool,
    /// True if failed pages become dead letters. Otherwise they have to be listed.
    pub dead_letters: bool,
    /// True if the processor can split a range.
    pub splits: bool,
}

/// The next action of the controller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Take these steps, then wait for an event.
    Steps(Vec<Step>),
    /// Continue as new. Nothing is running.
    HandOver,
    /// End the batch. Nothing is running.
    Finish(Ending),
}

/// A command of the controller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Start the controller of this partition.
    Begin { number: u32, told: PartitionOrder },
    /// Tell the controller of this partition something new.
    Tell {
        number: u32,
        told: PartitionOrder,
        /// True if the partition is told to stop so that it can be split.
        split: bool,
    },
    /// Find a place where this range can be split.
    Split {
        number: u32,
        start: Option<PageToken>,
        end: Option<PageToken>,
    },
}

/// # Decide
impl Partitions {
    /// Decides the next action. Pure: the same arguments always give the same answer.
    pub fn next(&self, limits: &PartLimits, now: Timestamp) -> Next {
        let ending = self.ending(limits, now);
        let over = ending.is_some() || matches!(self.hand_over, HandOver::Stopping(_));
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
        let (stopping, running): (Vec<_>, Vec<_>) = self
            .holders(now)
            .into_iter()
            .partition(|(number, _)| self.parts[*number as usize].is_stopping());
        let places = (MAX_RUNNING as usize).saturating_sub(stopping.len() + running.len());
        let (numbers, running): (Vec<u32>, Vec<Holder>) = running.into_iter().unzip();
        // Shares of stopping partitions are free only once the partitions have stopped.
        let left = stopping.iter().fold(limits.all.share, |left, (_, holder)| {
            left.without(&holder.held)
        });
        let known = self.known_weights();
        let weights: Vec<f64> = waiting.iter().map(|n| self.weight(*n, known)).collect();
        let begin: &[f64] = match limits.all.paused {
            true => &[],
            false => &weights[..places.min(weights.len())],
        };
        let division = divide(&left, &running, begin);
        let mut steps = Vec::new();
        let to_split = self.to_split(limits, &division, now);
        for (number, share) in numbers.into_iter().zip(&division.shares) {
            let State::Running { told, started, .. } = &self.parts[number as usize].state else {
                continue;
            };
            let split = to_split == Some(number);
            let new = PartitionOrder {
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
            let told = PartitionOrder {
                share,
                ..limits.all.clone()
            };
            steps.push(Step::Begin { number, told });
        }
        steps.extend(self.splits());
        steps
    }

    /// The running partitions, each with the facts that decide its share.
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

    /// The waiting partitions in the order in which they begin: stopped ones first, then the largest.
    fn in_line(&self) -> Vec<u32> {
        let waiting = self.numbered().filter(|(_, part)| {
            matches!(part.state, State::Waiting(_)) && !part.splitting && !part.rests
        });
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

    /// The average remaining size of the partitions whose size is known.
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

    /// The partition that would finish sooner as two, if there is room for another one.
    fn to_split(&self, limits: &PartLimits, division: &Division, now: Timestamp) -> Option<u32> {
        let room = division.unused > 0
            && self.running() < MAX_RUNNING
            && self.parts.len() < MAX_WITH_SPLITS;
        let busy = self
            .parts
            .iter()
            .any(|part| part.splitting || part.is_stopping());
        if !limits.splits || !room || busy || limits.all.paused || !self.in_line().is_empty() {
            return None;
        }
        let specs = self.parts.iter().map(|part| &part.spec);
        if specs.map(PartitionSpec::stored_bytes).sum::<usize>() > MAX_WITH_SPLITS_BYTES {
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
            let (start, end) = parked.chain.undiscovered().filter(|_| part.splitting)?;
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
                    told: PartitionOrder {
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
            "{} of {} {} finished",
            counts.finished,
            count(u64::from(counts.total), "partition"),
            if counts.total == 1 { "is" } else { "are" }
        );
        if limits.cancelled {
            return ending(Outcome::Cancelled, format!("cancelled; {so_far}"));
        }
        let late = limits.deadline.filter(|deadline| *deadline <= now);
        let late = late.map(|_| "the deadline is over".to_owned());
        let why = limits.stopping.clone().or(late)?;
        ending(Outcome::Stopped, format!("{why}; {so_far}"))
    }

    /// The phase of the batch, for people.
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
            // Pages of a partition may still run until the partition reports that it is paused.
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
