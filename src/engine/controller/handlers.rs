//! The workflows of a batch, with their signals, queries and updates.
//!
//! Both workflows answer operators and clients in the same way. Clients address either by the definitions of
//! [`Controller`], because the names and payloads are the same.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_sdk::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};

use super::{
    publish::show_who_looks,
    workflow::{run_batch, time},
};
use crate::{
    decisions::{
        carry::ControllerInput,
        state::{
            BatchState,
            partition_work::{ParentState, PartitionWork},
            stride_work::StrideWork,
        },
    },
    progress::{Progress, report::BatchReport},
    protocol::{
        self, AcceptedEnd, AcceptedEndRequest, ApproveRequest, ClientLooks, Controls, LockHeld,
        NextPage, PartitionNews, PauseRequest, ResumeRequest, SetRequest, Settled, ShareOrder,
        SteerRequest, StrideResults, ThrottleNews, WaitNews, message::Json,
    },
};

/// The workflow of a batch or of one partition, which runs strides.
#[temporalio_macros::workflow]
pub(crate) struct Controller(pub(super) BatchState);

/// The workflow of a batch with partitions, each of which has a controller of its own.
#[temporalio_macros::workflow]
pub(crate) struct PartitionParent(pub(super) ParentState);

/// Writes the handlers of a workflow: those that every workflow of a batch has, and its own. The macro of the SDK takes
/// all handlers of a workflow from one block.
macro_rules! handlers {
    ($workflow:ident, $work:ty, $name:expr, { $($own:tt)* }) => {
        #[temporalio_macros::workflow_methods]
        impl $workflow {
            #[init]
            fn new(_ctx: &WorkflowContextView, input: ControllerInput<$work>) -> Self {
                Self(BatchState::of(input))
            }

            #[run(name = $name)]
            pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Json<BatchReport>> {
                let ctx = &*ctx;
                let mut run = std::pin::pin!(run_batch(ctx));
                let run = std::future::poll_fn(|cx| {
                    show_who_looks(ctx);
                    run.as_mut().poll(cx)
                });
                crate::engine::query_safety::in_step(ctx, run).await.map(Json)
            }

            /// The latest verdict of a throttle.
            #[signal(name = protocol::THROTTLED)]
            pub(crate) fn throttled(&mut self, ctx: &mut SyncWorkflowContext<Self>, news: ThrottleNews) {
                self.0.hear_throttle(time(ctx.workflow_time()), &news);
            }

            /// The holder of the lock that the batch waits for.
            #[signal(name = protocol::LOCK_HELD)]
            pub(crate) fn lock_held(&mut self, _ctx: &mut SyncWorkflowContext<Self>, held: LockHeld) {
                self.0.hear_lock_held(held);
            }

            /// The event that an activity beside the pages waits for.
            #[signal(name = protocol::WAITS)]
            pub(crate) fn waits(&mut self, _ctx: &mut SyncWorkflowContext<Self>, news: WaitNews) {
                self.0.hear_waits(news);
            }

            /// The equivalent of an update, without an answer.
            #[signal(name = protocol::STEER)]
            pub(crate) fn steer(&mut self, ctx: &mut SyncWorkflowContext<Self>, request: SteerRequest) {
                self.0.hear_steering(time(ctx.workflow_time()), request);
            }

            /// A client's look. The main loop then writes the progress to the memo, now and for a while. The handler itself
            /// writes nothing: if the task fails, the commands of a handler would stay and be sent with the answer to a
            /// query, at which the worker ends.
            #[signal(name = protocol::LOOK)]
            pub(crate) fn client_looks(&mut self, ctx: &mut SyncWorkflowContext<Self>, _look: ClientLooks) {
                self.0.hear_look(time(ctx.workflow_time()));
            }

            /// The progress for Temporal's own tools. This crate never sends the query; `query_safety` gives the reason.
            #[query(name = protocol::PROGRESS)]
            pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Json<Progress> {
                Json(self.0.look())
            }

            /// Stops dispatching. Running pages finish. Pausing a paused batch only changes the reason.
            #[update(name = protocol::PAUSE)]
            pub(crate) fn pause(
                &mut self,
                ctx: &mut SyncWorkflowContext<Self>,
                request: PauseRequest,
            ) -> Controls {
                let at = time(ctx.workflow_time());
                self.0.answered(|s| s.do_pause(at, request))
            }

            /// Resumes dispatching. Resuming a running batch changes nothing. Earlier failures are forgiven if the batch
            /// paused itself for them.
            #[update(name = protocol::RESUME)]
            pub(crate) fn resume(
                &mut self,
                ctx: &mut SyncWorkflowContext<Self>,
                request: ResumeRequest,
            ) -> Controls {
                let at = time(ctx.workflow_time());
                self.0.answered(|s| s.do_resume(at, &request))
            }

            #[update_validator(approve)]
            fn validate_approve(
                &self,
                _ctx: &WorkflowContextView,
                request: &ApproveRequest,
            ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                Ok(self.0.validate_approval(request)?)
            }

            /// Begins the next stage, whatever the check found.
            #[update(name = protocol::APPROVE)]
            pub(crate) fn approve(
                &mut self,
                ctx: &mut SyncWorkflowContext<Self>,
                request: ApproveRequest,
            ) -> Controls {
                let at = time(ctx.workflow_time());
                self.0.answered(|s| s.do_approve(at, &request))
            }

            #[update_validator(set)]
            fn validate_set(
                &self,
                _ctx: &WorkflowContextView,
                request: &SetRequest,
            ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                Ok(request.validate()?)
            }

            /// Changes limits. An absent limit stays as it is.
            #[update(name = protocol::SET)]
            pub(crate) fn set(
                &mut self,
                ctx: &mut SyncWorkflowContext<Self>,
                request: SetRequest,
            ) -> Controls {
                let at = time(ctx.workflow_time());
                self.0.answered(|s| s.do_set(at, &request))
            }

            $($own)*
        }
    };
}

