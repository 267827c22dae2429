//! The next action of a batch, decided from the facts.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod because;
mod explain;
mod hand_over_yields;
mod shares;
mod stage;

use std::time::Duration;

use crate::{
    base::{
        text::count,
        time::{Timestamp, earliest},
    },
    decisions::chain::{Broken, ItemBudget, MAX_STUCK, STRIDE_BYTES, Stride, StrideChain},
    page::token::PageToken,
    progress::phase::{Outcome, Phase},
};

pub(crate) use because::{Because, because};
pub(crate) use explain::{Situation, explain, held, page_after, paused, slowed};
pub(crate) use hand_over_yields::YieldWave;
pub(crate) use shares::given_out as rates_given_out;
pub(crate) use stage::{StageLimit, stage_is_done};

/// The time for which hooks and other side activities make way for a due continue-as-new. If a page takes longer, it
/// delays the continue-as-new but no longer the hooks.
const MAKE_WAY: Duration = Duration::from_secs(10);
/// Strides whose starts are found ahead of processing, per page in flight.
const LOOK_AHEAD: u32 = 2;
/// Upper bound on the starts in one announcement. An announcement is one history event.
const MAX_ANNOUNCED: u32 = 100;
/// Bytes of open strides beyond which nothing new is discovered, because all of them go into the next run's input. Only
/// long tokens reach this bound.
const OPEN_BYTES: usize = 800_000;
/// The counterpart of `OPEN_BYTES` for a partition: a base, and an addition per page in flight. The ledgers of 50
/// partitions share one payload.
const OPEN_BYTES_OF_PART: (usize, usize) = (4_000, 700);

/// The limits under which a decision is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    pub max_parallelism: u32,
    pub paused: bool,
    pub cancelled: bool,
    /// Items per second for the whole batch.
    pub rate: Option<f64>,
    /// Pages per second for the whole batch.
    pub page_rate: Option<f64>,
    /// A throttle or the operating windows hold the batch.
    pub held: bool,
    /// Temporal's own limits are near, so nothing more begins in this run.
    pub must_hand_over: bool,
    /// The time at which the batch stops itself.
    pub deadline: Option<Timestamp>,
    /// The reason why the batch stops itself now.
    pub stopping: Option<String>,
    /// The limit of the current stage. `None` without stages.
    pub stage: Option<StageLimit>,
    /// True if the outputs waiting to be combined have reached their bound.
    pub outputs_full: bool,
    /// True while hooks are being called. They do not outlive a run either.
    pub hooks_running: bool,
    /// True while the stride length is tuned and too few pages have been timed. Strides cut now are short.
    pub strides_grow: bool,
    /// True if strides that are cut now have one page, so that each may reveal only the next one.
    pub one_page_strides: bool,
    /// True if strides are given to workflows that outlive the run while a continue-as-new is due. False if no such
    /// workflow could be started.
    pub overlaps: bool,
    /// True while orders are on their way to such a workflow. Only this run is told their result.
    pub delivering: bool,
    /// True if these are the limits of one partition of a batch.
    pub of_part: bool,
}

/// The next action of the controller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Give a stride to an activity, record it, and decide again.
    Dispatch(Dispatch),
    /// Wait for an event, or until this time.
    WaitUntil(Option<Timestamp>),
    /// Continue as new.
    HandOver,
    /// The batch is over.
    Finish(Ending),
}

/// A stride to give to an activity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub stride: u64,
    /// Starts of further strides that the activity should look for.
    pub look_ahead: u32,
    pub rate_share: Option<f64>,
    pub page_share: Option<f64>,
    /// Items that the stride may go through, where a stage limits them.
    pub items: Option<ItemBudget>,
    /// True if another workflow has to own the activity, because this run is about to end.
    pub outlives_run: bool,
}

/// The way in which a batch ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ending {
    pub outcome: Outcome,
    pub reason: Option<String>,
}

impl Ending {
    /// Returns whether every page is finished or listed as failed.
    pub fn is_of_all(&self) -> bool {
        use Outcome::{Completed, CompletedWithFailures};
        matches!(self.outcome, Completed | CompletedWithFailures)
    }

