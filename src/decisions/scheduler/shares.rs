//! The division of the limits on items and pages per second among running strides.
//!
//! A worker keeps a stride to its share without asking the controller, so the shares of all running strides never add
//! up to more than the limit. A share is free again only when its stride has come back.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::{Limits, stage};
use crate::{
    base::time::Timestamp,
    decisions::chain::{Run, StrideChain},
};

/// The part of an even share below which a share is not worth a slot.
const SMALLEST: f64 = 0.05;
/// The multiple of an even share above which a share is given back when other strides wait for theirs.
const TOO_LARGE: f64 = 1.25;
/// The part of an even share below which a share is exchanged for a larger one if enough is left.
const TOO_SMALL: f64 = 0.5;
/// The relative rounding error allowed in sums of shares.
const ROUNDING: f64 = 1e-9;

type ShareOf = fn(&Run) -> Option<f64>;

fn kinds(limits: &Limits) -> [(Option<f64>, ShareOf); 2] {
    [
        (limits.rate, |run| run.rate_share),
        (limits.page_rate, |run| run.page_share),
    ]
}

/// The shares of items and pages per second for the stride that is dispatched next. An inner `None` means no limit. The
/// outer `None` means that nothing is left to give.
pub(super) fn next(
    chain: &StrideChain,
    limits: &Limits,
    now: Timestamp,
) -> Option<[Option<f64>; 2]> {
    let mut shares = [None; 2];
    for (share, (limit, of)) in shares.iter_mut().zip(kinds(limits)) {
        if let Some(limit) = limit {
            let even = limit / f64::from(runnable(chain, limits, now));
            let left = limit - in_use(chain, of);
            if left < even * SMALLEST {
                return None;
            }
            *share = Some(even.min(left));
        }
    }
    Some(shares)
}

/// The dispatches whose strides should come back for other shares.
pub(super) fn out_of_date(chain: &StrideChain, limits: &Limits, now: Timestamp) -> Vec<u64> {
    let waiting = due(chain, limits, now) > 0 && chain.running() < limits.max_parallelism;
    let mut dispatches = Vec::new();
    for (limit, of) in kinds(limits) {
        let even = limit.map(|limit| limit / f64::from(runnable(chain, limits, now)));
        let left = limit.map_or(0.0, |limit| limit - in_use(chain, of));
        let out_of_date = |run: &Run| match (even, of(run)) {
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
            (Some(even), Some(share)) => {
                let starves = waiting && left < even * SMALLEST;
                let exceeds = left < -ROUNDING * even;
                ((starves || exceeds) && share > even * TOO_LARGE)
                    || (exceeds && share > even * (1.0 + ROUNDING))
                    || (!waiting && left >= even * TOO_SMALL && share < even * TOO_SMALL)
            }
        };
        let runs = chain.runs().map(|(_, run)| run);
        dispatches.extend(runs.filter(out_of_date).map(|run| run.dispatch));
    }
    dispatches.sort_unstable();
    dispatches.dedup();
    dispatches
}

/// The number of strides that run or could run, within the parallelism.
fn runnable(chain: &StrideChain, limits: &Limits, now: Timestamp) -> u32 {
    let most = limits.max_parallelism.max(1);
    let due = due(chain, limits, now);
    let known = chain.running() + due;
    // When each page reveals only the next one, all known pages may be running and still be few. A longer stride reveals
    // all the others at its beginning or none before its last page, and a first stride may be the only one.
    let one_by_one = limits.one_page_strides && chain.frontier() != Some(0);
    let more_to_come = one_by_one && due <= 1 && is_at_frontier(chain, due);
    let expected = if more_to_come { known * 2 } else { known };
    expected.clamp(1, most)
}

/// Returns whether the stride that discovers further ones is running, or is the only one due.
fn is_at_frontier(chain: &StrideChain, due: u32) -> bool {
    let frontier = chain.frontier().and_then(|number| chain.stride(number));
    frontier.is_some_and(|stride| stride.end.is_none() && (stride.is_running() || due == 1))
}

