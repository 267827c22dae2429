//! The state of one throttle, derived from its answers and failures. Pure: times are arguments, counted from a
//! fixed moment.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use super::Verdict;
use crate::base::error::{MAX_MESSAGE_CHARS, truncate};

/// Minimum time between warnings about a failing throttle that no longer holds its batches.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// The verdict of one throttle, as seen by its listeners.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub verdict: Verdict,
    /// True if the verdict was substituted because the throttle fails.
    pub failing: bool,
    /// True if the throttle has answered or failed since polling started, or has been silent for too long.
    pub settled: bool,
}

/// An event to be logged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Fails { error: String },
    LetsGo { failures: u64, error: String },
    Recovered { failures: u64 },
}

/// The state of a throttle, derived from its answers.
#[derive(Debug)]
pub(crate) struct ThrottleState {
    name: String,
    interval: Duration,
    hold: Duration,
    state: State,
    /// The end of the last call.
    asked_at: Option<Duration>,
}

#[derive(Debug)]
enum State {
    Silent {
        since: Duration,
    },
    Answers(Verdict),
    Fails {
        /// The time since which an answer is missing.
        since: Duration,
        failures: u64,
        error: String,
        warn_at: Duration,
    },
}

impl ThrottleState {
    pub fn new(name: &str, interval: Duration, hold: Duration) -> Self {
        Self {
            name: name.to_owned(),
            interval,
            hold,
            state: State::Silent {
                since: Duration::ZERO,
            },
            asked_at: None,
        }
    }

    /// Starts the polling, and returns when the next call is due. The previous state is reused while it is
    /// fresh: an answer for one interval, and a failure for as long as it holds. Otherwise every page that
    /// comes and goes would be held again.
    pub fn starts(&mut self, now: Duration) -> Duration {
        if let Some(at) = self.asked_at {
            let ago = now.saturating_sub(at);
            let fresh = match self.state {
                State::Silent { .. } => false,
                State::Answers(_) => ago < self.interval,
                State::Fails { .. } => ago < self.hold.max(self.interval),
            };
            if fresh {
                return at.saturating_add(self.interval);
            }
        }
        self.state = State::Silent { since: now };
        now
    }

    /// Records the answer of a call.
    pub fn answered(&mut self, answer: Result<Verdict, String>, now: Duration) -> Option<Event> {
        self.asked_at = Some(now);
        match answer.and_then(valid) {
            Ok(verdict) => {
                let before = std::mem::replace(&mut self.state, State::Answers(verdict));
                match before {
                    State::Fails { failures, .. } => Some(Event::Recovered { failures }),
                    State::Silent { .. } | State::Answers(_) => None,
                }
            }
            Err(latest) => {
                let latest = truncate(&latest, MAX_MESSAGE_CHARS);
                let since = match &mut self.state {
                    State::Fails {
                        failures, error, ..
                    } => {
                        *failures += 1;
                        *error = latest;
                        return None;
                    }
                    State::Silent { since } => *since,
                    State::Answers(_) => now,
                };
                self.fails(since, 1, latest.clone());
                Some(Event::Fails { error: latest })
            }
        }
    }

    fn fails(&mut self, since: Duration, failures: u64, error: String) {
        self.state = State::Fails {
            since,
            failures,
            error,
            warn_at: since.saturating_add(self.hold),
        };
    }

    /// Returns the time at which [`wakes`](Self::wakes) is due.
    pub fn wakes_at(&self) -> Option<Duration> {
        match &self.state {
            State::Silent { since } => Some(since.saturating_add(self.hold)),
            State::Answers(_) => None,
            State::Fails { warn_at, .. } => Some(*warn_at),
        }
    }

    /// Records that time has passed.
    pub fn wakes(&mut self, now: Duration) -> Option<Event> {
        if self.wakes_at().is_none_or(|at| now < at) {
            return None;
        }
        if let State::Silent { since } = self.state {
            self.fails(since, 0, "no answer yet".to_owned());
        }
        let State::Fails {
            failures,
            error,
            warn_at,
            ..
        } = &mut self.state
        else {
            return None;
        };
        *warn_at = now.saturating_add(self.hold.max(WARN_AGAIN));
        Some(Event::LetsGo {
            failures: *failures,
            error: error.clone(),
        })
    }

