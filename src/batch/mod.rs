//! The batch that a user starts: a processor, its arguments and its initial limits.

pub(crate) mod letter_filter;
pub(crate) mod lock_name;
pub(crate) mod pace_settings;
pub(crate) mod partition_spec;
pub(crate) mod redrive_args;
pub(crate) mod retry;
pub(crate) mod spec;
pub(crate) mod stage;
pub(crate) mod tolerance;
pub(crate) mod validate;

use std::{ffi::OsStr, path::Path, sync::LazyLock, time::Duration};

use serde::Serialize;

use crate::{
    batch::{
        letter_filter::LetterFilter,
        pace_settings::{
            PaceSpec,
            page_size::AutoPageSize,
            parallelism::AutoParallelism,
            ramp::Ramp,
            stride::{AutoStride, Stride},
            window::Window,
        },
        redrive_args::{LETTERS_PER_PAGE, RedriveArgs},
        spec::{BatchSpec, HookNames, MAX_ARGS_BYTES},
        stage::Stage,
        tolerance::Tolerance,
        validate::{
            InvalidBatch, lasts, validate_deadline, validate_id, validate_max_parallelism,
            validate_page_size, validate_partitioned, validate_rate, validate_stride, within,
        },
    },
    page::token::PageToken,
};

/// A batch that can be started: one processor and one data set.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `page_size` | 1,000 items | 1 to 1,000,000 |
/// | `max_parallelism` | 10 pages in flight | 0 (starts without dispatching) to 500 |
/// | `stride` | pages of about 5 s per activity | 1 to 10,000 pages, or tuned: see [`Stride`] |
/// | `rate` | unlimited | more than 0 items per second |
/// | `page_rate` | unlimited | more than 0 pages per second |
/// | `page_pause` | none | up to 1 h before each page |
/// | `auto_page_size`, `auto_parallelism` | off | see [`AutoPageSize`], [`AutoParallelism`] |
/// | `ramp` | none | see [`Ramp`] |
/// | `window` | always open | up to 20, see [`Window`] |
/// | `throttle` | none | up to 20 names registered with the workers |
/// | `pages_per_run` | Temporal decides | at least 1 |
/// | `first_cursor` | the beginning of the data | any cursor; the data after it is processed |
/// | `tolerate` | any number of failures | see [`Tolerance`] |
/// | `deadline` | none | at least 1 s after the start |
/// | `on_failure`, `track`, `on_completion` | none | names registered with the workers |
/// | `hook_timeout` | 30 s for each attempt of these hooks | 100 ms to 10 min |
/// | `stages` | none: everything at once | up to 20, ascending, see [`Stage`] |
/// | `approve_stages` | off: a stage that passes its check is followed by the next | |
/// | `check_at_end` | on with stages, off without | |
/// | `lock` | none | 1 to 200 characters without white space |
/// | `wait_for_lock` | off: the batch is refused while another holds the lock | |
/// | `weight` | 1 | 0.001 to 1,000 |
/// | `partitioned` | decided by the processor | not with `stages`, `first_cursor`, `auto_parallelism`, a redrive, or tolerated consecutive failures |
/// | `task_queue` | [the name of the program](default_task_queue) | |
/// | `if_running` | [`IfRunning::Refuse`] | whether to attach to a running batch of this id |
/// | `rerun` | off | whether the id of a batch that has ended may be reused |
/// | `continues` | off | whether a batch that ended early continues from where it stopped |
///
/// Settings are not checked until the batch is started; see [`InvalidBatch`].
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) spec: BatchSpec,
    pub(crate) task_queue: String,
    pub(crate) rerun: bool,
    pub(crate) continues: bool,
    pub(crate) if_running: IfRunning,
    pub(crate) defect: Option<InvalidBatch>,
}

/// The behaviour of a start when a batch of the same id is running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfRunning {
    /// Refuses the start.
    #[default]
    Refuse,
    /// Returns a handle to the running batch if it has the same processor and arguments, and refuses the start
    /// otherwise. The limits of the running batch do not change.
    Attach,
}

