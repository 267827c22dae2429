//! The options of a pause, and waiting until it takes effect.

use std::time::{Duration, SystemTime};

use super::{BatchHandle, BatchStatus, ControlError, ProgressError, ProgressSource};
use crate::{
    base::time::Timestamp,
    batch::validate::InvalidBatch,
    progress::{Progress, phase::Phase},
    protocol::PauseRequest,
};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// Interval between looks while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The options of [`BatchHandle::pause_with`].
///
/// | option | default | allowed |
/// |---|---|---|
/// | `reason` | none | one line; 500 characters are kept |
/// | `now` | off: running pages are finished | |
/// | `until` | until it is resumed | a time within the next 366 days |
/// | `lasting` | until it is resumed | 1 s to 366 days |
///
/// If both `until` and `lasting` are set, the last one applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PauseOptions {
    reason: Option<String>,
    now: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Until(Timestamp),
    Lasting(Duration),
}

/// # Construct
impl PauseOptions {
    /// A pause that lets running pages finish and lasts until it is resumed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the reason, which is shown to people who look at the batch.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        self.reason = (!reason.is_empty()).then_some(reason);
        self
    }

    /// Interrupts running pages where that is safe, which is where their effects and the record that they are
    /// done share one transaction.
    #[must_use]
    pub fn now(mut self) -> Self {
        self.now = true;
        self
    }

    /// Resumes automatically at this time.
    #[must_use]
    pub fn until(mut self, time: impl Into<Timestamp>) -> Self {
        self.end = Some(End::Until(time.into()));
        self
    }

    /// Resumes automatically after this time, counted from when the pause takes effect.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.end = Some(End::Lasting(duration));
        self
    }
}

/// # Inspect
impl PauseOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// The first option that is not allowed, with the allowed values.
    pub fn validate(&self) -> Result<(), ControlError> {
        self.validate_at(SystemTime::now().into())
    }

    fn validate_at(&self, now: Timestamp) -> Result<(), ControlError> {
        let lasts = match self.end {
            None => return Ok(()),
            Some(End::Until(until)) if until <= now => {
                return Err(ControlError::PauseIsOver { until, now });
            }
            // A pause until a certain time may be as short as it likes.
            Some(End::Until(until)) => until.since(now).max(SHORTEST),
            Some(End::Lasting(lasting)) => lasting,
        };
        if (SHORTEST..=LONGEST).contains(&lasts) {
            return Ok(());
        }
        Err(InvalidBatch::Lasts {
            what: "pause",
            given: lasts,
            min: SHORTEST,
            max: LONGEST,
        }
        .into())
    }

    pub(super) fn into_request(self) -> PauseRequest {
        PauseRequest {
            reason: self.reason,
            now: self.now,
            until: match self.end {
                Some(End::Until(until)) => Some(until),
                _ => None,
            },
            lasting: match self.end {
                Some(End::Lasting(lasting)) => Some(lasting),
                _ => None,
            },
            ..PauseRequest::default()
        }
    }
}

/// The wait for a pause ended without one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseWaitError {
    /// The batch ended first.
    #[error("batch \"{batch_id}\" is no longer running ({state})")]
    Ended {
        /// The id.
        batch_id: String,
        /// The state in which it ended.
        state: BatchStatus,
    },
    /// The batch continues: it was resumed, or the pause was over, before its last page had ended.
    #[error("batch \"{batch_id}\" was resumed before its running pages had ended")]
    Resumed {
        /// The id.
        batch_id: String,
    },
    /// The state of the batch could not be read.
    #[error(transparent)]
    Unknown(#[from] ProgressError),
}

/// # Wait
impl BatchHandle {
    /// Waits until the batch is paused and its last page has ended, and returns its progress. This also waits
    /// for a pause that is [queued](super::Steered::Queued), however long that takes. Use
    /// `tokio::time::timeout` to limit the wait.
    ///
    /// # Errors
    /// The batch ends or continues instead, does not exist, or the server does not answer.
    pub async fn wait_until_paused(&self) -> Result<Progress, PauseWaitError> {
        let mut pausing = false;
        loop {
            let seen = self.look().await?;
            if !seen.state.is_open() {
                return Err(PauseWaitError::Ended {
                    batch_id: seen.batch_id,
                    state: seen.state,
                });
            }
            // A snapshot may be from an earlier pause.
            let live = seen.source == Some(ProgressSource::Live);
            if let Some(progress) = seen.progress.filter(|_| live) {
                match progress.phase {
                    Phase::Paused => return Ok(progress),
                    Phase::Pausing => pausing = true,
                    Phase::Running | Phase::Held | Phase::Blocked | Phase::WaitingForStuckPages
                        if pausing =>
                    {
                        return Err(PauseWaitError::Resumed {
                            batch_id: seen.batch_id,
                        });
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_is_over_or_too_long_is_refused() {
        let now = Timestamp(1_000_000);
        let check = |options: PauseOptions| options.validate_at(now).map_err(|e| e.to_string());
        assert_eq!(check(PauseOptions::new().now().reason("r")), Ok(()));
        assert_eq!(
            check(PauseOptions::new().until(Timestamp(1_000_001))),
            Ok(())
        );
        assert_eq!(check(PauseOptions::new().lasting(SHORTEST)), Ok(()));
        let over = check(PauseOptions::new().until(now)).unwrap_err();
        assert!(over.contains("already be over"), "{over}");
        let far = Timestamp(now.0 + 367 * 86_400_000);
        for long in [
            PauseOptions::new().until(far),
            PauseOptions::new().lasting(LONGEST + SHORTEST),
            PauseOptions::new().lasting(Duration::ZERO),
        ] {
            let message = check(long).unwrap_err();
            assert!(message.contains("it must be from 1s to"), "{message}");
        }
    }

    #[test]
    fn of_two_ends_the_last_one_counts() {
        let hour = Duration::from_secs(3_600);
        let request = PauseOptions::new()
            .until(Timestamp(5))
            .lasting(hour)
            .into_request();
        assert_eq!((request.until, request.lasting), (None, Some(hour)));
        let request = PauseOptions::new()
            .lasting(hour)
            .until(Timestamp(5))
            .into_request();
        assert_eq!((request.until, request.lasting), (Some(Timestamp(5)), None));
    }
}
