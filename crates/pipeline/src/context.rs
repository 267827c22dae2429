//! The surroundings of a step.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The surroundings of one attempt at a step.
#[derive(Clone, Debug)]
pub struct StepContext {
    pub(crate) place: Arc<Place>,
    pub(crate) counts: Arc<Mutex<BTreeMap<String, i64>>>,
}

/// The step, and the page or item that it works on.
#[derive(Debug)]
pub(crate) struct Place {
    pub step: String,
    pub key: String,
    pub page_attempt: u32,
    pub batch_id: String,
    pub batch_run: String,
}

impl StepContext {
    /// Returns an idempotency key for the effect of the step on this item, or on this page outside of a `for_each`. It
    /// is the same in every attempt of the batch run. That of an item does not depend on how pages are cut.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.place.key, self.place.step)
    }

    /// Returns the number of the attempt at the page, from 1.
    pub fn page_attempt(&self) -> u32 {
        self.place.page_attempt
    }

    /// Returns the id of the batch.
    pub fn batch_id(&self) -> &str {
        &self.place.batch_id
    }

    /// Returns the id of this execution of the batch.
    pub fn batch_run(&self) -> &str {
        &self.place.batch_run
    }

    /// Adds to a counter of the batch; see [`counters`](crate::counters). Names are few and do not depend on the data.
    /// The counts of an attempt that fails are dropped. Those of a [kept](crate::Step::kept) step are kept with its
    /// result.
    pub fn count(&self, name: &str, by: i64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.to_owned()).or_default();
        *count = count.saturating_add(by);
    }

    pub(crate) fn take_counts(&self) -> BTreeMap<String, i64> {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
