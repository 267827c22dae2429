//! The ends of children whose results go to a run of the fan-out that has ended.
//!
//! A child of the fan-out's own type is asked to report by signal, once, and is then looked at only because it may die
//! without a report. A child of another type is looked at until it ends.

use std::time::Duration;

use futures::StreamExt as _;
use temporal_batch::of_crates::words;
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowDescribeOptions, WorkflowGetResultOptions,
    WorkflowSignalOptions,
    errors::{WorkflowGetResultError, WorkflowInteractionError},
};
use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as Status;

use crate::{
    outcome::{ItemFailure, failure_types as types},
    protocol::{ChildEnd, EndedChild, WatchOrder, WatchedChild},
    workflow::{ItemWorkflow, end_of_result, failure_of_cause},
};

/// The wait before the second look. Each wait is half as long again, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);
/// The calls at the same time.
const AT_ONCE: usize = 10;

/// Waits until children have ended whose outcomes are unknown to the fan-out, and returns these outcomes. Returns nothing
/// once all children have ended and reported.
pub(super) async fn wait(client: &Client, order: WatchOrder) -> Vec<EndedChild> {
    let WatchOrder { mut children, ask } = order;
    if ask {
        let mut asked = Vec::new();
        for child in &children {
            asked.push(ask_for_report(client, child));
        }
        let asked = futures::stream::iter(asked).buffer_unordered(AT_ONCE);
        asked.collect::<Vec<()>>().await;
    }
    let mut wait = FIRST;
    loop {
        let mut looks = Vec::new();
        for child in children.drain(..) {
            looks.push(look(client, child, ask));
        }
        let looked = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        let looked: Vec<_> = looked.collect().await;
        let mut ended = Vec::new();
        for (child, end) in looked {
            match end {
                None => children.push(child),
                Some(ChildEnd::Reported) => {}
                Some(end) => ended.push(EndedChild {
                    position: child.position,
                    end,
                }),
            }
        }
        if !ended.is_empty() || children.is_empty() {
            ended.sort_by_key(|child| child.position);
            return ended;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 3 / 2).min(LONGEST);
    }
}

async fn look(
    client: &Client,
    child: WatchedChild,
    of_item: bool,
) -> (WatchedChild, Option<ChildEnd>) {
    let end = end_of(client, &child, of_item).await;
    (child, end)
}

async fn ask_for_report(client: &Client, child: &WatchedChild) {
    let handle = client.get_workflow_handle::<ItemWorkflow>(child.workflow_id.clone());
    let options = WorkflowSignalOptions::default();
    let asked = handle.signal(ItemWorkflow::report_by_signal, (), options);
    if let Err(error) = asked.await {
        // Mostly it has just ended, and the first look finds that.
        let (child, error) = (&child.workflow_id, words(&error));
        tracing::debug!(child, error, "not asked for its report");
    }
}

/// Returns how a child ended. `None` means that it runs, or that the server could not be asked.
async fn end_of(client: &Client, child: &WatchedChild, of_item: bool) -> Option<ChildEnd> {
    let handle = client.get_workflow_handle::<UntypedWorkflow>(child.workflow_id.clone());
    let lost = |why: String| Some(ChildEnd::Failed(ItemFailure::new(types::OUTPUT_LOST, why)));
    match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(description) => {
            let info = description.raw().workflow_execution_info.as_ref()?;
            if matches!(info.status(), Status::Running | Status::Unspecified) {
                return None;
            }
        }
        Err(WorkflowInteractionError::NotFound(_)) => {
            return lost("its child no longer exists".to_owned());
        }
        Err(error) => return not_seen(child, &error),
    }
    match handle.get_result(WorkflowGetResultOptions::default()).await {
        Ok(result) => Some(end_of_result(&result, !of_item)),
        Err(WorkflowGetResultError::Failed(cause)) => {
            Some(ChildEnd::Failed(failure_of_cause(&cause)))
        }
        Err(WorkflowGetResultError::Cancelled { .. }) => Some(ChildEnd::Failed(ItemFailure::new(
            types::CANCELLED,
            "was cancelled",
        ))),
        Err(WorkflowGetResultError::Terminated { .. }) => Some(ChildEnd::Failed(ItemFailure::new(
            types::TERMINATED,
            "was terminated from outside",
        ))),
        Err(WorkflowGetResultError::TimedOut) => Some(ChildEnd::Failed(ItemFailure::new(
            types::TIMED_OUT,
            "reached its execution timeout",
        ))),
        Err(WorkflowGetResultError::NotFound(_)) => lost("its child no longer exists".to_owned()),
        // It continued as new between the two calls.
        Err(WorkflowGetResultError::ContinuedAsNew) => None,
        Err(error) => not_seen(child, &error),
    }
}

fn not_seen(child: &WatchedChild, error: &(dyn std::error::Error + 'static)) -> Option<ChildEnd> {
    let (child, error) = (&child.workflow_id, words(error));
    tracing::debug!(child, error, "could not look at a child");
    None
}
