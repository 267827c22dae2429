//! The workflow that holds a batch's state and dispatches its strides.
//!
//! It only translates: a Temporal event becomes a fact in the [`Ledger`], [`decide`] says what follows,
//! and the decision becomes a Temporal command. Nothing here may look at a clock, at random numbers, at
//! the order of a hash map, or do I/O: a worker replays this code from the history.
//!
//! ```text
//!   signal next_page ─┐                        ┌─> schedule a stride activity
//!   activity result ──┼─> Ledger ──> decide ───┼─> start a timer
//!   update, cancel ───┘                        ├─> continue as new
//!                                              └─> complete, fail, cancel
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | here | the state, and what comes from outside: signal, queries, updates |
//! | `definitions` | the activities that are called |
//! | `run` | the loop: prepare, decide, wait; what is noted before each decision; continue-as-new |
//! | `dispatch` | from a decision to a stride's activity, and from its result to a fact |
//! | `ahead` | a defect of the SDK's core that it is kept from |
//! | `alarm` | the timer |
//! | `bridge` | the workflow that runs strides over a continue-as-new |
//! | `bridging` | giving strides to bridges |
//! | `hooks` | who is told what, and the calls that are under way |
//! | `ending` | the end: hooks, the report, how the workflow closes |
//! | `lock` | the named lock of the batch |
//! | `look` | progress, report and details |
//! | `size` | what one payload may have |
//! | `stages` | what is looked at before the batch goes on, and after its last page |
//! | `partitions` | the loop of a batch with partitions, in place of the one in `run` |
//! | `part` | what the controller of one partition does differently |
//! | `reduce` | combining what the pages put out, where only the processor can |
//! | `publish` | the memo: what running strides should do, and the progress for when no worker answers |
//! | `steer` | what operators ask for |

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
mod size;
mod stages;
mod steering;
#[cfg(test)]
mod tests;
mod timer;
mod view;

pub(crate) use activity_defs::{
    CheckActivity, CombineActivity, HookActivity, KeepReportActivity, LockActivity, Orders,
    PartitionsActivity, PrepareActivity, SplitActivity, StrideActivity, ThrottleActivity,
    UnlockActivity, WatchBridgesActivity, WindowsActivity,
};
pub(crate) use bridge::workflow::Bridge;

use temporalio_sdk::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};

use crate::{
    base::time::Timestamp,
    decisions::{
        carry::ControllerInput,
        chain::{Broken, Event, Ledger},
        pacing::{PaceNow, Pacing},
        partitions::Partitions,
        scheduler::{self, Decision, Limits, decide},
        state::{pending_notices::Notices, stages::Stages},
    },
    processor::reducer::Fold,
    progress::{
        Progress,
        audit::{Audit, Given},
        check::Checked,
        phase::Phase,
        report::BatchReport,
    },
    protocol::{
        self, AcceptedEnd, AcceptedEndRequest, ApproveRequest, BridgeResults, ClientLooks,
        Controls, LockHeld, NextPage, PartitionNews, PauseRequest, Prepared, ResumeRequest,
        SetRequest, Settled, ShareOrder, Steer, SteerRequest, ThrottleNews, WaitNews,
    },
};
use bridge::outbox::Bridging;
use ending::end;
use main_loop::{prepare, run_batch};
use partition_parent::run_partitions;
use publish::{Published, show_who_looks};
use side_calls::Calls;

/// See the [module documentation](self).
#[temporalio_macros::workflow]
pub(crate) struct Controller {
    input: ControllerInput,
    prepared: Option<Prepared>,
    ledger: Ledger,
    controls: Controls,
    notices: Notices,
    audit: Audit,
    deadline: Option<Timestamp>,
    cancelled: bool,
    /// Set once the batch is over: first while hooks are told, then when they are.
    closing: Option<Phase>,
    must_hand_over: bool,
    hooks_running: bool,
    /// An activity combines what pages have put out.
    combining: bool,
    pacing: Pacing,
    /// What is waited for beside the pages.
    waits: Option<WaitNews>,
    stages: Option<Stages>,
    checked: Option<Checked>,
    partitions: Option<Partitions>,
    /// Everything is being checked, after the last page.
    checking_at_end: bool,
    taking_lock: bool,
    lock_held_by: Option<String>,
    published: Published,
    bridging: Bridging,
    started_at: Timestamp,
    /// Server time of the last decision.
    now: Timestamp,
    /// Continue-as-new before this run.
    runs: u32,
    signals: u32,
    updates: u32,
    /// Counts changes, so that the main loop notices them.
    version: u64,
}

