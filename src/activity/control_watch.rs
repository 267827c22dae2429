//! How running strides hear that they should end at their next page boundary.
//!
//! One small query per batch, worker and second, and only while a stride of several pages runs. Queries
//! leave nothing in the history.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use temporalio_client::{Client, WorkflowHandle, WorkflowQueryOptions};
use tokio::{sync::watch, task::JoinHandle};

use crate::{controller::Controller, protocol::StrideOrder};

const INTERVAL: Duration = Duration::from_secs(1);
/// A controller that answers at all does so at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nobody asks after a question that was not answered: longer than a workflow task may take (10 s
/// by default).
///
/// A question that is waiting when a workflow task times out is given to another worker together with the
/// beginning of that task. SDK core 0.10 then runs the workflow as if the task were its own, keeps what came
/// of it, and goes on from there with the next task, which cannot be replayed. So no question should be
/// waiting when a task times out.
pub(super) const QUIET: Duration = Duration::from_secs(12);

/// The watches of one worker, by batch run.
#[derive(Default)]
pub(super) struct ControlWatches {
    by_batch_run: Mutex<BTreeMap<String, Weak<Poller>>>,
}

/// One stride's view.
pub(super) struct ControlWatch(Option<Arc<Poller>>);

struct Poller {
    stop: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl ControlWatches {
    /// Joins the watch of the batch run, or starts it. A stride of one page has no boundary to stop at.
    pub fn watch(&self, client: &Client, order: &StrideOrder) -> ControlWatch {
        if order.pages <= 1 {
            return ControlWatch(None);
        }
        let mut watches = self
            .by_batch_run
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, poller| poller.strong_count() > 0);
        if let Some(poller) = watches.get(&order.batch_run).and_then(Weak::upgrade) {
            return ControlWatch(Some(poller));
        }
        let (sender, stop) = watch::channel(false);
        let controller = client.get_workflow_handle(order.batch_id.clone());
        let task = tokio::spawn(poll(controller, order.batch_run.clone(), sender));
        let poller = Arc::new(Poller { stop, task });
        watches.insert(order.batch_run.clone(), Arc::downgrade(&poller));
        ControlWatch(Some(poller))
    }
}

impl ControlWatch {
    pub fn should_stop(&self) -> bool {
        self.0.as_ref().is_some_and(|poller| *poller.stop.borrow())
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn poll(
    controller: WorkflowHandle<Client, Controller>,
    batch_run: String,
    stop: watch::Sender<bool>,
) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let options = WorkflowQueryOptions::default();
        let answer = controller.query(Controller::control, (), options);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(state)) => {
                stop.send_replace(state.batch_run != batch_run || state.stop_at_page_boundary);
            }
            // A controller that does not answer changes nothing: the stride goes on with its orders.
            Ok(Err(_)) | Err(_) => tokio::time::sleep(QUIET).await,
        }
    }
}
