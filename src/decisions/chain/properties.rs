//! The invariants of the pure core, each under thousands of random sequences of events.
//!
//! A [`World`] plays everything around the core: a data set of numbered rows, activities that announce,
//! succeed, fail, yield or get lost, late and foreign announcements, operators, the clock, and
//! continue-as-new at any moment. Every test runs the same worlds and checks its own sentence after every
//! step.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    batch::{retry::ExtendedRetries, stage::Stage},
    decisions::{
        scheduler::{self, Decision, Dispatch, Limits, StageLimit},
        state::stages::Stages,
    },
    processor::reducer::{MAX_OUTPUT_BYTES, Output, Reducer},
    progress::{OpenRange, check::Checked, phase::Outcome},
};

/// The source of the random choices, and the kind of world.
#[derive(Clone, Debug)]
struct Plan {
    rows: u64,
    page_size: u64,
    stride: u64,
    can_skip_ahead: bool,
    /// True if the source says with its last page that it is the last.
    says_end: bool,
    max_parallelism: u32,
    rate: Option<f64>,
    page_rate: Option<f64>,
    policy: RetryPolicy,
    steps: Vec<(u8, u8)>,
    /// True if failures that no retry cures may happen.
    permanent: bool,
    /// True if strides put failed pages aside themselves.
    dead_letters: bool,
    /// The stages, each of which ends at a total number of items.
    stages: Vec<Stage>,
    approve: bool,
}

fn plans(permanent: bool) -> impl Strategy<Value = Plan> {
    let source = (0u64..120, 1u64..8, 1u64..6, any::<bool>(), any::<bool>());
    let rate = || prop::option::of(1.0f64..100.0);
    let limits = (1u32..6, rate(), rate());
    let retry = (1u32..4, prop::option::of(Just(None)));
    let steps = prop::collection::vec(any::<(u8, u8)>(), 0..250);
    let marks = prop::collection::btree_set(1u64..120, 0..4);
    let stages = (prop::bool::weighted(0.5), marks, any::<bool>());
    let worlds = (source, limits, retry, any::<bool>(), stages, steps);
    worlds.prop_map(
        move |(source, limits, retry, dead_letters, stages, steps)| {
            let (rows, page_size, stride, can_skip_ahead, says_end) = source;
            let extended = ExtendedRetries {
                interval: Duration::from_secs(5),
                max_attempts: retry.1.flatten(),
            };
            // Without extended retries even a transient failure can be the last one.
            let keep_extended = !permanent || retry.1.is_some();
            Plan {
                rows,
                page_size,
                stride,
                can_skip_ahead,
                says_end,
                max_parallelism: limits.0,
                rate: limits.1,
                page_rate: limits.2,
                policy: RetryPolicy::default()
                    .max_attempts(retry.0)
                    .extended(keep_extended.then_some(extended)),
                steps,
                permanent,
                dead_letters,
                stages: match stages.0 {
                    true => stages.1.into_iter().map(Stage::Items).collect(),
                    false => Vec::new(),
                },
                approve: stages.2,
            }
        },
    )
}

/// An activity that has a stride.
#[derive(Clone, Debug)]
struct Activity {
    dispatch: Dispatch,
    /// The number of its dispatch within the batch.
    number: u64,
    start: u64,
    end: Option<u64>,
    announced: bool,
    attempt: u32,
    /// True if its first page is only to be put aside.
    give_up: bool,
    /// Items that it may still process.
    items_left: u64,
    /// True if another workflow owns it, so that it outlives the run.
    outlives_run: bool,
}

/// Starts of strides, with the stride and the dispatch that announced them.
type Announcement = (u64, u64, Vec<PageToken>);

struct World {
    plan: Plan,
    chain: StrideChain,
    limits: Limits,
    now: Timestamp,
    running: Vec<Activity>,
    /// Announcements that were sent, kept to be sent again late.
    sent: Vec<Announcement>,
    /// Announcements of attempts that were lost before they were heard. They are sent when the attempts wake up.
    unheard: Vec<Announcement>,
    /// The number of times that each row's page was finished.
    finished: Vec<u32>,
    /// Rows that any attempt processed, whether or not the controller heard of it.
    touched: BTreeSet<u64>,
    stages: Option<Stages>,
    /// The most that any stage has allowed so far.
    allowed: Option<u64>,
    /// Ranges that strides put aside.
    letters: Vec<(u64, u64)>,
    ended: Option<scheduler::Ending>,
    dispatches: u64,
}

/// The type of a failure that the stride itself never heard of.
const LOST: &str = "WorkerLost";

fn rows_reducer() -> Reducer {
    Reducer::record([
        ("rows", Reducer::count()),
        ("sum", Reducer::sum("")),
        ("largest", Reducer::top(3, "")),
    ])
}

fn token(position: u64) -> PageToken {
    PageToken::encode(&position).unwrap()
}

fn position(token: Option<&PageToken>) -> u64 {
    token.map_or(0, |t| t.decode().unwrap())
}

impl World {
    fn new(plan: Plan) -> Self {
        Self {
            chain: StrideChain::new(None, 7),
            limits: Limits {
                max_parallelism: plan.max_parallelism,
                paused: false,
                cancelled: false,
                rate: plan.rate,
                page_rate: plan.page_rate,
                overlaps: plan.page_size.is_multiple_of(2),
                must_hand_over: false,
                ..Limits::default()
            },
            now: Timestamp(1_000),
            running: Vec::new(),
            sent: Vec::new(),
            unheard: Vec::new(),
            finished: vec![0; usize::try_from(plan.rows).unwrap()],
            touched: BTreeSet::new(),
            stages: Stages::plan(&plan.stages, plan.approve, "p", None).unwrap(),
            allowed: None,
            letters: Vec::new(),
            ended: None,
            dispatches: 0,
            plan,
        }
    }

    fn page_end(&self, start: u64) -> u64 {
        (start + self.plan.page_size).min(self.plan.rows)
    }