#[temporalio_macros::workflow_methods]
impl Controller {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ControllerInput) -> Self {
        Self::of(input)
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
        self.signals += 1;
        self.version += 1;
        if next.batch_run != self.input.batch_run {
            self.ledger.dropped();
            return;
        }
        let event = Event::Announced {
            by: next.stride,
            dispatch: next.dispatch,
            starts: &next.starts,
        };
        self.record(event);
    }

    /// What strides on a bridge came back with.
    #[signal(name = protocol::BRIDGE_RESULTS)]
    pub(crate) fn bridge_results(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        news: BridgeResults,
    ) {
        self.signals += 1;
        if news.batch_run == self.input.batch_run {
            self.version += 1;
            self.now = time(ctx.workflow_time());
            self.take_results(news);
        }
    }

    /// What the throttles of the batch say.
    #[signal(name = protocol::THROTTLED)]
    pub(crate) fn throttled(&mut self, ctx: &mut SyncWorkflowContext<Self>, news: ThrottleNews) {
        self.signals += 1;
        if news.batch_run == self.input.batch_run {
            self.version += 1;
            let at = time(ctx.workflow_time());
            self.pacing.throttle(&news.by, &news.verdict, at);
        }
    }

    /// Who has the lock that the batch waits for.
    #[signal(name = protocol::LOCK_HELD)]
    pub(crate) fn lock_held(&mut self, _ctx: &mut SyncWorkflowContext<Self>, held: LockHeld) {
        self.signals += 1;
        if held.batch_run == self.input.batch_run {
            self.version += 1;
            self.lock_held_by = Some(held.by);
        }
    }

    /// What the batch waits for beside its pages.
    #[signal(name = protocol::WAITS)]
    pub(crate) fn waits(&mut self, _ctx: &mut SyncWorkflowContext<Self>, news: WaitNews) {
        self.signals += 1;
        if news.batch_run == self.input.batch_run {
            self.version += 1;
            self.waits = Some(news);
        }
    }

    /// What is known of the partitions of the batch.
    #[signal(name = protocol::PARTITION_NEWS)]
    pub(crate) fn partition_news(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        news: PartitionNews,
    ) {
        self.signals += 1;
        self.partitions_looked(news, time(ctx.workflow_time()));
    }

    /// A partition keeps to a smaller share.
    #[signal(name = protocol::SETTLED)]
    pub(crate) fn settled(&mut self, _ctx: &mut SyncWorkflowContext<Self>, settled: Settled) {
        self.signals += 1;
        self.partition_settled(&settled);
    }

    /// What this partition may have from now on.
    #[signal(name = protocol::SHARE)]
    pub(crate) fn share(&mut self, _ctx: &mut SyncWorkflowContext<Self>, order: ShareOrder) {
        self.signals += 1;
        self.take_share(order);
    }

    /// What one of the updates does, without an answer.
    #[signal(name = protocol::STEER)]
    pub(crate) fn steer(&mut self, ctx: &mut SyncWorkflowContext<Self>, request: SteerRequest) {
        self.signals += 1;
        let at = time(ctx.workflow_time());
        match request.what {
            Steer::Pause(request) => self.do_pause(at, request),
            Steer::Resume(request) => self.do_resume(at, &request),
            Steer::Approve(request) => self.do_approve(at, &request),
            Steer::Recover(note) => self.note_recovery(at, &request.id, &note),
            Steer::Nothing => {}
            Steer::Set(request) => match request.validate() {
                Ok(()) => self.do_set(at, &request),
                // Clients check before they send, so it is from elsewhere; a signal has no other answer.
                Err(invalid) => self.steered(at, format!("set refused: {invalid}"), &request.given),
            },
        }
    }

    /// A client looks: the memo shows it the progress, now and for a while. Not from here: commands of a handler would
    /// stay where the task fails, and go out with the answer to a query, at which the worker ends.
    #[signal(name = protocol::LOOK)]
    pub(crate) fn client_looks(&mut self, ctx: &mut SyncWorkflowContext<Self>, _look: ClientLooks) {
        self.signals += 1;
        self.published.looks(time(ctx.workflow_time()));
    }

    /// For Temporal's own tools. Nothing of this crate asks: see `ahead`.
    #[query(name = protocol::PROGRESS)]
    pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.look()
    }

    /// Where a stride ends. An update, so that the history knows what was answered.
    #[update(name = protocol::ACCEPTED_END)]
    pub(crate) fn accepted_end(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        asked: AcceptedEndRequest,
    ) -> AcceptedEnd {
        self.updates += 1;
        let stride = (asked.batch_run == self.input.batch_run)
            .then(|| self.ledger.stride(asked.stride))
            .flatten();
        AcceptedEnd {
            open: stride.is_some(),
            end: stride.and_then(|s| s.end.clone()),
        }
    }

    /// Stops dispatching; running pages finish. Pausing what is paused changes the reason only.
    #[update(name = protocol::PAUSE)]
    pub(crate) fn pause(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: PauseRequest,
    ) -> Controls {
        self.updates += 1;
        self.do_pause(time(ctx.workflow_time()), request);
        self.controls.clone()
    }

    /// Goes on dispatching. Resuming what runs changes nothing. What failed is forgiven, if the batch
    /// paused itself for it.
    #[update(name = protocol::RESUME)]
    pub(crate) fn resume(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: ResumeRequest,
    ) -> Controls {
        self.updates += 1;
        self.do_resume(time(ctx.workflow_time()), &request);
        self.controls.clone()
    }

    #[update_validator(approve)]
    fn validate_approve(
        &self,
        _ctx: &WorkflowContextView,
        request: &ApproveRequest,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // It may have come as a signal before.
        if self.controls.is_known(request.id.as_deref()) {
            return Ok(());
        }
        Ok(self.waits_for_approval()?)
    }

    /// Goes on after a stage, whatever was found.
    #[update(name = protocol::APPROVE)]
    pub(crate) fn approve(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: ApproveRequest,
    ) -> Controls {
        self.updates += 1;
        self.do_approve(time(ctx.workflow_time()), &request);
        self.controls.clone()
    }

    #[update_validator(set)]
    fn validate_set(
        &self,
        _ctx: &WorkflowContextView,
        request: &SetRequest,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(request.validate()?)
    }

    /// Changes limits; what is absent stays as it is.
    #[update(name = protocol::SET)]
    pub(crate) fn set(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: SetRequest,
    ) -> Controls {
        self.updates += 1;
        self.do_set(time(ctx.workflow_time()), &request);
        self.controls.clone()
    }
}

