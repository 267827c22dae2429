//! The outcomes of the items of a page; pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use temporal_batch::{PageError, PageReport};

use crate::{counters, link::of_step};

/// The failure of an item or of a page at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub error_type: String,
    pub message: String,
}

impl Failure {
    pub fn at(step: &str, error: &PageError) -> Self {
        Self {
            error_type: error.error_type().to_owned(),
            message: of_step(step, error),
        }
    }
}

/// The end of an item other than success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Ended {
    Skipped(String),
    Failed(Failure),
}

/// The counters and the ended items so far, of one item or of a page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcomes {
    /// The counters, by name.
    pub counts: BTreeMap<String, i64>,
    /// The items that ended, by position. In the outcomes of one item this is empty.
    pub ended: BTreeMap<usize, Ended>,
    /// The failure that a fallback replaced. It concerns the item, or every item of the page that has not ended.
    pub replaced: Option<Failure>,
}

impl Outcomes {
    pub fn count(&mut self, name: &str, by: i64) {
        let count = self.counts.entry(name.to_owned()).or_default();
        *count = count.saturating_add(by);
    }

    pub fn count_all(&mut self, counts: BTreeMap<String, i64>) {
        for (name, by) in counts {
            self.count(&name, by);
        }
    }

    /// Returns what was counted since the counters were as given.
    pub fn counts_since(&self, before: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
        let since = |(name, count): (&String, &i64)| {
            let before = before.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(before))
        };
        self.counts.iter().map(since).collect()
    }

    /// Returns whether anything has failed so far, also if a fallback replaced it.
    pub fn has_failed(&self) -> bool {
        let mut ended = self.ended.values();
        self.replaced.is_some() || ended.any(|ended| matches!(ended, Ended::Failed(_)))
    }

    /// Keeps the first failure that a fallback replaced.
    pub fn replace(&mut self, failure: Failure) {
        self.replaced.get_or_insert(failure);
    }

    /// Adds an item of the page. An item that continues with a fallback value has failed all the same.
    pub fn add_item(&mut self, position: usize, item: Self, ended: Option<Ended>) {
        self.count_all(item.counts);
        let failed = item.replaced.map(Ended::Failed);
        if let Some(ended) = failed.or(ended) {
            self.ended.insert(position, ended);
        }
    }

    /// Ends the page. Items for which a fallback of the page stands have failed; `rest` holds for all others.
    pub fn close(&mut self, items: usize, rest: Option<Ended>) {
        let failed = self.replaced.take().map(Ended::Failed);
        if let Some(ended) = failed.or(rest) {
            self.end_rest(items, &ended);
        }
    }

    fn end_rest(&mut self, items: usize, ended: &Ended) {
        for position in 0..items {
            self.ended.entry(position).or_insert_with(|| ended.clone());
        }
    }

    /// Makes the report of a page.
    pub fn report(self) -> PageReport {
        let mut report = PageReport::all_processed();
        for (position, ended) in self.ended {
            match ended {
                Ended::Skipped(reason) => report.skip(reason),
                Ended::Failed(failure) => {
                    report.fail(position, failure.error_type, failure.message);
                }
            }
        }
        for (name, by) in self.counts.into_iter().filter(|(_, by)| *by != 0) {
            report.output(json!({counters::NAME: name, counters::BY: by}));
        }
        report
    }
}
