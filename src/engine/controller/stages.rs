//! What is looked at before the batch goes on, and after its last page.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::RetryPolicy as TemporalRetryPolicy;
use temporalio_sdk::{
    ActivityExecutionError, ActivityOptions, WorkflowCancellationToken, WorkflowContext,
};

use super::{
    Controller, Orders,
    dispatch::{cancelled_with_workflow, describe},
    log,
    main_loop::in_time,
    now,
    publish::publish,
    side_calls::Call,
    view::details,
};
use crate::{
    decisions::{
        scheduler::{self, Ending, StageLimit},
        state::stages::Judged,
    },
    processor::hooks::Failure,
    progress::{
        audit::Given,
        check::Checked,
        phase::{HeldBy, Outcome, Phase},
    },
    protocol::{self, CheckAnswer, CheckOrder, WaitsFor},
};

/// What one attempt at a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// After this without a heartbeat another worker makes the check.
const CHECK_HEARTBEAT: Duration = Duration::from_secs(15);

impl Controller {
    /// What the stage leaves to the strides.
    pub(super) fn stage_limit(&self) -> Option<StageLimit> {
        let items = self.stages.as_ref()?.limit()?;
        let pages = u64::from(self.stride_length().pages);
        Some(StageLimit {
            items,
            stride_items: pages * u64::from(self.pacing.page_size()),
        })
    }

    /// Notices that a stage is done.
    pub(super) fn mind_stage(&mut self) {
        let done = scheduler::stage_is_done(&self.ledger, &self.limits());
        if let Some(stages) = self.stages.as_mut().filter(|_| done && !self.cancelled) {
            stages.reached();
        }
    }

    fn check_order(&self, at_end: bool) -> CheckOrder {
        let spec = &self.input.spec;
        CheckOrder {
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            processor: spec.processor.clone(),
            args: self.args().clone(),
            redrive: spec.redrive_of.is_some(),
            covered_from: spec.first_cursor.clone(),
            covered_to: match at_end {
                true => None,
                false => self.ledger.low_water_mark().cloned(),
            },
        }
    }

    /// The check that has to be made now.
    fn stage_to_check(&self) -> Option<CheckOrder> {
        let stages = self.stages.as_ref()?;
        let wanted = stages.is_checking() && !self.cancelled;
        wanted.then(|| self.check_order(false))
    }

    /// Nothing is covered before the first page, and no cursor means everything.
    fn covers_nothing(&self) -> bool {
        self.ledger.low_water_mark() == self.input.spec.first_cursor.as_ref()
    }

    fn checked(&mut self, checked: Checked) {
        self.waits = None;
        self.version += 1;
        let exceeded = self.exceeded_in_stage();
        let now = self.now;
        let Some(stages) = &mut self.stages else {
            return;
        };
        let stage = stages.called();
        let judged = stages.judge(&checked, exceeded);
        let found = match &checked.found {
            Some(found) if checked.error.is_none() => found.summary(),
            _ => "nothing was checked".to_owned(),
        };
        self.checked = Some(checked);
        let (action, why) = match judged {
            Judged::GoesOn => ("go on", format!("{stage} is done; {found}")),
            Judged::Holds(reason) => {
                if stages.progress().state == crate::progress::parts::StageState::Failed {
                    let reason = format!("{stage}: {reason}");
                    self.note(Failure::StageFailed { reason });
                }
                ("hold", format!("{stage} is done; {reason}"))
            }
        };
        self.audit.note(now, action, &Given::by_itself(why));
    }

    /// Says when more failed than is tolerated, however little was done. Without a tolerance nothing is.
    fn exceeded_in_stage(&self) -> Option<String> {
        let totals = &self.ledger.totals;
        let forgiven = self.controls.forgiven.unwrap_or_default();
        match &self.input.spec.tolerance {
            Some(tolerance) => tolerance.exceeded_by_sample(totals.tally(), &forgiven),
            None => {
                let failed = totals.tally().since(&forgiven);
                (failed.items_failed + failed.pages_failed > 0)
                    .then(|| scheduler::given_up(failed.pages_failed, failed.items_failed))
            }
        }
    }

