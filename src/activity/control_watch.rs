//! How running strides hear that they should end, and metrics how far a batch is.
//!
//! The controller writes both into the memo of its workflow. Reading that needs no worker that answers, and
//! leaves nothing in the history: one small call per batch, worker and second, while a stride runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowHandle,
    errors::WorkflowInteractionError,
};
use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus;
use tokio::sync::watch;

use crate::{
    controller::Controller,
    progress::Progress,
    protocol::{ControlState, MEMO_BATCH_RUN, MEMO_CONTROL, MEMO_PROGRESS, StrideOrder},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// A server that answers at all does so at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// Looks without any stride before a watch ends. Between two short strides it goes on, so that it comes to
/// look at all.
const IDLE_LOOKS: u32 = 3;

/// Called with what is known of a batch, every time it is read.
pub(super) type OnProgress = Box<dyn Fn(&Progress) + Send + Sync>;

/// The watches of one worker, by batch run and workflow.
pub(super) struct ControlWatches {
    by_controller: Mutex<BTreeMap<Watched, watch::Sender<Option<Reading>>>>,
    on_progress: OnProgress,
}

/// A batch run, and the workflow that has the stride: the one of the batch or of a partition.
type Watched = (String, String);

/// One stride's view.
pub(super) struct ControlWatch {
    readings: watch::Receiver<Option<Reading>>,
    joined: Instant,
    batch_run: String,
    dispatch: u64,
    bridge: Option<String>,
}

#[derive(Clone)]
struct Reading {
    /// When the server was asked for it.
    asked: Instant,
    found: Found,
}

/// What a look at the workflow found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// It has ended, or is not there.
    Gone,
    /// It belongs to this batch run, and says nothing more.
    BatchRun(String),
    Control(ControlState),
    Nothing,
}

/// What that means for a stride.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub stop: bool,
    pub stop_now: bool,
}

impl Found {
    /// What it means for this dispatch, which may be on a bridge.
    pub fn orders(&self, batch_run: &str, dispatch: u64, bridge: Option<&str>) -> Orders {
        // Bridges are named before they have strides. A run that does not name this one has been reset to a
        // time before it.
        let forgotten = |known: &[String]| bridge.is_some_and(|id| known.iter().all(|k| k != id));
        match self {
            Self::Nothing => Orders::default(),
            Self::Gone => Orders {
                stop: true,
                stop_now: false,
            },
            Self::BatchRun(other) => Orders {
                stop: other != batch_run || forgotten(&[]),
                stop_now: false,
            },
            Self::Control(state) if state.batch_run != batch_run => Orders {
                stop: true,
                stop_now: false,
            },
            Self::Control(state) => Orders {
                stop: state.stop_at_page_boundary
                    || state.yields.contains(&dispatch)
                    || forgotten(&state.bridges),
                stop_now: state.stop_now,
            },
        }
    }
}

impl ControlWatches {
    pub fn new(on_progress: OnProgress) -> Arc<Self> {
        Arc::new(Self {
            by_controller: Mutex::default(),
            on_progress,
        })
    }

