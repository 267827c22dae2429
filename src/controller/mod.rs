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
//! | `alarm` | the timer |
//! | `hooks` | who is told what, and the calls that are under way |
//! | `ending` | the end: hooks, the report, how the workflow closes |
//! | `look` | progress, report and details |
//! | `optional` | an argument that older clients leave out |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod alarm;
mod definitions;
mod dispatch;
mod ending;
mod hooks;
mod look;
mod optional;
mod run;

pub(crate) use definitions::{
    HookActivity, KeepReportActivity, Orders, PrepareActivity, StrideActivity,
};
pub(crate) use optional::Optional;

use self::{
    ending::end,
    hooks::Calls,
    run::{prepare, run_batch},
};
use temporalio_sdk::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};

use crate::{
    audit::{Audit, Given},
    batch::validate_max_parallelism,
    error::truncate,
    ledger::{Broken, Event, Ledger},
    notices::Notices,
    progress::{BatchReport, Phase, Progress, Timestamp},
    protocol::{
        self, AcceptedEnd, AcceptedEndQuery, ControlState, ControllerInput, Controls, NextPage,
        PauseRequest, Prepared, ResumeRequest, SetRequest,
    },
    scheduler::{self, Decision, Limits, decide},
};
/// A pause reason is shown in one line.
const MAX_REASON_CHARS: usize = 500;

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
        let mut input = input;
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
            started_at: Timestamp(0),
            now: Timestamp(0),
            runs: 0,
            signals: 0,
            updates: 0,
            version: 0,
            input,
        };
        if let Some(carry) = carry {
            controller.prepared = Some(carry.prepared);
            controller.ledger = carry.ledger;
            controller.controls = carry.controls;
            controller.notices = carry.notices;
            controller.audit = carry.audit;
            controller.deadline = carry.deadline;
            controller.started_at = carry.started_at;
            controller.now = carry.started_at;
            controller.runs = carry.runs;
        }
        controller
    }

    #[run(name = protocol::CONTROLLER)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        refuse_newer(ctx).await;
        let now = now(ctx);
        if ctx.state_mut(|s| s.begin(now)) {
            log(ctx, "batch started");
        }
        match prepare(ctx).await? {
            Some(ending) => end(ctx, ending, Calls::default()).await,
            None => run_batch(ctx).await,
        }
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
            starts: &next.starts,
        };
        self.record(event);
    }

    #[query(name = protocol::PROGRESS)]
    pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.look()
    }

    #[query(name = protocol::ACCEPTED_END)]
    pub(crate) fn accepted_end(
        &self,
        _ctx: &WorkflowContextView,
        query: AcceptedEndQuery,
    ) -> AcceptedEnd {
        let stride = (query.batch_run == self.input.batch_run)
            .then(|| self.ledger.stride(query.stride))
            .flatten();
        AcceptedEnd {
            open: stride.is_some(),
            end: stride.and_then(|s| s.end.clone()),
        }
    }

    #[query(name = protocol::CONTROL)]
    pub(crate) fn control(&self, _ctx: &WorkflowContextView) -> ControlState {
        ControlState {
            batch_run: self.input.batch_run.clone(),
            stop_at_page_boundary: scheduler::stop_at_page_boundary(
                &self.ledger,
                &self.limits(),
                self.now,
            ),
        }
    }

    /// Stops dispatching; running pages finish. Pausing what is paused changes the reason only.
    #[update(name = protocol::PAUSE)]
    pub(crate) fn pause(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: PauseRequest,
    ) -> Controls {
        let given = Given {
            who: request.who,
            why: request.reason,
        };
        self.steered(time(ctx.workflow_time()), "pause", &given);
        self.controls.paused = true;
        self.controls.pause_reason = given.why.map(|r| truncate(&r, MAX_REASON_CHARS));
        self.controls.clone()
    }

    /// Goes on dispatching. Resuming what runs changes nothing. What failed is forgiven, if the batch
    /// paused itself for it.
    #[update(name = protocol::RESUME)]
    pub(crate) fn resume(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: Optional<ResumeRequest>,
    ) -> Controls {
        self.steered(time(ctx.workflow_time()), "resume", &request.0.given);
        self.controls.paused = false;
        self.controls.pause_reason = None;
        if self.controls.tripped.take().is_some() {
            self.controls.forgiven = Some(self.ledger.totals.tally());
            self.ledger.totals.consecutive_failures = 0;
        }
        self.controls.clone()
    }

    #[update_validator(set)]
    fn validate_set(
        &self,
        _ctx: &WorkflowContextView,
        request: &SetRequest,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(pages) = request.max_parallelism {
            validate_max_parallelism(pages)?;
        }
        Ok(())
    }

    /// Changes limits; what is absent stays as it is.
    #[update(name = protocol::SET)]
    pub(crate) fn set(
        &mut self,
        ctx: &mut SyncWorkflowContext<Self>,
        request: SetRequest,
    ) -> Controls {
        let at = time(ctx.workflow_time());
        if let Some(pages) = request.max_parallelism {
            let action = format!("set max_parallelism to {pages}");
            self.steered(at, action, &request.given);
            self.controls.max_parallelism = pages;
        }
        self.controls.clone()
    }
}

impl Controller {
    /// Begins a run of the controller; tells whether it is the first of its batch run.
    fn begin(&mut self, now: Timestamp) -> bool {
        self.now = now;
        let first = self.runs == 0;
        if first {
            self.started_at = now;
        }
        let begun = self.input.begun.take();
        if first || begun.is_some() {
            self.deadline = self.input.spec.deadline.map(|after| now.plus(after));
        }
        if let Some(begun) = begun {
            self.audit.note(now, begun.action, &begun.given);
        }
        first
    }

    /// Takes note of an operator's request.
    fn steered(&mut self, at: Timestamp, action: impl Into<String>, given: &Given) {
        self.updates += 1;
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

    fn limits(&self) -> Limits {
        Limits {
            max_parallelism: self.controls.max_parallelism,
            paused: self.controls.paused,
            cancelled: self.cancelled,
            rate: self.input.spec.rate,
            must_hand_over: self.must_hand_over,
            deadline: self.deadline,
            stopping: self.controls.stopping.clone(),
            hooks_running: self.hooks_running,
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.ledger, &self.limits(), self.now)
    }

    fn is_draining(&self) -> bool {
        scheduler::is_draining(&self.ledger, &self.limits(), self.now)
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
