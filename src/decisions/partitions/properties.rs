//! Partitions that begin, stop, split and continue in any order. Every row belongs to exactly one controller.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::protocol::partition::{PartitionOrder, PartitionSnapshot, Share};
use crate::{
    base::time::Timestamp,
    batch::{
        partition_spec::{
            MAX_PARTITIONS, Partition, PartitionSpec, first_stride, partition_of, stored,
        },
        retry::RetryPolicy,
    },
    decisions::{
        chain::{Event, StrideChain},
        pacing::Pacing,
        scheduler::{self, Decision, Limits},
    },
    page::token::PageToken,
    progress::{phase::Outcome, report::BatchReport},
    protocol::{PageSizeSetting, StrideReport},
};

#[derive(Clone, Debug)]
struct Plan {
    /// The rows of each partition. The last one has no end if `open` is set.
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
    chain: StrideChain,
    told: PartitionOrder,
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
    /// Random input for the choice of split points.
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
        let told = PartitionOrder {
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
                must_hand_over: false,
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

    /// Carries out decisions as the controller does.
    fn decide(&mut self) {
        for _ in 0..50 {
            self.partitions.hand_over_when_due(&self.limits, self.now);
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
                let chain = match parked {
                    Some(parked) => parked.chain,
                    None => Partitions::chain(&spec, number, 7),
                };
                let pages = chain.totals.pages_completed;
                let child = Child {
                    chain,
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
                // Some splits find no place.
                let at = (!self.dice.is_multiple_of(5)).then(|| token(middle));
                let before = self.partitions.counts().total;
                self.partitions.split(number, at);
                self.splits += self.partitions.counts().total - before;
            }
        }
    }

    /// Lets a child process one page, or end.
    fn work(&mut self, number: u32) {
        let Some(child) = self.children.get_mut(&number) else {
            return;
        };
        let limits = Limits {
            max_parallelism: child.told.share.parallelism,
            stopping: child.told.stop.then(|| "its batch stops it".to_owned()),
            ..Limits::default()
        };
        match scheduler::decide(&child.chain, &limits, self.now) {
            Decision::Dispatch(dispatch) => {
                let stride = child.chain.stride(dispatch.stride).unwrap();
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
                child.chain.record(event).unwrap();
                let last = child.chain.last().cloned();
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
                // A stride of one page announces its end the same way.
                let next = rows.last().map(|row| token(*row));
                let next = next.or_else(|| last.filter(|_| end.is_none()));
                if let (None, Some(next)) = (&end, &next) {
                    let starts = std::slice::from_ref(next);
                    child
                        .chain
                        .record(Event::Announced {
                            by: dispatch.stride,
                            dispatch: child.chain.dispatches(),
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
                child.chain.record(event).unwrap();
            }
            Decision::Finish(ending) => {
                let child = self.children.remove(&number).unwrap();
                let parked = (ending.outcome == Outcome::Stopped).then_some(Parked {
                    chain: child.chain,
                    pacing: Pacing::default(),
                    notices: crate::decisions::state::pending_notices::Notices::default(),
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
                let look = PartitionSnapshot {
                    idle: true,
                    in_flight: 1,
                    pages_completed: self.children[&number].pages,
                    ..PartitionSnapshot::default()
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
    /// A completed batch has every row exactly once, whatever stops, splits or continues as new.
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
        let mut chain = StrideChain::of_range(None, Some(token(rows)), first_stride(3), 7);
        let frontier = chain.frontier().unwrap();
        prop_assert_eq!(chain.split_at(token(at)), Some(Some(token(rows))));
        let starts = [token(late)];
        chain.record(Event::Announced { by: frontier, dispatch: 1, starts: &starts }).unwrap();
        prop_assert_eq!(chain.last(), Some(&token(at)));
        // A page ledger has no row of the new stride yet.
        prop_assert!(!chain.is_kept(frontier + 1));
        let (start, end) = chain.undiscovered().unwrap();
        prop_assert_eq!((start, end), (None, Some(token(at))));
    }
}

fn told(limits: &PartLimits, stop: bool) -> PartitionOrder {
    PartitionOrder {
        stop,
        ..limits.all.clone()
    }
}

/// The largest state with which a batch can end: of a thousand partitions 50 are stopped, with every list full, and the
/// others are finished.
pub(crate) fn worst() -> Partitions {
    let longest = PageToken::encode(&"x".repeat(PageToken::MAX_BYTES - 2)).unwrap();
    let named = (0..MAX_PARTITIONS).map(|n| Partition::<u64>::named(format!("{n:0>100}")));
    let mut partitions = Partitions::new(stored(named.collect()).unwrap());
    let limits = World::new(Plan {
        sizes: vec![1],
        open: false,
        page_size: 1,
        parallelism: 10,
        rate: None,
        splits: false,
        steps: Vec::new(),
    })
    .limits;
    for number in 0..MAX_PARTITIONS as u32 {
        let (spec, _, _) = partitions.begin(number, told(&limits, false)).unwrap();
        partitions.started(number);
        partitions.tell(number, told(&limits, true), false).unwrap();
        let (outcome, parked) = match number < MAX_RUNNING {
            false => (Outcome::Completed, None),
            true => {
                let of_part = Limits {
                    max_parallelism: 10,
                    of_part: true,
                    ..Limits::default()
                };
                let chain = Partitions::chain(&spec, number, 7);
                let parked = Parked {
                    chain: crate::decisions::chain::properties::worst_at_rest(chain, &of_part),
                    pacing: Pacing::default(),
                    notices: crate::decisions::state::pending_notices::Notices::default(),
                };
                (Outcome::Stopped, Some(parked))
            }
        };
        let mut report = report(outcome, 1_000_000);
        report.progress.low_water_mark = Some(longest.clone());
        report.progress.pages_failed = if parked.is_some() { 50 } else { 0 };
        let reasons = (0..10).map(|n| (format!("{n:0>60}"), 1_000));
        report.progress.skip_reasons = reasons.collect();
        partitions.ended(number, &report, parked);
    }
    partitions
}

#[test]
fn fifty_partitions_that_stand_still_fit_into_one_payload_with_every_list_full() {
    let partitions = worst();
    let bytes = serde_json::to_string(&partitions).unwrap().len();
    assert!(bytes <= 1_500_000, "{bytes} bytes");
    let mut progress = report(Outcome::Stopped, 0).progress;
    partitions.show(&mut progress, 100);
    assert_eq!(progress.failed.len(), 50);
    assert_eq!(progress.failed_items.len(), 20);
    assert_eq!(
        partitions.totals().pages_failed,
        50 * 50,
        "the others are counted"
    );
}

#[test]
fn a_page_where_coverage_stopped_is_tried_again_though_its_partition_gave_its_lists_away() {
    let mut chain = StrideChain::new(None, 7);
    let dispatched = Event::Dispatched {
        stride: 0,
        rate_share: None,
        page_share: None,
        items: None,
        now: Timestamp(0),
    };
    chain.record(dispatched).unwrap();
    let failure = crate::protocol::FailedAttempt {
        page_end: None,
        last_page: false,
        error_type: "E".to_owned(),
        message: "no".to_owned(),
        retryable: false,
        retry_after: None,
        not_the_page: false,
        coverage_stops: true,
        lost: false,
        unread: false,
        blame: crate::base::error::Blame::Moment,
    };
    let reported = Event::Reported {
        stride: 0,
        report: Box::new(StrideReport {
            failure: Some(failure),
            ..StrideReport::default()
        }),
        policy: &RetryPolicy::default(),
        dead_letters: true,
        now: Timestamp(0),
    };
    chain.record(reported).unwrap();
    assert_eq!(chain.give_lists().0, []);
    assert_eq!(chain.failed().len(), 1);
    chain.revive().unwrap();
    assert_eq!(chain.failed(), []);
    assert_eq!(chain.totals.pages_failed, 0);
}

#[test]
fn a_long_page_stops_the_other_partitions_for_seconds_only() {
    let mut world = World::new(Plan {
        sizes: vec![50, 50, 50],
        open: false,
        page_size: 1,
        parallelism: 3,
        rate: None,
        splits: false,
        steps: Vec::new(),
    });
    let running = |world: &World| world.children.keys().copied().collect::<Vec<_>>();
    let stopped = |world: &World, number: u32| world.children[&number].told.stop;
    world.decide();
    world.limits.hand_over = true;
    world.decide();
    assert!((0..3).all(|number| stopped(&world, number)));
    // The first partition is in a long page.
    world.work(1);
    world.work(2);
    world.decide();
    assert_eq!(running(&world), [0]);
    world.now = world.now.plus(std::time::Duration::from_secs(10));
    world.decide();
    assert_eq!(running(&world), [0, 1, 2], "they go on");
    assert!(stopped(&world, 0) && !stopped(&world, 1) && !stopped(&world, 2));
    world.now = world.now.plus(std::time::Duration::from_secs(3_600));
    world.decide();
    assert!(!stopped(&world, 1), "they are not stopped in vain");
    // The page is over, so the other partitions have to stop, and the first one begins no further page meanwhile.
    world.work(0);
    world.decide();
    assert_eq!(running(&world), [1, 2]);
    assert!(stopped(&world, 1) && stopped(&world, 2));
    world.work(1);
    world.work(2);
    assert_eq!(
        world.partitions.next(&world.limits, world.now),
        Next::HandOver
    );
    world.decide();
    assert_eq!(running(&world), [0, 1, 2], "all go on in the next run");
}

#[test]
fn near_the_limits_of_a_run_no_partition_goes_on_before_the_hand_over() {
    let mut world = World::new(Plan {
        sizes: vec![50, 50],
        open: false,
        page_size: 1,
        parallelism: 2,
        rate: None,
        splits: false,
        steps: Vec::new(),
    });
    world.decide();
    world.limits.hand_over = true;
    world.limits.must_hand_over = true;
    world.decide();
    world.work(1);
    world.now = world.now.plus(std::time::Duration::from_secs(60));
    world.decide();
    assert_eq!(world.children.keys().copied().collect::<Vec<_>>(), [0]);
}

/// Returns whether a straggler is split in a batch of 300 partitions whose tokens have this length.
fn splits_with(token_bytes: usize) -> bool {
    let token = |n: u32| Some(PageToken::encode(&format!("{n:0>token_bytes$}")).unwrap());
    let specs = (0..300).map(|n| PartitionSpec {
        name: n.to_string(),
        start: token(n),
        end: token(n + 1),
        items: None,
        split_from: None,
    });
    let mut partitions = Partitions::new(specs.collect());
    let limits = World::new(Plan {
        sizes: vec![1],
        open: false,
        page_size: 1,
        parallelism: 3,
        rate: None,
        splits: true,
        steps: Vec::new(),
    })
    .limits;
    for number in 0..300 {
        partitions.begin(number, told(&limits, false)).unwrap();
        partitions.started(number);
        if number > 0 {
            partitions.ended(number, &report(Outcome::Completed, 1), None);
        }
    }
    let look = PartitionSnapshot {
        idle: true,
        in_flight: 1,
        pages_completed: 1,
        ..PartitionSnapshot::default()
    };
    partitions.looked(0, look, Timestamp(0));
    let Next::Steps(steps) = partitions.next(&limits, Timestamp(0)) else {
        panic!("it is not over");
    };
    let splits = |step: &Step| matches!(step, Step::Tell { split: true, .. });
    steps.iter().any(splits)
}

#[test]
fn partitions_are_split_only_while_the_batch_can_keep_their_starts_and_ends() {
    assert!(splits_with(10));
    assert!(!splits_with(1_000));
}
