//! Orders for strides, and the changes that their reports make.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    batch::retry::RetryMode,
    decisions::{
        chain::{Broken, Event},
        pacing::{Length, LengthBy, PaceNow, RateUse, StrideLength, Uncut},
        scheduler::{self, Decision, Dispatch, Limits, decide},
        state::{BatchState, pending_notices::Before, stages::Stages, work::Work},
    },
    processor::reducer::Fold,
    protocol::{self, FailedAttempt, StrideOrder, StrideReport, StrideTerms},
};

/// # The next decision
impl BatchState {
    pub(crate) fn limits(&self) -> Limits {
        self.limits_at(&self.pace())
    }

    pub(crate) fn limits_at(&self, pace: &PaceNow) -> Limits {
        Limits {
            max_parallelism: pace.parallelism,
            paused: self.controls.paused,
            held: pace.held.is_some() || self.work.stages.as_ref().is_some_and(Stages::holds),
            stage: self.stage_limit(),
            cancelled: self.cancelled,
            rate: pace.rate,
            page_rate: pace.page_rate,
            must_hand_over: self.must_hand_over,
            deadline: self.deadline,
            stopping: self.controls.stopping.clone(),
            outputs_full: self.work.chain.fold().is_some_and(Fold::is_full),
            hooks_running: self.hooks_running,
            strides_grow: self.strides_grow(),
            one_page_strides: self.stride_length().pages == 1,
            overlaps: self.work.outbox.on,
            delivering: self.work.outbox.is_delivering(),
            of_part: self.is_part(),
        }
    }

    pub(crate) fn decide(&self) -> Decision {
        decide(&self.work.chain, &self.limits(), self.now)
    }

    /// Records a fact. A fact that cannot be recorded ends the batch rather than being ignored.
    pub(crate) fn record(&mut self, event: Event<'_>) {
        if let Err(e) = self.work.chain.record(event) {
            self.is_impossible(e.to_string());
        }
    }

    /// Ends the batch, because of a defect of this crate.
    pub(crate) fn is_impossible(&mut self, what: String) {
        self.work.chain.break_off(Broken::Impossible { what });
    }
}

/// # Orders and reports
impl BatchState {
    /// Records the dispatch and returns the order for the activity.
    pub(crate) fn dispatched(&mut self, dispatch: &Dispatch) -> Option<StrideOrder> {
        let mut order = self.order(dispatch)?;
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
        Some(order)
    }

    pub(crate) fn terms(&self) -> Option<StrideTerms> {
        let prepared = self.prepared.as_ref()?;
        Some(StrideTerms {
            retry_mode: prepared.retry_mode,
            heartbeat_timeout: prepared.heartbeat_timeout,
            weight: self.input.spec.weight,
        })
    }

    fn order(&self, dispatch: &Dispatch) -> Option<StrideOrder> {
        let spec = &self.input.spec;
        let prepared = self.prepared.as_ref()?;
        let stride = self.work.chain.stride(dispatch.stride)?;
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
            is_kept: prepared.once_per_page && self.work.chain.is_kept(dispatch.stride),
            dispatch: self.work.chain.dispatches() + 1,
            page_share: dispatch.page_share,
            page_pause: self
                .pacing
                .page_pause_now(self.controls.max_parallelism, self.now),
            throttles: self.pacing.throttles().to_vec(),
            max_items: dispatch.items.map(|item_budget| item_budget.items),
            reducer: self.work.chain.fold().map(|fold| fold.plan().clone()),
            time_limit: self.pacing.stride().and_then(StrideLength::time_limit),
            min_pages_per_stride: self
                .pacing
                .stride()
                .map_or(1, |lengths| lengths.shortest(page_size)),
            controller: self.own_id(),
            partition: self.input.part.as_ref().map(|part| part.name.clone()),
            last: self.work.chain.last().cloned(),
            owner: None,
            rate_ready: 0,
            page_rate_ready: 0,
            rate_owed: 0,
            page_rate_owed: 0,
            tolerance: self.stride_tolerance(),
        })
    }

    /// Records the report of a stride.
    pub(crate) fn reported(&mut self, stride: u64, report: StrideReport) {
        let Some(prepared) = self.prepared.clone() else {
            return;
        };
        let now = self.now;
        let before = Before::of(&self.work.chain, stride);
        self.pacing
            .reported(&report, self.work.chain.running(), now);
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
            self.notices.compare(&before, &self.work.chain, stride);
        }
    }
}

