//! A batch with partitions: each has a controller of its own, which is a child workflow of this one.
//!
//! [`crate::decisions::partitions`] decides what the children do. Children end with their parent, even when the
//! parent continues as new. They are therefore told to stop before that, and the next run starts them where they
//! stood. While one of them is in a long page, this run restarts the others.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use temporalio_common::error::{
    ChildWorkflowExecutionError, ChildWorkflowStartError, IncomingError,
};
use temporalio_sdk::{
    ActivityExecutionError, ChildWorkflowCancellationType, ChildWorkflowOptions, ParentClosePolicy,
    TimerOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult,
};

use super::{
    ActivityDefs, Controller, PartitionParent,
    ending::end,
    partition_child::own_cancellation,
    publish::publish,
    reduce::combine_rest,
    side_calls::{Call, OwnCall, SideCalls, aside, standing},
    stages::check_at_end,
    timer::Alarm,
    wait::until_awake,
    workflow::{BatchContext, BatchWorkflow, hand_over, now},
};
use crate::{
    base::error::text::words,
    decisions::{
        carry::{ControllerInput, EndDetails},
        partitions::{Next, Step},
        state::{
            partition_parent::{ChildEnd, LOOKED_AT_FOR},
            partition_work::{ParentState, PartitionWork},
            view::details,
        },
    },
    progress::report::BatchReport,
    protocol::{self, PartitionsOrder, SplitAnswer, message::Json},
};

/// The timeout of one attempt to find the middle of a range.
const SPLIT_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval between attempts to start a child. Its id stays in use while a child of an earlier batch run is being
/// terminated.
const START_AGAIN_AFTER: Duration = Duration::from_secs(1);
const STARTS: u32 = 30;

type Child<'a> = Pin<Box<dyn Future<Output = ChildEnd> + 'a>>;
type Split<'a> = Pin<Box<dyn Future<Output = Result<SplitAnswer, ActivityExecutionError>> + 'a>>;

/// The calls in progress.
#[derive(Default)]
struct UnderWay<'a> {
    /// The children in the order of their start. A set that is polled in the order of wake-ups would not replay.
    children: Vec<(u32, Child<'a>)>,
    signals: Vec<Call<'a>>,
    split: Option<(u32, Split<'a>)>,
}

impl BatchWorkflow for PartitionParent {
    type Work = PartitionWork;

    const OWN_CALLS: &'static [OwnCall<Self>] = &[look_at_partitions];

    fn state(&self) -> &ParentState {
        &self.0
    }

    fn state_mut(&mut self) -> &mut ParentState {
        &mut self.0
    }

    async fn work(ctx: &WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        let mut under_way = UnderWay::default();
        let mut alarm = Alarm::default();
        let mut calls = SideCalls::default();
        loop {
            let (suggested, events) = (ctx.continue_as_new_suggested(), ctx.history_length());
            let now = now(ctx);
            ctx.batch_mut(|s| s.refresh(now, suggested, events));
            calls.begin(ctx);
            let steps = match ctx.batch(|s| s.next()) {
                Next::Steps(steps) => steps,
                Next::HandOver => {
                    hand_over(ctx)?;
                    continue;
                }
                Next::Finish(ending) => {
                    let ending = combine_rest(ctx, &mut calls, ending).await;
                    let ending = check_at_end(ctx, ending).await;
                    return end(ctx, ending, calls).await;
                }
            };
            if carry_out(ctx, steps, &mut under_way) {
                continue;
            }
            let progress = ctx.batch(|s| s.look());
            ctx.set_current_details(details(&progress));
            publish(ctx, progress);
            let until = ctx.batch(|s| s.next_change());
            alarm.set(ctx, calls.until(ctx, until), now);
            something_happens(ctx, &mut under_way, &mut calls, &mut alarm).await;
        }
    }
}

/// Carries out the decided steps. Returns whether there were any.
fn carry_out<'a>(
    ctx: &'a WorkflowContext<PartitionParent>,
    steps: Vec<Step>,
    under_way: &mut UnderWay<'a>,
) -> bool {
    let mut done = false;
    for step in steps {
        match step {
            Step::Begin { number, told } => {
                let started = ctx.batch_mut(|s| s.part_input(number, &told));
                if let Some(input) = started {
                    under_way.children.push((number, child(ctx, number, input)));
                    done = true;
                }
            }
            Step::Tell {
                number,
                told,
                split,
            } => {
                let order = ctx.batch_mut(|s| s.share_order(number, told, split));
                if let Some((id, order)) = order {
                    let sent = ctx.external_workflow(id, None);
                    let sent = sent.signal(Controller::share, order, own_cancellation());
                    // A failure is ignored: a partition that has ended reports its own end.
                    under_way.signals.push(Box::pin(async move {
                        let _ = sent.await;
                        Ok(())
                    }));
                    done = true;
                }
            }
            Step::Split { number, start, end } if under_way.split.is_none() => {
                let order = ctx.batch(|s| s.split_order(number, start, end));
                // After a few failed attempts the partition continues without a split.
                let options = aside(ctx, SPLIT_TIMEOUT, format!("split partition {number}"));
                let split = ctx.execute_activity(ActivityDefs::split, order, options);
                under_way.split = Some((number, Box::pin(split)));
                done = true;
            }
            Step::Split { .. } => {}
        }
    }
    done
}

