//! A decision becomes an activity, and what comes back becomes a fact.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, time::Duration};

use temporalio_common::{
    Priority, RetryPolicy as TemporalRetryPolicy,
    error::{IncomingError, TimeoutType},
};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, WorkflowContext,
};

use super::{Controller, Orders};
use crate::{
    decisions::{
        chain::Event,
        pacing::{Length, LengthBy, Standing, StrideLength, Uncut},
        scheduler::{self, Dispatch},
        state::{pending_notices::Before, stages::Stages},
    },
    protocol::{self, Checkpoint, FailedAttempt, StrideOrder, StrideReport, StrideTerms},
};

/// Error type of a stride whose worker did not come back.
const WORKER_LOST: &str = "WorkerLost";

pub(super) type StrideResult = Result<StrideReport, ActivityExecutionError>;
pub(super) type Activity<'a> = Pin<Box<dyn Future<Output = StrideResult> + 'a>>;

/// Records the dispatch and schedules the activity.
pub(super) fn start<'a>(
    ctx: &'a WorkflowContext<Controller>,
    dispatch: &Dispatch,
) -> Option<Activity<'a>> {
    let (order, options) = ctx.state_mut(|s| {
        let order = s.dispatched(dispatch, None)?;
        let options = activity_options(&s.terms()?, &order);
        Some((order, options))
    })?;
    let schedule = |options| ctx.execute_activity(Orders::stride, order, options);
    Some(Box::pin(cancelled_with_workflow(ctx, options, schedule)))
}

/// Makes an activity that is cancelled with its workflow. It waits with a token of its own: whatever is registered with
/// the token of the context keeps the context, which keeps the token, so a run that ends first would never be freed.
pub(super) fn cancelled_with_workflow<W, F: Future>(
    ctx: &WorkflowContext<W>,
    mut options: ActivityOptions,
    schedule: impl FnOnce(ActivityOptions) -> F,
) -> impl Future<Output = F::Output> {
    let token = ctx.cancellation_token().child_token();
    options.cancellation_token = Some(token.clone());
    let activity = schedule(options);
    async move {
        let _kept = token;
        activity.await
    }
}

impl Controller {
    /// Records the dispatch and says what the activity is told.
    pub(super) fn dispatched(
        &mut self,
        dispatch: &Dispatch,
        bridge: Option<&str>,
    ) -> Option<StrideOrder> {
        let mut order = self.order(dispatch, bridge)?;
        let by_item = self.permit_per_item();
        let [items, pages] = self.pacing.take_earned(by_item);
        (order.rate_ready, order.rate_owed) = (items.ready, items.owed);
        (order.page_rate_ready, order.page_rate_owed) = (pages.ready, pages.owed);
        self.note_cut(&order);
        self.record(Event::Dispatched {
            stride: dispatch.stride,
            rate_share: dispatch.rate_share,
            page_share: dispatch.page_share,
            items: dispatch.items,
            now: self.now,
        });
        if let Some(bridge) = bridge {
            let stride = dispatch.stride;
            self.record(Event::Bridged { stride, bridge });
        }
        Some(order)
    }

    pub(super) fn terms(&self) -> Option<StrideTerms> {
        let prepared = self.prepared.as_ref()?;
        Some(StrideTerms {
            retry_mode: prepared.retry_mode,
            heartbeat_timeout: prepared.heartbeat_timeout,
            weight: self.input.spec.weight,
        })
    }