    /// Updates what the stage allows.
    fn advance_stage(&mut self) {
        let limit = self.stages.as_ref().and_then(Stages::limit);
        self.allowed = limit;
        self.limits.stage = limit.map(|items| StageLimit {
            items,
            stride_items: self.plan.page_size * self.plan.stride,
        });
        self.limits.held = self.stages.as_ref().is_some_and(Stages::holds);
        if scheduler::stage_is_done(&self.chain, &self.limits)
            && let Some(stages) = &mut self.stages
        {
            stages.reached();
            self.limits.held = true;
        }
    }

    /// Checks a stage, and approves it if it waits for approval.
    fn look_at_stage(&mut self, holds: bool) {
        let Some(stages) = self.stages.as_mut().filter(|stages| stages.holds()) else {
            return;
        };
        if stages.is_checking() {
            let failed = (!holds).then(|| "made to fail".to_owned());
            stages.judge(&Checked::default(), failed);
        } else {
            stages.approve().unwrap();
        }
        self.advance_stage();
    }

    /// Decides and carries the decision out.
    fn decide(&mut self) -> Decision {
        self.advance_stage();
        let decision = scheduler::decide(&self.chain, &self.limits, self.now);
        match &decision {
            Decision::Dispatch(dispatch) => {
                let stride = self.chain.stride(dispatch.stride).unwrap();
                let end = stride.end.as_ref().map(|t| position(Some(t)));
                let start = position(stride.at.as_ref());
                assert!(end.is_none_or(|end| start < end), "{start} is past {end:?}");
                self.running.push(Activity {
                    dispatch: dispatch.clone(),
                    number: self.chain.dispatches() + 1,
                    start,
                    end,
                    announced: false,
                    attempt: stride.next_attempt(),
                    give_up: stride.give_up.is_some(),
                    items_left: dispatch
                        .items
                        .map_or(u64::MAX, |item_budget| item_budget.items),
                    outlives_run: dispatch.outlives_run,
                });
                self.dispatches += 1;
                self.chain
                    .record(Event::Dispatched {
                        stride: dispatch.stride,
                        rate_share: dispatch.rate_share,
                        page_share: dispatch.page_share,
                        items: dispatch.items,
                        now: self.now,
                    })
                    .expect("a page never runs twice at once");
                if dispatch.outlives_run {
                    let (stride, owner) = (dispatch.stride, "an-owner");
                    let event = Event::Owned { stride, owner };
                    self.chain.record(event).expect("it was just dispatched");
                    self.limits.delivering = true;
                }
            }
            Decision::HandOver => {
                self.chain = snapshot_and_restore(&self.chain);
                let stages = serde_json::to_string(&self.stages).unwrap();
                self.stages = serde_json::from_str(&stages).unwrap();
                self.limits.must_hand_over = false;
            }
            Decision::Finish(ending) => self.ended = Some(ending.clone()),
            Decision::WaitUntil(_) => {}
        }
        decision
    }

    /// Announces as a real activity does before it processes the page that has no known successor.
    fn announce(&mut self, index: usize) {
        let activity = &mut self.running[index];
        if activity.announced || activity.end.is_some() {
            return;
        }
        activity.announced = true;
        let activity = activity.clone();
        let starts = self.starts_after(&activity);
        if let Some(first) = starts.first() {
            self.running[index].end = Some(position(Some(first)));
            self.send(activity.dispatch.stride, activity.number, starts);
        }
    }

    /// The starts of the strides that follow an activity's stride.
    fn starts_after(&self, activity: &Activity) -> Vec<PageToken> {
        let mut starts = Vec::new();
        let jump = self.plan.page_size * self.plan.stride;
        if self.plan.can_skip_ahead {
            let mut next = activity.start + jump;
            while next < self.plan.rows && starts.len() < activity.dispatch.look_ahead as usize {
                starts.push(token(next));
                next += jump;
            }
        } else {
            let end = activity
                .start
                .saturating_add(jump.min(activity.items_left))
                .min(self.plan.rows);
            let last = self.plan.says_end && end == self.plan.rows;
            if end > activity.start && !last {
                starts.push(token(end));
            }
        }
        starts
    }

    fn send(&mut self, by: u64, dispatch: u64, starts: Vec<PageToken>) -> Recorded {
        let recorded = self.chain.record(Event::Announced {
            by,
            dispatch,
            starts: &starts,
        });
        self.sent.push((by, dispatch, starts));
        recorded.unwrap()
    }

    /// Loses an attempt that found the starts after it but was not heard. `moved` tells how many rows have come or gone
    /// since.
    fn lose_unheard(&mut self, index: usize, moved: u64) {
        let activity = &self.running[index];
        if activity.announced || activity.end.is_some() || activity.give_up {
            return;
        }
        let starts = self.starts_after(activity);
        let starts = starts.iter().map(|t| position(Some(t)) + moved);
        let starts: Vec<_> = starts
            .filter(|start| *start < self.plan.rows)
            .map(token)
            .collect();
        let announcement = (activity.dispatch.stride, activity.number, starts);
        self.unheard.push(announcement);
    }

