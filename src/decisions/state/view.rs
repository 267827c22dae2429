//! The progress and the report of a batch.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    base::{error::truncate, text::count},
    decisions::{
        pacing::{StrideLength, Terms, advice},
        scheduler::Ending,
        state::{BatchState, work::Work},
    },
    page::size::{Stand, percent_text},
    processor::reducer::Fold,
    progress::{
        Progress,
        phase::{HeldBy, Phase},
        report::BatchReport,
    },
    protocol::Prepared,
};

/// The longest token that is shown, so that it fits on one line.
pub(crate) const MAX_TOKEN_CHARS: usize = 60;

/// The error in place of a result that a batch has not combined because it ended early.
pub(crate) const NOT_COMBINED: &str = "NotCombined: the batch ended before everything was combined; a batch that is continued combines the rest";

impl<W: Work> BatchState<W> {
    pub(crate) fn look(&self) -> Progress {
        let pace = self.pace();
        let spec = &self.input.spec;
        let totals = self.work.totals();
        let fold = self.work.fold();
        let seen = W::seen(self, &pace);
        let phase = match self.closing {
            Some(phase) => phase,
            None if self.prepared.is_none() || self.waits_for_lock() => Phase::Preparing,
            None => seen.phase,
        };
        let blocked = phase == Phase::Blocked;
        let blocked_at = seen.blocked_at.filter(|_| blocked);
        let blocked_reason = seen.blocked_reason.filter(|_| blocked);
        let explained = |of_pages: Option<(HeldBy, String)>| {
            let explained = self.lock_explained().or(of_pages);
            let explained = explained.filter(|_| self.closing.is_none());
            let explained = self.waits_explained().or(explained);
            match &blocked_reason {
                Some(why) => (None, format!("blocked: {why}")),
                None => explained
                    .map(|(by, text)| (Some(by), text))
                    .unwrap_or_default(),
            }
        };
        let (limited_by, _) = explained(seen.limit);
        let because = seen.because;
        let fitting_page_size = because
            .as_ref()
            .and_then(|because| because.fitting_page_size);
        let (held_by, explanation) =
            explained(because.map(|because| (because.held_by, because.explanation)));
        let size = self.prepared.as_ref().map(Prepared::size);
        let size = size.unwrap_or_default();
        let items_left = size.items().map(|n| n.saturating_sub(totals.items.total()));
        let pacing = &self.pacing;
        let ramp = pacing.ramp();
        let length = self.stride_length();
        let auto_stride = pacing.stride().and_then(StrideLength::auto);
        let mut progress = Progress {
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            processor: spec.processor.clone(),
            redrive_of: spec.redrive_of.clone(),
            phase,
            pause_reason: self.controls.pause_reason.clone(),
            pages_completed: totals.pages_completed,
            pages_failed: totals.pages_failed,
            pages_in_flight: 0,
            pages_stuck: 0,
            strides_waiting: 0,
            items: totals.items,
            skip_reasons: totals.skip_reasons.clone(),
            items_expected: size.items(),
            items_expected_is: size.certainty(),
            retries: totals.retries,
            max_parallelism: self.controls.max_parallelism,
            max_parallelism_achieved: totals.max_parallelism_achieved,
            rate: pacing.rate,
            low_water_mark: None,
            end_of_data: false,
            open_ranges: Vec::new(),
            failing: Vec::new(),
            failed: Vec::new(),
            failed_items: Vec::new(),
            started_at: self.started_at,
            as_of: self.now,
            runs: self.runs + 1,
            announcements_dropped: totals.announcements_dropped,
            consecutive_failures: totals.consecutive_failures,
            deadline: self.deadline,
            blocked_at,
            blocked_reason,
            hooks_failed: self.notices.hooks_failed,
            notices_dropped: self.notices.dropped(),
            audit: self.audit.entries(),
            audit_older: self.audit.older(),
            explanation,
            held_by,
            fitting_page_size: fitting_page_size.filter(|_| held_by == Some(HeldBy::Rate)),
            // Only a client knows how many pages have a slot.
            fitting_parallelism: None,
            // Every other cause of that kind is one that only a client can know.
            lacks_processor: held_by == Some(HeldBy::NoWorker),
            limited_by,
            pause: self.controls.pause.clone(),
            parallelism_now: pace.parallelism,
            ramp: ramp.map(|r| r.ramp().to_string()),
            ramp_seconds_left: ramp.map(|r| r.left(self.now).as_secs_f64()),
            auto_parallelism: pacing.auto_parallelism().map(ToString::to_string),
            page_size: pacing.page_size(),
            auto_page_size: pacing.auto_page_size().map(ToString::to_string),
            stride: length.pages,
            auto_stride: auto_stride.map(ToString::to_string),
            stride_because: auto_stride.map(|_| W::stride_because(&length)),
            page_rate: pacing.page_rate,
            page_pause: pacing.page_pause,
            throttles: pacing.throttles().to_vec(),
            throttled: pacing.throttled().cloned(),
            windows: pacing.windows().iter().map(ToString::to_string).collect(),
            window_opens_at: pacing.opens_at(self.now),
            warnings: self.warnings(),
            lock: spec.lock.clone(),
            lock_held_by: self.lock_held_by.clone(),
            items_per_second: pacing.items_per_second_shown(self.now),
            time_left: items_left.and_then(|left| pacing.time_left(self.now, left)),
            oldest_in_flight: None,
            in_flight_by_age: [0; 4],
            dead_letters: totals.dead_letters,
            keeps_dead_letters: self.prepared.as_ref().map(|p| p.dead_letters),
            first_cursor: spec.first_cursor.clone(),
            stage: None,
            check: self.checked.clone(),
            output: fold.and_then(Fold::so_far).cloned(),
            output_error: fold.and_then(Fold::error).map(str::to_owned),
            partition_counts: None,
            partitions: Vec::new(),
        };
        W::show(self, &mut progress);
        progress.settle(Stand::Underway);
        progress
    }

