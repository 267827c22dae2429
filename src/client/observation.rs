//! One look at a batch: its progress, and who works on it.

use std::time::{Duration, Instant};

use temporalio_client::{
    NamespacedClient as _, WorkflowExecutionDescription, WorkflowQueryOptions,
    errors::WorkflowQueryError, tonic,
};

use super::{
    BatchHandle, BatchState, ProgressError, ResultError, RunningPage, RunningStride, Workers,
    handle::state_of, recovery::failing_task, running::running_strides,
};
use crate::{
    controller::Controller,
    progress::{HeldBy, Progress},
    protocol::MEMO_PROGRESS,
    quiet::was_quiet,
};

/// Longest waits for a controller that is not busy, and for its answer.
#[derive(Clone, Copy)]
struct Patience {
    quiet: Duration,
    answer: Duration,
}

/// Where there is a snapshot to fall back on.
const WITH_SNAPSHOT: Patience = Patience {
    quiet: Duration::from_secs(2),
    answer: Duration::from_secs(5),
};
/// Where an answer is all there could be.
const WITHOUT_SNAPSHOT: Patience = Patience {
    quiet: Duration::from_secs(5),
    answer: Duration::from_secs(5),
};
/// How soon to look again whether the controller can be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One look at a batch.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Observation {
    /// The batch.
    pub batch_id: String,
    /// What Temporal knows without asking a worker.
    pub state: BatchState,
    /// How far it is; `None` where nobody could tell.
    pub progress: Option<Progress>,
    /// Where the progress comes from, if there is one.
    pub source: Option<ProgressSource>,
    /// Who polls its task queue. `None` once it has ended, and where the server does not say.
    pub workers: Option<Workers>,
    /// The strides that were dispatched and have not ended, by their numbers.
    pub strides: Vec<RunningStride>,
    /// How often its workflow task has failed in a row, where it fails for good while workers poll; see
    /// [`ProgressError::TaskFails`].
    pub task_failures: Option<u32>,
}

/// Where a progress comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProgressSource {
    /// A worker has just answered for the controller.
    Live,
    /// What the controller left with the server a while ago, without its longer lists.
    /// [`Progress::as_of`] says when.
    Snapshot,
    /// The final report of the batch.
    Report,
}

impl Observation {
    /// Whether the server says that nobody polls the task queue who could go on with the batch.
    pub fn no_worker(&self) -> bool {
        self.workers.as_ref().is_some_and(|workers| !workers.any())
    }

    /// The page that has been worked on for longest, as far as the workers have said.
    pub fn oldest_page(&self) -> Option<&RunningPage> {
        let pages = self
            .strides
            .iter()
            .filter_map(|stride| stride.page.as_ref());
        pages.min_by_key(|page| page.since)
    }

    /// Says first what only a client can know.
    fn explain(&mut self) {
        let absent = self.workers.as_ref().filter(|workers| !workers.any());
        let Some(progress) = &mut self.progress else {
            return;
        };
        if let Some(workers) = absent {
            progress.explanation = no_worker(&workers.task_queue);
            progress.held_by = Some(HeldBy::NoWorker);
        } else if let Some(times) = self.task_failures {
            progress.explanation = format!("the workflow task has failed {times} times in a row");
            progress.held_by = None;
        }
    }
}

/// The sentence for a task queue that nobody polls.
pub(super) fn no_worker(task_queue: &str) -> String {
    format!("no worker is polling task queue \"{task_queue}\"")
}