    /// Ends an activity after at most `pages` pages; then its page fails, if `fail` says how.
    fn finish(&mut self, index: usize, pages: u64, fail: Option<FailedAttempt>) {
        // A page that is put aside is the only one of its activity, and its end is reported, not announced. A source
        // that cannot jump announces with the last page of the stride.
        let reaches_last_page = self.plan.can_skip_ahead || pages >= self.plan.stride;
        if pages > 0 && reaches_last_page && !self.running[index].give_up {
            self.announce(index);
        }
        let activity = self.running.swap_remove(index);
        let end = activity.end;
        let mut items_left = activity.items_left;
        let mut report = StrideReport::default();
        let mut at = activity.start;
        let mut pages = pages;
        if activity.give_up && pages > 0 {
            let page_end = self.page_end(at).min(end.unwrap_or(u64::MAX));
            let page_end = page_end.min(at.saturating_add(items_left));
            if page_end > at {
                let aside = items_left.min(self.plan.page_size);
                if items_left < u64::MAX {
                    report.items_in_abandoned_pages += aside;
                    items_left -= aside;
                }
                self.put_aside(&mut report, at, page_end);
                at = page_end;
                pages = 0;
            }
        }
        while u64::from(report.pages) < pages && items_left > 0 {
            let page_end = self.page_end(at).min(end.unwrap_or(u64::MAX));
            let page_end = page_end.min(at.saturating_add(items_left));
            if page_end == at {
                report.end_of_data = end.is_none();
                break;
            }
            items_left -= page_end - at;
            for row in at..page_end {
                self.touched.insert(row);
                self.finished[usize::try_from(row).unwrap()] += 1;
            }
            report.items.processed += page_end - at;
            report.pages += 1;
            at = page_end;
            report.covered_to = Some(token(at));
            if self.plan.says_end && at == self.plan.rows && end.is_none() {
                report.end_of_data = true;
                break;
            }
            if Some(at) == end {
                break;
            }
        }
        let reached_end = report.end_of_data || Some(at) == end || items_left == 0;
        report.failure = fail.filter(|_| !reached_end);
        if report
            .failure
            .as_ref()
            .is_some_and(|f| f.error_type == LOST)
        {
            // A lost worker has processed as much as it was allotted.
            let to = at.saturating_add(items_left).min(end.unwrap_or(u64::MAX));
            self.touched.extend(at..to.min(self.plan.rows));
        }
        if self.chain.fold().is_some() {
            let mut output = Output::default();
            let reducer = rows_reducer();
            for row in activity.start..activity.start + report.items.processed {
                reducer.add(&mut output, reducer.page(&[row.into()]).unwrap());
            }
            report.output = Some(output);
        }
        let attempt = if at == activity.start {
            activity.attempt
        } else {
            1
        };
        self.give_up_if_spent(&mut report, attempt, (at, end), items_left);
        self.chain
            .record(Event::Reported {
                stride: activity.dispatch.stride,
                report: Box::new(report),
                policy: &self.plan.policy,
                dead_letters: self.plan.dead_letters,
                now: self.now,
            })
            .expect("an activity reports once");
    }

    fn put_aside(&mut self, report: &mut StrideReport, from: u64, to: u64) {
        self.letters.push((from, to));
        report.pages_failed += 1;
        report.covered_to = Some(token(to));
    }

    /// Gives up a failed page that has no attempts left, as a stride does unless its worker is lost.
    fn give_up_if_spent(
        &mut self,
        report: &mut StrideReport,
        attempt: u32,
        (at, end): (u64, Option<u64>),
        items_left: u64,
    ) {
        let Some(failure) = &mut report.failure else {
            return;
        };
        let allowed = self.plan.policy.attempts_allowed();
        let spent = !failure.retryable || allowed.is_some_and(|n| attempt >= n);
        if !self.plan.dead_letters || !spent || failure.error_type == LOST {
            return;
        }
        match failure.page_end.as_ref().map(|t| position(Some(t))).or(end) {
            Some(to) => {
                report.failure = None;
                if items_left < u64::MAX {
                    report.items_in_abandoned_pages += items_left.min(self.plan.page_size);
                }
                self.put_aside(report, at, to);
            }
            None => failure.coverage_stops = true,
        }
    }

    fn step(&mut self, kind: u8, detail: u8) {
        let index =
            (!self.running.is_empty()).then(|| usize::from(detail) % self.running.len().max(1));
        let pages = u64::from(detail % 4);
        match (kind % 16, index) {
            (0..=4, _) => {
                self.decide();
            }
            (5, Some(i)) => self.announce(i),
            (6 | 7, Some(i)) => self.finish(i, u64::MAX, None),
            (8, Some(i)) => self.finish(i, pages, None),
            (9 | 10, Some(i)) => {
                let page_end = detail.is_multiple_of(2).then(|| {
                    let activity = &self.running[i];
                    let end = self.page_end(activity.start);
                    let most = activity.start.saturating_add(activity.items_left);
                    end.min(activity.end.unwrap_or(u64::MAX)).min(most)
                });
                let page_end = page_end.filter(|end| *end > self.running[i].start);
                let announces = self.plan.can_skip_ahead || pages >= self.plan.stride;
                if page_end.is_none() && (pages == 0 || !announces) {
                    self.lose_unheard(i, u64::from(detail / 64));
                }
                self.fail(i, pages, page_end, self.plan.permanent && detail > 200);
            }
            (11, _) => self.limits.paused = detail.is_multiple_of(3),
            (12, _) if detail > 127 => self.look_at_stage(detail.is_multiple_of(2)),
            (12, _) => self.limits.max_parallelism = u32::from(detail % 7),
            (13, _) => {
                self.now = self.now.plus(Duration::from_millis(u64::from(detail) * 50));
                self.limits.delivering &= detail.is_multiple_of(3);
            }
            (14, _) if detail.is_multiple_of(4) => self.limits.must_hand_over ^= true,
            (14, _) => {
                let event = Event::HandOverDue { now: self.now };
                self.chain.record(event).unwrap();
            }
            (15, _) if detail % 4 == 3 && !self.unheard.is_empty() => {
                let index = usize::from(detail) % self.unheard.len();
                let (by, dispatch, starts) = self.unheard.swap_remove(index);
                self.send(by, dispatch, starts);
            }
            (15, _) if !self.sent.is_empty() => {
                let (by, dispatch, mut starts) =
                    self.sent[usize::from(detail) % self.sent.len()].clone();
                if detail.is_multiple_of(2) {
                    // This announcement cuts the data another way, and must never be taken over.
                    starts = starts
                        .iter()
                        .map(|t| token(position(Some(t)) + 1_000_000))
                        .collect();
                }
                let known = self.chain.known();
                self.send(by, dispatch, starts);
                assert_eq!(
                    self.chain.known(),
                    known,
                    "an old announcement adds nothing"
                );
            }
            _ => {}
        }
    }

    fn fail(&mut self, index: usize, pages: u64, page_end: Option<u64>, permanent: bool) {
        // The end of a page is known only when the page itself failed, not an earlier one.
        let page_end = page_end.filter(|_| pages == 0).map(token);
        let lost = page_end.is_none();
        let error = FailedAttempt {
            page_end,
            last_page: false,
            error_type: if lost { LOST } else { "Test" }.to_owned(),
            message: "made to fail".to_owned(),
            retryable: !permanent,
            retry_after: None,
            not_the_page: false,
            coverage_stops: false,
            lost,
            unread: false,
            blame: crate::base::error::Blame::Moment,
        };
        self.finish(index, pages, Some(error));
    }