    pub fn said(&self, now: Duration) -> Said {
        let name = &self.name;
        let (since, reason, failing) = match &self.state {
            State::Answers(verdict) => {
                return Said {
                    verdict: verdict.clone(),
                    failing: false,
                    settled: true,
                };
            }
            State::Silent { since } => {
                let reason = format!("throttle {name} has not answered yet");
                (*since, reason, false)
            }
            State::Fails { since, error, .. } => {
                (*since, format!("throttle {name} fails: {error}"), true)
            }
        };
        if now < since.saturating_add(self.hold) {
            Said {
                verdict: Verdict::Hold { reason },
                failing,
                settled: failing,
            }
        } else {
            Said {
                verdict: Verdict::Go,
                failing: true,
                settled: true,
            }
        }
    }
}

fn valid(verdict: Verdict) -> Result<Verdict, String> {
    let short = |reason: String| truncate(&reason, MAX_MESSAGE_CHARS);
    match verdict {
        Verdict::Go => Ok(Verdict::Go),
        Verdict::Hold { reason } => Ok(Verdict::Hold {
            reason: short(reason),
        }),
        Verdict::Slow { factor, reason } if factor > 0.0 && factor < 1.0 => Ok(Verdict::Slow {
            factor,
            reason: short(reason),
        }),
        Verdict::Slow { factor, .. } => Err(format!("factor {factor} is not between 0 and 1")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn standing() -> ThrottleState {
        let mut standing = ThrottleState::new("db", INTERVAL, HOLD);
        standing.starts(Duration::ZERO);
        standing
    }

    fn hold(reason: &str) -> Verdict {
        Verdict::Hold {
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_failing_throttle_holds_then_lets_go_and_says_so_again_and_again() {
        let mut db = standing();
        assert_eq!(
            db.said(seconds(0)).verdict,
            hold("throttle db has not answered yet")
        );
        assert!(!db.said(seconds(0)).settled);
        assert_eq!(db.answered(Ok(Verdict::Go), seconds(1)), None);
        let fails = db.answered(Err("gone".to_owned()), seconds(10));
        let error = "gone".to_owned();
        assert_eq!(
            fails,
            Some(Event::Fails {
                error: error.clone()
            })
        );
        for second in 11..70 {
            assert_eq!(db.answered(Err("gone".to_owned()), seconds(second)), None);
            assert_eq!(db.wakes(seconds(second)), None);
            let said = db.said(seconds(second));
            assert_eq!(said.verdict, hold("throttle db fails: gone"));
            assert!(said.failing && said.settled);
        }
        assert_eq!(db.wakes_at(), Some(seconds(70)));
        let lets_go = Event::LetsGo {
            failures: 60,
            error: error.clone(),
        };
        assert_eq!(db.wakes(seconds(70)), Some(lets_go));
        let said = db.said(seconds(70));
        assert_eq!((said.verdict, said.failing), (Verdict::Go, true));
        assert_eq!(db.answered(Err("gone".to_owned()), seconds(100)), None);
        assert_eq!(db.wakes(seconds(129)), None);
        let lets_go = Event::LetsGo {
            failures: 61,
            error,
        };
        assert_eq!(db.wakes(seconds(130)), Some(lets_go));
        let back = db.answered(Ok(hold("lag")), seconds(131));
        assert_eq!(back, Some(Event::Recovered { failures: 61 }));
        let said = db.said(seconds(131));
        assert_eq!((said.verdict, said.failing), (hold("lag"), false));
    }

    #[test]
    fn a_throttle_that_never_answers_lets_go() {
        let mut db = standing();
        assert_eq!(db.wakes(seconds(59)), None);
        assert!(matches!(
            db.wakes(seconds(60)),
            Some(Event::LetsGo { failures: 0, .. })
        ));
        let said = db.said(seconds(60));
        assert_eq!(
            (said.verdict, said.failing, said.settled),
            (Verdict::Go, true, true)
        );
    }

    #[test]
    fn a_factor_that_is_none_is_a_failure() {
        for factor in [f64::NAN, 0.0, -1.0, 1.0, f64::INFINITY] {
            let mut db = standing();
            let reason = String::new();
            db.answered(Ok(Verdict::Slow { factor, reason }), seconds(1));
            let said = db.said(seconds(1));
            let expected = format!("throttle db fails: factor {factor} is not between 0 and 1");
            assert_eq!((said.verdict, said.failing), (hold(&expected), true));
        }
    }

    #[test]
    fn what_is_known_outlives_a_short_time_without_listeners() {
        let mut db = standing();
        db.answered(Ok(Verdict::Go), seconds(5));
        let soon = seconds(5) + INTERVAL / 2;
        assert_eq!(db.starts(soon), seconds(6), "asked once an interval");
        assert!(db.said(soon).settled);
        assert_eq!(db.starts(seconds(6)), seconds(6));
        assert!(!db.said(seconds(6)).settled, "an old answer says nothing");

        db.answered(Err("gone".to_owned()), seconds(10));
        db.starts(seconds(69));
        db.answered(Err("gone".to_owned()), seconds(69));
        db.starts(seconds(75));
        assert_eq!(db.said(seconds(75)).verdict, Verdict::Go, "not held again");
        db.starts(seconds(130));
        assert!(!db.said(seconds(130)).settled);
    }

    fn answer() -> impl Strategy<Value = Result<Verdict, String>> {
        prop_oneof![
            3 => Just(Err("gone".to_owned())),
            1 => Just(Ok(Verdict::Go)),
            1 => Just(Ok(hold("lag"))),
            1 => (-1.0..2.0f64).prop_map(|factor| Ok(Verdict::Slow { factor, reason: "slow".to_owned() })),
        ]
    }

    proptest! {
        /// A model that knows only the time of the last good answer and the failures since.
        #[test]
        fn failing_holds_for_a_bounded_time_and_a_good_answer_counts_at_once(
            steps in prop::collection::vec((0u64..30_000, answer()), 1..60),
            hold_millis in 0u64..90_000,
        ) {
            let limit = Duration::from_millis(hold_millis);
            let mut standing = ThrottleState::new("db", INTERVAL, limit);
            standing.starts(Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut owes_since = Some(Duration::ZERO);
            let mut failures = 0;
            for (wait, answer) in steps {
                // Waking later makes no difference to the verdict.
                let later = now + Duration::from_millis(wait);
                if let Some(since) = owes_since {
                    for at in [now, later, since + limit, since + limit + Duration::from_nanos(1)] {
                        if at >= now && at <= later {
                            let held = standing.said(at).verdict.factor() == 0.0;
                            prop_assert_eq!(held, at < since + limit);
                        }
                    }
                }
                now = later;
                standing.wakes(now);
                let good = match &answer {
                    Ok(Verdict::Slow { factor, .. }) => *factor > 0.0 && *factor < 1.0,
                    Ok(_) => true,
                    Err(_) => false,
                };
                let event = standing.answered(answer.clone(), now);
                let said = standing.said(now);
                prop_assert!(said.settled);
                prop_assert_eq!(said.failing, !good);
                if good {
                    prop_assert_eq!(Ok(said.verdict), answer);
                    if failures > 0 {
                        prop_assert_eq!(event, Some(Event::Recovered { failures }));
                    }
                    owes_since = None;
                    failures = 0;
                } else {
                    failures += 1;
                    owes_since = owes_since.or(Some(now));
                }
            }
        }

        #[test]
        fn waking_is_never_due_at_once_again(
            steps in prop::collection::vec((0u64..90_000, prop::option::of(answer())), 1..60),
            hold_millis in 0u64..90_000,
        ) {
            let mut standing = ThrottleState::new("db", INTERVAL, Duration::from_millis(hold_millis));
            standing.starts(Duration::ZERO);
            let mut now = Duration::ZERO;
            for (wait, answer) in steps {
                now += Duration::from_millis(wait);
                if let Some(answer) = answer {
                    standing.answered(answer, now);
                }
                standing.wakes(now);
                prop_assert!(standing.wakes_at().is_none_or(|at| at > now));
            }
        }
    }
}