    /// The ending of a batch that ended early, in the middle of the work after its last page.
    pub fn after_the_last_page(self, what: &str) -> Self {
        let why = self.reason.unwrap_or_default();
        Self {
            reason: Some(format!("{why} {what}; every page is finished")),
            ..self
        }
    }
}

/// Decides the next action. Pure: the same arguments always give the same answer.
pub(crate) fn decide(chain: &StrideChain, limits: &Limits, now: Timestamp) -> Decision {
    let until_deadline = |until| {
        let deadline = limits.deadline.filter(|deadline| *deadline > now);
        Decision::WaitUntil(earliest(until, deadline))
    };
    let idle = chain.running() == 0;
    if let Some(ending) = ending(chain, limits, now) {
        return if idle {
            Decision::Finish(ending)
        } else {
            Decision::WaitUntil(None)
        };
    }
    let nothing_here = chain.running_here() == 0;
    let nothing_lost = nothing_here && !limits.hooks_running && !limits.delivering;
    let hand_over = hand_over(chain, limits);
    if hand_over.is_some() && nothing_lost {
        return Decision::HandOver;
    }
    let outlives_run = match hand_over {
        Some(HandOver::Draining) => return until_deadline(None),
        // The batch's own limits apply first: a stride that may not begin needs no owner.
        Some(HandOver::Overlapping { .. }) => true,
        None => false,
    };
    let stands = limits.paused || limits.held || limits.outputs_full;
    if stands || chain.running() >= limits.max_parallelism {
        return until_deadline(None);
    }
    let next_due = next_due(chain, now);
    let Some([rate_share, page_share]) = shares::next(chain, limits, now) else {
        // When a retry becomes due, running strides give back some of their shares.
        return until_deadline(next_due);
    };
    match pick(chain, limits, now) {
        Some(stride) => Decision::Dispatch(Dispatch {
            stride,
            look_ahead: look_ahead(chain, limits, stride),
            rate_share,
            page_share,
            items: stage::item_budget(chain, limits, stride),
            outlives_run,
        }),
        None => until_deadline(next_due),
    }
}

/// Returns whether all running strides should end at their next page boundary.
pub(crate) fn stop_at_page_boundary(chain: &StrideChain, limits: &Limits, now: Timestamp) -> bool {
    limits.paused
        || limits.held
        || limits.max_parallelism == 0
        || ending(chain, limits, now).is_some()
        || (is_draining(chain, limits) && !limits.overlaps)
}

/// The dispatches that should end at their next page boundary while the others continue. Either more strides run than
/// are allowed now, or their shares of the rate are out of date.
pub(crate) fn yields(chain: &StrideChain, limits: &Limits, now: Timestamp) -> Vec<u64> {
    let excess = chain.running().saturating_sub(limits.max_parallelism) as usize;
    // The highest numbers are given back, so that the low-water mark keeps advancing.
    let mut runs: Vec<_> = chain.runs().map(|(_, run)| run.dispatch).collect();
    let kept = runs.len().saturating_sub(excess);
    let mut yields = runs.split_off(kept);
    if excess == 0 {
        yields = shares::out_of_date(chain, limits, now);
    }
    yields.sort_unstable();
    yields
}

/// Returns whether no stride is begun because this run of the controller is about to end.
pub(crate) fn is_draining(chain: &StrideChain, limits: &Limits) -> bool {
    hand_over(chain, limits) == Some(HandOver::Draining)
}

/// Returns whether hooks and other side activities are held back, because they would delay a continue-as-new.
pub(crate) fn makes_way(chain: &StrideChain, limits: &Limits, now: Timestamp) -> bool {
    match hand_over(chain, limits) {
        Some(HandOver::Draining) => true,
        Some(HandOver::Overlapping { since }) => {
            chain.running_here() == 0 || now.since(since) < MAKE_WAY
        }
        None => false,
    }
}

