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
    outcome::{ItemFailure, failure_types as types, within},
    protocol::{ChildEnd, EndedChild, WatchOrder, WatchedChild},
    workflow::{ItemWorkflow, end_of_result, failure_of_cause},
};

/// The wait before the second look. Each wait is half as long again, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);
/// The calls at the same time.
const AT_ONCE: usize = 10;

/// The most bytes of the ends that one watch returns, besides the last of them. The next watch finds the others.
const ENDS_BYTES: usize = 256 * 1024;

/// Waits until children have ended whose outcomes are unknown to the fan-out, or until all have ended. Returns how they ended,
/// as far as [`ENDS_BYTES`] go. A child that has reported is no reason to return, but the fan-out is told of it: the report
/// may be lost if the fan-out was reset.
pub(super) async fn wait(client: &Client, order: WatchOrder) -> Vec<EndedChild> {
    let WatchOrder {
        mut children,
        ask,
        output_limit,
    } = order;
    let mut reported = Vec::new();
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
                Some(end) => {
                    let position = child.position;
                    let end = limited(end, output_limit);
                    let known = end == ChildEnd::Reported;
                    let ends = if known { &mut reported } else { &mut ended };
                    ends.push(EndedChild { position, end });
                }
            }
        }
        if !ended.is_empty() || children.is_empty() {
            ended.append(&mut reported);
            ended.sort_by_key(|child| child.position);
            return as_far_as(ended, ENDS_BYTES);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 3 / 2).min(LONGEST);
    }
}

/// Returns an end that is small enough to be kept.
fn limited(end: ChildEnd, limit: usize) -> ChildEnd {
    match end {
        ChildEnd::Done(output) => {
            within(output, limit).map_or_else(ChildEnd::Failed, ChildEnd::Done)
        }
        end => end,
    }
}

/// Returns the first ends, at least one, as far as so many bytes of JSON go.
fn as_far_as(ended: Vec<EndedChild>, bytes: usize) -> Vec<EndedChild> {
    let mut taken = 0;
    let fits = |child: &EndedChild| {
        let fits = taken < bytes;
        taken += serde_json::to_string(child).map_or(0, |json| json.len());
        fits
    };
    ended.into_iter().take_while(fits).collect()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_ends_of_one_watch_fit_into_a_result() {
        let large = |position| EndedChild {
            position,
            end: limited(ChildEnd::Done(json!("x".repeat(800_000))), 1_000),
        };
        let ended = as_far_as((0..1_000).map(large).collect(), ENDS_BYTES);
        assert!(!ended.is_empty());
        assert!(ended.iter().all(|child| matches!(
            &child.end,
            ChildEnd::Failed(failure) if failure.error_type == types::OUTPUT_TOO_LARGE
        )));
        let kept = |position| EndedChild {
            position,
            end: limited(ChildEnd::Done(json!("x".repeat(200_000))), 256 * 1024),
        };
        let ended = as_far_as((0..10).map(kept).collect(), ENDS_BYTES);
        assert_eq!(ended.len(), 2);
    }
}