/// Default interval between calls of a tracker.
pub(crate) const TRACK_EVERY: Duration = Duration::from_secs(300);
const SHORTEST_TRACK_EVERY: Duration = Duration::from_secs(1);
const SHORTEST_DEADLINE: Duration = Duration::from_secs(1);
/// Default time limit of one attempt of a hook.
pub(crate) const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3_600));
const HOOK_TIMEOUTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));

/// Maximum number of pages in flight. Temporal allows 2,000 pending activities in a workflow and recommends
/// fewer than 500 (Temporal Cloud limits page, "per Workflow Execution callback limits").
pub(crate) const MAX_PARALLELISM: u32 = 500;
const DEFAULT_PAGE_SIZE: u32 = 1_000;
pub(crate) const MAX_PAGE_SIZE: u32 = 1_000_000;
pub(crate) const MAX_STRIDE: u32 = 10_000;
/// Additional bytes for the arguments of a redrive, which contain those of another batch and a filter.
const OF_A_REDRIVE_BYTES: usize = 16 * 1024;
/// The weights that Temporal accepts.
const WEIGHTS: std::ops::RangeInclusive<f32> = 0.001..=1_000.0;
const MAX_ID_CHARS: usize = 200;

/// Returns the task queue that is used when none is named: the name of the running program, which is its file name
/// without the extension.
///
/// Two programs on one server therefore do not receive each other's pages. Name a queue if one program starts
/// batches for another, or if the file name changes from release to release.
pub fn default_task_queue() -> &'static str {
    static QUEUE: LazyLock<String> = LazyLock::new(|| {
        let program = std::env::current_exe().ok();
        program.as_deref().map_or_else(fallback, queue_of_program)
    });
    &QUEUE
}

fn queue_of_program(path: &Path) -> String {
    let stem = path.file_stem().map(OsStr::to_string_lossy);
    // Linux appends this to the path of a file that was replaced while the program runs.
    let stem = stem
        .as_deref()
        .map(|stem| stem.trim_end_matches(" (deleted)").trim());
    stem.filter(|stem| !stem.is_empty())
        .map_or_else(fallback, ToOwned::to_owned)
}

fn fallback() -> String {
    "temporal-batch".to_owned()
}

/// # Construct
impl Batch {
    /// Creates a batch whose processor is known only by name, with its arguments as JSON. The worker checks both before
    /// the first page.
    pub fn named(
        batch_id: impl Into<String>,
        processor: impl Into<String>,
        args: serde_json::Value,
    ) -> Self {
        Self {
            spec: BatchSpec {
                batch_id: batch_id.into(),
                processor: processor.into(),
                args,
                page_size: DEFAULT_PAGE_SIZE,
                max_parallelism: 10,
                stride: AutoStride::default().first(),
                rate: None,
                first_cursor: None,
                pages_per_run: None,
                redrive_of: None,
                tolerance: None,
                deadline: None,
                hooks: HookNames::default(),
                track_every: None,
                hook_timeout: None,
                pace: PaceSpec {
                    auto_stride: Some(AutoStride::default()),
                    ..PaceSpec::default()
                },
                lock: None,
                wait_for_lock: false,
                stages: Vec::new(),
                approve_stages: false,
                check_at_end: None,
                weight: None,
                partitioned: false,
            },
            task_queue: default_task_queue().to_owned(),
            rerun: false,
            continues: false,
            if_running: IfRunning::default(),
            defect: None,
        }
    }

    /// Creates a batch that retries dead letters: those that `filter` selects, from a batch of `processor` that was
    /// started with `args`. A page has 20 letters, each of which may stand for a whole page. The processor
    /// [completes](crate::PageProcessor::prepare) the arguments again.
    ///
    /// `BatchClient::redrive` finds the processor and the arguments by itself while the server still has the
    /// batch.
    pub fn redrive(
        batch_id: impl Into<String>,
        processor: impl Into<String>,
        args: serde_json::Value,
        filter: LetterFilter,
    ) -> Self {
        Self::redriving(batch_id.into(), processor.into(), args, filter, false)
    }

