//! A batch with partitions: each has a controller of its own, which is a child workflow of this one.
//!
//! What the children do is decided in [`crate::decisions::partitions`]. Children end with their parent, also when that
//! continues as new; so before that they are told to stop, and the next run starts them where they stood. While one
//! of them is in a long page, this run starts the others again.

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
    Controller, Orders,
    ending::end,
    main_loop::{hand_over, until_awake},
    now,
    partition_child::own_cancellation,
    publish::publish,
    reduce::combine_rest,
    seed,
    side_calls::{Call, Calls, aside, standing},
    stages::check_at_end,
    timer::Alarm,
    view::details,
};
use crate::{
    base::{
        error::text::words,
        time::{Timestamp, earliest},
    },
    batch::{
        pace_settings::PaceSpec,
        partition_spec::first_stride,
        spec::{BatchSpec, HookNames},
    },
    decisions::{
        carry::{Carry, ControllerInput, EndDetails},
        chain::Event,
        pacing::{Pacing, StrideLength},
        partitions::{Next, Parked, PartLimits, Partitions, Step},
        scheduler::Ending,
        state::pending_notices::Notices,
    },
    page::token::PageToken,
    progress::{
        Progress,
        phase::{HeldBy, Outcome, Phase},
        report::BatchReport,
    },
    protocol::{
        self, ControlState, Controls, PageSizeSetting, PartOf, PartitionNews, PartitionsOrder,
        Prepared, Settled, ShareOrder, SplitAnswer, SplitOrder,
        partition::{Share, Told},
    },
};

/// Partitions that are listed in an answer or a report.
const MAX_LISTED: usize = 100;
/// The parent continues as new after this many times the pages of a run: it has few events for each of them.
const PAGES_PER_RUN: u64 = 10;
/// How long one activity looks at partitions; then another does.
const LOOKED_AT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// What one attempt at finding the middle of a range may take.
const SPLIT_TIMEOUT: Duration = Duration::from_secs(60);
/// As long as the children of a batch run before this one are being terminated, their ids are taken.
const START_AGAIN_AFTER: Duration = Duration::from_secs(1);
const STARTS: u32 = 30;

type Child<'a> = Pin<Box<dyn Future<Output = ChildEnd> + 'a>>;
type Split<'a> = Pin<Box<dyn Future<Output = Result<SplitAnswer, ActivityExecutionError>> + 'a>>;

/// How the workflow of a partition ended.
enum ChildEnd {
    Report(Box<EndDetails>),
    /// Without a report.
    Lost(String),
}

