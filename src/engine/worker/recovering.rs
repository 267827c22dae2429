//! Notices controllers that this worker cannot go on with, and has them recovered where that cures them.
//!
//! A controller whose workflow task fails is made again from its history for every attempt. So a run that is
//! made a second time within minutes is looked at; all others cost no call.

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

/// How soon after it was made again a controller is looked at, and again while its tasks fail.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Longest wait for the calls of one look.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon after a server that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The server tries a task again at least this often.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Runs that are remembered. With more batches than a worker keeps in memory each is made again and again.
const MAX_RUNS: usize = 10_000;

/// A controller was made from its history.
pub(super) struct Made {
    workflow_id: String,
    run_id: String,
}

/// Tells of every controller that a worker makes.
pub(super) fn sightings() -> (
    WorkflowInterceptorConstructor,
    mpsc::UnboundedReceiver<Made>,
) {
    let (sender, made) = mpsc::unbounded_channel();
    let constructor = WorkflowInterceptorConstructor::new(move |ctx| {
        if ctx.workflow_type() == protocol::CONTROLLER {
            // Nobody listens once the worker drains.
            let _ = sender.send(Made {
                workflow_id: ctx.workflow_id().to_owned(),
                run_id: ctx.run_id().to_owned(),
            });
        }
        Silent
    });
    (constructor, made)
}

/// Intercepts nothing.
struct Silent;

impl WorkflowInterceptor for Silent {}

/// Recovers until the worker drains.
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

/// What a look at a run has shown; `None` where the server did not answer.
type Seen = Option<ByItself>;

async fn look(handle: &BatchHandle) -> Seen {
    let seen = tokio::time::timeout(PATIENCE, handle.recover_by_itself()).await;
    match seen.ok()? {
        Ok(seen) => Some(seen),
        Err(RecoverError::Server { source }) => {
            tracing::debug!(error = %source, batch = handle.id(), "the batch was not looked at");
            None
        }
        // It has ended, or there is nothing to take back.
        Err(_) => Some(ByItself::Well),
    }
}

fn tell(batch: &str, seen: &Seen) {
    match seen {
        Some(ByItself::Recovered(cause)) => {
            tracing::warn!(
                batch,
                cause,
                "its history could not be replayed, so its current run was started again"
            );
        }
        Some(ByItself::Left(remedy)) => tracing::error!(batch, %remedy, "the batch stands still"),
        _ => {}
    }
}

/// The runs that this worker has made, and when to look at them.
#[derive(Default)]
struct Runs(BTreeMap<String, Run>);

struct Run {
    workflow_id: String,
    made: Instant,
    look_at: Option<Instant>,
    /// It is left to people, which was told.
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

    /// Runs and their workflows.
    fn due(&self, now: Instant) -> Vec<(String, String)> {
        let due = self
            .0
            .iter()
            .filter(|(_, run)| run.look_at.is_some_and(|at| at <= now));
        due.map(|(id, run)| (id.clone(), run.workflow_id.clone()))
            .collect()
    }

    /// Takes note of a look. Tells what is new.
    fn looked(&mut self, run_id: &str, seen: &Seen, now: Instant) -> Option<Recovery> {
        let run = self.0.get_mut(run_id)?;
        match seen {
            Some(ByItself::LookAgain) => run.look_at = Some(now + LOOK_AFTER),
            None => run.look_at = Some(now + ASK_AGAIN),
            Some(ByItself::Left(_)) => {
                // The next attempt makes it again.
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