impl Controller {
    async fn run_in_step(ctx: &WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        refuse_newer(ctx).await;
        let now = now(ctx);
        ctx.state_mut(|s| {
            s.bridging.begin(now, &s.published.control.bridges);
            // Nobody else has to be told of those that have nothing.
            let ledger = &s.ledger;
            let known = &mut s.published.control.bridges;
            known.retain(|id| ledger.bridges().any(|busy| busy == id));
        });
        if ctx.state_mut(|s| s.begin(now)) {
            log(ctx, "batch started");
        }
        let mut ending = prepare(ctx).await?;
        if ending.is_none() {
            ending = lock::take(ctx).await?;
        }
        match ending {
            Some(ending) if ctx.state(|s| s.ledger.running() == 0) => {
                end(ctx, ending, Calls::default()).await
            }
            _ if ctx.state(|s| s.partitions.is_some()) => run_partitions(ctx).await,
            // Also where the batch ends: strides of earlier runs are on bridges, and the loop waits for them.
            _ => run_batch(ctx).await,
        }
    }

    fn of(mut input: ControllerInput) -> Self {
        let carry = input.carry.take();
        let spec = &input.spec;
        let mut controller = Self {
            prepared: None,
            ledger: Ledger::new(spec.first_cursor.clone(), seed(&input.batch_run)),
            controls: Controls {
                max_parallelism: spec.max_parallelism,
                ..Controls::default()
            },
            notices: Notices::default(),
            audit: Audit::default(),
            deadline: None,
            cancelled: false,
            closing: None,
            must_hand_over: false,
            hooks_running: false,
            combining: false,
            pacing: Pacing::of(spec, Timestamp(0)),
            waits: None,
            stages: None,
            checked: None,
            partitions: None,
            checking_at_end: false,
            taking_lock: false,
            lock_held_by: None,
            published: Published::default(),
            bridging: Bridging::default(),
            started_at: Timestamp(0),
            now: Timestamp(0),
            runs: 0,
            signals: 0,
            updates: 0,
            version: 0,
            input,
        };
        if let Some(carry) = carry {
            controller.ledger = carry.ledger;
            controller.prepared = Some(carry.prepared);
            controller.begin_to_reduce();
            controller.controls = carry.controls;
            controller.notices = carry.notices;
            controller.audit = carry.audit;
            controller.deadline = carry.deadline;
            controller.started_at = carry.started_at;
            controller.now = carry.started_at;
            controller.runs = carry.runs;
            controller.published = Published::before(carry.published);
            controller.stages = carry.stages;
            controller.checked = carry.checked;
            controller.partitions = carry.partitions;
            controller.pacing = carry.pacing;
        }
        controller
    }

