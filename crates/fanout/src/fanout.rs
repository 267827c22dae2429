//! The order to start a fan-out: the items and the settings of a fan-out.

use serde_json::Value;
use temporal_batch::{PageProcessor, settings::IfRunning};

use crate::{
    item::{ItemProcessor, ItemSettings},
    protocol::{ClosePolicy, Duplicates, FanoutSpec, GivenItem, Mode, OnFailure},
    state::{Carry, Unread, without_duplicates},
    validate::InvalidFanout,
};

/// The most bytes of a list of items, which travels from run to run.
pub const LIST_BYTES: usize = 500_000;
/// The task queue of fan-outs that name none.
pub const DEFAULT_TASK_QUEUE: &str = "fanout";

/// A fan-out: one child workflow for each item.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | [`window`](Self::window) | 500 children at the same time | 1 to 1,000 |
/// | [`mode`](Self::mode) | [`Mode::JoinAll`] | |
/// | [`on_failure`](Self::on_failure) | every outcome is collected, and every failure tolerated | |
/// | [`duplicates`](Self::duplicates) | [`Duplicates::CountOnce`] | |
/// | [`close_policy`](Self::close_policy) | [`ClosePolicy::Abandon`] | |
/// | [`task_queue`](Self::task_queue) | [`DEFAULT_TASK_QUEUE`] | |
/// | [`child_task_queue`](Self::child_task_queue) | the task queue of the fan-out | |
/// | [`child_workflow`](Self::child_workflow) | the child of this crate, which calls [`ItemProcessor::process`] | |
/// | [`if_running`](Self::if_running) | [`IfRunning::Refuse`] | |
/// | [`rerun`](Self::rerun) | false: the id of an ended fan-out is refused | |
/// | [`page_size`](Self::page_size) | 100 items are read from a source at once | 1 to 1,000 |
/// | [`events_per_run`](Self::events_per_run) | 6,000 | 100 to 20,000 |
/// | [`settings`](Self::settings) | those of [`ItemProcessor::settings`] | |
#[derive(Clone, Debug)]
#[must_use]
pub struct Fanout {
    pub(crate) spec: FanoutSpec,
    pub(crate) items: Items,
    pub(crate) task_queue: String,
    pub(crate) if_running: IfRunning,
    pub(crate) defect: Option<InvalidFanout>,
}

#[derive(Clone, Debug)]
pub(crate) enum Items {
    List(Vec<GivenItem>),
    Source { name: &'static str, args: Value },
}

/// # Construct
impl Fanout {
    /// Creates a fan-out over a list of items, which are stored in the history, up to [`LIST_BYTES`] in all. The id is that
    /// of the workflow, and begins the ids of its children.
    pub fn over<P: ItemProcessor>(
        id: impl Into<String>,
        items: impl IntoIterator<Item = P::Item>,
    ) -> Self {
        let mut list = Vec::new();
        let mut defect = None;
        for (position, item) in items.into_iter().enumerate() {
            match serde_json::to_value(&item) {
                Ok(value) => list.push(GivenItem {
                    id: P::id(&item),
                    item: value,
                }),
                Err(error) => {
                    let why = error.to_string();
                    defect.get_or_insert(InvalidFanout::NotStorable { position, why });
                }
            }
        }
        Self::new::<P>(id.into(), Items::List(list), defect)
    }

    /// Creates a fan-out over the items of the pages that `S` fetches. Only `prepare` and `fetch` of the source are
    /// called. The worker of the fan-out needs it: [`FanoutWorker::source`](crate::FanoutWorker::source).
    pub fn over_pages<P, S>(id: impl Into<String>, args: &S::Args) -> Self
    where
        P: ItemProcessor,
        S: PageProcessor<Item = P::Item>,
    {
        let (args, defect) = match serde_json::to_value(args) {
            Ok(args) => (args, None),
            Err(error) => (
                Value::Null,
                Some(InvalidFanout::ArgsNotStorable {
                    why: error.to_string(),
                }),
            ),
        };
        let name = S::NAME;
        Self::new::<P>(id.into(), Items::Source { name, args }, defect)
    }