    fn order(&self, dispatch: &Dispatch, bridge: Option<&str>) -> Option<StrideOrder> {
        let spec = &self.input.spec;
        let prepared = self.prepared.as_ref()?;
        let stride = self.ledger.stride(dispatch.stride)?;
        let page_size = self.pacing.page_size();
        Some(StrideOrder {
            batch_run: self.input.batch_run.clone(),
            batch_id: spec.batch_id.clone(),
            processor: spec.processor.clone(),
            args: self.args().clone(),
            stride: dispatch.stride,
            start: stride.at.clone(),
            end: stride.end.clone(),
            pages: match (self.pacing.stride(), &stride.end) {
                (Some(lengths), Some(_)) => lengths.of(dispatch.stride),
                (Some(_) | None, _) => self.stride_length().pages,
            },
            look_ahead: dispatch.look_ahead,
            page_size,
            attempt: stride.next_attempt(),
            rate_share: dispatch.rate_share,
            page_timeout: prepared.page_timeout,
            done: stride.done,
            attempts_allowed: prepared.retry.attempts_allowed(),
            failing_since: stride.trouble.as_ref().map(|t| t.first_at),
            take_apart: stride.trouble.as_ref().is_some_and(|t| t.take_apart),
            give_up: stride.give_up.as_deref().cloned(),
            redrive: spec.redrive_of.is_some(),
            is_kept: prepared.once_per_page && self.ledger.is_kept(dispatch.stride),
            dispatch: self.ledger.dispatches() + 1,
            page_share: dispatch.page_share,
            page_pause: self
                .pacing
                .page_pause_now(self.controls.max_parallelism, self.now),
            throttles: self.pacing.throttles().to_vec(),
            max_items: dispatch.items.map(|allotment| allotment.items),
            reducer: self.ledger.fold().map(|fold| fold.plan().clone()),
            time_limit: self.pacing.stride().and_then(StrideLength::time_limit),
            shortest: self
                .pacing
                .stride()
                .map_or(1, |lengths| lengths.shortest(page_size)),
            controller: self.own_id(),
            partition: self.input.part.as_ref().map(|part| part.name.clone()),
            last: self.ledger.last().cloned(),
            bridge: bridge.map(ToOwned::to_owned),
            rate_ready: 0,
            page_rate_ready: 0,
            rate_owed: 0,
            page_rate_owed: 0,
            tolerance: self.stride_tolerance(),
        })
    }

    /// Keeps what a stride came back with.
    pub(super) fn reported(&mut self, stride: u64, report: StrideReport) {
        let Some(prepared) = self.prepared.clone() else {
            return;
        };
        let now = self.now;
        let before = Before::of(&self.ledger, stride);
        self.pacing.reported(&report, self.ledger.running(), now);
        let left = [
            (report.rate_left, report.rate_untouched),
            (report.page_rate_left, report.page_rate_untouched),
        ];
        self.record(Event::Reported {
            stride,
            report: Box::new(report),
            policy: &prepared.retry,
            dead_letters: prepared.dead_letters,
            now,
        });
        self.pacing.rates_given_back(self.rates(), left);
        if self.input.spec.hooks.failure_handler.is_some() {
            self.notices.compare(&before, &self.ledger, stride);
        }
    }
}

/// # Rates
impl Controller {
    pub(super) fn permit_per_item(&self) -> bool {
        self.prepared.as_ref().is_some_and(|p| p.permit_per_item)
    }

    /// How much of the rates is given out: of items, and of pages.
    pub(super) fn rates(&self) -> [Standing; 2] {
        let pace = self.pace();
        let [items, pages] = scheduler::rates_given_out(&self.ledger);
        let free_slots = pace.parallelism.saturating_sub(self.ledger.running());
        let of_items = Standing {
            limit: pace.rate,
            given_out: items,
            unit: self.pacing.unit(self.permit_per_item()),
            free_slots,
        };
        let of_pages = Standing {
            limit: pace.page_rate,
            given_out: pages,
            unit: 1,
            free_slots,
        };
        [of_items, of_pages]
    }
}

/// # Stride lengths
impl Controller {
    /// How many pages the strides have that are cut next.
    pub(super) fn stride_length(&self) -> Length {
        match self.pacing.stride() {
            Some(lengths) => lengths.next(&self.uncut(lengths)),
            None => Length {
                pages: self.input.spec.stride,
                by: LengthBy::Setting,
            },
        }
    }

    pub(super) fn stride_because(&self, length: &Length) -> String {
        match self.partitions {
            Some(_) => "each partition finds its own".to_owned(),
            None => length.by.to_string(),
        }
    }

    /// What is cut into strides now is cut into short ones.
    pub(super) fn strides_grow(&self) -> bool {
        let lengths = self.pacing.stride();
        let page_size = self.pacing.page_size();
        lengths.is_some_and(|lengths| lengths.is_growing(page_size, || self.uncut(lengths)))
    }

