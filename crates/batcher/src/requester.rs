//! Submitting from a workflow, which waits until its request is confirmed.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    collections::BTreeMap,
    pin::pin,
    task::Poll,
    time::{Duration, SystemTime},
};

use temporal_batch::Timestamp;
use temporalio_common::{RetryPolicy, error::IncomingError};
use temporalio_sdk::{
    ActivityCloseTimeouts, ActivityExecutionError, ActivityOptions, CancellableFuture as _,
    TimerOptions, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowSignalError,
};
use temporalio_workflow::workflows::WorkflowImplementation;

use crate::{
    batcher::{Batcher, InvalidBatcher},
    protocol::{NOT_SUBMITTED, Submission, SubmitOrder},
    request::{Confirmation, Outcome, Refusal, Request},
    workflow::{ActivityDefs, BatcherWorkflow},
};

/// How often a submission is repeated that the server did not accept.
const SUBMIT_ATTEMPTS: u32 = 5;
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of the largest request that a workflow sends by a signal of its own. Temporal takes 10,000 signals for a run, so
/// these alone never make a history of 50 MB. A larger request goes by the activity, which looks at the history first.
const SIGNALLED_BYTES: usize = 1024;

/// The confirmations that a workflow waits for. Keep one in the workflow, and give it each signal named
/// [`CONFIRMED`](crate::CONFIRMED).
#[derive(Clone, Debug, Default)]
pub struct Confirmations {
    waiting: BTreeMap<String, Waiting>,
}

/// A submission that is not confirmed yet, or whose confirmation was not read yet.
#[derive(Clone, Debug)]
struct Waiting {
    number: u64,
    outcome: Option<Outcome>,
}

impl Confirmations {
    /// Records a confirmation. One that the workflow does not wait for, or no longer, is ignored: an earlier submission of
    /// the request may have been refused, and this one taken.
    pub fn hear(&mut self, confirmation: Confirmation) {
        let waiting = self.waiting.get_mut(&confirmation.request_id);
        if let Some(waiting) = waiting.filter(|w| w.number == confirmation.submission) {
            // The first confirmation counts: a repeated one says the same.
            waiting.outcome.get_or_insert(confirmation.outcome);
        }
    }

    fn wait_for(&mut self, request_id: String, number: u64) {
        let outcome = None;
        self.waiting.insert(request_id, Waiting { number, outcome });
    }

    fn outcome(&self, request_id: &str) -> Option<&Outcome> {
        let waiting = self.waiting.get(request_id)?;
        waiting.outcome.as_ref()
    }
}

/// A workflow that submits requests.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch_batcher::{
///     Batcher, CONFIRMED, Confirmation, Confirmations, Request, Requester, submit,
/// };
/// use temporalio_sdk::{SyncWorkflowContext, WorkflowContext, WorkflowResult};
///
/// #[temporalio_macros::workflow]
/// #[derive(Default)]
/// struct PlaceOrder(Confirmations);
///
/// impl Requester for PlaceOrder {
///     fn confirmations(&self) -> &Confirmations {
///         &self.0
///     }
///
///     fn confirmations_mut(&mut self) -> &mut Confirmations {
///         &mut self.0
///     }
/// }
///
/// #[temporalio_macros::workflow_methods]
/// impl PlaceOrder {
///     #[run(name = "place-order")]
///     async fn run(ctx: &mut WorkflowContext<Self>, total: i64) -> WorkflowResult<String> {
///         let batcher = Batcher::new("orders", "order-rows", "batcher-queue");
///         // The workflow id is the same after a retry, a reset and a continue-as-new.
///         let request = Request::new(ctx.workflow_id(), serde_json::json!({ "total": total }));
///         let answer = match submit(ctx, &batcher, request, Duration::from_secs(120)).await {
///             Ok(_) => "placed".to_owned(),
///             Err(error) => error.to_string(),
///         };
///         Ok(answer)
///     }
///
///     #[signal(name = CONFIRMED)]
///     fn confirmed(&mut self, _ctx: &mut SyncWorkflowContext<Self>, confirmation: Confirmation) {
///         self.0.hear(confirmation);
///     }
/// }
/// ```
pub trait Requester {
    /// Returns the confirmations that the workflow keeps.
    fn confirmations(&self) -> &Confirmations;

    /// Returns the confirmations that the workflow keeps, to change them.
    fn confirmations_mut(&mut self) -> &mut Confirmations;
}

