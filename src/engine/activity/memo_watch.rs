//! The watch through which running strides learn that they should end, and metrics and partitions learn the
//! progress of a batch.
//!
//! The controller writes both into the memo of its workflow. Reading the memo needs no worker and adds nothing
//! to the history. The cost is one small call per workflow, worker and second while a stride runs. A worker
//! with many workflows looks less often ([`Looks::interval`]).

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
    engine::controller::Controller,
    processor::stop_signal::StopSignal,
    progress::Progress,
    protocol::{
        ControlState, MEMO_BATCH_RUN, MEMO_CONTROL, MEMO_PROGRESS, StrideOrder, message::Json,
        partition_in,
    },
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of looks per second, over all workflows.
const LOOKS_PER_SECOND: u32 = 10;
/// Longest interval between two looks at a workflow, while the server answers and while it does not.
const LONGEST: Duration = Duration::from_secs(15);
const LONGEST_UNANSWERED: Duration = Duration::from_secs(30);
/// Number of looks without an answer after which a warning is logged.
const SAID_AFTER: u32 = 5;
/// Time limit for the server, which normally answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// Number of seconds without listeners after which a watch ends. It continues between two short strides, which
/// would otherwise be over before its first look.
const IDLE_SECONDS: u32 = 3;

/// A callback for the progress of a batch, called after every look.
pub(super) type OnProgress = Box<dyn Fn(&Progress) + Send + Sync>;

/// The watches of one worker, by batch run and workflow. All listeners of a workflow share one watch.
pub(crate) struct ControlWatches {
    by_controller: Mutex<BTreeMap<Watched, watch::Sender<Option<Reading>>>>,
    unanswered: Mutex<u32>,
    on_progress: OnProgress,
}

/// The load that determines how often a worker looks.
#[derive(Clone, Copy)]
struct Looks {
    workflows: usize,
    /// Looks without an answer minus looks with one. A positive number means that the server is overloaded or
    /// away.
    unanswered: u32,
}

impl Looks {
    /// The interval between two looks at one workflow.
    fn interval(self) -> Duration {
        let workflows = u32::try_from(self.workflows).unwrap_or(u32::MAX);
        let shared = (INTERVAL * workflows / LOOKS_PER_SECOND).clamp(INTERVAL, LONGEST);
        let doubled = 2_u32.saturating_pow(self.unanswered.min(SAID_AFTER));
        shared.saturating_mul(doubled).min(LONGEST_UNANSWERED)
    }
}

/// A batch run, and the workflow that has the stride: that of the batch or of a partition.
type Watched = (String, String);

/// The view of one stride.
pub(super) struct ControlWatch {
    readings: watch::Receiver<Option<Reading>>,
    joined: Instant,
    batch_run: String,
    dispatch: u64,
    owner: Option<String>,
}

#[derive(Clone)]
pub(super) struct Reading {
    /// The time at which the server was asked.
    asked: Instant,
    pub found: Found,
    pub progress: Option<Arc<Progress>>,
    /// The workflows of the running partitions, by number.
    pub partitions: Arc<BTreeMap<u32, String>>,
}

/// The result of a look at the workflow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// The workflow has ended, or does not exist.
    Gone,
    /// The workflow belongs to this batch run and has no orders.
    BatchRun(String),
    Control(ControlState),
    Nothing,
}

/// The batch run is gone, so that no page of the stride may be processed.
const GONE: StopSignal = StopSignal {
    stop: true,
    stop_now: false,
    cancelled: false,
    gone: true,
};

impl Found {
    /// Returns the signal to this dispatch, whose activity may have an owner other than the controller.
    pub fn signal(&self, batch_run: &str, dispatch: u64, owner: Option<&str>) -> StopSignal {
        // Owners are named before they get strides. A run that does not name this owner was reset to an
        // earlier time.
        let forgotten = |known: &[String]| owner.is_some_and(|id| known.iter().all(|k| k != id));
        match self {
            Self::Nothing => StopSignal::default(),
            Self::Gone => GONE,
            Self::BatchRun(other) if other != batch_run || forgotten(&[]) => GONE,
            Self::BatchRun(_) => StopSignal::default(),
            Self::Control(state) if state.batch_run != batch_run => GONE,
            Self::Control(state) if forgotten(&state.owners) => StopSignal {
                stop_now: state.stop_now,
                ..GONE
            },
            Self::Control(state) => StopSignal {
                stop: state.stop_at_page_boundary || state.yields.contains(&dispatch),
                stop_now: state.stop_now,
                ..StopSignal::default()
            },
        }
    }
}

