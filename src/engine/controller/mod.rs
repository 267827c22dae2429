//! The workflow of a batch, which only translates.
//!
//! A Temporal event becomes a call of [`BatchState`], [`BatchState::decide`] makes a decision, and the decision
//! becomes
//! a Temporal command. No code here may look at a clock, at random numbers, at the order of a hash map, or do I/O: a
//! worker replays this code from the history.
//!
//! ```text
//!   signal next_page ─┐                            ┌─> schedule a stride activity
//!   activity result ──┼─> BatchState ──> decide ───┼─> start a timer
//!   update, cancel ───┘                            ├─> continue as new
//!                                                  └─> complete, fail, cancel
//! ```
//!
//! | file | content |
//! |---|---|
//! | here | the workflow with its signals, queries and updates |
//! | `activity_defs` | the activities that are called |
//! | `main_loop` | the loop: prepare, decide, wait; continue-as-new |
//! | `dispatch` | from a decision to the activity of a stride, and from its result to a report |
//! | `side_calls` | running calls of side activities |
//! | `stages` | checks between stages and at the end |
//! | `reduce` | combining outputs, where only the processor can |
//! | `lock` | taking the named lock and giving it back |
//! | `ending` | the end: hooks, the report, how the workflow closes |
//! | `publish` | writing the memo |
//! | `timer` | the one timer of the batch |
//! | `partition_parent`, `partition_child` | the loop of a batch with partitions, and the differences of the controller of one |
//! | `bridge` | strides that keep running over a continue-as-new |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod activity_defs;
pub(crate) mod bridge;
mod dispatch;
mod ending;
mod lock;
mod main_loop;
mod partition_child;
mod partition_parent;
mod publish;
mod reduce;
mod side_calls;
mod stages;
mod timer;

pub(crate) use activity_defs::{
    ActivityDefs, CheckActivity, CombineActivity, HookActivity, KeepReportActivity, LockActivity,
    PartitionsActivity, PrepareActivity, SplitActivity, StrideActivity, ThrottleActivity,
    UnlockActivity, WatchBridgesActivity, WindowsActivity,
};
pub(crate) use bridge::workflow::Bridge;

use temporalio_sdk::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};

use crate::{
    base::time::Timestamp,
    decisions::{carry::ControllerInput, state::BatchState},
    progress::{Progress, report::BatchReport},
    protocol::{
        self, AcceptedEnd, AcceptedEndRequest, ApproveRequest, BridgeResults, ClientLooks,
        Controls, LockHeld, NextPage, PartitionNews, PauseRequest, ResumeRequest, SetRequest,
        Settled, ShareOrder, SteerRequest, ThrottleNews, WaitNews,
    },
};
use ending::end;
use main_loop::{prepare, run_batch};
use partition_parent::run_partitions;
use publish::show_who_looks;
use side_calls::SideCalls;

/// See the [module documentation](self).
#[temporalio_macros::workflow]
pub(crate) struct Controller(BatchState);

#[temporalio_macros::workflow_methods]
impl Controller {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ControllerInput) -> Self {
        Self(BatchState::of(input))
    }

    #[run(name = protocol::CONTROLLER)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        let ctx = &*ctx;
        let mut run = std::pin::pin!(Self::run_in_step(ctx));
        let run = std::future::poll_fn(|cx| {
            show_who_looks(ctx);
            run.as_mut().poll(cx)
        });
        crate::engine::query_safety::in_step(ctx, run).await
    }

    /// Starts of the strides that follow one that is running.
    #[signal(name = protocol::NEXT_PAGE)]
    pub(crate) fn next_page(&mut self, _ctx: &mut SyncWorkflowContext<Self>, next: NextPage) {
        self.0.hear_next_page(&next);
    }

    /// Reports of strides that run on a bridge.
    #[signal(name = protocol::BRIDGE_RESULTS)]
    pub(crate) fn bridge_results(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        news: BridgeResults,
    ) {
        self.0.hear_bridge(time(ctx.workflow_time()), news);
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

    /// The share of this partition from now on.
    #[signal(name = protocol::SHARE)]
    pub(crate) fn share(&mut self, _ctx: &mut SyncWorkflowContext<Self>, order: ShareOrder) {
        self.0.hear_share(order);
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
    pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.0.look()
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
}

impl Controller {
    async fn run_in_step(ctx: &WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        refuse_newer(ctx).await;
        let now = now(ctx);
        ctx.state_mut(|Controller(s)| {
            s.bridging.begin(now, &s.published.control.bridges);
            // Bridges without strides no longer need to be published.
            let chain = &s.chain;
            let known = &mut s.published.control.bridges;
            known.retain(|id| chain.bridges().any(|busy| busy == id));
        });
        if ctx.state_mut(|Controller(s)| s.begin(now)) {
            log(ctx, "batch started");
        }
        let mut ending = prepare(ctx).await?;
        if ending.is_none() {
            ending = lock::take(ctx).await?;
        }
        match ending {
            Some(ending) if ctx.state(|Controller(s)| s.chain.running() == 0) => {
                end(ctx, ending, SideCalls::default()).await
            }
            _ if ctx.state(|Controller(s)| s.partitions.is_some()) => run_partitions(ctx).await,
            // The loop also runs if the batch is ending, because it waits for strides of earlier runs on bridges.
            _ => run_batch(ctx).await,
        }
    }
}

/// A batch that a newer version started or handed over waits for a worker of that version.
async fn refuse_newer(ctx: &WorkflowContext<Controller>) {
    let version = ctx.state(|Controller(s)| s.input.version);
    if version > protocol::VERSION {
        ctx.force_task_fail(format!(
            "the batch was written by protocol version {version}; this worker knows up to {}",
            protocol::VERSION
        ));
        std::future::pending::<()>().await;
    }
}

/// Logs the message once: a replay was logged before.
fn log(ctx: &WorkflowContext<Controller>, what: &str) {
    if ctx.is_replaying() {
        return;
    }
    ctx.state(|Controller(s)| {
        let spec = &s.input.spec;
        tracing::info!(
            batch = spec.batch_id,
            batch_run = s.input.batch_run,
            processor = spec.processor,
            workflow_run = ctx.run_id(),
            run = s.runs + 1,
            pages = s.chain.totals.pages_completed,
            items = s.chain.totals.items.total(),
            "{what}"
        );
    });
}

fn now(ctx: &WorkflowContext<Controller>) -> Timestamp {
    time(ctx.workflow_time())
}

fn time(of_the_workflow: Option<std::time::SystemTime>) -> Timestamp {
    of_the_workflow.map_or(Timestamp(0), Timestamp::from)
}