/// What is under way.
#[derive(Default)]
struct UnderWay<'a> {
    /// In the order of their start; a set that is polled in the order of wake-ups would not replay.
    children: Vec<(u32, Child<'a>)>,
    signals: Vec<Call<'a>>,
    split: Option<(u32, Split<'a>)>,
}

/// Decides and acts until the batch is over.
pub(super) async fn run_partitions(
    ctx: &WorkflowContext<Controller>,
) -> WorkflowResult<BatchReport> {
    let mut under_way = UnderWay::default();
    let mut alarm = Alarm::default();
    let mut calls = Calls::default();
    loop {
        let (suggested, events) = (ctx.continue_as_new_suggested(), ctx.history_length());
        let now = now(ctx);
        ctx.state_mut(|s| s.refresh_partitions(now, suggested, events));
        calls.begin(ctx);
        let steps = match ctx.state(Controller::next_of_partitions) {
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
        let progress = ctx.state(Controller::look);
        ctx.set_current_details(details(&progress));
        publish(ctx, progress);
        let until = ctx.state(|s| {
            let partitions = s.partitions.as_ref();
            let due = partitions.and_then(|partitions| partitions.next_change(now));
            let deadline = s.deadline.filter(|at| *at > now);
            earliest(earliest(deadline, due), s.next_change())
        });
        alarm.set(ctx, calls.until(ctx, until), now);
        something_happens(ctx, &mut under_way, &mut calls, &mut alarm).await;
    }
}

/// Carries out what was decided. Tells whether there was anything to do.
fn carry_out<'a>(
    ctx: &'a WorkflowContext<Controller>,
    steps: Vec<Step>,
    under_way: &mut UnderWay<'a>,
) -> bool {
    let mut done = false;
    for step in steps {
        match step {
            Step::Begin { number, told } => {
                let started = ctx.state_mut(|s| s.part_input(number, &told));
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
                let order = ctx.state_mut(|s| s.share_order(number, told, split));
                if let Some((id, order)) = order {
                    let sent = ctx.external_workflow(id, None);
                    let sent = sent.signal(Controller::share, order, own_cancellation());
                    // One that has ended says so itself.
                    under_way.signals.push(Box::pin(async move {
                        let _ = sent.await;
                        Ok(())
                    }));
                    done = true;
                }
            }
            Step::Split { number, start, end } if under_way.split.is_none() => {
                let order = ctx.state(|s| s.split_order(number, start, end));
                // After a few attempts it goes on as it is.
                let options = aside(ctx, SPLIT_TIMEOUT, format!("split partition {number}"));
                let split = ctx.execute_activity(Orders::split, order, options);
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
    ctx: &'a WorkflowContext<Controller>,
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
                // Told to stop by signal, so that it comes back with what is left.
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
        ctx.state_mut(|s| {
            s.version += 1;
            if let Some(partitions) = &mut s.partitions {
                partitions.started(number);
            }
        });
        match started.result().await {
            Ok(report) => ChildEnd::Report(Box::new(EndDetails {
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

/// Waits for the end of a child, or for anything else that calls for a decision.
async fn something_happens(
    ctx: &WorkflowContext<Controller>,
    under_way: &mut UnderWay<'_>,
    calls: &mut Calls<'_>,
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
    /// Takes note of what has come back, and tells whether something has that matters.
    fn poll(&mut self, ctx: &WorkflowContext<Controller>, cx: &mut std::task::Context<'_>) -> bool {
        let mut awake = false;
        self.signals
            .retain_mut(|signal| signal.as_mut().poll(cx).is_pending());
        self.children.retain_mut(|(number, child)| {
            let Poll::Ready(ended) = child.as_mut().poll(cx) else {
                return true;
            };
            ctx.state_mut(|s| s.partition_ended(*number, ended));
            awake = true;
            false
        });
        if let Some((number, split)) = &mut self.split
            && let Poll::Ready(answer) = split.as_mut().poll(cx)
        {
            let number = *number;
            self.split = None;
            // What cannot be asked is not split.
            let at = answer.unwrap_or_default().at;
            ctx.state_mut(|s| {
                if let Some(partitions) = &mut s.partitions {
                    partitions.split(number, at);
                }
            });
            awake = true;
        }
        awake
    }
}

/// Has the partitions looked at for as long as this run lasts.
pub(super) fn look_at_partitions<'a>(ctx: &'a WorkflowContext<Controller>) -> Option<Call<'a>> {
    let order = ctx.state(|s| {
        s.partitions.as_ref()?;
        Some(PartitionsOrder {
            batch_id: s.input.spec.batch_id.clone(),
            batch_run: s.input.batch_run.clone(),
        })
    })?;
    let options = standing(ctx, LOOKED_AT_FOR, "look at the partitions".to_owned());
    Some(Box::pin(ctx.execute_activity(
        Orders::partitions,
        order,
        options,
    )))
}

/// # Decide and record
impl Controller {
    fn next_of_partitions(&self) -> Next {
        match &self.partitions {
            Some(partitions) => partitions.next(&self.part_limits(), self.now),
            None => Next::Finish(Ending {
                outcome: Outcome::Failed,
                reason: Some("internal error: there are no partitions".to_owned()),
            }),
        }
    }

    /// The limits of the batch, as its partitions are told them.
    fn part_limits(&self) -> PartLimits {
        let pace = self.pace();
        let prepared = self.prepared.as_ref();
        let max_parallelism = self.controls.max_parallelism;
        let page_size = match self.pacing.auto_page_size() {
            Some(auto) => PageSizeSetting::Auto(*auto),
            None => PageSizeSetting::Fixed(self.pacing.page_size()),
        };
        let stride = self.pacing.stride().map(StrideLength::setting);
        PartLimits {
            all: Told {
                share: Share {
                    parallelism: pace.parallelism,
                    rate: pace.rate,
                    page_rate: pace.page_rate,
                },
                paused: self.controls.paused || pace.held.is_some(),
                stop_now: self.controls.paused && self.controls.stop_now,
                stop: false,
                page_pause: self.pacing.page_pause_now(max_parallelism, self.now),
                page_size,
                stride,
            },
            cancelled: self.cancelled,
            stopping: self.controls.stopping.clone(),
            deadline: self.deadline,
            hand_over: self.must_hand_over || self.ledger.hand_over_due().is_some(),
            must_hand_over: self.must_hand_over,
            hooks_running: self.hooks_running,
            dead_letters: prepared.is_some_and(|prepared| prepared.dead_letters),
            splits: prepared.is_some_and(|prepared| prepared.splits),
        }
    }

    /// Takes note of the time and of what the partitions have done.
    fn refresh_partitions(&mut self, now: Timestamp, suggested: bool, events: u32) {
        let mut pages = 0;
        if let Some(partitions) = &mut self.partitions {
            self.ledger.totals = partitions.totals();
            pages = partitions.pages_this_run();
        }
        self.refresh(now, suggested, events);
        let due = self.input.spec.pages_per_run.map(u64::from);
        if due.is_some_and(|due| pages >= due.saturating_mul(PAGES_PER_RUN)) {
            self.record(Event::HandOverDue { now });
        }
        let limits = self.part_limits();
        if let Some(partitions) = &mut self.partitions {
            partitions.mind_hand_over(&limits, now);
        }
    }

    fn partition_ended(&mut self, number: u32, ended: ChildEnd) {
        let Some(partitions) = &mut self.partitions else {
            return;
        };
        match ended {
            ChildEnd::Report(details) => {
                let carry = details.continuation.and_then(|input| input.carry);
                let parked = carry.map(|carry| Parked {
                    ledger: carry.ledger,
                    pacing: carry.pacing,
                    notices: carry.notices,
                });
                let output = partitions.ended(number, &details.report, parked);
                if let (Some(output), Some(fold)) = (output, self.ledger.fold_mut()) {
                    fold.merge(output);
                }
            }
            ChildEnd::Lost(why) => partitions.lost(number, &why),
        }
    }

    pub(super) fn partition_settled(&mut self, settled: &Settled) {
        if settled.batch_run != self.input.batch_run {
            return;
        }
        if let Some(partitions) = &mut self.partitions {
            self.version += 1;
            partitions.settled(settled.number, settled.seq);
        }
    }

    pub(super) fn partitions_looked(&mut self, news: PartitionNews, at: Timestamp) {
        if news.batch_run != self.input.batch_run {
            return;
        }
        if let Some(partitions) = &mut self.partitions {
            self.version += 1;
            for (number, look) in news.looks {
                partitions.looked(number, look, at);
            }
        }
    }
}

/// # What children are given
impl Controller {
    fn share_order(
        &mut self,
        number: u32,
        told: Told,
        split: bool,
    ) -> Option<(String, ShareOrder)> {
        let partitions = self.partitions.as_mut()?;
        let (seq, say_when_settled) = partitions.tell(number, told.clone(), split)?;
        let order = ShareOrder {
            batch_run: self.input.batch_run.clone(),
            seq,
            told,
            say_when_settled,
        };
        let id = protocol::partition_id(&self.input.spec.batch_id, number);
        Some((id, order))
    }

    fn split_order(
        &self,
        number: u32,
        start: Option<PageToken>,
        end: Option<PageToken>,
    ) -> SplitOrder {
        let name = self.partitions.as_ref().and_then(|p| p.own_name(number));
        SplitOrder {
            processor: self.input.spec.processor.clone(),
            args: self.args().clone(),
            partition: name.unwrap_or_default().to_owned(),
            start,
            end,
        }
    }

    /// What the controller of a partition begins with, or goes on with.
    pub(super) fn part_input(&mut self, number: u32, told: &Told) -> Option<ControllerInput> {
        let prepared = self.prepared.clone()?;
        let (partition, seq, parked) = self.partitions.as_mut()?.begin(number, told.clone())?;
        let spec = self.spec_of_part(partition.start.clone());
        let parked = parked.unwrap_or_else(|| {
            let mut pacing = Pacing::of(&spec, self.now);
            // The parent asks the throttles, and holds its partitions.
            pacing.hears_of_throttles();
            Parked {
                ledger: Partitions::ledger(&partition, number, seed(&self.input.batch_run)),
                pacing,
                // Those of the batch itself begin with 1.
                notices: Notices::numbered_from(first_stride(number + 1)),
            }
        });
        let part = PartOf {
            number,
            name: partition.own_name().to_owned(),
            seq,
            says_when_settled: false,
        };
        let carry = Carry {
            ledger: parked.ledger,
            prepared: Prepared {
                items_expected: partition.items,
                items_exact: false,
                ..prepared
            },
            controls: Controls {
                max_parallelism: told.share.parallelism,
                ..Controls::default()
            },
            started_at: self.now,
            runs: 0,
            deadline: None,
            notices: parked.notices,
            audit: crate::progress::audit::Audit::default(),
            pacing: parked.pacing,
            published: ControlState::default(),
            stages: None,
            checked: None,
            partitions: None,
        };
        let input = ControllerInput {
            version: self.input.version,
            batch_run: self.input.batch_run.clone(),
            spec,
            begun: None,
            carry: Some(carry),
            part: Some(part),
        };
        Some(input.keeping_to(told))
    }

    /// The batch as one partition sees it: what is for the whole of it is the parent's.
    fn spec_of_part(&self, start: Option<PageToken>) -> BatchSpec {
        let spec = &self.input.spec;
        BatchSpec {
            first_cursor: start,
            hooks: HookNames {
                failure_handler: spec.hooks.failure_handler.clone(),
                ..HookNames::default()
            },
            pace: PaceSpec {
                auto_page_size: spec.pace.auto_page_size,
                throttles: spec.pace.throttles.clone(),
                ..PaceSpec::default()
            },
            rate: None,
            tolerance: None,
            deadline: None,
            lock: None,
            wait_for_lock: false,
            check_at_end: None,
            partitioned: false,
            ..spec.clone()
        }
    }
}

impl ControllerInput {
    /// The share that a partition begins with is in what it carries, like one that it was told later.
    fn keeping_to(self, told: &Told) -> Self {
        let mut controller = Controller::of(self);
        controller.keep_to(told);
        let runs = controller.runs;
        let mut input = controller.next_input();
        if let Some(carry) = &mut input.carry {
            carry.runs = runs;
        }
        input
    }
}

/// # Look
impl Controller {
    /// Writes the partitions into the progress of the batch, if it has any.
    pub(super) fn show_partitions(&self, progress: &mut Progress, held: bool) {
        let Some(partitions) = &self.partitions else {
            return;
        };
        partitions.show(progress, MAX_LISTED);
        if self.closing.is_some() || self.waits_for_lock() {
            return;
        }
        let held = held && !self.controls.paused;
        progress.phase = partitions.phase(&self.part_limits(), held, self.now);
        if progress.phase == Phase::Blocked {
            progress.blocked_reason = partitions.blocked_reason();
        }
        // These would be about the pages of the parent, which has none.
        let of_pages = [
            HeldBy::Discovery,
            HeldBy::Retries,
            HeldBy::Parallelism,
            HeldBy::ContinueAsNew,
        ];
        if progress.held_by.is_some_and(|by| of_pages.contains(&by)) {
            progress.held_by = None;
            progress.explanation.clear();
        }
        progress.limited_by = progress.limited_by.filter(|by| !of_pages.contains(by));
    }
}