impl ControlWatches {
    pub fn new(on_progress: impl Fn(&Progress) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            by_controller: Mutex::default(),
            unanswered: Mutex::default(),
            on_progress: Box::new(on_progress),
        })
    }

    /// Creates the view of one stride.
    pub(super) fn watch(self: &Arc<Self>, client: &Client, order: &StrideOrder) -> ControlWatch {
        let batch = order.controller.is_none().then_some(order.controller());
        ControlWatch {
            joined: Instant::now(),
            readings: self.read(client, &order.batch_run, order.controller(), batch),
            batch_run: order.batch_run.clone(),
            dispatch: order.dispatch,
            owner: order.owner.clone(),
        }
    }

    /// Joins the watch of a workflow, or starts it. `batch` is given for the workflow of a batch, and not for
    /// that of a partition.
    pub(super) fn read(
        self: &Arc<Self>,
        client: &Client,
        batch_run: &str,
        workflow: &str,
        batch: Option<&str>,
    ) -> watch::Receiver<Option<Reading>> {
        let mut watches = self.lock();
        let watched = (batch_run.to_owned(), workflow.to_owned());
        if let Some(sender) = watches.get(&watched) {
            return sender.subscribe();
        }
        let (sender, readings) = watch::channel(None);
        watches.insert(watched.clone(), sender.clone());
        let poller = Poller {
            watches: Arc::downgrade(self),
            controller: client.get_workflow_handle(workflow),
            batch: batch.map(ToOwned::to_owned),
            watched,
            readings: sender,
        };
        tokio::spawn(poller.run());
        readings
    }

    fn looks(&self) -> Looks {
        Looks {
            workflows: self.lock().len(),
            unanswered: *self.unanswered(),
        }
    }

    fn unanswered(&self) -> MutexGuard<'_, u32> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) {
        let mut unanswered = self.unanswered();
        *unanswered = unanswered.saturating_sub(1);
    }

    /// Records a look without an answer. This includes answers that the client got only after retries, as when
    /// the server limits requests.
    fn not_answered(&self, why: &str) {
        let mut unanswered = self.unanswered();
        *unanswered += 1;
        if *unanswered == SAID_AFTER {
            tracing::warn!(
                why,
                "the server does not answer queries about the batches of this worker; pauses and changed limits reach its \
                 pages late"
            );
        }
        *unanswered = (*unanswered).min(2 * SAID_AFTER);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Watched, watch::Sender<Option<Reading>>>> {
        self.by_controller
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlWatch {
    /// Waits for the next signal. A memo read before the stride started may be older than its dispatch, so it was
    /// meant for others.
    pub async fn next(&mut self) -> StopSignal {
        loop {
            if self.readings.changed().await.is_err() {
                // The worker is ending.
                return std::future::pending().await;
            }
            let reading = self.readings.borrow_and_update();
            if let Some(reading) = reading.as_ref().filter(|r| r.asked >= self.joined) {
                let owner = self.owner.as_deref();
                return reading.found.signal(&self.batch_run, self.dispatch, owner);
            }
        }
    }
}

struct Poller {
    watches: Weak<ControlWatches>,
    controller: WorkflowHandle<Client, Controller>,
    batch: Option<String>,
    watched: Watched,
    readings: watch::Sender<Option<Reading>>,
}

impl Poller {
    async fn run(self) {
        let mut idle = 0;
        let mut looked_at = Instant::now();
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
            if idle >= IDLE_SECONDS {
                let mut watches = watches.lock();
                // While the lock is held, no listener can join.
                if self.readings.receiver_count() == 0 {
                    watches.remove(&self.watched);
                    return;
                }
            }
            if looked_at.elapsed() < watches.looks().interval() {
                continue;
            }
            looked_at = Instant::now();
            if let Some(reading) = self.look(&watches).await {
                self.readings.send_replace(Some(reading));
            }
        }
    }

    /// Looks at the workflow. `None` if the server does not answer; strides then continue with their current
    /// orders.
    async fn look(&self, watches: &ControlWatches) -> Option<Reading> {
        let asked = Instant::now();
        let looked = self.controller.describe(WorkflowDescribeOptions::default());
        let mut reading = Reading {
            asked,
            found: Found::Gone,
            progress: None,
            partitions: Arc::default(),
        };
        match tokio::time::timeout(PATIENCE, looked).await {
            Ok(Ok(description)) => {
                reading.found = found_in(&description);
                reading.progress = progress_in(&description).map(Arc::new);
                if let Some(batch) = &self.batch {
                    reading.partitions = Arc::new(partitions_in(&description, batch));
                    if let Some(progress) = &reading.progress {
                        (watches.on_progress)(progress);
                    }
                }
            }
            Ok(Err(WorkflowInteractionError::NotFound(_))) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, batch_run = self.watched.0, "the batch was not read");
                watches.not_answered(&error.to_string());
                return None;
            }
            Err(_) => {
                watches.not_answered("no answer in time");
                return None;
            }
        }
        watches.answered();
        Some(reading)
    }
}

