//! Workflows that submit a request and wait for its confirmation, and their worker.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use temporal_batch::metrics::Metrics;
use temporal_batch_batcher::{
    Batcher, CONFIRMED, Confirmation, Confirmations, Request, Requester, SubmitActivities,
    SubmitError, submit,
};
use temporalio_client::{
    Client, WorkflowGetResultOptions, WorkflowHandle, WorkflowStartOptions,
    WorkflowTerminateOptions,
};
use temporalio_sdk::{
    ActivityOptions, Runtime, SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::RuntimeOptions,
};

use crate::support::{connect, server_address, within};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub batcher: Batcher,
    pub request: Request,
    pub timeout: Duration,
}

/// Prepares, submits, waits and finishes, like a service that places an order.
#[temporalio_macros::workflow]
#[derive(Default)]
pub struct PlaceOrder(Confirmations);

impl Requester for PlaceOrder {
    fn confirmations(&self) -> &Confirmations {
        &self.0
    }

    fn confirmations_mut(&mut self) -> &mut Confirmations {
        &mut self.0
    }
}

#[temporalio_macros::workflow_methods]
impl PlaceOrder {
    #[run(name = "test.place-order")]
    pub async fn run(ctx: &mut WorkflowContext<Self>, job: Job) -> WorkflowResult<String> {
        let step = |name: &str| {
            let retry = temporalio_common::RetryPolicy::builder()
                .maximum_attempts(3)
                .build();
            let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
                .retry_policy(retry)
                .build();
            ctx.execute_activity(Steps::step, name.to_owned(), options)
        };
        let prepared = step("prepared").await?;
        let submitted = submit(ctx, &job.batcher, job.request, job.timeout).await;
        let answer = match submitted {
            Ok(true) => "written".to_owned(),
            Ok(false) => "already done".to_owned(),
            Err(error) => {
                let kind = match &error {
                    SubmitError::Invalid(_) => "Invalid",
                    SubmitError::SubmitFailed { .. } => "SubmitFailed",
                    SubmitError::SubmitUnknown { .. } => "SubmitUnknown",
                    SubmitError::Pending => "Pending",
                    SubmitError::Refused(_) => "Refused",
                    SubmitError::WriteFailed { .. } => "WriteFailed",
                    SubmitError::ConfirmationTimeout { .. } => "ConfirmationTimeout",
                    _ => "Cancelled",
                };
                return Ok(format!("{kind}: {error}"));
            }
        };
        let finished = step("finished").await?;
        Ok(format!("{prepared}, {answer}, {finished}"))
    }

    #[signal(name = CONFIRMED)]
    pub fn confirmed(&mut self, _ctx: &mut SyncWorkflowContext<Self>, confirmation: Confirmation) {
        self.0.hear(confirmation);
    }
}

pub struct Steps;

#[temporalio_macros::activities]
impl Steps {
    #[activity(name = "test.step")]
    pub async fn step(
        self: Arc<Self>,
        _ctx: ActivityContext,
        name: String,
    ) -> Result<String, ActivityError> {
        Ok(name)
    }
}

/// The worker of the workflows. It stops when it is dropped.
pub struct Requesters {
    client: Client,
    queue: String,
    stop: Box<dyn Fn() + Send + Sync>,
}

pub type Requesting = WorkflowHandle<Client, PlaceOrder>;

impl Requesters {
    pub async fn start(queue: &str) -> Self {
        let options = WorkerOptions::new(queue)
            .register_workflow::<PlaceOrder>()
            .unwrap()
            .register_activities(SubmitActivities)
            .register_activities(Steps)
            .build();
        Self::run(queue, options).await
    }

    /// A worker whose deployment forgot the activity that starts a batcher.
    pub async fn without_submit_activities(queue: &str) -> Self {
        let options = WorkerOptions::new(queue)
            .register_workflow::<PlaceOrder>()
            .unwrap()
            .register_activities(Steps)
            .build();
        Self::run(queue, options).await
    }

    async fn run(queue: &str, options: WorkerOptions) -> Self {
        let client = connect(server_address()).await.temporal().clone();
        let runtime = RuntimeOptions::builder()
            .telemetry_options(Metrics::new().telemetry_options())
            .build()
            .unwrap();
        let runtime = Runtime::from_current_tokio(runtime).unwrap();
        let mut worker = temporalio_sdk::Worker::new(&runtime, client.clone(), options).unwrap();
        let stop = Box::new(worker.shutdown_handle());
        let tokio = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            let _ = tokio.block_on(worker.run());
            let _tokio = tokio.enter();
            drop(worker);
            drop(runtime);
        });
        Self {
            client,
            queue: queue.to_owned(),
            stop,
        }
    }

    /// Starts a workflow, whose id is that of its request.
    pub async fn request(
        &self,
        batcher: &Batcher,
        request: Request,
        timeout: Duration,
    ) -> Requesting {
        let id = format!("{}-{}", self.queue, request.id);
        let options = WorkflowStartOptions::new(self.queue.as_str(), id.as_str()).build();
        let job = Job {
            batcher: batcher.clone(),
            request,
            timeout,
        };
        let started = self.client.start_workflow(PlaceOrder::run, job, options);
        started.await.unwrap();
        self.client.get_workflow_handle::<PlaceOrder>(id)
    }
}

impl Drop for Requesters {
    fn drop(&mut self) {
        (self.stop)();
    }
}

/// Waits for the answer of a workflow.
pub async fn answer(requesting: &Requesting) -> String {
    let result = requesting.get_result(WorkflowGetResultOptions::default());
    within("the requester ends", result).await.unwrap()
}

pub async fn terminate(requesting: &Requesting) {
    let options = WorkflowTerminateOptions::default();
    requesting.terminate(options).await.unwrap();
}