    /// Runs to the end without further failures.
    fn run_to_the_end(&mut self) {
        self.limits.paused = false;
        self.limits.must_hand_over = false;
        self.limits.delivering = false;
        self.limits.max_parallelism = self.plan.max_parallelism;
        for _ in 0..20_000 {
            match self.decide() {
                Decision::Finish(_) => return,
                Decision::Dispatch(_) | Decision::HandOver => self.limits.delivering = false,
                Decision::WaitUntil(_) if self.stages.as_ref().is_some_and(Stages::holds) => {
                    self.look_at_stage(true);
                }
                Decision::WaitUntil(until) => match self.running.len() {
                    0 => {
                        let until = until.expect("an idle batch waits for something");
                        assert!(until > self.now, "waits for the past");
                        self.now = until;
                    }
                    n => self.finish(n - 1, u64::MAX, None),
                },
            }
        }
        panic!("the batch does not end: {:?}", self.chain);
    }

    fn is_failed(&self, row: u64) -> bool {
        let in_letter = |(from, to): &(u64, u64)| (*from..*to).contains(&row);
        if self.letters.iter().any(in_letter) {
            return true;
        }
        self.chain.failed().iter().any(|page| {
            let end = page.end.as_ref().map_or(u64::MAX, |t| position(Some(t)));
            (position(page.start.as_ref())..end).contains(&row)
        })
    }
}

fn snapshot_and_restore(chain: &StrideChain) -> StrideChain {
    serde_json::from_str(&serde_json::to_string(chain).unwrap()).unwrap()
}

