//! A workflow type of a user's own, which knows nothing of this crate but the name and the fields of one signal.

#![allow(unreachable_pub, reason = "for the macros of the SDK")]

use serde_json::{Value, json};
use temporal_batch::BatchClient;
use temporalio_sdk::{
    ApplicationFailure, SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowContextView,
    WorkflowResult,
};

use crate::support::{connect, server_address};

pub const NAME: &str = "own-child";

#[temporalio_macros::workflow]
pub struct OwnChild {
    item: Value,
    go: bool,
}

#[temporalio_macros::workflow_methods]
impl OwnChild {
    #[init]
    fn new(_ctx: &WorkflowContextView, item: Value) -> Self {
        Self { item, go: false }
    }

    /// Completes at once, fails, or waits for the signal `go`.
    #[run(name = NAME)]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Value> {
        let (id, act) = ctx.state(|w| (w.item["id"].clone(), w.item["act"].clone()));
        if act == json!("Decline") {
            return Err(ApplicationFailure::builder("no".to_owned())
                .type_name("Declined".to_owned())
                .non_retryable(true)
                .build()
                .into());
        }
        if act != json!("Finish") {
            ctx.wait_condition(|w| w.go).await?;
        }
        Ok(json!(format!("own {}", id.as_str().unwrap_or_default())))
    }

    #[signal(name = "go")]
    pub fn go(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.go = true;
    }
}

/// A worker that stops when it is dropped.
pub struct OwnWorker {
    stop: Box<dyn Fn() + Send>,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub async fn worker(queue: &str) -> OwnWorker {
    let client: BatchClient = connect(server_address()).await;
    let runtime = temporalio_sdk::runtime::RuntimeOptions::builder()
        .build()
        .unwrap();
    let runtime = temporalio_sdk::Runtime::from_current_tokio(runtime).unwrap();
    let options = WorkerOptions::new(queue)
        .register_workflow::<OwnChild>()
        .unwrap()
        .build();
    let mut worker =
        temporalio_sdk::Worker::new(&runtime, client.temporal().clone(), options).unwrap();
    let stop = Box::new(worker.shutdown_handle());
    let tokio = tokio::runtime::Handle::current();
    let thread = std::thread::spawn(move || {
        let _ended = tokio.block_on(worker.run());
        let _tokio = tokio.enter();
        drop(worker);
        drop(runtime);
    });
    OwnWorker {
        stop,
        thread: Some(thread),
    }
}

impl Drop for OwnWorker {
    fn drop(&mut self) {
        (self.stop)();
        // The thread ends with the runtime of the test; waiting for it here would block that runtime.
        drop(self.thread.take());
    }
}
