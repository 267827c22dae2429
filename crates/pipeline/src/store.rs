//! The place for results of steps that outlive a crash.

use async_trait::async_trait;
use serde_json::Value;
use temporal_batch::PageError;

/// The kept result of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptStep {
    /// The page or the item, as an idempotency key of the batch run.
    pub key: String,
    /// The name of the step.
    pub step: String,
    /// The result, with the counters so far.
    pub result: Value,
}

/// A store of the results of [kept](crate::Step::kept) steps. [`SqlSteps`](crate::SqlSteps) is one.
///
/// # Order of calls
///
/// A page calls [`load`](Self::load) once for itself, if it has kept steps outside of a `for_each`, and once for the items
/// of each `for_each` with kept steps. It calls [`keep`](Self::keep) after each such step, and continues only when the
/// result is kept. An error of either makes the engine run the page again.
///
/// Two attempts at a page may run at the same time, if one of them belongs to a worker that counts as lost. Both may keep
/// a result; the first one counts.
#[async_trait]
pub trait StepStore: Send + Sync + 'static {
    /// Returns all kept results of these pages or items.
    async fn load(&self, batch_run: &str, keys: &[String]) -> Result<Vec<KeptStep>, PageError>;

    /// Keeps a result durably. A result that is already kept for the same key and step stays.
    async fn keep(&self, batch_run: &str, step: &KeptStep) -> Result<(), PageError>;
}
