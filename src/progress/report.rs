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

/// The end of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it stopped, unless it completed.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its last state. `low_water_mark` says how far the data is covered without a gap.
    pub progress: Progress,
    /// When it ended.
    pub ended_at: Timestamp,
}

impl BatchReport {
    /// Whether everything was done, nothing was given up, and a check after the last page found it as it
    /// should be.
    pub fn is_verified(&self) -> bool {
        let check = self.progress.check.as_ref();
        let checked = check.is_some_and(|check| check.at_end && check.passed());
        self.outcome == Outcome::Completed && checked
    }

    /// The result that the processor's [reducer](crate::PageProcessor::reducer) made of all finished pages. `None`
    /// without a reducer, where a custom one was given nothing, and where there is an
    /// [`output_error`](Progress::output_error).
    pub fn output(&self) -> Option<&Value> {
        self.progress.output.as_ref()
    }

    /// The same as a type of yours.
    ///
    /// # Errors
    /// When the result is not one.
    pub fn output_as<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        self.output().map(T::deserialize).transpose()
    }

    /// Leaves what may be shown of the size of a batch that ended so.
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

    /// From start to end, pauses included.
    pub fn duration(&self) -> Duration {
        self.ended_at.since(self.progress.started_at)
    }
}