    pub(super) fn waits_explained(&self) -> Option<(HeldBy, String)> {
        let news = self.waits.as_ref();
        let (for_what, held_by, waits) = if self.prepared.is_none() {
            let doing = news.and_then(|news| news.doing.clone());
            let waits = doing.unwrap_or_else(|| {
                "waiting for the processor to complete its arguments".to_owned()
            });
            (WaitsFor::Prepare, HeldBy::Preparing, waits)
        } else if self.checking_at_end {
            let waits = "every page is finished, and being checked".to_owned();
            (WaitsFor::Check, HeldBy::Stage, waits)
        } else {
            let stages = self.stages.as_ref().filter(|stages| stages.is_checking())?;
            (WaitsFor::Check, HeldBy::Stage, stages.explained())
        };
        let news = news.filter(|news| news.for_what == for_what);
        if for_what == WaitsFor::Prepare && news.is_none() {
            return None;
        }
        let error = news.and_then(|news| news.error.as_ref());
        if let Some(news) = news.filter(|news| news.unknown) {
            return Some((HeldBy::NoWorker, news.error.clone().unwrap_or_default()));
        }
        let again = error.map_or_else(String::new, |e| format!("; tried again after {e}"));
        Some((held_by, format!("{waits}{again}")))
    }
}

fn options(ctx: &WorkflowContext<Controller>, summary: &str) -> ActivityOptions {
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_interval(Duration::from_secs(60))
        .build();
    ActivityOptions::with_start_to_close_timeout(CHECK_TIMEOUT)
        .heartbeat_timeout(CHECK_HEARTBEAT)
        .retry_policy(retry)
        .task_queue(protocol::aside_queue(ctx.task_queue()))
        .summary(summary.to_owned())
        .build()
}

/// What came back. `None` where the batch was cancelled meanwhile.
fn outcome(
    ctx: &WorkflowContext<Controller>,
    order: &CheckOrder,
    at_end: bool,
    answer: Result<CheckAnswer, ActivityExecutionError>,
) -> Option<Checked> {
    let (found, error) = match answer {
        Ok(answer) => (answer.found, None),
        Err(ActivityExecutionError::Cancelled(_)) => return None,
        Err(error) => {
            let (error_type, message) = describe(&error);
            (None, Some(format!("{error_type}: {message}")))
        }
    };
    Some(Checked {
        covered_to: order.covered_to.clone(),
        found,
        error,
        at: now(ctx),
        at_end,
    })
}

/// Has a stage looked at that is done. The next run of the controller does it again if this one ends first.
pub(super) fn check_stage(ctx: &WorkflowContext<Controller>) -> Option<Call<'_>> {
    let order = ctx.state(Controller::stage_to_check)?;
    let nothing = ctx.state(Controller::covers_nothing);
    Some(Box::pin(async move {
        let answer = if nothing {
            Ok(CheckAnswer::default())
        } else {
            let schedule = |options| ctx.execute_activity(Orders::check, order.clone(), options);
            cancelled_with_workflow(ctx, options(ctx, "check the stage"), schedule).await
        };
        if let Some(checked) = outcome(ctx, &order, false, answer) {
            ctx.state_mut(|s| s.checked(checked));
        }
        Ok(())
    }))
}

/// Has everything looked at after the last page, if that was asked for. What does not hold, or cannot be
/// checked, keeps the batch from being completed.
pub(super) async fn check_at_end(ctx: &WorkflowContext<Controller>, ending: Ending) -> Ending {
    if !ending.is_of_all() || !ctx.state(|s| s.input.spec.checks_at_end()) {
        return ending;
    }
    log(ctx, "checking what was done");
    let order = ctx.state_mut(|s| {
        s.closing = Some(Phase::Finishing);
        s.checking_at_end = true;
        s.check_order(true)
    });
    let progress = ctx.state(Controller::look);
    ctx.set_current_details(details(&progress));
    publish(ctx, progress);
    let own = WorkflowCancellationToken::new();
    let mut options = options(ctx, "check everything");
    options.cancellation_token = Some(own.clone());
    let deadline = ctx.state(|s| s.deadline);
    let checking = ctx.execute_activity(Orders::check, order.clone(), options);
    let answer = in_time(ctx, deadline, own, checking).await;
    let now = now(ctx);
    let (checked, early) = match answer {
        Ok(answer) => (outcome(ctx, &order, true, answer), None),
        Err(early) => (None, Some(early)),
    };
    ctx.state_mut(|s| {
        s.now = now;
        s.checking_at_end = false;
        s.waits = None;
        s.checked.clone_from(&checked);
    });
    if let Some(early) = early {
        return early.after_the_last_page("while it was checked");
    }
    match checked.and_then(|checked| checked.failure()) {
        None => ending,
        Some(failure) => Ending {
            outcome: Outcome::CompletedWithFailures,
            reason: Some(match ending.reason {
                Some(reason) => format!("{reason}; {failure}"),
                None => failure,
            }),
        },
    }
}
