//! Settings of a simulation, and its result.

use std::time::Duration;

use serde_json::Value;

use super::{
    clock::VirtualClock,
    faults::{Faults, Plan},
    operator::{Request, Script, When},
    simulation::{Simulation, first_input, of_strides},
    throttles::Known,
    world::Shared,
};
use crate::{
    base::time::Timestamp,
    batch::{Batch, validate::InvalidBatch},
    decisions::state::{BatchState, partition_work::ParentState},
    processor::{PageProcessor, hooks::HookCall, throttle::Throttle},
    progress::{ItemCounts, Progress, failures::PageFailure, phase::Outcome, report::BatchReport},
    stride::registry::Typed,
};

/// Runs a whole batch in memory with the engine's own decisions and page loop. Its clock is virtual, so hours of waiting
/// between retries, for a rate or for an operator take no time.
///
/// | simulated | omitted |
/// |---|---|
/// | preparing, pages, retries, dead letters, reducers | the final report in a store of dead letters |
/// | rates, page pauses, parallelism, ramps, windows, tuning | |
/// | [requests](Self::at) of an operator | |
/// | hooks: their calls are [recorded](SimulatedRun::hooks) | the code of hooks, and its failures |
/// | [locks](Self::lock_held) that other batches hold | |
/// | stages, checks, tolerance, deadlines | |
/// | [throttles](Self::throttle) | |
/// | partitions, each with a controller of its own, and splits | the delay of messages between the controllers |
/// | continue-as-new | |
///
/// A page takes no time unless [`page_takes`](Self::page_takes) says so. Strides share the virtual clock, but run one at
/// a time: user code runs until it waits for the clock. Two simulations of the same batch are the same.
///
/// ```
/// # use async_trait::async_trait;
/// # use temporal_batch::*;
/// # struct Greet;
/// # #[async_trait]
/// # impl PageProcessor for Greet {
/// #     const NAME: &'static str = "greet";
/// #     type Args = ();
/// #     type Cursor = u32;
/// #     type Item = u32;
/// #     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
/// #         let first = ctx.range().start().map_or(1, |last| last + 1);
/// #         let last = ctx.range().end().copied().unwrap_or(100);
/// #         Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
/// #     }
/// #     async fn process(&self, _: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
/// #         Ok(PageReport::all_processed())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use temporal_batch::{
///     settings::Settings,
///     testing::{Request, Simulator},
/// };
///
/// let batch = Batch::of::<Greet>("greet-all", ()).page_size(10);
/// let run = Simulator::new().lose_worker_every(3).run(&Greet, &batch).await.unwrap();
/// assert_eq!(run.outcome, Outcome::Completed);
/// assert_eq!((run.pages, run.items.processed), (10, 100));
/// assert!(run.lost_workers > 0);
///
/// let hour = Duration::from_secs(3_600);
/// let simulator = Simulator::new()
///     .after_pages(4, Request::pause_for(hour, "lunch"))
///     .at(hour / 2, Request::set(Settings::new().page_size(5)));
/// let run = simulator.run(&Greet, &batch).await.unwrap();
/// assert_eq!((run.pages, run.duration), (4 + 12, hour));
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Simulator {
    faults: Plan,
    page_takes: Duration,
    begins: Timestamp,
    script: Script,
    throttles: Vec<Known>,
    locks: Vec<HeldLock>,
}

/// A named lock that another batch holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeldLock {
    /// The virtual time after the start at which it is released.
    pub until: Duration,
    pub name: String,
    pub by: String,
}

/// A call of a hook in a simulation. It takes no time and succeeds.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedCall {
    /// The name of the hook.
    pub hook: String,
    /// The virtual time since the start.
    pub after: Duration,
    /// The event that the hook is told.
    pub call: HookCall,
}

/// The result of a simulated batch.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedRun {
    /// The outcome.
    pub outcome: Outcome,
    /// The reason why the batch ended early. `None` if it completed.
    pub reason: Option<String>,
    /// Pages that are finished.
    pub pages: u64,
    /// The number of items by outcome.
    pub items: ItemCounts,
    /// Failed attempts that were followed by another.
    pub retries: u64,
    /// Pages that were given up. Items that were given up are in the [report](Self::report).
    pub failed: Vec<PageFailure>,
    /// The number of workers that were lost.
    pub lost_workers: u64,
    /// Strides that ended early because the batch told them to: at a pause, a continue-as-new or a new limit.
    pub told_to_stop: u64,
    /// The virtual time from start to end.
    pub duration: Duration,
    /// The result of the processor's reducer for all finished pages, if it has one.
    pub output: Option<Value>,
    /// The reason why there is no output although the processor has a reducer.
    pub output_error: Option<String>,
    /// The reason why the batch would have waited forever, such as a pause that is never resumed. The simulator has
    /// then cancelled it.
    pub stood_still: Option<String>,
    /// The progress that clients saw, at each change of the phase or of what holds the batch.
    pub progress: Vec<Progress>,
    /// The calls of the hooks that the batch names, in their order.
    pub hooks: Vec<SimulatedCall>,
    /// The report that clients get at the end.
    pub report: BatchReport,
}

