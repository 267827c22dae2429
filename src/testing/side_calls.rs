//! The calls beside the pages of a simulated batch: preparing, throttles, windows, combining, checks.

use std::{sync::Arc, time::Duration};

use super::{
    simulation::Simulation, simulator::SimulatedCall, throttles::Throttling, world::World,
};
use crate::{
    base::{error::PageError, time::Timestamp},
    batch::validate::InvalidBatch,
    decisions::{
        pacing::Openings,
        scheduler::Ending,
        state::{lock::is_held, stride_work::StrideWork, work::Work},
    },
    processor::stop_signal::Interruption,
    progress::{
        check::{Check, Checked},
        report::BatchReport,
    },
    protocol::{CheckOrder, HookOrder, ThrottleNews, WaitNews, WaitsFor},
    stride::registry::{NotPrepared, Refused},
};

/// Maximum number of attempts to prepare a batch. A real batch has no such limit.
const MOST_PREPARATIONS: u32 = 100;
/// The wait before the second attempt at a call. It doubles, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A call that is repeated while it fails.
#[derive(Default)]
pub(super) struct Retried {
    pub due: Option<Timestamp>,
    attempts: u32,
}

impl Retried {
    fn failed(&mut self, now: Timestamp) {
        let doubled = FIRST_WAIT.saturating_mul(2u32.saturating_pow(self.attempts));
        self.attempts += 1;
        self.due = Some(now.plus(doubled.min(LONGEST_WAIT)));
    }
}

