//! Partitions that begin, stop, are split and go on in any order: every row is some controller's, and never two.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    ledger::{Event, Ledger},
    progress::{BatchReport, Outcome, Timestamp},
    protocol::{PageSizeSetting, StrideReport},
    retry::RetryPolicy,
    scheduler::{self, Decision, Limits},
};

#[derive(Clone, Debug)]
struct Plan {
    /// Rows of each partition, and whether the last one has no end.
    sizes: Vec<u64>,
    open: bool,
    page_size: u64,
    parallelism: u32,
    rate: Option<f64>,
    splits: bool,
    steps: Vec<(u8, u8)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let data = (
        prop::collection::vec(1u64..60, 1..8),
        any::<bool>(),
        1u64..9,
    );
    let steps = prop::collection::vec(any::<(u8, u8)>(), 0..200);
    let limits = (1u32..12, prop::option::of(0.1f64..1e5), any::<bool>());
    (data, limits, steps).prop_map(
        |((sizes, open, page_size), (parallelism, rate, splits), steps)| Plan {
            sizes,
            open,
            page_size,
            parallelism,
            rate,
            splits,
            steps,
        },
    )
}

struct Child {
    ledger: Ledger,
    told: Told,
    seq: u64,
    pages: u64,
}

struct World {
    plan: Plan,
    rows: u64,
    partitions: Partitions,
    children: BTreeMap<u32, Child>,
    processed: BTreeMap<u64, u32>,
    limits: PartLimits,
    now: Timestamp,
    /// Decides where ranges are split.
    dice: u8,
    splits: u32,
    over: Option<scheduler::Ending>,
}

fn token(position: u64) -> PageToken {
    PageToken::encode(&position).unwrap()
}

fn position(token: Option<&PageToken>) -> u64 {
    token.map_or(0, |token| token.decode().unwrap())
}