/// The phase of the batch, for people.
pub(crate) fn phase(chain: &StrideChain, limits: &Limits, now: Timestamp) -> Phase {
    let running = chain.running();
    match ending(chain, limits, now).map(|ending| ending.outcome) {
        Some(Outcome::Cancelled) => return Phase::Cancelling,
        Some(Outcome::Failed | Outcome::Stopped) => return Phase::Stopping,
        Some(Outcome::Completed | Outcome::CompletedWithFailures) | None => {}
    }
    if limits.held && !limits.paused {
        return Phase::Held;
    }
    if limits.paused || limits.max_parallelism == 0 {
        return if running > 0 {
            Phase::Pausing
        } else {
            Phase::Paused
        };
    }
    let troubled = chain.in_trouble();
    let all_in_trouble = troubled > 0 && chain.open().all(|(_, s)| s.trouble.is_some());
    if !all_in_trouble {
        Phase::Running
    } else if chain.open().any(|(n, stride)| blocks(chain, n, stride)) {
        Phase::Blocked
    } else if chain.stuck() == troubled {
        Phase::WaitingForStuckPages
    } else {
        Phase::Running
    }
}

/// Returns whether this stride blocks the batch, provided that no other stride can advance.
fn blocks(chain: &StrideChain, number: u64, stride: &Stride) -> bool {
    let undiscovered = chain.frontier() == Some(number) && stride.end.is_none();
    let misunderstood = stride.trouble.as_ref().is_some_and(|t| t.not_the_page > 0);
    misunderstood || (undiscovered && stride.is_stuck())
}

/// The page at which a blocked batch is blocked, and the reason.
pub(crate) fn blocked(chain: &StrideChain) -> (Option<PageToken>, Option<String>) {
    let mut open = chain.open();
    let number = open.find(|(number, stride)| blocks(chain, *number, stride));
    let page = number.and_then(|(number, _)| chain.failing(None).find(|p| p.stride == number));
    match page {
        Some(page) => {
            let message = chain.message_of(&page.error_type);
            let message = message.unwrap_or(&page.message);
            let why = format!("{}: {message}", page.error_type);
            (page.start, Some(why))
        }
        None => (None, None),
    }
}

fn ending(chain: &StrideChain, limits: &Limits, now: Timestamp) -> Option<Ending> {
    if let Some(broken) = chain.broken() {
        return Some(Ending {
            outcome: Outcome::Failed,
            reason: Some(why_broken(broken)),
        });
    }
    if chain.is_complete() {
        let spotless = chain.totals.pages_failed == 0 && chain.totals.items.failed == 0;
        return Some(if spotless {
            Ending {
                outcome: Outcome::Completed,
                reason: None,
            }
        } else {
            Ending {
                outcome: Outcome::CompletedWithFailures,
                reason: Some(given_up(
                    chain.totals.pages_failed,
                    chain.totals.items.failed,
                )),
            }
        });
    }
    let so_far = || {
        let mark = position(chain.low_water_mark());
        format!("everything up to {mark} is finished")
    };
    if limits.cancelled {
        return Some(Ending {
            outcome: Outcome::Cancelled,
            reason: Some(format!("cancelled; {}", so_far())),
        });
    }
    let late = || {
        let deadline = limits.deadline.filter(|deadline| *deadline <= now);
        deadline.map(|_| "the deadline is over".to_owned())
    };
    let why = limits.stopping.clone().or_else(late)?;
    Some(Ending {
        outcome: Outcome::Stopped,
        reason: Some(format!("{why}; {}", so_far())),
    })
}

/// Words the number of pages and items given up, such as "2 pages and 1 item were given up". Zeros are left out.
pub(crate) fn given_up(pages: u64, items: u64) -> String {
    let counted = [(pages, "page"), (items, "item")];
    let named = counted.into_iter().filter(|(n, _)| *n > 0);
    let named: Vec<String> = named.map(|(n, what)| count(n, what)).collect();
    let verb = if pages + items == 1 { "was" } else { "were" };
    format!("{} {verb} given up", named.join(" and "))
}

fn why_broken(broken: &Broken) -> String {
    match broken {
        Broken::CoverageStops {
            at,
            error_type,
            message,
        } => format!(
            "coverage stops at {}: the page there was given up before the start of the next one was \
             known ({error_type}: {message})",
            position(at.as_ref())
        ),
        Broken::CursorDidNotAdvance { token } => {
            format!("CursorDidNotAdvance: the page token {token} came up a second time")
        }
        Broken::Blocked {
            at,
            error_type,
            message,
        } => format!(
            "blocked for too long at {} ({error_type}: {message}); nothing is given up, and the batch can be \
             continued once that is repaired",
            position(at.as_ref())
        ),
        Broken::TooManyFailures => format!(
            "more than {} pages were given up, which is the most that can be listed",
            crate::decisions::chain::MAX_FAILED
        ),
        Broken::Impossible { what } => format!("internal error: {what}"),
    }
}