/// Runs a world step by step, checking after each, and then to its end.
fn play(plan: Plan, mut check: impl FnMut(&World)) -> World {
    let mut world = World::new(plan);
    for (kind, detail) in world.plan.steps.clone() {
        if world.ended.is_some() {
            break;
        }
        world.step(kind, detail);
        world.advance_stage();
        check(&world);
    }
    if world.ended.is_none() {
        world.run_to_the_end();
        check(&world);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_page_never_runs_twice_at_once(plan in plans(true)) {
        play(plan, |world| {
            let strides: BTreeSet<u64> = world.running.iter().map(|a| a.dispatch.stride).collect();
            assert_eq!(strides.len(), world.running.len());
            assert_eq!(world.chain.running() as usize, world.running.len());
            let mut ranges: Vec<_> = world.running.iter().map(|a| (a.start, a.end)).collect();
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                assert!(pair[0].1.is_none_or(|end| end <= pair[1].0), "{pair:?}");
            }
        });
    }

    #[test]
    fn running_pages_never_exceed_parallelism_and_paused_starts_none(plan in plans(true)) {
        let mut world = World::new(plan);
        for (kind, detail) in world.plan.steps.clone() {
            if world.ended.is_some() {
                break;
            }
            let (before, dispatches) = (world.running.len(), world.dispatches);
            world.step(kind, detail);
            if world.dispatches > dispatches {
                prop_assert!(!world.limits.paused);
                prop_assert!(before < world.limits.max_parallelism as usize);
            }
        }
    }

    #[test]
    fn shares_never_add_up_to_more_than_the_rate(plan in plans(true)) {
        play(plan, |world| {
            let runs = || world.running.iter().map(|a| &a.dispatch);
            let shares: f64 = runs().filter_map(|d| d.rate_share).sum();
            let rate = world.limits.rate.unwrap_or(f64::INFINITY);
            assert!(shares <= rate * (1.0 + 1e-9), "{shares} > {rate}");
            let shares: f64 = runs().filter_map(|d| d.page_share).sum();
            let rate = world.limits.page_rate.unwrap_or(f64::INFINITY);
            assert!(shares <= rate * (1.0 + 1e-9), "{shares} > {rate} pages");
        });
    }

    #[test]
    fn announcing_is_idempotent_and_a_different_token_is_never_applied(plan in plans(true)) {
        let mut world = play(plan, |_| {});
        let before = world.chain.clone();
        for (by, dispatch, starts) in world.sent.clone() {
            world.send(by, dispatch, starts);
        }
        world.chain.totals.announcements_dropped = before.totals.announcements_dropped;
        prop_assert_eq!(&world.chain, &before);
    }

    #[test]
    fn a_different_token_for_a_known_stride_is_reported(plan in plans(false)) {
        play(plan, |world| {
            let mut chain = world.chain.clone();
            let closed = chain.open().find(|(_, s)| s.end.is_some()).map(|(n, _)| n);
            if let Some(number) = closed {
                let other = [token(5_000_000)];
                let event = Event::Announced { by: number, dispatch: chain.dispatches(), starts: &other };
                assert_eq!(chain.record(event), Ok(Recorded::Dropped));
                assert_eq!(
                    chain.totals.announcements_dropped,
                    world.chain.totals.announcements_dropped + 1
                );
                assert_eq!(chain.known(), world.chain.known());
            }
        });
    }

    #[test]
    fn announced_is_finished_plus_open(plan in plans(true)) {
        play(plan, |world| {
            let open = world.chain.open().count() as u64;
            assert_eq!(world.chain.known(), world.chain.totals.strides_finished + open);
        });
    }

    /// A page ledger has heard of every stride but the first. The first has a row once some of it is applied.
    #[test]
    fn a_page_ledger_has_heard_of_every_stride_but_one_that_nobody_began(plan in plans(true)) {
        play(plan, |world| {
            for (number, stride) in world.chain.open() {
                let began = stride.done != StrideTotals::default();
                assert_eq!(world.chain.is_kept(number), number > 0 || began);
            }
        });
    }

    #[test]
    fn a_snapshot_restored_takes_the_same_decisions(plan in plans(true)) {
        play(plan, |world| {
            let restored = snapshot_and_restore(&world.chain);
            let mut original = world.chain.clone();
            // A new run resets these on purpose.
            original.pages_this_run = 0;
            original.hand_over_due = None;
            assert_eq!(
                scheduler::decide(&restored, &world.limits, world.now),
                scheduler::decide(&original, &world.limits, world.now)
            );
            assert_eq!(restored, original);
        });
    }

    #[test]
    fn hand_over_and_finish_only_when_nothing_would_be_lost(plan in plans(true)) {
        play(plan, |world| {
            match scheduler::decide(&world.chain, &world.limits, world.now) {
                // A stride outlives the run once its order has arrived at its owner.
                Decision::HandOver => {
                    assert!(world.running.iter().all(|activity| activity.outlives_run));
                    assert!(!world.limits.delivering);
                }
                Decision::Finish(_) => assert_eq!(world.running.len(), 0),
                Decision::Dispatch(_) | Decision::WaitUntil(_) => {}
            }
        });
    }

    /// A due hand-over changes nothing for the strides: others own them.
    #[test]
    fn a_hand_over_that_is_due_empties_no_slot(plan in plans(true)) {
        play(plan, |world| {
            let mut due = world.chain.clone();
            due.record(Event::HandOverDue { now: world.now }).unwrap();
            let not_due = snapshot_and_restore(&world.chain);
            let limits = Limits {
                overlaps: true,
                must_hand_over: false,
                ..world.limits.clone()
            };
            let decided = scheduler::decide(&due, &limits, world.now);
            assert!(!scheduler::is_draining(&due, &limits));
            if due.running_here() == 0 && decided == Decision::HandOver {
                return;
            }
            match (decided, scheduler::decide(&not_due, &limits, world.now)) {
                (Decision::Dispatch(outlives), Decision::Dispatch(here)) => {
                    assert!(outlives.outlives_run && !here.outlives_run);
                    assert_eq!(outlives.stride, here.stride);
                }
                (one, other) => assert_eq!(one, other),
            }
        });
    }

    #[test]
    fn only_owners_of_strides_are_remembered(plan in plans(true)) {
        play(plan, |world| {
            let owned = world.running.iter().filter(|activity| activity.outlives_run).count();
            assert_eq!(world.chain.owned_by("an-owner").len(), owned);
            assert_eq!(world.chain.owners().count(), usize::from(owned > 0));
            let here = world.running.len() - owned;
            assert_eq!(world.chain.running_here() as usize, here);
        });
    }

    #[test]
    fn a_batch_that_stops_itself_begins_nothing_more(plan in plans(true), stop_at in 0usize..250, late in any::<bool>()) {
        let mut world = World::new(plan);
        let mut begun = None;
        for (step, (kind, detail)) in world.plan.steps.clone().into_iter().enumerate() {
            if world.ended.is_some() {
                break;
            }
            if step == stop_at {
                if late {
                    world.limits.deadline = Some(world.now);
                } else {
                    world.limits.stopping = Some("made to stop".to_owned());
                }
                begun = Some(world.dispatches);
            }
            world.step(kind, detail);
            prop_assert!(begun.is_none_or(|begun| world.dispatches == begun));
        }
    }

    /// No stage processes more than it allows, whatever fails, is lost or comes back.
    #[test]
    fn no_more_than_the_stage_allows_is_processed_before_it_is_approved(plan in plans(true)) {
        play(plan, |world| {
            if let Some(allowed) = world.allowed {
                let (touched, mark) = (world.touched.len() as u64, allowed);
                assert!(touched <= mark, "{touched} rows were processed in a stage of {mark}");
                let counted = world.chain.totals.items.total() + world.chain.granted_items();
                assert!(counted <= mark, "{counted} items are given out in a stage of {mark}");
            }
        });
    }

    /// A stage that is done has no holes if nothing was given up: everything before its mark is finished, and nothing
    /// after it.
    #[test]
    fn a_stage_that_is_done_is_exact_and_has_no_holes(plan in plans(true)) {
        play(plan, |world| {
            let mark = world.stages.as_ref().filter(|stages| stages.holds());
            let Some(mark) = mark.and_then(Stages::limit) else {
                return;
            };
            assert_eq!(world.running.len(), 0);
            let totals = &world.chain.totals;
            assert_eq!(totals.items.total() + totals.items_in_abandoned_pages, mark);
            if totals.pages_failed == 0 {
                assert_eq!(position(world.chain.low_water_mark()), mark);
                let beyond = usize::try_from(mark).unwrap();
                assert!(world.finished.iter().skip(beyond).all(|times| *times == 0));
            }
        });
    }

    /// The result holds every finished row once, whatever fails, is lost, given up or handed over.
    #[test]
    fn every_finished_row_is_in_the_result_once(plan in plans(true)) {
        // A page put aside before others would need a second range here.
        let mut world = World::new(Plan { dead_letters: false, ..plan });
        world.chain.reduce_by(rows_reducer().plan().clone());
        for (kind, detail) in world.plan.steps.clone() {
            if world.ended.is_some() {
                break;
            }
            world.step(kind, detail);
        }
        if world.ended.is_none() {
            world.run_to_the_end();
        }
        let rows = (0u64..).zip(&world.finished);
        let rows = rows.flat_map(|(row, times)| std::iter::repeat_n(row, *times as usize));
        let rows: Vec<u64> = rows.collect();
        let largest: Vec<u64> = rows.iter().rev().take(3).copied().collect();
        let result = serde_json::json!({
            "rows": rows.len(), "sum": rows.iter().sum::<u64>(), "largest": largest,
        });
        let fold = snapshot_and_restore(&world.chain);
        let fold = fold.fold().unwrap();
        prop_assert_eq!(fold.error(), None);
        prop_assert_eq!(fold.so_far(), Some(&result));
    }

    #[test]
    fn a_batch_whose_stages_are_approved_comes_to_its_end(plan in plans(false)) {
        let world = play(plan, |_| {});
        prop_assert_eq!(world.ended.unwrap().outcome, Outcome::Completed);
        prop_assert_eq!(world.chain.granted_items(), 0);
    }

    /// A batch that was cancelled at any moment, or that stopped because coverage did, loses nothing when it is
    /// revived. Finished pages are not processed again.
    #[test]
    fn a_revived_batch_loses_nothing_and_repeats_nothing(plan in plans(true), cancel_at in 0usize..250) {
        let mut world = World::new(plan);
        for (step, (kind, detail)) in world.plan.steps.clone().into_iter().enumerate() {
            world.limits.cancelled |= step == cancel_at;
            if world.ended.is_some() {
                break;
            }
            world.step(kind, detail);
        }
        world.limits.cancelled = true;
        while world.ended.is_none() {
            if let Decision::WaitUntil(_) = world.decide() {
                world.finish(world.running.len() - 1, 1, None);
            }
        }
        let outcome = world.ended.take().unwrap().outcome;
        if !matches!(outcome, Outcome::Cancelled | Outcome::Failed) {
            return Ok(());
        }
        let finished = world.finished.clone();
        world.chain = snapshot_and_restore(&world.chain);
        prop_assert_eq!(world.chain.revive(), Ok(()));
        world.limits.cancelled = false;
        let given_up = world.chain.failed().to_vec();
        world.run_to_the_end();
        // Earlier failures are kept, except for the page where coverage stopped.
        prop_assert_eq!(world.chain.failed(), given_up);
        let given_up = world.chain.failed().len() + world.letters.len();
        prop_assert_eq!(world.chain.totals.pages_failed, given_up as u64);
        for row in 0..world.plan.rows {
            let (before, now) = (finished[row as usize], world.finished[row as usize]);
            prop_assert!(now > 0 || world.is_failed(row), "row {} is missing", row);
            prop_assert!(before == 0 || now == before, "row {} was done again", row);
            prop_assert!(now == 0 || !world.is_failed(row), "row {} is done and failed", row);
        }
    }

    #[test]
    fn completed_only_after_an_end_of_data_with_every_row_accounted_for(plan in plans(true)) {
        let world = play(plan, |_| {});
        let outcome = world.ended.as_ref().unwrap().outcome;
        if matches!(outcome, Outcome::Completed | Outcome::CompletedWithFailures) {
            prop_assert!(world.chain.end_of_data());
            for row in 0..world.plan.rows {
                let done = world.finished[row as usize] > 0;
                prop_assert!(done || world.is_failed(row), "row {} is missing", row);
            }
            let spotless = outcome == Outcome::Completed;
            let given_up = world.chain.failed().len() + world.letters.len();
            prop_assert_eq!(spotless, given_up == 0);
            prop_assert_eq!(world.chain.totals.pages_failed as usize, given_up);
        } else {
            let reason = world.ended.unwrap().reason.unwrap();
            prop_assert!(reason.contains("coverage stops at") || reason.contains("more than 50"));
        }
    }

    #[test]
    fn any_finite_run_of_transient_failures_ends_in_completed(plan in plans(false)) {
        let world = play(plan, |_| {});
        prop_assert_eq!(world.ended.unwrap().outcome, Outcome::Completed);
        prop_assert!(world.finished.iter().all(|times| *times == 1));
        prop_assert_eq!(world.chain.totals.items.processed, world.plan.rows);
    }

    #[test]
    fn the_low_water_mark_is_contiguous_and_never_goes_back(plan in plans(true)) {
        let mut last = 0;
        play(plan, |world| {
            let mark = position(world.chain.low_water_mark());
            assert!(mark >= last, "{mark} < {last}");
            last = mark;
            for row in 0..mark {
                assert!(world.finished[row as usize] > 0 || world.is_failed(row), "row {row}");
            }
        });
    }

    /// A batch that follows takes up every row outside of the open ranges. A row may be told as open after it is
    /// finished, because its stride has not reported yet.
    #[test]
    fn a_row_outside_of_the_open_ranges_is_finished_or_failed(plan in plans(true)) {
        play(plan, |world| {
            let ranges = world.chain.open_ranges();
            for row in 0..world.plan.rows {
                let holds = |range: &OpenRange| {
                    let start = position(range.start.as_ref());
                    let end = range.end.as_ref().map_or(u64::MAX, |end| position(Some(end)));
                    (start..end).contains(&row)
                };
                let is_open = ranges.iter().any(holds);
                let is_over = world.finished[row as usize] > 0 || world.is_failed(row);
                assert!(is_open || is_over, "row {row} is not told as open");
            }
        });
    }
}