/// Returns the workflows of the running partitions, by number.
fn partitions_in(
    description: &WorkflowExecutionDescription,
    batch_id: &str,
) -> BTreeMap<u32, String> {
    let children = description.raw().pending_children.iter();
    let numbered = children.filter_map(|child| {
        let number = partition_in(batch_id, &child.workflow_id)?;
        Some((number, child.workflow_id.clone()))
    });
    numbered.collect()
}

pub(super) fn progress_in(description: &WorkflowExecutionDescription) -> Option<Progress> {
    match description.memo().get(MEMO_PROGRESS) {
        Ok(progress) => progress.map(|Json(progress)| progress),
        Err(error) => {
            // The progress may be from another version while a deployment is under way.
            tracing::debug!(%error, "the progress of the batch could not be read");
            None
        }
    }
}

pub(super) fn found_in(description: &WorkflowExecutionDescription) -> Found {
    let info = description.raw().workflow_execution_info.as_ref();
    let status = info.map(|info| info.status());
    // Between two runs of a batch the first one is still the latest.
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
        const STOP: [bool; 3] = [true, false, false];
        const GONE: [bool; 3] = [true, false, true];
        let none = |_: &mut ControlState| {};
        let cases = [
            (Found::Nothing, [false; 3]),
            (Found::Gone, GONE),
            (Found::BatchRun("mine".to_owned()), [false; 3]),
            (Found::BatchRun("another".to_owned()), GONE),
            (state(none), [false; 3]),
            (state(|s| s.stop_at_page_boundary = true), STOP),
            (state(|s| s.stop_now = true), [false, true, false]),
            (state(|s| s.yields = vec![6, 8]), [false; 3]),
            (state(|s| s.yields = vec![6, 7]), STOP),
            (state(|s| s.batch_run = "another".to_owned()), GONE),
            (
                // A pause of another batch run does not affect this one.
                state(|s| {
                    s.batch_run = "another".to_owned();
                    s.stop_now = true;
                }),
                GONE,
            ),
        ];
        for (found, [stop, stop_now, gone]) in cases {
            let expected = StopSignal {
                stop,
                stop_now,
                gone,
                ..StopSignal::default()
            };
            assert_eq!(found.signal("mine", 7, None), expected, "{found:?}");
        }
    }

    #[test]
    fn a_stride_whose_owner_the_batch_does_not_know_stops() {
        let knows = |id: &str| state(|s| s.owners = vec![id.to_owned()]);
        let cases = [
            (knows("b1"), false),
            (knows("b2"), true),
            (state(|_| {}), true),
            // The batch was reset to before it had any orders.
            (Found::BatchRun("mine".to_owned()), true),
            (Found::Nothing, false),
        ];
        for (found, stop) in cases {
            let signal = found.signal("mine", 7, Some("b1"));
            assert_eq!((signal.stop, signal.gone), (stop, stop), "{found:?}");
        }
    }

    #[test]
    fn a_worker_with_many_workflows_looks_less_often_at_each() {
        let interval = |workflows: u32| {
            let looks = Looks {
                workflows: workflows as usize,
                unanswered: 0,
            };
            looks.interval()
        };
        assert_eq!(interval(1), Duration::from_secs(1));
        assert_eq!(interval(10), Duration::from_secs(1));
        assert_eq!(interval(51), Duration::from_millis(5_100));
        assert_eq!(interval(500), LONGEST);
        for workflows in 1..150 {
            let per_workflow = interval(workflows) / workflows;
            assert!(per_workflow >= INTERVAL / LOOKS_PER_SECOND, "{workflows}");
        }
    }

    #[test]
    fn looks_become_rare_while_the_server_does_not_answer() {
        let watches = ControlWatches::new(|_| {});
        watches
            .lock()
            .insert(Watched::default(), watch::channel(None).0);
        let seconds = || watches.looks().interval().as_secs();
        let failing: Vec<_> = (0..7)
            .map(|_| {
                watches.not_answered("it is limited");
                seconds()
            })
            .collect();
        assert_eq!(failing, [2, 4, 8, 16, 30, 30, 30]);
        for _ in 0..100 {
            watches.not_answered("it is limited");
        }
        for _ in 0..2 * SAID_AFTER {
            watches.answered();
        }
        assert_eq!(
            seconds(),
            1,
            "a long outage is no reason to look rarely for long"
        );
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
            owner: None,
        };
        let found = state(|s| s.stop_at_page_boundary = true);
        let reading = |asked| {
            Some(Reading {
                asked,
                found: found.clone(),
                progress: None,
                partitions: Arc::default(),
            })
        };
        sender.send_replace(reading(before));
        let waited = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(waited.is_err(), "it was asked for before the stride began");
        sender.send_replace(reading(watch.joined));
        assert!(watch.next().await.stop);
    }
}