    fn new<P: ItemProcessor>(id: String, items: Items, defect: Option<InvalidFanout>) -> Self {
        let ItemSettings {
            retry,
            attempt_timeout,
            heartbeat_timeout,
            execution_timeout,
        } = P::settings();
        Self {
            spec: FanoutSpec {
                id,
                run: String::new(),
                processor: P::NAME.to_owned(),
                mode: Mode::default(),
                window: 500,
                on_failure: OnFailure::default(),
                duplicates: Duplicates::default(),
                close: ClosePolicy::default(),
                child_type: None,
                child_queue: None,
                retry,
                attempt_timeout,
                heartbeat_timeout,
                execution_timeout,
                page_size: 100,
                events_per_run: 6_000,
                rerun: false,
            },
            items,
            task_queue: DEFAULT_TASK_QUEUE.to_owned(),
            if_running: IfRunning::default(),
            defect,
        }
    }

    /// Sets how the parent learns of ends.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.spec.mode = mode;
        self
    }

    /// Sets the most children at the same time.
    pub fn window(mut self, children: u32) -> Self {
        self.spec.window = children;
        self
    }

    /// Sets what happens when an item fails.
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.spec.on_failure = on_failure;
        self
    }

    /// Sets what is done with an item whose id an earlier item has.
    pub fn duplicates(mut self, duplicates: Duplicates) -> Self {
        self.spec.duplicates = duplicates;
        self
    }

    /// Sets what becomes of running children when the fan-out is terminated or times out.
    pub fn close_policy(mut self, policy: ClosePolicy) -> Self {
        self.spec.close = policy;
        self
    }

    /// Sets the task queue of the fan-out.
    pub fn task_queue(mut self, queue: impl Into<String>) -> Self {
        self.task_queue = queue.into();
        self
    }

    /// Sets the task queue of the children and their attempts. A worker with the processor must poll it.
    pub fn child_task_queue(mut self, queue: impl Into<String>) -> Self {
        self.spec.child_queue = Some(queue.into());
        self
    }

    /// Makes workflows of this type the children, with the item as their input. Their result is the output, as JSON.
    /// [`ItemProcessor::process`] and its settings are not used, except for the execution timeout.
    ///
    /// With [`Mode::Signals`] the workflow sends its parent the signal `item_done` with
    /// `{"item_id": …, "output": …}`; its result or failure counts if it does not.
    pub fn child_workflow(mut self, workflow_type: impl Into<String>) -> Self {
        self.spec.child_type = Some(workflow_type.into());
        self
    }

    /// Sets what happens if a fan-out of this id is running. [`IfRunning::Attach`] returns its handle if it has the same
    /// processor and items.
    pub fn if_running(mut self, if_running: IfRunning) -> Self {
        self.if_running = if_running;
        self
    }

    /// Runs all items again, although a fan-out of this id has ended.
    pub fn rerun(mut self, rerun: bool) -> Self {
        self.spec.rerun = rerun;
        self
    }

    /// Sets how many items are read from a source at once, at most the window.
    pub fn page_size(mut self, items: u32) -> Self {
        self.spec.page_size = items;
        self
    }

    /// Sets the number of events after which the workflow continues as new. A run may have some more events: three for
    /// each child in the window, and a fourth with [`Mode::Signals`].
    pub fn events_per_run(mut self, events: u32) -> Self {
        self.spec.events_per_run = events;
        self
    }

    /// Sets the retries and time limits of the items.
    pub fn settings(mut self, settings: ItemSettings) -> Self {
        let ItemSettings {
            retry,
            attempt_timeout,
            heartbeat_timeout,
            execution_timeout,
        } = settings;
        self.spec.retry = retry;
        self.spec.attempt_timeout = attempt_timeout;
        self.spec.heartbeat_timeout = heartbeat_timeout;
        self.spec.execution_timeout = execution_timeout;
        self
    }
}

/// # Look
impl Fanout {
    /// The id of the fan-out.
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// The most bytes of one output, as JSON: 500,000 divided by the window, at most 256 KiB. Outputs of items that end
    /// out of order wait in the workflow, so larger ones belong elsewhere, and the output refers to them.
    pub fn output_limit(&self) -> usize {
        self.spec.output_limit()
    }

    /// Returns what the first run begins with.
    pub(crate) fn carry(&self) -> Carry {
        match self.items.clone() {
            Items::Source { name, args } => Carry::of(Unread::Source {
                name: name.to_owned(),
                args,
                prepared: false,
                token: None,
            }),
            Items::List(items) => {
                let (items, duplicates) = without_duplicates(items, |given| &given.id);
                Carry {
                    duplicates,
                    ..Carry::of(Unread::List(items))
                }
            }
        }
    }
}
