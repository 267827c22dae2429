//! The client that starts batches and finds them again.

use std::{collections::BTreeSet, time::Duration};

use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use temporalio_client::{
    Client, WorkflowIdConflictPolicy, WorkflowIdReusePolicy, WorkflowListOptions,
    WorkflowStartOptions, errors::WorkflowStartError,
};
use temporalio_common::{
    HasWorkflowDefinition, Memo, MemoValues,
    protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus,
};

use super::{
    BatchHandle, BatchStatus, ListError, ListedBatch, StartError, handle::state_of,
    observation::Looks, outage::Outages,
};
use crate::{
    base::time::Timestamp,
    batch::{
        Batch, IfRunning,
        validate::{InvalidBatch, validate_id},
    },
    decisions::{
        carry::{Begun, ControllerInput},
        state::work::Work,
    },
    engine::{
        connect::{ConnectError, ConnectOptions, connect},
        controller::{Controller, PartitionParent},
    },
    progress::{Progress, audit::Given},
    protocol::{self, EndNote, large_args::carried, message::Json},
};

/// The memo field that holds the processor's name, for listings.
pub(super) const MEMO_PROCESSOR: &str = "processor";
/// The memo field that holds the batch whose dead letters a redrive retries.
pub(super) const MEMO_REDRIVE_OF: &str = "redrive_of";

/// Starts batches and finds them again.
///
/// ```no_run
/// # use temporal_batch::*;
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = BatchClient::connect(&ConnectOptions::new()).await?;
/// let batch = Batch::named("hash-emails-2026-11", "hash-emails", serde_json::Value::Null).page_size(500);
/// let handle = client.start(&batch).await?;
/// let report = handle.result().await?;
/// println!("{}: {} items", report.outcome, report.progress.items.processed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BatchClient {
    pub(super) client: Client,
    pub(super) operator: String,
    pub(super) outages: Outages,
}

/// # Construct
impl BatchClient {
    /// Connects; see [`connect`].
    ///
    /// # Errors
    /// The server cannot be reached, or the options contradict each other.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectError> {
        Ok(Self::new(connect(options).await?))
    }

    /// Uses an existing connection, with its payload codec.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            operator: this_user(),
            outages: Outages::default(),
        }
    }

    /// Sets the operator that the audit of a batch shows for actions through this client. The default is the
    /// user and the host, as in `ann@build-3`.
    #[must_use]
    pub fn operator(mut self, name: impl Into<String>) -> Self {
        self.operator = name.into();
        self
    }

    /// Sets how long a call is retried while the server cannot be reached or does not answer. The default is 30
    /// minutes. With zero, only the SDK's own retries of 10 s remain.
    ///
    /// The timeout applies to starting a batch, looking at it and waiting for its end, through this client and
    /// the handles that it creates from now on. A rerun and a continuation are requested only once: a server
    /// that accepted the request but could not answer would accept it twice. An outage and its end are logged
    /// as warnings.
    #[must_use]
    pub fn outage_timeout(mut self, timeout: Duration) -> Self {
        self.outages = Outages::new(timeout);
        self
    }

    /// The connection, for [`Worker::new`](crate::Worker::new) and any other use of Temporal.
    pub fn temporal(&self) -> &Client {
        &self.client
    }
}

/// # Start and find
impl BatchClient {
    /// Starts a batch as a new batch run.
    ///
    /// | existing batch of this id | default | alternative |
    /// |---|---|---|
    /// | running | refused | attach to it: [`Batch::if_running`] |
    /// | completed | refused | run everything again: [`Batch::rerun`] |
    /// | failed, stopped, was cancelled | refused | continue where it stopped: [`Batch::continues`]; `rerun` |
    /// | was terminated or timed out by Temporal | refused | `rerun` |
    ///
    /// Whether a worker has the processor and can read the arguments is only known once a worker picks the
    /// batch up: see [`BatchHandle::accepted`].
    ///
    /// # Errors
    /// A setting is not allowed, the id is taken, or the server does not accept the batch. The batch was not
    /// started.
    pub async fn start(&self, batch: &Batch) -> Result<BatchHandle, StartError> {
        batch.validate()?;
        let reuse = if batch.rerun && !batch.continues {
            WorkflowIdReusePolicy::AllowDuplicate
        } else {
            WorkflowIdReusePolicy::RejectDuplicate
        };
        let batch_run = uuid::Uuid::new_v4().to_string();
        let args = KeptArgs {
            given: batch.spec.args.clone(),
            prepared: None,
        };
        match self.start_new(batch, &batch_run, args, reuse).await {
            Err(WorkflowStartError::AlreadyStarted { .. }) => self.taken(batch, &batch_run).await,
            started => self.started(batch.id(), started),
        }
    }

