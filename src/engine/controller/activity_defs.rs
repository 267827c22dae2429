//! The activities that the controller calls.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_sdk::activities::ActivityError;

use crate::{
    decisions::pacing::Openings,
    protocol::{
        self, CheckAnswer, CheckOrder, CombineOrder, Combined, HookOrder, KeepReport, LockOrder,
        PartitionsOrder, PrepareInput, Prepared, SplitAnswer, SplitOrder, StrideOrder,
        StrideReport, ThrottleOrder, WatchOrder, WindowsOrder,
    },
};

/// The activities that the controller calls.
pub(crate) struct ActivityDefs;

#[temporalio_macros::activity_definitions]
impl ActivityDefs {
    #[activity(name = protocol::PREPARE)]
    pub(crate) fn prepare(_input: PrepareInput) -> Result<Prepared, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::STRIDE)]
    pub(crate) fn stride(_order: StrideOrder) -> Result<StrideReport, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::HOOK)]
    pub(crate) fn hook(_order: HookOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::KEEP_REPORT)]
    pub(crate) fn keep_report(_order: KeepReport) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::CHECK)]
    pub(crate) fn check(_order: CheckOrder) -> Result<CheckAnswer, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::COMBINE)]
    pub(crate) fn combine(_order: CombineOrder) -> Result<Combined, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::THROTTLE)]
    pub(crate) fn throttle(_order: ThrottleOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::WINDOWS)]
    pub(crate) fn windows(_order: WindowsOrder) -> Result<Openings, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::PARTITIONS)]
    pub(crate) fn partitions(_order: PartitionsOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::SPLIT)]
    pub(crate) fn split(_order: SplitOrder) -> Result<SplitAnswer, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::LOCK)]
    pub(crate) fn lock(_order: LockOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::UNLOCK)]
    pub(crate) fn unlock(_order: LockOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::WATCH_WORKFLOWS)]
    pub(crate) fn watch_workflows(_order: WatchOrder) -> Result<Vec<String>, ActivityError> {
        unimplemented!()
    }
}

// The definitions that the activities of a worker have to match.
pub(crate) use activity_defs::{
    Check as CheckActivity, Combine as CombineActivity, Hook as HookActivity,
    KeepReport as KeepReportActivity, Lock as LockActivity, Partitions as PartitionsActivity,
    Prepare as PrepareActivity, Split as SplitActivity, Stride as StrideActivity,
    Throttle as ThrottleActivity, Unlock as UnlockActivity,
    WatchWorkflows as WatchWorkflowsActivity, Windows as WindowsActivity,
};
