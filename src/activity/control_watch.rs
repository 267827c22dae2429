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

use super::quiet::is_quiet;
use crate::{controller::Controller, protocol::StrideOrder};

const INTERVAL: Duration = Duration::from_secs(1);
/// A controller that answers at all does so at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon to look again whether the controller can be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
        while !matches!(is_quiet(&controller).await, Ok(true)) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let options = WorkflowQueryOptions::default();
        let answer = controller.query(Controller::control, (), options);
        // A controller that does not answer changes nothing: the stride goes on with its orders.
        if let Ok(Ok(state)) = tokio::time::timeout(PATIENCE, answer).await {
            stop.send_replace(state.batch_run != batch_run || state.stop_at_page_boundary);
        }
    }
}
