//! Properties of the shares of a rate, and of the tolerance.

use proptest::prelude::*;

use super::*;
use crate::{
    batch::tolerance::{Limit, OnExceeded, Tolerance},
    protocol::{ResumeRequest, SetRequest, Setting},
};

impl Work {
    /// Lets the strides come back that read in the memo that they should, with nothing done. Returns whether there
    /// were any.
    fn come_back(&mut self) -> bool {
        self.seconds += 1;
        self.refresh();
        let progress = self.state.look();
        for news in self.state.take_news(progress) {
            if let News::Control(control) = news {
                assert_eq!(control, self.state.published.control);
            }
        }
        let memo = &self.state.published.control;
        let told: Vec<usize> = (0..self.running.len())
            .filter(|i| {
                memo.stop_at_page_boundary || memo.yields.contains(&self.running[*i].dispatch)
            })
            .collect();
        for which in told.iter().rev() {
            self.report(*which, 0, 0);
        }
        !told.is_empty()
    }
}

/// A limit on items or pages per second.
fn rate() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(0.5f64..1_000.0)
}

fn setting(rate: Option<f64>) -> Option<Setting<f64>> {
    Some(rate.map_or(Setting::Off, Setting::To))
}

proptest! {
    /// Workers do not ask, so what is given out is within the limit at every moment at which more is given out.
    #[test]
    fn a_share_is_given_out_only_within_the_rate_and_a_set_reaches_every_stride_that_runs(
        first in (rate(), rate(), 1u32..20),
        sets in prop::collection::vec((rate(), rate(), 1u32..20, prop::collection::vec((any::<usize>(), 0..=STRIDE), 0..6)), 1..6),
    ) {
        let mut work = Work::new(60, |state| {
            let spec = &mut state.input.spec;
            (spec.rate, spec.pace.page_rate, spec.max_parallelism) = first;
        });
        work.dispatch();
        for (rate, page_rate, parallelism, reports) in sets {
            for (which, rows) in reports {
                work.report(which, rows, 0);
                work.dispatch();
            }
            let limits = [rate, page_rate];
            work.steer(Steer::Set(SetRequest {
                rate: setting(rate),
                page_rate: setting(page_rate),
                max_parallelism: Some(parallelism),
                ..SetRequest::default()
            }));
            for round in 0.. {
                let more = !work.dispatch().is_empty();
                let sums = scheduler::rates_given_out(&work.state.work.chain);
                for (sum, limit) in sums.into_iter().zip(limits) {
                    let within = limit.is_none_or(|limit| sum <= limit * (1.0 + 1e-6));
                    prop_assert!(within || !more, "{sum} of {limit:?} is given out");
                }
                if !work.come_back() {
                    break;
                }
                prop_assert!(round < 6, "strides still come back");
            }
            prop_assert!(work.running.len() as u32 <= parallelism);
            for order in &work.running {
                prop_assert_eq!(order.rate_share.is_some(), rate.is_some());
                prop_assert_eq!(order.page_share.is_some(), page_rate.is_some());
            }
            let sums = scheduler::rates_given_out(&work.state.work.chain);
            for (sum, limit) in sums.into_iter().zip(limits) {
                prop_assert!(limit.is_none_or(|limit| sum <= limit * (1.0 + 1e-6)), "{sum} of {limit:?}");
            }
        }
    }

    /// The batch reacts with the first report that is one too many, and not before. A resume forgives.
    #[test]
    fn a_batch_stops_when_more_items_failed_than_are_tolerated_and_not_before(
        count in prop::option::of(0u64..30),
        percent in prop::option::of(0u32..50),
        min_sample in 0u64..40,
        stops in any::<bool>(),
        reports in prop::collection::vec((any::<usize>(), 0..=STRIDE, 0u64..8), 1..60),
    ) {
        let mut limit = Limit::count(count.unwrap_or(u64::MAX)).min_sample(min_sample);
        if let Some(percent) = percent {
            limit = limit.or_percent(f64::from(percent));
        }
        let then = if stops { OnExceeded::Stop } else { OnExceeded::Pause };
        let mut work = Work::new(60, |state| {
            state.input.spec.tolerance = Some(Tolerance::new().items(limit).then(then));
        });
        // By hand: the items since the failures were last forgiven.
        let (mut all, mut failed) = (0, 0);
        let counted = |work: &Work| {
            let items = work.state.work.chain.totals.items;
            (items.total(), items.failed)
        };
        let mut forgiven = (0, 0);
        for (which, rows, failing) in reports {
            work.seconds += 1;
            let begins = work.dispatch();
            let over = |all: u64, failed: u64| {
                let by_count = count.is_some_and(|count| failed > count);
                let by_share = percent.is_some_and(|percent| failed * 100 > u64::from(percent) * all);
                by_count || (by_share && all >= min_sample)
            };
            let reacted = work.state.controls.paused || work.state.controls.stopping.is_some();
            prop_assert_eq!(reacted, over(all, failed));
            prop_assert!(!reacted || begins.is_empty(), "it goes on");
            if stops && reacted {
                break;
            }
            if reacted {
                work.steer(Steer::Resume(ResumeRequest::default()));
                prop_assert!(!work.state.controls.paused, "it was forgiven");
                forgiven = counted(&work);
                work.dispatch();
            }
            work.report(which, rows, failing);
            let (items, of_them) = counted(&work);
            (all, failed) = (items - forgiven.0, of_them - forgiven.1);
        }
    }
}