fn report(outcome: Outcome, pages: u64) -> BatchReport {
    let progress = serde_json::json!({
        "batch_id": "b", "batch_run": "r", "processor": "p", "phase": "ended",
        "pages_completed": pages, "pages_failed": 0, "pages_in_flight": 0, "pages_stuck": 0,
        "strides_waiting": 0, "items": {"processed": pages, "skipped": 0, "failed": 0},
        "retries": 0, "max_parallelism": 1, "max_parallelism_achieved": 1, "end_of_data": false,
        "started_at": 0, "as_of": 0, "runs": 1, "announcements_dropped": 0,
    });
    let report = serde_json::json!({"outcome": outcome, "progress": progress, "ended_at": 0});
    serde_json::from_value(report).unwrap()
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut start = 0;
        let mut ranges = Vec::new();
        for (n, size) in plan.sizes.iter().enumerate() {
            let last = plan.open && n + 1 == plan.sizes.len();
            let end = (!last).then_some(start + size);
            let begin = (start > 0).then_some(start);
            ranges.push(Partition::range(n.to_string(), begin, end).items(*size));
            start += size;
        }
        let told = Told {
            share: Share {
                parallelism: plan.parallelism,
                rate: plan.rate,
                ..Share::default()
            },
            paused: false,
            stop_now: false,
            stop: false,
            page_pause: None,
            page_size: PageSizeSetting::Fixed(1),
            stride: None,
        };
        Self {
            rows: start,
            partitions: Partitions::new(stored(ranges).unwrap()),
            children: BTreeMap::new(),
            processed: BTreeMap::new(),
            limits: PartLimits {
                all: told,
                cancelled: false,
                stopping: None,
                deadline: None,
                hand_over: false,
                hooks_running: false,
                dead_letters: true,
                splits: plan.splits,
            },
            now: Timestamp(0),
            dice: 0,
            splits: 0,
            over: None,
            plan,
        }
    }

    /// What the controller does with a decision.
    fn decide(&mut self) {
        for _ in 0..50 {
            match self.partitions.next(&self.limits, self.now) {
                Next::Finish(ending) => {
                    assert!(self.children.is_empty());
                    self.over = Some(ending);
                    return;
                }
                Next::HandOver => {
                    assert!(self.children.is_empty());
                    let json = serde_json::to_string(&self.partitions).unwrap();
                    self.partitions = serde_json::from_str(&json).unwrap();
                    self.limits.hand_over = false;
                }
                Next::Steps(steps) if steps.is_empty() => return,
                Next::Steps(steps) => steps.into_iter().for_each(|step| self.carry_out(step)),
            }
        }
        panic!("decisions do not come to rest: {:?}", self.partitions);
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Begin { number, told } => {
                let (spec, seq, parked) = self.partitions.begin(number, told.clone()).unwrap();
                let ledger = match parked {
                    Some(parked) => parked.ledger,
                    None => Partitions::ledger(&spec, number, 7),
                };
                let pages = ledger.totals.pages_completed;
                let child = Child {
                    ledger,
                    told,
                    seq,
                    pages,
                };
                assert!(
                    self.children.insert(number, child).is_none(),
                    "it runs twice"
                );
                self.partitions.started(number);
            }
            Step::Tell {
                number,
                told,
                split,
            } => {
                let (seq, _) = self.partitions.tell(number, told.clone(), split).unwrap();
                let child = self.children.get_mut(&number).unwrap();
                (child.told, child.seq) = (told, seq);
            }
            Step::Split { number, start, end } => {
                let (start, end) = (
                    position(start.as_ref()),
                    end.map_or(self.rows, |end| position(Some(&end))),
                );
                let middle = start + (end.saturating_sub(start)) * u64::from(self.dice) / 256;
                // Also places that are none.
                let at = (!self.dice.is_multiple_of(5)).then(|| token(middle));
                let before = self.partitions.counts().total;
                self.partitions.split(number, at);
                self.splits += self.partitions.counts().total - before;
            }
        }
    }

    /// A child works on one page, or comes to its end.
    fn work(&mut self, number: u32) {
        let Some(child) = self.children.get_mut(&number) else {
            return;
        };
        let limits = Limits {
            max_parallelism: child.told.share.parallelism,
            stopping: child.told.stop.then(|| "its batch stops it".to_owned()),
            ..Limits::default()
        };
        match scheduler::decide(&child.ledger, &limits, self.now) {
            Decision::Dispatch(dispatch) => {
                let stride = child.ledger.stride(dispatch.stride).unwrap();
                let at = position(stride.at.as_ref());
                let end = stride.end.clone();
                assert_eq!(u64::from(number), partition_of(dispatch.stride));
                let event = Event::Dispatched {
                    stride: dispatch.stride,
                    rate_share: None,
                    page_share: None,
                    items: None,
                    now: self.now,
                };
                child.ledger.record(event).unwrap();
                let last = child.ledger.last().cloned();
                let bound = end.as_ref().or(last.as_ref());
                let bound = bound
                    .map_or(self.rows, |bound| position(Some(bound)))
                    .min(self.rows);
                let rows: Vec<u64> = (at + 1..=bound)
                    .take(self.plan.page_size as usize)
                    .collect();
                for row in &rows {
                    *self.processed.entry(*row).or_default() += 1;
                }
                child.pages += u64::from(!rows.is_empty());
                // Like a stride of one page does.
                let next = rows.last().map(|row| token(*row));
                let next = next.or_else(|| last.filter(|_| end.is_none()));
                if let (None, Some(next)) = (&end, &next) {
                    let starts = std::slice::from_ref(next);
                    child
                        .ledger
                        .record(Event::Announced {
                            by: dispatch.stride,
                            starts,
                        })
                        .unwrap();
                }
                let report = StrideReport {
                    end_of_data: end.is_none() && next.is_none(),
                    covered_to: next.or(end),
                    pages: u32::from(!rows.is_empty()),
                    ..StrideReport::default()
                };
                let event = Event::Reported {
                    stride: dispatch.stride,
                    report: Box::new(report),
                    policy: &RetryPolicy::default(),
                    dead_letters: true,
                    now: self.now,
                };
                child.ledger.record(event).unwrap();
            }
            Decision::Finish(ending) => {
                let child = self.children.remove(&number).unwrap();
                let parked = (ending.outcome == Outcome::Stopped).then_some(Parked {
                    ledger: child.ledger,
                    pacing: None,
                    notices: crate::notices::Notices::default(),
                });
                self.partitions
                    .ended(number, &report(ending.outcome, child.pages), parked);
            }
            Decision::WaitUntil(_) => {}
            Decision::HandOver => unreachable!("it is never due"),
        }
    }

    fn step(&mut self, (what, which): (u8, u8)) {
        self.dice = which;
        let running: Vec<u32> = self.children.keys().copied().collect();
        let chosen = running.get(which as usize % running.len().max(1)).copied();
        match (what % 16, chosen) {
            (0..8, Some(number)) => self.work(number),
            (8..11, Some(number)) => {
                let look = Look {
                    idle: true,
                    in_flight: 1,
                    pages_completed: self.children[&number].pages,
                    ..Look::default()
                };
                self.partitions.looked(number, look, self.now);
            }
            (11, _) => self.limits.hand_over = true,
            (12, _) => self.limits.all.share.parallelism = u32::from(which % 12),
            (13, Some(number)) => self.partitions.settled(number, self.children[&number].seq),
            (14, _) => {
                self.now = self
                    .now
                    .plus(std::time::Duration::from_secs(u64::from(which)));
            }
            (15, _) if which % 8 == 0 => {
                self.limits.stopping = Some("for a while".to_owned());
            }
            _ => {}
        }
        self.decide();
        self.each_row_once_at_most();
        if self
            .over
            .take()
            .is_some_and(|ending| ending.outcome == Outcome::Stopped)
        {
            self.partitions.revive().unwrap();
            self.limits.stopping = None;
        }
    }

    fn each_row_once_at_most(&self) {
        let twice: Vec<_> = self
            .processed
            .iter()
            .filter(|(_, times)| **times > 1)
            .collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}

