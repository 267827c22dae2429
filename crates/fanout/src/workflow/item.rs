//! The child of one item: its attempts, and its report.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde_json::Value;
use temporal_batch::of_crates::{in_step, words};
use temporalio_common::{
    RetryPolicy,
    data_converters::{PayloadConverter, RawValue},
    error::{IncomingError, TimeoutType},
};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, ApplicationFailure,
    ContinueAsNewOptions, SignalWorkflowOptions, SyncWorkflowContext, TimerOptions, TimerResult,
    WorkflowCancellationToken, WorkflowContext, WorkflowContextView, WorkflowResult,
    WorkflowSignalError, WorkflowTermination,
};

use super::{activity_defs::ActivityDefs, parent::FanoutWorkflow};
use crate::{
    outcome::{ItemFailure, failure_types as types},
    protocol::{
        self, AttemptDetails, ItemDone, ItemInput, ItemPhase, ItemResult, ItemStatus, ProcessOrder,
    },
    retry::Attempted,
};

/// The wait before a refused report is sent again.
const REPORT_AGAIN: Duration = Duration::from_secs(2);
/// The attempts to report. A parent that refuses for longer learns the outcome from the result.
const REPORTS: u32 = 30;

/// See the [module documentation](self).
#[temporalio_macros::workflow]
pub(crate) struct ItemWorkflow {
    input: ItemInput,
    status: ItemStatus,
}

#[temporalio_macros::workflow_methods]
impl ItemWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ItemInput) -> Self {
        let status = ItemStatus {
            phase: ItemPhase::Pending,
            attempt: input.failures.counted,
            last_failure: None,
        };
        Self { input, status }
    }

    #[run(name = protocol::ITEM)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<ItemResult> {
        let ctx = &*ctx;
        in_step(ctx, work(ctx)).await
    }

    /// Asks for a report by signal, because the run that awaited the result has ended.
    #[signal(name = protocol::REPORT)]
    pub(crate) fn report_by_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.input.reports = true;
    }

    /// The phase of the item, and its attempt.
    #[query(name = protocol::STATUS)]
    pub(crate) fn status(&self, _ctx: &WorkflowContextView) -> ItemStatus {
        self.status.clone()
    }
}

type Ctx = WorkflowContext<ItemWorkflow>;

/// The end of the attempts.
enum Ended {
    Done(Value),
    Failed(ItemFailure),
    Cancelled,
}

async fn work(ctx: &Ctx) -> WorkflowResult<ItemResult> {
    let ended = attempts(ctx).await?;
    let phase = match ended {
        Ended::Done(_) => ItemPhase::Done,
        Ended::Failed(_) | Ended::Cancelled => ItemPhase::Failed,
    };
    ctx.state_mut(|w| w.status.phase = phase);
    let reported = ctx.state(|w| w.input.reports) && report(ctx, &ended).await;
    match ended {
        Ended::Done(_) if reported => Ok(ItemResult {
            output: None,
            reported,
        }),
        Ended::Done(output) => Ok(ItemResult {
            output: Some(output),
            reported,
        }),
        Ended::Cancelled => Err(WorkflowTermination::cancelled()),
        Ended::Failed(failure) => Err(ApplicationFailure::builder(failure.message)
            .type_name(failure.error_type)
            .non_retryable(true)
            .build()
            .into()),
    }
}

/// Tries until the item is done, has failed, or is cancelled. Each attempt is an activity of its own, so that the query
/// knows its number.
async fn attempts(ctx: &Ctx) -> WorkflowResult<Ended> {
    loop {
        if ctx.continue_as_new_suggested() {
            let input = ctx.state(|w| w.input.clone());
            ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
        }
        ctx.state_mut(|w| {
            w.status.phase = ItemPhase::Running;
            w.status.attempt = w.input.failures.counted + 1;
        });
        let (attempted, failure) = match attempt(ctx).await {
            Ok(output) => return Ok(Ended::Done(output)),
            Err(ActivityExecutionError::Cancelled(_)) => return Ok(Ended::Cancelled),
            Err(error) => describe(&error),
        };
        let wait = ctx.state_mut(|w| {
            w.status.phase = ItemPhase::Pending;
            w.status.last_failure = Some(failure.clone());
            let ItemInput {
                retry, failures, ..
            } = &mut w.input;
            retry.after(failures, attempted)
        });
        let Some(wait) = wait else {
            return Ok(Ended::Failed(failure));
        };
        if matches!(ctx.timer(wait).await, TimerResult::Cancelled) {
            return Ok(Ended::Cancelled);
        }
    }
}