    fn uncut(&self, lengths: &StrideLength) -> Uncut {
        let page_size = self.pacing.page_size();
        let totals = &self.ledger.totals;
        let frontier = self.ledger.frontier();
        let open = self.ledger.open();
        let open = open.filter(|(number, _)| Some(*number) != frontier);
        let open: u64 = open
            .map(|(number, stride)| {
                let done = stride.done.pages + stride.done.pages_failed;
                u64::from(lengths.of(number)).saturating_sub(done)
            })
            .sum();
        let expected = self.prepared.as_ref().and_then(|p| p.items_expected);
        let of_stage = self.stages.as_ref().and_then(Stages::limit);
        let expected = expected.into_iter().chain(of_stage).min();
        let left = expected.map(|expected| {
            let items = expected.saturating_sub(totals.items.total());
            let pages = items.div_ceil(u64::from(page_size.max(1)));
            pages.saturating_sub(open)
        });
        Uncut {
            left,
            found: totals.pages_completed + totals.pages_failed + open,
            slots: self.controls.max_parallelism,
            page_size,
        }
    }

    /// The strides that this one announces are as long as it is.
    fn note_cut(&mut self, order: &StrideOrder) {
        let oldest = self.ledger.open().next().map_or(0, |(number, _)| number);
        if order.end.is_none()
            && let Some(lengths) = self.pacing.stride_mut()
        {
            lengths.cut(order.stride, order.pages, oldest);
        }
    }
}

pub(super) fn activity_options(terms: &StrideTerms, order: &StrideOrder) -> ActivityOptions {
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_millis(200))
        .maximum_interval(Duration::from_secs(10))
        .maximum_attempts(order.attempts_at_lost_workers(terms.retry_mode))
        .build();
    // The activity limits its pages itself and says which one took too long. This limit is for a worker
    // that is alive but stuck in code that never yields; twice what the pages may take.
    let per_page = order.page_timeout.as_secs_f64()
        + order
            .rate_share
            .map_or(0.0, |share| f64::from(order.page_size) / share)
        + order.page_share.map_or(0.0, |share| 1.0 / share)
        + order.page_pause.map_or(0.0, |pause| pause.as_secs_f64());
    let limit = (per_page * f64::from(order.pages) * 2.0 + 60.0).min(30.0 * 86_400.0);
    let mut priority = Priority::default();
    priority.fairness_key = Some(order.batch_run.clone());
    priority.fairness_weight = terms.weight;
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs_f64(limit))
        // A replay compares ids, so that it notices another choice of stride.
        .activity_id(format!("stride-{}", order.stride))
        .heartbeat_timeout(terms.heartbeat_timeout)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retry)
        .summary(format!("stride {} attempt {}", order.stride, order.attempt))
        .priority(priority)
        .build()
}

/// What an activity came back with, as a report.
pub(super) fn report_of(result: StrideResult) -> StrideReport {
    match result {
        Ok(report) => report,
        // The activity was still waiting for a worker when the batch was cancelled.
        Err(ActivityExecutionError::Cancelled(_)) => StrideReport::default(),
        Err(error) => lost(&error),
    }
}

/// The report of a stride that nobody hears of any more.
pub(super) fn worker_lost(message: &str) -> StrideReport {
    StrideReport {
        failure: Some(failed(WORKER_LOST.to_owned(), message)),
        ..StrideReport::default()
    }
}

fn failed(error_type: String, message: &str) -> FailedAttempt {
    // Another worker on the queue has it, or the next deploy.
    let not_the_page = error_type == protocol::UNKNOWN_PROCESSOR;
    FailedAttempt {
        not_the_page,
        lost: !not_the_page,
        ..FailedAttempt::lost(error_type, message)
    }
}

/// What a stride is known to have done whose activity never reported.
fn lost(error: &ActivityExecutionError) -> StrideReport {
    let checkpoint = error
        .as_timeout()
        .and_then(|t| t.last_heartbeat_details::<Checkpoint>().ok().flatten());
    let mut report = checkpoint.unwrap_or_default().done;
    let (error_type, message) = describe(error);
    report.failure = Some(failed(error_type, &message));
    report
}

pub(super) fn describe(error: &ActivityExecutionError) -> (String, String) {
    if let Some(timeout) = error.as_timeout() {
        return match timeout.timeout_type() {
            TimeoutType::Heartbeat => (
                WORKER_LOST.to_owned(),
                "no heartbeat from its worker for longer than the timeout".to_owned(),
            ),
            _ => (
                "StrideTimeout".to_owned(),
                "the worker was alive but the stride never came back".to_owned(),
            ),
        };
    }
    match error.reason() {
        Some(IncomingError::Application(failure)) => (
            failure.type_name().unwrap_or("ActivityFailed").to_owned(),
            failure.source_error().to_string(),
        ),
        _ => ("ActivityFailed".to_owned(), error.to_string()),
    }
}