fn position(token: Option<&PageToken>) -> String {
    token.map_or_else(|| "the beginning".to_owned(), |t| t.as_str().to_owned())
}

/// The way in which a run of the controller ends once a continue-as-new is due. The activities of a run end with it, so
/// the run has to wait for them.
#[derive(PartialEq)]
enum HandOver {
    /// Strides are dispatched to a workflow that outlives the run in the meantime.
    Overlapping { since: Timestamp },
    /// No stride is dispatched, because Temporal's limits are near or no workflow could be started that outlives the run.
    Draining,
}

fn hand_over(chain: &StrideChain, limits: &Limits) -> Option<HandOver> {
    let due = chain.hand_over_due();
    match due {
        _ if limits.must_hand_over => Some(HandOver::Draining),
        Some(since) if limits.overlaps => Some(HandOver::Overlapping { since }),
        Some(_) => Some(HandOver::Draining),
        None => None,
    }
}

/// Picks the stride to dispatch. The order is: the share of extended retries, a stuck frontier first; a frontier that holds up
/// discovery; the lowest number.
fn pick(chain: &StrideChain, limits: &Limits, now: Timestamp) -> Option<u64> {
    let due = |stride: &Stride| stride.due().is_some_and(|at| at <= now);
    let frontier = chain.frontier();
    let may_discover = || {
        (chain.in_trouble() as usize) < MAX_STUCK
            // One more stride always fits if there is nothing else to work on.
            && (chain.open().nth(1).is_none() || room(chain, limits) > 0)
    };
    let left = stage::left(chain, limits);
    let leaves = stage::leaves(chain, left);
    let allowed = |number: u64, stride: &Stride| {
        due(stride)
            && leaves(number, stride)
            && (Some(number) != frontier || stride.trouble.is_some() || may_discover())
    };

    // A stage is filled in order, so that the finished part has no holes at its end.
    let frontier_first = frontier.filter(|_| left.is_none());
    let frontier_first = frontier_first.filter(|number| {
        chain.stride(*number).is_some_and(|stride| {
            // Strides found now are cut too short.
            let enough = match limits.strides_grow {
                true => limits.max_parallelism / 2,
                false => limits.max_parallelism,
            };
            let needed = stride.trouble.is_some() || chain.ready() <= enough;
            needed && !stride.is_stuck() && allowed(*number, stride)
        })
    });
    let main = frontier_first.or_else(|| {
        chain
            .open()
            .find(|(number, stride)| !stride.is_stuck() && allowed(*number, stride))
            .map(|(number, _)| number)
    });

    let stuck_running = chain
        .open()
        .filter(|(_, stride)| stride.is_stuck() && stride.is_running())
        .count();
    let stuck_slots = (limits.max_parallelism / 4).max(1) as usize;
    // With a single slot, extended retries that are always due would otherwise take every turn.
    let yields = limits.max_parallelism == 1 && main.is_some() && chain.extended_had_last_turn();
    if stuck_running < stuck_slots && !yields {
        // A stuck frontier holds up everything behind it.
        let stuck = frontier
            .and_then(|number| Some((number, chain.stride(number)?)))
            .into_iter()
            .chain(chain.open())
            .find(|(number, stride)| stride.is_stuck() && due(stride) && leaves(*number, stride));
        if let Some((number, _)) = stuck {
            return Some(number);
        }
    }
    main
}

fn look_ahead(chain: &StrideChain, limits: &Limits, stride: u64) -> u32 {
    if chain.frontier() != Some(stride) {
        return 0;
    }
    let ahead = if limits.strides_grow { 1 } else { LOOK_AHEAD };
    let wanted = limits.max_parallelism * ahead;
    // Each stride has two tokens, about as long as the latest one. The first token may be of any length.
    let at = chain.stride(stride).and_then(|stride| stride.at.as_ref());
    let each = STRIDE_BYTES + 2 * at.map_or(PageToken::MAX_BYTES, PageToken::stored_bytes);
    let fit = room(chain, limits) / each;
    wanted
        .saturating_sub(chain.ready())
        .min(u32::try_from(fit).unwrap_or(u32::MAX))
        .clamp(1, MAX_ANNOUNCED)
}