proptest! {
    /// Whatever stops, splits and continues as new: a completed batch has every row exactly once.
    #[test]
    fn no_row_is_lost_and_none_has_two_owners(plan in plans()) {
        let mut world = World::new(plan.clone());
        for step in plan.steps {
            world.step(step);
        }
        world.limits.all.share.parallelism = world.plan.parallelism;
        world.limits.stopping = None;
        for turn in 0..5_000u32 {
            world.decide();
            match world.over.take() {
                Some(ending) if ending.outcome == Outcome::Stopped => world.partitions.revive().unwrap(),
                Some(ending) => {
                    prop_assert_eq!(ending.outcome, Outcome::Completed);
                    break;
                }
                None => {}
            }
            let running: Vec<u32> = world.children.keys().copied().collect();
            for number in running {
                world.work(number);
                if let Some(child) = world.children.get(&number) {
                    world.partitions.settled(number, child.seq);
                }
            }
            prop_assert!(turn < 4_999, "it does not end: {:?}", world.partitions);
        }
        world.each_row_once_at_most();
        let rows: Vec<u64> = world.processed.keys().copied().collect();
        prop_assert_eq!(rows, (1..=world.rows).collect::<Vec<_>>());
        let counts = world.partitions.counts();
        prop_assert_eq!(counts.finished, counts.total);
        prop_assert_eq!(counts.total, world.plan.sizes.len() as u32 + world.splits);
    }

    /// An attempt from before a split that wakes up late announces in vain.
    #[test]
    fn a_late_announcement_does_not_reach_beyond_a_split(rows in 3u64..1_000, at in 1u64..999, late in 1u64..1_000) {
        prop_assume!(at < rows && late != at);
        let mut ledger = Ledger::of_range(None, Some(token(rows)), first_stride(3), 7);
        let frontier = ledger.frontier().unwrap();
        prop_assert_eq!(ledger.split_at(token(at)), Some(Some(token(rows))));
        let starts = [token(late)];
        ledger.record(Event::Announced { by: frontier, starts: &starts }).unwrap();
        prop_assert_eq!(ledger.last(), Some(&token(at)));
        let (start, end) = ledger.undiscovered().unwrap();
        prop_assert_eq!((start, end), (None, Some(token(at))));
    }
}