/// Drives a chain to the worst state that the limits allow: everything fails that can, with long messages. Returns the
/// chain, the most pages in flight at once, and the most bytes that the chain took.
fn worst(
    mut chain: StrideChain,
    limits: &Limits,
    token_bytes: usize,
    rounds: u64,
) -> (StrideChain, u32, usize) {
    let policy = RetryPolicy::default().max_attempts(1);
    let field = "f".repeat(1_000);
    let reducer = Reducer::max(field.clone());
    reducer.validate().unwrap();
    chain.reduce_by(reducer.plan().clone());
    let largest = "x".repeat(MAX_OUTPUT_BYTES - 2);
    let mut result = Output::default();
    reducer.add(&mut result, largest.into());
    chain.fold_mut().unwrap().merge(result);
    let long = |n: u64| PageToken::encode(&format!("{n:0>token_bytes$}")).unwrap();
    let (mut most, mut most_running) = (0, 0);
    let mut now = Timestamp(0);
    for round in 0..rounds {
        while let Decision::Dispatch(dispatch) = scheduler::decide(&chain, limits, now) {
            let number = dispatch.stride;
            let share = dispatch.rate_share;
            let event = Event::Dispatched {
                stride: number,
                rate_share: share,
                page_share: None,
                items: None,
                now,
            };
            chain.record(event).unwrap();
            // All of them are handed over while they run.
            let owner = format!("{:0>200}.owner-{:016x}", "", round % 3);
            let event = Event::Owned {
                stride: number,
                owner: &owner,
            };
            chain.record(event).unwrap();
            let starts: Vec<_> = (0..u64::from(dispatch.look_ahead))
                .map(|i| long(number + 1 + i))
                .collect();
            let event = Event::Announced {
                by: number,
                dispatch: chain.dispatches(),
                starts: &starts,
            };
            chain.record(event).unwrap();
        }
        most_running = most_running.max(chain.running());
        let is_measured = rounds < 100 || round % 1_000 == 0;
        if is_measured {
            most = most.max(serde_json::to_string(&chain).unwrap().len());
        }
        let running: Vec<u64> = chain
            .open()
            .filter(|(_, s)| s.is_running())
            .map(|(n, _)| n)
            .collect();
        for stride in running {
            let failure = FailedAttempt {
                page_end: chain.stride(stride).unwrap().end.clone(),
                last_page: false,
                error_type: "some_database_driver::Error".to_owned(),
                message: "m".repeat(200),
                retryable: !(round % 2 == 0 && chain.failed().len() < MAX_FAILED),
                retry_after: None,
                not_the_page: false,
                coverage_stops: false,
                lost: false,
                unread: false,
                blame: crate::base::error::Blame::Moment,
            };
            let event = Event::Reported {
                stride,
                report: Box::new(StrideReport {
                    failure: Some(failure),
                    failed_items: vec![
                        FailedItem {
                            key: "k".repeat(60),
                            error_type: "e".repeat(60),
                            message: "m".repeat(120),
                            dead_letter: true,
                        };
                        3
                    ],
                    ..StrideReport::default()
                }),
                policy: &policy,
                dead_letters: false,
                now,
            };
            chain.record(event).unwrap();
        }
        now = now.plus(Duration::from_secs(30));
        if is_measured {
            most = most.max(serde_json::to_string(&chain).unwrap().len());
        }
    }
    assert_eq!(chain.failed_items().len(), MAX_FAILED_ITEMS);
    (chain, most_running, most)
}

