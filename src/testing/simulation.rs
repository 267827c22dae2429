//! The main loop of a simulated batch: the counterpart of the controller, without a server.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    host,
    side_calls::Retried,
    simulator::SimulatedRun,
    throttles::{Known, Throttling},
    world::{Slot, World},
};
use crate::{
    base::time::{Timestamp, earliest},
    batch::validate::InvalidBatch,
    decisions::{
        scheduler::{Decision, Dispatch, Ending},
        state::{BatchState, publish::News},
    },
    progress::{Progress, phase::Phase},
    protocol::StrideReport,
    stride::registry::ErasedProcessor,
};

/// The shortest step of the clock between two decisions.
const STEP: Duration = Duration::from_millis(1);

/// A simulation in progress.
pub(super) struct Simulation<'a> {
    pub processor: &'a dyn ErasedProcessor,
    pub world: Arc<World>,
    pub throttles: Vec<Known>,
    pub throttling: Throttling,
    pub check: Retried,
    /// The strides that run, in the order of their dispatch.
    running: Vec<Running<'a>>,
    /// The progress at each change of its phase, or of what holds the batch.
    seen: Vec<Progress>,
    stood_still: Option<String>,
    began: Timestamp,
}

struct Running<'a> {
    slot: Arc<Slot>,
    work: Pin<Box<dyn Future<Output = StrideReport> + Send + 'a>>,
}

/// The reason why a wait ended.
enum Happened {
    /// A stride has reported.
    Reported(Arc<Slot>, Box<StrideReport>),
    /// The state has changed, or a request of the operator is due.
    Changed,
    /// Every stride waits for the clock.
    Quiet,
}

impl<'a> Simulation<'a> {
    pub fn new(
        processor: &'a dyn ErasedProcessor,
        world: World,
        throttles: Vec<Known>,
    ) -> Result<Self, InvalidBatch> {
        let began = world.clock.timestamp();
        Ok(Self {
            processor,
            world: Arc::new(world),
            throttling: Throttling::of(&throttles, &[], began)?,
            throttles,
            check: Retried::default(),
            running: Vec::new(),
            seen: Vec::new(),
            stood_still: None,
            began,
        })
    }

    /// Runs the batch to its end.
    pub async fn run(mut self) -> Result<SimulatedRun, InvalidBatch> {
        self.world.state().begin(self.began);
        self.apply_requests();
        if let Some(ending) = self.prepare().await? {
            return Ok(self.end(&ending));
        }
        loop {
            self.apply_requests();
            let now = self.world.clock.timestamp();
            self.world.state().refresh(now, false, 0);
            self.make_calls().await;
            let decision = self.world.state().decide();
            match decision {
                Decision::Dispatch(dispatch) => self.dispatch(&dispatch),
                Decision::WaitUntil(until) => {
                    self.publish();
                    self.wait(until).await;
                }
                Decision::HandOver => self.hand_over(),
                Decision::Finish(ending) => {
                    self.combine(true);
                    let ending = self.check_at_end(ending).await;
                    return Ok(self.end(&ending));
                }
            }
        }
    }

    /// Applies the requests of the operator that are due.
    pub fn apply_requests(&self) {
        let (now, pages) = (self.world.clock.timestamp(), self.world.pages_done());
        let mut script = self.world.script();
        script.apply(&mut self.world.state(), now, pages);
    }

    fn dispatch(&mut self, dispatch: &Dispatch) {
        let mut state = self.world.state();
        let order = state.dispatched(dispatch);
        let Some((order, terms)) = order.zip(state.terms()) else {
            let what = format!("stride {} cannot be dispatched", dispatch.stride);
            state.is_impossible(what);
            return;
        };
        let terms = (terms.retry_mode, state.permit_per_item());
        drop(state);
        let slot = self.world.occupy(order.stride, order.dispatch);
        let lose = self.world.faults.next_stride_is_lost();
        let world = Arc::clone(&self.world);
        let work = host::run(self.processor, world, Arc::clone(&slot), order, terms, lose);
        self.running.push(Running {
            slot,
            work: Box::pin(work),
        });
    }

    fn publish(&mut self) {
        let mut state = self.world.state();
        let progress = state.look();
        let news = state.take_news(progress);
        drop(state);
        for news in news {
            match news {
                News::Control(control) => self.world.publish(control),
                News::Progress(progress) => self.see(*progress),
                News::Full(_) => {}
            }
        }
    }

