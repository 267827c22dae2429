//! The course of a simulated batch: the counterpart of the workflow of a batch, without a server.

use std::{sync::Arc, task::Poll, time::Duration};

use super::{
    side_calls::Retried,
    simulator::{HeldLock, SimulatedCall, SimulatedRun},
    strides::{Decided, Happened, Strides},
    throttles::{Known, Throttling},
    world::{OPERATOR, Shared, World},
};
use crate::{
    base::time::{Timestamp, earliest},
    batch::{spec::BatchSpec, validate::InvalidBatch},
    decisions::{
        carry::{Begun, ControllerInput},
        scheduler::Ending,
        state::{BatchState, stride_work::StrideWork, work::Work},
    },
    progress::{Progress, audit::Given, phase::Phase},
    protocol,
    stride::registry::ErasedProcessor,
};

/// The shortest step of the clock between two decisions.
const STEP: Duration = Duration::from_millis(1);

/// A simulated batch: its state, and everything beside its strides.
pub(super) struct Simulation<'a, W> {
    pub processor: &'a dyn ErasedProcessor,
    pub world: Arc<World<W>>,
    pub throttles: Vec<Known>,
    pub throttling: Throttling,
    pub check: Retried,
    pub locks: Vec<HeldLock>,
    pub hooks: Vec<SimulatedCall>,
    /// The progress at each change of its phase, or of what holds the batch.
    seen: Vec<Progress>,
    stood_still: Option<String>,
    began: Timestamp,
}

impl<'a, W: Work> Simulation<'a, W> {
    pub fn new(
        processor: &'a dyn ErasedProcessor,
        shared: Shared,
        mut state: BatchState<W>,
        throttles: Vec<Known>,
    ) -> Result<Self, InvalidBatch> {
        let began = shared.clock.timestamp();
        state.begin(began);
        Ok(Self {
            processor,
            world: Arc::new(World::new(Arc::new(shared), state)),
            throttling: Throttling::of(&throttles, &[], began)?,
            throttles,
            check: Retried::default(),
            locks: Vec::new(),
            hooks: Vec::new(),
            seen: Vec::new(),
            stood_still: None,
            began,
        })
    }

    /// The locks that other batches hold.
    pub fn locks(self, locks: Vec<HeldLock>) -> Self {
        Self { locks, ..self }
    }

    /// The virtual time since the start.
    pub fn age(&self) -> Duration {
        self.now().since(self.began)
    }

    pub fn now(&self) -> Timestamp {
        self.world.shared.clock.timestamp()
    }

    /// Applies the requests of the operator that are due.
    pub fn apply_requests(&self) {
        self.world.shared.apply_requests(&self.world);
    }

    /// Keeps a progress that clients see, if it differs in the phase or in what holds the batch.
    pub fn see(&mut self, progress: Progress) {
        let of = |progress: &Progress| (progress.phase, progress.held_by);
        if self.seen.last().map(of) != Some(of(&progress)) {
            self.seen.push(progress);
        }
    }

    /// Lets the strides of the controllers and the clock run until a decision is due.
    pub async fn wait(&mut self, controllers: &mut [&mut Strides<'a>], until: Option<Timestamp>) {
        let clock = self.world.shared.clock.clone();
        let mut until = earliest(until, self.next_due());
        // A batch that would wait forever is tracked no more.
        if until.is_some() || controllers.iter().any(|strides| strides.is_running()) {
            until = earliest(until, self.world.state().tracked_at());
        }
        let until = until.map(|until| until.max(clock.timestamp().plus(STEP)));
        loop {
            let happened = std::future::poll_fn(|cx| {
                for controller in &mut *controllers {
                    match controller.poll(cx) {
                        Poll::Ready(Happened::Quiet) => {}
                        other => return other,
                    }
                }
                Poll::Ready(Happened::Quiet)
            });
            match happened.await {
                Happened::Changed => return,
                Happened::Quiet if !clock.advance(until) => {
                    self.give_up_waiting();
                    return;
                }
                Happened::Quiet if until.is_some_and(|until| until <= clock.timestamp()) => return,
                Happened::Quiet => {}
            }
        }
    }

    /// The time at which something happens that is not a stride's.
    fn next_due(&self) -> Option<Timestamp> {
        let (state, now) = (self.world.state(), self.now());
        let check = self.check.due.filter(|due| *due > now);
        let throttles = state.throttles_to_ask().and_then(|_| self.throttling.due());
        let request = self.world.shared.script().due();
        [check, throttles, request].into_iter().flatten().min()
    }

    /// Cancels a batch that would wait forever.
    fn give_up_waiting(&mut self) {
        let now = self.now();
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

    /// Ends the batch after its last page.
    pub async fn finish(mut self, ending: Ending) -> SimulatedRun {
        self.combine_in(&self.world, true);
        let ending = self.check_at_end(ending).await;
        self.end(&ending)
    }

    pub fn end(mut self, ending: &Ending) -> SimulatedRun {
        let mut state = self.world.state();
        let told = state.begin_to_end(ending);
        drop(state);
        self.tell_end(&told);
        let mut state = self.world.state();
        state.closing = Some(Phase::Ended);
        let report = state.report(ending);
        drop(state);
        let duration = self.age();
        let faults = &self.world.shared.faults;
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
            hooks: std::mem::take(&mut self.hooks),
            report,
        }
    }
}

impl Simulation<'_, StrideWork> {
    /// Runs the batch to its end.
    pub async fn run(mut self) -> Result<SimulatedRun, InvalidBatch> {
        if let Some(ending) = self.begin().await? {
            return Ok(self.end(&ending));
        }
        let mut strides = Strides::new(self.processor, Arc::clone(&self.world));
        loop {
            self.apply_requests();
            strides.refresh();
            self.make_calls().await;
            self.check_stage().await;
            match strides.decide() {
                None => {}
                Some(Decided::End(ending)) => return Ok(self.finish(ending).await),
                Some(Decided::Wait(until)) => {
                    if let Some(progress) = strides.publish() {
                        self.see(progress);
                    }
                    self.wait(&mut [&mut strides], until).await;
                }
            }
        }
    }
}

/// Returns the state of a batch without partitions at its beginning.
pub(super) fn of_strides(spec: BatchSpec) -> BatchState {
    let mut state: BatchState = BatchState::of(first_input(spec));
    // The seed of a real batch comes from its batch run, which is a random number here.
    state.work.chain.seed_by(0);
    // Bridges are workflows.
    state.work.outbox.on = false;
    state
}

/// Returns the state of the next run of a controller, with what of this one is stored.
pub(super) fn next_run<W: Work>(state: &BatchState<W>, now: Timestamp) -> BatchState<W> {
    let stored = serde_json::to_value(state.fitting_input());
    let stored = stored.and_then(serde_json::from_value);
    let mut next = BatchState::of(stored.expect("the state can be stored"));
    next.begin(now);
    next
}

/// Returns the input of the first controller of a batch.
pub(super) fn first_input<W>(spec: BatchSpec) -> ControllerInput<W> {
    let given = Given {
        who: Some(OPERATOR.to_owned()),
        why: None,
    };
    ControllerInput {
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
    }
}
