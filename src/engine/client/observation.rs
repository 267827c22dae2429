//! One look at a batch: its progress and its workers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;
use temporalio_client::{
    NamespacedClient as _, WorkflowExecutionDescription, WorkflowSignalOptions,
    errors::WorkflowInteractionError,
};
use temporalio_common::protos::temporal::api::enums::v1::PendingWorkflowTaskState;

use super::{
    BatchHandle, BatchStatus, ProgressError, Remedy, ResultError, RunningPage, RunningStride,
    Workers,
    batch_client::MEMO_PROCESSOR,
    because::{Facts, because, cancellation_waits},
    handle::state_of,
    recovery::{failing_task, repeats_task},
    running::{running_strides, time},
};
use crate::{
    base::{text::count, time::Timestamp},
    engine::controller::Controller,
    page::size::Stand,
    progress::{Progress, by_age, phase::Phase},
    protocol::{ClientLooks, MEMO_FULL, MEMO_PROGRESS, message::Json},
};

/// Time limit for the controller to show its progress if an older one is available.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time limit if no older progress is available.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(5);
/// Time after which a workflow task that no worker has taken shows that no worker is there.
const UNTAKEN: Duration = Duration::from_secs(5);
/// Interval between looks while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Time after a signal for which the progress counts as fresh. The controller keeps it fresh for 15 s, and a look
/// takes a while.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// Time without a change of progress, while pages are in flight, after which a worker is asked whether it is
/// there.
const STILL_FOR: Duration = Duration::from_secs(5);

/// The result of one look at a batch.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Observation {
    /// The id of the batch.
    pub batch_id: String,
    /// The state that Temporal knows without asking a worker.
    pub state: BatchStatus,
    /// The processor, if the server knows it.
    pub processor: Option<String>,
    /// The time of a cancellation request that no worker has taken yet.
    pub cancel_waits_since: Option<Timestamp>,
    /// The progress. `None` if it is not available.
    pub progress: Option<Progress>,
    /// The source of the progress, if there is one.
    pub source: Option<ProgressSource>,
    /// The workers of its task queue. `None` if the batch has ended or the server does not tell.
    pub workers: Option<Workers>,
    /// The strides that were dispatched and have not ended, by number.
    pub strides: Vec<RunningStride>,
    /// The number of times that the workflow task has failed in a row, if it fails permanently while workers
    /// poll; see [`ProgressError::TaskFails`].
    pub task_failures: Option<u32>,
    /// The way to end that.
    pub remedy: Option<Remedy>,
    /// The time for which a workflow task has waited for a worker, if that is too long.
    #[serde(skip)]
    untaken: Option<Duration>,
}

/// The source of a progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProgressSource {
    /// The controller, asked by a client within the last 10 s. The progress lags behind by at most a second.
    Live,
    /// The progress that the controller left with the server some time ago, without its longer lists.
    /// [`Progress::as_of`] has the time.
    Snapshot,
    /// The final report of the batch.
    Report,
}

impl Observation {
    /// Returns whether the task queue has no worker that can continue the batch, as far as the server knows.
    pub fn no_worker(&self) -> bool {
        self.workers.as_ref().is_some_and(|workers| !workers.any())
    }

    /// Returns the progress, or the reason why it is unknown.
    pub(crate) fn told(self) -> Result<Progress, ProgressError> {
        match (self.task_fails(), self.progress) {
            (Some(error), _) => Err(error),
            (None, Some(progress)) => Ok(progress),
            (None, None) => Err(ProgressError::NoWorker {
                batch_id: self.batch_id,
            }),
        }
    }

    /// Returns the error of a workflow task that fails permanently, if it does.
    pub(crate) fn task_fails(&self) -> Option<ProgressError> {
        Some(ProgressError::TaskFails {
            batch_id: self.batch_id.clone(),
            times: self.task_failures?,
            remedy: self.remedy.unwrap_or(Remedy::Deploy),
        })
    }

    /// The page that has been worked on longest, as far as the workers have reported.
    pub fn oldest_page(&self) -> Option<&RunningPage> {
        let pages = self
            .strides
            .iter()
            .filter_map(|stride| stride.page.as_ref());
        pages.min_by_key(|page| page.since)
    }

