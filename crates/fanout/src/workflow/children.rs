//! The children of a fan-out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin};

use serde_json::Value;
use temporal_batch::of_crates::words;
use temporalio_common::{
    WorkflowDefinition,
    data_converters::RawValue,
    error::{
        ChildWorkflowExecutionError, ChildWorkflowStartError, IncomingError,
        StartChildWorkflowExecutionFailedCause as Cause,
    },
};
use temporalio_sdk::{
    ChildWorkflowCancellationType, ChildWorkflowOptions, ParentClosePolicy,
    WorkflowCancellationToken, WorkflowContext, WorkflowIdReusePolicy,
};

use super::{activity_defs::ActivityDefs, calls::aside, parent::FanoutWorkflow};
use crate::{
    outcome::{ItemFailure, failure_types as types},
    protocol::{
        self, ChildEnd, ClosePolicy, FanoutSpec, IdOwner, ItemInput, ItemResult, LookUpOrder, Mode,
        child_details, child_id,
    },
    retry::Failures,
};

/// The workflow type of the children, by its name.
struct ChildType(String);

impl WorkflowDefinition for ChildType {
    type Input = Value;
    // A result of a user's own type may be anything.
    type Output = RawValue;

    fn name(&self) -> &str {
        &self.0
    }
}

/// The result of starting a child.
pub(super) enum Outcome {
    Ended(ChildEnd),
    /// An earlier item of this start of the fan-out has the id.
    Duplicate,
    /// The child of the item was there already.
    WasThere,
}

pub(super) type Child<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Starts the child of an item and waits for its end. `cancel` cancels the child.
pub(super) fn child<'a>(
    ctx: &'a WorkflowContext<FanoutWorkflow>,
    position: u64,
    item_id: String,
    item: Value,
    cancel: WorkflowCancellationToken,
) -> Child<'a> {
    let (spec, remembers) = ctx.state(|w| (w.0.spec.clone(), w.0.remembers_all()));
    // An ended workflow of the id is that of an earlier item, unless the whole fan-out is run again. In that case it may
    // be either; only a list is known to have no second item of an id.
    let reuse = match spec.rerun && remembers {
        true => WorkflowIdReusePolicy::AllowDuplicate,
        false => WorkflowIdReusePolicy::RejectDuplicate,
    };
    let options = options(&spec, &item_id, position, cancel);
    let order = LookUpOrder {
        workflow_id: child_id(&spec.id, &item_id),
        run: spec.run.clone(),
        position,
    };
    let rerun = spec.rerun;
    let own_type = spec.child_type.clone();
    let of_user = own_type.is_some();
    let child_type = own_type.unwrap_or_else(|| protocol::ITEM.to_owned());
    let input = match of_user {
        true => item,
        false => item_input(spec, item_id, item),
    };
    let start = move |reuse| {
        let mut options = options.clone();
        options.id_reuse_policy = reuse;
        ctx.start_child_workflow(ChildType(child_type.clone()), input.clone(), options)
    };
    // The command is given here, so that commands have the order of the decisions.
    let first = start(reuse);
    Box::pin(async move {
        let mut started = first.await;
        if let Err(error) = &started
            && is_taken(error)
        {
            let what = format!("look up {}", order.workflow_id);
            let owner = ctx.execute_activity(ActivityDefs::look_up, order, aside(ctx, what));
            match owner.await {
                Ok(IdOwner::Duplicate) => return Outcome::Duplicate,
                Ok(IdOwner::Same) => return Outcome::WasThere,
                Ok(IdOwner::Ended) if rerun => {
                    started = start(WorkflowIdReusePolicy::AllowDuplicate).await;
                }
                Ok(IdOwner::Gone) => {
                    started = start(WorkflowIdReusePolicy::RejectDuplicate).await;
                }
                Ok(IdOwner::Ended | IdOwner::Running) | Err(_) => {}
            }
        }
        // The item is in the history, and the child may run for long.
        drop(start);
        let started = match started {
            Ok(started) => started,
            Err(error) => return Outcome::Ended(ChildEnd::Failed(not_started(&error))),
        };
        ctx.state_mut(|w| w.0.child_started(position));
        Outcome::Ended(match started.result().await {
            Ok(result) => end_of_result(&result, of_user),
            Err(error) => ChildEnd::Failed(failure_of(&error)),
        })
    })
}

