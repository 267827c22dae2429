//! Checks between the stages and at the end.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    base::time::Timestamp,
    decisions::{
        scheduler::{self, Ending, StageLimit},
        state::{BatchState, stages::Judged, stride_work::StrideWork, work::Work},
    },
    page::token::PageToken,
    processor::hooks::Failure,
    progress::{
        audit::Given,
        check::Checked,
        phase::{HeldBy, Outcome, Phase},
    },
    protocol::{CheckOrder, WaitsFor},
};

impl BatchState {
    /// Returns the items that the current stage leaves to the strides.
    pub(crate) fn stage_limit(&self) -> Option<StageLimit> {
        let items = self.work.stages.as_ref()?.limit()?;
        let pages = u64::from(self.stride_length().pages);
        Some(StageLimit {
            items,
            stride_items: pages * u64::from(self.pacing.page_size()),
        })
    }

    /// Detects that a stage is done.
    pub(crate) fn advance_stage(&mut self) {
        let done = scheduler::stage_is_done(&self.work.chain, &self.limits());
        if let Some(stages) = self
            .work
            .stages
            .as_mut()
            .filter(|_| done && !self.cancelled)
        {
            stages.reached();
        }
    }

    /// Returns the check that must be made now.
    pub(crate) fn stage_to_check(&self) -> Option<CheckOrder> {
        let stages = self.work.stages.as_ref()?;
        let wanted = stages.is_checking() && !self.cancelled && !StrideWork::makes_way(self);
        wanted.then(|| self.check_order(self.work.chain.low_water_mark().cloned()))
    }

    /// Returns whether no page is covered yet. A missing cursor in a check would mean that all data is covered.
    pub(crate) fn covers_nothing(&self) -> bool {
        self.work.chain.low_water_mark() == self.input.spec.first_cursor.as_ref()
    }

    pub(crate) fn checked(&mut self, checked: Checked) {
        self.waits = None;
        self.version += 1;
        let exceeded = self.exceeded_in_stage();
        let now = self.now;
        let Some(stages) = &mut self.work.stages else {
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

    /// Returns a message if more failed than is tolerated, however little was done. Without a tolerance no failure is
    /// tolerated.
    pub(crate) fn exceeded_in_stage(&self) -> Option<String> {
        let totals = &self.work.chain.totals;
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
}

impl<W: Work> BatchState<W> {
    /// Begins the check after the last page, if the batch was started with such a check.
    pub(crate) fn begin_check_at_end(&mut self, ending: &Ending) -> Option<CheckOrder> {
        if !ending.is_of_all() || !self.input.spec.checks_at_end() {
            return None;
        }
        self.closing = Some(Phase::Finishing);
        self.checking_at_end = true;
        Some(self.check_order(None))
    }

    /// Records the result of the check after the last page, and returns the end of the batch. A check that fails, or
    /// that cannot be made, keeps the batch from completing. `Err` is the end of a batch that ended during the check.
    pub(crate) fn checked_at_end(
        &mut self,
        now: Timestamp,
        checked: Result<Option<Checked>, Ending>,
        ending: Ending,
    ) -> Ending {
        self.now = now;
        self.checking_at_end = false;
        self.waits = None;
        self.checked = match checked {
            Ok(checked) => checked,
            Err(early) => {
                self.checked = None;
                return early.after_the_last_page("while it was checked");
            }
        };
        match self.checked.as_ref().and_then(Checked::failure) {
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

    /// Returns the order to check everything up to a cursor, or to the end of the data.
    pub(crate) fn check_order(&self, covered_to: Option<PageToken>) -> CheckOrder {
        let spec = &self.input.spec;
        CheckOrder {
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            processor: spec.processor.clone(),
            args: self.args().clone(),
            redrive: spec.redrive_of.is_some(),
            covered_from: spec.first_cursor.clone(),
            covered_to,
        }
    }

    pub(crate) fn waits_explained(&self) -> Option<(HeldBy, String)> {
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
            let stages = self.work.stages().filter(|stages| stages.is_checking())?;
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