/// # Look
impl BatchHandle {
    /// Takes a look: whether the batch runs, how far it is, and who works on it. Needs no worker.
    ///
    /// | the batch | where the progress comes from |
    /// |---|---|
    /// | has ended | its report |
    /// | runs, and workers poll its task queue | the controller; if it is too busy for 2 s or does not answer within 5 s, the snapshot |
    /// | runs, and no worker polls | the snapshot; its explanation says so |
    ///
    /// The snapshot is what the controller has left with the server. Where there is none, because no worker
    /// has ever begun with the batch, a busy controller is waited for for up to 5 s, if somebody polls.
    ///
    /// # Errors
    /// When there is no such batch, or the server does not answer.
    pub async fn look(&self) -> Result<Observation, ProgressError> {
        let description = self.describe().await?;
        let converter = self.client.data_converter().payload_converter();
        let mut seen = Observation {
            batch_id: self.batch_id.clone(),
            state: state_of(&description),
            progress: None,
            source: None,
            workers: None,
            strides: running_strides(&description, converter),
            task_failures: None,
        };
        if !seen.state.is_open()
            && let Some(report) = self.final_progress().await?
        {
            seen.progress = Some(report);
            seen.source = Some(ProgressSource::Report);
            return Ok(seen);
        }
        let workers = Workers::of(&self.client, description.task_queue()).await;
        seen.workers = match workers {
            Ok(workers) => Some(workers),
            Err(error) => {
                tracing::debug!(%error, "the server does not say who polls the task queue");
                None
            }
        };
        let memo = description.memo();
        let snapshot = memo.get::<Progress>(MEMO_PROGRESS).ok().flatten();
        if !seen.no_worker() {
            let patience = match snapshot {
                Some(_) => WITH_SNAPSHOT,
                None => WITHOUT_SNAPSHOT,
            };
            match self.ask(description, patience).await? {
                Asked::Answered(progress) => {
                    seen.progress = Some(*progress);
                    seen.source = Some(ProgressSource::Live);
                }
                Asked::NoAnswer => {}
                Asked::TaskFails(times) => seen.task_failures = Some(times),
            }
        }
        if seen.progress.is_none() {
            seen.source = snapshot.is_some().then_some(ProgressSource::Snapshot);
            seen.progress = snapshot;
        }
        if !seen.state.is_open() {
            // It was ended from outside; nobody is missing.
            seen.workers = None;
        }
        seen.explain();
        Ok(seen)
    }

    /// Progress, while the batch runs and for as long as the server remembers it: see [`look`](Self::look),
    /// which also says where it comes from.
    ///
    /// # Errors
    /// When there is no such batch, when no worker answers and there is no snapshot, when none can go on with
    /// the history of the batch, or when the server does not answer.
    pub async fn progress(&self) -> Result<Progress, ProgressError> {
        let seen = self.look().await?;
        if let Some(times) = seen.task_failures {
            let batch_id = seen.batch_id;
            return Err(ProgressError::TaskFails { batch_id, times });
        }
        seen.progress.ok_or_else(|| self.no_answer())
    }

    /// The last progress of a batch that has ended, if it left a report.
    async fn final_progress(&self) -> Result<Option<Progress>, ProgressError> {
        match self.result().await {
            Ok(report) => Ok(Some(report.progress)),
            Err(ResultError::Refused { .. } | ResultError::NoReport { .. }) => Ok(None),
            Err(ResultError::NotFound { .. }) => Err(self.not_found()),
            Err(ResultError::Server { source }) => Err(ProgressError::Server { source }),
        }
    }

    /// Asks the controller as soon as that does no harm.
    async fn ask(
        &self,
        mut description: WorkflowExecutionDescription,
        patience: Patience,
    ) -> Result<Asked, ProgressError> {
        let asking = Instant::now();
        while !was_quiet(&description) {
            if let Some(times) = failing_task(&description) {
                return Ok(Asked::TaskFails(times));
            }
            if asking.elapsed() > patience.quiet {
                return Ok(Asked::NoAnswer);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            description = self.describe().await?;
        }
        let workflow = self.workflow();
        let options = WorkflowQueryOptions::default();
        let answer = workflow.query(Controller::progress, (), options);
        match tokio::time::timeout(patience.answer, answer).await {
            Ok(Ok(progress)) => Ok(Asked::Answered(Box::new(progress))),
            Ok(Err(WorkflowQueryError::NotFound(_))) => Err(self.not_found()),
            Ok(Err(WorkflowQueryError::Rpc(status))) if no_answer(&status) => Ok(Asked::NoAnswer),
            Err(_) => Ok(Asked::NoAnswer),
            Ok(Err(source)) => Err(ProgressError::Server {
                source: source.into(),
            }),
        }
    }
}

enum Asked {
    Answered(Box<Progress>),
    NoAnswer,
    TaskFails(u32),
}

/// Temporal's ways of saying that nobody polls the task queue.
pub(super) fn no_answer(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled | tonic::Code::FailedPrecondition
    )
}