fn is_taken(error: &ChildWorkflowStartError) -> bool {
    matches!(
        error,
        ChildWorkflowStartError::StartFailed {
            cause: Cause::WorkflowAlreadyExists,
            ..
        }
    )
}

fn options(
    spec: &FanoutSpec,
    item_id: &str,
    position: u64,
    cancel: WorkflowCancellationToken,
) -> ChildWorkflowOptions {
    ChildWorkflowOptions::builder()
        .workflow_id(child_id(&spec.id, item_id))
        .maybe_task_queue(spec.child_queue.clone())
        .cancellation_token(cancel)
        // The slot of the window is free once the child has really ended.
        .cancel_type(ChildWorkflowCancellationType::WaitCancellationCompleted)
        .parent_close_policy(match spec.close {
            ClosePolicy::Abandon => ParentClosePolicy::Abandon,
            ClosePolicy::RequestCancel => ParentClosePolicy::RequestCancel,
            ClosePolicy::Terminate => ParentClosePolicy::Terminate,
        })
        .maybe_execution_timeout(spec.execution_timeout)
        .static_summary(format!("item {item_id}"))
        .static_details(child_details(&spec.run, position))
        .build()
}

fn item_input(spec: FanoutSpec, item_id: String, item: Value) -> Value {
    let output_limit = spec.output_limit();
    let input = ItemInput {
        fanout: spec.id,
        fanout_run: spec.run,
        item_id,
        processor: spec.processor,
        item,
        retry: spec.retry,
        attempt_timeout: spec.attempt_timeout,
        heartbeat_timeout: spec.heartbeat_timeout,
        output_limit,
        reports: spec.mode == Mode::Signals,
        failures: Failures::default(),
    };
    serde_json::to_value(input).expect("the input of a child has string keys only")
}

/// Returns the end of a child that has completed.
pub(crate) fn end_of_result(result: &RawValue, of_user: bool) -> ChildEnd {
    let data = result
        .payloads
        .first()
        .map_or(&[][..], |payload| &payload.data);
    let value = match data {
        // No value, or null.
        [] => Ok(Value::Null),
        data => serde_json::from_slice(data),
    };
    let end = match of_user {
        true => value.map(ChildEnd::Done),
        false => value
            .and_then(serde_json::from_value)
            .map(|result| match result {
                ItemResult { reported: true, .. } => ChildEnd::Reported,
                ItemResult { output, .. } => ChildEnd::Done(output.unwrap_or_default()),
            }),
    };
    end.unwrap_or_else(|error| {
        let why = format!("the result of its child cannot be read: {error}");
        ChildEnd::Failed(ItemFailure::new(types::OUTPUT_LOST, why))
    })
}

fn not_started(error: &ChildWorkflowStartError) -> ItemFailure {
    match error {
        ChildWorkflowStartError::Cancelled(_) => {
            ItemFailure::new(types::CANCELLED, "cancelled before its child was started")
        }
        ChildWorkflowStartError::StartFailed {
            workflow_id,
            cause: Cause::WorkflowAlreadyExists,
            ..
        } => ItemFailure::new(
            types::CHILD_ID_TAKEN,
            format!("another workflow has or had the id \"{workflow_id}\""),
        ),
        error => ItemFailure::new("ChildNotStarted", words(error)),
    }
}

fn failure_of(error: &ChildWorkflowExecutionError) -> ItemFailure {
    match error.cause() {
        Some(cause) => failure_of_cause(cause),
        None => ItemFailure::new(types::OUTPUT_LOST, words(error)),
    }
}

/// Returns the failure of a child from the reason why it did not complete.
pub(crate) fn failure_of_cause(cause: &IncomingError) -> ItemFailure {
    match cause {
        IncomingError::Application(failure) => ItemFailure::new(
            failure.type_name().unwrap_or("ChildFailed"),
            failure.source_error().to_string(),
        ),
        IncomingError::Cancelled(_) => ItemFailure::new(types::CANCELLED, "was cancelled"),
        IncomingError::Terminated(_) => {
            ItemFailure::new(types::TERMINATED, "was terminated from outside")
        }
        IncomingError::Timeout(_) => {
            ItemFailure::new(types::TIMED_OUT, "reached its execution timeout")
        }
        other => ItemFailure::new("ChildFailed", words(other)),
    }
}
