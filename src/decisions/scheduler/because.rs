//! The reason why a batch is not faster, for people. Trouble with its pages comes before the limits on them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, time::Duration};

use super::{
    Situation,
    explain::{RATE_IS_USED, is_over, page_after, stands_still},
};
use crate::{
    base::{
        text::{about, exactly, number, per_second},
        time::Timestamp,
    },
    decisions::{chain::Run, pacing::fitting_page},
    progress::phase::HeldBy,
};

/// The wait per page from which on a rate counts as holding young pages back.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// The part of the strides' time that must be spent in pauses before the pause is what limits the batch.
const PAUSE_IS_USED: f64 = 0.5;

/// The cause that keeps a batch from being faster.
#[derive(Debug, PartialEq)]
pub(crate) struct Because {
    pub held_by: HeldBy,
    /// One sentence for people.
    pub explanation: String,
    /// The page size that fits the rate, where pages are too large for it.
    pub fitting_page_size: Option<u32>,
    /// The parallelism that workers have slots for, where pages without a slot hold part of the rate.
    pub fitting_parallelism: Option<u32>,
}

impl From<(HeldBy, String)> for Because {
    fn from((held_by, explanation): (HeldBy, String)) -> Self {
        Self {
            held_by,
            explanation,
            fitting_page_size: None,
            fitting_parallelism: None,
        }
    }
}

/// The cause that keeps the batch from being faster, for people. `None` if there is no such cause.
///
/// | in this order | |
/// |---|---|
/// | nothing may begin | paused, a stage, windows, a throttle, no parallelism, a hand-over |
/// | pages fail and none gets through | their error |
/// | pages keep to a rate or a pause | with the page size that fits, if theirs does not |
/// | everything else | `limit`, the answer of [`explain`](super::explain) |
pub(crate) fn because(s: &Situation<'_>, limit: Option<(HeldBy, String)>) -> Option<Because> {
    if is_over(s) {
        return None;
    }
    let still = stands_still(s).or_else(|| failing(s)).map(Because::from);
    still.or_else(|| {
        let paced = paced(s, limit.as_ref().map(|(by, _)| *by));
        paced.or_else(|| limit.map(Because::from))
    })
}

/// The error of the pages that fail while no page gets through.
fn failing(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    let finished = s.chain.totals.pages_completed;
    let (mut failing, mut sound_in_flight, mut sound) = (Vec::new(), 0, 0);
    for (_, stride) in s.chain.open() {
        match &stride.trouble {
            Some(trouble) => failing.push((stride, trouble)),
            None => {
                sound += 1;
                sound_in_flight += usize::from(stride.is_running());
            }
        }
    }
    // Pages that failed after the latest page was finished.
    let lately = failing.iter().filter(|(_, t)| t.others == finished).count();
    let none_gets_through = match lately {
        0 => false,
        1 => sound_in_flight == 0,
        _ => lately >= sound_in_flight,
    };
    let (first, _) = failing.first()?;
    if sound > 0 && !none_gets_through {
        return None;
    }
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, trouble) in &failing {
        *types.entry(&trouble.error_type).or_default() += 1;
    }
    let (error_type, _) = types.into_iter().max_by_key(|(_, pages)| *pages)?;
    let of_type = failing.iter().find(|(_, t)| t.error_type == error_type);
    let message = of_type.map_or("", |(_, trouble)| trouble.message.as_str());
    let message = s.chain.message_of(error_type).unwrap_or(message);
    let what = if s.chain.running() == 0 {
        let due = failing
            .iter()
            .filter_map(|(stride, _)| stride.due())
            .min()?;
        let wait = about(due.since(s.now));
        format!("every page that is left has failed and waits for its next attempt, in {wait}")
    } else if failing.len() == 1 {
        let page = page_after(first.at.as_ref());
        format!("{page} fails, and no other gets through")
    } else {
        format!("{} pages fail, and no other gets through", failing.len())
    };
    Some((HeldBy::Retries, format!("{what}: {error_type}: {message}")))
}

/// The rate, or the pause before each page, if it is what holds pages back. `limit` is the limit that holds otherwise.
fn paced(s: &Situation<'_>, limit: Option<HeldBy>) -> Option<Because> {
    use HeldBy::{Discovery, Parallelism, Ramp, Rate, Tuning};
    let runs: Vec<Run> = s.chain.runs().map(|(_, run)| run).collect();
    let of_pages = [Discovery, Parallelism, Ramp, Tuning, Rate];
    if runs.is_empty() || limit.is_some_and(|by| !of_pages.contains(&by)) {
        return None;
    }
    let by_pause = || by_pause(s, &runs).filter(|_| limit != Some(Rate));
    by_rate(s, &runs, limit).or_else(|| by_pause().map(Because::from))
}

