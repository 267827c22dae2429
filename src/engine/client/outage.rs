//! Outages of the server: the definition of an outage, and the loop that repeats a call until its end.

use std::{
    error::Error,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use temporalio_client::tonic::Code;

use crate::base::{error::text::status_of, text::exactly};

/// Time limit of an outage: long enough to replace or restore a server, short enough for an unattended script.
pub(crate) const OUTAGE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The first wait. Before it, the SDK has already retried for up to 10 s.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The outage as known to a client and its handles. It is shared so that an outage is logged once.
#[derive(Clone, Debug)]
pub(crate) struct Outages {
    timeout: Duration,
    /// The time since which no call was answered.
    since: Arc<Mutex<Option<Instant>>>,
}

impl Default for Outages {
    fn default() -> Self {
        Self::new(OUTAGE_TIMEOUT)
    }
}

impl Outages {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            since: Arc::default(),
        }
    }

    /// Repeats a call until the server answers, with whatever result, or the outage has lasted too long.
    pub(crate) async fn through<T, E, C>(&self, mut call: impl FnMut() -> C) -> Result<T, E>
    where
        E: Error + 'static,
        C: Future<Output = Result<T, E>>,
    {
        let mut wait = FIRST_WAIT;
        loop {
            let answer = call().await;
            if !answer.as_ref().is_err_and(|error| is_outage(error)) {
                self.answered();
                return answer;
            }
            let Some(left) = self.left() else {
                return answer;
            };
            drop(answer);
            // The jitter keeps clients that follow many batches from returning all at once.
            tokio::time::sleep(wait.mul_f64(jitter()).min(left)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Returns the remaining time for retries.
    fn left(&self) -> Option<Duration> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let began = *since.get_or_insert_with(|| {
            tracing::warn!(
                "Temporal has not answered since {}; trying again, giving up after {}",
                humantime::format_rfc3339_seconds(SystemTime::now()),
                exactly(self.timeout)
            );
            Instant::now()
        });
        let left = self.timeout.checked_sub(began.elapsed());
        left.filter(|left| !left.is_zero())
    }

    /// Records that the server has answered a call.
    pub(crate) fn answered(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(began) = since.take() {
            let away = Duration::from_secs(began.elapsed().as_secs());
            let away = exactly(away);
            tracing::warn!("Temporal answers again, after {away}");
        }
    }
}

/// Returns a random factor from 0.5 to 1.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    0.5 + f64::from(random) / 510.0
}

/// Returns whether an error means that the server cannot be reached or does not answer, rather than being its
/// answer.
pub(crate) fn is_outage(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(status) = status_of(error) {
            return match status.code() {
                // Only the SDK cancels calls or limits their time.
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
                // A status from the server has no source. A status with a source stems from a broken
                // connection.
                Code::Unknown | Code::Internal => status.source().is_some(),
                _ => false,
            };
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use temporalio_client::{
        errors::{WorkflowGetResultError, WorkflowInteractionError},
        tonic::Status,
    };

    use temporalio_client::errors::WorkflowStartError;

    use super::*;
    use crate::engine::client::{ProgressError, ResultError, StartError};

    fn broken(code: Code) -> Status {
        let mut status = Status::new(code, "the connection broke");
        status.set_source(Arc::new(std::io::Error::other("reset")));
        status
    }

    #[test]
    fn an_outage_is_known_from_an_answer_in_every_error_that_has_one() {
        for (status, outage) in [
            (Status::unavailable("refused"), true),
            (Status::deadline_exceeded("stalled"), true),
            (Status::cancelled("going away"), true),
            (broken(Code::Unknown), true),
            (broken(Code::Internal), true),
            (Status::unknown("a fault of the server"), false),
            (Status::internal("a fault of the server"), false),
            (Status::not_found("no such batch"), false),
            (Status::permission_denied("not yours"), false),
            (Status::resource_exhausted("too large"), false),
        ] {
            let described = ProgressError::Server {
                source: WorkflowInteractionError::Rpc(status.clone()).into(),
            };
            let ended = ResultError::Server {
                source: WorkflowGetResultError::Rpc(status.clone()).into(),
            };
            let started = StartError::Server {
                source: WorkflowStartError::Rpc(status.clone()).into(),
            };
            let errors: [&(dyn Error + 'static); 4] = [&status, &described, &ended, &started];
            for error in errors {
                assert_eq!(is_outage(error), outage, "{error:?}");
            }
        }
        assert!(!is_outage(&std::io::Error::other("not of the server")));
    }

    #[tokio::test]
    async fn waits_grow_and_end_with_the_answer_whatever_it_is() {
        let outages = Outages::default();
        let tried = Cell::new(Vec::new());
        let began = tokio::time::Instant::now();
        let answer = outages.through(|| {
            let mut times = tried.take();
            times.push(began.elapsed());
            let away = times.len() < 4;
            tried.set(times);
            async move {
                match away {
                    true => Err::<(), _>(Status::unavailable("refused")),
                    false => Err(Status::not_found("no such batch")),
                }
            }
        });
        assert_eq!(answer.await.unwrap_err().code(), Code::NotFound);
        let times = tried.take();
        for (n, pair) in times.windows(2).enumerate() {
            let longest = FIRST_WAIT * 2_u32.pow(n.try_into().unwrap());
            let waited = pair[1] - pair[0];
            assert!(waited >= longest / 2, "{times:?}");
        }
        assert!(outages.since.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn after_one_call_gave_up_the_others_do_not_wait_until_one_is_answered() {
        let outages = Outages::new(Duration::ZERO);
        let tries = Cell::new(0);
        let away = || {
            tries.set(tries.get() + 1);
            async { Err::<(), _>(Status::unavailable("refused")) }
        };
        assert!(outages.through(away).await.is_err());
        assert!(outages.clone().through(away).await.is_err());
        assert_eq!(tries.get(), 2);
        let answer = outages.through(|| async { Ok::<_, Status>(1) }).await;
        assert_eq!(answer.unwrap(), 1);
        assert!(outages.since.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn an_outage_counts_from_the_last_answer_to_any_call() {
        let outages = Outages::new(Duration::from_millis(600));
        let tries = Cell::new(0);
        let answer = outages.through(|| {
            tries.set(tries.get() + 1);
            let (tries, outages) = (tries.get(), &outages);
            async move {
                if tries == 2 {
                    // With the earlier wait, this is as long as the whole time limit.
                    tokio::time::sleep(Duration::from_millis(600)).await;
                    outages.answered();
                }
                match tries {
                    1 | 2 => Err(Status::unavailable("refused")),
                    _ => Ok(()),
                }
            }
        });
        assert!(answer.await.is_ok());
    }
}
