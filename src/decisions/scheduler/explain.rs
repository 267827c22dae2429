//! The limit that keeps a batch from being faster, in one sentence.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::{Limits, is_draining, shares, stage};
use crate::{
    base::{
        error::truncate,
        text::{about, per_second},
        time::Timestamp,
    },
    decisions::{
        chain::StrideChain,
        pacing::{PaceNow, Pacing},
        state::stages::Stages,
    },
    page::token::PageToken,
    progress::{PauseNote, phase::HeldBy},
};

/// The part of a given-out rate that must be used before the rate is what limits the batch.
pub(super) const RATE_IS_USED: f64 = 0.6;
const MAX_TOKEN_CHARS: usize = 24;

/// The facts that an explanation is made from.
pub(crate) struct Situation<'a> {
    pub chain: &'a StrideChain,
    pub limits: &'a Limits,
    pub pacing: &'a Pacing,
    pub pace: &'a PaceNow,
    pub pause: Option<&'a PauseNote>,
    pub stages: Option<&'a Stages>,
    pub max_parallelism: u32,
    pub now: Timestamp,
}

/// The limit that keeps the batch from being faster, the strongest first. `None` if there is no such limit or nothing
/// is left to do. Pages are assumed to get through; [`because`](super::because()) makes no such assumption.
///
/// The memo is written when the kind of the reason changes, so the answer must stay the same for recorded histories.
pub(crate) fn explain(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    if is_over(s) {
        return None;
    }
    stands_still(s)
        .or_else(|| nothing_to_do(s))
        .or_else(|| limited(s))
}

/// Returns whether no further page of the batch will begin.
pub(super) fn is_over(s: &Situation<'_>) -> bool {
    s.chain.is_complete() || s.chain.broken().is_some() || s.limits.cancelled
}

pub(super) fn stands_still(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    if s.limits.paused {
        return Some(paused(s.pause));
    }
    if let Some(stages) = s.stages.filter(|stages| stages.holds()) {
        return Some((HeldBy::Stage, stages.explained()));
    }
    if let Some(held) = held(s.pacing, s.pace, s.now) {
        return Some(held);
    }
    if s.max_parallelism == 0 {
        return Some((HeldBy::Parallelism, "max parallelism is 0".to_owned()));
    }
    is_draining(s.chain, s.limits).then(|| {
        let why = "its controller is about to continue as new".to_owned();
        (HeldBy::ContinueAsNew, why)
    })
}

/// The windows or the throttle that hold the batch, if any do.
pub(crate) fn held(pacing: &Pacing, pace: &PaceNow, now: Timestamp) -> Option<(HeldBy, String)> {
    let (by, why) = match pace.held? {
        HeldBy::Window => {
            let opens = match pacing.opens_at(now) {
                Some(at) => format!("; the next one opens in {}", about(at.since(now))),
                None if pacing.windows_to_work_out(now).is_some() => {
                    "; when the next one opens is being worked out".to_owned()
                }
                None => String::new(),
            };
            (HeldBy::Window, format!("outside of its windows{opens}"))
        }
        _ => {
            let why = match pacing.throttled() {
                Some(throttled) => format!("held: {}", throttled.reason),
                None => "held: its throttles have not answered yet".to_owned(),
            };
            (HeldBy::Throttle, why)
        }
    };
    Some((by, why))
}

/// The pause of a paused batch.
pub(crate) fn paused(note: Option<&PauseNote>) -> (HeldBy, String) {
    let mut text = "paused".to_owned();
    if let Some(who) = note.and_then(|note| note.who.as_ref()) {
        text.push_str(&format!(" by {who}"));
    }
    if let Some(why) = note.and_then(|note| note.why.as_ref()) {
        text.push_str(&format!(": {why}"));
    }
    (HeldBy::Pause, text)
}