impl<W: Work> Simulation<'_, W> {
    /// Prepares the batch and takes its lock, as a batch does before its first page. Returns the end of the batch, if it
    /// ended meanwhile.
    pub(super) async fn begin(&mut self) -> Result<Option<Ending>, InvalidBatch> {
        self.apply_requests();
        match self.prepare().await? {
            Some(ending) => Ok(Some(ending)),
            None => self.take_lock(),
        }
    }

    fn take_lock(&mut self) -> Result<Option<Ending>, InvalidBatch> {
        let Some(order) = self.world.state().lock_order() else {
            return Ok(None);
        };
        let age = self.age();
        let others = self.locks.iter();
        let Some(held) = others
            .filter(|held| held.name == order.name && held.until > age)
            .max()
        else {
            return Ok(None);
        };
        if !order.wait {
            let message = is_held(&held.name, &held.by, "");
            return Err(InvalidBatch::Prepare { message });
        }
        let (until, by) = (self.now().plus(held.until - age), held.by.clone());
        let waits = |by: Option<String>| {
            let mut state = self.world.state();
            state.taking_lock = by.is_some();
            state.lock_held_by = by;
            state.look()
        };
        let progress = waits(Some(by));
        let early = self.pass_time(until);
        waits(None);
        self.see(progress);
        Ok(early)
    }

    /// Completes the arguments. Returns the end of the batch, if it ended meanwhile.
    async fn prepare(&mut self) -> Result<Option<Ending>, InvalidBatch> {
        let input = self.world.state().prepare_input();
        let mut attempts = 0;
        let prepared = loop {
            match self.processor.prepare(&input).await {
                Ok(prepared) => break prepared,
                Err(NotPrepared::Retry(_)) if attempts < MOST_PREPARATIONS => {
                    attempts += 1;
                    let until = self.now().plus(LONGEST_WAIT);
                    if let Some(ending) = self.pass_time(until) {
                        return Ok(Some(ending));
                    }
                }
                Err(NotPrepared::Retry(error)) => return Err(not_prepared(&error)),
                Err(NotPrepared::Refused(Refused::Args { message, .. })) => {
                    return Err(InvalidBatch::Args { message });
                }
                Err(NotPrepared::Refused(refused)) => return Err(not_prepared(&refused)),
            }
        };
        let names = self.world.state().pacing.throttles().to_vec();
        let now = self.now();
        self.throttling = Throttling::of(&self.throttles, &names, now)?;
        let accepted = self.world.state().accept(prepared);
        accepted.map_err(|unknown| not_prepared(&unknown))?;
        Ok(None)
    }

    /// Makes the calls that are due.
    pub(super) async fn make_calls(&mut self) {
        let now = self.now();
        let asks = self.world.state().throttles_to_ask();
        if let Some(order) = asks
            && let Some(reading) = self.throttling.ask(now).await
        {
            let news = ThrottleNews {
                batch_run: order.batch_run,
                verdict: reading.verdict,
                by: reading.by,
            };
            self.world.state().hear_throttle(now, &news);
        }
        let windows = self.world.state().windows_to_work_out();
        if let Some(order) = windows {
            let found = Openings::of(&order.windows, order.from);
            self.world.state().pacing.opened(found, now);
        }
        self.combine_in(&self.world, false);
        self.tell_failures(&Arc::clone(&self.world));
        let progress = self.world.state().next_progress();
        self.tell(progress);
    }

    /// Calls the failure handler with the failures of a controller.
    pub(super) fn tell_failures<V: Work>(&mut self, world: &World<V>) {
        loop {
            let notice = world.state().next_notice();
            if notice.is_none() {
                return;
            }
            self.tell(notice);
        }
    }

    /// Calls the hooks at the end of the batch.
    pub(super) fn tell_end(&mut self, report: &BatchReport) {
        self.tell_failures(&Arc::clone(&self.world));
        let mut state = self.world.state();
        let told = [
            state.last_notice(report),
            state.last_progress(report),
            state.completion(report),
        ];
        drop(state);
        told.into_iter().for_each(|order| self.tell(order));
    }

    fn tell(&mut self, order: Option<HookOrder>) {
        let after = self.age();
        self.hooks.extend(order.map(|order| SimulatedCall {
            hook: order.name,
            after,
            call: order.call,
        }));
    }

    /// Combines outputs that only the processor can combine.
    pub(super) fn combine_in<V: Work>(&self, world: &World<V>, at_end: bool) {
        loop {
            let order = world.state().parts_to_combine(at_end);
            let Some(order) = order else {
                return;
            };
            let parts = order.parts.len();
            let combined = self.processor.combine(order);
            let combined = combined.map_err(|error| error.to_string());
            world.state().combined(parts, combined);
        }
    }

    /// Checks everything after the last page, if the batch was started with such a check.
    pub(super) async fn check_at_end(&mut self, ending: Ending) -> Ending {
        let order = self.world.state().begin_check_at_end(&ending);
        let Some(order) = order else {
            return ending;
        };
        let checked = loop {
            let found = self.processor.check(&order, Interruption::never()).await;
            if let Some(checked) = self.outcome(&order, true, found) {
                break Ok(Some(checked));
            }
            let again = self.check.due.unwrap_or_default();
            if let Some(early) = self.pass_time(again) {
                break Err(early);
            }
        };
        let now = self.now();
        self.world.state().checked_at_end(now, checked, ending)
    }

    /// Returns the result of a check, unless the check is repeated.
    fn outcome(
        &mut self,
        order: &CheckOrder,
        at_end: bool,
        found: Result<Option<Check>, PageError>,
    ) -> Option<Checked> {
        let now = self.now();
        let (found, error) = match found {
            Ok(found) => (found.map(Check::shortened), None),
            Err(error) if error.is_retryable() => {
                self.check.failed(now);
                self.world.state().hear_waits(WaitNews {
                    batch_run: order.batch_run.clone(),
                    for_what: WaitsFor::Check,
                    error: Some(error.to_string()),
                    doing: None,
                    unknown: false,
                });
                return None;
            }
            Err(error) => (None, Some(error.to_string())),
        };
        self.check = Retried::default();
        Some(Checked {
            covered_to: order.covered_to.clone(),
            found,
            error,
            at: now,
            at_end,
        })
    }

    /// Lets time pass while nothing runs. Requests of the operator are applied when they are due. Returns the end of
    /// the batch, if it ended meanwhile.
    fn pass_time(&self, until: Timestamp) -> Option<Ending> {
        let known = self.world.state().told_to_end().is_some();
        loop {
            let due = self.world.shared.script().due();
            let next = due.into_iter().chain([until]).min();
            self.world.shared.clock.advance(next);
            self.apply_requests();
            let now = self.now();
            let mut state = self.world.state();
            state.now = now;
            if let Some(ending) = state.ends_early(known, state.deadline) {
                return Some(ending);
            }
            if now >= until {
                return None;
            }
        }
    }
}

impl Simulation<'_, StrideWork> {
    /// Checks the stage that is done, if its check is due.
    pub(super) async fn check_stage(&mut self) {
        let now = self.now();
        let order = self.world.state().stage_to_check();
        let Some(order) = order.filter(|_| self.check.due.is_none_or(|due| due <= now)) else {
            return;
        };
        let nothing = self.world.state().covers_nothing();
        let found = match nothing {
            true => Ok(None),
            false => self.processor.check(&order, Interruption::never()).await,
        };
        if let Some(checked) = self.outcome(&order, false, found) {
            self.world.state().checked(checked);
        }
    }
}

fn not_prepared(error: &impl std::fmt::Display) -> InvalidBatch {
    InvalidBatch::Prepare {
        message: error.to_string(),
    }
}