    pub(super) fn begun(&self, action: &str, why: Option<String>) -> Begun {
        Begun {
            action: action.to_owned(),
            given: Given {
                who: Some(self.operator.clone()),
                why,
            },
        }
    }

    /// Starts the workflow of a new batch run.
    fn start_new<'a>(
        &'a self,
        batch: &'a Batch,
        batch_run: &'a str,
        args: KeptArgs,
        reuse: WorkflowIdReusePolicy,
    ) -> BoxFuture<'a, Result<(), WorkflowStartError>> {
        let queue = &batch.task_queue;
        match batch.spec.partitioned {
            true => {
                let input = self.input(batch, batch_run);
                Box::pin(self.start_workflow(|| PartitionParent::run, input, args, queue, reuse))
            }
            false => {
                let input = self.input(batch, batch_run);
                Box::pin(self.start_workflow(|| Controller::run, input, args, queue, reuse))
            }
        }
    }

    fn input<W>(&self, batch: &Batch, batch_run: &str) -> ControllerInput<W> {
        ControllerInput {
            version: protocol::VERSION,
            batch_run: batch_run.to_owned(),
            spec: batch.spec.clone(),
            begun: Some(self.begun("start", None)),
            carry: None,
            part: None,
        }
    }

    /// Starts the workflow of a batch.
    pub(super) async fn start_workflow<R, W: Work>(
        &self,
        workflow: impl Fn() -> R,
        mut input: ControllerInput<W>,
        args: KeptArgs,
        task_queue: &str,
        reuse: WorkflowIdReusePolicy,
    ) -> Result<(), WorkflowStartError>
    where
        R: HasWorkflowDefinition<Input = ControllerInput<W>>,
    {
        input.spec.args = carried(&args.given, &input.spec.batch_id, protocol::MEMO_ARGS);
        let spec = &input.spec;
        let mut memo = MemoValues::new();
        memo.insert(MEMO_PROCESSOR, spec.processor.clone());
        memo.insert(protocol::MEMO_ARGS, args.given);
        memo.insert(protocol::MEMO_BATCH_RUN, input.batch_run.clone());
        if let Some(args) = args.prepared {
            memo.insert(protocol::MEMO_PREPARED_ARGS, args);
        }
        if let Some(redrive_of) = &spec.redrive_of {
            memo.insert(MEMO_REDRIVE_OF, redrive_of.clone());
        }
        let options = WorkflowStartOptions::new(task_queue, spec.batch_id.clone())
            .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
            .id_reuse_policy(reuse)
            .memo(memo)
            .task_timeout(protocol::TASK_TIMEOUT)
            .static_summary(format!("batch of {}", spec.processor))
            .build();
        let start = || {
            let (input, options) = (input.clone(), options.clone());
            self.client.start_workflow(workflow(), input, options)
        };
        let started = match reuse {
            WorkflowIdReusePolicy::RejectDuplicate => self.outages.through(start).await,
            // A start that was accepted before its answer was lost could have ended by now, and would then be
            // accepted once more.
            _ => start().await,
        };
        started.map(|_| ())
    }

    pub(super) fn started(
        &self,
        batch_id: &str,
        started: Result<(), WorkflowStartError>,
    ) -> Result<BatchHandle, StartError> {
        let batch_id = batch_id.to_owned();
        match started {
            Ok(()) => Ok(self.handle_unchecked(batch_id)),
            Err(WorkflowStartError::AlreadyStarted { .. }) => {
                Err(StartError::AlreadyRunning { batch_id })
            }
            Err(source) => Err(StartError::Server {
                source: source.into(),
            }),
        }
    }

    /// Handles a start whose id is taken.
    async fn taken(&self, batch: &Batch, batch_run: &str) -> Result<BatchHandle, StartError> {
        let batch_id = batch.id().to_owned();
        let handle = self.handle_unchecked(batch_id.clone());
        let description = handle.describe().await;
        let description = description.map_err(|e| StartError::Server { source: e.into() })?;
        let started = description.memo().get::<String>(protocol::MEMO_BATCH_RUN);
        if started.is_ok_and(|started| started.as_deref() == Some(batch_run)) {
            // The server accepted this start, and its answer was lost in an outage.
            return Ok(handle);
        }
        match state_of(&description) {
            state if !state.is_open() && batch.continues => self.continue_as(batch).await,
            state if !state.is_open() => Err(StartError::AlreadyEnded { batch_id, state }),
            _ if batch.if_running == IfRunning::Attach => {
                match difference(batch, &description.memo(), description.task_queue()) {
                    None => Ok(handle),
                    Some(differs) => Err(StartError::RunsDifferently { batch_id, differs }),
                }
            }
            _ => Err(StartError::AlreadyRunning { batch_id }),
        }
    }

    /// Returns the difference between a batch and the existing one with its id, if there is one.
    #[cfg(feature = "cli")]
    pub(crate) async fn differs(
        &self,
        batch: &Batch,
    ) -> Result<Option<String>, super::ProgressError> {
        let handle = self.handle_unchecked(batch.id().to_owned());
        let description = handle.describe().await?;
        let task_queue = description.task_queue();
        Ok(difference(batch, &description.memo(), task_queue))
    }

    /// Returns the handle of a batch, running or ended. The server is not asked yet.
    ///
    /// # Errors
    /// The id is not a valid batch id.
    pub fn handle(&self, batch_id: impl Into<String>) -> Result<BatchHandle, InvalidBatch> {
        let batch_id = batch_id.into();
        validate_id(&batch_id)?;
        Ok(self.handle_unchecked(batch_id))
    }

    pub(crate) fn handle_unchecked(&self, batch_id: String) -> BatchHandle {
        BatchHandle {
            client: self.client.clone(),
            batch_id,
            operator: self.operator.clone(),
            reason: None,
            looks: Looks::default(),
            outages: self.outages.clone(),
        }
    }

    /// Lists the batches that the server still has, latest first, at most `limit`.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn list(&self, limit: usize) -> Result<Vec<ListedBatch>, ListError> {
        self.listed(of_batches(), &|_| true, limit).await
    }

    /// Lists the redrives of a batch that started after `since` and that the server still has, latest first, at
    /// most `limit`. The server lists a new redrive only after a moment.
    #[cfg(feature = "cli")]
    pub(crate) async fn redrives(
        &self,
        batch_id: &str,
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<ListedBatch>, ListError> {
        let since = std::time::UNIX_EPOCH + Duration::from_millis(since.0);
        let query = format!(
            "{} AND StartTime >= '{}'",
            of_batches(),
            humantime::format_rfc3339_millis(since)
        );
        let of_batch = |batch: &ListedBatch| batch.redrive_of.as_deref() == Some(batch_id);
        self.listed(query, &of_batch, limit).await
    }

    fn listed<'a>(
        &'a self,
        query: String,
        wanted: &'a (dyn Fn(&ListedBatch) -> bool + Sync),
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ListedBatch>, ListError>> {
        Box::pin(async move {
            // The latest execution comes first and represents all earlier ones: earlier runs of the batch, and
            // earlier batch runs.
            let mut executions = self
                .client
                .list_workflows(query, WorkflowListOptions::default());
            let mut batches: Vec<ListedBatch> = Vec::new();
            while batches.len() < limit
                && let Some(execution) = executions.try_next().await?
            {
                let status = execution.raw().status();
                let listed = batches.iter().any(|b| b.batch_id == execution.id());
                // This is the controller of a partition, which is not a batch.
                let is_part = execution.raw().parent_execution.is_some();
                if listed || is_part || status == TemporalStatus::ContinuedAsNew {
                    continue;
                }
                let state = BatchStatus::from(status);
                let memo = execution.memo();
                let progress = memo.get::<Json<Progress>>(protocol::MEMO_PROGRESS);
                let progress = progress.ok().flatten();
                let ended = memo.get::<EndNote>(protocol::MEMO_ENDED).ok().flatten();
                let begun = ended.as_ref().map(|ended| ended.started_at);
                let begun = begun.or(progress.map(|Json(progress)| progress.started_at));
                let batch = ListedBatch {
                    batch_id: execution.id().to_owned(),
                    processor: memo.get(MEMO_PROCESSOR).ok().flatten(),
                    redrive_of: memo.get(MEMO_REDRIVE_OF).ok().flatten(),
                    state,
                    outcome: ended.map(|ended| ended.outcome),
                    task_queue: execution.task_queue().to_owned(),
                    started_at: begun.or_else(|| execution.start_time().map(Timestamp::from)),
                    ended_at: execution.close_time().map(Timestamp::from),
                };
                if wanted(&batch) {
                    batches.push(batch);
                }
            }
            Ok(batches)
        })
    }
}

