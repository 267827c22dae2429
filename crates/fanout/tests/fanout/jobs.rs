//! A processor whose items do what the test wants, and a worker for it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use temporal_batch::{BatchClient, PageError, async_trait};
use temporal_batch_fanout::{
    AggregateContext, Fanout, FanoutHandle, FanoutReport, FanoutWorker, ItemContext, ItemOutcome,
    ItemPhase, ItemProcessor, ItemSettings, Retry, RunningFanoutWorker, add_to_summary,
};
use tokio::sync::watch;

use crate::support::{TestEnv, connect, eventually, server_address, within};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    pub act: Act,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Act {
    Finish,
    /// Fails this many attempts.
    FailFirst(u32),
    Decline,
    /// Waits for this event: "go", or "done ID".
    WaitFor(String),
    /// Returns an output of this size.
    Large(usize),
}

/// An item that waits for "go".
pub fn waits(id: &str) -> Job {
    job(id, Act::WaitFor("go".to_owned()))
}

pub fn job(id: impl Into<String>, act: Act) -> Job {
    Job { id: id.into(), act }
}

/// Items `ITEM-001` and so on, which finish at once.
pub fn jobs(count: usize) -> Vec<Job> {
    let id = |n| format!("ITEM-{n:03}");
    (1..=count).map(|n| job(id(n), Act::Finish)).collect()
}

/// The positions and ids of the outcomes of one aggregation.
type Aggregated = Vec<(u64, String)>;

/// The processor. Clones share what has happened.
#[derive(Clone)]
pub struct Work {
    events: watch::Sender<BTreeSet<String>>,
    /// Every attempt: the item, and the number of the attempt.
    pub attempts: Arc<Mutex<Vec<(String, u32)>>>,
    /// The positions and ids of every aggregation.
    pub aggregated: Arc<Mutex<Vec<Aggregated>>>,
}

impl Work {
    pub fn new() -> Self {
        Self {
            events: watch::Sender::new(BTreeSet::new()),
            attempts: Arc::default(),
            aggregated: Arc::default(),
        }
    }

    /// Makes an event known to waiting items.
    pub fn happened(&self, event: impl Into<String>) {
        let event = event.into();
        self.events.send_modify(|events| {
            events.insert(event);
        });
    }

    pub async fn seen(&self, event: &str) {
        let what = format!("\"{event}\" happens");
        let mut events = self.events.subscribe();
        within(&what, events.wait_for(|events| events.contains(event)))
            .await
            .unwrap();
    }

    pub fn attempts_of(&self, id: &str) -> usize {
        let attempts = self.attempts.lock().unwrap();
        attempts.iter().filter(|(item, _)| item == id).count()
    }
}

#[async_trait]
impl ItemProcessor for Work {
    const NAME: &'static str = "work";
    type Item = Job;
    type Output = Value;

    fn id(job: &Job) -> String {
        job.id.clone()
    }

    fn settings() -> ItemSettings {
        ItemSettings {
            retry: Retry {
                max_attempts: 3,
                initial_interval: Duration::from_millis(50),
                ..Retry::default()
            },
            heartbeat_timeout: Duration::from_secs(10),
            ..ItemSettings::default()
        }
    }

    async fn process(&self, ctx: &ItemContext, job: Job) -> Result<Value, PageError> {
        let attempt = (job.id.clone(), ctx.attempt());
        self.attempts.lock().unwrap().push(attempt);
        self.happened(format!("began {}", job.id));
        match job.act {
            Act::Decline => return Err(PageError::non_retryable("CardDeclined", "no funds")),
            Act::FailFirst(times) if ctx.attempt() <= times => {
                return Err(PageError::retryable("not yet"));
            }
            Act::WaitFor(event) => self.seen(&event).await,
            Act::Large(bytes) => return Ok(json!("x".repeat(bytes))),
            Act::Finish | Act::FailFirst(_) => {}
        }
        self.happened(format!("done {}", job.id));
        Ok(json!(format!("{} at attempt {}", job.id, ctx.attempt())))
    }

    async fn aggregate(
        &self,
        ctx: &AggregateContext,
        so_far: Option<Value>,
        outcomes: Vec<ItemOutcome<Value>>,
    ) -> Result<Value, PageError> {
        let ids = outcomes.iter().map(|o| (o.position, o.item_id.clone()));
        self.aggregated.lock().unwrap().push(ids.collect());
        add_to_summary(ctx, so_far, &outcomes)
    }
}

/// Starts a worker on a queue, with a connection of its own.
pub async fn worker_on(queue: &str, work: &Work) -> RunningFanoutWorker {
    let client = connect(server_address()).await;
    worker(&client, queue, work).start().unwrap()
}

pub fn worker(client: &BatchClient, queue: &str, work: &Work) -> FanoutWorker {
    FanoutWorker::new(client, queue)
        .processor(work.clone())
        .drain_timeout(Duration::from_secs(5))
}

/// A fan-out on the queue of the test.
pub fn fanout(env: &TestEnv, jobs: Vec<Job>) -> Fanout {
    Fanout::over::<Work>(env.new_id(), jobs).task_queue(&env.queue)
}

pub async fn start(env: &TestEnv, fanout: &Fanout) -> FanoutHandle {
    fanout.start(&env.client).await.unwrap()
}

pub async fn report(handle: &FanoutHandle) -> FanoutReport {
    within("the fan-out ends", handle.result()).await.unwrap()
}

pub async fn run(env: &TestEnv, fanout: &Fanout) -> FanoutReport {
    report(&start(env, fanout).await).await
}

/// Waits until the child of an item is in a phase. An item that has no child yet is asked again.
pub async fn item_is(handle: &FanoutHandle, id: &str, phase: ItemPhase) {
    eventually(&format!("item {id} is {phase:?}"), || async {
        let status = handle.item_status(id).await.ok()?;
        (status.phase == phase).then_some(())
    })
    .await;
}

/// The events of the kinds in the first history of a workflow, in their order.
pub async fn events_of(env: &TestEnv, id: &str, kinds: &[&str]) -> Vec<String> {
    let history = env.histories(id).await.remove(0);
    let history: Value = serde_json::from_slice(&history).unwrap();
    let events = history["events"].as_array().unwrap().iter();
    let kind = |event: &Value| {
        let attributes = event["attributes"].as_object()?.keys().next()?.clone();
        Some(attributes.strip_suffix("EventAttributes")?.to_owned())
    };
    let wanted = |kind: &String| kinds.contains(&kind.as_str());
    events.filter_map(kind).filter(wanted).collect()
}

/// The number of events of each run of a workflow.
pub async fn lengths(env: &TestEnv, id: &str) -> Vec<usize> {
    let histories = env.histories(id).await;
    let length = |history: &Vec<u8>| {
        let history: Value = serde_json::from_slice(history).unwrap();
        history["events"].as_array().unwrap().len()
    };
    histories.iter().map(length).collect()
}