fn by_rate(s: &Situation<'_>, runs: &[Run], limit: Option<HeldBy>) -> Option<Because> {
    let rate = s.limits.rate?;
    let share = runs.iter().filter_map(|run| run.rate_share);
    let share = share.fold(0.0_f64, f64::max);
    let page_size = s.pacing.page_size();
    let wait = seconds(f64::from(page_size) / share)?;
    let achieved = s.pacing.items_per_second(s.now);
    let used = achieved.is_some_and(|achieved| achieved >= rate * RATE_IS_USED);
    let waits = wait >= SHORTEST_WAIT && are_younger_than(runs, 2 * wait, s.now);
    if !(used || waits) {
        return None;
    }
    let text = format!("rate limit {} items/s", per_second(rate));
    let tuned = s.pacing.auto_page_size().is_some();
    if let Some(fits) = fitting_page(page_size, share).filter(|_| !tuned) {
        let items = number(page_size.into());
        let explanation = format!(
            "{text}: a page of {items} items takes {} at its share of {} items/s; --page-size {fits} makes it {}",
            about(wait),
            per_second(share),
            about(seconds(f64::from(fits) / share)?),
        );
        return Some(Because {
            fitting_page_size: Some(fits),
            ..(HeldBy::Rate, explanation).into()
        });
    }
    (limit != Some(HeldBy::Rate)).then(|| (HeldBy::Rate, text).into())
}

fn by_pause(s: &Situation<'_>, runs: &[Run]) -> Option<(HeldBy, String)> {
    let pause = s.pacing.page_pause_now(s.max_parallelism, s.now)?;
    if pause.is_zero() {
        return None;
    }
    let achieved = s.pacing.items_per_second(s.now).unwrap_or_default();
    let pages = achieved / f64::from(s.pacing.page_size().max(1));
    // The part of the running strides' time that is spent in pauses.
    let paused = pages * pause.as_secs_f64() / runs.len() as f64;
    (paused >= PAUSE_IS_USED || are_younger_than(runs, 2 * pause, s.now)).then(|| {
        let pause = exactly(pause);
        (HeldBy::Rate, format!("a pause of {pause} before each page"))
    })
}