    /// Returns advice on settings that should be changed.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let pacing = &self.pacing;
        let tuned = pacing.stride().and_then(StrideLength::auto).is_some();
        advice(&Terms {
            rate: pacing.rate,
            page_rate: pacing.page_rate,
            page_size: pacing.page_size(),
            tuned_size: pacing.auto_page_size().is_some(),
            max_parallelism: self.controls.max_parallelism,
            permit_per_item: self.permit_per_item(),
            stride: (!tuned).then(|| self.stride_length().pages),
            cannot_skip: pacing.cannot_skip,
        })
    }

    pub(crate) fn report(&self, ending: &Ending) -> BatchReport {
        let mut progress = self.look();
        progress.phase = Phase::Ended;
        if self.work.fold().is_some_and(|fold| !fold.is_whole()) {
            // A partial result would look like the result of all finished pages.
            progress.output = None;
            progress.output_error = Some(NOT_COMBINED.to_owned());
        }
        let mut report = BatchReport {
            outcome: ending.outcome,
            reason: ending.reason.clone(),
            progress,
            ended_at: self.now,
        };
        report.settle();
        report
    }
}

/// A line or two of Markdown for Temporal's own user interface.
pub(crate) fn details(p: &Progress) -> String {
    let explained = (!p.explanation.is_empty()).then_some(&p.explanation);
    let reason = p
        .blocked_reason
        .as_ref()
        .or(p.pause_reason.as_ref())
        .or(explained);
    let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let share = p.percent().map_or_else(String::new, |percent| {
        format!(" ({})", percent_text(percent))
    });
    let mark = p.low_water_mark.as_ref().map_or_else(
        || "the beginning".to_owned(),
        |token| {
            let token = truncate(token.as_str(), MAX_TOKEN_CHARS);
            format!("`{}`", token.replace('`', "'"))
        },
    );
    let mark = match &p.partition_counts {
        Some(counts) => format!(
            "{} of {} finished",
            counts.finished,
            count(u64::from(counts.total), "partition")
        ),
        None => format!("finished up to {mark}"),
    };
    format!(
        "**{}**{why}  \n{}, {}{share}; {} in flight, {} stuck, {} and {} failed; {mark}",
        p.phase,
        count(p.pages_completed, "page"),
        count(p.items.total(), "item"),
        p.pages_in_flight,
        p.pages_stuck,
        count(p.pages_failed, "page"),
        count(p.items.failed, "item"),
    )
}