handlers!(Controller, StrideWork, protocol::CONTROLLER, {
    /// Starts of the strides that follow one that is running.
    #[signal(name = protocol::NEXT_PAGE)]
    pub(crate) fn next_page(&mut self, _ctx: &mut SyncWorkflowContext<Self>, next: NextPage) {
        self.0.hear_next_page(&next);
    }

    /// Reports of strides whose activities another workflow owns.
    #[signal(name = protocol::STRIDE_RESULTS)]
    pub(crate) fn stride_results(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        news: StrideResults,
    ) {
        self.0.hear_results(time(ctx.workflow_time()), news);
    }

    /// The share of this partition from now on.
    #[signal(name = protocol::SHARE)]
    pub(crate) fn share(&mut self, _ctx: &mut SyncWorkflowContext<Self>, order: ShareOrder) {
        self.0.hear_share(order);
    }

    /// The end of a stride. This is an update, so that the history has the answer.
    #[update(name = protocol::ACCEPTED_END)]
    pub(crate) fn accepted_end(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        asked: AcceptedEndRequest,
    ) -> AcceptedEnd {
        self.0.accepted_end(&asked)
    }
});

handlers!(
    PartitionParent,
    PartitionWork,
    protocol::PARTITION_PARENT,
    {
        /// The latest progress of the partitions of the batch.
        #[signal(name = protocol::PARTITION_NEWS)]
        pub(crate) fn partition_news(
            &mut self,
            ctx: &mut SyncWorkflowContext<Self>,
            news: PartitionNews,
        ) {
            self.0.hear_partitions(time(ctx.workflow_time()), news);
        }

        /// The report of a partition that now keeps to a smaller share.
        #[signal(name = protocol::SETTLED)]
        pub(crate) fn settled(&mut self, _ctx: &mut SyncWorkflowContext<Self>, settled: Settled) {
            self.0.hear_settled(&settled);
        }
    }
);