fn are_younger_than(runs: &[Run], age: Duration, now: Timestamp) -> bool {
    runs.iter().all(|run| now.since(run.since) < age)
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::retry::RetryPolicy,
        decisions::{
            chain::Event,
            scheduler::explain::{
                explain,
                tests::{Case, NOW, batch},
            },
        },
        page::token::PageToken,
        protocol::{FailedAttempt, StrideReport},
    };

    fn because(s: &Situation<'_>) -> Option<Because> {
        super::because(s, explain(s))
    }

    fn after(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn reported(case: &mut Case, stride: u64, report: StrideReport, now: Timestamp) {
        let reported = Event::Reported {
            stride,
            report: Box::new(report),
            policy: &RetryPolicy::default(),
            dead_letters: false,
            now,
        };
        case.chain.record(reported).unwrap();
    }

    fn fails(case: &mut Case, stride: u64, error_type: &str, now: Timestamp) {
        let failure = FailedAttempt {
            lost: false,
            ..FailedAttempt::lost(error_type.to_owned(), "pid 4711 has the rows")
        };
        let report = StrideReport {
            failure: Some(failure),
            ..StrideReport::default()
        };
        reported(case, stride, report, now);
    }

    fn finishes(case: &mut Case, stride: u64, now: Timestamp) {
        let report = StrideReport {
            covered_to: Some(PageToken::encode(&(stride + 1)).unwrap()),
            pages: 1,
            ..StrideReport::default()
        };
        reported(case, stride, report, now);
    }

    #[track_caller]
    fn says(case: &Case, now: Timestamp, by: HeldBy, part: &str) {
        let said = case.seen_at(now, because);
        let said = said.unwrap_or_else(|| panic!("nothing is said; wanted {part}"));
        let fits = said.held_by == by && said.explanation.contains(part);
        assert!(fits, "{said:?}");
    }

    #[test]
    fn the_error_is_named_while_every_page_in_flight_has_failed() {
        let mut case = Case::of(batch(), 50);
        for stride in 0..4 {
            fails(&mut case, stride, "LockTimeout", NOW);
        }
        // The next four pages are no better than the first ones, as far as is known.
        case.dispatch_at(NOW);
        let sentence =
            "4 pages fail, and no other gets through: LockTimeout: pid 4711 has the rows";
        says(&case, NOW, HeldBy::Retries, sentence);
        // One of the other pages is finished, so not everything fails.
        finishes(&mut case, 4, after(1));
        case.dispatch_at(after(1));
        says(
            &case,
            after(1),
            HeldBy::Parallelism,
            "max parallelism 4 is used up",
        );
    }

    #[test]
    fn the_most_frequent_error_is_the_one_that_is_named() {
        let mut case = Case::of(batch(), 50);
        for (stride, error) in [(0, "Deadlock"), (1, "NoRoom"), (2, "NoRoom"), (3, "NoRoom")] {
            fails(&mut case, stride, error, NOW);
        }
        case.dispatch_at(NOW);
        says(&case, NOW, HeldBy::Retries, ": NoRoom: ");
    }

    #[test]
    fn a_single_failure_beside_pages_that_run_is_no_cause() {
        let mut case = Case::of(batch(), 50);
        fails(&mut case, 2, "Deadlock", NOW);
        case.dispatch_at(NOW);
        says(
            &case,
            NOW,
            HeldBy::Parallelism,
            "max parallelism 4 is used up",
        );
    }

    #[test]
    fn what_is_left_and_waits_says_when_it_goes_on_and_why_it_failed() {
        let mut case = Case::of(batch(), 1);
        fails(&mut case, 0, "NoRoom", NOW);
        let sentence =
            "every page that is left has failed and waits for its next attempt, in 1s: NoRoom: ";
        says(&case, NOW, HeldBy::Retries, sentence);
        case.dispatch_at(after(60));
        let sentence = "the first page fails, and no other gets through: NoRoom: ";
        says(&case, after(60), HeldBy::Retries, sentence);
    }

    #[test]
    fn a_page_that_waits_for_its_rate_is_held_by_the_rate() {
        let large = batch().rate(200.0).page_size(1_000).max_parallelism(10);
        let case = Case::of(large.clone(), 1);
        says(&case, after(4), HeldBy::Rate, "rate limit 200 items/s");
        let fits = |case: &Case, now| case.seen_at(now, because).and_then(|b| b.fitting_page_size);
        assert_eq!(fits(&case, after(4)), None);
        says(
            &case,
            after(40),
            HeldBy::Discovery,
            "waiting for the first page",
        );
        let case = Case::of(large.clone(), 50);
        let sentence = "rate limit 200 items/s: a page of 1,000 items takes 50s at its share of 20 items/s; \
                        --page-size 100 makes it 5s";
        says(&case, after(30), HeldBy::Rate, sentence);
        // A wait of 20 s counts as short.
        let fits = Case::of(batch().rate(100.0).page_size(1_000), 1);
        let plain = |rate: u32| {
            let sentence = format!("rate limit {rate} items/s");
            Some(Because::from((HeldBy::Rate, sentence)))
        };
        assert_eq!(fits.seen_at(after(4), because), plain(100));
        let tuned =
            large.auto_page_size(crate::batch::pace_settings::page_size::AutoPageSize::default());
        let said = Case::of(tuned, 50).seen_at(after(30), because);
        assert_eq!(said, plain(200));
        let fits = batch().rate(5_000.0).page_size(1_000);
        let case = Case::of(fits, 1);
        says(
            &case,
            after(1),
            HeldBy::Discovery,
            "waiting for the first page",
        );
    }

    #[test]
    fn pages_that_pause_are_held_by_the_pause() {
        let case = Case::of(batch().page_pause(Duration::from_secs(20)), 50);
        let sentence = "a pause of 20s before each page";
        says(&case, after(15), HeldBy::Rate, sentence);
        says(
            &case,
            after(90),
            HeldBy::Parallelism,
            "max parallelism 4 is used up",
        );
    }

    /// A batch that runs without a failure gets no sentence about failures, nor about a rate that it does not have.
    #[test]
    fn a_batch_that_simply_runs_is_told_nothing_that_alarms() {
        let ramp = || "2..32/10m".parse().unwrap();
        let auto = "auto:3..9".parse().unwrap();
        for batch in [
            batch(),
            batch().rate(5_000.0),
            batch().page_rate(5.0),
            batch().ramp(ramp()),
            batch().auto_parallelism(auto),
            batch().page_size(1),
        ] {
            for strides in [1, 2, 5, 50] {
                let mut case = Case::of(batch.clone(), strides);
                for second in 0..8 {
                    let said = case.seen_at(after(second), because);
                    let expected = case.seen_at(after(second), explain).map(Because::from);
                    assert_eq!(said, expected, "{strides} strides, {second} s");
                    let running = case.chain.runs().map(|(number, _)| number).next();
                    if let Some(stride) = running.filter(|stride| *stride + 1 < strides) {
                        finishes(&mut case, stride, after(second));
                    }
                    case.dispatch_at(after(second));
                }
            }
        }
    }
}
