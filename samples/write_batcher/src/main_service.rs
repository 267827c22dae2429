//! The service whose workflows place orders: its own queue, its own worker, no database.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use temporal_batch::{BatchClient, metrics::Metrics};
use temporal_batch_batcher::{
    Batcher, CONFIRMED, Confirmation, Confirmations, Request, Requester, SubmitActivities,
    SubmitError, submit,
};
use temporalio_common::RetryPolicy;
use temporalio_sdk::{
    ActivityOptions, Runtime, SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::RuntimeOptions,
};
use tokio::sync::oneshot;

use crate::Fallible;

pub(crate) const QUEUE: &str = "main-workflow-queue";

/// How long a workflow waits for its confirmation.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(120);

/// An order, and the batcher that writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub batcher: Batcher,
    pub total: i64,
}

/// Places an order: reserves the goods, has the order written, thanks the customer.
#[temporalio_macros::workflow]
#[derive(Default)]
pub(crate) struct PlaceOrder(Confirmations);

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
    #[run(name = "place-order")]
    pub(crate) async fn run(
        ctx: &mut WorkflowContext<Self>,
        order: Order,
    ) -> WorkflowResult<Placed> {
        let id = ctx.workflow_id().to_owned();
        let reserved = ctx
            .execute_activity(Steps::reserve, id.clone(), options())
            .await?;
        let request = Request::new(id.clone(), serde_json::json!({ "total": order.total }));
        let written = submit(ctx, &order.batcher, request, CONFIRMATION_TIMEOUT).await;
        if let Err(error) = written {
            return Ok(Placed::Failed {
                told: matches!(error, SubmitError::WriteFailed { .. }),
                error: error.to_string(),
            });
        }
        let thanked = ctx.execute_activity(Steps::thank, id, options()).await?;
        Ok(Placed::Done(format!("{reserved}, written, {thanked}")))
    }

    #[signal(name = CONFIRMED)]
    pub(crate) fn confirmed(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        confirmation: Confirmation,
    ) {
        self.0.hear(confirmation);
    }
}

/// The result of a workflow. Whether it waited for the batcher in vain is its result, not its failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Placed {
    Done(String),
    Failed {
        /// True if the batcher has said that it did not write the order.
        told: bool,
        error: String,
    },
}

fn options() -> ActivityOptions {
    let retry = RetryPolicy::builder().maximum_attempts(3).build();
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
        .retry_policy(retry)
        .build()
}

/// The activities before and after the write.
pub(crate) struct Steps;

#[temporalio_macros::activities]
impl Steps {
    #[activity(name = "place-order.reserve")]
    pub(crate) async fn reserve(
        self: Arc<Self>,
        _ctx: ActivityContext,
        _order: String,
    ) -> Result<String, ActivityError> {
        Ok("reserved".to_owned())
    }

    #[activity(name = "place-order.thank")]
    pub(crate) async fn thank(
        self: Arc<Self>,
        _ctx: ActivityContext,
        _order: String,
    ) -> Result<String, ActivityError> {
        Ok("thanked".to_owned())
    }
}

/// A worker in the background.
pub(crate) struct RunningWorker {
    begin_stop: Box<dyn Fn() + Send + Sync>,
    ended: oneshot::Receiver<Fallible<()>>,
}

impl RunningWorker {
    pub(crate) async fn stop(self) -> Fallible<()> {
        (self.begin_stop)();
        self.ended.await?
    }
}

pub(crate) fn start(client: &BatchClient) -> Fallible<RunningWorker> {
    let options = WorkerOptions::new(QUEUE)
        .register_workflow::<PlaceOrder>()?
        .register_activities(SubmitActivities)
        .register_activities(Steps)
        .build();
    run(client, options)
}

/// Runs a worker on a thread of its own, because it is not `Send`.
pub(crate) fn run(client: &BatchClient, options: WorkerOptions) -> Fallible<RunningWorker> {
    let runtime = RuntimeOptions::builder()
        .telemetry_options(Metrics::new().telemetry_options())
        .build()?;
    let runtime = Runtime::from_current_tokio(runtime)?;
    let mut worker = temporalio_sdk::Worker::new(&runtime, client.temporal().clone(), options)
        .map_err(|error| error.to_string())?;
    let begin_stop = Box::new(worker.shutdown_handle());
    let (sender, ended) = oneshot::channel();
    let tokio = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let result = tokio.block_on(worker.run()).map_err(Into::into);
        let _tokio = tokio.enter();
        drop(worker);
        drop(runtime);
        // The receiver is gone if the worker was not awaited.
        let _ = sender.send(result);
    });
    Ok(RunningWorker { begin_stop, ended })
}