/// # Rates
impl BatchState {
    /// Returns the allocated parts of the rates: of items, then of pages.
    pub(crate) fn rates(&self) -> [RateUse; 2] {
        let pace = self.pace();
        let [items, pages] = scheduler::rates_given_out(&self.work.chain);
        let free_slots = pace.parallelism.saturating_sub(self.work.chain.running());
        let of_items = RateUse {
            limit: pace.rate,
            given_out: items,
            unit: self.pacing.unit(self.permit_per_item()),
            free_slots,
        };
        let of_pages = RateUse {
            limit: pace.page_rate,
            given_out: pages,
            unit: 1,
            free_slots,
        };
        [of_items, of_pages]
    }
}

/// # Stride lengths
impl BatchState {
    /// Returns whether strides that are cut now would be shorter than later ones.
    pub(crate) fn strides_grow(&self) -> bool {
        let lengths = self.pacing.stride();
        let page_size = self.pacing.page_size();
        lengths.is_some_and(|lengths| lengths.is_growing(page_size, || self.uncut(lengths)))
    }

    /// Records the length of a stride, and of the strides that it announces.
    pub(crate) fn note_cut(&mut self, order: &StrideOrder) {
        let oldest = self
            .work
            .chain
            .open()
            .next()
            .map_or(0, |(number, _)| number);
        if order.end.is_none()
            && let Some(lengths) = self.pacing.stride_mut()
        {
            lengths.cut(order.stride, order.pages, oldest);
        }
    }
}

/// # Stride lengths
impl<W: Work> BatchState<W> {
    pub(crate) fn permit_per_item(&self) -> bool {
        self.prepared.as_ref().is_some_and(|p| p.permit_per_item)
    }

    /// Returns the length of the strides that are cut next.
    pub(crate) fn stride_length(&self) -> Length {
        match self.pacing.stride() {
            Some(lengths) => lengths.next(&self.uncut(lengths)),
            None => Length {
                pages: self.input.spec.stride,
                by: LengthBy::Setting,
            },
        }
    }

    pub(crate) fn uncut(&self, lengths: &StrideLength) -> Uncut {
        let page_size = self.pacing.page_size();
        let totals = self.work.totals();
        let open = self.work.open_pages(lengths);
        let expected = self.prepared.as_ref().and_then(|p| p.items_expected);
        let of_stage = self.work.stages().and_then(Stages::limit);
        let expected = expected.into_iter().chain(of_stage).min();
        let left = expected.map(|expected| {
            let items = expected.saturating_sub(totals.items.total());
            let pages = items.div_ceil(u64::from(page_size.max(1)));
            pages.saturating_sub(open)
        });
        let runs_once = self
            .prepared
            .as_ref()
            .is_some_and(|p| p.retry_mode == RetryMode::AtMostOnce && !p.once_per_page);
        Uncut {
            runs_once,
            left,
            found: totals.pages_completed + totals.pages_failed + open,
            slots: self.controls.max_parallelism,
            page_size,
        }
    }
}

/// Error type of a stride whose worker did not come back.
pub(crate) const WORKER_LOST: &str = "WorkerLost";

/// Returns the report of a stride whose worker will never report.
pub(crate) fn worker_lost(message: &str) -> StrideReport {
    StrideReport {
        failure: Some(failed(WORKER_LOST.to_owned(), message)),
        ..StrideReport::default()
    }
}

pub(crate) fn failed(error_type: String, message: &str) -> FailedAttempt {
    // Another worker on the queue has it, or the next deploy.
    let not_the_page = error_type == protocol::UNKNOWN_PROCESSOR;
    FailedAttempt {
        not_the_page,
        lost: !not_the_page,
        ..FailedAttempt::lost(error_type, message)
    }
}
