//! The report at the end of a batch.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    page::size::Stand,
    progress::{
        Progress,
        phase::{Outcome, Phase},
    },
};

/// The final report of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchReport {
    /// The outcome.
    pub outcome: Outcome,
    /// The reason why the batch ended early. `None` if it completed.
    #[serde(default)]
    pub reason: Option<String>,
    /// The final state. `low_water_mark` tells up to where the data is covered without a gap.
    pub progress: Progress,
    /// The end of the batch.
    pub ended_at: Timestamp,
}

impl BatchReport {
    /// Returns whether everything was done without failures and a check after the last page passed.
    pub fn is_verified(&self) -> bool {
        let check = self.progress.check.as_ref();
        let checked = check.is_some_and(|check| check.at_end && check.passed());
        self.outcome == Outcome::Completed && checked
    }

    /// Returns the result that the processor's [reducer](crate::PageProcessor::reducer) computed from all finished
    /// pages. `None` if there is no reducer, if a custom reducer got no values, or if there is an
    /// [`output_error`](Progress::output_error).
    pub fn output(&self) -> Option<&Value> {
        self.progress.output.as_ref()
    }

    /// Deserializes the [`output`](Self::output).
    ///
    /// # Errors
    /// The result is not a `T`.
    pub fn output_as<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        self.output().map(T::deserialize).transpose()
    }

    /// Removes the parts of the size that must not be shown after this outcome.
    pub(crate) fn settle(&mut self) {
        self.progress.phase = Phase::Ended;
        let unread = self.progress.pages_failed > 0;
        self.progress.settle(match self.outcome {
            Outcome::Completed => Stand::Complete,
            // The number of items in pages that were given up is not known.
            Outcome::CompletedWithFailures if !unread => Stand::Complete,
            Outcome::CompletedWithFailures
            | Outcome::Failed
            | Outcome::Stopped
            | Outcome::Cancelled => Stand::Over,
        });
    }

    /// Returns the time from start to end, including pauses.
    pub fn duration(&self) -> Duration {
        self.ended_at.since(self.progress.started_at)
    }
}