/// A workflow's request was not written, or it is unknown whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// A setting of the batcher is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidBatcher),
    /// The request could not be delivered to the batcher, so it will not be written.
    #[error("the request could not be submitted: {message}")]
    SubmitFailed {
        /// The error.
        message: String,
    },
    /// The server may have the submission or not, so the request may be written: submit it again with the same id to find
    /// out.
    #[error("it is unknown whether the request was submitted: {message}")]
    SubmitUnknown {
        /// The error.
        message: String,
    },
    /// The batcher holds the request already, and has no room for one more workflow to tell: submit it again later.
    #[error("the request was submitted before and is pending; submit it again later to find out")]
    Pending,
    /// The batcher did not take this submission. An earlier one with the same id may still be written, after a
    /// `ConfirmationTimeout` for instance. [`Refusal::Full`] passes: submit again later.
    #[error("the request was refused: {0}")]
    Refused(Refusal),
    /// The batcher could not write the request. It is a dead letter now.
    #[error("the request was not written: {error_type}: {message}")]
    WriteFailed {
        /// The type of the error.
        error_type: String,
        /// The error.
        message: String,
    },
    /// There was no confirmation in time. The request may have been written, or be written later: submit it again with
    /// the same id to find out.
    #[error("the request was not confirmed within {after:?}; its outcome is unknown")]
    ConfirmationTimeout {
        /// The time.
        after: Duration,
    },
    /// The workflow was cancelled while it waited. The outcome is unknown.
    #[error("the workflow was cancelled before its request was confirmed; its outcome is unknown")]
    Cancelled,
}

/// Submits a request and waits for its confirmation, both together for at most `timeout`. Returns true if the request was
/// written now, false if it had been written before.
///
/// 1. The request is sent to its shard by a signal. If the shard does not run, or the request is larger than 1 KiB, the
///    activity of [`SubmitActivities`](crate::SubmitActivities), which the workflow's own worker must have, submits it.
/// 2. The shard writes the request with others, and confirms it by a signal.
///
/// Two calls in a workflow may wait at the same time, if their requests have different ids.
///
/// # Errors
/// See [`SubmitError`]. After `ConfirmationTimeout`, `Cancelled`, `SubmitUnknown` and `Pending` the request may be written. After
/// the other errors this submission leads to no write.
pub async fn submit<W>(
    ctx: &WorkflowContext<W>,
    batcher: &Batcher,
    request: Request,
    timeout: Duration,
) -> Result<bool, SubmitError>
where
    W: Requester + WorkflowImplementation,
{
    batcher.validate()?;
    batcher
        .check_request(&request)
        .map_err(SubmitError::Refused)?;
    let id = request.id.clone();
    let began = ctx.workflow_time();
    let number = number(began);
    // Delivering takes a part of the time. Temporal has no timer and no activity without any time.
    let left = || {
        let passed = began
            .zip(ctx.workflow_time())
            .and_then(|(began, now)| now.duration_since(began).ok());
        timeout
            .saturating_sub(passed.unwrap_or_default())
            .max(Duration::from_millis(1))
    };
    ctx.state_mut(|w| w.confirmations_mut().wait_for(id.clone(), number));
    let outcome = match deliver(ctx, batcher, request, number, left).await {
        Ok(()) => confirmation(ctx, &id, left()).await,
        Err(error) => Err(error),
    };
    ctx.state_mut(|w| w.confirmations_mut().waiting.remove(&id));
    match outcome? {
        None => Err(SubmitError::ConfirmationTimeout { after: timeout }),
        Some(outcome) => written(outcome),
    }
}

/// Returns whether a request was written now.
fn written(outcome: Outcome) -> Result<bool, SubmitError> {
    match outcome {
        Outcome::Written => Ok(true),
        Outcome::AlreadyDone => Ok(false),
        Outcome::Failed {
            error_type,
            message,
        } => Err(SubmitError::WriteFailed {
            error_type,
            message,
        }),
        Outcome::Pending => Err(SubmitError::Pending),
        Outcome::Refused { reason } => Err(SubmitError::Refused(reason)),
    }
}

/// Returns the number of a submission: the time of the workflow in milliseconds. A second submission of the same request
/// is later, also after a continue-as-new, and a replay finds the same number.
fn number(of_the_workflow: Option<SystemTime>) -> u64 {
    of_the_workflow.map_or(0, |time| Timestamp::from(time).0)
}