    /// Begins a run of the controller; tells whether it is the first of its batch run.
    fn begin(&mut self, now: Timestamp) -> bool {
        self.now = now;
        let first = self.runs == 0;
        if first {
            self.started_at = now;
        }
        let begun = self.input.begun.take();
        if first || begun.is_some() {
            self.pacing.begins(now);
            self.deadline = self.input.spec.deadline.map(|after| now.plus(after));
        }
        if let Some(begun) = begun {
            self.audit.begin(now, begun.action, &begun.given);
        }
        first
    }

    /// Gives the ledger the reducer of the processor, if it has one and the ledger has none yet.
    fn begin_to_reduce(&mut self) {
        let prepared = self.prepared.as_ref();
        if let Some(plan) = prepared.and_then(|prepared| prepared.reducer.clone()) {
            self.ledger.reduce_by(plan);
        }
    }

    /// The arguments of the batch, as its processor completed them.
    fn args(&self) -> &serde_json::Value {
        let completed = self.prepared.as_ref().and_then(|p| p.args.as_ref());
        completed.unwrap_or(&self.input.spec.args)
    }

    /// Takes note of an operator's request.
    fn steered(&mut self, at: Timestamp, action: impl Into<String>, given: &Given) {
        self.published.steered();
        self.version += 1;
        self.audit.note(at, action, given);
    }

    fn cancel(&mut self, at: Timestamp, reason: Option<&str>) {
        if !self.cancelled {
            self.cancelled = true;
            let given = Given::from_text(reason.unwrap_or_default());
            self.audit.note(at, "cancel", &given);
        }
    }

    fn pace(&self) -> PaceNow {
        self.pacing.now(self.controls.max_parallelism, self.now)
    }

    fn limits(&self) -> Limits {
        self.limits_at(&self.pace())
    }

    fn limits_at(&self, pace: &PaceNow) -> Limits {
        Limits {
            max_parallelism: pace.parallelism,
            paused: self.controls.paused,
            held: pace.held.is_some() || self.stages.as_ref().is_some_and(Stages::holds),
            stage: self.stage_limit(),
            cancelled: self.cancelled,
            rate: pace.rate,
            page_rate: pace.page_rate,
            must_hand_over: self.must_hand_over,
            deadline: self.deadline,
            stopping: self.controls.stopping.clone(),
            outputs_full: self.ledger.fold().is_some_and(Fold::is_full),
            hooks_running: self.hooks_running,
            strides_grow: self.strides_grow(),
            bridged: self.bridging.on,
            delivering: self.bridging.is_delivering(),
            of_part: self.is_part(),
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.ledger, &self.limits(), self.now)
    }

    fn makes_way(&self) -> bool {
        scheduler::makes_way(&self.ledger, &self.limits(), self.now)
    }

    /// Keeps a fact; one that cannot be ends the batch rather than being ignored.
    fn record(&mut self, event: Event<'_>) {
        if let Err(e) = self.ledger.record(event) {
            self.ledger.break_off(Broken::Impossible {
                what: e.to_string(),
            });
        }
    }
}

/// The same for every run of a batch run, and different for others.
fn seed(batch_run: &str) -> u64 {
    // FNV-1a (Fowler, Noll and Vo).
    batch_run.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A batch that a newer version started or handed over waits for a worker of that version.
async fn refuse_newer(ctx: &WorkflowContext<Controller>) {
    let version = ctx.state(|s| s.input.version);
    if version > protocol::VERSION {
        ctx.force_task_fail(format!(
            "the batch was written by protocol version {version}; this worker knows up to {}",
            protocol::VERSION
        ));
        std::future::pending::<()>().await;
    }
}

/// Says it once: a replay has been logged before.
fn log(ctx: &WorkflowContext<Controller>, what: &str) {
    if ctx.is_replaying() {
        return;
    }
    ctx.state(|s| {
        let spec = &s.input.spec;
        tracing::info!(
            batch = spec.batch_id,
            batch_run = s.input.batch_run,
            processor = spec.processor,
            workflow_run = ctx.run_id(),
            run = s.runs + 1,
            pages = s.ledger.totals.pages_completed,
            items = s.ledger.totals.items.total(),
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