    /// Returns whether a cancellation has not been taken and no worker is there to take it.
    fn lets_cancellation_wait(&self) -> bool {
        let phase = self.progress.as_ref().map(|progress| progress.phase);
        let taken = phase.is_some_and(|phase| phase == Phase::Cancelling);
        self.state.is_open() && !taken && (self.no_worker() || self.untaken.is_some())
    }

    /// Replaces the explanation by a cause that only a client can know, if there is one.
    fn explain(&mut self, now: Timestamp) {
        let Some(progress) = &mut self.progress else {
            return;
        };
        let facts = Facts {
            progress,
            workers: self.workers.as_ref(),
            strides: &self.strides,
            answered: self.source == Some(ProgressSource::Live),
            untaken: self.untaken,
            now,
        };
        let absent = self.workers.as_ref().is_some_and(|workers| !workers.any());
        if let Some(times) = self.task_failures.filter(|_| !absent) {
            progress.explanation = format!(
                "the workflow task has failed {} in a row",
                count(u64::from(times), "time")
            );
            if let Some(remedy) = self.remedy {
                progress.explanation = format!("{}: {remedy}", progress.explanation);
            }
            progress.held_by = None;
        } else if let Some(because) = because(&facts) {
            progress.explanation = because.explanation;
            progress.held_by = Some(because.held_by);
            progress.fitting_parallelism = because.fitting_parallelism;
            progress.lacks_processor = false;
        }
        if let Some(since) = self.cancel_waits_since {
            let waits = cancellation_waits(since);
            progress.explanation = format!("{waits}: {}", progress.explanation);
        }
        // The controller computed these values at its last decision, which may be long ago.
        if self.strides.len() == progress.pages_in_flight as usize {
            let since = || {
                self.strides
                    .iter()
                    .filter_map(|stride| stride.dispatched_at)
            };
            progress.in_flight_by_age = by_age(since().map(|since| now.since(since)));
            progress.oldest_in_flight = since().min();
        }
    }
}

/// # Look
impl BatchHandle {
    /// Returns the state, the progress and the workers of the batch. It needs no worker.
    ///
    /// | the batch | source of the progress |
    /// |---|---|
    /// | ended | the report |
    /// | running, and workers poll its task queue | the controller, which a signal asks for fresh progress; if it does not react within 2 s, the snapshot. If no worker takes the signal, this waits for 5 s, and the explanation says so |
    /// | running, and no worker polls | the snapshot; its explanation says so |
    ///
    /// The snapshot is the progress that the controller last left with the server. If there is none because no
    /// worker has started the batch, and workers poll, this waits for up to 5 s.
    ///
    /// A handle and its clones signal at most once in 10 s, however often they look, because the controller
    /// keeps its progress fresh for that long. While pages are in flight and the progress does not change, they
    /// signal once in 5 s, so that a lost worker is detected.
    ///
    /// # Errors
    /// The batch does not exist, or the server does not answer.
    pub async fn look(&self) -> Result<Observation, ProgressError> {
        self.look_now(None).await
    }