async fn attempt(ctx: &Ctx) -> Result<Value, ActivityExecutionError> {
    let (order, attempt_timeout, heartbeat_timeout) = ctx.state(|w| {
        let input = &w.input;
        let order = ProcessOrder {
            fanout: input.fanout.clone(),
            fanout_run: input.fanout_run.clone(),
            item_id: input.item_id.clone(),
            processor: input.processor.clone(),
            item: input.item.clone(),
            attempt: w.status.attempt,
            output_limit: input.output_limit,
        };
        (order, input.attempt_timeout, input.heartbeat_timeout)
    });
    // A future registered with the context's token would keep the context alive, and the context keeps the token.
    let token = ctx.cancellation_token().child_token();
    let options = ActivityOptions::with_start_to_close_timeout(attempt_timeout)
        .heartbeat_timeout(heartbeat_timeout)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .cancellation_token(token.clone())
        .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
        .summary(format!("attempt {}", order.attempt))
        .build();
    ctx.execute_activity(ActivityDefs::process, order, options)
        .await
}

fn describe(error: &ActivityExecutionError) -> (Attempted, ItemFailure) {
    let retryable = Attempted {
        retryable: true,
        ..Attempted::default()
    };
    if let Some(timeout) = error.as_timeout() {
        let failure = match timeout.timeout_type() {
            TimeoutType::Heartbeat => ItemFailure::new(
                types::WORKER_LOST,
                "no sign of life from its worker for longer than the heartbeat timeout",
            ),
            _ => ItemFailure::new(types::TIMED_OUT, "the attempt took too long"),
        };
        return (retryable, failure);
    }
    match error.reason() {
        Some(IncomingError::Application(failure)) => {
            let details = failure.details::<AttemptDetails>().ok().flatten();
            let details = details.unwrap_or_default();
            let attempted = Attempted {
                retryable: !failure.is_non_retryable(),
                environment: details.environment,
                delay: details.delay,
            };
            let failure = ItemFailure::new(
                failure.type_name().unwrap_or("AttemptFailed"),
                failure.source_error().to_string(),
            );
            (attempted, failure)
        }
        _ => (retryable, ItemFailure::new("AttemptFailed", words(error))),
    }
}

/// Tells the fan-out how the item ended. Returns false if the fan-out did not take it.
async fn report(ctx: &Ctx, ended: &Ended) -> bool {
    let (output, failure) = match ended {
        Ended::Done(output) => (output.clone(), None),
        Ended::Failed(failure) => (Value::Null, Some(failure.clone())),
        Ended::Cancelled => {
            let failure = ItemFailure::new(types::CANCELLED, "was cancelled");
            (Value::Null, Some(failure))
        }
    };
    let (fanout, done) = ctx.state(|w| {
        let done = ItemDone {
            item_id: w.input.item_id.clone(),
            output,
            failure,
            fanout_run: Some(w.input.fanout_run.clone()),
        };
        (w.input.fanout.clone(), done)
    });
    let done = RawValue::from_value(&done, &PayloadConverter::default());
    for _ in 0..REPORTS {
        // The latest run of the fan-out is meant, which need not be the one that started this child.
        let parent = ctx.external_workflow(fanout.clone(), None);
        // A child that is cancelled reports too.
        let own = SignalWorkflowOptions::builder()
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        match parent
            .signal(FanoutWorkflow::item_done, done.clone(), own)
            .await
        {
            Ok(()) => return true,
            Err(WorkflowSignalError::NotFound(_)) => return false,
            // The run of the fan-out has received too many signals, and its next run will begin soon.
            Err(_) => {
                let own = WorkflowCancellationToken::new();
                let wait = TimerOptions::builder(REPORT_AGAIN);
                ctx.timer(wait.cancellation_token(own).build()).await;
            }
        }
    }
    false
}
