//! The ends of children whose results go to a run of the fan-out that has ended.
//!
//! A child of the fan-out's own type is asked to report by signal, once, and is then looked at only because it may die
//! without a report. A child of another type is looked at until it ends.

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
    protocol::{AskOrder, ChildEnd, EndedChild, WatchOrder, WatchedChild},
    workflow::{ItemWorkflow, end_of_result, failure_of_cause},
};

/// The calls at the same time.
const AT_ONCE: usize = 10;

/// The most bytes of the ends that one look returns, besides the last of them. The next look finds the others.
const ENDS_BYTES: usize = 256 * 1024;

/// Looks once at all children. Returns how children have ended, as far as [`ENDS_BYTES`] go, or `None` without news.
///
/// A child that has reported is no news alone, but the fan-out is told of it: the report may be lost if the fan-out was
/// reset. It is also told once most children have ended, so that the next looks are at the others only.
pub(super) async fn look(client: &Client, order: WatchOrder) -> Option<Vec<EndedChild>> {
    let WatchOrder {
        children,
        of_user,
        output_limit,
    } = order;
    let all = children.len();
    let mut looks = Vec::new();
    for child in children {
        looks.push(look_at(client, child, of_user));
    }
    let looked = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
    let looked: Vec<_> = looked.collect().await;
    let ended = looked.into_iter().filter_map(|(position, end)| {
        let end = limited(end?, output_limit);
        Some(EndedChild { position, end })
    });
    news(ended.collect(), all)
}

/// Returns the ends if they are worth telling, in their order.
fn news(mut ended: Vec<EndedChild>, all: usize) -> Option<Vec<EndedChild>> {
    let unknown = ended.iter().any(|child| child.end != ChildEnd::Reported);
    let is_news = unknown || ended.len() * 2 > all;
    is_news.then(|| {
        // What the fan-out knows already must not displace what it does not know.
        ended.sort_by_key(|child| (child.end == ChildEnd::Reported, child.position));
        as_far_as(ended, ENDS_BYTES)
    })
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

async fn look_at(client: &Client, child: WatchedChild, of_user: bool) -> (u64, Option<ChildEnd>) {
    (child.position, end_of(client, &child, of_user).await)
}

/// Asks children to report by signal.
pub(super) async fn ask(client: &Client, order: AskOrder) {
    let mut asked = Vec::new();
    for child in order.children {
        asked.push(ask_for_report(client, child));
    }
    let asked = futures::stream::iter(asked).buffer_unordered(AT_ONCE);
    asked.collect::<Vec<()>>().await;
}

async fn ask_for_report(client: &Client, child: String) {
    let handle = client.get_workflow_handle::<ItemWorkflow>(child.clone());
    let options = WorkflowSignalOptions::default();
    let asked = handle.signal(ItemWorkflow::report_by_signal, (), options);
    if let Err(error) = asked.await {
        // Mostly it has just ended. The watch finds its end.
        let error = words(&error);
        tracing::debug!(child, error, "not asked for its report");
    }
}

/// Returns how a child ended. `None` means that it runs, or that the server could not be asked.
async fn end_of(client: &Client, child: &WatchedChild, of_user: bool) -> Option<ChildEnd> {
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
        Ok(result) => Some(end_of_result(&result, of_user)),
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
