//! Detects controllers that this worker cannot continue, and recovers them if a restart of the run cures them.
//!
//! A controller whose workflow task fails is rebuilt from its history at every attempt. A run that is built a
//! second time within minutes is therefore inspected. All others cost no call.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use temporalio_client::Client;
use temporalio_sdk::workflow_interceptors::{WorkflowInterceptor, WorkflowInterceptorConstructor};
use tokio::sync::{mpsc, watch};

use crate::{
    engine::client::{BatchClient, BatchHandle, ByItself, RecoverError},
    metrics::{Metrics, Recovery},
    protocol,
};

/// Delay between rebuilding a controller and inspecting it, and between inspections while its tasks fail.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Time limit for the calls of one inspection.
const PATIENCE: Duration = Duration::from_secs(20);
/// Delay after an inspection that the server did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Time after which a run is forgotten. The server retries a task at least this often.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Maximum number of runs that are remembered. If a worker has more batches than it keeps in memory, all of
/// them are rebuilt again and again.
const MAX_RUNS: usize = 10_000;

/// A controller that was built from its history.
pub(super) struct Made {
    workflow_id: String,
    run_id: String,
}

/// Creates the interceptor that reports every controller that a worker builds, and the receiver of the reports.
pub(super) fn sightings() -> (
    WorkflowInterceptorConstructor,
    mpsc::UnboundedReceiver<Made>,
) {
    let (sender, made) = mpsc::unbounded_channel();
    let constructor = WorkflowInterceptorConstructor::new(move |ctx| {
        if [protocol::CONTROLLER, protocol::PARTITION_PARENT].contains(&ctx.workflow_type()) {
            // The receiver is gone once the worker drains.
            let _ = sender.send(Made {
                workflow_id: ctx.workflow_id().to_owned(),
                run_id: ctx.run_id().to_owned(),
            });
        }
        Silent
    });
    (constructor, made)
}

/// An interceptor that does nothing.
struct Silent;

impl WorkflowInterceptor for Silent {}