    /// Like [`redrive`](Self::redrive), with arguments that the processor has already completed.
    pub(crate) fn redrive_completed(
        batch_id: impl Into<String>,
        processor: impl Into<String>,
        args: serde_json::Value,
        filter: LetterFilter,
    ) -> Self {
        Self::redriving(batch_id.into(), processor.into(), args, filter, true)
    }

    fn redriving(
        batch_id: String,
        processor: String,
        args: serde_json::Value,
        filter: LetterFilter,
        completed: bool,
    ) -> Self {
        let redrive_of = filter.batch_id.clone();
        let args = RedriveArgs {
            filter,
            args,
            page_size: DEFAULT_PAGE_SIZE,
            completed,
        };
        let (args, defect) = match serde_json::to_value(args) {
            Ok(args) => (args, None),
            Err(e) => {
                let message = e.to_string();
                (
                    serde_json::Value::Null,
                    Some(InvalidBatch::Args { message }),
                )
            }
        };
        let mut batch = Self::named(batch_id, processor, args).page_size(LETTERS_PER_PAGE);
        batch.defect = defect;
        batch.spec.redrive_of = Some(redrive_of);
        batch
    }

    /// Sets the number of items in a page.
    #[must_use]
    pub fn page_size(mut self, items: u32) -> Self {
        self.spec.page_size = items;
        self
    }

    /// Limits the pages in flight, over all workers. With 0 the batch waits until an operator raises the limit.
    #[must_use]
    pub fn max_parallelism(mut self, pages: u32) -> Self {
        self.spec.max_parallelism = pages;
        self
    }

