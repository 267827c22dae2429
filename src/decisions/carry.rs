//! The input of a controller: the state carried over a continue-as-new, and the state with which a batch ends.

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::spec::BatchSpec,
    decisions::{
        pacing::Pacing,
        state::{pending_notices::Notices, stride_work::StrideWork},
    },
    progress::{
        audit::{Audit, Given},
        check::Checked,
        report::BatchReport,
    },
    protocol::{ControlState, Controls, PartOf, Prepared, message::messages},
};

messages!(EndDetails<W>, ControllerInput<W>);

/// Input of the controller workflow, and with another kind of work of the parent of partitions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ControllerInput<W = StrideWork> {
    pub version: u32,
    /// Minted when the batch is started; kept over continue-as-new and reset.
    pub batch_run: String,
    pub spec: BatchSpec,
    /// The action that started or continued the batch. Absent after a continue-as-new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub carry: Option<Carry<W>>,
    /// The partition that this controller works on, if it is a child of a partitioned batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartOf>,
}

/// The action that began a batch, or the rest of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The name of the action in the audit, such as `start` or `continue`.
    pub action: String,
    #[serde(flatten)]
    pub given: Given,
}

/// Details of a batch that ended early: its report, and the input with which it can be continued.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct EndDetails<W = StrideWork> {
    /// Flattened, so that a reader that expects a report finds one.
    #[serde(flatten)]
    pub report: BatchReport,
    /// The input of a controller that continues where this one stopped.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Box<ControllerInput<W>>>,
}

/// The state that one run of the controller hands to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carry<W = StrideWork> {
    pub work: W,
    pub prepared: Prepared,
    pub controls: Controls,
    pub started_at: Timestamp,
    /// The number of earlier runs.
    pub runs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    pub notices: Notices,
    pub audit: Audit,
    pub pacing: Pacing,
    /// The state last written to the memo.
    pub published: ControlState,
    /// The latest check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
}
