//! The state that a controller carries over a continue-as-new, and what it ends with.

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::spec::BatchSpec,
    decisions::{
        chain::Ledger,
        pacing::Pacing,
        partitions::Partitions,
        state::{pending_notices::Notices, stages::Stages},
    },
    progress::{
        audit::{Audit, Given},
        check::Checked,
        report::BatchReport,
    },
    protocol::{ControlState, Controls, PartOf, Prepared},
};

/// Input of the controller workflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ControllerInput {
    pub version: u32,
    /// Minted when the batch is started; kept over continue-as-new and reset.
    pub batch_run: String,
    pub spec: BatchSpec,
    /// Who started or continued the batch; absent after a continue-as-new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<Carry>,
    /// It is the controller of one partition of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartOf>,
}

/// How a batch, or the rest of one, was begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// For the audit, such as `start` or `continue`.
    pub action: String,
    #[serde(flatten)]
    pub given: Given,
}

/// Details of a batch that ended before its end: its report, and what it takes to go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndDetails {
    /// Readers that only know reports find one.
    #[serde(flatten)]
    pub report: BatchReport,
    /// The input of a controller that goes on where this one stood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Box<ControllerInput>>,
}

/// What one run of the controller hands to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carry {
    pub ledger: Ledger,
    pub prepared: Prepared,
    pub controls: Controls,
    pub started_at: Timestamp,
    /// Runs before this one.
    pub runs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    pub notices: Notices,
    pub audit: Audit,
    pub pacing: Pacing,
    /// What is in the memo.
    pub published: ControlState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    /// The latest check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Partitions>,
}
