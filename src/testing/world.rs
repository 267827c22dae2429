//! The part of a simulation that its controller and its strides share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{clock::VirtualClock, faults::Faults, operator::Script};
use crate::{
    batch::spec::BatchSpec,
    decisions::{
        carry::{Begun, ControllerInput},
        chain::StrideChain,
        state::BatchState,
    },
    processor::stop_signal::StopSignal,
    progress::audit::Given,
    protocol::{self, ControlState},
};

/// The name in the audit for requests of a simulation.
pub(super) const OPERATOR: &str = "simulator";

/// The state of a simulation that its strides can reach.
pub(super) struct World {
    state: Mutex<BatchState>,
    pub clock: VirtualClock,
    /// The virtual time that a page takes.
    pub page_takes: Duration,
    pub faults: Faults,
    script: Mutex<Script>,
    control: Mutex<ControlState>,
    running: Mutex<Vec<Arc<Slot>>>,
}

/// A stride that runs, as the rest of the simulation sees it.
pub(super) struct Slot {
    pub stride: u64,
    pub dispatch: u64,
    pub signal: watch::Sender<StopSignal>,
    /// True if the simulation itself told the stride to stop.
    pub interrupted: AtomicBool,
    /// The pages that this attempt has finished.
    pub pages: AtomicU32,
}

impl World {
    pub fn new(
        spec: BatchSpec,
        clock: VirtualClock,
        page_takes: Duration,
        faults: Faults,
        script: Script,
    ) -> Self {
        Self {
            state: Mutex::new(begun(spec)),
            clock,
            page_takes,
            faults,
            script: Mutex::new(script),
            control: Mutex::default(),
            running: Mutex::default(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, BatchState> {
        lock(&self.state)
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    /// The pages that are finished, including those of running strides.
    pub fn pages_done(&self) -> u64 {
        let running = lock(&self.running);
        let running = running
            .iter()
            .map(|slot| slot.pages.load(Ordering::Relaxed));
        let running: u64 = running.map(u64::from).sum();
        self.state().work.chain.totals.pages_completed + running
    }

    /// Returns whether a request of the operator is due.
    pub fn request_is_due(&self) -> bool {
        let (pages, now) = (self.pages_done(), self.clock.timestamp());
        self.script().is_due(now, pages)
    }

    /// Adds a stride to those that run.
    pub fn occupy(&self, stride: u64, dispatch: u64) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            stride,
            dispatch,
            signal: watch::Sender::default(),
            interrupted: AtomicBool::default(),
            pages: AtomicU32::default(),
        });
        lock(&self.running).push(Arc::clone(&slot));
        slot
    }

    pub fn vacate(&self, dispatch: u64) {
        lock(&self.running).retain(|slot| slot.dispatch != dispatch);
    }

    /// Tells the running strides what they read in the memo of a real batch.
    pub fn publish(&self, control: ControlState) {
        *lock(&self.control) = control;
        for slot in &*lock(&self.running) {
            self.tell(slot);
        }
    }

    /// Tells a stride the orders of the batch. An order to stop at once is never withdrawn.
    fn tell(&self, slot: &Slot) {
        let control = lock(&self.control);
        let stop = slot.interrupted.load(Ordering::Relaxed)
            || control.stop_at_page_boundary
            || control.yields.contains(&slot.dispatch);
        slot.signal.send_if_modified(|signal| {
            let before = *signal;
            signal.stop = stop;
            signal.stop_now |= control.stop_now;
            before != *signal
        });
    }

    /// Begins an attempt at a stride.
    pub fn attempt(&self, slot: &Slot) {
        slot.interrupted.store(false, Ordering::Relaxed);
        slot.pages.store(0, Ordering::Relaxed);
        slot.signal.send_replace(StopSignal::default());
        self.tell(slot);
    }

    /// Stops a stride at its next page boundary, in place of an operator.
    pub fn interrupt(&self, slot: &Slot) {
        slot.interrupted.store(true, Ordering::Relaxed);
        self.tell(slot);
    }
}

/// The state of a batch at its beginning.
fn begun(spec: BatchSpec) -> BatchState {
    let first_cursor = spec.first_cursor.clone();
    let given = Given {
        who: Some(OPERATOR.to_owned()),
        why: None,
    };
    let mut state: BatchState = BatchState::of(ControllerInput {
        version: protocol::VERSION,
        // Unique for every call, because a page ledger remembers the batch runs that it has seen.
        batch_run: format!("test-{}", uuid::Uuid::new_v4()),
        spec,
        begun: Some(Begun {
            action: "start".to_owned(),
            given,
        }),
        carry: None,
        part: None,
    });
    // The seed of a real batch comes from its batch run, which is a random number here.
    state.work.chain = StrideChain::new(first_cursor, 0);
    // Bridges are workflows.
    state.work.outbox.on = false;
    state
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