/// A chain in which nothing runs and everything that can fail has failed, with the longest tokens.
pub(crate) fn worst_at_rest(chain: StrideChain, limits: &Limits) -> StrideChain {
    let (mut chain, _, _) = worst(chain, limits, PageToken::MAX_BYTES - 2, 12);
    assert_eq!(chain.running(), 0);
    let page = chain.failed[0].clone();
    chain.failed.resize(MAX_FAILED, page);
    chain
}

#[test]
fn the_snapshot_is_bounded() {
    let limits = Limits {
        max_parallelism: 50,
        ..Limits::default()
    };
    let (chain, running, most) = worst(StrideChain::new(None, 1), &limits, 36, 10_000);
    assert_eq!(running, 50);
    assert!(most <= 70 * 1024, "{most} bytes");
    assert!(chain.stuck() as usize >= MAX_STUCK);
    assert_eq!(chain.failed().len(), MAX_FAILED);
    assert!(chain.fold().unwrap().so_far().is_some());
}

#[test]
fn the_snapshot_is_bounded_with_the_longest_tokens_in_every_slot() {
    let limits = Limits {
        max_parallelism: 500,
        ..Limits::default()
    };
    let longest = PageToken::MAX_BYTES - 2;
    let (_, running, most) = worst(StrideChain::new(None, 1), &limits, longest, 4);
    assert!(most <= 1_200_000, "{most} bytes");
    assert!(running >= 200, "{running} pages in flight");
    // Tokens of usual length hold nothing back.
    let (_, running, most) = worst(StrideChain::new(None, 1), &limits, 36, 4);
    assert!(most <= 800_000, "{most} bytes");
    assert_eq!(running, 500);
}

/// The pages were given up by their strides.
#[test]
fn as_many_given_up_pages_as_can_be_listed_end_no_batch_and_one_more_does() {
    for dead_letters in [false, true] {
        let mut chain = StrideChain::new(None, 1);
        for (at, pages_failed) in [(1, MAX_FAILED as u32), (2, 1)] {
            assert_eq!(chain.broken(), None, "before page {at}");
            let dispatched = Event::Dispatched {
                stride: 0,
                rate_share: None,
                page_share: None,
                items: None,
                now: Timestamp(0),
            };
            chain.record(dispatched).unwrap();
            let reported = Event::Reported {
                stride: 0,
                report: Box::new(StrideReport {
                    covered_to: Some(PageToken::encode(&at).unwrap()),
                    pages_failed,
                    ..StrideReport::default()
                }),
                policy: &RetryPolicy::default(),
                dead_letters,
                now: Timestamp(0),
            };
            chain.record(reported).unwrap();
        }
        let broken = (!dead_letters).then_some(&Broken::TooManyFailures);
        assert_eq!(chain.broken(), broken);
    }
}

#[test]
fn a_batch_whose_place_is_not_known_is_not_revived() {
    let circle = Broken::CursorDidNotAdvance { token: token(5) };
    let impossible = Broken::Impossible {
        what: "made up".to_owned(),
    };
    for broken in [circle, impossible] {
        let mut chain = StrideChain::new(None, 1);
        chain.break_off(broken.clone());
        assert!(chain.revive().is_err());
        assert_eq!(chain.broken(), Some(&broken), "nothing changed");
    }
}

/// A chain whose stride 0 has been dispatched. The stride ends at `end`, if that is given.
fn one_stride(end: Option<u64>) -> StrideChain {
    let mut chain = StrideChain::new(None, 1);
    dispatch(&mut chain);
    if let Some(end) = end {
        announce(&mut chain, 0, 1, &[end]);
    }
    chain
}

fn dispatch(chain: &mut StrideChain) {
    let event = Event::Dispatched {
        stride: 0,
        rate_share: None,
        page_share: None,
        items: None,
        now: Timestamp(0),
    };
    chain.record(event).unwrap();
}

fn report(chain: &mut StrideChain, report: StrideReport, dead_letters: bool) {
    let event = Event::Reported {
        stride: 0,
        report: Box::new(report),
        policy: &RetryPolicy::never(),
        dead_letters,
        now: Timestamp(0),
    };
    chain.record(event).unwrap();
}

fn fail(chain: &mut StrideChain, failure: FailedAttempt, dead_letters: bool) {
    let failed = StrideReport {
        failure: Some(failure),
        ..StrideReport::default()
    };
    report(chain, failed, dead_letters);
}