/// Recovers controllers until the worker drains.
pub(super) async fn watch(
    client: Client,
    metrics: Metrics,
    mut made: mpsc::UnboundedReceiver<Made>,
    mut draining: watch::Receiver<bool>,
) {
    let client = BatchClient::new(client);
    let work = async {
        let mut runs = Runs::default();
        loop {
            let later = Instant::now() + FORGOTTEN_AFTER;
            let next = runs.next_look().unwrap_or(later);
            tokio::select! {
                made = made.recv() => match made {
                    Some(made) => runs.made(made, Instant::now()),
                    None => return,
                },
                () = tokio::time::sleep_until(next.into()) => {
                    for (run_id, workflow_id) in runs.due(Instant::now()) {
                        let handle = client.handle_unchecked(workflow_id);
                        let seen = look(&handle).await;
                        if let Some(recovery) = runs.looked(&run_id, &seen, Instant::now()) {
                            tell(handle.id(), &seen);
                            metrics.recovery(recovery);
                        }
                    }
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        // An error means that the worker is gone.
        _ = draining.wait_for(|draining| *draining) => {}
    }
}

/// The result of an inspection. `None` if the server did not answer.
type Seen = Option<ByItself>;

async fn look(handle: &BatchHandle) -> Seen {
    let seen = tokio::time::timeout(PATIENCE, handle.recover_by_itself()).await;
    match seen.ok()? {
        Ok(seen) => Some(seen),
        Err(RecoverError::Server { source }) => {
            tracing::debug!(error = %source, batch = handle.id(), "could not inspect the batch");
            None
        }
        // The batch has ended, or there is nothing to recover.
        Err(_) => Some(ByItself::Well),
    }
}

fn tell(batch: &str, seen: &Seen) {
    match seen {
        Some(ByItself::Recovered(cause)) => {
            tracing::warn!(
                batch,
                cause,
                "its history could not be replayed, so its current run was restarted"
            );
        }
        Some(ByItself::Left(remedy)) => tracing::error!(batch, %remedy, "the batch stands still"),
        _ => {}
    }
}

/// The runs that this worker has built, with the times of their inspections.
#[derive(Default)]
struct Runs(BTreeMap<String, Run>);

struct Run {
    workflow_id: String,
    made: Instant,
    look_at: Option<Instant>,
    /// True if the run was left to a person, which was logged.
    left: bool,
}

impl Runs {
    fn made(&mut self, made: Made, now: Instant) {
        if let Some(run) = self.0.get_mut(&made.run_id) {
            run.made = now;
            run.look_at.get_or_insert(now + LOOK_AFTER);
            return;
        }
        if self.0.len() >= MAX_RUNS {
            self.0.retain(|_, run| now < run.made + FORGOTTEN_AFTER);
        }
        if self.0.len() < MAX_RUNS {
            let run = Run {
                workflow_id: made.workflow_id,
                made: now,
                look_at: None,
                left: false,
            };
            self.0.insert(made.run_id, run);
        }
    }

    fn next_look(&self) -> Option<Instant> {
        self.0.values().filter_map(|run| run.look_at).min()
    }

    /// Returns the runs that are due, with their workflows.
    fn due(&self, now: Instant) -> Vec<(String, String)> {
        let due = self
            .0
            .iter()
            .filter(|(_, run)| run.look_at.is_some_and(|at| at <= now));
        due.map(|(id, run)| (id.clone(), run.workflow_id.clone()))
            .collect()
    }

    /// Records an inspection and returns a new outcome, if there is one.
    fn looked(&mut self, run_id: &str, seen: &Seen, now: Instant) -> Option<Recovery> {
        let run = self.0.get_mut(run_id)?;
        match seen {
            Some(ByItself::LookAgain) => run.look_at = Some(now + LOOK_AFTER),
            None => run.look_at = Some(now + ASK_AGAIN),
            Some(ByItself::Left(_)) => {
                // The next attempt at the task rebuilds the run.
                run.look_at = None;
                return (!std::mem::replace(&mut run.left, true)).then_some(Recovery::Left);
            }
            Some(ByItself::Well | ByItself::Recovered(_)) => {
                self.0.remove(run_id);
                return matches!(seen, Some(ByItself::Recovered(_))).then_some(Recovery::Done);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::Remedy;

    fn made(n: usize) -> Made {
        Made {
            workflow_id: format!("batch-{n}"),
            run_id: format!("run-{n}"),
        }
    }

    #[test]
    fn only_a_run_that_is_made_again_is_looked_at() {
        let mut runs = Runs::default();
        let start = Instant::now();
        runs.made(made(1), start);
        runs.made(made(2), start);
        assert_eq!(runs.next_look(), None);
        runs.made(made(2), start);
        assert_eq!(runs.next_look(), Some(start + LOOK_AFTER));
        assert!(runs.due(start).is_empty());
        let due = [("run-2".to_owned(), "batch-2".to_owned())];
        assert_eq!(runs.due(start + LOOK_AFTER), due);
        runs.looked("run-2", &Some(ByItself::LookAgain), start + LOOK_AFTER);
        assert_eq!(runs.next_look(), Some(start + 2 * LOOK_AFTER));
        runs.looked("run-2", &Some(ByItself::Well), start);
        assert_eq!(runs.next_look(), None);
    }

    #[test]
    fn what_is_left_to_people_is_told_once() {
        let mut runs = Runs::default();
        let now = Instant::now();
        let left = Some(ByItself::Left(Remedy::AtMostOnce));
        runs.made(made(1), now);
        runs.made(made(1), now);
        assert_eq!(runs.looked("run-1", &left, now), Some(Recovery::Left));
        assert_eq!(runs.next_look(), None);
        runs.made(made(1), now);
        assert!(runs.next_look().is_some(), "it may have changed");
        assert_eq!(runs.looked("run-1", &left, now), None);
        let done = Some(ByItself::Recovered("event 183".to_owned()));
        assert_eq!(runs.looked("run-1", &done, now), Some(Recovery::Done));
    }

    #[test]
    fn no_number_of_batches_fills_the_memory() {
        let mut runs = Runs::default();
        let start = Instant::now();
        for n in 0..MAX_RUNS + 5 {
            runs.made(made(n), start);
        }
        assert_eq!(runs.0.len(), MAX_RUNS);
        runs.made(made(MAX_RUNS + 7), start + FORGOTTEN_AFTER);
        assert_eq!(runs.0.len(), 1);
    }
}
