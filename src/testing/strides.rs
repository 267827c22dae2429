//! A controller of strides in a simulation, and the strides that it runs.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    host,
    simulation::next_run,
    world::{Slot, World},
};
use crate::{
    base::time::{Timestamp, earliest},
    decisions::{
        scheduler::{Decision, Dispatch, Ending},
        state::publish::News,
    },
    progress::Progress,
    protocol::StrideReport,
    stride::registry::ErasedProcessor,
};

/// A controller, and the strides that run, in the order of their dispatch.
pub(super) struct Strides<'a> {
    processor: &'a dyn ErasedProcessor,
    pub world: Arc<World>,
    running: Vec<Running<'a>>,
    /// The version of the state at the last decision.
    version: u64,
}

struct Running<'a> {
    slot: Arc<Slot>,
    work: Pin<Box<dyn Future<Output = StrideReport> + Send + 'a>>,
}

/// The reason why a wait ended.
pub(super) enum Happened {
    /// The state has changed, or a request of the operator is due.
    Changed,
    /// Every stride waits for the clock.
    Quiet,
}

/// The result of the decisions of a moment.
pub(super) enum Decided {
    /// The next decision is due at this time.
    Wait(Option<Timestamp>),
    End(Ending),
}

impl<'a> Strides<'a> {
    pub fn new(processor: &'a dyn ErasedProcessor, world: Arc<World>) -> Self {
        Self {
            processor,
            world,
            running: Vec::new(),
            version: 0,
        }
    }

    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Makes the changes that are due before a decision.
    pub fn refresh(&self) {
        let now = self.world.shared.clock.timestamp();
        self.world.state().refresh(now, false, 0);
    }

    /// Takes the next decision, and carries it out. `None` if there is another one to be taken.
    pub fn decide(&mut self) -> Option<Decided> {
        let decision = self.world.state().decide();
        match decision {
            Decision::Dispatch(dispatch) => self.dispatch(&dispatch),
            Decision::HandOver => self.hand_over(),
            Decision::Finish(ending) => return Some(Decided::End(ending)),
            Decision::WaitUntil(until) => {
                let state = self.world.state();
                self.version = state.version;
                return Some(Decided::Wait(earliest(until, state.next_change())));
            }
        }
        None
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
        let lose = self.world.shared.faults.next_stride_is_lost();
        let world = Arc::clone(&self.world);
        let work = host::run(self.processor, world, Arc::clone(&slot), order, terms, lose);
        self.running.push(Running {
            slot,
            work: Box::pin(work),
        });
    }

    /// Begins the next run of the controller, with what of the state is stored.
    fn hand_over(&self) {
        let mut state = self.world.state();
        *state = next_run(&state, self.world.shared.clock.timestamp());
        state.work.outbox.on = false;
    }

    /// Tells the strides the orders of the controller. Returns its progress if clients would see that now.
    pub fn publish(&self) -> Option<Progress> {
        let mut state = self.world.state();
        let progress = state.look();
        let news = state.take_news(progress);
        drop(state);
        let mut shown = None;
        for news in news {
            match news {
                News::Control(control) => self.world.publish(control),
                News::Progress(progress) => shown = Some(*progress),
                News::Full(_) => {}
            }
        }
        shown
    }

    /// Runs the strides one after the other. A stride that waits for something other than the clock keeps its turn, so
    /// the order of events is the same in every simulation.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        let world = Arc::clone(&self.world);
        for i in 0..self.running.len() {
            let Running { slot, work } = &mut self.running[i];
            if let Poll::Ready(report) = work.as_mut().poll(cx) {
                let Running { slot, .. } = self.running.remove(i);
                self.reported(&slot, report);
                return Poll::Ready(Happened::Changed);
            }
            if !world.shared.clock.is_awaited_by(slot.owner) {
                return Poll::Pending;
            }
            let changed = world.state().version != self.version;
            if changed || world.shared.request_is_due() {
                return Poll::Ready(Happened::Changed);
            }
        }
        Poll::Ready(Happened::Quiet)
    }

    fn reported(&self, slot: &Slot, report: StrideReport) {
        self.world.vacate(slot.owner);
        let mut state = self.world.state();
        let before = state.work.chain.totals.pages_completed;
        state.reported(slot.stride, report);
        let pages = state.work.chain.totals.pages_completed - before;
        drop(state);
        self.world.shared.has_finished(pages);
    }
}