    fn see(&mut self, progress: Progress) {
        let of = |progress: &Progress| (progress.phase, progress.held_by);
        if self.seen.last().map(of) != Some(of(&progress)) {
            self.seen.push(progress);
        }
    }

    /// Lets strides and the clock run until a decision is due.
    async fn wait(&mut self, until: Option<Timestamp>) {
        let now = self.world.clock.timestamp();
        let until = earliest(until, self.next_due());
        let until = until.map(|until| until.max(now.plus(STEP)));
        let version = self.world.state().version;
        loop {
            match std::future::poll_fn(|cx| self.poll_strides(cx, version)).await {
                Happened::Reported(slot, report) => {
                    self.world.vacate(slot.dispatch);
                    self.world.state().reported(slot.stride, *report);
                    return;
                }
                Happened::Changed => return,
                Happened::Quiet if !self.world.clock.advance(until) => {
                    self.give_up_waiting();
                    return;
                }
                Happened::Quiet if until.is_some_and(|t| t <= self.world.clock.timestamp()) => {
                    return;
                }
                Happened::Quiet => {}
            }
        }
    }

    /// Runs the strides one after the other. A stride that waits for something other than the clock keeps its turn, so
    /// the order of events is the same in every simulation.
    fn poll_strides(&mut self, cx: &mut Context<'_>, version: u64) -> Poll<Happened> {
        for i in 0..self.running.len() {
            let Running { slot, work } = &mut self.running[i];
            if let Poll::Ready(report) = work.as_mut().poll(cx) {
                let Running { slot, .. } = self.running.remove(i);
                return Poll::Ready(Happened::Reported(slot, Box::new(report)));
            }
            if !self.world.clock.is_awaited_by(slot.dispatch) {
                return Poll::Pending;
            }
            let changed = self.world.state().version != version;
            if changed || self.world.request_is_due() {
                return Poll::Ready(Happened::Changed);
            }
        }
        Poll::Ready(Happened::Quiet)
    }

    /// The time at which something happens that is not a stride's.
    fn next_due(&self) -> Option<Timestamp> {
        let state = self.world.state();
        let check = state.stage_to_check().and(self.check.due);
        let throttles = state.throttles_to_ask().and_then(|_| self.throttling.due());
        let request = self.world.script().due();
        let due = [state.next_change(), check, throttles, request];
        due.into_iter().flatten().min()
    }

    /// Cancels a batch that would wait forever.
    fn give_up_waiting(&mut self) {
        let now = self.world.clock.timestamp();
        let mut state = self.world.state();
        let progress = state.look();
        let why = match progress.explanation.is_empty() {
            true => format!("the batch is {}", progress.phase),
            false => progress.explanation,
        };
        state.cancel(now, Some("it would wait forever"));
        drop(state);
        self.stood_still = Some(why);
    }

    /// Begins the next run of the controller, with what of the state is stored.
    fn hand_over(&self) {
        let now = self.world.clock.timestamp();
        let mut state = self.world.state();
        let stored = serde_json::to_value(state.fitting_input());
        let stored = stored.and_then(serde_json::from_value);
        let mut next: BatchState = BatchState::of(stored.expect("the state can be stored"));
        next.work.outbox.on = false;
        next.begin(now);
        *state = next;
    }

    fn end(mut self, ending: &Ending) -> SimulatedRun {
        let mut state = self.world.state();
        state.begin_to_end(ending);
        state.closing = Some(Phase::Ended);
        let report = state.report(ending);
        drop(state);
        let duration = self.world.clock.timestamp().since(self.began);
        let faults = &self.world.faults;
        SimulatedRun {
            outcome: report.outcome,
            reason: report.reason.clone(),
            pages: report.progress.pages_completed,
            items: report.progress.items,
            retries: report.progress.retries,
            failed: report.progress.failed.clone(),
            lost_workers: faults.lost_workers(),
            told_to_stop: faults.told_to_stop(),
            duration,
            output: report.progress.output.clone(),
            output_error: report.progress.output_error.clone(),
            stood_still: self.stood_still.take(),
            progress: std::mem::take(&mut self.seen),
            report,
        }
    }
}