    fn look_now(
        &self,
        at_most: Option<Duration>,
    ) -> BoxFuture<'_, Result<Observation, ProgressError>> {
        Box::pin(async move {
            let description = self.describe().await?;
            let converter = self.client.data_converter().payload_converter();
            let mut seen = Observation {
                batch_id: self.batch_id.clone(),
                state: state_of(&description),
                processor: description.memo().get(MEMO_PROCESSOR).ok().flatten(),
                cancel_waits_since: None,
                progress: None,
                source: None,
                workers: None,
                strides: running_strides(&description, converter),
                task_failures: None,
                remedy: None,
                untaken: None,
            };
            if !seen.state.is_open()
                && let Some(report) = self.final_progress().await?
            {
                seen.progress = Some(report);
                seen.source = Some(ProgressSource::Report);
                return Ok(seen);
            }
            let cancelled = is_cancelled(&description).then(|| description.run_id().to_owned());
            let workers = Workers::of(&self.client, description.task_queue()).await;
            seen.workers = match workers {
                Ok(workers) => Some(workers),
                Err(error) => {
                    tracing::debug!(%error, "the server does not list the workers of the task queue");
                    None
                }
            };
            if seen.no_worker() {
                seen.progress = progress_in(&description);
                seen.source = seen.progress.is_some().then_some(ProgressSource::Snapshot);
            } else {
                match self.shown(description, at_most).await? {
                    Shown::Ended => return self.look_now(at_most).await,
                    Shown::TaskFails(times, remedy, progress) => {
                        seen.task_failures = Some(times);
                        seen.remedy = Some(remedy);
                        seen.progress = progress;
                        seen.source = seen.progress.is_some().then_some(ProgressSource::Snapshot);
                    }
                    Shown::Untaken(untaken, progress) => {
                        seen.untaken = Some(untaken);
                        seen.source = progress.is_some().then_some(ProgressSource::Snapshot);
                        seen.progress = progress;
                    }
                    Shown::Progress(progress, source) => {
                        seen.progress = progress;
                        seen.source = seen.progress.is_some().then_some(source);
                    }
                }
            }
            if !seen.state.is_open() {
                // The batch was ended from outside: it needs no worker any more.
                seen.workers = None;
                if let Some(progress) = &mut seen.progress {
                    progress.settle(Stand::Over);
                }
            }
            if let Some(run_id) = cancelled.filter(|_| seen.lets_cancellation_wait()) {
                let since = self.cancelled_at(&run_id).await;
                seen.cancel_waits_since =
                    since.map_err(|e| ProgressError::Server { source: e.into() })?;
            }
            seen.explain(self.looks.server_time());
            Ok(seen)
        })
    }

    /// Returns the progress, while the batch runs and for as long as the server has it. See
    /// [`look`](Self::look), which also returns its source.
    ///
    /// # Errors
    /// The batch does not exist; no worker answers and there is no snapshot; no worker can replay the history
    /// of the batch; or the server does not answer.
    pub async fn progress(&self) -> Result<Progress, ProgressError> {
        self.look().await?.told()
    }

    /// Returns the progress, which is at most this old if the controller answers. It asks the controller more often
    /// than [`progress`](Self::progress), and each time adds about six events to its history, so the age should not be
    /// short for long.
    ///
    /// # Errors
    /// Those of [`progress`](Self::progress).
    pub async fn progress_within(&self, age: Duration) -> Result<Progress, ProgressError> {
        self.look_now(Some(age)).await?.told()
    }

    /// The final progress of a batch that has ended, if it left a report.
    async fn final_progress(&self) -> Result<Option<Progress>, ProgressError> {
        match self.result().await {
            Ok(report) => Ok(Some(report.progress)),
            Err(ResultError::Refused { .. } | ResultError::NoReport { .. }) => Ok(None),
            Err(ResultError::NotFound { .. }) => Err(self.not_found()),
            Err(ResultError::Server { source }) => Err(ProgressError::Server { source }),
        }
    }

    /// Signals the controller that a client is looking, and waits for its progress.
    fn shown(
        &self,
        mut description: WorkflowExecutionDescription,
        at_most: Option<Duration>,
    ) -> BoxFuture<'_, Result<Shown, ProgressError>> {
        Box::pin(async move {
            if let Some(times) = failing_task(&description) {
                let remedy = self.remedy(&description).await;
                return Ok(Shown::TaskFails(times, remedy, progress_in(&description)));
            }
            let before = progress_in(&description);
            let run_id = description.run_id().to_owned();
            let fresh = before
                .as_ref()
                .is_some_and(|p| self.looks.is_fresh(&run_id, p, at_most));
            if fresh || !state_of(&description).is_open() {
                return Ok(Shown::Progress(before, ProgressSource::Live));
            }
            let looking = Instant::now();
            if let Some(waits) = self.looks.known_to_wait(&description) {
                return Ok(Shown::Untaken(waits, before));
            }
            if !repeats_task(&description) {
                let workflow = self.workflow();
                let look = || {
                    let options = WorkflowSignalOptions::default();
                    workflow.signal(Controller::client_looks, ClientLooks {}, options)
                };
                match self.outages.through(look).await {
                    Ok(()) => {}
                    Err(WorkflowInteractionError::NotFound(_)) => return Ok(Shown::Ended),
                    Err(source) => {
                        return Err(ProgressError::Server {
                            source: source.into(),
                        });
                    }
                }
            }
            let patience = match before {
                Some(_) => PATIENCE,
                None => PATIENCE_AT_FIRST,
            };
            let as_of = before.map(|progress| progress.as_of);
            loop {
                description = self.describe().await?;
                if !state_of(&description).is_open() {
                    return Ok(Shown::Ended);
                }
                let progress = progress_in(&description);
                if let Some(shown) = progress.as_ref().map(|progress| progress.as_of)
                    && as_of.is_none_or(|as_of| shown > as_of)
                {
                    self.looks.note(run_id, looking, shown);
                    return Ok(Shown::Progress(progress, ProgressSource::Live));
                }
                if let Some(times) = failing_task(&description) {
                    let remedy = self.remedy(&description).await;
                    return Ok(Shown::TaskFails(times, remedy, progress));
                }
                let waited = looking.elapsed();
                if waited > patience && waits_for_worker(&description).is_some() {
                    if waited >= UNTAKEN {
                        return Ok(Shown::Untaken(waited, progress));
                    }
                } else if waited > patience {
                    return Ok(Shown::Progress(progress, ProgressSource::Snapshot));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
    }
}

/// The result of a look.
enum Shown {
    Progress(Option<Progress>, ProgressSource),
    /// The batch, or this run of it, has ended in the meantime.
    Ended,
    TaskFails(u32, Remedy, Option<Progress>),
    /// The time for which no worker has taken the workflow task.
    Untaken(Duration, Option<Progress>),
}

/// The last reaction of a controller to a client, with the run it belongs to. The next run does not know of it.
#[derive(Clone, Default)]
pub(super) struct Looks(Arc<Mutex<Option<Looked>>>);

struct Looked {
    run_id: String,
    at: Instant,
    /// The latest known progress, by the server's clock, and the local time since which it is known.
    as_of: Timestamp,
    known_since: Instant,
}

impl Looks {
    /// Returns whether the progress is recent enough, and not older than `at_most`.
    fn is_fresh(&self, run_id: &str, progress: &Progress, at_most: Option<Duration>) -> bool {
        let mut last = self.lock();
        let Some(last) = last.as_mut().filter(|last| last.run_id == run_id) else {
            return false;
        };
        if progress.as_of > last.as_of {
            (last.as_of, last.known_since) = (progress.as_of, Instant::now());
        }
        let still = progress.pages_in_flight > 0 && last.known_since.elapsed() >= STILL_FOR;
        let recent = at_most.is_none_or(|at_most| last.known_since.elapsed() <= at_most);
        last.at.elapsed() < FRESH_FOR && !still && recent
    }

    fn note(&self, run_id: String, at: Instant, as_of: Timestamp) {
        *self.lock() = Some(Looked {
            run_id,
            at,
            as_of,
            known_since: Instant::now(),
        });
    }

    /// Returns how long a workflow task has waited for a worker, if that is too long and the server's time is
    /// known.
    fn known_to_wait(&self, description: &WorkflowExecutionDescription) -> Option<Duration> {
        let since = waits_for_worker(description)?;
        if self.lock().is_none() {
            return None;
        }
        let waits = self.server_time().since(since);
        (waits >= UNTAKEN).then_some(waits)
    }

    /// The server's time, as far as it is known. The clock of this machine may differ.
    fn server_time(&self) -> Timestamp {
        match &*self.lock() {
            Some(last) => last.as_of.plus(last.known_since.elapsed()),
            None => SystemTime::now().into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Looked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a cancellation was requested.
fn is_cancelled(description: &WorkflowExecutionDescription) -> bool {
    let info = description.raw().workflow_extended_info.as_ref();
    info.is_some_and(|info| info.cancel_requested)
}

/// Returns the time since which a workflow task has waited for a worker, if one does.
fn waits_for_worker(description: &WorkflowExecutionDescription) -> Option<Timestamp> {
    let task = description.raw().pending_workflow_task.as_ref()?;
    let waits = task.state() == PendingWorkflowTaskState::Scheduled;
    let since = task.original_scheduled_time.or(task.scheduled_time);
    time(since).filter(|_| waits)
}

/// Reads the progress from the memo, with its longer lists if they are there.
fn progress_in(description: &WorkflowExecutionDescription) -> Option<Progress> {
    let memo = description.memo();
    let Json(mut progress) = memo.get::<Json<Progress>>(MEMO_PROGRESS).ok().flatten()?;
    if let Ok(Some(Json(full))) = memo.get(MEMO_FULL) {
        progress.lengthen(full);
    }
    Some(progress)
}
