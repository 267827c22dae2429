//! The part of a batch that is stored in its history.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    base::stored::is_default,
    batch::{pace_settings::PaceSpec, stage::Stage, tolerance::Tolerance},
    page::token::PageToken,
};

/// Maximum bytes of the arguments. The memo holds them both as given and as completed by the processor, and
/// Temporal accepts 2 MiB.
pub(crate) const MAX_ARGS_BYTES: usize = 512 * 1024;

/// The part of a [`Batch`](crate::Batch) that is stored in its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BatchSpec {
    pub batch_id: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub page_size: u32,
    pub max_parallelism: u32,
    pub stride: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_cursor: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_per_run: Option<u32>,
    /// The batch whose dead letters this one redrives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// The time limit, counted from the start of the batch run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    #[serde(default, skip_serializing_if = "HookNames::is_empty")]
    pub hooks: HookNames,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_every: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub pace: PaceSpec,
    /// Batches with the same lock do not run together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_lock: bool,
    /// The stages, each of which is checked before the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// True if a person has to approve each stage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approve_stages: bool,
    /// True if everything is checked after the last page. `None` means only with stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_at_end: Option<bool>,
    /// The share of the workers' slots, relative to other batches of the task queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
    /// True if the processor names partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
}

/// The hooks that a batch names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HookNames {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_handler: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_hook: Option<String>,
}

impl BatchSpec {
    /// Returns whether everything is checked after the last page.
    pub fn checks_at_end(&self) -> bool {
        self.check_at_end.unwrap_or(!self.stages.is_empty())
    }
}

impl HookNames {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
