//! Observing the partitions of a batch, and reporting them to the batch.
//!
//! Each partition writes its progress into the memo of its workflow, which can be read without adding to a
//! history. The report to the batch is a signal, which does add to its history, so figures that merely increase
//! are reported with a delay.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use temporalio_client::{
    Client, WorkflowHandle, WorkflowSignalOptions, errors::WorkflowInteractionError,
};
use temporalio_sdk::activities::ActivityError;

use super::{
    memo_watch::{ControlWatches, Found},
    side::retry,
};
use crate::{
    engine::controller::PartitionParent,
    progress::Progress,
    protocol::{PartitionNews, PartitionsOrder, partition::PartitionSnapshot},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Number of looks in a row at which a partition could use more pages in flight before that is acted on.
const BELIEVED_AFTER: u32 = 3;
/// Longest delay of figures that merely increase.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Reports until the batch is over. Readings that strides in this worker have already made are reused.
pub(super) async fn relay(
    client: &Client,
    order: &PartitionsOrder,
    watches: &Arc<ControlWatches>,
) -> Result<(), ActivityError> {
    // The activity's own handle is bound to one run, and the batch may continue as new at any time.
    let batch: WorkflowHandle<_, PartitionParent> =
        client.get_workflow_handle(order.batch_id.clone());
    let (batch_run, batch_id) = (&order.batch_run, &order.batch_id);
    let mut of_batch = watches.read(client, batch_run, batch_id, Some(batch_id));
    let mut of_partitions = BTreeMap::new();
    let mut looker = Looker::default();
    let mut told_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(reading) = of_batch.borrow_and_update().clone() else {
            continue;
        };
        if reading.found == Found::Gone {
            return Ok(());
        }
        let running = &reading.partitions;
        looker.keep(running);
        of_partitions.retain(|number, _| running.contains_key(number));
        for (number, workflow) in running.iter() {
            let readings = of_partitions
                .entry(*number)
                .or_insert_with(|| watches.read(client, batch_run, workflow, None));
            if readings.has_changed().unwrap_or(false)
                && let Some(reading) = readings.borrow_and_update().as_ref()
                && let Some(progress) = &reading.progress
                && progress.batch_run == *batch_run
            {
                looker.saw(*number, progress);
            }
        }
        let looks = looker.news(told_at.elapsed() >= TELL_EVERY);
        if looks.is_empty() {
            continue;
        }
        told_at = Instant::now();
        let news = PartitionNews {
            batch_run: order.batch_run.clone(),
            looks,
        };
        let told = batch.signal(
            PartitionParent::partition_news,
            news,
            WorkflowSignalOptions::default(),
        );
        match told.await {
            Ok(()) => {}
            Err(WorkflowInteractionError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(retry(error, "PartitionNewsNotSent")),
        }
    }
}

/// The known state of the partitions, and the state that was reported.
#[derive(Default)]
struct Looker {
    known: BTreeMap<u32, Known>,
}

struct Known {
    look: PartitionSnapshot,
    /// The number of looks in a row at which it could not use its share.
    idle: u32,
    told: Option<PartitionSnapshot>,
}

impl Looker {
    /// Forgets all other partitions: they have ended, and the batch learns that from them.
    fn keep(&mut self, running: &BTreeMap<u32, String>) {
        self.known.retain(|number, _| running.contains_key(number));
    }

    fn saw(&mut self, number: u32, progress: &Progress) {
        let before = self.known.remove(&number);
        let (idle, told) = before.map_or((0, None), |known| (known.idle, known.told));
        let idle = match PartitionSnapshot::is_discovering(progress) {
            true => idle + 1,
            false => 0,
        };
        let look = PartitionSnapshot::of(progress, idle >= BELIEVED_AFTER);
        self.known.insert(number, Known { look, idle, told });
    }

    /// Returns the changes to report: large changes at once, all changes if `is_time`.
    fn news(&mut self, is_time: bool) -> Vec<(u32, PartitionSnapshot)> {
        let mut news = Vec::new();
        for (number, known) in &mut self.known {
            let due = match &known.told {
                None => true,
                Some(told) => told.differs_much(&known.look) || (is_time && *told != known.look),
            };
            if due {
                known.told = Some(known.look.clone());
                news.push((*number, known.look.clone()));
            }
        }
        news
    }
}