/// # Construct
impl Simulator {
    /// A simulator without faults other than those of the processor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the virtual time that a page takes, or the part of a page that is split. It is zero by default.
    pub fn page_takes(mut self, time: Duration) -> Self {
        self.page_takes = time;
        self
    }

    /// Sets the virtual time at which the batch starts, for operating windows. It is the Unix epoch by default.
    pub fn starts_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.begins = time.into();
        self
    }

    /// Makes a request when this much virtual time has passed since the start. Requests of the same moment are applied
    /// in the order in which they were given.
    pub fn at(mut self, after: Duration, request: Request) -> Self {
        self.script.add(When::At(after), request);
        self
    }

    /// Makes a request when this number of pages is finished.
    pub fn after_pages(mut self, pages: u64, request: Request) -> Self {
        self.script.add(When::AfterPages(pages), request);
        self
    }

    /// Adds a throttle for batches that name it. It is asked at its interval by the virtual clock. Its timeout is not
    /// simulated.
    pub fn throttle(mut self, throttle: impl Throttle) -> Self {
        self.throttles.push(Known::new(throttle));
        self
    }
}

/// # Other batches
impl Simulator {
    /// Has another batch hold a named lock until this much virtual time has passed since the start. A batch with that lock
    /// is refused, or waits if it [is told to](Batch::wait_for_lock).
    pub fn lock_held(
        mut self,
        name: impl Into<String>,
        by: impl Into<String>,
        until: Duration,
    ) -> Self {
        self.locks.push(HeldLock {
            until,
            name: name.into(),
            by: by.into(),
        });
        self
    }
}

/// # Faults
impl Simulator {
    /// Loses the worker of every nth stride after its work is done and before it is reported. The stride then runs
    /// again, or is given up in [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce). Like all
    /// interruptions, this happens at most 200 times: otherwise a batch with unlucky intervals would never end.
    pub fn lose_worker_every(mut self, strides: u64) -> Self {
        self.faults.lose_every = Some(strides.max(1));
        self
    }

    /// Delivers every announcement twice. An announcement tells the controller where the next stride starts; a real
    /// server may deliver it again.
    pub fn duplicate_announcements(mut self) -> Self {
        self.faults.duplicate_announcements = true;
        self
    }

    /// Tells a stride to stop before every nth page begins and continues it later, as a pause or a continue-as-new does.
    /// `pages` is at least 2, so that there is progress.
    pub fn stop_before_every(mut self, pages: u64) -> Self {
        self.faults.stop_before = Some(pages.max(2));
        self
    }

    /// Tells a stride to stop while every nth page has been fetched and waits for the rate. `pages` is at least 2.
    pub fn stop_while_every_waits(mut self, pages: u64) -> Self {
        self.faults.stop_while_waiting = Some(pages.max(2));
        self
    }

    /// Pauses the batch at once while every nth page is in `process`, after this much real time, and resumes it when its
    /// stride has ended. `pages` is at least 2. A page that finishes earlier is not interrupted. Because of the real time,
    /// two simulations with this fault may differ.
    pub fn pause_now_every(mut self, pages: u64, after: Duration) -> Self {
        self.faults.pause_now = Some((pages.max(2), after));
        self
    }
}

/// # Run
impl Simulator {
    /// Runs the batch to its end.
    ///
    /// # Errors
    /// The batch or a request is not allowed, or the batch names a throttle that the simulator does not have.
    pub async fn run<P: PageProcessor>(
        &self,
        processor: &P,
        batch: &Batch,
    ) -> Result<SimulatedRun, InvalidBatch> {
        batch.validate()?;
        self.script.validate()?;
        let shared = Shared::new(
            VirtualClock::at(self.begins),
            self.page_takes,
            Faults::new(self.faults),
            self.script.clone().begins(self.begins),
        );
        let (processor, throttles) = (Typed(processor), self.throttles.clone());
        let spec = batch.spec.clone();
        if spec.partitioned {
            let state: ParentState = BatchState::of(first_input(spec));
            let simulation = Simulation::new(&processor, shared, state, throttles)?;
            simulation.locks(self.locks.clone()).run().await
        } else {
            let simulation = Simulation::new(&processor, shared, of_strides(spec), throttles)?;
            simulation.locks(self.locks.clone()).run().await
        }
    }
}