/// The condition of a list of workflows that selects batches and partitions.
fn of_batches() -> String {
    let [plain, partitioned] = [protocol::CONTROLLER, protocol::PARTITION_PARENT];
    format!("WorkflowType IN ('{plain}', '{partitioned}')")
}

/// The arguments of a batch, for its memo.
pub(super) struct KeptArgs {
    pub given: serde_json::Value,
    /// The arguments as completed by the processor. A continued controller does not prepare them again.
    pub prepared: Option<serde_json::Value>,
}

/// Returns the difference between a batch and the one with this memo, if there is one.
fn difference(batch: &Batch, memo: &Memo, task_queue: &str) -> Option<String> {
    let processor = memo.get::<String>(MEMO_PROCESSOR).ok().flatten();
    let args = memo
        .get::<serde_json::Value>(protocol::MEMO_ARGS)
        .ok()
        .flatten();
    match (processor, args) {
        (Some(processor), _) if processor != batch.processor() => Some(format!(
            "its processor is \"{processor}\" rather than \"{}\"",
            batch.processor()
        )),
        (Some(_), Some(args)) if args != batch.spec.args => {
            let fields = differing(&args, &batch.spec.args).join(", ");
            Some(format!("its arguments are different ({fields})"))
        }
        // Commands that run the worker themselves name the queue after the database.
        (Some(_), Some(_)) if task_queue != batch.task_queue => Some(format!(
            "its task queue is \"{task_queue}\" rather than \"{}\"",
            batch.task_queue
        )),
        (Some(_), Some(_)) => None,
        _ => Some("it was not started by this program, so it cannot be compared".to_owned()),
    }
}

/// Returns the names of the arguments that differ. Their values do not belong in messages.
fn differing(kept: &serde_json::Value, given: &serde_json::Value) -> Vec<String> {
    let (Some(kept), Some(given)) = (kept.as_object(), given.as_object()) else {
        return vec!["as a whole".to_owned()];
    };
    let names: BTreeSet<_> = kept.keys().chain(given.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| kept.get(*name) != given.get(*name));
    differ.cloned().collect()
}

fn this_user() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    // Cron jobs, containers and services often have none of these variables, but the system knows the user of
    // the process.
    let of_the_process = || uzers::get_effective_username()?.into_string().ok();
    let user = user.or_else(of_the_process);
    let host = gethostname::gethostname();
    format!(
        "{}@{}",
        user.as_deref().unwrap_or("unknown"),
        host.to_string_lossy()
    )
}
