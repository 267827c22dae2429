//! Telling requesters the outcomes of their requests.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowSignalOptions, errors::WorkflowInteractionError,
};
use temporalio_common::SignalDefinition;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::progress::Told;
use crate::{
    protocol::{self, ConfirmReport},
    request::Confirmation,
};

/// Signals to requesters that are under way at the same time.
const SIGNALS_AT_ONCE: usize = 16;
/// Longest time for one signal. A call that hangs must not keep a run from its end.
const LONGEST_SIGNAL: Duration = Duration::from_secs(3);
/// Longest time for all of them, after which the rest counts as not reached. A run that is to end waits longer for its
/// calls, so the next run tells only those who were not reached.
const LONGEST_CALL: Duration = Duration::from_secs(15);
/// Waits before requesters that could not be told are told again.
pub(super) const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(800),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Tells the requesters that `told` does not list, and lists those that were told. Some that cannot be told are told again.
pub(super) async fn confirm_all<T, F, E>(
    all: &[T],
    told: &Mutex<Told>,
    pauses: &[Duration],
    tell: impl Fn(&T) -> F,
) -> ConfirmReport
where
    F: Future<Output = Result<bool, E>>,
    E: Display,
{
    let deadline = Instant::now() + LONGEST_CALL;
    let mut pauses = pauses.iter();
    loop {
        let left = lock(told).left(all.len());
        let round = async {
            let mut calls = futures::stream::iter(left)
                .map(|at| {
                    let call = timeout(LONGEST_SIGNAL, tell(&all[at]));
                    async move { (at, call.await) }
                })
                .buffer_unordered(SIGNALS_AT_ONCE);
            while let Some((at, result)) = calls.next().await {
                match result {
                    Ok(Ok(true)) => lock(told).confirmed.push(position(at)),
                    Ok(Ok(false)) => lock(told).gone.push(position(at)),
                    Ok(Err(error)) => tracing::warn!(%error, "a requester could not be told"),
                    Err(_) => {
                        tracing::warn!("a requester could not be told within {LONGEST_SIGNAL:?}");
                    }
                }
            }
        };
        let is_late = timeout_at(deadline, round).await.is_err();
        let unreached = lock(told).left(all.len());
        match pauses.next() {
            Some(pause) if !unreached.is_empty() && !is_late => sleep(*pause).await,
            _ => {
                let told = lock(told);
                return ConfirmReport {
                    confirmed: told.confirmed.len() as u64,
                    gone: told.gone.len() as u64,
                    unreached: unreached.into_iter().map(position).collect(),
                };
            }
        }
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    // No code that holds the lock can panic in the middle of a change.
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn position(at: usize) -> u32 {
    u32::try_from(at).expect("a call tells some hundred requesters")
}

/// The signal that confirms a request, for a workflow of any type.
struct Confirmed;

impl SignalDefinition for Confirmed {
    type Workflow = UntypedWorkflow;
    type Input = Confirmation;

    fn name(&self) -> &str {
        protocol::CONFIRMED
    }
}

/// Tells a requester. Returns false if it is gone.
pub(super) async fn tell(
    client: &Client,
    to: String,
    confirmation: Confirmation,
) -> Result<bool, WorkflowInteractionError> {
    // By its workflow id alone: the requester may have continued as new.
    let requester = client.get_workflow_handle::<UntypedWorkflow>(to);
    let options = WorkflowSignalOptions::default();
    match requester.signal(Confirmed, confirmation, options).await {
        Ok(()) => Ok(true),
        Err(WorkflowInteractionError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells ten requesters. Returns the report, and how often each was told.
    fn run(
        told: &Mutex<Told>,
        tell: impl Fn(usize, usize) -> Result<bool, String>,
    ) -> (ConfirmReport, Vec<usize>) {
        let all: Vec<usize> = (0..10).collect();
        let times = Mutex::new(vec![0; 10]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let report = runtime.block_on(confirm_all(&all, told, &[Duration::ZERO; 4], |at| {
            let mut times = times.lock().unwrap();
            times[*at] += 1;
            std::future::ready(tell(*at, times[*at]))
        }));
        (report, times.into_inner().unwrap())
    }

    #[test]
    fn only_those_who_were_not_reached_are_told_again() {
        let told = Mutex::default();
        let (report, times) = run(&told, |at, time| match (at, time) {
            (3, _) => Ok(false),
            (5, 1 | 2) | (7, _) => Err("busy".to_owned()),
            _ => Ok(true),
        });
        let expected = ConfirmReport {
            confirmed: 8,
            gone: 1,
            unreached: vec![7],
        };
        assert_eq!(report, expected);
        assert_eq!(times, [1, 1, 1, 1, 1, 3, 1, 5, 1, 1]);
    }

    /// The worker of the attempt before was lost.
    #[test]
    fn those_whom_an_earlier_attempt_has_told_are_not_told_again() {
        let told = Mutex::new(Told {
            confirmed: vec![0, 1, 2],
            gone: vec![9],
        });
        let (report, times) = run(&told, |_, _| Ok(true));
        assert_eq!((report.confirmed, report.gone), (9, 1));
        assert_eq!(times, [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]);
    }
}