fn nothing_to_do(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    let idle_slots = s.chain.running() < s.limits.max_parallelism;
    if !idle_slots || stage::dispatchable(s.chain, s.limits, s.now) > 0 {
        return None;
    }
    if let Some(stages) = s.stages
        && s.chain.due(s.now) > 0
    {
        let text = format!("nothing more begins before {} is done", stages.called());
        return Some((HeldBy::Stage, text));
    }
    let next_try = s.chain.open().filter_map(|(_, stride)| stride.due()).min();
    if s.chain.running() == 0 {
        let at = next_try?;
        let text = format!(
            "every page that is left has failed and waits for its next attempt, in {}",
            about(at.since(s.now))
        );
        return Some((HeldBy::Retries, text));
    }
    let frontier = s.chain.frontier()?;
    let stride = s.chain.stride(frontier)?;
    stride.is_running().then(|| {
        let page = page_after(stride.at.as_ref());
        let text = format!("waiting for {page} to tell where the next one starts");
        (HeldBy::Discovery, text)
    })
}

fn limited(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    slowed(s.pacing)
        .or_else(|| by_rate(s))
        .or_else(|| by_parallelism(s))
}

/// The verdict of a throttle that slows the batch.
pub(crate) fn slowed(pacing: &Pacing) -> Option<(HeldBy, String)> {
    let throttled = pacing.throttled()?;
    let percent = throttled.factor * 100.0;
    let text = format!("slowed to {percent:.0} %: {}", throttled.reason);
    Some((HeldBy::Throttle, text))
}

fn by_rate(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    if shares::next(s.chain, s.limits, s.now).is_some() {
        return None;
    }
    if let Some(rate) = s.limits.rate {
        let achieved = s.pacing.items_per_second(s.now);
        if achieved.is_none_or(|achieved| achieved >= rate * RATE_IS_USED) {
            let text = format!("rate limit {} items/s", per_second(rate));
            return Some((HeldBy::Rate, text));
        }
    }
    let pages = s.limits.page_rate?;
    let text = format!("rate limit {} pages/s", per_second(pages));
    Some((HeldBy::Rate, text))
}

fn by_parallelism(s: &Situation<'_>) -> Option<(HeldBy, String)> {
    if s.chain.running() < s.limits.max_parallelism {
        return None;
    }
    let now = s.pace.parallelism;
    let text = match s.pace.parallelism_by {
        HeldBy::Ramp => {
            let ramp = s.pacing.ramp()?;
            let left = about(ramp.left(s.now));
            format!("ramp {} has reached {now}; {left} left", ramp.ramp())
        }
        HeldBy::Tuning => {
            let bounds = s.pacing.auto_parallelism()?;
            format!("parallelism is tuned to {now} within {bounds}")
        }
        _ => format!("max parallelism {now} is used up"),
    };
    Some((s.pace.parallelism_by, text))
}