    /// Sets how many pages one activity processes in a row: a number, or an [`AutoStride`](crate::settings::AutoStride), which
    /// is the default. See [`Stride`].
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Stride>) -> Self {
        let (pages, auto) = match stride.into() {
            Stride::Pages(pages) => (pages, None),
            Stride::Auto(auto) => (auto.first(), Some(auto)),
        };
        self.spec.stride = pages;
        self.spec.pace.auto_stride = auto;
        self
    }

    /// Limits the items per second, over all workers.
    #[must_use]
    pub fn rate(mut self, items_per_second: f64) -> Self {
        self.spec.rate = Some(items_per_second);
        self
    }

    /// Limits the pages per second, over all workers.
    #[must_use]
    pub fn page_rate(mut self, pages_per_second: f64) -> Self {
        self.spec.pace.page_rate = Some(pages_per_second);
        self
    }

    /// Pauses before each page, for at most 1 h. The page counts as in flight during its pause.
    #[must_use]
    pub fn page_pause(mut self, pause: Duration) -> Self {
        self.spec.pace.page_pause = Some(pause);
        self
    }

    /// Tunes the page size while the batch runs, so that a page takes the target time. The first pages have
    /// [`page_size`](Self::page_size).
    #[must_use]
    pub fn auto_page_size(mut self, auto: AutoPageSize) -> Self {
        self.spec.pace.auto_page_size = Some(auto);
        self
    }

    /// Tunes the parallelism while the batch runs: up by one while that helps, down by half when pages fail or
    /// a throttle closes. [`max_parallelism`](Self::max_parallelism) becomes the upper bound.
    #[must_use]
    pub fn auto_parallelism(mut self, auto: AutoParallelism) -> Self {
        self.spec.max_parallelism = auto.max();
        self.spec.pace.auto_parallelism = Some(auto);
        self
    }

    /// Changes the parallelism step by step, measured in running time.
    /// [`max_parallelism`](Self::max_parallelism) becomes the value at which the ramp ends.
    #[must_use]
    pub fn ramp(mut self, ramp: Ramp) -> Self {
        self.spec.max_parallelism = ramp.to();
        self.spec.pace.ramp = Some(ramp);
        self
    }

    /// Restricts running to this window. Repeated calls add windows, and the batch holds outside all of them.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.spec.pace.windows.push(window);
        self
    }

    /// Obeys the [`Throttle`](crate::throttle::Throttle) of this name. Repeated calls add throttles, and the strictest of
    /// them applies.
    #[must_use]
    pub fn throttle(mut self, name: impl Into<String>) -> Self {
        self.spec.pace.throttles.push(name.into());
        self
    }

    /// Continues as new after about this many pages, instead of when Temporal suggests it.
    #[must_use]
    pub fn pages_per_run(mut self, pages: u32) -> Self {
        self.spec.pages_per_run = Some(pages);
        self
    }

    /// Processes only the data after this cursor.
    #[must_use]
    pub fn first_cursor<C: Serialize>(mut self, cursor: &C) -> Self {
        match PageToken::encode(cursor) {
            Ok(token) => self.spec.first_cursor = Some(token),
            Err(e) => {
                self.defect = Some(InvalidBatch::FirstCursor {
                    message: e.to_string(),
                });
            }
        }
        self
    }

    /// Sets the failures that are tolerated. Further failures pause or stop the batch.
    #[must_use]
    pub fn tolerate(mut self, tolerance: Tolerance) -> Self {
        self.spec.tolerance = Some(tolerance);
        self
    }

    /// Ends the batch as [`Outcome::Stopped`](crate::Outcome::Stopped) if it is not done after this time,
    /// including pauses. From then on no page is started, and running strides end after their current page.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.spec.deadline = Some(after);
        self
    }

    /// Reports failures to the [`FailureHandler`](crate::hooks::FailureHandler) of this name.
    #[must_use]
    pub fn on_failure(mut self, handler: impl Into<String>) -> Self {
        self.spec.hooks.failure_handler = Some(handler.into());
        self
    }

    /// Reports progress to the [`Tracker`](crate::hooks::Tracker) of this name: at the start, at intervals of 5 min or
    /// [`track_every`](Self::track_every), and at the end.
    #[must_use]
    pub fn track(mut self, tracker: impl Into<String>) -> Self {
        self.spec.hooks.tracker = Some(tracker.into());
        self
    }

    /// Sets the interval between calls of the tracker, at least 1 s.
    #[must_use]
    pub fn track_every(mut self, interval: Duration) -> Self {
        self.spec.track_every = Some(interval);
        self
    }

    /// Reports the end of the batch to the [`CompletionHook`](crate::hooks::CompletionHook) of this name.
    #[must_use]
    pub fn on_completion(mut self, hook: impl Into<String>) -> Self {
        self.spec.hooks.completion_hook = Some(hook.into());
        self
    }

    /// Limits the time of one attempt of a hook. A call has three attempts.
    #[must_use]
    pub fn hook_timeout(mut self, timeout: Duration) -> Self {
        self.spec.hook_timeout = Some(timeout);
        self
    }

    /// Names a lock. Batches with the same lock do not run together, whatever their task queues. A batch
    /// started while another holds the lock is refused, or [waits](Self::wait_for_lock). A batch holds its lock
    /// from before its first page until after its last hook, across continue-as-new.
    #[must_use]
    pub fn lock(mut self, name: impl Into<String>) -> Self {
        self.spec.lock = Some(name.into());
        self
    }

    /// Waits while another batch holds the lock. If several batches wait, any of them may get it next. A
    /// deadline counts from the start, so it also limits the wait.
    #[must_use]
    pub fn wait_for_lock(mut self, wait: bool) -> Self {
        self.spec.wait_for_lock = wait;
        self
    }

    /// Divides the batch into stages that are checked one after the other.
    ///
    /// At the end of a stage no page is in flight. [`PageProcessor::check`](crate::PageProcessor::check) checks
    /// everything up to the low-water mark. The failures are compared with the [tolerance](Self::tolerate),
    /// whatever the size of the sample; without a tolerance any failure counts. If both are fine the batch
    /// continues with the next stage. Otherwise it holds until a person approves it with
    /// `BatchHandle::approve`.
    ///
    /// A stage ends exactly at its number of items: its last page is smaller than the others. A percentage
    /// requires [`PageProcessor::size_hint`](crate::PageProcessor::size_hint); without it the batch is refused.
    ///
    /// ```
    /// # use temporal_batch::{settings::Stage, Batch};
    /// let stages = [Stage::Items(100), Stage::Percent(1.0), Stage::Percent(10.0), Stage::All];
    /// let batch = Batch::named("b", "p", serde_json::Value::Null).stages(stages);
    /// assert!(batch.validate().is_ok());
    /// ```
    #[must_use]
    pub fn stages(mut self, stages: impl IntoIterator<Item = Stage>) -> Self {
        self.spec.stages = stages.into_iter().collect();
        self
    }

    /// Holds at the end of each stage until a person approves it, even if all is well.
    #[must_use]
    pub fn approve_stages(mut self, ask: bool) -> Self {
        self.spec.approve_stages = ask;
        self
    }

    /// Runs [`PageProcessor::check`](crate::PageProcessor::check) on everything after the last page. If the
    /// check fails, the batch ends as
    /// [`Outcome::CompletedWithFailures`](crate::Outcome::CompletedWithFailures).
    #[must_use]
    pub fn check_at_end(mut self, check: bool) -> Self {
        self.spec.check_at_end = Some(check);
        self
    }

    /// Sets the share of this batch when pages of several batches wait for the same workers: weight 3 gets
    /// three times as much as weight 1. The weight has no effect while no pages wait. The server must have
    /// fairness enabled (`matching.enableFairness`), as [the dev server](crate::dev_server) does.
    #[must_use]
    pub fn weight(mut self, weight: f32) -> Self {
        self.spec.weight = Some(weight);
        self
    }

    /// Declares whether the processor names [partitions](crate::PageProcessor::partitions). [`Batch::of`] sets it. A
    /// batch of a processor known only by name must set it itself, or the worker refuses the batch.
    #[must_use]
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.spec.partitioned = partitioned;
        self
    }

    /// Sets the task queue on which a worker with the processor polls. If no worker of the queue has the
    /// processor, the batch waits for one and reports that it does.
    #[must_use]
    pub fn task_queue(mut self, queue: impl Into<String>) -> Self {
        self.task_queue = queue.into();
        self
    }

    /// Allows the id of a batch that has ended to be reused. Everything is processed again, as a new batch run.
    #[must_use]
    pub fn rerun(mut self, allow: bool) -> Self {
        self.rerun = allow;
        self
    }

    /// Sets the behaviour of the start when a batch of this id is running.
    #[must_use]
    pub fn if_running(mut self, then: IfRunning) -> Self {
        self.if_running = then;
        self
    }

    /// Continues a batch of this id that has ended failed, stopped or cancelled, from exactly where it stopped.
    /// It remains the same batch run and takes the limits of this batch. The processor and the arguments must
    /// be the same. If there is no such batch, a new one is started.
    #[must_use]
    pub fn continues(mut self, go_on: bool) -> Self {
        self.continues = go_on;
        self
    }
}