fn lost() -> FailedAttempt {
    FailedAttempt::lost(LOST.to_owned(), "made to fail")
}

#[test]
fn a_worker_that_is_lost_when_nothing_is_left_to_do_has_failed_nothing() {
    for dead_letters in [true, false] {
        for end_of_data in [true, false] {
            let mut chain = one_stride((!end_of_data).then_some(30));
            let done = StrideReport {
                covered_to: Some(token(30)),
                pages: 3,
                end_of_data,
                failure: Some(lost()),
                ..StrideReport::default()
            };
            report(&mut chain, done, dead_letters);
            assert_eq!(chain.totals.strides_finished, 1);
            assert_eq!((chain.failed(), chain.broken()), (&[][..], None));
        }
    }
}

/// The stride announced the end of the data before it began the page.
#[test]
fn the_last_page_of_a_lost_worker_is_given_up_as_the_end_of_the_data() {
    for dead_letters in [true, false] {
        let mut chain = one_stride(None);
        announce(&mut chain, 0, 1, &[]);
        fail(&mut chain, lost(), dead_letters);
        if dead_letters {
            let give_up = chain.stride(0).unwrap().give_up.as_ref().unwrap();
            assert_eq!(give_up.failure.known_end(), Some((None, true)));
        } else {
            assert!(chain.is_complete());
            assert_eq!((chain.failed().len(), chain.broken()), (1, None));
        }
        // An announcement of the previous attempt says nothing about this one, even if it is heard late.
        let mut chain = one_stride(None);
        announce(&mut chain, 0, 1, &[]);
        report(&mut chain, StrideReport::default(), dead_letters);
        dispatch(&mut chain);
        announce(&mut chain, 0, 1, &[]);
        fail(&mut chain, lost(), dead_letters);
        assert!(!chain.is_complete());
        assert_eq!(chain.broken().is_some(), !dead_letters);
    }
}

fn announce(chain: &mut StrideChain, by: u64, dispatch: u64, starts: &[u64]) -> Recorded {
    let starts: Vec<_> = starts.iter().copied().map(token).collect();
    let event = Event::Announced {
        by,
        dispatch,
        starts: &starts,
    };
    chain.record(event).unwrap()
}

/// The worker was suspended while it announced, and another worker has put the page aside.
#[test]
fn an_end_that_is_heard_after_its_page_was_put_aside_is_no_circle() {
    for (late, aside) in [(10, 10), (9, 10), (11, 10)] {
        let mut chain = one_stride(None);
        fail(&mut chain, lost(), true);
        dispatch(&mut chain);
        let put_aside = StrideReport {
            covered_to: Some(token(aside)),
            pages_failed: 1,
            ..StrideReport::default()
        };
        report(&mut chain, put_aside, true);
        assert_eq!(announce(&mut chain, 0, 1, &[late]), Recorded::Dropped);
        assert_eq!(chain.broken(), None);
        assert_eq!((chain.known(), chain.frontier()), (1, Some(0)));
        dispatch(&mut chain);
        assert_eq!(announce(&mut chain, 0, 1, &[late]), Recorded::Dropped);
        assert_eq!(announce(&mut chain, 0, 3, &[20]), Recorded::Applied);
        assert_eq!(announce(&mut chain, 0, 1, &[20]), Recorded::Duplicate);
    }
}

/// The next stride may be at work by then, towards an end of its own.
#[test]
fn a_stride_gets_no_end_from_the_one_before_it_once_it_is_there() {
    let mut chain = one_stride(None);
    assert_eq!(announce(&mut chain, 0, 1, &[10]), Recorded::Applied);
    assert_eq!(announce(&mut chain, 0, 1, &[10, 20]), Recorded::Dropped);
    assert_eq!((chain.known(), chain.frontier()), (2, Some(1)));
    let mut chain = one_stride(None);
    assert_eq!(announce(&mut chain, 0, 1, &[10, 20]), Recorded::Applied);
    assert_eq!(announce(&mut chain, 0, 1, &[10, 20]), Recorded::Duplicate);
    assert_eq!(chain.known(), 3);
}

#[test]
fn a_page_that_cannot_be_put_aside_waits_longer_each_time_and_keeps_its_own_failure() {
    let mut chain = one_stride(Some(30));
    fail(&mut chain, lost(), true);
    let store = FailedAttempt {
        error_type: "StoreDown".to_owned(),
        not_the_page: true,
        lost: false,
        unread: false,
        blame: crate::base::error::Blame::Moment,
        ..lost()
    };
    let mut waited = 0;
    for (failure, failed, lost) in [(store.clone(), 0, 0), (lost(), 1, 1), (store, 1, 1)] {
        dispatch(&mut chain);
        fail(&mut chain, failure, true);
        let stride = chain.stride(0).unwrap();
        let give_up = stride.give_up.as_ref().unwrap();
        assert_eq!((give_up.failed, give_up.lost), (failed, lost));
        assert_eq!(give_up.failure.error_type, LOST);
        let State::Waiting { until } = stride.state else {
            panic!("{:?}", stride.state)
        };
        assert!(until.0 > waited, "{} after {waited}", until.0);
        waited = until.0;
        let page = chain.failing(None).next().unwrap();
        assert_eq!((&*page.error_type, page.attempts), (LOST, 1));
    }
    dispatch(&mut chain);
    let aside = StrideReport {
        covered_to: Some(token(10)),
        pages_failed: 1,
        ..StrideReport::default()
    };
    report(&mut chain, aside, true);
    assert_eq!(chain.stride(0).unwrap().give_up, None);
}

#[test]
fn a_page_where_coverage_stopped_is_tried_again_with_a_batch_that_goes_on() {
    let mut chain = one_stride(None);
    fail(&mut chain, lost(), true);
    dispatch(&mut chain);
    let stops = FailedAttempt {
        coverage_stops: true,
        ..lost()
    };
    fail(&mut chain, stops, true);
    assert!(chain.broken().is_some());
    chain.revive().unwrap();
    let stride = chain.stride(0).unwrap();
    assert_eq!((&stride.give_up, stride.next_attempt()), (&None, 1));
}