    /// Joins the watch of the batch run, or starts it.
    pub fn watch(self: &Arc<Self>, client: &Client, order: &StrideOrder) -> ControlWatch {
        let mut watches = self.lock();
        let watched = (order.batch_run.clone(), order.controller().to_owned());
        let readings = match watches.get(&watched) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, readings) = watch::channel(None);
                watches.insert(watched.clone(), sender.clone());
                let poller = Poller {
                    watches: Arc::downgrade(self),
                    controller: client.get_workflow_handle(order.controller()),
                    is_batch: order.controller.is_none(),
                    watched,
                    readings: sender,
                };
                tokio::spawn(poller.run());
                readings
            }
        };
        ControlWatch {
            readings,
            joined: Instant::now(),
            batch_run: order.batch_run.clone(),
            dispatch: order.dispatch,
            bridge: order.bridge.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Watched, watch::Sender<Option<Reading>>>> {
        self.by_controller
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlWatch {
    /// Waits for the next orders. A memo that was read before the stride began may be older than its
    /// dispatch: what it says was meant for others.
    pub async fn next(&mut self) -> Orders {
        loop {
            if self.readings.changed().await.is_err() {
                // The worker ends.
                return std::future::pending().await;
            }
            let reading = self.readings.borrow_and_update();
            if let Some(reading) = reading.as_ref().filter(|r| r.asked >= self.joined) {
                let bridge = self.bridge.as_deref();
                return reading.found.orders(&self.batch_run, self.dispatch, bridge);
            }
        }
    }
}

struct Poller {
    watches: Weak<ControlWatches>,
    controller: WorkflowHandle<Client, Controller>,
    /// Or a partition, which says nothing of the batch.
    is_batch: bool,
    watched: Watched,
    readings: watch::Sender<Option<Reading>>,
}

impl Poller {
    async fn run(self) {
        let mut idle = 0;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(watches) = self.watches.upgrade() else {
                return;
            };
            idle = if self.readings.receiver_count() == 0 {
                idle + 1
            } else {
                0
            };
            if idle >= IDLE_LOOKS {
                let mut watches = watches.lock();
                // Under the lock nobody joins.
                if self.readings.receiver_count() == 0 {
                    watches.remove(&self.watched);
                    return;
                }
            }
            let asked = Instant::now();
            let looked = self.controller.describe(WorkflowDescribeOptions::default());
            // A server that does not answer changes nothing: the stride goes on with its orders.
            let found = match tokio::time::timeout(PATIENCE, looked).await {
                Ok(Ok(description)) => {
                    if self.is_batch
                        && let Some(progress) = progress_in(&description)
                    {
                        (watches.on_progress)(&progress);
                    }
                    found_in(&description)
                }
                Ok(Err(WorkflowInteractionError::NotFound(_))) => Found::Gone,
                Ok(Err(error)) => {
                    tracing::debug!(%error, batch_run = self.watched.0, "the batch was not read");
                    continue;
                }
                Err(_) => continue,
            };
            self.readings.send_replace(Some(Reading { asked, found }));
        }
    }
}

pub(super) fn progress_in(description: &WorkflowExecutionDescription) -> Option<Progress> {
    match description.memo().get(MEMO_PROGRESS) {
        Ok(progress) => progress,
        Err(error) => {
            // Of another version, while a deploy is under way.
            tracing::debug!(%error, "the progress of the batch could not be read");
            None
        }
    }
}

pub(super) fn found_in(description: &WorkflowExecutionDescription) -> Found {
    let info = description.raw().workflow_execution_info.as_ref();
    let status = info.map(|info| info.status());
    // Between two runs of the batch the first one is still the latest.
    let open = [TemporalStatus::Running, TemporalStatus::ContinuedAsNew];
    if status.is_some_and(|status| !open.contains(&status)) {
        return Found::Gone;
    }
    let memo = description.memo();
    match memo.get(MEMO_CONTROL) {
        Ok(Some(state)) => Found::Control(state),
        Ok(None) => match memo.get(MEMO_BATCH_RUN) {
            Ok(Some(batch_run)) => Found::BatchRun(batch_run),
            Ok(None) | Err(_) => Found::Nothing,
        },
        Err(error) => {
            tracing::debug!(%error, "the orders of the batch could not be read");
            Found::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(change: impl FnOnce(&mut ControlState)) -> Found {
        let mut state = ControlState {
            batch_run: "mine".to_owned(),
            ..ControlState::default()
        };
        change(&mut state);
        Found::Control(state)
    }

    #[test]
    fn a_stride_stops_only_when_it_is_meant() {
        let none = |_: &mut ControlState| {};
        let cases = [
            (Found::Nothing, false, false),
            (Found::Gone, true, false),
            (Found::BatchRun("mine".to_owned()), false, false),
            (Found::BatchRun("another".to_owned()), true, false),
            (state(none), false, false),
            (state(|s| s.stop_at_page_boundary = true), true, false),
            (state(|s| s.stop_now = true), false, true),
            (state(|s| s.yields = vec![6, 8]), false, false),
            (state(|s| s.yields = vec![6, 7]), true, false),
            (state(|s| s.batch_run = "another".to_owned()), true, false),
            (
                // What another batch run pauses is not this one's.
                state(|s| {
                    s.batch_run = "another".to_owned();
                    s.stop_now = true;
                }),
                true,
                false,
            ),
        ];
        for (found, stop, stop_now) in cases {
            let expected = Orders { stop, stop_now };
            assert_eq!(found.orders("mine", 7, None), expected, "{found:?}");
        }
    }

    #[test]
    fn a_stride_on_a_bridge_that_the_batch_does_not_know_stops() {
        let knows = |id: &str| state(|s| s.bridges = vec![id.to_owned()]);
        let cases = [
            (knows("b1"), false),
            (knows("b2"), true),
            (state(|_| {}), true),
            // Reset to before there was anything to say.
            (Found::BatchRun("mine".to_owned()), true),
            (Found::Nothing, false),
        ];
        for (found, stop) in cases {
            let orders = found.orders("mine", 7, Some("b1"));
            assert_eq!(orders.stop, stop, "{found:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_before_a_stride_began_is_not_for_it() {
        let (sender, readings) = watch::channel(None);
        let before = Instant::now();
        let mut watch = ControlWatch {
            readings,
            joined: before + Duration::from_millis(1),
            batch_run: "mine".to_owned(),
            dispatch: 1,
            bridge: None,
        };
        let found = state(|s| s.stop_at_page_boundary = true);
        let reading = |asked| {
            Some(Reading {
                asked,
                found: found.clone(),
            })
        };
        sender.send_replace(reading(before));
        let waited = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(waited.is_err(), "it was asked for before the stride began");
        sender.send_replace(reading(watch.joined));
        assert!(watch.next().await.stop);
    }
}
