//! The decision about a batch whose workflow task fails repeatedly. Pure: it uses neither a clock nor the
//! server.

use std::{fmt, time::Duration};

use crate::base::{error::truncate, time::Timestamp};

/// Number of failures that are significant. Temporal retries after a worker was lost or slow.
const TELLING: u32 = 3;
/// Number of timed-out tasks after which the cause may be a failure that was not reported. Workers report only
/// the first failure of a task.
const SILENT: u32 = 4;
/// Maximum number of recoveries of one run since its last continue-as-new.
const MOST: u32 = 5;
/// The wait between the first two recoveries, which doubles before each further one.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// Maximum length of a stored cause. The text that contains it is limited to 200 characters.
const MAX_CAUSE_CHARS: usize = 140;
/// The beginning of the reason of a recovery by the workers.
const BY_ITSELF: &str = "no worker could replay its history (recovery ";

/// The facts about a run whose workflow task fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standstill {
    /// The number of tasks that failed since the last successful one.
    pub failures: u32,
    pub cause: Cause,
    pub repeat: Repeat,
    /// The latest recovery of this run by the workers.
    pub before: Option<Recovered>,
    /// The time at which the task was last scheduled, by the server's clock.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Tasks timed out, and no worker has reported why.
    Silent,
    /// The code does not match the history.
    Unreplayable(String),
    /// Another cause, which a restart does not cure.
    Other,
}

impl Cause {
    pub fn unreplayable(message: &str) -> Self {
        Self::Unreplayable(truncate(message, MAX_CAUSE_CHARS))
    }
}

/// The permission to run pages again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Pages may run again, or none was dispatched yet.
    Allowed,
    AtMostOnce,
    /// The setting of the processor cannot be read.
    Unreadable,
}

/// A recovery by the workers, as recorded in Temporal's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    /// The number of recoveries so far, including this one.
    pub times: u32,
    pub cause: String,
    pub at: Timestamp,
}

impl Recovered {
    pub fn reason(&self) -> String {
        format!("{BY_ITSELF}{}): {}", self.times, self.cause)
    }

    /// Parses the reason of a recovery by the workers. Reasons of operators are not recognised.
    pub fn from_reason(reason: &str, at: Timestamp) -> Option<Self> {
        let (times, cause) = reason.strip_prefix(BY_ITSELF)?.split_once("): ")?;
        Some(Self {
            times: times.parse().ok()?,
            cause: cause.to_owned(),
            at,
        })
    }
}

/// The next step of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The worker looks again later.
    Wait,
    /// The worker makes the next failure be reported.
    HearWhy,
    Recover(Recovered),
    Leave(Remedy),
}

/// The way to end the standstill of a batch whose workflow task fails repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// The workers of the batch restart its current run themselves, as [`recover`](super::BatchHandle::recover)
    /// does.
    ByItself,
    /// Matching code must be deployed, or the cause is not the history.
    Deploy,
    /// The history cannot be replayed, and pages may run only once.
    AtMostOnce,
    /// The workers have restarted the run, and it fails again for the same cause.
    FailsAgain,
    /// The workers have restarted the run several times and have stopped trying.
    TooOften,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByItself => {
                f.write_str("its history cannot be replayed: its workers will restart its current run by themselves")
            }
            Self::Deploy => f.write_str(
                "the log of its workers says why: deploy code that can continue it, or restart its current run \
                 (see `recover`)",
            ),
            Self::AtMostOnce => f.write_str(
                "its history cannot be replayed, and its pages may run only once, so its workers do not restart it: \
                 deploy the code that wrote the history, or find out which pages have had their effect and restart \
                 its current run (see `recover --force`)",
            ),
            Self::FailsAgain => f.write_str(
                "its workers have restarted its current run, and it fails for the same cause: deploy code that can \
                 continue it, and restart its run if that is not enough (see `recover`)",
            ),
            Self::TooOften => write!(
                f,
                "its workers have restarted its current run {MOST} times and have stopped trying: the log of its \
                 workers says why; deploy code that can continue it, or restart its run (see `recover`)"
            ),
        }
    }
}

impl Standstill {
    pub fn next(&self) -> Next {
        let cause = match &self.cause {
            Cause::Silent if self.failures >= SILENT => return Next::HearWhy,
            _ if self.failures < TELLING => return Next::Wait,
            Cause::Silent => return Next::Wait,
            Cause::Other => return Next::Leave(Remedy::Deploy),
            Cause::Unreplayable(cause) => cause,
        };
        if self.repeat != Repeat::Allowed {
            return Next::Leave(Remedy::AtMostOnce);
        }
        let times = match &self.before {
            None => 1,
            Some(before) if before.cause == *cause => return Next::Leave(Remedy::FailsAgain),
            Some(before) if before.times >= MOST => return Next::Leave(Remedy::TooOften),
            Some(before) if self.at.since(before.at) < wait(before.times) => return Next::Wait,
            Some(before) => before.times + 1,
        };
        Next::Recover(Recovered {
            times,
            cause: cause.clone(),
            at: self.at,
        })
    }