/// # Inspect
impl Batch {
    /// Returns the id.
    pub fn id(&self) -> &str {
        &self.spec.batch_id
    }

    /// Returns the name of the processor.
    pub fn processor(&self) -> &str {
        &self.spec.processor
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is not allowed, with the allowed values.
    pub fn validate(&self) -> Result<(), InvalidBatch> {
        if let Some(defect) = &self.defect {
            return Err(defect.clone());
        }
        let spec = &self.spec;
        validate_id(&spec.batch_id)?;
        if spec.processor.is_empty() {
            return Err(InvalidBatch::NoProcessor);
        }
        if self.task_queue.trim().is_empty() {
            return Err(InvalidBatch::NoTaskQueue);
        }
        validate_page_size(spec.page_size)?;
        validate_max_parallelism(spec.max_parallelism)?;
        validate_stride(spec.stride)?;
        if let Some(pages) = spec.pages_per_run {
            within("pages per run", pages, 1, u32::MAX)?;
        }
        validate_rate(spec.rate)?;
        spec.pace.validate()?;
        if let Some(tolerance) = &spec.tolerance {
            tolerance.validate()?;
        }
        validate_deadline(spec.deadline)?;
        let longest = Duration::from_secs(366 * 86_400);
        lasts(
            "track interval",
            spec.track_every,
            SHORTEST_TRACK_EVERY,
            longest,
        )?;
        lasts(
            "hook timeout",
            spec.hook_timeout,
            HOOK_TIMEOUTS.0,
            HOOK_TIMEOUTS.1,
        )?;
        if let Some(lock) = &spec.lock {
            lock_name::validate(lock)?;
        }
        stage::validate(&spec.stages)?;
        if spec.partitioned {
            validate_partitioned(spec)?;
        }
        if spec.approve_stages && spec.stages.is_empty() {
            return Err(InvalidBatch::NoStages);
        }
        if spec.wait_for_lock && spec.lock.is_none() {
            return Err(InvalidBatch::NoLock);
        }
        if let Some(weight) = spec.weight
            && !WEIGHTS.contains(&weight)
        {
            return Err(InvalidBatch::Weight { given: weight });
        }
        let bytes = spec.args.to_string().len();
        // The arguments of a redrive contain those of another batch, which its processor has completed.
        let redrives = spec.redrive_of.is_some();
        if bytes > MAX_ARGS_BYTES + if redrives { OF_A_REDRIVE_BYTES } else { 0 } {
            return Err(InvalidBatch::ArgsTooLarge { bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        Batch::named("b", "p", serde_json::Value::Null)
    }

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(batch().validate(), Ok(()));
        assert_eq!(batch().max_parallelism(0).validate(), Ok(()));
    }

    #[test]
    fn the_default_queue_is_the_name_of_the_program_wherever_it_lies() {
        for (path, queue) in [
            ("/usr/bin/shop-batches", "shop-batches"),
            ("target/release/examples/fix_emails", "fix_emails"),
            ("C/shop.exe", "shop"),
            ("/srv/shop-batches (deleted)", "shop-batches"),
            ("/", "temporal-batch"),
        ] {
            assert_eq!(queue_of_program(Path::new(path)), queue);
        }
        assert_eq!(batch().task_queue, default_task_queue());
    }

    #[test]
    fn bad_settings_are_refused_with_what_is_allowed() {
        let message = |b: Batch| b.validate().unwrap_err().to_string();
        assert_eq!(
            message(batch().page_size(0)),
            "page size is 0; it must be from 1 to 1000000"
        );
        assert_eq!(
            message(batch().max_parallelism(501)),
            "max parallelism is 501; it must be from 0 to 500"
        );
        assert!(message(batch().stride(0)).contains("stride is 0"));
        assert!(message(batch().pages_per_run(0)).contains("pages per run is 0"));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(message(batch().rate(rate)).contains("more than 0"));
        }
        let deadline = message(batch().deadline(Duration::ZERO));
        assert!(
            deadline.contains("deadline is 0s; it must be from 1s"),
            "{deadline}"
        );
        assert!(message(batch().track_every(Duration::ZERO)).contains("track interval is 0s"));
        assert!(message(batch().hook_timeout(Duration::ZERO)).contains("hook timeout is 0s"));
        let none = Tolerance::new().consecutive(0);
        assert!(message(batch().tolerate(none)).contains("at least 1"));
        assert!(message(batch().task_queue(" ")).contains("task queue"));
        assert!(message(batch().lock("a b")).contains("lock name \"a b\""));
        assert!(message(batch().wait_for_lock(true)).contains("no lock is named"));
        assert!(message(batch().approve_stages(true)).contains("there are none"));
        let shrinking = [Stage::Items(5), Stage::Items(4)];
        assert!(message(batch().stages(shrinking)).contains("must grow"));
        for weight in [0.0, -1.0, 1_001.0, f32::NAN] {
            let message = message(batch().weight(weight));
            assert!(message.contains("from 0.001 to 1000"), "{message}");
        }
        for id in ["", "a b", "a\n", &"x".repeat(201)] {
            let named = Batch::named(id, "p", serde_json::Value::Null);
            assert!(message(named).contains("batch id"), "{id:?}");
        }
        let large = serde_json::Value::String("x".repeat(600_000));
        assert!(message(Batch::named("b", "p", large)).contains("at most 524288"));
    }
}
