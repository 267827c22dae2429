//! The parts of a simulation that its controllers and its strides share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{clock::VirtualClock, faults::Faults, operator::Script};
use crate::{
    decisions::state::{BatchState, stride_work::StrideWork, work::Work},
    processor::stop_signal::StopSignal,
    protocol::ControlState,
};

/// The name in the audit for requests of a simulation.
pub(super) const OPERATOR: &str = "simulator";

/// The part of a simulation that is the same for all its controllers.
pub(super) struct Shared {
    pub clock: VirtualClock,
    /// The virtual time that a page takes.
    pub page_takes: Duration,
    pub faults: Faults,
    script: Mutex<Script>,
    /// The pages of strides that have reported.
    finished: AtomicU64,
    dispatches: AtomicU64,
    /// The strides that run, of all controllers.
    running: Mutex<Vec<Arc<Slot>>>,
}

/// A stride that runs, as the rest of the simulation sees it.
pub(super) struct Slot {
    /// The number of the dispatch in the simulation, by which the clock knows the stride.
    pub owner: u64,
    pub stride: u64,
    /// The number of the dispatch in its controller.
    pub dispatch: u64,
    pub signal: watch::Sender<StopSignal>,
    /// True if the simulation itself told the stride to stop.
    pub interrupted: AtomicBool,
    /// The pages that this attempt has finished.
    pub pages: AtomicU32,
}

impl Shared {
    pub fn new(clock: VirtualClock, page_takes: Duration, faults: Faults, script: Script) -> Self {
        Self {
            clock,
            page_takes,
            faults,
            script: Mutex::new(script),
            finished: AtomicU64::default(),
            dispatches: AtomicU64::default(),
            running: Mutex::default(),
        }
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    /// Counts the pages of a stride that has reported.
    pub fn has_finished(&self, pages: u64) {
        self.finished.fetch_add(pages, Ordering::Relaxed);
    }

    /// The pages that are finished, including those of running strides.
    pub fn pages_done(&self) -> u64 {
        let running = lock(&self.running);
        let running = running
            .iter()
            .map(|slot| slot.pages.load(Ordering::Relaxed));
        let running: u64 = running.map(u64::from).sum();
        self.finished.load(Ordering::Relaxed) + running
    }

    /// Returns whether a request of the operator is due.
    pub fn request_is_due(&self) -> bool {
        let (pages, now) = (self.pages_done(), self.clock.timestamp());
        self.script().is_due(now, pages)
    }

    /// Applies the requests of the operator that are due.
    pub fn apply_requests<W: Work>(&self, world: &World<W>) {
        let (now, pages) = (self.clock.timestamp(), self.pages_done());
        self.script().apply(&mut world.state(), now, pages);
    }
}

/// A controller of a simulation, as its strides can reach it.
pub(super) struct World<W = StrideWork> {
    pub shared: Arc<Shared>,
    state: Mutex<BatchState<W>>,
    control: Mutex<ControlState>,
    running: Mutex<Vec<Arc<Slot>>>,
}

impl<W> World<W> {
    pub fn new(shared: Arc<Shared>, state: BatchState<W>) -> Self {
        Self {
            shared,
            state: Mutex::new(state),
            control: Mutex::default(),
            running: Mutex::default(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, BatchState<W>> {
        lock(&self.state)
    }
}

/// # Strides
impl World {
    /// Adds a stride to those that run.
    pub fn occupy(&self, stride: u64, dispatch: u64) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            owner: self.shared.dispatches.fetch_add(1, Ordering::Relaxed),
            stride,
            dispatch,
            signal: watch::Sender::default(),
            interrupted: AtomicBool::default(),
            pages: AtomicU32::default(),
        });
        for running in [&self.running, &self.shared.running] {
            lock(running).push(Arc::clone(&slot));
        }
        slot
    }

    pub fn vacate(&self, owner: u64) {
        for running in [&self.running, &self.shared.running] {
            lock(running).retain(|slot| slot.owner != owner);
        }
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