/// Sends the request to its shard, in the time that is left.
async fn deliver<W: WorkflowImplementation>(
    ctx: &WorkflowContext<W>,
    batcher: &Batcher,
    request: Request,
    number: u64,
    left: impl Fn() -> Duration,
) -> Result<(), SubmitError> {
    let reply_to = ctx.workflow_id().to_owned();
    if request.bytes() <= SIGNALLED_BYTES {
        let shard = batcher.shard_of(&request.routing_key);
        let submission = Submission {
            shards: batcher.shards,
            reply_to: Some(reply_to.clone()),
            number,
            requests: vec![request.clone()],
        };
        let shard = ctx.external_workflow(batcher.workflow_id(shard), None);
        let signalled = shard.signal(BatcherWorkflow::submit, submission, Default::default());
        match signalled.await {
            Ok(()) => return Ok(()),
            Err(WorkflowSignalError::Serialization(error)) => {
                let message = error.to_string();
                return Err(SubmitError::SubmitFailed { message });
            }
            // The shard does not run, or its run has as many signals as Temporal allows and continues as new.
            Err(_) => {}
        }
    }
    let order = SubmitOrder {
        batcher: batcher.clone(),
        reply_to,
        number,
        requests: vec![request],
    };
    let retry = RetryPolicy::builder()
        .initial_interval(Duration::from_millis(500))
        .maximum_attempts(SUBMIT_ATTEMPTS)
        .build();
    let timeouts = ActivityCloseTimeouts::ScheduleAndStartToClose {
        schedule_to_close: left(),
        start_to_close: SUBMIT_TIMEOUT,
    };
    let options = ActivityOptions::with_close_timeouts(timeouts)
        .retry_policy(retry)
        .summary(format!("submit to {}", batcher.name))
        .build();
    let submitted = ctx.execute_activity(ActivityDefs::submit_for, order, options);
    match submitted.await.map_err(not_submitted)?.refused {
        Some(reason) => Err(SubmitError::Refused(reason)),
        None => Ok(()),
    }
}

/// Returns the error of a submission. Only what was refused before it was sent is certain not to have arrived.
fn not_submitted(error: ActivityExecutionError) -> SubmitError {
    let message = error.to_string();
    match (&error, error.cause()) {
        (ActivityExecutionError::Cancelled(_), _) => SubmitError::Cancelled,
        (_, Some(IncomingError::Application(failure)))
            if failure.type_name() == Some(NOT_SUBMITTED) =>
        {
            SubmitError::SubmitFailed { message }
        }
        _ => SubmitError::SubmitUnknown { message },
    }
}

/// Waits for the confirmation of a request. `None` if there is none in time.
async fn confirmation<W>(
    ctx: &WorkflowContext<W>,
    id: &str,
    timeout: Duration,
) -> Result<Option<Outcome>, SubmitError>
where
    W: Requester + WorkflowImplementation,
{
    let own = WorkflowCancellationToken::new;
    let known = id.to_owned();
    let heard = ctx.wait_condition_with_options(
        move |w| w.confirmations().outcome(&known).is_some(),
        WaitConditionOptions::builder()
            .cancellation_token(own())
            .build(),
    );
    let timer = TimerOptions::builder(timeout)
        .cancellation_token(own())
        .build();
    let mut heard = pin!(heard);
    let mut timer = pin!(ctx.timer(timer));
    let mut cancelled = pin!(ctx.cancelled());
    let was_cancelled = std::future::poll_fn(|cx| {
        if heard.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        cancelled.as_mut().poll(cx).map(|_| true)
    })
    .await;
    timer.cancel();
    let outcome = ctx.state(|w| w.confirmations().outcome(id).cloned());
    match outcome.is_none() && was_cancelled {
        true => Err(SubmitError::Cancelled),
        false => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_an_earlier_submission_is_ignored() {
        let mut confirmations = Confirmations::default();
        confirmations.wait_for("r".to_owned(), 2);
        let confirmation = |submission, outcome| Confirmation {
            request_id: "r".to_owned(),
            submission,
            outcome,
        };
        let reason = Refusal::ShuttingDown;
        confirmations.hear(confirmation(1, Outcome::Refused { reason }));
        assert_eq!(confirmations.outcome("r"), None);
        confirmations.hear(confirmation(2, Outcome::Written));
        confirmations.hear(confirmation(2, Outcome::AlreadyDone));
        assert_eq!(confirmations.outcome("r"), Some(&Outcome::Written));
    }
}