/// Starts the workflow of a partition and waits for its end.
fn child<'a>(
    ctx: &'a WorkflowContext<PartitionParent>,
    number: u32,
    input: ControllerInput,
) -> Child<'a> {
    let name = input.part.as_ref().map_or("", |part| &part.name).to_owned();
    let id = protocol::partition_id(&input.spec.batch_id, number);
    Box::pin(async move {
        let mut attempt = 1;
        let started = loop {
            let options = ChildWorkflowOptions::builder()
                .workflow_id(id.clone())
                // A child is told to stop by signal, so that it returns its remaining work.
                .cancellation_token(WorkflowCancellationToken::new())
                .cancel_type(ChildWorkflowCancellationType::Abandon)
                .parent_close_policy(ParentClosePolicy::Terminate)
                .task_timeout(protocol::TASK_TIMEOUT)
                .static_summary(format!("partition {name}"))
                .build();
            let starting = ctx.start_child_workflow(Controller::run, input.clone(), options);
            match starting.await {
                Ok(started) => break started,
                Err(ChildWorkflowStartError::StartFailed { .. }) if attempt < STARTS => {
                    attempt += 1;
                    let own = WorkflowCancellationToken::new();
                    let wait = TimerOptions::builder(START_AGAIN_AFTER);
                    ctx.timer(wait.cancellation_token(own).build()).await;
                }
                Err(error) => {
                    return ChildEnd::Lost(format!(
                        "could not be started as \"{id}\": {}",
                        words(&error)
                    ));
                }
            }
        };
        ctx.batch_mut(|s| s.partition_started(number));
        match started.result().await {
            Ok(Json(report)) => ChildEnd::Report(Box::new(EndDetails {
                report,
                continuation: None,
            })),
            Err(error) => end_of(&error),
        }
    })
}

fn end_of(error: &ChildWorkflowExecutionError) -> ChildEnd {
    match error.cause() {
        Some(IncomingError::Application(failure)) => match failure.details::<EndDetails>() {
            Ok(Some(details)) => ChildEnd::Report(Box::new(details)),
            Ok(None) | Err(_) => ChildEnd::Lost(format!("failed: {}", failure.source_error())),
        },
        Some(IncomingError::Terminated(_)) => {
            ChildEnd::Lost("was terminated from outside".to_owned())
        }
        Some(IncomingError::Timeout(_)) => ChildEnd::Lost("was timed out from outside".to_owned()),
        _ => ChildEnd::Lost(format!("is gone: {}", words(error))),
    }
}

/// Waits for the end of a child, or for another event that calls for a decision.
async fn something_happens(
    ctx: &WorkflowContext<PartitionParent>,
    under_way: &mut UnderWay<'_>,
    calls: &mut SideCalls<'_>,
    alarm: &mut Alarm<'_>,
) {
    until_awake(ctx, |cx| {
        let mut awake = under_way.poll(ctx, cx);
        awake |= calls.poll(ctx, cx);
        awake |= alarm.poll(cx).is_ready();
        awake
    })
    .await;
}

impl UnderWay<'_> {
    /// Records results. Returns whether one of them calls for a decision.
    fn poll(
        &mut self,
        ctx: &WorkflowContext<PartitionParent>,
        cx: &mut std::task::Context<'_>,
    ) -> bool {
        let mut awake = false;
        self.signals
            .retain_mut(|signal| signal.as_mut().poll(cx).is_pending());
        self.children.retain_mut(|(number, child)| {
            let Poll::Ready(ended) = child.as_mut().poll(cx) else {
                return true;
            };
            ctx.batch_mut(|s| s.partition_ended(*number, ended));
            awake = true;
            false
        });
        if let Some((number, split)) = &mut self.split
            && let Poll::Ready(answer) = split.as_mut().poll(cx)
        {
            let number = *number;
            self.split = None;
            // A range is not split if the activity fails.
            let at = answer.unwrap_or_default().at;
            ctx.batch_mut(|s| s.work.partitions.split(number, at));
            awake = true;
        }
        awake
    }
}

/// Has the partitions watched for as long as this run lasts.
fn look_at_partitions(ctx: &WorkflowContext<PartitionParent>) -> Option<Call<'_>> {
    let order = ctx.batch(|s| PartitionsOrder {
        batch_id: s.input.spec.batch_id.clone(),
        batch_run: s.input.batch_run.clone(),
    });
    let options = standing(ctx, LOOKED_AT_FOR, "look at the partitions".to_owned());
    Some(Box::pin(ctx.execute_activity(
        ActivityDefs::partitions,
        order,
        options,
    )))
}