/// Describes the page that begins at `start`. The token is cut, because tokens can be long.
pub(crate) fn page_after(start: Option<&PageToken>) -> String {
    match start {
        Some(token) => {
            let token = truncate(token.as_str(), MAX_TOKEN_CHARS);
            format!("the page after {token}")
        }
        None => "the first page".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        batch::Batch,
        decisions::{
            chain::Event,
            scheduler::{Decision, decide},
        },
        processor::throttle::Verdict,
    };

    pub const NOW: Timestamp = Timestamp(1_000_000);

    /// A batch with some known strides, in which every stride that may run does.
    pub struct Case {
        pub chain: StrideChain,
        pub pacing: Pacing,
        pub max_parallelism: u32,
        pub pause: Option<PauseNote>,
    }

    impl Case {
        pub fn of(batch: Batch, strides: u64) -> Self {
            let mut case = Self {
                chain: StrideChain::of_strides(strides),
                pacing: Pacing::of(&batch.spec, NOW),
                max_parallelism: batch.spec.max_parallelism,
                pause: None,
            };
            case.dispatch_at(NOW);
            case
        }

        /// Dispatches every stride that may run.
        pub fn dispatch_at(&mut self, now: Timestamp) {
            while let Decision::Dispatch(dispatch) = decide(&self.chain, &self.limits(), now) {
                let dispatched = Event::Dispatched {
                    stride: dispatch.stride,
                    rate_share: dispatch.rate_share,
                    page_share: dispatch.page_share,
                    items: dispatch.items,
                    now,
                };
                self.chain.record(dispatched).unwrap();
            }
        }

        fn pace(&self) -> PaceNow {
            self.pacing.now(self.max_parallelism, NOW)
        }

        fn limits(&self) -> Limits {
            let pace = self.pace();
            Limits {
                max_parallelism: pace.parallelism,
                paused: self.pause.is_some(),
                held: pace.held.is_some(),
                rate: pace.rate,
                page_rate: pace.page_rate,
                ..Limits::default()
            }
        }

        fn explained(&self) -> Option<(HeldBy, String)> {
            self.seen_at(NOW, explain)
        }

        pub fn seen_at<T>(&self, now: Timestamp, look: impl FnOnce(&Situation<'_>) -> T) -> T {
            look(&Situation {
                chain: &self.chain,
                limits: &self.limits(),
                pacing: &self.pacing,
                pace: &self.pace(),
                pause: self.pause.as_ref(),
                stages: None,
                max_parallelism: self.max_parallelism,
                now,
            })
        }
    }

    pub fn batch() -> Batch {
        Batch::named("b", "p", serde_json::Value::Null).max_parallelism(4)
    }

    #[track_caller]
    fn says(case: &Case, by: HeldBy, text: &str) {
        assert_eq!(case.explained(), Some((by, text.to_owned())));
    }

    #[test]
    fn each_limit_is_named_with_its_figure() {
        let many = |batch| Case::of(batch, 50);
        says(
            &many(batch()),
            HeldBy::Parallelism,
            "max parallelism 4 is used up",
        );
        says(
            &many(batch().rate(5_000.0)),
            HeldBy::Rate,
            "rate limit 5,000 items/s",
        );
        says(
            &many(batch().page_rate(2.5)),
            HeldBy::Rate,
            "rate limit 2.5 pages/s",
        );
        let ramp = "2..32/10m".parse().unwrap();
        says(
            &many(batch().ramp(ramp)),
            HeldBy::Ramp,
            "ramp 2..32/10m has reached 2; 10m left",
        );
        let auto = "auto:3..9".parse().unwrap();
        says(
            &many(batch().auto_parallelism(auto)),
            HeldBy::Tuning,
            "parallelism is tuned to 3 within 3..9",
        );
        let none = Case::of(batch().max_parallelism(0), 50);
        says(&none, HeldBy::Parallelism, "max parallelism is 0");
    }

    #[test]
    fn what_holds_it_comes_before_what_limits_it() {
        let mut case = Case::of(batch().rate(10.0).throttle("db"), 50);
        says(
            &case,
            HeldBy::Throttle,
            "held: its throttles have not answered yet",
        );
        let hold = Verdict::Hold {
            reason: "replica lag 3.2s > 2s".to_owned(),
        };
        case.pacing.throttle("db", &hold, NOW);
        says(&case, HeldBy::Throttle, "held: replica lag 3.2s > 2s");
        let slow = Verdict::Slow {
            factor: 0.4,
            reason: "replica lag 1.2s > 1s".to_owned(),
        };
        case.pacing.throttle("db", &slow, NOW);
        says(
            &case,
            HeldBy::Throttle,
            "slowed to 40 %: replica lag 1.2s > 1s",
        );
        case.pause = Some(PauseNote {
            who: Some("ann@db-1".to_owned()),
            why: Some("backup".to_owned()),
            at: NOW,
            until: None,
        });
        says(&case, HeldBy::Pause, "paused by ann@db-1: backup");
    }

    #[test]
    fn a_batch_that_knows_no_further_page_waits_for_one() {
        let case = Case::of(batch(), 1);
        says(
            &case,
            HeldBy::Discovery,
            "waiting for the first page to tell where the next one starts",
        );
        let case = Case::of(batch(), 3);
        says(
            &case,
            HeldBy::Discovery,
            "waiting for the page after 2 to tell where the next one starts",
        );
    }
}
