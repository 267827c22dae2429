//! Every name and payload that is stored in a history.
//!
//! A name never changes. A field that is added gets a serde default, so that a history of an earlier version can still
//! be read.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporal_batch::Timestamp;

use crate::{
    batcher::Batcher,
    request::{Confirmation, Outcome, Refusal, Request},
    state::BatcherState,
};

/// The version of these payloads.
pub(crate) const VERSION: u32 = 1;

/// The workflow of a shard.
pub(crate) const BATCHER: &str = "temporal-batch.batcher";
pub(crate) const SUBMIT: &str = "submit";
pub(crate) const SHUTDOWN: &str = "shutdown";
pub(crate) const STATS: &str = "stats";
pub(crate) const OUTCOMES: &str = "outcomes";

/// The name of the signal that confirms a request to the workflow that submitted it.
pub const CONFIRMED: &str = "temporal-batch.batcher.confirmed";

pub(crate) const WRITE: &str = "temporal-batch.batcher.write";
pub(crate) const CONFIRM: &str = "temporal-batch.batcher.confirm";
pub(crate) const SUBMIT_FOR: &str = "temporal-batch.batcher.submit";

/// The type of the failure of an activity that refused a submission before it sent anything.
pub(crate) const NOT_SUBMITTED: &str = "NotSubmitted";

/// The memo field of a shard with its [`Batcher`], which can be read without a worker.
pub(crate) const MEMO_BATCHER: &str = "batcher";

/// How long a worker may be silent before its write is given to another one.
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) fn workflow_id(batcher: &str, shard: u32) -> String {
    format!("{batcher}/shard/{shard}")
}

/// The input of a run of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BatcherInput {
    pub version: u32,
    pub batcher: Batcher,
    pub shard: u32,
    /// Drawn when the shard is started, and part of its batch keys: after a shutdown the numbers of batches repeat.
    pub instance: String,
    /// The state that the previous run left. `None` in the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<BatcherState>,
}

/// Requests for a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Submission {
    /// The number of shards that the requests were routed for.
    pub shards: u32,
    /// The workflow that is told the outcomes. `None` if no workflow waits for a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The number of the submission among those of its requester, which the confirmation repeats.
    #[serde(default, skip_serializing_if = "crate::request::is_zero")]
    pub number: u64,
    pub requests: Vec<Request>,
}

/// Why a batch was written when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FlushReason {
    /// The batch had `max_batch` requests.
    Size,
    /// The next request would have made it larger than `max_batch_bytes`.
    Bytes,
    /// Its first request had waited for `max_wait`.
    Time,
    /// The batcher was told to shut down.
    Shutdown,
}

impl FlushReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Size, Self::Bytes, Self::Time, Self::Shutdown];

    /// The value of the label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Bytes => "bytes",
            Self::Time => "time",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The order to write a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WriteOrder {
    pub batcher: String,
    pub writer: String,
    pub shard: u32,
    /// The same for every attempt at this batch, over retries, lost workers and continue-as-new.
    pub batch_key: String,
    pub requests: Vec<Request>,
    pub reason: FlushReason,
    /// The time at which each request was received.
    pub received_at: Vec<Timestamp>,
    /// Requests of the shard that are waiting for a later batch.
    pub pending: u32,
    pub max_attempts: u32,
    pub write_timeout: Duration,
}

/// The outcomes of a batch, in the order of its requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WriteReport {
    pub outcomes: Vec<Outcome>,
}

/// The order to tell requesters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfirmOrder {
    pub batcher: String,
    pub confirmations: Vec<(String, Confirmation)>,
}

/// The result of telling requesters their outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfirmReport {
    /// Requesters that were told.
    pub confirmed: u64,
    /// Requesters that have ended or never existed.
    pub gone: u64,
    /// The positions in the order of those that could not be told. They are told again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<u32>,
}

/// The order to submit requests of a workflow to a shard, and to start the shard where it does not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubmitOrder {
    pub batcher: Batcher,
    pub reply_to: String,
    #[serde(default, skip_serializing_if = "crate::request::is_zero")]
    pub number: u64,
    pub requests: Vec<Request>,
}

/// The answer to [`SubmitOrder`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubmitAnswer {
    /// Why the submission was not sent. `None` if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

/// The question for the outcomes of requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OutcomesRequest {
    pub request_ids: Vec<String>,
}

/// The state of a request, as far as a shard knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// The request is waiting or being written.
    Pending,
    /// The request has this outcome.
    Ended(Outcome),
    /// The shard has never had the request, or has forgotten it. It remembers the last 1,000, up to 128 KiB.
    Unknown,
}

/// The answers to [`OutcomesRequest`], in its order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OutcomesAnswer {
    pub known: Vec<Known>,
}