/// The number of idle strides that could be dispatched now.
fn due(chain: &StrideChain, limits: &Limits, now: Timestamp) -> u32 {
    stage::dispatchable(chain, limits, now)
}

/// Items and pages per second given out to running strides.
pub(crate) fn given_out(chain: &StrideChain) -> [f64; 2] {
    [
        in_use(chain, |run| run.rate_share),
        in_use(chain, |run| run.page_share),
    ]
}

/// The sum of the shares that running strides hold.
fn in_use(chain: &StrideChain, of: ShareOf) -> f64 {
    chain.runs().filter_map(|(_, run)| of(&run)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decision, decide, yields};
    use super::*;
    use crate::{
        batch::retry::RetryPolicy,
        decisions::chain::{Event, Stride},
        page::token::PageToken,
        protocol::StrideReport,
    };

    const NOW: Timestamp = Timestamp(1_000_000);

    fn dispatch_all(chain: &mut StrideChain, limits: &Limits) {
        while let Decision::Dispatch(dispatch) = decide(chain, limits, NOW) {
            let dispatched = Event::Dispatched {
                stride: dispatch.stride,
                rate_share: dispatch.rate_share,
                page_share: dispatch.page_share,
                items: dispatch.items,
                now: NOW,
            };
            chain.record(dispatched).unwrap();
        }
    }

    /// Ends the strides of these dispatches at their next page boundary, with nothing done.
    fn come_back(chain: &mut StrideChain, dispatches: &[u64]) {
        let strides: Vec<_> = chain
            .runs()
            .filter(|(_, run)| dispatches.contains(&run.dispatch))
            .map(|(stride, _)| stride)
            .collect();
        assert_eq!(strides.len(), dispatches.len(), "only what runs is told");
        for stride in strides {
            let reported = Event::Reported {
                stride,
                report: Box::new(StrideReport::default()),
                policy: &RetryPolicy::default(),
                dead_letters: false,
                now: NOW,
            };
            chain.record(reported).unwrap();
        }
    }

    /// Has a running stride announce the one after it.
    fn announce_next(chain: &mut StrideChain, stride: u64) -> PageToken {
        let next = PageToken::encode(&stride).unwrap();
        let run = chain.stride(stride).and_then(Stride::run);
        let announced = Event::Announced {
            by: stride,
            dispatch: run.unwrap().dispatch,
            starts: std::slice::from_ref(&next),
        };
        chain.record(announced).unwrap();
        next
    }

    fn limits(max_parallelism: u32, rate: Option<f64>, page_rate: Option<f64>) -> Limits {
        Limits {
            max_parallelism,
            rate,
            page_rate,
            ..Limits::default()
        }
    }

    fn any_limits() -> impl Strategy<Value = Limits> {
        let rate = || prop::option::of(0.5f64..10_000.0);
        (1u32..40, rate(), rate()).prop_map(|(p, rate, pages)| limits(p, rate, pages))
    }

    fn shares_of(chain: &StrideChain, of: ShareOf) -> Vec<f64> {
        chain.runs().filter_map(|(_, run)| of(&run)).collect()
    }

    proptest! {
        /// The shares settle in a bounded number of rounds. Every running stride then has a share that fits, no stride
        /// is told to come back, and every stride that may run does.
        #[test]
        fn after_a_change_the_shares_settle(
            strides in 1u64..60,
            before in any_limits(),
            after in any_limits(),
        ) {
            let mut chain = StrideChain::of_strides(strides);
            dispatch_all(&mut chain, &before);
            let mut rounds = 0;
            loop {
                dispatch_all(&mut chain, &after);
                let told = yields(&chain, &after, NOW);
                if told.is_empty() {
                    break;
                }
                come_back(&mut chain, &told);
                rounds += 1;
                prop_assert!(rounds <= 5, "still {told:?}");
            }
            prop_assert!(chain.running() <= after.max_parallelism);
            for (limit, of) in kinds(&after) {
                let shares = shares_of(&chain, of);
                match limit {
                    None => prop_assert!(shares.is_empty()),
                    Some(limit) => {
                        prop_assert_eq!(shares.len(), chain.running() as usize);
                        let sum: f64 = shares.iter().sum();
                        prop_assert!(sum <= limit * (1.0 + 1e-6), "{} > {}", sum, limit);
                        // Part of the rate is reserved for pages that are found one by one.
                        prop_assert!(sum >= limit * 0.2, "{} of {}", sum, limit);
                    }
                }
            }
        }

        /// A lower limit takes back exactly the excess, from the highest numbers.
        #[test]
        fn a_lower_parallelism_takes_back_just_enough(strides in 2u64..60, p in 1u32..40, less in 0u32..40) {
            let mut chain = StrideChain::of_strides(strides);
            dispatch_all(&mut chain, &limits(p, None, None));
            let running = chain.running();
            let told = yields(&chain, &limits(less, None, None), NOW);
            prop_assert_eq!(told.len() as u32, running.saturating_sub(less));
            let (_, lowest) = chain.runs().next().unwrap();
            prop_assert!(less == 0 || !told.contains(&lowest.dispatch));
        }
    }

    proptest! {
        /// The rest of the rate would have no user.
        #[test]
        fn an_only_stride_has_the_whole_rate(
            limits in any_limits(), one_page_strides in any::<bool>(), finished in 0u64..3
        ) {
            let one_page_strides = one_page_strides && finished == 0;
            let limits = Limits { one_page_strides, ..limits };
            let mut chain = StrideChain::new(None, 1);
            for n in 0..finished {
                dispatch_all(&mut chain, &limits);
                let next = announce_next(&mut chain, n);
                let report = StrideReport {
                    covered_to: Some(next),
                    pages: 1,
                    ..StrideReport::default()
                };
                let policy = &RetryPolicy::default();
                let report = Box::new(report);
                let reported = Event::Reported { stride: n, report, policy, dead_letters: false, now: NOW };
                chain.record(reported).unwrap();
            }
            dispatch_all(&mut chain, &limits);
            prop_assert_eq!(chain.running(), 1);
            for (limit, of) in kinds(&limits) {
                prop_assert_eq!(shares_of(&chain, of), Vec::from_iter(limit));
            }
            prop_assert_eq!(yields(&chain, &limits, NOW), Vec::<u64>::new());
        }
    }

    /// Each page announces the next one as it begins.
    #[test]
    fn pages_that_are_found_one_by_one_leave_a_share_for_the_next() {
        let limits = Limits {
            one_page_strides: true,
            ..limits(10, Some(100.0), None)
        };
        let mut chain = StrideChain::new(None, 1);
        for n in 0..4u64 {
            dispatch_all(&mut chain, &limits);
            // The first page has the whole rate until there is a second one.
            let told = yields(&chain, &limits, NOW);
            come_back(&mut chain, &told);
            dispatch_all(&mut chain, &limits);
            assert_eq!(u64::from(chain.running()), n + 1, "nothing is left for it");
            announce_next(&mut chain, n);
        }
        let shares = shares_of(&chain, |run| run.rate_share);
        assert!(shares.iter().sum::<f64>() <= 100.0 + 1e-9, "{shares:?}");
    }

    #[test]
    fn few_strides_share_the_whole_rate() {
        let mut chain = StrideChain::of_strides(3);
        dispatch_all(&mut chain, &limits(10, None, None));
        // The last stride finds the end of the data, so no further page is expected.
        for stride in 0..3 {
            let reported = Event::Reported {
                stride,
                report: Box::new(StrideReport {
                    end_of_data: stride == 2,
                    ..StrideReport::default()
                }),
                policy: &RetryPolicy::default(),
                dead_letters: false,
                now: NOW,
            };
            chain.record(reported).unwrap();
        }
        dispatch_all(&mut chain, &limits(10, Some(100.0), None));
        let shares = shares_of(&chain, |run| run.rate_share);
        assert_eq!(shares, [50.0, 50.0]);
    }
}