    pub fn remedy(&self) -> Remedy {
        match (self.next(), &self.cause) {
            (Next::Leave(remedy), _) => remedy,
            (_, Cause::Unreplayable(_)) => Remedy::ByItself,
            _ => Remedy::Deploy,
        }
    }
}

fn wait(times: u32) -> Duration {
    FIRST_WAIT * 2_u32.pow(times.clamp(1, MOST) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standstill(change: impl FnOnce(&mut Standstill)) -> Standstill {
        let mut standstill = Standstill {
            failures: TELLING,
            cause: Cause::unreplayable("event 183"),
            repeat: Repeat::Allowed,
            before: None,
            at: Timestamp(1_000_000),
        };
        change(&mut standstill);
        standstill
    }

    fn recovered(times: u32, cause: &str, ago: Duration) -> Option<Recovered> {
        let ago = u64::try_from(ago.as_millis()).unwrap();
        Some(Recovered {
            times,
            cause: cause.to_owned(),
            at: Timestamp(1_000_000 - ago),
        })
    }

    #[test]
    fn a_history_that_cannot_be_replayed_is_recovered_from_once_that_is_certain() {
        let Next::Recover(first) = standstill(|_| {}).next() else {
            panic!("it is certain");
        };
        assert_eq!((first.times, first.cause.as_str()), (1, "event 183"));
        assert_eq!(standstill(|s| s.failures = TELLING - 1).next(), Next::Wait);
    }

    #[test]
    fn another_cause_is_left_to_people() {
        let other = standstill(|s| s.cause = Cause::Other);
        assert_eq!(other.next(), Next::Leave(Remedy::Deploy));
        let silent = |failures| {
            standstill(|s| {
                s.cause = Cause::Silent;
                s.failures = failures;
            })
        };
        // A machine that is too busy looks the same.
        assert_eq!(silent(SILENT - 1).next(), Next::Wait);
        assert_eq!(silent(SILENT).next(), Next::HearWhy);
        assert_eq!(silent(SILENT).remedy(), Remedy::Deploy);
    }

    #[test]
    fn pages_that_may_run_once_only_are_left_to_people() {
        for repeat in [Repeat::AtMostOnce, Repeat::Unreadable] {
            let left = standstill(|s| s.repeat = repeat);
            assert_eq!(left.next(), Next::Leave(Remedy::AtMostOnce), "{repeat:?}");
        }
        assert!(Remedy::AtMostOnce.to_string().contains("`recover --force`"));
    }

    #[test]
    fn one_cause_is_cured_once() {
        let long_ago = Duration::from_secs(900);
        let again = standstill(|s| s.before = recovered(1, "event 183", long_ago));
        assert_eq!(again.next(), Next::Leave(Remedy::FailsAgain));
        let another = standstill(|s| s.before = recovered(1, "event 97", long_ago));
        assert!(matches!(another.next(), Next::Recover(next) if next.times == 2));
    }

    #[test]
    fn further_causes_wait_longer_and_longer_and_come_to_an_end() {
        let after = |times, seconds| {
            let ago = Duration::from_secs(seconds);
            standstill(|s| s.before = recovered(times, "event 97", ago)).next()
        };
        for (times, seconds) in [(1, 30), (2, 60), (3, 120), (4, 240)] {
            assert_eq!(after(times, seconds - 1), Next::Wait, "{times}");
            assert!(matches!(after(times, seconds), Next::Recover(_)), "{times}");
        }
        assert_eq!(after(MOST, 900), Next::Leave(Remedy::TooOften));
        let waits = standstill(|s| s.before = recovered(1, "event 97", Duration::ZERO));
        assert_eq!(waits.remedy(), Remedy::ByItself);
    }

    #[test]
    fn a_reason_tells_what_was_cured() {
        let cause = "x".repeat(2 * MAX_CAUSE_CHARS);
        let Cause::Unreplayable(cause) = Cause::unreplayable(&cause) else {
            panic!("it was made so");
        };
        let recovered = Recovered {
            times: MOST,
            cause,
            at: Timestamp(7),
        };
        let reason = recovered.reason();
        assert!(reason.len() <= 200, "the audit keeps 200 characters");
        let read = Recovered::from_reason(&reason, Timestamp(7));
        assert_eq!(read, Some(recovered));
        for foreign in ["workers froze", "", BY_ITSELF] {
            assert_eq!(Recovered::from_reason(foreign, Timestamp(7)), None);
        }
    }
}