/// Bytes left for further strides.
fn room(chain: &StrideChain, limits: &Limits) -> usize {
    let most = match (limits.of_part, OPEN_BYTES_OF_PART) {
        (false, _) => OPEN_BYTES,
        (true, (least, each)) => least + each * limits.max_parallelism as usize,
    };
    most.saturating_sub(chain.open_bytes())
}

fn next_due(chain: &StrideChain, now: Timestamp) -> Option<Timestamp> {
    chain
        .open()
        .filter_map(|(_, stride)| stride.due())
        .filter(|at| *at > now)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::retry::RetryPolicy,
        decisions::chain::Event,
        protocol::{FailedAttempt, StrideReport, UNKNOWN_PROCESSOR},
    };

    const NOW: Timestamp = Timestamp(1_000_000);

    fn limits() -> Limits {
        Limits {
            max_parallelism: 2,
            ..Limits::default()
        }
    }

    /// A chain whose only stride has failed once.
    fn after_a_failure(not_the_page: bool) -> StrideChain {
        let mut chain = StrideChain::new(None, 1);
        fail(&mut chain, not_the_page);
        chain
    }

    /// Dispatches the first stride, which fails.
    fn fail(chain: &mut StrideChain, not_the_page: bool) {
        fail_under(chain, 0, not_the_page, &RetryPolicy::default());
    }

    fn begin(chain: &mut StrideChain, stride: u64) {
        let dispatched = Event::Dispatched {
            stride,
            rate_share: None,
            page_share: None,
            items: None,
            now: NOW,
        };
        chain.record(dispatched).unwrap();
    }

    fn fail_under(chain: &mut StrideChain, stride: u64, not_the_page: bool, policy: &RetryPolicy) {
        begin(chain, stride);
        let failure = FailedAttempt {
            page_end: None,
            last_page: false,
            error_type: "ArgsNotReadable".to_owned(),
            message: "missing field `table`".to_owned(),
            retryable: true,
            retry_after: None,
            not_the_page,
            coverage_stops: false,
            lost: false,
            unread: false,
            blame: crate::base::error::Blame::Moment,
        };
        let reported = Event::Reported {
            stride,
            report: Box::new(StrideReport {
                failure: Some(failure),
                ..StrideReport::default()
            }),
            dead_letters: false,
            policy,
            now: NOW,
        };
        chain.record(reported).unwrap();
    }

    fn ends(chain: &mut StrideChain, stride: u64, report: StrideReport) {
        let reported = Event::Reported {
            stride,
            report: Box::new(report),
            dead_letters: false,
            policy: &RetryPolicy::default(),
            now: NOW,
        };
        chain.record(reported).unwrap();
    }

    /// Strides 0 and 1, after which the data ends.
    fn two_closed_strides() -> StrideChain {
        let mut chain = StrideChain::of_strides(3);
        begin(&mut chain, 2);
        let end = StrideReport {
            end_of_data: true,
            ..StrideReport::default()
        };
        ends(&mut chain, 2, end);
        chain
    }

    #[test]
    fn a_batch_waits_for_stuck_pages_once_no_other_one_is_left() {
        let mut chain = two_closed_strides();
        let stuck = RetryPolicy::default().max_attempts(1);
        fail_under(&mut chain, 0, false, &stuck);
        assert_eq!(phase(&chain, &limits(), NOW), Phase::Running);
        fail_under(&mut chain, 1, false, &RetryPolicy::default());
        assert_eq!(phase(&chain, &limits(), NOW), Phase::Running);
        fail_under(&mut chain, 1, false, &stuck);
        assert_eq!(phase(&chain, &limits(), NOW), Phase::WaitingForStuckPages);
    }

    #[test]
    fn a_batch_is_paused_once_its_last_running_page_has_ended() {
        let mut chain = StrideChain::new(None, 1);
        let paused = Limits {
            paused: true,
            ..limits()
        };
        let none = Limits::default();
        for limits in [&paused, &none] {
            begin(&mut chain, 0);
            assert_eq!(phase(&chain, limits, NOW), Phase::Pausing);
            ends(&mut chain, 0, StrideReport::default());
            assert_eq!(phase(&chain, limits, NOW), Phase::Paused);
        }
    }

    #[test]
    fn a_batch_that_has_ended_early_is_not_of_all_pages() {
        use Outcome::{Cancelled, Completed, CompletedWithFailures, Failed, Stopped};
        for (outcome, of_all) in [
            (Completed, true),
            (CompletedWithFailures, true),
            (Failed, false),
            (Stopped, false),
            (Cancelled, false),
        ] {
            let reason = None;
            assert_eq!(Ending { outcome, reason }.is_of_all(), of_all, "{outcome}");
        }
    }

    #[test]
    fn what_was_given_up_is_named_without_zeros() {
        assert_eq!(given_up(0, 8), "8 items were given up");
        assert_eq!(given_up(1, 0), "1 page was given up");
        assert_eq!(given_up(2, 1), "2 pages and 1 item were given up");
    }

    #[test]
    fn a_batch_that_no_worker_understands_is_blocked_with_the_reason() {
        let chain = after_a_failure(true);
        assert_eq!(phase(&chain, &limits(), NOW), Phase::Blocked);
        let why = "ArgsNotReadable: missing field `table`".to_owned();
        assert_eq!(blocked(&chain), (None, Some(why)));
        assert_eq!(chain.totals.consecutive_failures, 0);

        let chain = after_a_failure(false);
        assert_eq!(phase(&chain, &limits(), NOW), Phase::Running);
        assert_eq!(chain.totals.consecutive_failures, 1);
    }

    /// A worker that has the processor may come at any time, however short the retries of a page are.
    #[test]
    fn a_batch_whose_processor_no_worker_has_is_never_given_up() {
        // Few attempts fit into the time for which a batch may be blocked.
        let policy = RetryPolicy::default()
            .max_interval(Duration::from_secs(86_400))
            .extended(None);
        for (error_type, ends) in [("ArgsNotReadable", true), (UNKNOWN_PROCESSOR, false)] {
            let mut chain = StrideChain::new(None, 1);
            for _ in 0..50 {
                if chain.broken().is_some() {
                    break;
                }
                let dispatched = Event::Dispatched {
                    stride: 0,
                    rate_share: None,
                    page_share: None,
                    items: None,
                    now: NOW,
                };
                chain.record(dispatched).unwrap();
                let failure = FailedAttempt {
                    not_the_page: true,
                    lost: false,
                    ..FailedAttempt::lost(error_type.to_owned(), "not here")
                };
                let reported = Event::Reported {
                    stride: 0,
                    report: Box::new(StrideReport {
                        failure: Some(failure),
                        ..StrideReport::default()
                    }),
                    dead_letters: false,
                    policy: &policy,
                    now: NOW,
                };
                chain.record(reported).unwrap();
            }
            assert_eq!(chain.broken().is_some(), ends, "{error_type}");
        }
    }

    #[test]
    fn waiting_never_goes_past_the_deadline() {
        let chain = after_a_failure(false);
        let due = |deadline| match decide(
            &chain,
            &Limits {
                deadline,
                ..limits()
            },
            NOW,
        ) {
            Decision::WaitUntil(until) => until.unwrap(),
            other => panic!("{other:?}"),
        };
        let soon = NOW.plus(Duration::from_millis(10));
        assert_eq!(due(Some(soon)), soon);
        let late = NOW.plus(Duration::from_secs(600));
        assert_eq!(due(Some(late)), due(None));
        let full = Limits {
            deadline: Some(late),
            outputs_full: true,
            ..limits()
        };
        assert_eq!(decide(&chain, &full, NOW), Decision::WaitUntil(Some(late)));
    }

    #[test]
    fn at_the_deadline_or_told_to_stop_a_batch_is_stopped_with_the_reason() {
        let chain = after_a_failure(false);
        let late = Limits {
            deadline: Some(NOW),
            ..limits()
        };
        let told = Limits {
            stopping: Some("too much failed".to_owned()),
            // A pause does not keep the batch from ending.
            paused: true,
            ..limits()
        };
        for (limits, why) in [(late, "the deadline is over"), (told, "too much failed")] {
            assert_eq!(phase(&chain, &limits, NOW), Phase::Stopping);
            assert!(stop_at_page_boundary(&chain, &limits, NOW));
            let Decision::Finish(ending) = decide(&chain, &limits, NOW) else {
                panic!("it does not end");
            };
            assert_eq!(ending.outcome, Outcome::Stopped);
            let reason = ending.reason.unwrap();
            assert!(reason.starts_with(why), "{reason}");
        }
    }

    #[test]
    fn slow_retries_begin_in_a_quarter_of_the_slots_at_most() {
        for (max_parallelism, quarter) in [(1, 1), (3, 1), (4, 1), (8, 2), (11, 2), (40, 10)] {
            let limits = Limits {
                max_parallelism,
                ..Limits::default()
            };
            let mut chain = StrideChain::of_strides(3 * u64::from(max_parallelism));
            let policy = RetryPolicy::default().max_attempts(1);
            let stuck = 2 * u64::from(max_parallelism);
            for stride in 0..stuck {
                fail_under(&mut chain, stride, false, &policy);
            }
            assert_eq!(u64::from(chain.stuck()), stuck);
            let mut running = [0, 0];
            let due = NOW.plus(Duration::from_secs(3_600));
            while let Decision::Dispatch(dispatch) = decide(&chain, &limits, due) {
                let is_slow = dispatch.stride < stuck;
                running[usize::from(is_slow)] += 1;
                begin(&mut chain, dispatch.stride);
            }
            let [others, slow] = running;
            assert_eq!(slow, quarter, "of {max_parallelism}");
            assert_eq!(others, max_parallelism - slow, "of {max_parallelism}");
        }
    }

    /// One stride has the whole rate when the retry of another one becomes due.
    #[test]
    fn a_retry_has_its_timer_while_the_whole_rate_is_given_out() {
        let limits = Limits {
            rate: Some(100.0),
            ..limits()
        };
        let mut chain = two_closed_strides();
        fail(&mut chain, false);
        let Decision::Dispatch(alone) = decide(&chain, &limits, NOW) else {
            panic!("the other stride does not run");
        };
        let dispatched = Event::Dispatched {
            stride: alone.stride,
            rate_share: alone.rate_share,
            page_share: None,
            items: None,
            now: NOW,
        };
        chain.record(dispatched).unwrap();
        let Decision::WaitUntil(Some(due)) = decide(&chain, &limits, NOW) else {
            panic!("the retry has no timer");
        };
        assert!(yields(&chain, &limits, NOW).is_empty());
        assert_eq!(yields(&chain, &limits, due).len(), 1);
    }

    #[test]
    fn where_nothing_outlives_a_run_it_ends_with_what_it_has_begun() {
        for (overlaps, must_hand_over) in [(false, false), (false, true), (true, true)] {
            let mut chain = two_closed_strides();
            begin(&mut chain, 0);
            chain.record(Event::HandOverDue { now: NOW }).unwrap();
            let limits = Limits {
                overlaps,
                must_hand_over,
                ..limits()
            };
            let late = NOW.plus(Duration::from_secs(3_600));
            for now in [NOW, late] {
                assert_eq!(decide(&chain, &limits, now), Decision::WaitUntil(None));
                // With an overlap, a few strides at a time are asked to end.
                assert_eq!(stop_at_page_boundary(&chain, &limits, now), !overlaps);
            }
            ends(&mut chain, 0, StrideReport::default());
            assert_eq!(decide(&chain, &limits, late), Decision::HandOver);
        }
    }

    #[test]
    fn a_hand_over_waits_for_hooks() {
        let chain = after_a_failure(false);
        let draining = Limits {
            must_hand_over: true,
            ..limits()
        };
        assert_eq!(decide(&chain, &draining, NOW), Decision::HandOver);
        let hooks = Limits {
            hooks_running: true,
            ..draining
        };
        assert_eq!(decide(&chain, &hooks, NOW), Decision::WaitUntil(None));
    }
}
