//! Fields of the memo of a batch: the orders for running strides, and the progress for readers without a worker.

use serde::{Deserialize, Serialize};

use crate::{base::time::Timestamp, progress::phase::Outcome};

use super::message::messages;

messages!(EndNote, ControlState);

/// The memo field with the latest [`ControlState`], which running strides read.
pub(crate) const MEMO_CONTROL: &str = "control";

/// The memo field with a recent [`Progress`], without its longer lists.
pub(crate) const MEMO_PROGRESS: &str = "progress";

/// The memo field with the [`Progress`] at the time when a client last asked for one, with its longer lists.
pub(crate) const MEMO_FULL: &str = "progress_full";

/// The memo field with the arguments as they were given.
pub(crate) const MEMO_ARGS: &str = "args";

/// The memo field with the arguments as the processor completed them, where it changed them.
pub(crate) const MEMO_PREPARED_ARGS: &str = "prepared_args";

/// The memo field with the [`EndNote`] of a batch that has ended.
pub(crate) const MEMO_ENDED: &str = "ended";

/// The memo field with the batch run.
pub(crate) const MEMO_BATCH_RUN: &str = "batch_run";

/// The end of a batch, for listings. The last run may be over before it has published its progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct EndNote {
    pub outcome: Outcome,
    /// The start of the batch run.
    pub started_at: Timestamp,
}

/// The instructions for running strides. They are in the memo of the workflow, where reading them needs no worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ControlState {
    pub batch_run: String,
    /// True if strides should end at the next page boundary: the batch is paused or cancelled, or a continue-as-new
    /// is due.
    pub stop_at_page_boundary: bool,
    /// True if running pages should be interrupted too, where that is safe.
    pub stop_now: bool,
    /// The dispatches whose strides should end at their next page boundary, because there are more strides than the
    /// limit allows, or because their shares of the rate are out of date.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub yields: Vec<u64>,
    /// The other workflows that own strides which the controller expects. Strides of any other owner should end, because
    /// a reset has forgotten them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
}
